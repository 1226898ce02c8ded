"""Taking names away: unlink, rmdir, the victims of a rename, whole trees.

Law: `take_out` is the only place that decides what becomes of an inode which loses a name:
moved to the trash, one link less, kept for those who have it open, or gone.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from juicecache.errors import DirectoryNotEmptyError, IsDirectoryError, NotDirectoryError
from juicecache.meta.change_log import note
from juicecache.meta.context import Context, SessionNeededError, TrashNeededError
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
from juicecache.model.attr import TRASH_INODE, Attr, NodeFlag, NodeType, in_trash


class Removed(NamedTuple):
    """An inode that lost a name.

    Attributes
    ----------
    attr
        Its attributes after that; ``nlink`` 0 when no name is left.
    doomed
        A ``DeletedFile`` row was written: its chunks may be dropped now.
    trash
        The hourly directory that keeps the name now; 0 when none does.
    """

    inode: int
    attr: Attr
    doomed: bool
    trash: int = 0


def unlink(tx: Transaction, ctx: Context, parent: int, name: bytes) -> Removed:
    """Take a name from anything but a directory."""
    edge = old_entry(tx, parent, name)
    if edge.type == NodeType.DIRECTORY:
        raise IsDirectoryError(name)
    ledger = Ledger()
    removed = take_out(tx, ctx, ledger, edge)
    _note(tx, ctx, edge, removed)
    ledger.settle(tx, ctx, name)
    return removed


def rmdir(tx: Transaction, ctx: Context, parent: int, name: bytes) -> Removed:
    """Remove an empty directory."""
    edge = old_entry(tx, parent, name)
    if edge.type != NodeType.DIRECTORY:
        raise NotDirectoryError(name)
    ledger = Ledger()
    removed = take_out(tx, ctx, ledger, edge)
    _note(tx, ctx, edge, removed)
    ledger.settle(tx, ctx, name)
    return removed


def remove_below(tx: Transaction, ctx: Context, top: int, *, limit: int) -> list[Removed]:
    """Remove up to ``limit`` entries below directory ``top``, leaves first.

    Called again, each time in a new transaction, until it returns an empty list; ``top``
    itself stays, and so do the hourly directories of the trash. With ``ctx.trash`` 0 this
    empties one of them, or the whole trash.
    """
    ledger = Ledger()
    edges, emptied = _leaves_first(tx, top, limit)
    removed = []
    for edge in edges:
        removed.append(take_out(tx, ctx, ledger, edge, emptied=emptied))
        _note(tx, ctx, edge, removed[-1])
    ledger.settle(tx, ctx)
    return removed


class _Visit:
    """A directory on the way down from the top."""

    __slots__ = ("below", "edge", "goes")

    def __init__(self, edge: Edge | None) -> None:
        self.edge = edge
        self.below: list[Edge] = []
        """Directories in it that have entries, not yet visited."""
        self.goes = edge is not None and edge.parent != TRASH_INODE
        """Whether it can be taken once ``below`` is empty: nothing else is left in it."""


def _leaves_first(tx: Transaction, top: int, limit: int) -> tuple[list[Edge], set[int]]:
    """Return up to ``limit`` entries below ``top``, and the directories that they leave empty."""
    edges: list[Edge] = []
    emptied: set[int] = set()
    # A second link to one inode waits for the next transaction: this one would not see
    # that the first is gone.
    seen: set[int] = set()
    path = [_Visit(None)]
    _look_into(tx, path[0], top, edges, seen, limit)
    while path and len(edges) < limit:
        visit = path[-1]
        if visit.below:
            edge = visit.below.pop()
            path.append(_Visit(edge))
            _look_into(tx, path[-1], edge.inode, edges, seen, limit)
            continue
        path.pop()
        if visit.edge is not None and visit.goes:
            edges.append(visit.edge)
            emptied.add(visit.edge.inode)
        elif path:
            path[-1].goes = False
    return edges, emptied


def _look_into(
    tx: Transaction, visit: _Visit, directory: int, edges: list[Edge], seen: set[int], limit: int
) -> None:
    """Sort the entries of a directory into those to take and those to visit before."""
    (row,) = lock_directories(tx, (directory, b""))
    check_may_take(row, b"")
    is_trash = directory == TRASH_INODE
    # Hours stay, so that a bound would hide those behind it: there is one for each hour kept.
    room = None if is_trash else limit - len(edges)
    entries = tx.scan(Edge, directory, limit=None if room is None else room + 1)
    for number, edge in enumerate(entries):
        if number == room:
            visit.goes = False
        elif edge.type == NodeType.DIRECTORY and tx.exists(Edge, edge.inode):
            visit.below.append(edge)
        elif is_trash or edge.inode in seen:
            visit.goes = False
        else:
            seen.add(edge.inode)
            edges.append(edge)


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
    ctx = ctx._replace(quotas=frozenset())  # they count a clone once it is attached
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
    note(tx, "CLEANUP", top, now_ns=ctx.now_ns)
    ledger.settle(tx, ctx)
    return [gone], True


def take_out(
    tx: Transaction,
    ctx: Context,
    ledger: Ledger,
    edge: Edge,
    *,
    emptied: Container[int] = frozenset(),
) -> Removed:
    """Delete an entry and apply the rules for its inode; the caller checked the directory.

    Parameters
    ----------
    emptied
        Directories that lose all their entries in this transaction, which does not see it.

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
        if edge.inode not in emptied and tx.exists(Edge, edge.inode):
            raise DirectoryNotEmptyError(edge.name)
        ledger.forget(edge.inode, usage_only=True)
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
        left = attr._replace(parent=parent, ctime_ns=ctx.now_ns)
        return Removed(edge.inode, left, doomed=False, trash=ctx.trash)
    return _drop_link(tx, ctx, ledger, attr)


