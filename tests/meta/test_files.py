"""Whole files, made and replaced in one transaction."""

from __future__ import annotations

import pytest

from juicecache.errors import EntryExistsError, IsDirectoryError, NotDirectoryError
from juicecache.meta import tree, usage
from juicecache.meta.chunks import NewSlice, read_chunk
from juicecache.meta.context import Context
from juicecache.meta.files import commit_file
from juicecache.meta.rows import DirStats, SliceRef
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord, visible

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)


def piece(slice_id: int, size: int, index: int = 0) -> NewSlice:
    return NewSlice(index, SliceRecord(0, slice_id, size, 0, size))


def commit(engine, name: bytes, inode: int, slices=(), *, exclusive=False, mtime_ns=5, below=()):
    names = (*below, name)
    return engine.write(
        lambda tx: commit_file(tx, CTX, names, inode, slices, mtime_ns, exclusive=exclusive)
    )


def seen(engine, inode: int, index: int = 0) -> list[tuple[int, int]]:
    records = engine.read(lambda tx: read_chunk(tx, inode, index))
    return [(extent.slice_id, extent.length) for extent in visible(records) if extent.slice_id]


def counts(engine) -> None:
    assert engine.read(usage.totals) == engine.read(usage.recount)
    stored = engine.read(lambda tx: tx.get(DirStats, ROOT_INODE))
    assert stored == engine.read(lambda tx: usage.count_entries(tx, ROOT_INODE))


def test_a_new_file_has_its_slices_length_time_and_usage(engine):
    attr = commit(engine, b"file", 2, [piece(9, CHUNK_BYTES), piece(10, 50, 1)])
    assert (attr.length, attr.mtime_ns, attr.mode) == (CHUNK_BYTES + 50, 5, 0o644)
    assert engine.read(lambda tx: tree.getattr(tx, 2)) == attr
    assert (seen(engine, 2), seen(engine, 2, 1)) == ([(9, CHUNK_BYTES)], [(10, 50)])
    assert engine.read(lambda tx: tx.get(SliceRef, 10)) == SliceRef(10, 50, 1)
    counts(engine)


def test_a_file_that_is_there_keeps_its_inode_and_gets_new_content(engine):
    old = commit(engine, b"file", 2, [piece(9, 100)])
    new = commit(engine, b"file", 3, [piece(10, 30)])
    assert (new.inode, new.length) == (2, 30)
    assert new.mtime_ns > old.mtime_ns
    assert seen(engine, 2) == [(10, 30)]
    counts(engine)


def test_an_empty_file_made_empty_again_only_moves_its_times(engine):
    commit(engine, b"file", 2)
    attr = commit(engine, b"file", 3, mtime_ns=50)
    assert (attr.inode, attr.mtime_ns) == (2, 50)
    assert engine.read(lambda tx: tree.getattr(tx, 2)) == attr
    counts(engine)


def test_exclusive_refuses_a_name_that_is_taken(engine):
    commit(engine, b"file", 2, [piece(9, 100)], exclusive=True)
    with pytest.raises(EntryExistsError):
        commit(engine, b"file", 3, [piece(10, 30)], exclusive=True)
    assert seen(engine, 2) == [(9, 100)]
    assert engine.read(lambda tx: tx.get(SliceRef, 10)) is None


def test_directories_and_paths_through_files_are_refused(engine):
    new = NewNode(2, NodeType.DIRECTORY, 0o777)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"directory", new))
    commit(engine, b"file", 3)
    with pytest.raises(IsDirectoryError):
        commit(engine, b"directory", 4)
    with pytest.raises(NotDirectoryError):
        commit(engine, b"x", 4, below=(b"file",))
    with pytest.raises(FileNotFoundError):
        commit(engine, b"x", 4, below=(b"none",))
    counts(engine)


def test_a_symbolic_link_is_followed(engine):
    commit(engine, b"file", 2, [piece(9, 100)])
    link = NewNode(3, NodeType.SYMLINK, 0o777, b"file")
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"link", link))
    assert commit(engine, b"link", 4, [piece(10, 7)]).inode == 2
    assert seen(engine, 2) == [(10, 7)]
    with pytest.raises(EntryExistsError):
        commit(engine, b"link", 5, exclusive=True)
    counts(engine)
