"""Whole files, made and replaced in one transaction."""

from __future__ import annotations

import errno

import pytest

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    FileError,
    IsDirectoryError,
    NoSpaceError,
    NotDirectoryError,
)
from juicecache.meta import tree, usage
from juicecache.meta.chunks import NewSlice, read_chunk
from juicecache.meta.context import Context
from juicecache.meta.files import WholeFile, commit_files
from juicecache.meta.rows import DirStats
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, Attr, NodeFlag, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord, visible
from juicecache.testing.machines import references

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)


def piece(slice_id: int, size: int, index: int = 0) -> NewSlice:
    return NewSlice(index, SliceRecord(0, slice_id, size, 0, size))


def commit(engine, name: bytes, inode: int, slices=(), *, exclusive=False, mtime_ns=5, below=()):
    file = WholeFile((*below, name), inode, slices, exclusive)
    (outcome,) = commit_all(engine, [file], mtime_ns=mtime_ns)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def commit_all(engine, files, mtime_ns=5, ctx=CTX):
    return engine.write(lambda tx: commit_files(tx, ctx, files, mtime_ns))


def seen(engine, inode: int, index: int = 0) -> list[tuple[int, int]]:
    records = engine.read(lambda tx: read_chunk(tx, inode, index))
    return [(extent.slice_id, extent.length) for extent in visible(records) if extent.slice_id]


def counts(engine) -> None:
    assert engine.read(usage.totals) == usage.recount(engine)
    stored = engine.read(lambda tx: tx.get(DirStats, ROOT_INODE))
    assert stored == engine.read(lambda tx: usage.count_entries(tx, ROOT_INODE))


def test_a_new_file_has_its_slices_length_time_and_usage(engine):
    attr = commit(engine, b"file", 2, [piece(9, CHUNK_BYTES), piece(10, 50, 1)])
    assert (attr.length, attr.mtime_ns, attr.mode) == (CHUNK_BYTES + 50, 5, 0o644)
    assert engine.read(lambda tx: tree.getattr(tx, 2)) == attr
    assert (seen(engine, 2), seen(engine, 2, 1)) == ([(9, CHUNK_BYTES)], [(10, 50)])
    assert references(engine)[10, 50] == 1
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


def test_an_empty_file_made_empty_again_gets_a_later_time(engine):
    old = commit(engine, b"file", 2, mtime_ns=50)
    assert commit(engine, b"file", 3, mtime_ns=50).mtime_ns == old.mtime_ns + 1
    assert commit(engine, b"file", 3, mtime_ns=7).mtime_ns == old.mtime_ns + 2


@pytest.mark.parametrize("flag", [NodeFlag.IMMUTABLE, NodeFlag.APPEND_ONLY])
def test_an_empty_file_that_is_frozen_is_not_made_empty(engine, flag):
    old = commit(engine, b"file", 2)
    engine.write(lambda tx: tx.set(Attr, 2, flags=int(flag)))
    with pytest.raises(AccessDeniedError):
        commit(engine, b"file", 3, mtime_ns=50)
    assert engine.read(lambda tx: tree.getattr(tx, 2)).mtime_ns == old.mtime_ns


def test_a_new_file_is_not_too_long(engine):
    with pytest.raises(FileError) as caught:
        commit(engine, b"file", 2, [piece(9, 1, 2**31)])
    assert caught.value.errno == errno.EFBIG
    assert engine.read(lambda tx: tree.lookup(tx, ROOT_INODE, b"file")) is None


def test_exclusive_refuses_a_name_that_is_taken(engine):
    commit(engine, b"file", 2, [piece(9, 100)], exclusive=True)
    with pytest.raises(EntryExistsError):
        commit(engine, b"file", 3, [piece(10, 30)], exclusive=True)
    assert seen(engine, 2) == [(9, 100)]
    assert references(engine) == {(9, 100): 1}


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


# ---------------------------------------------------------------------- many at once


def shared(start: int, length: int, size: int = 1000, slice_id: int = 9) -> list[NewSlice]:
    return [NewSlice(0, SliceRecord(0, slice_id, size, start, length))]


def test_files_of_one_slice_count_a_reference_each(engine):
    files = [WholeFile((b"%d" % n,), 2 + n, shared(100 * n, 100)) for n in range(10)]
    attrs = commit_all(engine, files)
    assert [attr.inode for attr in attrs] == list(range(2, 12))
    assert references(engine)[9, 1000] == 10
    assert [engine.read(lambda tx, a=a: tree.getattr(tx, a.inode)) for a in attrs] == attrs
    assert seen(engine, 4) == [(9, 100)]
    counts(engine)


def test_new_old_empty_and_refused_files_share_a_commit(engine):
    commit(engine, b"old", 2, [piece(7, 50)])
    engine.write(
        lambda tx: tree.create(
            tx, CTX, ROOT_INODE, b"folder", NewNode(3, NodeType.DIRECTORY, 0o777)
        )
    )
    outcomes = commit_all(
        engine,
        [
            WholeFile((b"new",), 10, shared(0, 100)),
            WholeFile((b"old",), 11, shared(100, 80)),
            WholeFile((b"empty",), 12, []),
            WholeFile((b"folder",), 13, shared(200, 10)),
            WholeFile((b"missing", b"file"), 14, shared(300, 10)),
            WholeFile((b"old", b"file"), 15, shared(400, 10)),
            WholeFile((b"new",), 16, shared(500, 60), exclusive=True),
            WholeFile((b"folder", b"inner"), 17, shared(600, 400)),
            WholeFile((b"old",), 18, [], exclusive=True),
        ],
    )
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == [
        "Attr",
        "Attr",
        "Attr",
        "IsDirectoryError",
        "EntryNotFoundError",
        "NotDirectoryError",
        "Attr",
        "Attr",
        "EntryExistsError",
    ]
    assert outcomes[1].inode == 2
    # Of two contents for one new name the last is written, so its number is the file's.
    assert outcomes[0] == outcomes[6]
    assert (outcomes[0].inode, outcomes[0].length) == (16, 60)
    assert references(engine)[9, 1000] == 3
    assert seen(engine, 2) == [(9, 80)]
    counts(engine)


def test_two_names_of_one_file_get_the_last_content(engine):
    commit(engine, b"one", 2, [piece(7, 50)])
    engine.write(lambda tx: tree.link(tx, CTX, 2, ROOT_INODE, b"two"))
    engine.write(
        lambda tx: tree.create(
            tx, CTX, ROOT_INODE, b"way", NewNode(3, NodeType.SYMLINK, 0o777, b"one")
        )
    )
    files = [
        WholeFile((b"one",), 10, shared(0, 10)),
        WholeFile((b"two",), 11, shared(10, 20)),
        WholeFile((b"way",), 12, shared(30, 40)),
    ]
    assert {attr.inode for attr in commit_all(engine, files)} == {2}
    assert seen(engine, 2) == [(9, 40)]
    assert references(engine)[9, 1000] == 1
    counts(engine)


def test_a_volume_without_room_takes_none_of_them(engine):
    ctx = CTX._replace(capacity_bytes=3 * 4096)
    files = [WholeFile((b"%d" % n,), 2 + n, shared(100 * n, 100)) for n in range(4)]
    with pytest.raises(NoSpaceError):
        commit_all(engine, files, ctx=ctx)
    assert engine.read(lambda tx: list(tx.children(ROOT_INODE))) == []
    assert len(commit_all(engine, files[:3], ctx=ctx)) == 3
