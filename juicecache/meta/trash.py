"""The trash: hourly directories below ``/.trash`` that removed entries move into.

Law: an hourly directory is made in its own transaction before the first entry of its hour
moves into it, and dropped only here: when it is empty and old enough that no client still
holds its inode. Moving an entry into it is a rule of ``remove``; emptying it is
`remove.remove_below`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from juicecache.errors import DirectoryNotEmptyError, EntryNotFoundError
from juicecache.meta.change_log import PLATFORM, note
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Counter, DirStats, Edge
from juicecache.meta.usage import charge
from juicecache.model.attr import (
    DIRECTORY_LENGTH,
    NAME_BYTES_MAX,
    ROOT_INODE,
    SPACE_UNIT,
    TRASH_INODE,
    Attr,
    NodeType,
)

_HOUR_FORMAT = "%Y-%m-%d-%H"
HOUR_NS = 3_600_000_000_000
GRACE_HOURS = 2
"""Hours that an hourly directory outlives its expiry: the hour itself, and clocks that differ."""


def trash_name(parent: int, inode: int, name: bytes) -> bytes:
    """Return the name that an entry gets in the trash: where it was, cut to 255 bytes."""
    return (b"%d-%d-" % (parent, inode) + name)[:NAME_BYTES_MAX]


def hour_name(now_ns: int) -> bytes:
    """Return the name of the hourly directory for a time, in UTC."""
    return datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime(_HOUR_FORMAT).encode()


def trash_root(now_ns: int = 0) -> Attr:
    """Return the attributes that ``/.trash`` has in a new volume."""
    return Attr(
        TRASH_INODE,
        NodeType.DIRECTORY,
        mode=0o555,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        nlink=2,
        length=DIRECTORY_LENGTH,
        parent=ROOT_INODE,
    )


def hourly_directory(tx: Transaction, ctx: Context) -> int:
    """Return the inode of the trash directory for the hour of ``ctx``, made where missing.

    A full volume can still remove: the limits of the volume do not apply to it.
    """
    name = hour_name(ctx.now_ns)
    found = tx.get(Edge, TRASH_INODE, name)
    if found is not None:
        if tx.get(Attr, found.inode, lock=True) is None:
            # What would move into it could never be found again.
            _plant_hour(tx, ctx, found.inode)
        return found.inode
    if tx.get(Attr, TRASH_INODE) is None:
        # The volume was made without a trash, which was switched on later.
        tx.put_new(trash_root(ctx.now_ns))
    counter = tx.get(Counter, "nextTrash", lock=True)
    inode = TRASH_INODE + (counter.value if counter else 0) + 1
    tx.add(Counter, "nextTrash", value=1)
    tx.put_new(Edge(TRASH_INODE, name, inode, NodeType.DIRECTORY))
    _plant_hour(tx, ctx, inode)
    created = TRASH_INODE, name, 0, 0, int(NodeType.DIRECTORY), 0o555, 0, "", PLATFORM, False
    note(tx, "CREATE", *created, result=inode, now_ns=ctx.now_ns)
    return inode


def _plant_hour(tx: Transaction, ctx: Context, inode: int) -> None:
    tx.put_new(trash_root(ctx.now_ns)._replace(inode=inode, parent=TRASH_INODE))
    if ctx.dir_stats and tx.get(DirStats, inode) is None:
        tx.put_new(DirStats(inode, 0, 0, 0))
    charge(tx, SPACE_UNIT, 1)


def hours(tx: Transaction) -> Iterator[tuple[int, Edge]]:
    """Iterate over the hourly directories, oldest first: when its hour began, and its entry.

    Entries of other names are not ours to expire and are left out.
    """
    for edge in tx.scan(Edge, TRASH_INODE):
        try:
            hour = datetime.strptime(edge.name.decode("ascii"), _HOUR_FORMAT)
        except ValueError:
            continue
        yield int(hour.replace(tzinfo=UTC).timestamp()) * 1_000_000_000, edge


def expired_hours(tx: Transaction, now_ns: int, trash_days: int) -> list[Edge]:
    """Return the hourly directories whose entries were kept for ``trash_days``, oldest first."""
    before_ns = now_ns - (24 * trash_days + GRACE_HOURS) * HOUR_NS
    return [edge for began_ns, edge in hours(tx) if began_ns < before_ns]


def drop_hour(tx: Transaction, ctx: Context, name: bytes) -> bool:
    """Remove an empty hourly directory; return whether it was old enough to go.

    A young one stays, since any client may be about to move an entry into it.

    Raises
    ------
    DirectoryNotEmptyError
        It has entries.
    """
    edge = tx.get(Edge, TRASH_INODE, name, lock=True)
    if edge is None:
        raise EntryNotFoundError(name)
    if name >= hour_name(max(0, ctx.now_ns - GRACE_HOURS * HOUR_NS)):
        return False
    tx.get(Attr, edge.inode, lock=True)
    if tx.exists(Edge, edge.inode):
        raise DirectoryNotEmptyError(name)
    tx.delete(Edge, TRASH_INODE, name)
    tx.delete(Attr, edge.inode)
    tx.delete(DirStats, edge.inode)
    charge(tx, -SPACE_UNIT, -1)
    note(tx, "RMDIR", TRASH_INODE, name, 0, result=edge.inode, now_ns=ctx.now_ns)
    return True
