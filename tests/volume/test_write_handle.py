"""Handles for writing: what becomes visible when, and what never does."""

from __future__ import annotations

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from juicecache.errors import ClosedError, ObjectError, ReadOnlyVolumeError, StaleHandleError
from juicecache.model.layout import CHUNK_BYTES
from juicecache.runtime import loop_thread
from juicecache.testing.oracle import sums_wrong
from juicecache.testing.processes import in_child
from juicecache.volume import write_handle


@pytest.fixture
def volume(site):
    return site.open()


def test_a_new_file_is_seen_at_its_first_flush_and_grows_with_the_next(site, volume):
    other = site.open()
    file = volume.open("/d/file", "wb")
    assert file.write(b"one") == 3
    assert not other.exists("/d/file")
    file.flush()
    assert other.read_file("/d/file") == b"one"
    file.write(b"two")
    assert (file.tell(), file.writable(), file.readable(), file.mode) == (6, True, False, "wb")
    assert other.read_file("/d/file") == b"one"
    file.close()
    assert other.read_file("/d/file") == b"onetwo"


def test_an_empty_new_file_is_made_at_close(volume):
    volume.open("/empty", "wb").close()
    assert volume.read_file("/empty") == b""
    volume.write_file("/full", b"x")
    volume.open("/full", "wb").close()
    assert volume.read_file("/full") == b""


def test_a_replaced_file_is_old_until_it_is_new(site, volume, content):
    volume.write_file("/file", b"old")
    with volume.open("/file", "wb") as file:
        file.write(content(3 * site.block))
        assert volume.read_file("/file") == b"old"
    assert volume.read_file("/file") == content(3 * site.block)


def test_small_writes_become_whole_blocks_in_one_slice(site, volume, content):
    body = content(3 * site.block + 1000)
    with volume.open("/file", "wb") as file:
        for at in range(0, len(body), 777):
            piece = bytearray(body[at : at + 777])
            file.write(piece)
            piece[:] = bytes(len(piece))  # the caller's buffer is free at once
    assert volume.read_file("/file") == body
    layout = volume.explain("/file")
    assert (layout.slices, len(layout.blocks)) == (1, 4)


def test_what_waits_for_its_upload_is_bounded(site):
    volume = site.open(looped=True, max_uploads=2)
    store = site.store(volume)
    gate = asyncio.Event()
    store.hold("put", gate)
    written: list[int] = []

    def write() -> None:
        with volume.open("/file", "wb") as file:
            for number in range(10):
                file.write(bytes([number]) * site.block)
                written.append(number)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(write)

        async def two_asked() -> None:
            while store.calls["put"] < 2:  # noqa: ASYNC110 - the double has no event for it
                await asyncio.sleep(0)
            for _ in range(200):
                await asyncio.sleep(0)
            assert store.calls["put"] == 2
            assert len(written) <= 2
            gate.set()

        loop_thread().run(asyncio.wait_for(two_asked(), 30))
        done.result(30)
    assert volume.stat("/file").length == 10 * site.block


@pytest.mark.parametrize("looped", [False, True])
def test_a_failed_upload_breaks_the_handle_and_shows_nothing(site, content, looped):
    volume = site.open(looped=looped)
    site.store(volume).fail("put", [2])
    file = volume.open("/file", "wb")

    def write() -> None:
        file.write(content(3 * site.block))
        file.flush()

    with pytest.raises(ObjectError):
        write()
    with pytest.raises(StaleHandleError) as failed:
        file.write(b"more")
    assert failed.value.filename == "/file"
    file.close()
    file.close()
    assert not volume.exists("/file")
    assert site.block_names() == []


def test_a_failed_upload_at_close_is_raised_there(site, volume):
    site.store(volume).fail("put", [1])
    file = volume.open("/file", "wb")
    file.write(b"small")
    with pytest.raises(ObjectError):
        file.close()
    assert file.closed
    assert not volume.exists("/file")


def test_an_update_whose_upload_failed_at_a_seek_is_never_committed(site, volume):
    volume.write_file("/file", bytes(100))
    site.store(volume).fail("put", [2])
    file = volume.open("/file", "r+b")
    file.write(b"lost")
    file.seek(50)
    with pytest.raises(ObjectError):
        file.write(b"never")
    file.close()
    assert volume.read_file("/file") == bytes(100)


def test_leaving_a_with_block_by_an_error_keeps_what_was_written(volume):
    def write() -> None:
        with volume.open("/file", "wb") as file:
            file.write(b"kept")
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError):
        write()
    assert volume.read_file("/file") == b"kept"


def test_append_goes_on_at_the_end_and_makes_a_missing_file(volume, site, content):
    with volume.open("/file", "ab") as file:
        file.write(b"start")
    with volume.open("/file", "ab") as file:
        assert file.tell() == 5
        file.write(content(2 * site.block))
    assert volume.read_file("/file") == b"start" + content(2 * site.block)


def test_append_over_a_chunk_border(volume):
    volume.write_file("/file", b"")
    volume.truncate("/file", CHUNK_BYTES - 3)
    with volume.open("/file", "ab") as file:
        file.write(b"123456")
    assert volume.read_file("/file", -8) == b"\0\x00123456"
    assert volume.explain("/file").chunks == 2


