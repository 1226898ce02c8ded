"""Whole files: blocks before metadata, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from juicecache.errors import (
    CommitUnknownError,
    EngineUnavailableError,
    ObjectDeniedError,
    ObjectError,
    ReadOnlyVolumeError,
)
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import SliceRef
from juicecache.model.layout import CHUNK_BYTES
from juicecache.runtime import loop_thread
from juicecache.volume import writer


class WatchedEngine(SqliteEngine):
    """Notes how many uploads were done at each commit of content, and fails on command."""

    error: BaseException | None = None
    happens = False
    stored = None

    def __init__(self, path) -> None:
        super().__init__(path)
        self.seen: list[int] = []

    def attempt(self, body, *, writable):
        def watched(tx):
            result = body(tx)
            if any(isinstance(getattr(write, "row", None), SliceRef) for write in tx.writes):
                self.seen.append(self.stored())
                if self.error is not None and not self.happens:
                    raise self.error
            return result

        before = len(self.seen)
        result = super().attempt(watched, writable=writable)
        if self.error is not None and len(self.seen) > before:
            raise self.error
        return result


@pytest.fixture
def watched(site):
    engine = WatchedEngine(site.folder / "meta.db")
    engine.stored = lambda: len(site.block_names())
    yield engine
    engine.close()


@pytest.mark.parametrize("looped", [False, True])
def test_blocks_are_stored_before_the_metadata(site, watched, content, looped):
    volume = site.open(meta=watched, looped=looped)
    volume.write_file("/a/b/file", content(3 * site.block + 1))
    assert watched.seen == [4]
    assert volume.read_file("/a/b/file") == content(3 * site.block + 1)


def test_blocks_go_up_at_the_same_time_and_no_more_than_allowed(site, content):
    volume = site.open(looped=True, max_uploads=3)
    gate = asyncio.Event()
    store = site.store(volume)
    store.hold("put", gate)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(volume.write_file, "/file", content(8 * site.block))

        async def three_asked() -> None:
            while store.calls["put"] < 3:  # noqa: ASYNC110 - the double has no event for it
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert store.calls["put"] == 3
            assert not done.done()
            gate.set()

        loop_thread().run(asyncio.wait_for(three_asked(), 30))
        done.result(30)
    assert volume.read_file("/file") == content(8 * site.block)


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_failed_upload_leaves_nothing(site, content, looped, number):
    volume = site.open(looped=looped)
    site.store(volume).fail("put", [number], lambda name: ObjectDeniedError(name, "not you"))
    with pytest.raises(ObjectDeniedError) as failed:
        volume.write_file("/file", content(3 * site.block + 1))
    assert "site/chunks/" in str(failed.value)
    assert not volume.exists("/file")
    assert site.block_names() == []
    volume.write_file("/file", b"again")
    assert volume.read_file("/file") == b"again"


def test_a_failed_overwrite_leaves_the_old_content(site, content):
    volume = site.open()
    volume.write_file("/file", b"old")
    site.store(volume).fail("put", [3])
    with pytest.raises(ObjectError):
        volume.write_file("/file", content(3 * site.block))
    assert volume.read_file("/file") == b"old"
    assert len(site.block_names()) == 1


def test_a_refused_commit_removes_the_objects(site, watched, content):
    volume = site.open(meta=watched)
    watched.error = EngineUnavailableError("no")
    with pytest.raises(EngineUnavailableError):
        volume.write_file("/file", content(site.block * 2))
    assert not volume.exists("/file")
    assert site.block_names() == []


@pytest.mark.parametrize("error", [CommitUnknownError("lost"), KeyboardInterrupt()])
def test_a_commit_that_may_have_happened_keeps_the_objects(site, watched, content, error):
    volume = site.open(meta=watched)
    watched.error, watched.happens = error, True
    with pytest.raises(type(error)):
        volume.write_file("/file", content(site.block * 2))
    watched.error = None
    assert volume.read_file("/file") == content(site.block * 2)


def test_an_interrupted_upload_leaves_nothing(site, content):
    volume = site.open()
    # An interrupt is no Exception, so that nothing on the way takes it for a failure.
    site.store(volume).fail("put", [2], lambda name: KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        volume.write_file("/file", content(3 * site.block))
    assert not volume.exists("/file")
    assert site.block_names() == []
    for number in range(40):  # no upload slot was lost
        volume.write_file(f"/{number}", b"x")


def test_large_files_are_stored_together_and_fail_one_by_one(site, content):
    volume = site.open()
    volume.make_directory("/directory")
    site.store(volume).fail("put", [2])
    names = ["/a", "/b", "/directory", "/c/d"]
    written = [(name, content(site.block, seed)) for seed, name in enumerate(names)]
    outcomes = volume.write_files([*written, ("/e", b"")])
    assert outcomes[0] is outcomes[3] is outcomes[4] is None
    assert isinstance(outcomes[1], ObjectError)
    assert isinstance(outcomes[2], IsADirectoryError)
    for name, body in (written[0], written[3], ("/e", b"")):
        assert volume.read_file(name) == body
    assert len(site.block_names()) == 2


def test_a_file_over_a_chunk_border_is_cut_there(big_site, content):
    volume = big_site.open(cache_size=0)
    body = memoryview(bytearray(CHUNK_BYTES + 5))
    body[-10:] = b"0123456789"
    volume.write_file("/file", body)
    layout = volume.explain("/file")
    assert (layout.chunks, layout.slices, len(layout.blocks)) == (2, 2, 65)
    assert volume.read_file("/file", -12) == b"\0\x000123456789"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_content_and_is_free_afterwards(site, content, kind):
    volume = site.open(cache_dir="memory", memory_size="16MiB")
    body = bytearray(content(2 * site.block + 5))
    given = kind(body) if kind is not bytearray else body
    volume.write_file("/file", given)
    if kind is not bytes:
        body[:] = bytes(len(body))
    assert volume.read_file("/file") == content(2 * site.block + 5)


def test_exclusive_writes_of_two_clients_have_one_winner(site):
    volumes = [site.open(cache_size=0), site.open(cache_size=0)]
    start = threading.Barrier(2)

    def write(number: int) -> bool:
        start.wait(30)
        try:
            volumes[number].write_file("/file", b"%d" % number, exclusive=True)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(write, range(2)))
    assert sorted(won) == [False, True]
    assert volumes[0].read_file("/file") == b"%d" % won.index(True)
    assert len(site.block_names()) == 1


def test_blocks_that_waited_too_long_are_looked_for_before_the_commit(site, content, monkeypatch):
    monkeypatch.setattr(writer, "_UNREFERENCED_S_MAX", -1.0)
    volume = site.open()
    volume.write_file("/file", b"stays")
    assert site.store(volume).calls["head"] == 1
    file = volume.open("/late", "wb")
    file.write(content(site.block))
    for block in (site.objects / "site" / "chunks").rglob(f"*_0_{site.block}"):
        block.unlink()
    with pytest.raises(ObjectError):
        file.close()
    assert not volume.exists("/late")


def test_a_volume_that_may_not_be_changed_uploads_nothing(site):
    volume = site.open(read_only=True)
    with pytest.raises(ReadOnlyVolumeError):
        volume.write_file("/file", b"x")
    (outcome,) = volume.write_files([("/file", b"x")])
    assert isinstance(outcome, ReadOnlyVolumeError)
    assert site.store(volume).calls["put"] == 0
