"""Copies of whole directories: built out of sight, entry by entry, and then attached.

The copy's root is a node without an entry and with a row that says so (``DetachedNode``): nobody
sees it, and one that was never attached is removed after a day. Law: the volume and the owners
count each copied inode at once, quotas of directories only what is attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from juicecache.errors import EntryNotFoundError
from juicecache.meta.change_log import note
from juicecache.meta.context import Context, Used
from juicecache.meta.copying import add_references, copy_of
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import new_entry
from juicecache.meta.rows import Chunk, DetachedNode, DirStats, Edge, Symlink, Xattr
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES

_NS = 1_000_000_000


class Copied(NamedTuple):
    """An entry to copy: its name, what it is, and the number of the copy."""

    name: bytes
    source: int
    inode: int


def begin_clone(
    tx: Transaction,
    ctx: Context,
    source: Attr,
    place: tuple[int, bytes],
    inode: int,
    *,
    preserve: bool,
) -> Attr:
    """Make the root of the copy of a directory; ``place`` is where it will be attached.

    Raises
    ------
    EntryExistsError
        The name is taken.
    NoSpaceError
    """
    directory = new_entry(tx, *place)
    attr = copy_of(tx, ctx, directory, source, inode, preserve=preserve)
    tx.put_new(attr)
    tx.put_new(DetachedNode(inode, ctx.now_ns // _NS))
    if ctx.dir_stats:
        tx.put_new(DirStats(inode, 0, 0, 0))
    _copy_xattrs(tx, source.inode, inode)
    note(tx, "CLONE", source.inode, *place, inode, int(preserve), ctx.umask, False, result=inode)
    ledger = Ledger()
    ledger.volume(attr, attr.space, 1)
    ledger.settle(tx, ctx._replace(quotas=frozenset()), place[1])
    return attr


def copy_entries(
    tx: Transaction,
    ctx: Context,
    top: int,
    directory: int,
    entries: Sequence[Copied],
    *,
    preserve: bool,
) -> list[Attr]:
    """Copy some entries into a directory of a copy that is not attached yet.

    Entries that were removed meanwhile are left out.

    Parameters
    ----------
    top
        The root of the copy.

    Raises
    ------
    EntryNotFoundError
        Somebody took the copy for dead and removed it.
    """
    above = tx.get(Attr, directory, lock=True)
    if tx.get(DetachedNode, top, lock=True) is None or above is None:
        raise EntryNotFoundError("", f"the copy, inode {top}, was removed by another client")
    found = tx.get_many(Attr, [(entry.source,) for entry in entries])
    ledger = Ledger()
    copies: list[Attr] = []
    contents: list[tuple[Attr, Attr]] = []
    for entry, origin in zip(entries, found, strict=True):
        if origin is None:
            continue
        attr = copy_of(tx, ctx, above, origin, entry.inode, preserve=preserve)
        tx.put_new(Edge(directory, entry.name, entry.inode, attr.type))
        tx.put_new(attr)
        if attr.is_directory and ctx.dir_stats:
            tx.put_new(DirStats(entry.inode, 0, 0, 0))
        _copy_xattrs(tx, origin.inode, entry.inode)
        values = origin.inode, directory, entry.name, entry.inode, int(preserve), ctx.umask, False
        note(tx, "CLONE", *values, result=entry.inode)
        ledger.volume(attr, attr.space, 1)
        ledger.enter(directory, attr)
        copies.append(attr)
        contents.append((origin, attr))
    _copy_contents(tx, contents)
    tx.add(Attr, directory, nlink=sum(attr.is_directory for attr in copies))
    ledger.settle(tx, ctx._replace(quotas=frozenset()))
    return copies


def attach_clone(
    tx: Transaction, ctx: Context, place: tuple[int, bytes], inode: int, below: Used
) -> Attr:
    """Give a copy its name; ``below`` is what it holds besides its root.

    Raises
    ------
    EntryExistsError
        The name was taken meanwhile.
    QuotaExceededError
    """
    new_entry(tx, *place)
    attr = tx.get(Attr, inode, lock=True)
    if attr is None or tx.get(DetachedNode, inode, lock=True) is None:
        raise EntryNotFoundError("", f"the copy, inode {inode}, was removed by another client")
    parent, name = place
    tx.put_new(Edge(parent, name, inode, NodeType.DIRECTORY))
    tx.delete(DetachedNode, inode)
    note(tx, "ATTACH", inode, parent, name)
    ledger = Ledger()
    ledger.enter(parent, attr)
    ledger.touch(parent, nlink=1)
    ledger.below(parent, below.space, below.inodes)
    ledger.settle(tx, ctx, name)
    return attr


def _copy_xattrs(tx: Transaction, source: int, inode: int) -> None:
    for row in tx.scan(Xattr, source):
        tx.put_new(row._replace(inode=inode))


def _copy_contents(tx: Transaction, pairs: Sequence[tuple[Attr, Attr]]) -> None:
    """Copy targets of links and slice lists of files, and count the slices once more."""
    links = [(origin, copy) for origin, copy in pairs if origin.type == NodeType.SYMLINK]
    targets = tx.get_many(Symlink, [(origin.inode,) for origin, _ in links]) if links else []
    for (_, copy), target in zip(links, targets, strict=True):
        if target is not None:
            tx.put_new(target._replace(inode=copy.inode))
    files = [(origin, copy) for origin, copy in pairs if origin.is_file and origin.length]
    short = [pair for pair in files if pair[0].length <= CHUNK_BYTES]
    rows = tx.get_many(Chunk, [(origin.inode, 0) for origin, _ in short]) if short else []
    copied = [
        row._replace(inode=copy.inode)
        for (_, copy), row in zip(short, rows, strict=True)
        if row is not None
    ]
    for origin, copy in files:
        if origin.length > CHUNK_BYTES:
            copied += [row._replace(inode=copy.inode) for row in tx.scan(Chunk, origin.inode)]
    for chunk in copied:
        tx.put_new(chunk)
    add_references(tx, b"".join(chunk.slices for chunk in copied))
