"""Compaction: many records of one chunk become one slice with the same bytes.

The plan is ``model.slices.plan_compaction``, the bytes are moved by the floor above; here
the list is swapped. Laws:

* Only the records that were read are replaced, and only while the list still begins with
  them: what others appended meanwhile stays behind the new record.
* While the trash is on, replaced slices keep their references in a delayed row, so that
  clients that still read an old list find the objects. Content, length and times are those
  of before: nothing tells readers, and nothing has to.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable

from juicecache.meta.change_log import note
from juicecache.meta.context import Context
from juicecache.meta.dropping import SliceKey, drop_references
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.rows import Chunk, DelayedSlices, SliceRef
from juicecache.meta.tally import SliceTally
from juicecache.model.slices import RECORD_BYTES, CompactionPlan, SliceRecord, refs_of

_PAGE = 1000
"""Rows that are read and counted at a time."""
_ENTRY = struct.Struct(">QI")
"""One replaced record in a delayed row: slice id, size."""


def commit_compaction(
    tx: Transaction,
    ctx: Context,
    inode: int,
    index: int,
    before: bytes,
    plan: CompactionPlan,
    new_slice_id: int,
    *,
    trash_days: int,
) -> list[SliceKey] | None:
    """Replace the records that ``plan`` merged by one record of the new, stored slice.

    Parameters
    ----------
    before
        The list that the plan was made from.
    trash_days
        With 0 the replaced references are dropped now, else when the delayed row expires.

    Returns
    -------
    list or None
        The slices that die with this commit. None: the list has changed in front, nothing
        was written, and the caller should `abandon_slice` the new one.
    """
    merged = before[: (plan.skipped + plan.taken) * RECORD_BYTES]
    row = tx.get(Chunk, inode, index, lock=True)
    if row is None or not row.slices.startswith(merged):
        return None
    kept = plan.skipped * RECORD_BYTES
    record = SliceRecord(plan.pos, new_slice_id, plan.length, 0, plan.length)
    slices = merged[:kept] + record.pack() + row.slices[len(merged) :]
    tx.set(Chunk, inode, index, slices=slices)
    tx.put_new(SliceRef(new_slice_id, plan.length, 1))
    merging = plan.skipped, plan.taken, plan.pos, new_slice_id, plan.length
    note(tx, "COMPACTCHUNK", inode, index, *merging, now_ns=ctx.now_ns)
    return drop_or_delay(tx, ctx, merged[kept:], new_slice_id, trash_days=trash_days)


def drop_covered(
    tx: Transaction,
    ctx: Context,
    inode: int,
    index: int,
    covered: bytes,
    number: int,
    *,
    trash_days: int,
) -> list[SliceKey] | None:
    """Take leading records of which nothing can be seen out of a list.

    Parameters
    ----------
    covered
        The records, as they were read.
    number
        A slice id that was never used: what the delayed row is called.

    Returns
    -------
    list or None
        The slices that die with this commit; None: the list has changed in front.
    """
    row = tx.get(Chunk, inode, index, lock=True)
    if row is None or not row.slices.startswith(covered):
        return None
    tx.set(Chunk, inode, index, slices=row.slices[len(covered) :])
    return drop_or_delay(tx, ctx, covered, number, trash_days=trash_days)


def drop_or_delay(
    tx: Transaction, ctx: Context, replaced: bytes, number: int, *, trash_days: int
) -> list[SliceKey]:
    """Drop the references of records now, or leave them to the delayed row ``number``."""
    counts = refs_of(replaced)
    if trash_days == 0:
        return drop_references(tx, counts)
    if counts:
        entries = b"".join(_ENTRY.pack(*key) * count for key, count in counts.items())
        tx.put_new(DelayedSlices(number, ctx.now_ns // 1_000_000_000, entries))
    return []


def abandon_slice(tx: Transaction, slice_id: int, size: int) -> None:
    """Record a slice that was stored and not committed as dead, before its objects go.

    Should deleting them fail, `dropping.dead_slices` finds it. Never of a slice that may have
    been committed: no row tells that one everywhere.
    """
    if tx.get(SliceRef, slice_id, size, lock=True) is None:
        tx.put_new(SliceRef(slice_id, size, 0))


def expired_delayed(rows: Iterable[DelayedSlices], before_s: float) -> list[int]:
    """Return the ids, among rows, of those older than ``before_s``."""
    return [row.slice_id for row in rows if row.deleted_s < before_s]


def drop_delayed(tx: Transaction, slice_id: int) -> list[SliceKey]:
    """Drop a delayed row and the references it held; return the slices that die with it."""
    row = tx.get(DelayedSlices, slice_id, lock=True)
    if row is None:
        return []
    tx.delete(DelayedSlices, slice_id)
    note(tx, "CLEANUP_DELAYED_SLICES", slice_id, row.deleted_s)
    return drop_references(tx, Counter(entries_of(row.slices)))


def count_records(engine: Engine, tally: SliceTally) -> None:
    """Count how many records and delayed entries point at each slice: what references must be.

    Nobody should write meanwhile: what moves is counted twice, or not at all.
    """
    for chunks in engine.sweep(Chunk, page=_PAGE):
        tally.add(refs_of(b"".join(chunk.slices for chunk in chunks)))
    for rows in engine.sweep(DelayedSlices, page=_PAGE):
        for row in rows:
            tally.add(Counter(entries_of(row.slices)))


def entries_of(delayed: bytes) -> list[SliceKey]:
    """Return the slices of a delayed row, one for each reference that it holds."""
    return [(slice_id, size) for slice_id, size in _ENTRY.iter_unpack(delayed)]
