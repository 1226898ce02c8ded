"""Merging the slices of a chunk: same bytes, fewer objects, and nothing left by who gives up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from juicecache.errors import ObjectNotFoundError, ObjectUnavailableError
from juicecache.meta.rows import Chunk, DelayedSlices, SliceRef
from juicecache.model.slices import RECORD_BYTES, SliceRecord
from juicecache.volume.compacting import Urgency, compact_chunk, urgency
from juicecache.volume.volume import Volume

BLOCK = 64 << 10


@pytest.fixture
def volume(make) -> Volume:
    return make()


def append(volume: Volume, path: str, *bodies: bytes) -> bytes:
    for body in bodies:
        with volume.open(path, "ab") as file:
            file.write(body)
    return b"".join(bodies)


def scan(volume: Volume, table: type) -> list:
    return volume.parts().engine.read(lambda tx: list(tx.scan(table)))


def counts(volume: Volume, path: str) -> list[int]:
    inode = volume.stat(path).inode
    return [len(row.slices) // RECORD_BYTES for row in scan(volume, Chunk) if row.inode == inode]


def stored(volume: Volume) -> set[str]:
    folder = Path(volume.setting.bucket) / "volume" / "chunks"
    return {path.name for path in folder.rglob("*_*") if path.is_file()}


def settle(volume: Volume) -> None:
    """Wait for what runs in the background."""
    for future in tuple(volume.parts().cleaning):
        future.result()


def after_a_put(volume: Volume, act: Callable[[], object]) -> None:
    """Do something once the next object is stored, before its writer hears of it."""
    store = volume.parts().store
    put = store.put

    async def put_late(name, body) -> None:
        await put(name, body)
        store.put = put  # type: ignore[method-assign]
        act()

    store.put = put_late  # type: ignore[method-assign]


def test_records_become_one_with_the_same_bytes(volume: Volume) -> None:
    expected = append(volume, "/file", *(os.urandom(size) for size in (10, BLOCK, 3, 2 * BLOCK)))
    before = volume.stat("/file")
    assert compact_chunk(volume.parts(), before.inode, 0)
    assert volume.read_file("/file") == expected
    assert counts(volume, "/file") == [1]
    assert volume.stat("/file") == before
    (ref,) = scan(volume, SliceRef)
    assert (ref.size, ref.refs) == (len(expected), 1)
    assert stored(volume) == {
        key.name for key in volume.parts().layout.block_keys(ref.slice_id, ref.size)
    }
    assert not compact_chunk(volume.parts(), before.inode, 0)


def test_holes_stay_zeros(volume: Volume) -> None:
    volume.write_file("/file", b"a" * 100)
    with volume.open("/file", "r+b") as file:
        for place in (5 * BLOCK, 2 * BLOCK + 7):
            file.seek(place)
            file.write(b"island")
    volume.truncate("/file", 6 * BLOCK)
    expected = volume.read_file("/file")
    assert volume.compact("/file") == 1
    assert volume.read_file("/file") == expected
    volume.truncate("/file", 0)
    volume.truncate("/file", BLOCK)
    assert volume.compact("/") == 1
    assert volume.read_file("/file") == bytes(BLOCK)


def test_replaced_slices_wait_while_the_trash_is_on(make) -> None:
    volume = make(trash_days=1)
    expected = append(volume, "/file", b"one", b"two", b"three")
    objects = stored(volume)
    assert volume.compact("/file") == 1
    assert stored(volume) > objects
    assert len(scan(volume, DelayedSlices)) == 1
    assert volume.read_file("/file") == expected


def test_a_reader_of_the_old_list_finds_the_new_bytes(make) -> None:
    reader, volume = make(), make()
    expected = append(volume, "/file", b"one", b"two", b"three")
    with reader.open("/file") as handle:
        assert handle.read(2) == expected[:2]
        assert volume.compact("/file") == 1
        assert handle.read() == expected[2:]


def test_a_shared_slice_loses_one_reference_only(volume: Volume) -> None:
    expected = append(volume, "/file", b"one", b"two")
    volume.copy_file("/file", "/copy")
    assert volume.compact("/file") == 1
    assert volume.read_file("/copy") == volume.read_file("/file") == expected
    assert sorted(row.refs for row in scan(volume, SliceRef)) == [1, 1, 1]


def test_who_loses_the_race_leaves_nothing(volume: Volume) -> None:
    expected = append(volume, "/file", b"one", b"two", b"three")
    parts, inode = volume.parts(), volume.stat("/file").inode

    def win() -> None:
        assert compact_chunk(parts, inode, 0)

    after_a_put(volume, win)
    assert not compact_chunk(parts, inode, 0)
    assert volume.read_file("/file") == expected
    assert len(stored(volume)) == len(scan(volume, SliceRef)) == 1


def test_what_others_append_meanwhile_stays(volume: Volume) -> None:
    expected = append(volume, "/file", b"one", b"two")
    parts, inode = volume.parts(), volume.stat("/file").inode
    after_a_put(volume, lambda: append(volume, "/file", b"three"))
    assert compact_chunk(parts, inode, 0)
    assert volume.read_file("/file") == expected + b"three"
    assert counts(volume, "/file") == [2]


@pytest.mark.parametrize("operation", ["get", "put"])
def test_a_failure_changes_nothing(volume: Volume, operation: str) -> None:
    expected = append(volume, "/file", b"one", bytes(BLOCK), b"three")
    before = stored(volume)
    store = volume.parts().store
    store.fail(operation, range(store.calls[operation] + 2, 1000))
    with pytest.raises(ObjectUnavailableError):
        volume.compact("/file")
    store.fail(operation, ())
    assert stored(volume) == before
    assert volume.read_file("/file") == expected
    assert counts(volume, "/file") == [3]


def test_missing_content_is_an_error(volume: Volume) -> None:
    append(volume, "/file", b"one", b"two")
    first = min(scan(volume, SliceRef))
    (key,) = volume.parts().layout.block_keys(first.slice_id, first.size)
    volume.parts().store.lose(volume.parts().layout.object_name(key.name))
    with pytest.raises(ObjectNotFoundError):
        volume.compact("/file")
    assert counts(volume, "/file") == [2]


def test_few_downloads_at_once_are_enough(make) -> None:
    volume = make(max_downloads=2)
    expected = append(volume, "/file", *(os.urandom(BLOCK + 1) for _ in range(20)))
    assert volume.compact("/file") == 1
    assert volume.read_file("/file") == expected
    assert volume.parts().blocks.loading_bytes == 0


def test_a_file_overwritten_again_and_again_keeps_few_slices(volume: Volume) -> None:
    for number in range(60):
        volume.write_file("/file", b"%d" % number * 1000)
        settle(volume)
        assert len(scan(volume, SliceRef)) < 20
    assert volume.read_file("/file") == b"59" * 1000


def test_a_file_appended_to_again_and_again_keeps_a_short_list(volume: Volume) -> None:
    expected = b""
    for number in range(250):
        expected += append(volume, "/file", b"%d," % number)
        settle(volume)
        assert counts(volume, "/file")[0] < 100
    assert volume.read_file("/file") == expected


def test_two_threads_compact_one_file(volume: Volume) -> None:
    expected = append(volume, "/file", *(b"%d" % number for number in range(50)))
    parts, inode = volume.parts(), volume.stat("/file").inode
    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(compact_chunk(parts, inode, 0)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(outcomes)
    assert volume.read_file("/file") == expected
    assert len(stored(volume)) == 1


def records(*rows: tuple[int, int]) -> bytes:
    """Return a list of (pos, length) records of slices of their own."""
    return b"".join(
        SliceRecord(pos, number + 1, length, 0, length).pack()
        for number, (pos, length) in enumerate(rows)
    )


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([(0, 10)], Urgency.NOT),
        ([(0, 10)] * 15, Urgency.NOT),
        ([(0, 10)] * 16, Urgency.LATER),
        ([(0, 10)] * 17, Urgency.LATER),
        ([(0, 10)] * 18, Urgency.NOT),
        ([(at, 1) for at in range(16)], Urgency.NOT),
        ([(at, 1) for at in range(98)], Urgency.NOT),
        ([(at, 1) for at in range(99)], Urgency.LATER),
        ([(at, 1) for at in range(350)], Urgency.NOT),
        ([(at, 1) for at in range(351)], Urgency.LATER),
        ([(at, 1) for at in range(2499)], Urgency.LATER),
        ([(at, 1) for at in range(2500)], Urgency.NOW),
    ],
)
def test_when_a_chunk_is_due(rows: list[tuple[int, int]], wanted: Urgency) -> None:
    assert urgency(records(*rows)) is wanted


@pytest.mark.parametrize("trash_days", [0, 1])
def test_packed_files_that_were_written_anew_stay_packed(make, trash_days: int) -> None:
    volume = make(trash_days=trash_days)
    bodies = {f"/{number}": os.urandom(1000 + number) for number in range(30)}
    for _ in range(3):
        assert not any(volume.write_files(list(bodies.items())))
    before = volume.stats().blocks
    assert volume.compact("/") == 30
    after = volume.stats().blocks
    assert (after.loads, after.uploads) == (before.loads, before.uploads)
    assert {counts(volume, path)[0] for path in bodies} == {1}
    assert {path: volume.read_file(path) for path in bodies} == bodies
    live = [row for row in scan(volume, SliceRef) if row.refs > 0]
    assert sorted(row.refs for row in live) == ([30] if not trash_days else [30, 30, 30])
    assert len(stored(volume)) == (1 if not trash_days else 3)
    assert len(scan(volume, DelayedSlices)) == (30 if trash_days else 0)
    assert volume.compact("/") == 0


def test_covered_records_are_dropped_before_the_rest_is_merged(volume: Volume) -> None:
    append(volume, "/file", b"a" * 100, b"b" * 100)
    volume.write_file("/file", b"new")
    expected = b"new" + append(volume, "/file", b"tail")
    inode = volume.stat("/file").inode
    assert compact_chunk(volume.parts(), inode, 0)
    assert counts(volume, "/file") == [1]
    assert volume.read_file("/file") == expected
    assert len(stored(volume)) == 1
