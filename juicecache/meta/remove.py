"""Taking names away: unlink, rmdir, the victims of a rename, whole trees.

Law: `take_out` is the only place that decides what becomes of an inode which loses a name:
moved to the trash, one link less, kept for those who have it open, or gone.
"""

from __future__ import annotations

from typing import NamedTuple

from juicecache.errors import DirectoryNotEmptyError, IsDirectoryError, NotDirectoryError
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import check_may_take, check_not_frozen, lock_directories, old_entry
from juicecache.meta.rows import (
    DeletedFile,
    DetachedNode,
    DirQuota,
    DirStats,
    Edge,
    Sustained,
    Symlink,
    Xattr,
)
from juicecache.meta.trash import trash_name
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr, NodeFlag, NodeType, in_trash


class Removed(NamedTuple):
    """An inode that lost a name.

    Attributes
    ----------
    attr
        Its attributes after that; ``nlink`` 0 when no name is left.
    doomed
        A ``DeletedFile`` row was written: its chunks may be dropped now.
    """

    inode: int
    attr: Attr
    doomed: bool


def unlink(tx: Transaction, ctx: Context, parent: int, name: bytes) -> Removed:
    """Take a name from anything but a directory."""
    edge = old_entry(tx, parent, name)
    if edge.type == NodeType.DIRECTORY:
        raise IsDirectoryError(name)
    ledger = Ledger()
    removed = take_out(tx, ctx, ledger, edge)
    ledger.settle(tx, ctx, name)
    return removed


def rmdir(tx: Transaction, ctx: Context, parent: int, name: bytes) -> Removed:
    """Remove an empty directory."""
    edge = old_entry(tx, parent, name)
    if edge.type != NodeType.DIRECTORY:
        raise NotDirectoryError(name)
    ledger = Ledger()
    removed = take_out(tx, ctx, ledger, edge)
    ledger.settle(tx, ctx, name)
    return removed


def remove_below(tx: Transaction, ctx: Context, top: int, *, limit: int) -> list[Removed]:
    """Remove up to ``limit`` entries below directory ``top``, leaves first.

    Called again, each time in a new transaction, until it returns an empty list; ``top``
    itself stays. With ``ctx.trash`` 0 this empties an hourly directory of the trash.
    """
    ledger = Ledger()
    leaves: list[Edge] = []
    # A second link to one inode waits for the next transaction: this one would not see
    # that the first is gone.
    seen: set[int] = set()
    pending = [top]
    while pending and len(leaves) < limit:
        directory = pending.pop()
        (row,) = lock_directories(tx, (directory, b""))
        check_may_take(row, b"")
        for edge in tx.scan(Edge, directory, limit=limit - len(leaves)):
            if edge.type == NodeType.DIRECTORY and tx.exists(Edge, edge.inode):
                pending.append(edge.inode)
            elif edge.inode not in seen:
                seen.add(edge.inode)
                leaves.append(edge)
    removed = [take_out(tx, ctx, ledger, edge) for edge in leaves]
    ledger.settle(tx, ctx)
    return removed


def remove_detached(
    tx: Transaction, ctx: Context, top: int, *, limit: int
) -> tuple[list[Removed], bool]:
    """Remove up to ``limit`` entries of a clone that was never attached, at last its root.

    Returns
    -------
    tuple
        What lost its name, and whether the clone is gone. If not, call again, in a new
        transaction. One that was attached meanwhile is left alone.
    """
    if tx.get(DetachedNode, top, lock=True) is None:
        return [], True
    attr = tx.get(Attr, top, lock=True)
    if attr is not None and attr.is_directory:
        removed = remove_below(tx, ctx, top, limit=limit)
        if removed:
            return removed, False
    tx.delete(DetachedNode, top)
    if attr is None:
        return [], True
    ledger = Ledger()
    tx.delete(DirStats, top)
    gone = _forget(tx, ctx, ledger, attr)
    ledger.settle(tx, ctx)
    return [gone], True


