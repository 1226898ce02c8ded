"""Copies inside a volume: records are copied and slices counted once more; no byte moves.

Law: a slice must still be alive when its new reference is committed. A compaction or a
removal that wins the race makes the transaction run again on the new state.
"""

from __future__ import annotations

import errno

from juicecache.errors import EntryNotFoundError, FileError, IsDirectoryError
from juicecache.meta.acl import with_mode
from juicecache.meta.change_log import note
from juicecache.meta.chunks import (
    Appends,
    change_content,
    check_changeable,
    check_length,
    lock_file,
    read_chunk,
    truncation,
)
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import add_node, check_new, new_entry
from juicecache.meta.rows import Chunk, SliceRef, Symlink, Xattr
from juicecache.meta.tree import NewNode, new_attr
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord, copy_records, refs_of, visible


def copy_range(
    tx: Transaction,
    ctx: Context,
    source_inode: int,
    source_start: int,
    target_inode: int,
    target_start: int,
    size: int,
) -> int:
    """Copy a range of one file over a range of another, or of itself; return the bytes copied.

    Fewer than ``size`` where the source ends before. Holes are copied as holes.

    Raises
    ------
    FileError
        EINVAL: the two ranges of one file overlap, or an offset is negative. EFBIG: the file
        would become too long.
    StaleHandleError, AccessDeniedError, NoSpaceError
        As in ``chunks.commit_slices``.
    """
    if min(source_start, target_start) < 0:
        raise FileError(f"inode {target_inode}", "an offset is not negative", errno=errno.EINVAL)
    source, target = _lock_pair(tx, source_inode, target_inode)
    size = min(size, source.length - source_start)
    if size <= 0:
        return 0
    if source_inode == target_inode and abs(source_start - target_start) < size:
        raise FileError(f"inode {source_inode}", "source and target overlap", errno=errno.EINVAL)
    check_length(target_start + size)
    check_changeable(target, target_start)
    first, last = source_start // CHUNK_BYTES, (source_start + size - 1) // CHUNK_BYTES
    chunks = {
        index: visible(read_chunk(tx, source_inode, index)) for index in range(first, last + 1)
    }
    appends: Appends = {}
    for index, record in copy_records(chunks, source_start, target_start, size):
        appends.setdefault(index, []).append(record)
    add_references(
        tx, b"".join(record.pack() for records in appends.values() for record in records)
    )
    length = max(target.length, target_start + size)
    values = source_inode, source_start, target_inode, target_start, size
    note(tx, "COPYFILERANGE", *values, result=length, now_ns=ctx.now_ns)
    change_content(tx, ctx, target, appends, length, ctx.now_ns)
    return size


def copy_of(
    tx: Transaction, ctx: Context, directory: Attr, origin: Attr, inode: int, *, preserve: bool
) -> Attr:
    """Return the attributes that a copy of ``origin`` in a directory has.

    ``preserve`` keeps owner, mode and times; else they are those of a new inode, so a copy is owned
    by who makes it and has no setuid. Nothing protects it in either case.
    """
    mode = origin.mode if preserve else origin.mode & 0o777
    new = NewNode(inode, origin.type, mode, rdev=origin.rdev)
    attr = new_attr(ctx, directory, new)._replace(length=origin.length)
    if preserve:
        attr = attr._replace(
            mode=origin.mode,
            uid=origin.uid,
            gid=origin.gid,
            atime_ns=origin.atime_ns,
            mtime_ns=origin.mtime_ns,
        )
    if origin.access_acl:
        attr = attr._replace(access_acl=with_mode(tx, origin.access_acl, attr.mode, {}))
    return attr._replace(default_acl=origin.default_acl)


