"""Extended attributes of inodes: names to bytes.

They change without a change of ``ctime``. The two that are access control lists stand
apart, in ``acl``; they change the ``ctime``, and the mode.
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
)
from juicecache.meta import acl
from juicecache.meta.change_log import note
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import check_not_frozen, check_not_in_trash
from juicecache.meta.rows import Xattr
from juicecache.meta.tree import getattr as get_attr
from juicecache.model.attr import NAME_BYTES_MAX, Attr

VALUE_BYTES_MAX = 65536
"""Bytes of one value: the limit of Linux, so that a mount can serve what we store."""


class XattrMode(Enum):
    """Whether the attribute must be new, or must exist."""

    ANY = "any"
    CREATE = "create"
    REPLACE = "replace"


_FLAGS = {XattrMode.ANY: 0, XattrMode.CREATE: 1, XattrMode.REPLACE: 2}


def get_xattr(tx: Transaction, inode: int, name: str) -> bytes:
    """Return one value, or raise NoAttributeError."""
    if name in acl.NAMES:
        value = acl.get_acl(tx, get_attr(tx, inode), name)
        if value is None:
            raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
        return value
    row = _find(tx, inode, name)
    if row is None:
        get_attr(tx, inode)
        raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
    return row.value


def list_xattr(tx: Transaction, inode: int) -> list[str]:
    """Return the names of all attributes."""
    attr = get_attr(tx, inode)
    lists = {acl.ACCESS: attr.access_acl, acl.DEFAULT: attr.default_acl}
    names = [name for name, number in lists.items() if number]
    return names + [row.name for row in tx.scan(Xattr, inode)]


def set_xattr(
    tx: Transaction,
    ctx: Context,
    inode: int,
    name: str,
    value: bytes,
    *,
    mode: XattrMode = XattrMode.ANY,
) -> None:
    """Set one attribute.

    Raises
    ------
    EntryExistsError
        ``mode`` is CREATE and it exists.
    NoAttributeError
        ``mode`` is REPLACE and it does not.
    UnsupportedError
        It is an access control list and the volume keeps none.
    FileError
        EINVAL, EACCES: as in `acl.set_acl`. E2BIG: more than `VALUE_BYTES_MAX`.
    """
    if not _is_text(name) or not 1 <= len(name.encode()) <= NAME_BYTES_MAX or "\0" in name:
        raise InvalidNameError(
            "", f"an attribute's name is text of 1 to {NAME_BYTES_MAX} bytes without NUL"
        )
    if len(value) > VALUE_BYTES_MAX:
        raise FileError(
            "", f"an attribute's value has at most {VALUE_BYTES_MAX} bytes", errno=errno.E2BIG
        )
    attr = _changeable(tx, inode)
    if mode is not XattrMode.ANY:
        found = _exists(tx, attr, name)
        if found and mode is XattrMode.CREATE:
            raise EntryExistsError("", f"inode {inode} has an attribute {name!r}")
        if not found and mode is XattrMode.REPLACE:
            raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
    if name in acl.NAMES:
        acl.set_acl(tx, ctx, attr, name, value)
        return
    tx.put(Xattr(inode, name, value))
    note(tx, "SETXATTR", inode, name, value, _FLAGS[mode], now_ns=ctx.now_ns)


def remove_xattr(tx: Transaction, ctx: Context, inode: int, name: str) -> None:
    """Remove one attribute, or raise NoAttributeError."""
    attr = _changeable(tx, inode)
    if not _exists(tx, attr, name):
        raise NoAttributeError("", f"inode {inode} has no attribute {name!r}")
    if name in acl.NAMES:
        acl.set_acl(tx, ctx, attr, name, b"")
        return
    tx.delete(Xattr, inode, name)
    note(tx, "REMOVEXATTR", inode, name, now_ns=ctx.now_ns)


def _exists(tx: Transaction, attr: Attr, name: str) -> bool:
    if name in acl.NAMES:
        return acl.get_acl(tx, attr, name) is not None
    return _find(tx, attr.inode, name) is not None


def _find(tx: Transaction, inode: int, name: str) -> Xattr | None:
    # The row of the inode is locked by those who change it.
    return tx.get(Xattr, inode, name) if _is_text(name) else None


def _is_text(name: str) -> bool:
    """Return whether the name can be stored: not bytes that are text in no encoding we know."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def _changeable(tx: Transaction, inode: int) -> Attr:
    attr = tx.get(Attr, inode, lock=True)
    if attr is None:
        raise EntryNotFoundError("", f"inode {inode} does not exist")
    check_not_in_trash(attr)
    check_not_frozen(attr, "")
    return attr
