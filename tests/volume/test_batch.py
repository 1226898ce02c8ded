"""Small files packed into shared slices: layout, order, failures, long batches, forks."""

from __future__ import annotations

import gc
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from juicecache.errors import (
    BatchError,
    ClosedError,
    EntryExistsError,
    IsDirectoryError,
    NoSpaceError,
    NotDirectoryError,
    ObjectError,
    ObjectNotFoundError,
    ReadOnlyVolumeError,
    StaleHandleError,
    UnsupportedError,
)
from juicecache.meta.rows import SliceRef, Sustained
from juicecache.model.layout import CHUNK_BYTES
from juicecache.testing.engine_faults import FaultySqlite
from juicecache.testing.oracle import sums_wrong
from juicecache.testing.processes import in_child
from juicecache.volume import batch as batch_module
from juicecache.volume import pack as pack_module
from juicecache.volume import writer as writer_module
from juicecache.volume.formatting import change_volume
from juicecache.volume.stored_file import StoredFile


@pytest.fixture(autouse=True)
def sums_are_right(tmp_path):
    yield
    assert sums_wrong(tmp_path / "meta.db") == []


def bodies(content, count: int, size: int = 4000) -> dict[str, bytes]:
    return {f"/set/{number:04}": content(size + number % 7, number) for number in range(count)}


def write_all(volume, files: dict[str, bytes], *, deferred: bool = False) -> None:
    with volume.batch(deferred=deferred) as batch:
        for path, body in files.items():
            batch.write(path, body)


def read_all(volume, files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: volume.read_file(path) for path in files}


def references(volume) -> list[SliceRef]:
    return volume.parts().engine.read(lambda tx: list(tx.scan(SliceRef)))


# ---------------------------------------------------------------------- the layout