def clone_file(
    tx: Transaction,
    ctx: Context,
    source: Attr,
    parent: int,
    name: bytes,
    inode: int,
    *,
    preserve: bool = False,
) -> Attr:
    """Make ``inode`` under a new name a copy of anything but a directory.

    Content, extended attributes, permission bits and access list are copied; see `copy_of`.

    Raises
    ------
    EntryNotFoundError
        The source is gone.
    EntryExistsError
        The name is taken.
    IsDirectoryError
        The source is a directory: a tree is copied entry by entry.
    NoSpaceError
        The volume is full.
    """
    directory = new_entry(tx, parent, name)
    origin = tx.get(Attr, source.inode, lock=True)
    if origin is None:
        raise EntryNotFoundError(name, f"its source, inode {source.inode}, was removed meanwhile")
    if origin.is_directory:
        raise IsDirectoryError(name, f"its source, inode {source.inode}, is a directory")
    attr = copy_of(tx, ctx, directory, origin, inode, preserve=preserve)
    ledger = Ledger()
    add_node(tx, ledger, name, attr)
    if origin.is_file:
        rows = list(tx.scan(Chunk, origin.inode))
        for row in rows:
            tx.put_new(row._replace(inode=inode))
        add_references(tx, b"".join(row.slices for row in rows))
    elif origin.type == NodeType.SYMLINK and (link := tx.get(Symlink, origin.inode)) is not None:
        tx.put_new(link._replace(inode=inode))
    for xattr in tx.scan(Xattr, origin.inode):
        tx.put_new(xattr._replace(inode=inode))
    values = origin.inode, parent, name, inode, int(preserve), ctx.umask, True
    note(tx, "CLONE", *values, result=inode, now_ns=ctx.now_ns)
    ledger.settle(tx, ctx, name)
    return attr


def replace_with_copy(
    tx: Transaction, ctx: Context, source: Attr, parent: int, name: bytes, inode: int
) -> Attr:
    """Make ``name`` a copy of a file: a new ``inode``, or the new content of the file there.

    A file that is there keeps its inode, owner, mode and extended attributes, and is seen
    either with the old content or with the new. A symbolic link is not followed.

    Raises
    ------
    FileError
        EINVAL: both are the same file.
    IsDirectoryError, AccessDeniedError, StaleHandleError, NoSpaceError
        As in ``chunks.commit_slices``; AccessDeniedError also for what is no regular file.
    """
    check_new(parent, name)
    there = tx.lookup(parent, name)
    if there is None:
        return clone_file(tx, ctx, source, parent, name, inode)
    if there.inode == source.inode:
        raise FileError(name, "source and target are the same file", errno=errno.EINVAL)
    origin, target = _lock_pair(tx, source.inode, there.inode)
    check_changeable(target, 0, truncates=True)
    appends = truncation(tx, target, 0)
    rows = list(tx.scan(Chunk, origin.inode))
    for row in rows:
        appends.setdefault(row.index, []).extend(SliceRecord.unpack_all(row.slices))
    add_references(tx, b"".join(row.slices for row in rows))
    if target.length:
        note(tx, "TRUNCATE", target.inode, target.length, 0, 0, now_ns=ctx.now_ns)
    values = origin.inode, 0, target.inode, 0, origin.length
    note(tx, "COPYFILERANGE", *values, result=origin.length, now_ns=ctx.now_ns)
    return change_content(tx, ctx, target, appends, origin.length, ctx.now_ns)


def _lock_pair(tx: Transaction, one: int, other: int) -> tuple[Attr, Attr]:
    """Lock two files, which may be one, in ascending order, so that no two copies deadlock."""
    locked = {inode: lock_file(tx, inode) for inode in sorted({one, other})}
    return locked[one], locked[other]


def add_references(tx: Transaction, records: bytes) -> None:
    """Count slices once more for each record that points at them.

    Raises
    ------
    FileError
        EIO: a slice of the source has no live reference row, so its content may be gone.
    """
    counts = refs_of(records)
    rows = tx.get_many(SliceRef, list(counts))
    for ((slice_id, size), count), row in zip(counts.items(), rows, strict=True):
        if (row is None and not tx.implies_references) or (row is not None and row.refs <= 0):
            raise FileError(
                "",
                f"slice {slice_id} of {size} bytes, which the source is made of, has no "
                "reference: the metadata is damaged; see 'juicecache fsck'",
                errno=errno.EIO,
            )
        tx.add_refs(slice_id, size, count, alive=True)
