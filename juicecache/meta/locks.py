"""Locks of files between all clients of a volume: BSD locks (flock) and POSIX record locks.

An owner is a session and a number of 64 bits that its client chose. Laws:

* A lock is granted or refused at once; to wait is to ask again, by the floor above.
* The rows of an inode are changed with the inode locked, so that two clients never both get what
  only one may have.
* Locks end with their session, whoever ends it; without one nobody would clean them up.

Facts of the format: ``docs/format.md``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from juicecache.errors import EntryNotFoundError
from juicecache.meta.change_log import note
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Flock, Plock
from juicecache.model.attr import Attr

END_MAX = 0x7FFF_FFFF_FFFF_FFFF
"""The last byte of a lock that reaches to the end of the file, however long it becomes."""

_ENTRY = struct.Struct(">IIQQ")
_SHARED, _EXCLUSIVE = ord("R"), ord("W")


class LockKind(IntEnum):
    """What is asked for; the numbers are those of ``F_RDLCK``, ``F_WRLCK``, ``F_UNLCK``."""

    SHARED = 0
    EXCLUSIVE = 1
    UNLOCK = 2


_LETTERS = {LockKind.SHARED: "R", LockKind.EXCLUSIVE: "W", LockKind.UNLOCK: "U"}


class RangeLock(NamedTuple):
    """A record lock on bytes ``start`` to ``end``, both included; ``pid`` is for people."""

    kind: LockKind
    pid: int
    start: int
    end: int

    def overlaps(self, other: RangeLock) -> bool:
        """Return whether both cover a byte."""
        return self.start <= other.end and other.start <= self.end

    def excludes(self, other: RangeLock) -> bool:
        """Return whether two owners cannot have both."""
        return self.overlaps(other) and LockKind.EXCLUSIVE in (self.kind, other.kind)


def flock(tx: Transaction, sid: int, inode: int, owner: int, kind: LockKind) -> bool:
    """Take, change or give up a BSD lock; return whether it is granted.

    Raises
    ------
    EntryNotFoundError
        There is no such inode.
    """
    key = inode, sid, _signed(owner)
    if kind is LockKind.UNLOCK:
        tx.delete(Flock, *key)
        _note_flock(tx, inode, owner, kind)
        return True
    _hold(tx, inode)
    others = [row.kind for row in tx.scan(Flock, inode) if (row.sid, row.owner) != key[1:]]
    if _EXCLUSIVE in others or (others and kind is LockKind.EXCLUSIVE):
        return False
    tx.put(Flock(*key, _EXCLUSIVE if kind is LockKind.EXCLUSIVE else _SHARED))
    _note_flock(tx, inode, owner, kind)
    return True


def _note_flock(tx: Transaction, inode: int, owner: int, kind: LockKind) -> None:
    note(tx, "FLOCK", inode, owner % (1 << 64), _LETTERS[kind])


def get_plock(
    tx: Transaction, sid: int, inode: int, owner: int, wanted: RangeLock
) -> tuple[int, RangeLock] | None:
    """Return (session, lock) of an owner in the way of a record lock; None where there is none.

    As ``F_GETLK`` tells it: the one that begins first.
    """
    mine = sid, _signed(owner)
    found = [
        (lock.start, row.sid, lock)
        for row in tx.scan(Plock, inode)
        if (row.sid, row.owner) != mine
        for lock in unpack_locks(row.records)
        if lock.excludes(wanted)
    ]
    return min(found)[1:] if found else None


def set_plock(tx: Transaction, sid: int, inode: int, owner: int, lock: RangeLock) -> bool:
    """Take, change or give up a record lock; return whether it is granted.

    Raises
    ------
    EntryNotFoundError
        There is no such inode.
    ValueError
        The range is empty, or reaches beyond `END_MAX`.
    """
    if not 0 <= lock.start <= lock.end:
        raise ValueError(f"bytes {lock.start} to {lock.end} are no range")
    key = inode, sid, _signed(owner)
    if lock.kind is not LockKind.UNLOCK:
        _hold(tx, inode)
        if get_plock(tx, sid, inode, owner, lock) is not None:
            return False
    row = tx.get(Plock, *key, lock=True)
    before = unpack_locks(row.records) if row else []
    after = merged(before, lock)
    if after and after != before:
        tx.put(Plock(*key, pack_locks(after)))
    elif row is not None and not after:
        tx.delete(Plock, *key)
    pid = 0 if lock.kind is LockKind.UNLOCK else lock.pid
    values = lock.start, lock.end, pid
    note(tx, "SETLK", inode, owner % (1 << 64), _LETTERS[lock.kind], *values)
    return True


def merged(locks: Sequence[RangeLock], new: RangeLock) -> list[RangeLock]:
    """Return the locks of one owner with ``new`` in place of what it covers, in order.

    Neighbours of one kind and process become one.
    """
    pieces = [] if new.kind is LockKind.UNLOCK else [new]
    for lock in locks:
        if not lock.overlaps(new):
            pieces.append(lock)
            continue
        if lock.start < new.start:
            pieces.append(lock._replace(end=new.start - 1))
        if lock.end > new.end:
            pieces.append(lock._replace(start=new.end + 1))
    joined: list[RangeLock] = []
    for lock in sorted(pieces, key=lambda piece: piece.start):
        last = joined[-1] if joined else None
        if last is not None and last[:2] == lock[:2] and last.end + 1 == lock.start:
            joined[-1] = last._replace(end=lock.end)
        else:
            joined.append(lock)
    return joined


def pack_locks(locks: Iterable[RangeLock]) -> bytes:
    """Return record locks as they are stored."""
    return b"".join(_ENTRY.pack(*lock) for lock in locks)


def unpack_locks(records: bytes) -> list[RangeLock]:
    """Return the record locks in a row; entries of other kinds are left out."""
    return [
        RangeLock(LockKind(kind), pid, start, end)
        for kind, pid, start, end in _ENTRY.iter_unpack(records)
        if kind in (LockKind.SHARED, LockKind.EXCLUSIVE)
    ]


def _hold(tx: Transaction, inode: int) -> None:
    if tx.get(Attr, inode, lock=True) is None:
        raise EntryNotFoundError("", f"there is no inode {inode}")


def _signed(owner: int) -> int:
    """Return the 64 bits of an owner as the database keeps them."""
    owner %= 1 << 64
    return owner - (1 << 64) if owner >> 63 else owner
