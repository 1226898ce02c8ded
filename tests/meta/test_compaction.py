"""Swapping a merged list, with and without trash, and the delayed rows it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.meta import tree
from juicecache.meta.chunks import NewSlice, commit_slices, read_chunk, truncate
from juicecache.meta.compaction import (
    abandon_slice,
    commit_compaction,
    drop_delayed,
    expired_delayed,
)
from juicecache.meta.context import Context
from juicecache.meta.dropping import SliceKey, reference
from juicecache.meta.engine import Engine
from juicecache.meta.rows import Chunk, DelayedSlices
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.model.slices import SliceRecord, plan_compaction
from juicecache.testing.engines import KINDS, fresh_engine
from juicecache.testing.machines import references

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
NOW_S = 10**6
FILE, NEW_ID = 2, 50


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = fresh_engine(request.param, tmp_path)
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    new = NewNode(FILE, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"file", new))
    yield engine
    engine.close()


def write(engine: Engine, slice_id: int, size: int, *, pos: int = 0) -> None:
    new = [NewSlice(0, SliceRecord(pos, slice_id, size, 0, size))]
    engine.write(lambda tx: commit_slices(tx, CTX, FILE, new, CTX.now_ns))


def records(engine: Engine) -> bytes:
    return engine.read(lambda tx: read_chunk(tx, FILE, 0))


def compact(engine: Engine, before: bytes, *, trash_days: int = 0) -> list[SliceKey] | None:
    plan = plan_compaction(before)
    assert plan is not None
    return engine.write(
        lambda tx: commit_compaction(tx, CTX, FILE, 0, before, plan, NEW_ID, trash_days=trash_days)
    )


def test_merged_records_become_one_and_their_slices_die(engine):
    write(engine, 5, 10_000)
    write(engine, 6, 100, pos=4000)
    engine.write(lambda tx: truncate(tx, CTX, FILE, 9000))
    engine.write(lambda tx: truncate(tx, CTX, FILE, 9500))
    node = engine.read(lambda tx: tx.get(Attr, FILE))
    assert compact(engine, records(engine)) == [(5, 10_000), (6, 100)]
    assert records(engine) == SliceRecord(0, NEW_ID, 9000, 0, 9000).pack()
    assert references(engine) == {(5, 10_000): 0, (6, 100): 0, (NEW_ID, 9000): 1}
    assert engine.read(lambda tx: tx.get(Attr, FILE)) == node


def test_with_trash_the_replaced_slices_are_delayed(engine):
    write(engine, 5, 100)
    write(engine, 6, 50)
    engine.write(lambda tx: truncate(tx, CTX, FILE, 40))
    assert compact(engine, records(engine), trash_days=1) == []
    assert references(engine) == {(5, 100): 1, (6, 50): 1, (NEW_ID, 40): 1}
    row = engine.read(lambda tx: tx.get(DelayedSlices, NEW_ID))
    entries = bytes.fromhex("0000000000000005 00000064 0000000000000006 00000032")
    assert row == DelayedSlices(NEW_ID, NOW_S, entries)


def test_a_delayed_row_expires_with_its_references(engine):
    write(engine, 5, 100)
    write(engine, 6, 50)
    engine.write(lambda tx: tx.add_refs(6, 50, 2, alive=True))
    compact(engine, records(engine), trash_days=1)
    rows = engine.read(lambda tx: list(tx.scan(DelayedSlices)))
    assert expired_delayed(rows, NOW_S) == []
    assert expired_delayed(rows, NOW_S + 1) == [NEW_ID]
    assert engine.write(lambda tx: drop_delayed(tx, NEW_ID)) == [(5, 100)]
    assert references(engine) == {(5, 100): 0, (6, 50): 2, (NEW_ID, 100): 1}
    assert engine.write(lambda tx: drop_delayed(tx, NEW_ID)) == []
    assert references(engine)[5, 100] == 0


def test_a_slice_listed_twice_drops_two_references(engine):
    write(engine, 5, 100)
    again = [NewSlice(0, SliceRecord(200, 5, 100, 0, 100), fresh=False)]
    engine.write(lambda tx: commit_slices(tx, CTX, FILE, again, CTX.now_ns))
    compact(engine, records(engine), trash_days=1)
    row = engine.read(lambda tx: tx.get(DelayedSlices, NEW_ID))
    assert row is not None
    assert row.slices == bytes.fromhex("000000000000000500000064") * 2
    assert engine.write(lambda tx: drop_delayed(tx, NEW_ID)) == [(5, 100)]


def test_records_appended_meanwhile_stay_behind(engine):
    write(engine, 5, 100)
    write(engine, 6, 50)
    before = records(engine)
    write(engine, 7, 10)
    assert compact(engine, before) == [(5, 100), (6, 50)]
    assert records(engine) == (
        SliceRecord(0, NEW_ID, 100, 0, 100).pack() + SliceRecord(0, 7, 10, 0, 10).pack()
    )


def test_a_big_slice_in_front_is_kept(engine):
    write(engine, 5, 4 << 20)
    write(engine, 6, 100, pos=4 << 20)
    write(engine, 7, 100, pos=(4 << 20) + 100)
    assert compact(engine, records(engine)) == [(6, 100), (7, 100)]
    assert records(engine) == (
        SliceRecord(0, 5, 4 << 20, 0, 4 << 20).pack()
        + SliceRecord(4 << 20, NEW_ID, 200, 0, 200).pack()
    )
    assert references(engine)[5, 4 << 20] == 1


def test_a_list_that_changed_in_front_is_left_alone(engine):
    write(engine, 5, 100)
    write(engine, 6, 50)
    before = records(engine)
    other = SliceRecord(0, 9, 100, 0, 100).pack()
    engine.write(lambda tx: tx.put(Chunk(FILE, 0, other)))
    assert compact(engine, before) is None
    engine.write(lambda tx: tx.delete(Chunk, FILE, 0))
    assert compact(engine, before) is None
    for key in ((5, 100), (6, 50)):
        left = engine.write(lambda tx, key=key: reference(tx, *key))
        assert left is not None
        assert left.refs == 1


def test_holes_alone_become_one_byte_and_delay_nothing(engine):
    engine.write(lambda tx: truncate(tx, CTX, FILE, 100))
    engine.write(lambda tx: truncate(tx, CTX, FILE, 50))
    assert compact(engine, records(engine), trash_days=1) == []
    (record,) = SliceRecord.unpack_all(records(engine))
    assert (record.slice_id, record.size, record.length) == (NEW_ID, 1, 1)
    assert engine.read(lambda tx: list(tx.scan(DelayedSlices))) == []


def test_an_abandoned_slice_is_dead(engine):
    write(engine, 5, 100)
    engine.write(lambda tx: abandon_slice(tx, 6, 100))
    assert references(engine) == {(5, 100): 1, (6, 100): 0}
