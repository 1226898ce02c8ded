"""Moving records of sparse slices to a new one: the commit of `volume.repacking`.

Law: a list is changed only while it begins with what was read, so nobody's append is lost; times
and lengths stay, since the content is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from juicecache.meta.compaction import drop_or_delay
from juicecache.meta.context import Context
from juicecache.meta.dropping import SliceKey
from juicecache.meta.engine import Transaction, Want
from juicecache.meta.rows import Chunk, SliceRef
from juicecache.model.slices import RECORD_BYTES, refs_of


class Move(NamedTuple):
    """A slice list, and what takes its place: as many records, some of them of the new slice."""

    inode: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    before: bytes
    after: bytes


def commit_moves(
    tx: Transaction,
    ctx: Context,
    moves: Sequence[Move],
    new: SliceKey,
    number: int,
    *,
    fresh: bool,
    trash_days: int,
) -> tuple[int, list[SliceKey]]:
    """Let lists point at a new slice where they pointed at others.

    Parameters
    ----------
    new
        The slice, whose objects are stored.
    number
        A slice id that was never used: what the delayed row is called.
    fresh
        Whether the new slice has no reference yet.

    Returns
    -------
    tuple
        How many lists were changed: those that others changed in front stay. And the slices that
        die with this commit.
    """
    tx.expect(*(Want(Chunk, (move.inode, move.index), lock=True) for move in sorted(moves)))
    count, references, replaced = 0, 0, b""
    for move in sorted(moves):
        row = tx.get(Chunk, move.inode, move.index, lock=True)
        if row is None or not row.slices.startswith(move.before):
            continue
        slices = move.after + row.slices[len(move.before) :]
        tx.set(Chunk, move.inode, move.index, slices=slices)
        count += 1
        references += refs_of(move.after).get(new, 0)
        replaced += _replaced(move)
    if not references:
        return 0, []
    if fresh:
        tx.put_new(SliceRef(*new, references))
    else:
        tx.add_refs(*new, references, alive=True)
    return count, drop_or_delay(tx, ctx, replaced, number, trash_days=trash_days)


def _replaced(move: Move) -> bytes:
    """Return the records that are not there any more."""
    pairs = (
        (move.before[at : at + RECORD_BYTES], move.after[at : at + RECORD_BYTES])
        for at in range(0, len(move.before), RECORD_BYTES)
    )
    return b"".join(old for old, new in pairs if old != new)
