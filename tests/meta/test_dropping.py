"""Content of removed files: references, dead slices, the rows that remember them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.meta import dropping, tree
from juicecache.meta.chunks import NewSlice, commit_slices
from juicecache.meta.context import Context
from juicecache.meta.copying import copy_range
from juicecache.meta.engine import Engine
from juicecache.meta.remove import unlink
from juicecache.meta.rows import Chunk, DeletedFile, DetachedNode, SliceRef
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, NodeType
from juicecache.model.slices import SliceRecord
from juicecache.testing.engines import KINDS, fresh_engine
from juicecache.testing.machines import references

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
NOW_S = 10**6
FILE, OTHER = 2, 3


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = fresh_engine(request.param, tmp_path)
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    for inode, name in ((FILE, b"file"), (OTHER, b"other")):
        new = NewNode(inode, NodeType.FILE, 0o666)
        engine.write(lambda tx, name=name, new=new: tree.create(tx, CTX, ROOT_INODE, name, new))
    yield engine
    engine.close()


def write(engine: Engine, slice_id: int, *, index: int = 0, inode: int = FILE) -> None:
    new = [NewSlice(index, SliceRecord(0, slice_id, 10, 0, 10))]
    engine.write(lambda tx: commit_slices(tx, CTX, inode, new, CTX.now_ns))


def remove(engine: Engine, name: bytes = b"file") -> None:
    assert engine.write(lambda tx: unlink(tx, CTX, ROOT_INODE, name)).doomed


def drop(engine: Engine, inode: int = FILE, *, limit: int = 100) -> tuple[list, bool]:
    dead, left = engine.write(lambda tx: dropping.drop_chunks(tx, [inode], limit=limit))
    return dead, not left


def refs(engine: Engine) -> dict[int, int]:
    return {slice_id: count for (slice_id, _), count in references(engine).items()}


def test_content_of_a_removed_file_goes_in_two_steps(engine):
    write(engine, 5)
    write(engine, 6, index=3)
    remove(engine)
    assert drop(engine) == ([(5, 10), (6, 10)], True)
    assert refs(engine) == {5: 0, 6: 0}
    assert engine.read(lambda tx: list(tx.scan(DeletedFile))) == []
    assert engine.read(lambda tx: list(tx.scan(Chunk, FILE))) == []
    engine.write(lambda tx: dropping.forget_slices(tx, [(5, 10), (6, 10)]))
    assert refs(engine) == {}


def test_a_large_file_is_dropped_in_bounded_steps(engine):
    for index in range(5):
        write(engine, 10 + index, index=index)
    remove(engine)
    assert drop(engine, limit=2) == ([(10, 10), (11, 10)], False)
    assert engine.read(lambda tx: tx.get(DeletedFile, FILE)) == DeletedFile(
        FILE, 4 * (64 << 20) + 10, NOW_S
    )
    assert drop(engine, limit=2)[1] is False
    assert drop(engine, limit=2) == ([(14, 10)], True)


def test_a_shared_slice_dies_with_its_last_record(engine):
    write(engine, 5)
    engine.write(lambda tx: copy_range(tx, CTX, FILE, 0, OTHER, 0, 10))
    engine.write(lambda tx: copy_range(tx, CTX, FILE, 2, OTHER, 0, 4))
    assert refs(engine) == {5: 3}
    remove(engine)
    assert drop(engine) == ([], True)
    assert refs(engine) == {5: 1 + 1}
    remove(engine, b"other")
    assert drop(engine, OTHER) == ([(5, 10)], True)


def test_chunks_of_a_living_file_are_not_dropped(engine):
    write(engine, 5)
    assert drop(engine) == ([], True)
    assert refs(engine) == {5: 1}
    assert engine.read(lambda tx: tx.exists(Chunk, FILE))


def test_only_dead_slices_are_forgotten(engine):
    engine.write(lambda tx: [tx.put(SliceRef(n, 10, n - 6)) for n in (5, 6, 8)])
    engine.write(lambda tx: dropping.forget_slices(tx, [(5, 10), (6, 11), (8, 10), (9, 10)]))
    assert refs(engine) == {6: 0, 8: 2}


def test_clones_are_listed_by_age(engine):
    engine.write(lambda tx: [tx.put(DetachedNode(n, 100 + n)) for n in range(20, 23)])
    assert engine.read(lambda tx: dropping.detached_nodes(tx, 122, limit=9)) == [20, 21]


def test_several_files_are_dropped_together(engine):
    inodes = [FILE]
    for number in range(4):
        inode = FILE + 10 + number
        new = NewNode(inode, NodeType.FILE, 0o644)
        engine.write(lambda tx, new=new: tree.create(tx, CTX, ROOT_INODE, b"%d" % new.inode, new))
        inodes.append(inode)
    for number, inode in enumerate(inodes):
        for index in range(1 + number % 2 * 2):
            write(engine, 100 + 10 * number + index, index=index, inode=inode)
    for inode in inodes:
        remove(engine, b"file" if inode == FILE else b"%d" % inode)
    asked = [*inodes, 4242, *inodes]  # one that is not there, and all twice
    left, steps = asked, 0
    dead: list[tuple[int, int]] = []
    while left:
        some, left = engine.write(lambda tx, left=left: dropping.drop_chunks(tx, left, limit=3))
        dead += some
        steps += 1
    assert 3 <= steps <= 5
    assert sorted(dead) == sorted(
        {(100 + 10 * n + i, 10) for n in range(5) for i in range(1 + n % 2 * 2)}
    )
    assert set(refs(engine).values()) == {0}
    assert engine.read(lambda tx: list(tx.scan(DeletedFile))) == []
    assert engine.read(lambda tx: [row for one in inodes for row in tx.scan(Chunk, one)]) == []