def _note(tx: Transaction, ctx: Context, edge: Edge, removed: Removed) -> None:
    """Note a removal in the change log, where there is one."""
    values: tuple[int | bytes, ...] = edge.parent, edge.name, removed.trash
    operation = "RMDIR"
    if edge.type != NodeType.DIRECTORY:
        is_held = edge.type == NodeType.FILE and not removed.attr.nlink and not removed.doomed
        operation, values = "UNLINK", (*values, is_held, not in_trash(edge.parent))
    note(tx, operation, *values, result=edge.inode, now_ns=ctx.now_ns)


def bury(tx: Transaction, ledger: Ledger, attr: Attr, now_s: int) -> Removed:
    """Delete an inode that has neither a name nor a user; a file leaves its chunks behind.

    Also the last close of a sustained inode.
    """
    tx.delete(Attr, attr.inode)
    if attr.type == NodeType.SYMLINK:
        tx.delete(Symlink, attr.inode)
    if attr.is_file:
        tx.put(DeletedFile(attr.inode, attr.length, now_s))
    ledger.volume(attr, -attr.space, -1)
    ledger.forget(attr.inode)
    return Removed(attr.inode, attr._replace(nlink=0), doomed=attr.is_file)


def _place_in_trash(tx: Transaction, ctx: Context, edge: Edge, attr: Attr) -> Edge | None:
    """Return the entry that keeps ``attr`` in the trash; None when it is not to be kept."""
    if not ctx.trash or in_trash(edge.parent) or attr.flags & NodeFlag.SKIP_TRASH:
        return None
    name = trash_name(edge.parent, edge.inode, edge.name)
    if not attr.is_directory and attr.nlink > 1 and tx.get(Edge, ctx.trash, name) is not None:
        return None  # a hard link of the same place and name is there already
    if ctx.trash < 0 or tx.get(Attr, ctx.trash, lock=True) is None:
        # An entry of a directory without a node could never be found again.
        raise TrashNeededError
    return Edge(ctx.trash, name, edge.inode, edge.type)


def _drop_link(tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr) -> Removed:
    if not attr.is_directory and attr.nlink > 1:
        tx.add(Attr, attr.inode, nlink=-1)
        tx.set(Attr, attr.inode, ctime_ns=ctx.now_ns)
        left = attr._replace(nlink=attr.nlink - 1, ctime_ns=ctx.now_ns)
        return Removed(attr.inode, left, doomed=False)
    if attr.is_file and attr.inode in ctx.opened:
        if not ctx.sid:
            raise SessionNeededError
        tx.clear(Xattr, attr.inode)
        tx.set(Attr, attr.inode, nlink=0, ctime_ns=ctx.now_ns)
        tx.put(Sustained(ctx.sid, attr.inode))
        return Removed(attr.inode, attr._replace(nlink=0, ctime_ns=ctx.now_ns), doomed=False)
    return _forget(tx, ctx, ledger, attr)


def _forget(tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr) -> Removed:
    tx.clear(Xattr, attr.inode)
    return bury(tx, ledger, attr, ctx.now_ns // 1_000_000_000)
