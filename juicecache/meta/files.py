"""Whole files: made, or given new content, in the one transaction that commits their slices."""

from __future__ import annotations

from collections.abc import Sequence

from juicecache.errors import EntryExistsError, IsDirectoryError
from juicecache.meta.chunks import NewSlice, commit_slices, count_references, end_of, grouped
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import add_node, check_not_in_trash, new_entry
from juicecache.meta.rows import Chunk
from juicecache.meta.tree import NewNode, lookup, new_attr, resolve
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr, NodeType


def commit_file(
    tx: Transaction,
    ctx: Context,
    names: Sequence[bytes],
    inode: int,
    slices: Sequence[NewSlice],
    mtime_ns: int,
    *,
    mode: int = 0o666,
    exclusive: bool = False,
) -> Attr:
    """Make the path ``names`` a file of exactly these slices.

    An existing file keeps its inode, names and mode, and is seen either with the old
    content or with the new; a symbolic link is followed.

    Parameters
    ----------
    inode
        A number for the file where it is new, with ``mode`` before the umask.
    exclusive
        Refuse a name that is taken.

    Raises
    ------
    EntryExistsError, IsDirectoryError
        The name is taken and ``exclusive``, or by a directory.
    EntryNotFoundError, NotDirectoryError
        The directory of the file is missing, or is none.
    NoSpaceError, AccessDeniedError
        As in ``chunks.commit_slices``.
    """
    parent = resolve(tx, names[:-1])
    there = lookup(tx, parent.inode, names[-1]) if parent.is_directory else None
    if there is None:
        return _new_file(tx, ctx, parent.inode, names[-1], inode, slices, mtime_ns, mode)
    if exclusive:
        raise EntryExistsError(names[-1])
    if there.type == NodeType.SYMLINK:
        there = resolve(tx, names)
    if there.is_directory:
        raise IsDirectoryError(names[-1])
    check_not_in_trash(there)
    if not slices and not there.length:
        # An empty file made empty again is still written to: its times move.
        tx.set(Attr, there.inode, mtime_ns=mtime_ns, ctime_ns=ctx.now_ns)
        return there._replace(mtime_ns=mtime_ns, ctime_ns=ctx.now_ns)
    return commit_slices(tx, ctx, there.inode, slices, mtime_ns, truncate_to=0)


def _new_file(
    tx: Transaction,
    ctx: Context,
    parent: int,
    name: bytes,
    inode: int,
    slices: Sequence[NewSlice],
    mtime_ns: int,
    mode: int,
) -> Attr:
    directory = new_entry(tx, parent, name)
    attr = new_attr(ctx, directory, NewNode(inode, NodeType.FILE, mode))._replace(
        length=end_of(slices), mtime_ns=mtime_ns
    )
    ledger = Ledger()
    add_node(tx, ledger, name, attr)
    for index, records in grouped(slices).items():
        tx.put_new(Chunk(inode, index, b"".join(record.pack() for record in records)))
    count_references(tx, slices)
    ledger.settle(tx, ctx, name)
    return attr
