"""Rename: one name, or two names exchanged, within a directory or between two.

Law: a directory never moves below itself. The ancestors of its new place are locked while
they are walked, so two moves at once cannot make a loop together.
"""

from __future__ import annotations

import errno
from enum import Enum

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.meta.change_log import note
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import (
    check_may_add,
    check_may_take,
    check_new,
    check_not_frozen,
    check_old,
    lock_directories,
)
from juicecache.meta.limits import quotas_above
from juicecache.meta.remove import Removed, take_out
from juicecache.meta.rows import Edge
from juicecache.meta.usage import Ledger, count_inside
from juicecache.model.attr import ROOT_INODE, Attr, NodeType, in_trash


class RenameMode(Enum):
    """What to do with a target that exists."""

    REPLACE = "replace"
    NOREPLACE = "noreplace"
    EXCHANGE = "exchange"


_FLAGS = {RenameMode.REPLACE: 0, RenameMode.NOREPLACE: 1, RenameMode.EXCHANGE: 2}


def rename(
    tx: Transaction,
    ctx: Context,
    source: tuple[int, bytes],
    target: tuple[int, bytes],
    *,
    mode: RenameMode = RenameMode.REPLACE,
) -> Removed | None:
    """Move entry ``source`` to ``target``, both ``(directory, name)``; return what was replaced.

    Two names of one inode are left as they are. A source in the trash is restored by this.

    Raises
    ------
    EntryExistsError
        The target exists and ``mode`` is NOREPLACE.
    EntryNotFoundError
        No source, or no target to exchange with.
    FileError
        EINVAL: a directory would move below itself.
    """
    check_old(*source)
    check_new(*target)
    if mode is RenameMode.EXCHANGE and in_trash(source[0]):
        raise AccessDeniedError(source[1], "an entry of the trash cannot be exchanged")
    from_directory, to_directory = lock_directories(tx, source, target)
    check_may_take(from_directory, source[1])
    check_may_add(to_directory, target[1])
    edge = tx.get(Edge, *source, lock=True)
    if edge is None:
        raise EntryNotFoundError(source[1])
    if source == target:
        return None
    victim = tx.get(Edge, *target, lock=True)
    if victim is not None and mode is RenameMode.NOREPLACE:
        raise EntryExistsError(target[1])
    if victim is None and mode is RenameMode.EXCHANGE:
        raise EntryNotFoundError(target[1])
    attr = _moving(tx, edge)
    if victim is not None and victim.inode == edge.inode:
        return None
    _check_no_loop(tx, edge, to_directory)
    ledger = Ledger()
    removed = None
    if victim is None:
        tx.put_new(Edge(*target, edge.inode, edge.type))
    else:
        check_may_take(to_directory, target[1])
        if mode is RenameMode.EXCHANGE:
            other = _moving(tx, victim)
            _check_no_loop(tx, victim, from_directory)
            tx.put(Edge(*source, victim.inode, victim.type))
            _move(tx, ctx, ledger, other, target[0], source[0])
        else:
            _check_types(edge, victim)
            removed = take_out(tx, ctx, ledger, victim)
        tx.put(Edge(*target, edge.inode, edge.type))
    if mode is not RenameMode.EXCHANGE:
        tx.delete(Edge, *source)
    _move(tx, ctx, ledger, attr, source[0], target[0])
    trash = 0 if removed is None else removed.trash
    replaced = 0 if victim is None else victim.inode
    values = *source, *target, _FLAGS[mode], replaced, trash
    note(tx, "MOVE", *values, result=edge.inode, now_ns=ctx.now_ns)
    ledger.settle(tx, ctx, target[1])
    return removed


def _moving(tx: Transaction, edge: Edge) -> Attr:
    attr = tx.get(Attr, edge.inode, lock=True)
    if attr is None:
        raise EntryNotFoundError(edge.name, f"inode {edge.inode} does not exist")
    check_not_frozen(attr, edge.name)
    return attr


def _move(
    tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr, source: int, target: int
) -> None:
    """Account for ``attr`` leaving directory ``source`` for ``target``; the entries are done."""
    parent = attr.parent
    nlink = 0
    if source != target:
        nlink = 1 if attr.is_directory else 0
        parent = target if attr.parent else 0  # 0 for ever once it had a second link
        ledger.leave(source, attr)
        ledger.enter(target, attr)
        if attr.is_directory and ctx.quotas:
            _move_below(tx, ctx, ledger, attr.inode, source, target)
    if not in_trash(source):
        ledger.touch(source, nlink=-nlink)
    ledger.touch(target, nlink=nlink)
    tx.set(Attr, attr.inode, parent=parent, ctime_ns=ctx.now_ns)


def _move_below(
    tx: Transaction, ctx: Context, ledger: Ledger, top: int, source: int, target: int
) -> None:
    """Move what is below directory ``top`` from the quotas of one place to those of another."""
    known: dict[int, frozenset[int]] = {}
    before, after = (quotas_above(tx, at, ctx.quotas, known) for at in (source, target))
    if before == after:
        return
    # A quota of its own says what it holds, but official clients add to it seconds late.
    used = count_inside(tx, top, ctx.counted)
    ledger.below(source, -used.space, -used.inodes)
    ledger.below(target, used.space, used.inodes)


def _check_types(edge: Edge, victim: Edge) -> None:
    moves_directory = edge.type == NodeType.DIRECTORY
    hits_directory = victim.type == NodeType.DIRECTORY
    if moves_directory and not hits_directory:
        raise NotDirectoryError(victim.name)
    if hits_directory and not moves_directory:
        raise IsDirectoryError(victim.name)


def _check_no_loop(tx: Transaction, edge: Edge, directory: Attr) -> None:
    if edge.type != NodeType.DIRECTORY or edge.parent == directory.inode:
        return
    above: Attr | None = directory
    seen: set[int] = set()  # a damaged volume may have a loop already
    while above is not None and above.inode != ROOT_INODE and above.inode not in seen:
        if above.inode == edge.inode:
            raise FileError(edge.name, "a directory cannot move below itself", errno=errno.EINVAL)
        seen.add(above.inode)
        above = tx.get(Attr, above.parent, lock=True)