def take_out(tx: Transaction, ctx: Context, ledger: Ledger, edge: Edge) -> Removed:
    """Delete an entry and apply the rules for its inode; the caller checked the directory.

    Raises
    ------
    AccessDeniedError
        The inode is immutable or append-only.
    DirectoryNotEmptyError
        It is a directory with entries.
    """
    found = tx.get(Attr, edge.inode, lock=True)
    # The entry of a lost node can only be taken away; what was never read counts as empty.
    attr = found or Attr(edge.inode, edge.type, parent=edge.parent)
    check_not_frozen(attr, edge.name)
    if edge.type == NodeType.DIRECTORY:
        if tx.exists(Edge, edge.inode):
            raise DirectoryNotEmptyError(edge.name)
        tx.delete(DirStats, edge.inode)
        tx.delete(DirQuota, edge.inode)
    tx.delete(Edge, edge.parent, edge.name)
    ledger.leave(edge.parent, attr)
    if not in_trash(edge.parent):
        ledger.touch(edge.parent, nlink=-1 if edge.type == NodeType.DIRECTORY else 0)
    if found is None:
        return _forget(tx, ctx, ledger, attr)
    kept_as = _place_in_trash(tx, ctx, edge, attr)
    if kept_as is not None:
        parent = ctx.trash if attr.parent else 0
        tx.put_new(kept_as)
        tx.set(Attr, edge.inode, parent=parent, ctime_ns=ctx.now_ns)
        ledger.enter(ctx.trash, attr)
        return Removed(edge.inode, attr._replace(parent=parent, ctime_ns=ctx.now_ns), doomed=False)
    return _drop_link(tx, ctx, ledger, attr)


def bury(tx: Transaction, ledger: Ledger, attr: Attr, now_s: int) -> Removed:
    """Delete an inode that has neither a name nor a user; a file leaves its chunks behind.

    Also the last close of a sustained inode.
    """
    tx.delete(Attr, attr.inode)
    if attr.type == NodeType.SYMLINK:
        tx.delete(Symlink, attr.inode)
    if attr.is_file:
        tx.put(DeletedFile(attr.inode, attr.length, now_s))
    ledger.volume(-attr.space, -1)
    return Removed(attr.inode, attr._replace(nlink=0), doomed=attr.is_file)


def _place_in_trash(tx: Transaction, ctx: Context, edge: Edge, attr: Attr) -> Edge | None:
    """Return the entry that keeps ``attr`` in the trash; None when it is not to be kept."""
    if not ctx.trash or in_trash(edge.parent) or attr.flags & NodeFlag.SKIP_TRASH:
        return None
    name = trash_name(edge.parent, edge.inode, edge.name)
    if not attr.is_directory and attr.nlink > 1 and tx.get(Edge, ctx.trash, name) is not None:
        return None  # a hard link of the same place and name is there already
    return Edge(ctx.trash, name, edge.inode, edge.type)


def _drop_link(tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr) -> Removed:
    if not attr.is_directory and attr.nlink > 1:
        tx.add(Attr, attr.inode, nlink=-1)
        tx.set(Attr, attr.inode, ctime_ns=ctx.now_ns)
        left = attr._replace(nlink=attr.nlink - 1, ctime_ns=ctx.now_ns)
        return Removed(attr.inode, left, doomed=False)
    if attr.is_file and ctx.sid and attr.inode in ctx.opened:
        _drop_xattrs(tx, attr.inode)
        tx.set(Attr, attr.inode, nlink=0, ctime_ns=ctx.now_ns)
        tx.put(Sustained(ctx.sid, attr.inode))
        return Removed(attr.inode, attr._replace(nlink=0, ctime_ns=ctx.now_ns), doomed=False)
    return _forget(tx, ctx, ledger, attr)


def _forget(tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr) -> Removed:
    _drop_xattrs(tx, attr.inode)
    return bury(tx, ledger, attr, ctx.now_ns // 1_000_000_000)


def _drop_xattrs(tx: Transaction, inode: int) -> None:
    for row in tx.scan(Xattr, inode):
        tx.delete(Xattr, inode, row.name)
