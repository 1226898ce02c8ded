"""What nobody needs is found and removed; what anybody mentions stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from juicecache.errors import ReadOnlyVolumeError
from juicecache.meta.chunks import NewSlice, commit_slices
from juicecache.meta.engine import Engine
from juicecache.meta.rows import (
    TABLES,
    Chunk,
    Counter,
    DelayedSlices,
    DeletedFile,
    DetachedNode,
    DirStats,
    Edge,
    Session,
    SliceRef,
    Sustained,
)
from juicecache.model.attr import TRASH_INODE, Attr
from juicecache.model.slices import SliceRecord
from juicecache.volume import collector, gc
from juicecache.volume.volume import Volume

NOW_S = time.time()
DAY_S = 86_400


@pytest.fixture
def volume(make) -> Volume:
    return make()


def engine(volume: Volume) -> Engine:
    return volume.parts().engine


def scan(volume: Volume, table: type) -> list:
    return engine(volume).read(lambda tx: list(tx.scan(table)))


def folder(volume: Volume) -> Path:
    return Path(volume.setting.bucket) / "volume" / "chunks"


def objects(volume: Volume) -> set[str]:
    return {path.name for path in folder(volume).rglob("*") if path.is_file()}


def leak(volume: Volume, slice_id: int, size: int, *, age_s: float = 7200) -> None:
    """Store a slice that nothing refers to."""
    layout = volume.parts().layout
    for key in layout.block_keys(slice_id, size):
        path = Path(volume.setting.bucket) / layout.object_name(key.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(key.length))
        when_s = time.time() - age_s
        os.utime(path, (when_s, when_s))


def everything(volume: Volume) -> dict[type, list]:
    return {table: scan(volume, table) for table in TABLES}


@pytest.mark.parametrize("hash_prefix", [False, True], ids=["plain", "hashed"])
def test_leaked_objects_are_removed(make, hash_prefix: bool) -> None:
    volume = make(hash_prefix=hash_prefix)
    volume.write_file("/file", bytes(200_000))
    kept = objects(volume)
    leak(volume, 5000, 100_000)
    leak(volume, 1_234_567, 10)
    before = everything(volume), objects(volume)
    report = volume.gc()
    assert (everything(volume), objects(volume)) == before
    assert (report.objects, report.valid_objects, report.leaked_objects) == (7, 4, 3)
    assert (report.valid_bytes, report.leaked_bytes) == (200_000, 100_010)
    report = volume.gc(delete=True)
    assert (report.leaked_objects, report.removed_objects, report.errors) == (3, 3, ())
    assert objects(volume) == kept
    assert everything(volume) == before[0]


def test_young_objects_stay(volume: Volume) -> None:
    leak(volume, 5000, 10, age_s=1800)
    # One block is old, the other is just being written.
    leak(volume, 6000, 100_000)
    os.utime(next(folder(volume).rglob("6000_1_*")))
    report = volume.gc(delete=True)
    assert (report.skipped_objects, report.skipped_bytes) == (3, 100_010)
    assert (report.leaked_objects, len(objects(volume))) == (0, 3)
    assert volume.gc(delete=True, min_age_s=0).removed_objects == 3


def test_other_files_are_not_touched(volume: Volume) -> None:
    names = ("readme", "1_2", "a_b_c", "0/0/7_0_4.tmp", "wrong/7_0_4", "0/0/7_0_4_9")
    for name in names:
        path = folder(volume) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    report = volume.gc(delete=True, min_age_s=0)
    assert (report.objects, report.other_objects, report.leaked_objects) == (6, 6, 0)
    assert len(objects(volume)) == 6


@pytest.mark.parametrize("mention", ["record", "delayed", "reference"])
def test_whatever_mentions_a_slice_keeps_it(volume: Volume, mention: str) -> None:
    leak(volume, 5000, 10)
    rows = {
        "record": Chunk(999, 3, SliceRecord(0, 5000, 10, 0, 10).pack()),
        "delayed": DelayedSlices(77, int(NOW_S) + DAY_S, (5000).to_bytes(8) + (10).to_bytes(4)),
        "reference": SliceRef(5000, 10, 1),
    }
    row = rows[mention]
    engine(volume).write(lambda tx: tx.put(row))
    report = volume.gc(delete=True, min_age_s=0)
    assert (report.valid_objects, report.leaked_objects) == (1, 0)
    assert objects(volume) == {"5000_0_10"}
    keys = {Chunk: (999, 3), DelayedSlices: (77,), SliceRef: (5000, 10)}
    engine(volume).write(lambda tx: tx.delete(type(row), *keys[type(row)]))
    assert volume.gc(delete=True, min_age_s=0).removed_objects == 1


def test_a_slice_without_references_that_a_file_uses_stays(volume: Volume) -> None:
    volume.write_file("/file", b"precious")
    (ref,) = scan(volume, SliceRef)
    engine(volume).write(lambda tx: tx.put(ref._replace(refs=0)))
    report = volume.gc(delete=True, min_age_s=0)
    assert len(report.errors) == 1
    assert volume.read_file("/file") == b"precious"
    engine(volume).write(lambda tx: tx.put(ref))


def test_the_number_of_an_orphan_is_taken_while_its_objects_go(volume: Volume) -> None:
    """So that a commit which comes too late fails, instead of pointing at nothing."""
    leak(volume, 5000, 10)
    store = volume.parts().store
    delete = store.delete
    refs: list[int] = []

    async def delete_late(name: str) -> None:
        refs.extend(row.refs for row in scan(volume, SliceRef))
        await delete(name)

    store.delete = delete_late  # type: ignore[method-assign]
    assert volume.gc(delete=True).removed_objects == 1
    assert refs == [0]
    assert scan(volume, SliceRef) == []


def test_a_commit_between_listing_and_deletion_wins(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak(volume, 5000, 10)
    volume.write_file("/file", b"")
    inode = volume.stat("/file").inode
    mentioned = gc._Collector._mentioned

    def commit_first(self, slice_ids: set[int]) -> set[int]:
        found = mentioned(self, slice_ids)
        ctx = volume.parts().meta.gate.context()
        new = [NewSlice(0, SliceRecord(0, 5000, 10, 0, 10))]
        engine(volume).write(lambda tx: commit_slices(tx, ctx, inode, new, ctx.now_ns))
        return found

    monkeypatch.setattr(gc._Collector, "_mentioned", commit_first)
    assert volume.gc(delete=True).removed_objects == 0
    assert volume.read_file("/file") == bytes(10)


def test_many_candidates_are_settled_in_batches(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("_OBJECTS_PAGE", 7),
        ("_PAGE", 2),
        ("_CANDIDATES_MAX", 5),
        ("_CLAIMED", 2),
    ):
        monkeypatch.setattr(gc, name, value)
    for slice_id in range(5000, 5030):
        leak(volume, slice_id, 100_000)
    for number in range(9):
        volume.write_file(f"/{number}", bytes(100_000))
    seen: list[int] = []
    report = volume.gc(delete=True, progress=lambda so_far: seen.append(so_far.objects))
    assert (report.leaked_objects, report.removed_objects) == (60, 60)
    assert (report.valid_objects, report.objects) == (18, 78)
    assert len(objects(volume)) == 18
    assert seen == sorted(seen)
    assert len(seen) > 10


def test_deleted_files_of_any_age_are_finished(volume: Volume) -> None:
    volume.write_file("/file", bytes(100_000))
    volume.parts().meta.remove("/file")  # as a client that dies right after it
    assert volume.gc().deleted_files == 1
    report = volume.gc(delete=True)
    assert (report.deleted_files, report.objects) == (1, 0)
    assert scan(volume, DeletedFile) == scan(volume, Chunk) == scan(volume, SliceRef) == []


def test_what_fails_is_reported_and_done_the_next_time(volume: Volume) -> None:
    for number in range(3):
        volume.write_file(f"/{number}", bytes(10))
        volume.parts().meta.remove(f"/{number}")
    store = volume.parts().store
    store.fail("delete", {2})
    report = volume.gc(delete=True)
    assert report.deleted_files == 3
    assert len(report.errors) == 1
    # What failed behind the commit is a slice without references: taken in the same run.
    assert report.dead_slices == 1
    assert objects(volume) == set()
    assert volume.gc(delete=True).to_dict()["errors"] == ()


@pytest.mark.parametrize("delete", [False, True])
def test_rows_are_counted_and_done_a_page_at_a_time(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, delete: bool
) -> None:
    monkeypatch.setattr(collector, "_PAGE", 2)
    rows = [DeletedFile(inode, 0, 1) for inode in range(100, 105)]
    engine(volume).write(lambda tx: [tx.put(row) for row in rows])
    pages = []
    clean = collector.clean_files
    monkeypatch.setattr(
        collector, "clean_files", lambda *args: (pages.extend(args[1]), clean(*args))
    )
    assert volume.gc(delete=delete).deleted_files == 5
    assert pages == (list(range(100, 105)) if delete else [])
    assert len(scan(volume, DeletedFile)) == (0 if delete else 5)


def test_dead_slices_are_pending_until_removed(volume: Volume) -> None:
    leak(volume, 5000, 10)
    engine(volume).write(lambda tx: tx.put(SliceRef(5000, 10, 0)))
    report = volume.gc(min_age_s=0)
    assert (report.dead_slices, report.pending_objects, report.leaked_objects) == (1, 1, 0)
    volume.gc(delete=True)
    assert (objects(volume), scan(volume, SliceRef)) == (set(), [])


def test_chunks_are_looked_through_once_for_many_dead_slices(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.write_file("/file", bytes(10))
    (used,) = scan(volume, SliceRef)
    dead = [SliceRef(slice_id, 10, 0) for slice_id in range(5000, 5012)]
    engine(volume).write(lambda tx: [tx.put(row) for row in [*dead, used._replace(refs=0)]])
    for row in dead:
        leak(volume, row.slice_id, 10)
    monkeypatch.setattr(collector, "_PAGE", 2)
    monkeypatch.setattr(collector, "_DEAD_MAX", 8)
    looks = []
    mentioned = gc._Collector._mentioned
    monkeypatch.setattr(
        gc._Collector,
        "_mentioned",
        lambda self, ids: looks.append(len(ids)) or mentioned(self, ids),
    )
    report = volume.gc(delete=True)
    assert sum(looks[:2]) == report.dead_slices == 13
    assert max(looks) >= 5
    assert [error.partition(":")[0] for error in report.errors] == [f"slice {used.slice_id}"]
    assert volume.read_file("/file") == bytes(10)
    assert {row.slice_id for row in scan(volume, SliceRef)} == {used.slice_id}
    engine(volume).write(lambda tx: tx.put(used))


def test_trash_expires(make) -> None:
    volume = make(trash_days=1)
    volume.write_file("/folder/deep/file", bytes(10))
    volume.remove_tree("/folder")
    assert volume.gc(delete=True).expired_trash == 0
    (edge,) = engine(volume).read(lambda tx: list(tx.scan(Edge, TRASH_INODE)))
    old = edge._replace(name=b"2020-01-01-00")
    engine(volume).write(lambda tx: [tx.delete(Edge, TRASH_INODE, edge.name), tx.put(old)])
    report = volume.gc()
    assert (report.expired_trash, report.trash_entries) == (1, 0)
    report = volume.gc(delete=True)
    assert (report.expired_trash, report.trash_entries, report.objects) == (1, 3, 0)
    assert scan(volume, Edge) == []
    assert volume.usage().used_inodes == 0


def test_replaced_slices_expire(make) -> None:
    volume = make(trash_days=1)
    for body in (b"one", b"two"):
        with volume.open("/file", "ab") as file:
            file.write(body)
    volume.compact("/file")
    assert volume.gc(delete=True).delayed_rows == 0
    (row,) = scan(volume, DelayedSlices)
    old = row._replace(deleted_s=int(NOW_S) - DAY_S - 10)
    engine(volume).write(lambda tx: tx.put(old))
    assert volume.gc().delayed_rows == 1
    assert volume.gc(delete=True).delayed_rows == 1
    assert (len(objects(volume)), scan(volume, DelayedSlices)) == (1, [])
    assert volume.read_file("/file") == b"onetwo"


def test_sessions_that_died_are_closed(volume: Volume) -> None:
    volume.write_file("/held", bytes(10))
    inode = volume.stat("/held").inode
    volume.parts().meta.presence.open(inode)
    volume.parts().meta.remove("/held")
    (session,) = scan(volume, Session)
    assert volume.gc(delete=True).stale_sessions == 0
    assert len(scan(volume, Sustained)) == 1
    engine(volume).write(lambda tx: tx.put(Session(session.sid, 1, b"{}")))
    assert volume.gc().stale_sessions == 1
    report = volume.gc(delete=True)
    assert (report.stale_sessions, report.objects) == (1, 0)
    assert scan(volume, Session) == scan(volume, Sustained) == []


def test_clones_never_attached_are_removed(volume: Volume) -> None:
    """The tree of a clone as a client leaves it that dies before it attaches it."""
    volume.make_directory("/clone/deep", parents=True)
    volume.write_file("/clone/deep/file", bytes(10))
    top = volume.stat("/clone").inode

    def detach(tx) -> None:
        tx.delete(Edge, 1, b"clone")
        tx.put(DetachedNode(top, int(NOW_S) - 2 * DAY_S))
        tx.add(Attr, 1, nlink=-1)
        tx.add(DirStats, 1, used_space=-4096, used_inodes=-1)

    engine(volume).write(detach)
    assert volume.gc().detached_trees == 1
    report = volume.gc(delete=True)
    assert (report.detached_trees, report.objects, report.errors) == (1, 0, ())
    assert [attr.inode for attr in scan(volume, Attr)] == [1]
    assert scan(volume, DetachedNode) == []
    assert engine(volume).read(lambda tx: tx.get(Counter, "totalInodes")).value == 0


def test_young_clones_stay(volume: Volume) -> None:
    engine(volume).write(lambda tx: tx.put(DetachedNode(99, int(NOW_S) - DAY_S // 2)))
    assert volume.gc(delete=True).detached_trees == 0
    assert len(scan(volume, DetachedNode)) == 1


def test_compaction_of_everything(volume: Volume) -> None:
    expected = {}
    for name in ("a", "b"):
        for body in (b"one", b"two", b"three"):
            with volume.open(f"/{name}", "ab") as file:
                file.write(body)
        expected[name] = b"onetwothree"
    volume.write_file("/whole", b"whole")
    report = volume.gc(compact=True)
    assert (report.compacted_chunks, report.valid_objects, report.leaked_objects) == (2, 3, 0)
    assert {name: volume.read_file(f"/{name}") for name in expected} == expected
    assert volume.gc(compact=True).compacted_chunks == 0


def test_a_reader_may_look_and_not_touch(make) -> None:
    writer = make()
    leak(writer, 5000, 10)
    reader = make(read_only=True)
    assert reader.gc().leaked_objects == 1
    for switches in ({"delete": True}, {"compact": True}):
        with pytest.raises(ReadOnlyVolumeError):
            reader.gc(**switches)
