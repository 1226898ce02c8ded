"""Totals, usage rows, subtrees, limits."""

from __future__ import annotations

import pytest

from juicecache.errors import NoSpaceError
from juicecache.meta import tree, usage
from juicecache.meta.chunks import truncate
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Counter, DirStats
from juicecache.meta.tree import NewNode
from juicecache.meta.usage import Ledger, Summary, Totals
from juicecache.model.attr import ROOT_INODE, Attr, NodeType, space_of

CTX = Context(10**18, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)


def add(engine, parent, name, inode, kind=NodeType.FILE, length=0, ctx=CTX):
    new = NewNode(inode, kind, 0o777, b"target" if kind == NodeType.SYMLINK else b"")
    engine.write(lambda tx: tree.create(tx, ctx, parent, name, new))
    if length:
        engine.write(lambda tx: truncate(tx, ctx, inode, length))


def stats(engine, inode) -> DirStats:
    return engine.read(lambda tx: tx.get(DirStats, inode))


@pytest.mark.parametrize(
    ("length", "space"), [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (1 << 40, 1 << 40)]
)
def test_space_is_whole_units_and_at_least_one(length, space):
    assert space_of(length) == space


def test_a_directory_row_counts_its_entries(engine):
    add(engine, ROOT_INODE, b"d", 2, NodeType.DIRECTORY)
    add(engine, 2, b"f", 3, length=5000)
    add(engine, 2, b"l", 4, NodeType.SYMLINK)
    add(engine, 2, b"e", 5, NodeType.DIRECTORY)
    add(engine, 5, b"deep", 6, length=1 << 30)
    counted = DirStats(2, 5000, 8192 + 2 * 4096, 3)
    assert stats(engine, 2) == engine.read(lambda tx: usage.count_entries(tx, 2)) == counted
    assert engine.read(usage.totals) == usage.recount(engine)


def test_a_missing_row_is_counted_before_it_changes(engine):
    add(engine, ROOT_INODE, b"d", 2, NodeType.DIRECTORY)
    add(engine, 2, b"a", 3, length=5000)
    engine.write(lambda tx: tx.delete(DirStats, 2))
    add(engine, 2, b"b", 4, length=1)
    assert stats(engine, 2) == DirStats(2, 5001, 12288, 2)


def test_a_ledger_writes_each_row_once(engine):
    add(engine, ROOT_INODE, b"f", 2, length=5000)
    attr = engine.read(lambda tx: tree.getattr(tx, 2))

    def body(tx: Transaction) -> int:
        ledger = Ledger()
        for _ in range(3):
            ledger.enter(ROOT_INODE, attr)
            ledger.volume(attr, attr.space, 1)
            ledger.touch(ROOT_INODE, nlink=1)
        ledger.leave(ROOT_INODE, attr)
        ledger.settle(tx, CTX)
        return len(tx.writes)

    # Two counters, one usage row, link count and times of one directory.
    assert engine.write(body) == 5
    assert stats(engine, ROOT_INODE) == DirStats(1, 15_000, 3 * 8192, 3)
    assert engine.read(usage.totals) == Totals(4 * 8192, 4)
    assert engine.read(lambda tx: tx.get(Attr, ROOT_INODE)).nlink == 5


def test_what_cancels_out_is_not_written(engine):
    add(engine, ROOT_INODE, b"f", 2)
    attr = engine.read(lambda tx: tree.getattr(tx, 2))

    def body(tx: Transaction) -> list:
        ledger = Ledger()
        ledger.enter(ROOT_INODE, attr)
        ledger.leave(ROOT_INODE, attr)
        ledger.settle(tx, CTX)
        return tx.writes

    assert engine.write(body) == []


@pytest.mark.parametrize(
    ("limits", "length", "fits"),
    [
        ({"capacity_bytes": 12288}, 8192, True),
        ({"capacity_bytes": 12288}, 8193, False),
        ({"inodes_max": 2}, 1 << 40, True),
    ],
)
def test_growth_stops_at_the_capacity(engine, limits, length, fits):
    ctx = CTX._replace(**limits)
    add(engine, ROOT_INODE, b"d", 2, NodeType.DIRECTORY, ctx=ctx)
    add(engine, 2, b"f", 3, ctx=ctx)
    if fits:
        engine.write(lambda tx: truncate(tx, ctx, 3, length))
    else:
        with pytest.raises(NoSpaceError):
            engine.write(lambda tx: truncate(tx, ctx, 3, length))
    assert engine.read(usage.totals) == usage.recount(engine)


def test_a_volume_over_its_capacity_can_shrink(engine):
    add(engine, ROOT_INODE, b"f", 2, length=1 << 20)
    tight = CTX._replace(capacity_bytes=1, inodes_max=1)
    engine.write(lambda tx: truncate(tx, tight, 2, 4097))
    assert engine.read(usage.totals) == (8192, 1)


def test_totals_are_never_shown_below_zero(engine):
    engine.write(lambda tx: tx.put(Counter("usedSpace", -4096)))
    assert engine.read(usage.totals) == (0, 0)
    engine.write(lambda tx: tx.delete(Counter, "usedSpace"))
    assert engine.read(usage.totals) == (0, 0)


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_subtree_is_summed_page_by_page(engine, monkeypatch, page):
    monkeypatch.setattr(usage, "_PAGE", page)
    add(engine, ROOT_INODE, b"d", 2, NodeType.DIRECTORY)
    for at in range(3):
        add(engine, 2, b"d%d" % at, 10 + at, NodeType.DIRECTORY)
        add(engine, 2, b"f%d" % at, 20 + at, length=5000)
        add(engine, 10 + at, b"deep", 30 + at, NodeType.DIRECTORY)
        add(engine, 30 + at, b"l", 40 + at, NodeType.SYMLINK)
    root = engine.read(lambda tx: tree.getattr(tx, ROOT_INODE))
    found = engine.read(lambda tx: usage.subtree(tx, root))
    assert found == Summary(6, 8, 15_000, 8 * 4096 + 3 * 8192 + 3 * 4096)
    file = engine.read(lambda tx: tree.getattr(tx, 20))
    assert engine.read(lambda tx: usage.subtree(tx, file)) == Summary(1, 0, 5000, 8192)
