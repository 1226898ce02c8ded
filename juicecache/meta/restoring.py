"""Entries of the trash, and putting them back where they were.

What was removed lies flat in the directory of its hour: each entry's name says which directory it
was in, which inode it is, and what it was called, cut to 255 bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from juicecache.errors import EntryNotFoundError, InvalidNameError
from juicecache.meta import rename
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Edge
from juicecache.model.attr import NAME_BYTES_MAX, TRASH_INODE

_NAME = re.compile(rb"(\d+)-(\d+)-(.+)", re.DOTALL)


class TrashName(NamedTuple):
    """What the name of an entry of the trash says.

    ``cut`` is whether the end of the name may be missing.
    """

    parent: int
    inode: int
    name: bytes
    cut: bool


def parse_trash_name(entry: bytes) -> TrashName | None:
    """Return what the name of an entry says; None for one that was not made by a removal."""
    found = _NAME.fullmatch(entry)
    if found is None:
        return None
    parent, inode, name = found.groups()
    return TrashName(int(parent), int(inode), name, len(entry) == NAME_BYTES_MAX)


def restore(tx: Transaction, ctx: Context, hour: bytes, entry: bytes) -> None:
    """Move an entry of the trash back to its directory, under its old name.

    Raises
    ------
    EntryNotFoundError
        It is not there any more; or its directory is gone, or in the trash itself.
    EntryExistsError
        The name is taken.
    InvalidNameError
        The entry's name does not say where it was.
    """
    was = parse_trash_name(entry)
    if was is None:
        raise InvalidNameError(entry, "it does not say where it was")
    edge = tx.get(Edge, TRASH_INODE, hour)
    if edge is None:
        raise EntryNotFoundError(hour)
    source, target = (edge.inode, entry), (was.parent, was.name)
    rename.rename(tx, ctx, source, target, mode=rename.RenameMode.NOREPLACE)
