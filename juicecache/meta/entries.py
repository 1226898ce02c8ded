"""Names in directories: what may be added, what may be taken away, and adding one.

The checks that every change of a directory shares, each in one place. Law: the row of a
directory whose entries change is locked before its entries are read, several of them in
ascending order of inodes; this closes the race of a create with an rmdir of its parent.
"""

from __future__ import annotations

import errno

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    EntryNotFoundError,
    InvalidNameError,
    NotDirectoryError,
)
from juicecache.meta.engine import Transaction, Want
from juicecache.meta.rows import DirStats, Edge
from juicecache.meta.usage import Ledger
from juicecache.model.attr import (
    NAME_BYTES_MAX,
    RESERVED_ROOT_NAMES,
    ROOT_INODE,
    TRASH_INODE,
    TRASH_NAME,
    Attr,
    NodeFlag,
    in_trash,
)

FROZEN = NodeFlag.IMMUTABLE | NodeFlag.APPEND_ONLY
"""Flags under which an inode keeps its attributes and its names."""


def check_name(name: bytes) -> None:
    """Raise InvalidNameError for what cannot be the name of an entry."""
    if len(name) > NAME_BYTES_MAX:
        raise InvalidNameError(
            name, f"a name has at most {NAME_BYTES_MAX} bytes", errno=errno.ENAMETOOLONG
        )
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidNameError(name, "a name is not empty, '.' or '..' and has no '/' or NUL")


def check_new(parent: int, name: bytes) -> None:
    """Raise when ``name`` may never be made in ``parent``, whatever its rows say."""
    check_name(name)
    if in_trash(parent):
        raise AccessDeniedError(name, "entries get into the trash only by being removed")
    if parent == ROOT_INODE and name in RESERVED_ROOT_NAMES:
        raise AccessDeniedError(name, "the name is reserved in the root of a volume")


def check_old(parent: int, name: bytes) -> None:
    """Raise when ``name`` may never be taken from ``parent``, whatever its rows say."""
    if parent == TRASH_INODE or (parent == ROOT_INODE and name == TRASH_NAME):
        raise AccessDeniedError(name, "the trash and its hourly directories stay where they are")


def lock_directories(tx: Transaction, *places: tuple[int, bytes]) -> list[Attr]:
    """Lock the directories of ``(directory, name)`` pairs and return them in that order."""
    rows: dict[int, Attr] = {}
    if len(places) > 1:
        inodes = sorted({inode for inode, _ in places})
        tx.expect(*(Want(Attr, (inode,), lock=True) for inode in inodes))
    for inode, name in sorted(places):
        if inode in rows:
            continue
        row = tx.get(Attr, inode, lock=True)
        if row is None:
            raise EntryNotFoundError(name, f"its directory, inode {inode}, does not exist")
        if not row.is_directory:
            raise NotDirectoryError(name, f"inode {inode} is not a directory")
        rows[inode] = row
    return [rows[inode] for inode, _ in places]


def check_may_add(directory: Attr, name: bytes) -> None:
    """Raise when the row of ``directory`` forbids new entries."""
    if directory.parent > TRASH_INODE:
        raise EntryNotFoundError(name, "its directory was removed and is in the trash")
    if directory.flags & NodeFlag.IMMUTABLE:
        raise AccessDeniedError(name, "its directory is immutable")


def check_may_take(directory: Attr, name: bytes) -> None:
    """Raise when the row of ``directory`` forbids taking entries away."""
    if directory.flags & FROZEN:
        raise AccessDeniedError(name, "its directory is immutable or append-only")


def check_not_frozen(attr: Attr, name: bytes | str) -> None:
    """Raise when the inode is immutable or append-only."""
    if attr.flags & FROZEN:
        raise AccessDeniedError(name, "it is immutable or append-only")


def check_not_in_trash(attr: Attr) -> None:
    """Raise when the inode is part of the trash, which is read-only."""
    if in_trash(attr.inode) or attr.parent > TRASH_INODE:
        raise AccessDeniedError("", f"inode {attr.inode} is in the trash, which is read-only")


def new_entry(tx: Transaction, parent: int, name: bytes) -> Attr:
    """Return the locked row of ``parent`` after all checks that a new ``name`` in it must pass.

    Raises
    ------
    EntryExistsError
        The name is taken.
    """
    check_new(parent, name)
    tx.expect(
        Want(Attr, (parent,), lock=True), Want(Edge, (parent, name)), Want(DirStats, (parent,))
    )
    (directory,) = lock_directories(tx, (parent, name))
    check_may_add(directory, name)
    if tx.get(Edge, parent, name) is not None:
        raise EntryExistsError(name)
    return directory


def old_entry(tx: Transaction, parent: int, name: bytes) -> Edge:
    """Return entry ``name`` after all checks of ``parent`` that taking it away must pass."""
    check_old(parent, name)
    tx.expect(
        Want(Attr, (parent,), lock=True),
        Want(Edge, (parent, name), lock=True),
        Want(DirStats, (parent,)),
    )
    (directory,) = lock_directories(tx, (parent, name))
    check_may_take(directory, name)
    edge = tx.get(Edge, parent, name, lock=True)
    if edge is None:
        raise EntryNotFoundError(name)
    return edge


def add_node(tx: Transaction, ledger: Ledger, name: bytes, attr: Attr) -> None:
    """Insert a new inode under ``name`` in ``attr.parent``, and count it.

    The caller made the checks of `new_entry`, inserts what belongs to the inode's type, and
    settles ``ledger``.
    """
    tx.put_new(Edge(attr.parent, name, attr.inode, attr.type))
    tx.put_new(attr)
    ledger.volume(attr, attr.space, 1)
    ledger.enter(attr.parent, attr)
    ledger.touch(attr.parent, nlink=1 if attr.is_directory else 0)
