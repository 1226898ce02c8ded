"""What an inode is called, for reports: from the inode up to the root."""

from __future__ import annotations

from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.paths import join_path
from juicecache.meta.rows import Edge
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, TRASH_NAME, Attr

_DEPTH_MAX = 10_000
"""Deeper is a circle."""
_PAGE = 10_000


def path_of(engine: Engine, inode: int) -> str:
    """Return a path of an inode from the root of the volume; empty where none leads there.

    Reads the entries of all directories on the way: not for what happens often.
    """
    names: list[bytes] = []
    for _ in range(_DEPTH_MAX):
        if inode == ROOT_INODE:
            return join_path(tuple(reversed(names)))
        parent = engine.read(lambda tx, inode=inode: _parent_of(tx, inode))  # type: ignore[misc]  # mypy cannot infer a lambda default
        name = None if parent is None else _name_in(engine, parent, inode)
        if parent is None or name is None:
            return ""
        names.append(name)
        inode = parent
    return ""


def _parent_of(tx: Transaction, inode: int) -> int | None:
    """Return a directory that has an entry for an inode."""
    attr = tx.get(Attr, inode)
    if attr is None or attr.parent:
        return None if attr is None else attr.parent
    return min(tx.links(inode), default=None)


def _name_in(engine: Engine, parent: int, inode: int) -> bytes | None:
    if inode == TRASH_INODE:
        return TRASH_NAME
    after: tuple[bytes] | None = None

    def page(tx: Transaction) -> list[Edge]:
        return list(tx.scan(Edge, parent, after=after, limit=_PAGE))

    while edges := engine.read(page):
        for edge in edges:
            if edge.inode == inode:
                return edge.name
        after = (edges[-1].name,)
    return None
