"""Extended attributes of inodes: names to bytes.

They change without a change of ``ctime``. POSIX ACLs are not kept here.
"""

from __future__ import annotations

import errno
from enum import Enum

from juicecache.errors import (
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    InvalidNameError,
    NoAttributeError,
    UnsupportedError,
)
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import check_not_frozen, check_not_in_trash
from juicecache.meta.rows import Xattr
from juicecache.meta.tree import getattr as get_attr
from juicecache.model.attr import NAME_BYTES_MAX, Attr

VALUE_BYTES_MAX = 65536
"""Bytes of one value: the limit of Linux, so that a mount can serve what we store."""
_ACL_PREFIX = "system.posix_acl_"


class XattrMode(Enum):
    """Whether the attribute must be new, or must exist."""

    ANY = "any"
    CREATE = "create"
    REPLACE = "replace"


def get_xattr(tx: Transaction, inode: int, name: str) -> bytes:
    """Return one value, or raise NoAttributeError."""
    row = _find(tx, inode, name)
    if row is None:
        get_attr(tx, inode)
        raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
    return row.value


def list_xattr(tx: Transaction, inode: int) -> list[str]:
    """Return the names of all attributes."""
    get_attr(tx, inode)
    return [row.name for row in tx.scan(Xattr, inode)]


def set_xattr(
    tx: Transaction, inode: int, name: str, value: bytes, *, mode: XattrMode = XattrMode.ANY
) -> None:
    """Set one attribute.

    Raises
    ------
    EntryExistsError
        ``mode`` is CREATE and it exists.
    NoAttributeError
        ``mode`` is REPLACE and it does not.
    """
    if not _is_text(name) or not 1 <= len(name.encode()) <= NAME_BYTES_MAX or "\0" in name:
        raise InvalidNameError(
            "", f"an attribute's name is text of 1 to {NAME_BYTES_MAX} bytes without NUL"
        )
    if name.startswith(_ACL_PREFIX):
        raise UnsupportedError("", "POSIX ACLs are not kept by this client")
    if len(value) > VALUE_BYTES_MAX:
        raise FileError(
            "", f"an attribute's value has at most {VALUE_BYTES_MAX} bytes", errno=errno.E2BIG
        )
    _check_changeable(tx, inode)
    if mode is not XattrMode.ANY:
        found = _find(tx, inode, name)
        if found is not None and mode is XattrMode.CREATE:
            raise EntryExistsError("", f"inode {inode} has an attribute {name!r}")
        if found is None and mode is XattrMode.REPLACE:
            raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
    tx.put(Xattr(inode, name, value))


def remove_xattr(tx: Transaction, inode: int, name: str) -> None:
    """Remove one attribute, or raise NoAttributeError."""
    _check_changeable(tx, inode)
    if _find(tx, inode, name) is None:
        raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
    tx.delete(Xattr, inode, name)


def _find(tx: Transaction, inode: int, name: str) -> Xattr | None:
    # The row of the inode is locked by those who change it.
    return tx.get(Xattr, inode, name) if _is_text(name) else None


def _is_text(name: str) -> bool:
    """Return whether the name can be stored: not bytes that are text in no encoding we know."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_changeable(tx: Transaction, inode: int) -> None:
    attr = tx.get(Attr, inode, lock=True)
    if attr is None:
        raise EntryNotFoundError("", f"inode {inode} does not exist")
    check_not_in_trash(attr)
    check_not_frozen(attr, "")
