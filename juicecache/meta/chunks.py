"""Contents of files: the slice records of each chunk, committed and cut.

Laws:

* Blocks before metadata: a slice is committed only after all its blocks are stored.
* The reference count of a slice equals the records that point at it; both change in the
  same transaction. Overwriting and truncating drop no record, so they drop no reference.
* Every change of content gives the file a new mtime: other clients keep slice lists for as
  long as the mtime stands.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from juicecache.errors import (
    AccessDeniedError,
    FileError,
    IsDirectoryError,
    StaleHandleError,
)
from juicecache.meta import usage
from juicecache.meta.change_log import note, note_writes
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Chunk, SliceRef
from juicecache.model.attr import Attr, NodeFlag
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import (
    FILE_BYTES_MAX,
    RECORD_BYTES,
    SliceRecord,
    refs_of,
    truncate_records,
)

Appends: TypeAlias = dict[int, list[SliceRecord]]
"""Records to append to each chunk, by chunk index, in order of application."""


class NewSlice(NamedTuple):
    """One record to append to chunk ``index``.

    ``fresh`` slices were uploaded for this commit and get their reference row; others must
    be alive and get one more reference. Records with slice id 0 are holes.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    record: SliceRecord
    fresh: bool = True


def read_chunk(tx: Transaction, inode: int, index: int) -> bytes:
    """Return the slice records of a chunk; empty where the whole chunk is a hole."""
    row = tx.get(Chunk, inode, index)
    return b"" if row is None else row.slices


def commit_slices(
    tx: Transaction,
    ctx: Context,
    inode: int,
    slices: Sequence[NewSlice],
    mtime_ns: int,
    *,
    truncate_to: int | None = None,
) -> Attr:
    """Append stored slices to a file, in the order in which their bytes were written.

    A doubled commit of fresh slices conflicts instead of appending twice.

    Parameters
    ----------
    mtime_ns
        When the bytes were written; moved past the old mtime where it is not later.
    truncate_to
        Cut or extend the file to this length first, so that a file that is overwritten is
        seen either old or new.

    Returns
    -------
    Attr
        The attributes after the commit; unchanged when there was nothing to do.

    Raises
    ------
    StaleHandleError
        The inode is gone.
    AccessDeniedError
        The file is immutable, or append-only and not only appended to.
    NoSpaceError
        The growth exceeds the capacity of the volume.
    FileError
        EFBIG: the file would be longer than `FILE_BYTES_MAX`.
    """
    ledger = usage.Ledger()
    attr = append_slices(
        tx, ctx, ledger, lock_file(tx, inode), slices, mtime_ns, truncate_to=truncate_to
    )
    count_references(tx, slices)
    ledger.settle(tx, ctx, f"inode {inode}")
    return attr


def append_slices(
    tx: Transaction,
    ctx: Context,
    ledger: usage.Ledger,
    attr: Attr,
    slices: Sequence[NewSlice],
    mtime_ns: int,
    *,
    truncate_to: int | None = None,
) -> Attr:
    """Do what `commit_slices` does for one of several files, which is locked.

    The caller counts the references of all of them and settles ``ledger``.
    """
    length = attr.length if truncate_to is None else truncate_to
    check_length(max(length, end_of(slices)))
    if not slices and length == attr.length:
        return attr
    starts = [new.index * CHUNK_BYTES + new.record.pos for new in slices]
    check_changeable(attr, min(starts, default=attr.length), truncates=length != attr.length)
    appends = truncation(tx, attr, length)
    if length != attr.length:
        note(tx, "TRUNCATE", attr.inode, attr.length, length, 0, now_ns=ctx.now_ns)
    _note_slices(tx, ctx, attr, slices, appends, mtime_ns)
    for index, records in grouped(slices).items():
        appends.setdefault(index, []).extend(records)
    return _rewrite(tx, ctx, ledger, attr, appends, max(length, end_of(slices)), mtime_ns)


def _note_slices(
    tx: Transaction,
    ctx: Context,
    attr: Attr,
    slices: Sequence[NewSlice],
    appends: Appends,
    mtime_ns: int,
) -> None:
    """Note slices in the change log; ``appends`` are the holes that stand before them."""

    def before(index: int) -> int:
        records = len(read_chunk(tx, attr.inode, index)) // RECORD_BYTES
        return records + len(appends.get(index, ()))

    records = [(one.index, one.record) for one in slices]
    note_writes(tx, attr.inode, records, before, content_time(attr, mtime_ns), ctx.now_ns)


def truncate(tx: Transaction, ctx: Context, inode: int, length: int) -> Attr:
    """Cut or extend a file to ``length`` bytes; nothing changes when it has that length.

    A file in the trash is read-only by path; the caller, who knows the path, refuses it.
    Raises like `commit_slices`, and FileError (EINVAL) for a negative length.
    """
    if length < 0:
        raise FileError(f"inode {inode}", "a length is not negative", errno=errno.EINVAL)
    return commit_slices(tx, ctx, inode, (), ctx.now_ns, truncate_to=length)