def test_update_in_place_reads_its_own_writes(volume):
    volume.write_file("/file", b"0123456789")
    with volume.open("/file", "r+b") as file:
        assert file.read(2) == b"01"
        file.write(b"ab")
        assert file.tell() == 4
        assert file.read(2) == b"45"
        assert file.seek(-2, io.SEEK_END) == 8
        file.write(b"xyz")
        file.seek(0)
        buffer = bytearray(20)
        assert file.readinto(buffer) == 11
        assert bytes(buffer[:11]) == b"01ab4567xyz"
        assert file.seek(20) == 20
        file.write(b"!")
        file.seek(-18, io.SEEK_CUR)
        assert file.truncate() == 3
        assert file.truncate(5) == 5
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)
    assert volume.read_file("/file") == b"01a\0\0"


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
def test_an_inherited_handle_never_commits(site, volume, mode):
    if mode != "wb":
        volume.write_file("/file", b"before")
    file = volume.open("/file", mode)
    file.write(b"parent")

    def act() -> int:
        with pytest.raises(StaleHandleError):
            file.write(b"child")
        if mode == "r+b":
            with pytest.raises(StaleHandleError):
                file.truncate(0)
            with pytest.raises(StaleHandleError):
                file.read()
        with pytest.raises(StaleHandleError):
            file.commit()
        file.flush()
        file.close()
        file.discard()
        assert volume.exists("/file") == (mode != "wb")
        volume.write_file("/child", b"its own")
        volume.close()
        return 7

    assert in_child(act) == 7
    assert volume.read_file("/child") == b"its own"
    file.close()
    expected = {"wb": b"parent", "ab": b"beforeparent", "r+b": b"parent"}[mode]
    assert volume.read_file("/file") == expected


def test_without_autocommit_the_caller_decides(site, volume):
    def store(path: str) -> write_handle.FileWriter:
        file = volume.open(path, "wb", autocommit=False)
        file.write(b"content")
        file.flush()
        file.close()
        assert not volume.exists(path)
        return file

    kept, dropped = store("/kept"), store("/dropped")
    assert len(site.block_names()) == 2
    kept.commit()
    kept.commit()
    dropped.discard()
    dropped.discard()
    assert volume.read_file("/kept") == b"content"
    assert not volume.exists("/dropped")
    assert len(site.block_names()) == 1
    with pytest.raises(StaleHandleError, match="discarded"):
        dropped.commit()


def test_two_creators_have_one_winner(site):
    volumes = [site.open(), site.open()]
    files = [volume.open("/file", "xb") for volume in volumes]
    for number, file in enumerate(files):
        file.write(b"%d" % number)
    start = threading.Barrier(2)

    def finish(file) -> str:
        start.wait(30)
        try:
            file.close()
        except FileExistsError as error:
            return str(error.filename)
        return ""

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(finish, files))
    assert sorted(outcomes) == ["", "/file"]
    assert volumes[0].read_file("/file") == b"%d" % outcomes.index("")
    assert len(site.block_names()) == 1
    with pytest.raises(FileExistsError):
        volumes[0].open("/file", "xb")


def test_what_an_open_file_appends_is_committed_in_steps(site, volume, monkeypatch):
    monkeypatch.setattr(write_handle, "_SECURED_AGE_S", -1.0)
    volume.write_file("/file", b"")
    with volume.open("/file", "r+b") as file:
        for at in (0, 100, 200):
            file.seek(at)
            file.write(b"x")
            assert volume.stat("/file").length == at + 1


@pytest.mark.parametrize("ending", ["close", "discard"])
def test_a_new_file_that_takes_long_is_kept_from_collectors_and_not_shown(
    site, volume, content, monkeypatch, ending
):
    monkeypatch.setattr(write_handle, "_SECURED_AGE_S", -1.0)
    volume.write_file("/file", b"before")
    other = site.open(cache_size=0)
    pieces = [content(site.block + 9, seed) for seed in range(4)]
    file = volume.open("/file", "wb")
    for piece in pieces:
        file.write(piece)
        assert other.read_file("/file") == b"before"
        other.gc(delete=True, min_age_s=0)
    getattr(file, ending)()
    expected = b"".join(pieces) if ending == "close" else b"before"
    assert other.read_file("/file") == expected
    volume.close()
    assert other.gc(min_age_s=0).leaked_objects == 0
    assert len(site.block_names()) == len(other.explain("/file").blocks) + (ending == "close")
    assert sums_wrong(site.folder / "meta.db") == []


def test_writing_to_a_file_whose_name_is_gone_stays_possible(site, volume):
    volume.write_file("/file", b"0123")
    with volume.open("/file", "r+b") as file:
        volume.unlink("/file")
        file.seek(2)
        file.write(b"ab")
        file.seek(0)
        assert file.read() == b"01ab"
    assert not volume.exists("/file")
    volume.close()
    assert site.block_names() == []


def test_a_handle_of_a_closed_volume_fails_at_close_and_commits_nothing(site, volume):
    file = volume.open("/file", "wb")
    file.write(b"late")
    volume.close()
    with pytest.raises(ClosedError):
        file.close()
    file.close()
    assert not site.open().exists("/file")
    assert site.block_names() == []


@pytest.mark.parametrize("mode", ["wb", "xb", "ab", "r+b"])
def test_a_read_only_volume_opens_nothing_for_writing(site, volume, mode):
    volume.write_file("/file", b"x")
    reader = site.open(read_only=True)
    with pytest.raises(ReadOnlyVolumeError):
        reader.open("/file" if mode != "xb" else "/new", mode)
    assert reader.read_file("/file") == b"x"


@pytest.mark.parametrize("mode", ["w+b", "rw", "", "a+b"])
def test_other_modes_are_refused_by_name(volume, mode):
    with pytest.raises(ValueError, match="none of rb, wb, xb, ab"):
        volume.open("/file", mode)


def test_closed_handles_refuse(volume):
    for mode in ("wb", "ab", "r+b"):
        file = volume.open("/file", mode)
        file.close()
        file.close()
        with pytest.raises(ValueError, match="closed"):
            file.write(b"x")
