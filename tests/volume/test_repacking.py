"""Repacking: sparse slices go, what is live stays, and nobody loses a change."""

from __future__ import annotations

import os

import pytest

from juicecache.errors import ObjectUnavailableError
from juicecache.meta.rows import Chunk
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.faults import FaultyStore
from juicecache.testing.machines import assert_references_counted
from juicecache.testing.oracle import assert_clean, sums_wrong
from juicecache.volume import repacking
from juicecache.volume.formatting import format_volume
from juicecache.volume.repacking import repack
from juicecache.volume.volume import Volume, open_volume

FILES = 100
SIZE = 3000


@pytest.fixture(params=SHARED_KINDS)
def meta(request, tmp_path):
    meta = fresh_url(request.param, tmp_path)
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        trash_days=0,
        block_size_kib=64,
        remember=False,
    )
    yield meta
    assert sums_wrong(meta) == []


@pytest.fixture
def volume(meta):
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        yield volume
        assert_references_counted(volume.parts().engine)


def pack(volume: Volume) -> dict[str, bytes]:
    files = {f"/{number:03d}": os.urandom(SIZE) for number in range(FILES)}
    with volume.batch() as batch:
        for path, body in files.items():
            batch.write(path, body)
    return files


def thin(volume: Volume, files: dict[str, bytes], every: int = 5) -> None:
    """Leave every so many file."""
    for number, path in enumerate(list(files)):
        if number % every:
            volume.unlink(path)
            del files[path]
    settle(volume)


def settle(volume: Volume) -> None:
    for future in tuple(volume.parts().cleaning):
        future.result()


def slices(volume: Volume) -> set[int]:
    rows = volume.parts().engine.read(lambda tx: list(tx.scan(Chunk)))
    return {int.from_bytes(row.slices[4:12]) for row in rows}


def blocks(tmp_path) -> list[str]:
    return [path.name for path in (tmp_path / "objects").rglob("*_*_*") if path.is_file()]


def test_what_is_live_moves_and_the_rest_is_freed(volume, tmp_path):
    files = pack(volume)
    times = {path: volume.stat(path).mtime_ns for path in files}
    assert repack(volume.parts()).sparse_slices == 0
    thin(volume, files)
    before = slices(volume)
    report = repack(volume.parts())
    assert (report.sparse_slices, report.moved_lists) == (1, FILES // 5)
    assert report.copied_bytes == SIZE * FILES // 5
    assert report.freed_bytes >= SIZE * FILES
    assert slices(volume).isdisjoint(before)
    assert len(blocks(tmp_path)) == 1
    assert {path: volume.read_file(path) for path in files} == files
    assert {path: volume.stat(path).mtime_ns for path in files} == {
        path: times[path] for path in files
    }
    assert repack(volume.parts()).sparse_slices == 0
    thin(volume, files, 100)


def test_a_reader_with_an_old_list_reads_on(volume, meta):
    files = pack(volume)
    with open_volume(meta, cache_size="0") as other, other.open("/000") as handle:
        assert handle.read(10) == files["/000"][:10]
        thin(volume, files)
        assert repack(volume.parts()).moved_lists == FILES // 5
        assert handle.read() == files["/000"][10:]


def test_clones_are_copied_once_and_whole_references_keep_a_slice(volume):
    files = pack(volume)
    thin(volume, files, 20)
    volume.copy_file("/000", "/clone")
    report = repack(volume.parts())
    assert report.copied_bytes == SIZE * len(files)
    assert volume.read_file("/clone") == files["/000"]
    volume.write_file("/large", os.urandom(200_000))
    volume.write_file("/part", b"")
    assert volume.copy_range("/large", 10, "/part", 0, 500) == 500
    assert repack(volume.parts()).sparse_slices == 0


def test_who_writes_meanwhile_wins(volume, monkeypatch):
    files = pack(volume)
    thin(volume, files)
    commit = repacking._commit

    def change_first(*arguments):
        volume.write_file("/000", b"anew")
        with volume.open("/005", "ab") as file:
            file.write(b"tail")
        volume.unlink("/010")
        settle(volume)
        return commit(*arguments)

    monkeypatch.setattr(repacking, "_commit", change_first)
    report = repack(volume.parts())
    assert report.moved_lists == FILES // 5 - 1  # of an overwritten file the old record moves
    files["/000"] = b"anew"
    files["/005"] += b"tail"
    del files["/010"]
    assert {path: volume.read_file(path) for path in files} == files


def test_bounded_transactions_share_the_new_slice(volume, monkeypatch, tmp_path):
    monkeypatch.setattr(repacking, "_MOVES_MAX", 7)
    files = pack(volume)
    thin(volume, files)
    assert repack(volume.parts()).moved_lists == FILES // 5
    assert len(slices(volume)) == 1
    assert len(blocks(tmp_path)) == 1
    assert {path: volume.read_file(path) for path in files} == files


def test_with_a_trash_old_slices_wait(volume, tmp_path):
    from juicecache.volume.formatting import change_volume

    files = pack(volume)
    thin(volume, files)
    change_volume(volume.parts().engine, trash_days=1)
    volume.parts().meta.gate.refresh()
    before = blocks(tmp_path)
    assert repack(volume.parts()).freed_bytes == 0
    assert set(before) < set(blocks(tmp_path))
    assert {path: volume.read_file(path) for path in files} == files


def test_a_store_that_fails_leaves_everything_as_it_was(meta, tmp_path):
    from juicecache.config import VolumeOptions

    options = VolumeOptions.from_options({"cache_size": 0, "no_bgjob": True, "io_retries": 0})
    with Volume(meta, options, wrap_store=FaultyStore) as volume:
        files = pack(volume)
        thin(volume, files)
        before = slices(volume), sorted(blocks(tmp_path))
        store = volume.parts().store
        assert isinstance(store, FaultyStore)
        store.fail("put", range(10**6))
        with pytest.raises(ObjectUnavailableError):
            repack(volume.parts())
        assert (slices(volume), sorted(blocks(tmp_path))) == before
        store.fail("put", ())
        assert repack(volume.parts()).moved_lists == FILES // 5
        assert {path: volume.read_file(path) for path in files} == files


@pytest.mark.service
def test_the_official_client_finds_nothing_wrong(meta):
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        files = pack(volume)
        thin(volume, files)
        assert volume.gc(compact=True).repacked_slices == 1
        assert {path: volume.read_file(path) for path in files} == files
    assert_clean(meta)
