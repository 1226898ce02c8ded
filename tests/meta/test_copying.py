"""Copies of ranges and files, against rows that the official client wrote."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    IsDirectoryError,
)
from juicecache.meta import tree, usage
from juicecache.meta.chunks import NewSlice, commit_slices
from juicecache.meta.context import Context
from juicecache.meta.copying import clone_file, copy_range, replace_with_copy
from juicecache.meta.engine import Engine
from juicecache.meta.rows import Chunk, DirStats, SliceRef, Xattr
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, Attr, NodeFlag, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import FILE_BYTES_MAX, SliceRecord
from juicecache.testing.engines import KINDS, fresh_engine
from juicecache.testing.machines import references

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
SOURCE, TARGET, NEW = 2, 3, 4
SIZE = 5_058_900


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = fresh_engine(request.param, tmp_path)
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    for inode, name in ((SOURCE, b"source"), (TARGET, b"target")):
        new = NewNode(inode, NodeType.FILE, 0o666)
        engine.write(lambda tx, name=name, new=new: tree.create(tx, CTX, ROOT_INODE, name, new))
    write(engine, SOURCE, 0, SliceRecord(0, 8194, SIZE, 0, SIZE))
    yield engine
    engine.close()


def write(engine: Engine, inode: int, index: int, record: SliceRecord) -> Attr:
    new = [NewSlice(index, record)]
    return engine.write(lambda tx: commit_slices(tx, CTX, inode, new, CTX.now_ns))


def copy(engine: Engine, source_start: int, target_start: int, size: int) -> int:
    return engine.write(
        lambda tx: copy_range(tx, CTX, SOURCE, source_start, TARGET, target_start, size)
    )


def clone(
    engine: Engine, name: bytes = b"new", *, ctx: Context = CTX, source: int = SOURCE
) -> Attr:
    origin = attr_of(engine, source)
    return engine.write(lambda tx: clone_file(tx, ctx, origin, ROOT_INODE, name, NEW))


def replace(engine: Engine, name: bytes = b"target") -> Attr:
    origin = attr_of(engine, SOURCE)
    return engine.write(lambda tx: replace_with_copy(tx, CTX, origin, ROOT_INODE, name, NEW))


def attr_of(engine: Engine, inode: int) -> Attr:
    return engine.read(lambda tx: tree.getattr(tx, inode))


def rows(engine: Engine, inode: int) -> dict[int, list[SliceRecord]]:
    found = engine.read(lambda tx: list(tx.scan(Chunk, inode)))
    return {row.index: SliceRecord.unpack_all(row.slices) for row in found}


def refs(engine: Engine, slice_id: int) -> int:
    return next(refs for (found, _), refs in references(engine).items() if found == slice_id)


def check_usage(engine: Engine) -> None:
    assert engine.read(usage.totals) == usage.recount(engine)
    stored = engine.read(lambda tx: tx.get(DirStats, ROOT_INODE))
    assert stored == engine.read(lambda tx: usage.count_entries(tx, ROOT_INODE))


def test_a_copied_range_is_the_record_of_the_official_client(engine):
    assert copy(engine, 100, 50, 1_000_000) == 1_000_000
    (row,) = engine.read(lambda tx: list(tx.scan(Chunk, TARGET)))
    assert row.slices.hex() == "000000320000000000002002004d315400000064000f4240"
    assert refs(engine, 8194) == 2
    assert attr_of(engine, TARGET).length == 1_000_050
    check_usage(engine)


def test_a_copy_is_split_at_the_chunks_of_the_target(engine):
    copy(engine, 100, CHUNK_BYTES - 10, 50)
    assert rows(engine, TARGET) == {
        0: [SliceRecord(CHUNK_BYTES - 10, 8194, SIZE, 100, 10)],
        1: [SliceRecord(0, 8194, SIZE, 110, 40)],
    }
    assert refs(engine, 8194) == 3
    check_usage(engine)


def test_holes_are_copied_over_old_bytes(engine):
    write(engine, SOURCE, 1, SliceRecord(20, 9000, 30, 0, 30))
    write(engine, TARGET, 0, SliceRecord(0, 9001, 100, 0, 100))
    copy(engine, CHUNK_BYTES, 0, 50)
    assert rows(engine, TARGET)[0][1:] == [
        SliceRecord(0, 0, 0, 0, 20),
        SliceRecord(20, 9000, 30, 0, 30),
    ]
    assert refs(engine, 9001) == 1


def test_a_copy_ends_with_its_source(engine):
    before = attr_of(engine, TARGET)
    assert copy(engine, SIZE, 0, 10) == 0
    assert attr_of(engine, TARGET) == before
    assert copy(engine, SIZE - 4, 0, 10) == 4
    assert attr_of(engine, TARGET).length == 4


def test_a_copy_changes_mtime(engine):
    before = attr_of(engine, TARGET)
    copy(engine, 0, 0, 10)
    first = attr_of(engine, TARGET)
    copy(engine, 0, 0, 10)
    assert before.mtime_ns < first.mtime_ns < attr_of(engine, TARGET).mtime_ns


def test_ranges_of_one_file_must_not_overlap(engine):
    with pytest.raises(FileError) as caught:
        engine.write(lambda tx: copy_range(tx, CTX, SOURCE, 0, SOURCE, 99, 100))
    assert caught.value.errno == errno.EINVAL
    assert engine.write(lambda tx: copy_range(tx, CTX, SOURCE, 0, SOURCE, 100, 100)) == 100
    assert rows(engine, SOURCE)[0][1:] == [SliceRecord(100, 8194, SIZE, 0, 100)]


def test_offsets_of_a_copy_are_not_negative(engine):
    for source_start, target_start in ((-1, 0), (0, -1)):
        with pytest.raises(FileError) as caught:
            copy(engine, source_start, target_start, 10)
        assert caught.value.errno == errno.EINVAL


def test_a_copy_respects_the_flags_of_its_target(engine):
    engine.write(lambda tx: tx.set(Attr, TARGET, flags=int(NodeFlag.IMMUTABLE)))
    with pytest.raises(AccessDeniedError):
        copy(engine, 0, 0, 10)


@pytest.mark.parametrize("act", [lambda e: copy(e, 0, 0, 10), clone, replace])
def test_a_copy_of_what_is_not_referenced_fails_at_once_and_says_why(engine, act):
    engine.write(lambda tx: tx.put(SliceRef(8194, SIZE, 0)))
    with pytest.raises(FileError, match=f"slice 8194 of {SIZE} bytes.*fsck") as caught:
        act(engine)
    assert caught.value.errno == errno.EIO
    assert (rows(engine, TARGET), rows(engine, NEW)) == ({}, {})


def test_a_copy_is_a_new_file_in_all_but_content(engine):
    """No flag keeps it from being removed, and nobody becomes somebody else by running it."""
    changes = {"flags": int(NodeFlag.IMMUTABLE), "mode": 0o6755, "tier": 2}
    engine.write(lambda tx: tx.set(Attr, SOURCE, **changes))
    engine.write(lambda tx: tx.set(Attr, ROOT_INODE, flags=int(NodeFlag.SKIP_TRASH), tier=1))
    attr = clone(engine)
    assert (attr.flags, attr.mode, attr.tier) == (NodeFlag.SKIP_TRASH, 0o755, 1)
    assert attr == attr_of(engine, NEW)


def test_a_copy_does_not_make_a_file_too_long(engine):
    for start in (FILE_BYTES_MAX - 9, 2**63, 2**70):
        with pytest.raises(FileError) as caught:
            copy(engine, 0, start, 10)
        assert caught.value.errno == errno.EFBIG
    assert copy(engine, 2**63, 0, 10) == 0
    assert copy(engine, 0, FILE_BYTES_MAX - 10, 10) == 10
    check_usage(engine)


def test_a_clone_has_the_same_content_and_counts_every_record(engine):
    write(engine, SOURCE, 0, SliceRecord(10, 9000, 30, 0, 30))
    write(engine, SOURCE, 2, SliceRecord(0, 9001, 5, 0, 5))
    engine.write(lambda tx: tx.put(Xattr(SOURCE, "user.kind", b"\x00\xff")))
    attr = clone(engine, ctx=CTX._replace(uid=7, gid=8, umask=0o077, now_ns=10**15 + 1))
    assert attr == attr_of(engine, NEW)
    assert rows(engine, NEW) == rows(engine, SOURCE)
    assert [refs(engine, slice_id) for slice_id in (8194, 9000, 9001)] == [2, 2, 2]
    assert engine.read(lambda tx: tx.get(Xattr, NEW, "user.kind")) == Xattr(
        NEW, "user.kind", b"\x00\xff"
    )
    assert (attr.uid, attr.gid, attr.mode) == (7, 8, 0o600)
    assert attr.mtime_ns == attr.ctime_ns == 10**15 + 1
    assert (attr.length, attr.parent, attr.nlink) == (2 * CHUNK_BYTES + 5, ROOT_INODE, 1)
    check_usage(engine)


def test_a_clone_of_a_hard_linked_file_is_a_file_of_its_own(engine):
    engine.write(lambda tx: tree.link(tx, CTX, SOURCE, ROOT_INODE, b"second"))
    attr = clone(engine)
    assert (attr.nlink, attr.parent) == (1, ROOT_INODE)
    check_usage(engine)


def test_a_clone_of_a_symlink_has_its_target(engine):
    link = NewNode(9, NodeType.SYMLINK, 0o777, b"some/where")
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"link", link))
    clone(engine, source=9)
    assert engine.read(lambda tx: tree.readlink(tx, NEW)) == b"some/where"
    check_usage(engine)


def test_a_clone_needs_a_free_name_and_a_living_source(engine):
    with pytest.raises(EntryExistsError):
        clone(engine, b"target")
    with pytest.raises(IsDirectoryError):
        clone(engine, source=ROOT_INODE)
    gone = attr_of(engine, SOURCE)._replace(inode=99)
    with pytest.raises(EntryNotFoundError):
        engine.write(lambda tx: clone_file(tx, CTX, gone, ROOT_INODE, b"new", NEW))


def test_a_copy_to_a_new_name_is_a_clone(engine):
    assert replace(engine, b"new").inode == NEW
    assert rows(engine, NEW) == rows(engine, SOURCE)


def test_a_copy_over_a_file_hides_its_bytes_and_keeps_its_inode(engine):
    write(engine, TARGET, 1, SliceRecord(0, 9000, 30, 0, 30))
    before = attr_of(engine, TARGET)
    attr = replace(engine)
    assert attr == attr_of(engine, TARGET)
    assert attr.length == SIZE
    assert attr.mtime_ns > before.mtime_ns
    assert rows(engine, TARGET) == {
        0: [SliceRecord(0, 0, 0, 0, CHUNK_BYTES), SliceRecord(0, 8194, SIZE, 0, SIZE)],
        1: [SliceRecord(0, 9000, 30, 0, 30), SliceRecord(0, 0, 0, 0, 30)],
    }
    assert (refs(engine, 8194), refs(engine, 9000)) == (2, 1)
    check_usage(engine)


def test_a_file_is_not_copied_over_itself_or_a_directory(engine):
    with pytest.raises(FileError) as caught:
        replace(engine, b"source")
    assert caught.value.errno == errno.EINVAL
    make = NewNode(9, NodeType.DIRECTORY, 0o777)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"dir", make))
    with pytest.raises(IsDirectoryError):
        replace(engine, b"dir")