def lock_file(tx: Transaction, inode: int) -> Attr:
    """Return the attributes of a regular file that this transaction will change.

    Raises
    ------
    StaleHandleError
        The inode is gone. A sustained one, without a name but open, is still there.
    IsDirectoryError, AccessDeniedError
        The inode is a directory, or something else without content.
    """
    attr = tx.get(Attr, inode, lock=True)
    if attr is None:
        raise StaleHandleError(f"inode {inode}", "the file was removed meanwhile")
    if attr.is_directory:
        raise IsDirectoryError(f"inode {inode}")
    if not attr.is_file:
        raise AccessDeniedError(f"inode {inode}", "only a regular file has content")
    return attr


def check_changeable(attr: Attr, start: int, *, truncates: bool = False) -> None:
    """Raise AccessDeniedError where flags forbid changing the bytes from ``start`` on."""
    if attr.flags & NodeFlag.IMMUTABLE:
        raise AccessDeniedError(f"inode {attr.inode}", "the file is immutable")
    if attr.flags & NodeFlag.APPEND_ONLY and (truncates or start < attr.length):
        raise AccessDeniedError(f"inode {attr.inode}", "the file can only be appended to")


def check_length(length: int) -> None:
    """Raise FileError (EFBIG) for a length that no file may have."""
    if length > FILE_BYTES_MAX:
        raise FileError("", f"a file has at most {FILE_BYTES_MAX} bytes", errno=errno.EFBIG)


def truncation(tx: Transaction, attr: Attr, length: int) -> Appends:
    """Return the holes that take a file from its length to ``length``.

    They cover the difference in both directions; without them a later extension would bring
    old bytes back. Chunks in between that have no row stay without one.
    """
    appends: Appends = {}
    if length != attr.length:
        between = _chunks_between(tx, attr.inode, *sorted((attr.length, length)))
        for index, record in truncate_records(attr.length, length, list(between)):
            appends.setdefault(index, []).append(record)
    return appends


def _chunks_between(tx: Transaction, inode: int, start: int, stop: int) -> Iterator[int]:
    """Return the existing chunks strictly between those of two offsets."""
    first, last = start // CHUNK_BYTES, stop // CHUNK_BYTES
    if last - first < 2:
        return
    for row in tx.scan(Chunk, inode, after=(first,)):
        if row.index >= last:
            return
        yield row.index


def change_content(
    tx: Transaction, ctx: Context, attr: Attr, appends: Appends, length: int, mtime_ns: int
) -> Attr:
    """Append records and set the length and times of a locked file, with its usage."""
    ledger = usage.Ledger()
    changed = _rewrite(tx, ctx, ledger, attr, appends, length, mtime_ns)
    ledger.settle(tx, ctx, f"inode {attr.inode}")
    return changed


def _rewrite(
    tx: Transaction,
    ctx: Context,
    ledger: usage.Ledger,
    attr: Attr,
    appends: Appends,
    length: int,
    mtime_ns: int,
) -> Attr:
    """Append records and set the length and times of a locked file.

    One append a chunk: reads see the state before the transaction's own writes, so all
    that happens to a chunk is put together first.
    """
    for index, records in appends.items():
        tx.append(attr.inode, index, b"".join(record.pack() for record in records))
    changed = attr._replace(
        length=length, mtime_ns=content_time(attr, mtime_ns), ctime_ns=ctx.now_ns
    )
    tx.set(Attr, attr.inode, length=length, mtime_ns=changed.mtime_ns, ctime_ns=changed.ctime_ns)
    usage.grow(tx, ctx, ledger, attr, length - attr.length, changed.space - attr.space)
    return changed


def content_time(attr: Attr, mtime_ns: int) -> int:
    """Return the time of a file after a change of its content at ``mtime_ns``.

    An equal or earlier one would leave other clients on the old slice lists.
    """
    return max(mtime_ns, attr.mtime_ns + 1)


def grouped(slices: Sequence[NewSlice]) -> Appends:
    """Return the records of ``slices`` by chunk, in order of application."""
    appends: Appends = {}
    for new in slices:
        _check_record(new.record)
        appends.setdefault(new.index, []).append(new.record)
    return appends


def end_of(slices: Sequence[NewSlice]) -> int:
    """Return the offset in the file behind the last byte of ``slices``; 0 for none."""
    ends = (new.index * CHUNK_BYTES + new.record.pos + new.record.length for new in slices)
    return max(ends, default=0)


def count_references(tx: Transaction, slices: Sequence[NewSlice]) -> None:
    """Write the reference rows of fresh slices, and one more reference to the others."""
    fresh = {new.record.slice_id for new in slices if new.fresh}
    counts = refs_of(b"".join(new.record.pack() for new in slices))
    for (slice_id, size), count in counts.items():
        if slice_id in fresh:
            tx.put_new(SliceRef(slice_id, size, count))
        else:
            tx.add_refs(slice_id, size, count, alive=True)


def _check_record(record: SliceRecord) -> None:
    """Assert what every reader of the volume relies on."""
    assert record.length > 0, record
    assert record.pos + record.length <= CHUNK_BYTES, record
    assert record.slice_id == 0 or record.off + record.length <= record.size, record
