"""Dropping what nothing points at any more: chunks of removed files, dead slices.

Objects are deleted by the floors above, between two transactions. Laws:

* The order is: references down, objects deleted, reference row forgotten. A crash in
  between leaves a row with ``refs <= 0`` that `dead_slices` finds.
* A slice is dead once a committed row says ``refs <= 0``; a dead slice is never revived.
* Listings are bounded and need no lock; what acts on them looks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from juicecache.meta.change_log import note
from juicecache.meta.engine import Transaction, Want
from juicecache.meta.rows import Chunk, DeletedFile, DetachedNode, SliceRef
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import refs_of

SliceKey: TypeAlias = tuple[int, int]
"""(slice id, size): what names the objects of a slice."""


def drop_chunks(
    tx: Transaction, inodes: Sequence[int], *, limit: int
) -> tuple[list[SliceKey], list[int]]:
    """Drop up to ``limit`` chunks of removed files.

    Returns
    -------
    tuple
        The slices that die with this commit, whose objects may be deleted after it; and
        the files that still have chunks, or that there was no room for.
    """
    ordered = sorted(set(inodes))
    tx.expect(*(Want(DeletedFile, (inode,), lock=True) for inode in ordered))
    # The row is the leave to drop: a chunk must never go while its node lives.
    rows = [tx.get(DeletedFile, inode, lock=True) for inode in ordered]
    files = [row for row in rows if row is not None]
    taken = _fitting(files, limit)
    found: list[list[Chunk]]
    if len(taken) == 1:  # it may have any number of chunks
        found = [list(tx.scan(Chunk, taken[0], limit=limit + 1))]
    else:
        found = tx.scan_each(Chunk, taken)
    keys: list[tuple[int, int]] = []
    left = [row.inode for row in files[len(taken) :]]
    for inode, chunks in zip(taken, found, strict=True):
        room = limit - len(keys)
        keys += [(inode, chunk.index) for chunk in chunks[:room]]
        if len(chunks) > room:
            left.append(inode)
        else:
            # Dead slices have rows of their own until their objects are gone.
            tx.delete(DeletedFile, inode)
    tx.expect(*(Want(Chunk, key, lock=True) for key in keys))
    records = []
    for inode, index in keys:
        chunk = tx.get(Chunk, inode, index, lock=True)
        if chunk is not None:
            records.append(chunk.slices)
            tx.delete(Chunk, inode, index)
            note(tx, "DELCHUNK", inode, index)
    return drop_references(tx, refs_of(b"".join(records))), left


def _fitting(files: Sequence[DeletedFile], limit: int) -> list[int]:
    """Return the first of the files, as many as have some ``limit`` chunks together."""
    taken: list[int] = []
    count = 0
    for row in files:
        count += max(1, -(-row.length // CHUNK_BYTES))
        if taken and count > limit:
            break
        taken.append(row.inode)
    return taken


def drop_references(tx: Transaction, counts: Mapping[SliceKey, int]) -> list[SliceKey]:
    """Lower reference counts; return the slices that die with this commit.

    A slice without a row is left alone: nothing tells who else points at it.
    """
    dead = []
    tx.expect(*(Want(SliceRef, key, lock=True) for key in sorted(counts)))
    # In ascending order, so that two clients that drop the same slices do not deadlock.
    for (slice_id, size), count in sorted(counts.items()):
        row = reference(tx, slice_id, size)
        if row is not None:
            tx.add_refs(slice_id, size, -count, alive=False)
            if row.refs <= count:
                dead.append((slice_id, size))
    return dead


def reference(tx: Transaction, slice_id: int, size: int) -> SliceRef | None:
    """Return how often a slice that some record names is referenced; None where nothing tells."""
    row = tx.get(SliceRef, slice_id, size, lock=True)
    return SliceRef(slice_id, size, 1) if row is None and tx.implies_references else row


def dead_slices(rows: Iterable[SliceRef]) -> list[SliceKey]:
    """Return the dead slices among rows."""
    return [(row.slice_id, row.size) for row in rows if row.refs <= 0]


def forget_slices(tx: Transaction, slices: Iterable[SliceKey]) -> None:
    """Delete the rows of dead slices whose objects are gone. Safe to repeat."""
    keys = sorted(slices)
    tx.expect(*(Want(SliceRef, key, lock=True) for key in keys))
    for slice_id, size in keys:
        row = tx.get(SliceRef, slice_id, size, lock=True)
        if row is not None and row.refs <= 0:
            tx.delete(SliceRef, slice_id, size)
            note(tx, "DELETESLICE", slice_id, size)


def claim_orphans(tx: Transaction, slices: Iterable[SliceKey]) -> list[SliceKey]:
    """Mark slices that no row mentions as dead, before their objects are deleted.

    The mark makes a commit that comes too late fail, instead of pointing at objects that are
    gone; `forget_slices` takes it away. Returns the slices that are still without a row.
    """
    claimed = []
    keys = sorted(slices)
    tx.expect(*(Want(SliceRef, key, lock=True) for key in keys))
    for slice_id, size in keys:
        if tx.get(SliceRef, slice_id, size, lock=True) is None:
            tx.put_new(SliceRef(slice_id, size, 0))
            claimed.append((slice_id, size))
    return claimed


def detached_nodes(tx: Transaction, before_s: int, *, after: int = 0, limit: int) -> list[int]:
    """Return roots behind ``after`` of clones begun before ``before_s`` and never attached."""
    rows = tx.scan(DetachedNode, after=(after,))
    return list(islice((row.inode for row in rows if row.added_s < before_s), limit))
