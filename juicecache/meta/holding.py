"""Keeping stored slices referenced before the files that they are for are committed.

Collectors of every client delete objects that nothing points at once they are an hour old.
A batch that takes longer lets a file without a name, open in our session, point at what it
has stored; the commit of the batch then adds references of its own, and the file goes.

Law: such a file is an ordinary sustained inode, so whoever cleans up after a dead client
removes it, and with it what was never committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from juicecache.meta.chunks import NewSlice, count_references
from juicecache.meta.context import Context, Used
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Chunk, Sustained
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord


class Hold(NamedTuple):
    """A file without a name that keeps slices referenced, and what the volume counts for it."""

    inode: int
    space: int


def with_room_for(ctx: Context, held: Sequence[Hold]) -> Context:
    """Return limits under which what is held already does not count once more."""
    space = sum(one.space for one in held)
    return ctx._replace(
        capacity_bytes=ctx.capacity_bytes and ctx.capacity_bytes + space,
        inodes_max=ctx.inodes_max and ctx.inodes_max + len(held),
        held=Used(space, len(held)),
    )


def hold_slices(
    tx: Transaction, ctx: Context, sid: int, inode: int, slices: Sequence[SliceRecord]
) -> Hold:
    """Make a file without a name, sustained by session ``sid``, of stored slices.

    The volume and we count it as any file that was removed while open, also beyond their
    limits: what it holds is there in any case.

    Parameters
    ----------
    slices
        Whole slices that have no reference yet, one for each chunk of the file.
    """
    records = [SliceRecord(0, piece.slice_id, piece.size, 0, piece.size) for piece in slices]
    attr = Attr(
        inode,
        NodeType.FILE,
        mode=0,
        uid=ctx.uid,
        gid=ctx.gid,
        nlink=0,
        length=(len(records) - 1) * CHUNK_BYTES + records[-1].length,
        atime_ns=ctx.now_ns,
        mtime_ns=ctx.now_ns,
        ctime_ns=ctx.now_ns,
    )
    tx.put_new(attr)
    tx.put_new(Sustained(sid, inode))
    for index, record in enumerate(records):
        tx.put_new(Chunk(inode, index, record.pack()))
    count_references(tx, [NewSlice(index, record) for index, record in enumerate(records)])
    ledger = Ledger()
    ledger.volume(attr, attr.space, 1)
    ledger.settle(tx, ctx, limited=False)
    return Hold(inode, attr.space)
