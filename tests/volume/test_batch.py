"""Small files packed into shared slices: layout, order, failures, long batches, forks."""

from __future__ import annotations

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
    ReadOnlyVolumeError,
    StaleHandleError,
    UnsupportedError,
)
from juicecache.meta.rows import SliceRef
from juicecache.model.layout import CHUNK_BYTES
from juicecache.testing.batches import bodies, read_all, references, write_all
from juicecache.testing.oracle import sums_wrong
from juicecache.testing.processes import in_child
from juicecache.volume import pack as pack_module
from juicecache.volume.formatting import change_volume


@pytest.fixture(autouse=True)
def sums_are_right(tmp_path):
    yield
    assert sums_wrong(tmp_path / "meta.db") == []


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