@pytest.mark.parametrize("deferred", [False, True])
def test_small_files_share_a_slice_and_its_objects(site, content, deferred):
    volume = site.open()
    files = bodies(content, 100)
    write_all(volume, files, deferred=deferred)
    assert read_all(site.open(cache_size=0), files) == files
    (row,) = references(volume)
    assert row.refs == 100
    assert len(site.block_names()) == -(-row.size // site.block) == 7
    assert volume.gc(min_age_s=0).leaked_objects == 0


def test_a_file_does_not_lie_across_two_blocks_where_the_gap_is_small(site, content):
    volume = site.open()
    size = site.block // 5 - 100  # five to a block leave 500 bytes
    files = {f"/{number}": content(size, number) for number in range(20)}
    write_all(volume, files)
    assert [len(volume.explain(path).blocks) for path in files] == [1] * 20
    # A gap of more than a sixteenth is not left.
    files = {f"/large{number}": content(site.block // 4, number) for number in range(3)}
    with volume.batch() as batch:
        batch.write("/first", b"x")
        for path, body in files.items():
            batch.write(path, body)
        batch.write("/last", content(site.block // 4, 9))
    assert len(volume.explain("/last").blocks) == 2
    assert read_all(site.open(cache_size=0), files) == files


def test_a_pack_ends_at_the_size_of_a_slice_and_at_a_number_of_files(site, content, monkeypatch):
    monkeypatch.setattr(pack_module, "FILES_MAX", 30)
    volume = site.open()
    files = bodies(content, 100, 10)
    write_all(volume, files)
    assert sorted(row.refs for row in references(volume)) == [10, 30, 30, 30]
    monkeypatch.setattr(pack_module, "CHUNK_BYTES", 2 * site.block)
    exact = {f"/exact{number}": content(site.block // 4, number) for number in range(17)}
    write_all(volume, exact)
    assert read_all(volume, files | exact) == files | exact
    assert sorted(row.size // site.block for row in references(volume))[-2:] == [2, 2]


def test_a_full_slice_of_64_mib_is_cut(big_site, content):
    volume = big_site.open(cache_size=0)
    body = content(big_site.block // 4)
    count = 4 * CHUNK_BYTES // big_site.block + 1
    with volume.batch() as batch:
        for number in range(count):
            batch.write(f"/{number}", body)
    assert sorted(row.refs for row in references(volume)) == [1, count - 1]
    assert volume.read_file(f"/{count - 2}") == volume.read_file(f"/{count - 1}") == body


def test_empty_files_need_no_slice(site):
    volume = site.open()
    write_all(volume, {f"/{number}": b"" for number in range(10)})
    assert references(volume) == []
    assert volume.stat("/3").length == 0


def test_one_small_file_alone_is_as_ever(site):
    volume = site.open()
    volume.write_file("/alone", b"content")
    assert references(volume) == [SliceRef(1, 7, 1)]


def test_files_that_packed_ones_replace_lose_their_content(site, content):
    volume = site.open()
    files = bodies(content, 20)
    write_all(volume, files)
    volume.link("/set/0001", "/other")
    newer = {path: content(50, 500 + number) for number, path in enumerate(files)}
    write_all(volume, newer)
    assert read_all(volume, newer) == newer
    assert volume.read_file("/other") == newer["/set/0001"]
    assert volume.stat("/set/0003").inode == 5


def test_packed_files_are_appended_to_renamed_cloned_and_removed(site, content):
    volume = site.open()
    files = bodies(content, 10)
    write_all(volume, files)
    with volume.open("/set/0001", "ab") as file:
        file.write(b"more")
    volume.rename("/set/0002", "/moved")
    volume.copy_file("/set/0003", "/copy")
    volume.truncate("/set/0004", 100)
    volume.unlink("/set/0005")
    volume.close()
    fresh = site.open(cache_size=0)
    assert fresh.read_file("/set/0001") == files["/set/0001"] + b"more"
    assert fresh.read_file("/moved") == files["/set/0002"]
    assert fresh.read_file("/copy") == files["/set/0003"]
    assert fresh.read_file("/set/0004") == files["/set/0004"][:100]
    fresh.remove_tree("/set")
    assert fresh.read_file("/moved") == files["/set/0002"]
    fresh.unlink("/moved")
    fresh.unlink("/copy")
    fresh.close()
    last = site.open()
    last.gc(delete=True, min_age_s=0)
    assert site.block_names() == []


# ---------------------------------------------------------------------- order


def test_a_deferred_batch_shows_nothing_before_its_end(site, content):
    volume, other = site.open(), site.open(cache_size=0)
    other.write_file("/log", b"1")
    other.write_file("/set/0000", b"before")
    files = bodies(content, 10)
    large = content(site.block)
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        with volume.open("/large", "wb", batch=batch) as file:
            file.write(large)
        with volume.open("/small", "xb", batch=batch) as file:
            file.write(b"small")
        with volume.open("/log", "ab", batch=batch) as file:
            file.write(b"2")
        assert [entry.name for entry in other.list_directory("/")] == ["log", "set"]
        assert other.read_file("/set/0000") == b"before"
        assert other.read_file("/log") == b"1"
    assert read_all(other, files) == files
    assert other.read_file("/large") == large
    assert other.read_file("/small") == b"small"
    assert other.read_file("/log") == b"12"
    assert batch.outcomes == dict.fromkeys([*files, "/large", "/small", "/log"])


def test_of_several_contents_the_last_is_committed(site, content):
    volume = site.open()
    large = content(site.block, 3)
    with volume.batch(deferred=True) as batch:
        batch.write("/a", b"first")
        batch.write("/b", b"small")
        with volume.open("/a", "wb", batch=batch) as file:
            file.write(large)
        with volume.open("/b", "wb", batch=batch) as file:
            file.write(large)
        batch.write("/b", b"last")
        for number in range(5):
            batch.write("/c", b"%d" % number)
    assert volume.read_file("/a") == large
    assert volume.read_file("/b") == b"last"
    assert volume.read_file("/c") == b"4"
    volume.close()
    assert site.open().gc(min_age_s=0).leaked_objects == 0


@pytest.mark.parametrize("size", [8, 100_000])
@pytest.mark.parametrize("existing", [True, False])
def test_an_append_and_a_write_of_one_file_never_mix(site, content, size, existing):
    volume = site.open()
    if existing:
        volume.write_file("/a", b"old")
    with volume.batch(deferred=True) as batch:
        with volume.open("/a", "ab", batch=batch) as file:
            file.write(b"tail")
        with pytest.raises(UnsupportedError, match="append after its end"):
            volume.open("/a", "ab", batch=batch)
        with volume.open("/a", "wb", batch=batch) as file:
            file.write(content(size))
        with pytest.raises(UnsupportedError, match="append after its end"):
            volume.open("//a/", "ab", batch=batch)
    assert volume.read_file("/a") == content(size)
    assert batch.outcomes == {"/a": None}
    with volume.batch() as batch, volume.open("/a", "ab", batch=batch) as file:
        file.write(b"tail")
    assert volume.read_file("/a") == content(size) + b"tail"


def test_an_append_that_another_write_overtook_is_refused_at_its_close(site):
    volume = site.open()
    volume.write_file("/a", b"old")
    with volume.batch(deferred=True) as batch:
        late = volume.open("/a", "ab", batch=batch)
        late.write(b"tail")
        batch.write("/a", b"new")
        with pytest.raises(UnsupportedError):
            late.close()
    assert volume.read_file("/a") == b"new"


def test_threads_fill_one_batch(site, content):
    volume = site.open(looped=True)
    files = bodies(content, 200)
    with volume.batch() as batch, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: batch.write(*item), files.items()))
        pool.shutdown()
    assert read_all(site.open(cache_size=0), files) == files


# ---------------------------------------------------------------------- failures


def test_an_error_in_the_block_discards_what_is_not_committed(site, content):
    volume = site.open()
    batch = volume.batch(deferred=True)

    def fail() -> None:
        with batch:
            for path, body in bodies(content, 100).items():
                batch.write(path, body)
            with volume.open("/large", "wb", batch=batch) as file:
                file.write(content(site.block))
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        fail()
    assert volume.list_directory("/") == []
    assert site.block_names() == []
    with pytest.raises(ClosedError, match="ended"):
        batch.write("/late", b"")


@pytest.mark.parametrize("looped", [False, True])
def test_after_a_failure_the_committed_is_whole_and_the_rest_is_not_there(
    site, content, looped, monkeypatch
):
    monkeypatch.setattr(pack_module, "FILES_MAX", 20)
    volume = site.open(looped=looped, max_uploads=1)
    site.store(volume).fail("put", range(8, 10**6))  # two blocks a pack: the fourth fails
    files = bodies(content, 100)
    with pytest.raises(BatchError, match="of 100 files were not written") as caught:
        write_all(volume, files)
    error = caught.value
    assert sorted([*error.committed, *error.failed]) == sorted(files)
    assert len(error.committed) in (20, 40, 60)
    assert {type(one) for one in error.failed.values()} == {type(error.__cause__)}
    assert isinstance(error.__cause__, ObjectError)
    fresh = site.open(cache_size=0)
    assert [path for path in files if fresh.exists(path)] == list(error.committed)
    for path in error.committed:
        assert fresh.read_file(path) == files[path]
    assert fresh.gc(min_age_s=0).leaked_objects == 0


def test_files_that_are_refused_do_not_keep_the_others_back(site):
    volume = site.open()
    volume.make_directory("/folder")
    volume.write_file("/file", b"")
    batch = volume.batch()
    batch.write("/a", b"1")
    batch.write("/folder", b"2")
    batch.write("/file/below", b"3")
    batch.write("/file", b"4", exclusive=True)
    batch.write("/b", b"5")
    with pytest.raises(BatchError) as caught:
        batch.commit()
    assert caught.value.committed == ("/a", "/b")
    assert {path: type(error) for path, error in caught.value.failed.items()} == {
        "/folder": IsDirectoryError,
        "/file/below": NotDirectoryError,
        "/file": EntryExistsError,
    }
    assert "/folder" in str(caught.value)
    assert volume.read_file("/b") == b"5"


def test_a_pack_of_which_every_file_is_refused_leaves_no_object(site):
    volume = site.open()
    volume.make_directory("/folder")
    with pytest.raises(IsADirectoryError):
        write_all(volume, {"/folder": b"content"})
    assert site.block_names() == []
    assert references(volume) == []


def test_a_volume_without_room_takes_no_pack_in_part(site, content):
    change_volume(site.meta, capacity_bytes=1 << 20)
    volume = site.open()
    with pytest.raises(BatchError) as caught:
        write_all(volume, bodies(content, 300))
    assert isinstance(caught.value.__cause__, NoSpaceError)
    assert caught.value.committed == ()
    assert site.block_names() == []


def test_a_read_only_volume_uploads_nothing(site):
    volume = site.open(read_only=True)
    with pytest.raises(ReadOnlyVolumeError), volume.batch() as batch:
        batch.write("/a", b"1")


def test_an_interrupt_while_storing_leaves_nothing(site, content):
    volume = site.open()
    site.store(volume).fail("put", [3], lambda name: KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_all(volume, bodies(content, 100), deferred=True)
    assert volume.list_directory("/") == []
    assert site.block_names() == []


def test_a_forked_child_can_neither_fill_nor_end_the_batch(site):
    volume = site.open()
    with volume.batch(deferred=True) as batch:
        batch.write("/a", b"1")

        def child() -> None:
            with pytest.raises(StaleHandleError, match="parent"):
                batch.write("/b", b"2")
            with pytest.raises(StaleHandleError, match="parent"):
                batch.commit()
            batch.discard()

        assert in_child(child) == 0
    assert volume.read_file("/a") == b"1"
    assert not volume.exists("/b")


# ---------------------------------------------------------------------- long batches


def sustained(volume) -> int:
    return len(volume.parts().engine.read(lambda tx: list(tx.scan(Sustained, 1))))


def test_what_waits_for_long_is_kept_from_collectors(site, content):
    volume, other = site.open(), site.open(cache_size=0)
    files = bodies(content, 100)
    large = content(2 * site.block, 7)
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        with volume.open("/large", "wb", batch=batch) as file:
            file.write(large)
        batch.secure()  # what the timer does
        assert sustained(other) == 2
        assert sums_wrong(site.folder / "meta.db") == []
        other.gc(delete=True, min_age_s=0)
        batch.write("/after", b"later pack")
    assert read_all(other, files) == files
    assert other.read_file("/large") == large
    assert other.read_file("/after") == b"later pack"
    volume.close()
    assert sustained(other) == 0
    assert sorted(row.refs for row in references(other)) == [1, 1, 100]
    assert other.gc(min_age_s=0).leaked_objects == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hold_whose_reply_was_lost_is_made_sure_of(site, content, when, caplog, monkeypatch):
    engine = FaultySqlite(site.folder / "meta.db")
    volume, other = site.open(meta=engine), site.open(cache_size=0)
    files = bodies(content, 100)
    volume.parts().meta.presence.ensure_session()
    volume.write_file("/takes/numbers", b"x")
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        with volume.open("/large", "wb", batch=batch) as file:
            file.write(content(2 * site.block, 7))
        engine.lose_commit, engine.lose_reply = when == "before", when == "after"
        batch.secure()
        assert ("could not be kept referenced" in caplog.text) == (when == "before")
        assert sustained(other) == (1 if when == "before" else 2)
        batch.secure()
        assert sustained(other) == 2
        other.gc(delete=True, min_age_s=0)
    caplog.clear()
    assert read_all(other, files) == files
    volume.close()
    engine.close()
    assert sustained(other) == 0
    assert other.gc(min_age_s=0).leaked_objects == 0


def test_a_batch_that_could_not_be_held_notices_what_collectors_took(site, content, monkeypatch):
    engine = FaultySqlite(site.folder / "meta.db")
    volume = site.open(meta=engine)
    volume.parts().meta.presence.ensure_session()
    volume.write_file("/takes/numbers", b"x")
    batch = volume.batch(deferred=True)
    for path, body in bodies(content, 100).items():
        batch.write(path, body)
    engine.lose_commit = True
    batch.secure()
    site.open().gc(delete=True, min_age_s=0)
    monkeypatch.setattr(writer_module, "_UNREFERENCED_S_MAX", -1.0)
    with pytest.raises(BatchError) as caught:
        batch.commit()
    assert isinstance(caught.value.__cause__, ObjectNotFoundError)
    volume.close()
    engine.close()


def test_a_long_batch_that_is_discarded_leaves_nothing(site, content):
    volume = site.open()
    batch = volume.batch(deferred=True)
    for path, body in bodies(content, 100).items():
        batch.write(path, body)
    with volume.open("/large", "wb", batch=batch) as file:
        file.write(content(2 * site.block, 7))
    batch.secure()
    batch.discard()
    volume.close()
    other = site.open()
    assert (sustained(other), references(other), site.block_names()) == (0, [], [])


def test_the_timer_of_a_batch_that_is_not_deferred_commits(site, content, monkeypatch):
    monkeypatch.setattr(batch_module, "_HOLD_EVERY_S", 0.02)
    volume, other = site.open(), site.open(cache_size=0)
    files = bodies(content, 40)
    with volume.batch() as batch:
        for path, body in files.items():
            batch.write(path, body)
        while not other.exists("/set/0000"):
            os.sched_yield()
        batch.write("/after", b"x")
    assert read_all(other, files) == files
    assert other.read_file("/after") == b"x"


# ---------------------------------------------------------------------- whatever is written


@pytest.mark.parametrize("deferred", [False, True])
def test_large_files_of_a_batch_are_stored_by_themselves(big_site, content, deferred):
    volume = big_site.open(cache_size=0)
    large = content(CHUNK_BYTES + 5)
    buffer = bytearray(content(big_site.block, 3))
    with volume.batch(deferred=deferred) as batch:
        batch.write("/large", large)
        for number in range(5):
            batch.write(f"/buffer{number}", buffer)
        buffer[:] = bytes(len(buffer))  # it was free again
        batch.write("/small", b"small")
    assert volume.read_file("/large") == large
    for number in range(5):
        assert volume.read_file(f"/buffer{number}") == content(big_site.block, 3)
    assert volume.read_file("/small") == b"small"


def test_one_path_in_two_sizes_gets_the_last_content(site, content):
    volume = site.open()
    for first, last in ((b"s", content(site.block)), (content(site.block), b"s")):
        assert volume.write_files([("/a", first), ("/b", b"x")]) == [None, None]
        with volume.batch(deferred=True) as batch:
            batch.write("/a", first)
            batch.write("//a", last)
        assert volume.read_file("/a") == last


def test_what_is_no_content_is_refused_at_once_and_hurts_no_other(site):
    volume = site.open()
    with volume.batch() as batch:
        batch.write("/a", b"good")
        with pytest.raises(TypeError, match=r"^/b: the content must be contiguous bytes"):
            batch.write("/b", memoryview(bytes(10))[::2])
        with pytest.raises(TypeError, match=r"^/c: .*str"):
            batch.write("/c", "text")
        batch.write("/d", b"good")
    assert [entry.name for entry in volume.list_directory("/")] == ["a", "d"]
    outcomes = volume.write_files([("/e", "text"), ("/f", b"good")])
    assert isinstance(outcomes[0], TypeError)
    assert outcomes[1] is None


def test_a_name_is_exclusive_inside_the_batch_too(site):
    volume = site.open()
    with volume.batch(deferred=True) as batch:
        batch.write("/a", b"1", exclusive=True)
        with pytest.raises(EntryExistsError, match="same batch"):
            batch.write("/a", b"2", exclusive=True)
        with pytest.raises(EntryExistsError, match="same batch"):
            volume.open("/a", "xb", batch=batch)
    assert volume.read_file("/a") == b"1"


def test_a_slice_of_which_only_empty_files_are_accepted_goes(site):
    volume = site.open()
    volume.make_directory("/folder")
    with pytest.raises(BatchError):
        write_all(volume, {"/folder": b"content", "/empty": b""})
    assert volume.exists("/empty")
    assert site.block_names() == []


@pytest.mark.parametrize("held", [False, True])
def test_a_large_file_that_is_refused_at_its_commit_leaves_nothing(site, content, held):
    volume, other = site.open(), site.open()
    batch = volume.batch(deferred=True)
    batch.write("/small", b"1")
    batch.write("/taken", content(2 * site.block), exclusive=True)
    other.make_directory("/taken")
    if held:
        batch.secure()
    with pytest.raises(BatchError):
        batch.commit()
    volume.close()
    assert len(site.block_names()) == 1
    assert (sustained(other), [row.refs for row in references(other)]) == (0, [1])


def test_what_is_held_does_not_count_twice(site, content):
    change_volume(site.meta, capacity_bytes=1 << 20)
    volume = site.open()
    files = {f"/{number}": content(site.block // 4, number) for number in range(36)}
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        batch.write("/large", content(site.block))
        batch.secure()
    assert read_all(volume, files) == files
    volume.close()
    other = site.open()
    assert other.usage().used_bytes == 36 * site.block // 4 + site.block


def test_stored_bytes_of_a_long_batch_are_let_go(site, content, monkeypatch):
    monkeypatch.setattr(pack_module, "FILES_MAX", 4)
    volume = site.open(looped=True, max_uploads=2)
    site.store(volume).delay("put", 0.001)
    with volume.batch(deferred=True) as batch:
        for number in range(100):
            batch.write(f"/{number}", content(site.block // 4, number))
            pending = sum(len(pack._uploads._pending) for pack in batch._waiting)
            assert pending <= 2 * batch_module._WAITING_MAX + 2
    assert volume.read_file("/99") == content(site.block // 4, 99)


def test_a_forgotten_batch_goes_with_its_timer(site, content):
    volume = site.open()
    batch = volume.batch(deferred=True)
    batch.write("/large", content(site.block))
    timer, alive = batch._timer, weakref.ref(batch)
    assert timer is not None
    del batch
    gc.collect()
    assert alive() is None
    timer.function(*timer.args)  # finds nobody
    timer.cancel()


@pytest.mark.parametrize("kind", ["pack", "file"])
def test_a_block_that_is_lost_while_it_is_secured_is_never_committed(site, content, kind):
    volume = site.open(looped=True)
    batch = volume.batch(deferred=True)
    site.store(volume).fail("put", [2])
    if kind == "pack":
        files = bodies(content, 30)
        for path, body in files.items():
            batch.write(path, body)
    else:
        files = {"/large": content(2 * site.block)}
        batch.add_file(StoredFile(volume.parts(), "/large", files["/large"], exclusive=False))
    batch.secure()
    with pytest.raises((BatchError, ObjectError)):
        batch.commit()
    assert not any(site.open().exists(path) for path in files)
    assert site.block_names() == []


def test_an_append_that_was_held_does_not_count_twice(site, content):
    change_volume(site.meta, capacity_bytes=1 << 20)
    volume = site.open()
    volume.write_file("/log", b"begin")
    with volume.batch(deferred=True) as batch:
        with volume.open("/log", "ab", batch=batch) as file:
            file.write(content(600_000))
        batch.secure()
    assert volume.read_file("/log") == b"begin" + content(600_000)


def test_of_two_exclusive_handles_the_second_is_refused(site, content):
    volume = site.open()
    with volume.batch(deferred=True) as batch:
        one, other = (volume.open("/x", "xb", batch=batch) for _ in range(2))
        one.write(content(site.block, 1))
        other.write(content(site.block, 2))
        one.close()
        with pytest.raises(EntryExistsError):
            other.close()
        late = volume.open("/y", "xb", batch=batch)
        batch.write("/y", b"first")
        with pytest.raises(EntryExistsError):
            late.close()
    assert volume.read_file("/x") == content(site.block, 1)
    assert volume.read_file("/y") == b"first"
