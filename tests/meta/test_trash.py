"""Hourly directories: made once an hour, expired, dropped."""

from __future__ import annotations

import pytest

from juicecache.errors import DirectoryNotEmptyError, EntryNotFoundError
from juicecache.meta import tree, usage
from juicecache.meta.context import Context
from juicecache.meta.remove import remove_below, unlink
from juicecache.meta.rows import Counter, DirStats, Edge
from juicecache.meta.trash import (
    drop_hour,
    expired_hours,
    hour_name,
    hourly_directory,
    hours,
    trash_name,
)
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeType

HOUR = 3600 * 10**9
NOW = 1_795_468_004_559_895_394
CTX = Context(NOW, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)


def make(engine, ctx=CTX) -> int:
    return engine.write(lambda tx: hourly_directory(tx, ctx))


def at(hours_later: int) -> Context:
    return CTX._replace(now_ns=NOW + hours_later * HOUR)


def test_names():
    assert hour_name(NOW) == b"2026-11-23-21"
    assert trash_name(1, 129, b"a.txt") == b"1-129-a.txt"
    assert len(trash_name(1, 129, b"x" * 255)) == 255


def test_one_directory_an_hour(engine):
    inode = make(engine)
    assert inode == TRASH_INODE + 1
    assert make(engine) == inode
    assert make(engine, at(1)) == TRASH_INODE + 2
    attr = engine.read(lambda tx: tx.get(Attr, inode))
    assert attr[1:6] == (NodeType.DIRECTORY, 0, 0o555, 0, 0)
    assert (attr.nlink, attr.length, attr.parent, attr.mtime_ns) == (2, 4096, TRASH_INODE, NOW)
    edge = Edge(TRASH_INODE, b"2026-11-23-21", inode, NodeType.DIRECTORY)
    assert engine.read(lambda tx: tx.get(Edge, TRASH_INODE, edge.name)) == edge
    assert engine.read(lambda tx: tx.get(DirStats, inode)) == DirStats(inode, 0, 0, 0)
    assert engine.read(usage.totals) == usage.recount(engine) == (8192, 2)
    assert engine.read(lambda tx: tx.get(Counter, "nextTrash")) == Counter("nextTrash", 2)
    assert engine.read(lambda tx: tx.get(Attr, TRASH_INODE)).nlink == 2


def test_a_trash_that_is_switched_on_later_gets_its_root(engine):
    engine.write(lambda tx: tx.delete(Attr, TRASH_INODE))
    make(engine)
    assert engine.read(lambda tx: tx.get(Attr, TRASH_INODE)).mode == 0o555


def test_a_full_volume_can_still_remove(engine):
    assert make(engine, CTX._replace(capacity_bytes=1, inodes_max=1)) > TRASH_INODE


def test_hours_are_listed_oldest_first_without_strangers(engine):
    for later in (2, 0, 1):
        make(engine, at(later))
    engine.write(lambda tx: tx.put(Edge(TRASH_INODE, b"stranger", 99, NodeType.DIRECTORY)))
    found = engine.read(lambda tx: list(hours(tx)))
    assert [edge.name[-2:] for _, edge in found] == [b"21", b"22", b"23"]
    assert found[0][0] == NOW // HOUR * HOUR


def test_an_hour_expires_after_its_days_and_a_grace(engine):
    make(engine)
    began = NOW // HOUR * HOUR

    def expired(hours_later: int, days: int) -> int:
        now_ns = began + hours_later * HOUR + 1
        return len(engine.read(lambda tx: expired_hours(tx, now_ns, days)))

    assert (expired(25, 1), expired(26, 1)) == (0, 1)
    assert (expired(1, 0), expired(2, 0)) == (0, 1)


def test_an_old_empty_hour_is_dropped_with_its_rows(engine):
    inode = make(engine)
    name = hour_name(NOW)
    assert not engine.write(lambda tx: drop_hour(tx, at(1), name))
    assert engine.write(lambda tx: drop_hour(tx, at(3), name))
    for table, key in ((Attr, (inode,)), (DirStats, (inode,)), (Edge, (TRASH_INODE, name))):
        assert engine.read(lambda tx, table=table, key=key: tx.get(table, *key)) is None
    assert engine.read(usage.totals) == (0, 0)
    with pytest.raises(EntryNotFoundError):
        engine.write(lambda tx: drop_hour(tx, at(3), name))


def test_an_hour_with_entries_stays_until_it_is_emptied(engine):
    ctx = CTX._replace(trash=make(engine))
    new = NewNode(2, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"f", new))
    engine.write(lambda tx: unlink(tx, ctx, ROOT_INODE, b"f"))
    with pytest.raises(DirectoryNotEmptyError):
        engine.write(lambda tx: drop_hour(tx, at(3), hour_name(NOW)))
    (removed,) = engine.write(lambda tx: remove_below(tx, at(3), ctx.trash, limit=10))
    assert removed.doomed
    assert engine.write(lambda tx: drop_hour(tx, at(3), hour_name(NOW)))
    assert engine.read(usage.totals) == usage.recount(engine) == (0, 0)
