"""Whole files: made, or given new content, in the one transaction that commits their slices.

Laws: of several contents for one file in one transaction only the last is written, because
a transaction does not see its own writes; whatever one of several files is refused for, the
others are committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from juicecache.errors import EntryExistsError, FileError, IsDirectoryError
from juicecache.meta.acl import inherit
from juicecache.meta.change_log import MTIME_CHANGED, note_attributes, note_writes
from juicecache.meta.chunks import (
    NewSlice,
    append_slices,
    check_changeable,
    check_length,
    content_time,
    count_references,
    end_of,
    grouped,
    lock_file,
)
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction, Want
from juicecache.meta.entries import (
    add_node,
    check_may_add,
    check_new,
    check_not_in_trash,
    lock_directories,
)
from juicecache.meta.rows import Chunk, DirStats, Edge
from juicecache.meta.tree import (
    NewNode,
    directory_of,
    lookup,
    new_attr,
    note_creation,
    resolve,
)
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr, NodeType


class WholeFile(NamedTuple):
    """A path that becomes a file of exactly these slices.

    Attributes
    ----------
    names
        The path, at least one name.
    inode
        A number that was never used, for the file where it is new.
    exclusive
        Refuse a name that is taken.
    """

    names: tuple[bytes, ...]
    inode: int
    slices: Sequence[NewSlice]
    exclusive: bool = False


def commit_files(
    tx: Transaction,
    ctx: Context,
    files: Sequence[WholeFile],
    mtime_ns: int,
    *,
    mode: int = 0o666,
) -> list[Attr | FileError]:
    """Make paths files of exactly their slices; return the attributes, or why not, of each.

    An existing file keeps its inode, names and mode, and is seen either with the old
    content or with the new; a symbolic link is followed. New files get ``mode`` before the
    umask. Slices may be shared: each counts as many references as records were written.

    A refusal of one file is EntryExistsError, IsDirectoryError, EntryNotFoundError or
    NotDirectoryError of its directory, or AccessDeniedError.

    Raises
    ------
    NoSpaceError
        All of them together exceed the capacity of the volume.
    """
    ledger = Ledger()
    directories = _lock_directories(tx, files)
    outcomes: list[Attr | FileError] = []
    done: dict[int | tuple[int, bytes], Attr] = {}
    written: list[NewSlice] = []
    for file in reversed(files):
        try:
            directory = directories[file.names[:-1]]
            if isinstance(directory, FileError):
                raise directory
            there = _existing(tx, directory, file)
            target = (directory.inode, file.names[-1]) if there is None else there.inode
            if target not in done:
                done[target] = _write(tx, ctx, ledger, directory, there, file, mtime_ns, mode)
                written += file.slices
            outcomes.append(done[target])
        except FileError as error:
            outcomes.append(error)
    count_references(tx, written)
    ledger.settle(tx, ctx, files[0].names[-1])
    return outcomes[::-1]


def _lock_directories(
    tx: Transaction, files: Sequence[WholeFile]
) -> dict[tuple[bytes, ...], Attr | FileError]:
    """Lock the directories of files, in ascending order; tell which are none, or missing."""
    places = _directories(tx, files)
    found: dict[tuple[bytes, ...], Attr | FileError] = {}
    there = [(inode, names) for names, inode in places.items() if isinstance(inode, int)]
    entries = ((places[file.names[:-1]], file.names[-1]) for file in files)
    tx.expect(
        *(Want(Attr, (inode,), lock=True) for inode in sorted({inode for inode, _ in there})),
        *(Want(Edge, (inode, name)) for inode, name in entries if isinstance(inode, int)),
        *(Want(DirStats, (inode,)) for inode, _ in there),
    )
    for inode, names in sorted(there):
        try:
            (found[names],) = lock_directories(tx, (inode, b"/".join(names)))
        except FileError as error:
            found[names] = error
    refused = {names: error for names, error in places.items() if isinstance(error, FileError)}
    return found | refused


def _directories(
    tx: Transaction, files: Sequence[WholeFile]
) -> dict[tuple[bytes, ...], int | FileError]:
    """Return the inodes of the files' directories, or why there are none."""
    places: dict[tuple[bytes, ...], Callable[[], int]] = {
        names: lambda names=names: resolve(tx, names).inode  # type: ignore[misc]  # mypy cannot infer a lambda default
        for names in {file.names[:-1] for file in files}
    }
    if len(files) == 1:
        # The name of a single one is looked for at once.
        places = {files[0].names[:-1]: lambda: directory_of(tx, files[0].names)}
    found: dict[tuple[bytes, ...], int | FileError] = {}
    for names, find in places.items():
        try:
            found[names] = find()
        except FileError as error:
            found[names] = error
    return found


def _existing(tx: Transaction, directory: Attr, file: WholeFile) -> Attr | None:
    """Return what has the name already and may get new content; None where it is free."""
    if tx.get(Edge, directory.inode, file.names[-1]) is None:
        return None
    there = lookup(tx, directory.inode, file.names[-1])
    if there is None:  # an entry whose node was lost
        raise EntryExistsError(file.names[-1])
    if file.exclusive:
        raise EntryExistsError(file.names[-1])
    if there.type == NodeType.SYMLINK:
        there = resolve(tx, file.names)
    if there.is_directory:
        raise IsDirectoryError(file.names[-1])
    check_not_in_trash(there)
    return lock_file(tx, there.inode)


def _write(
    tx: Transaction,
    ctx: Context,
    ledger: Ledger,
    directory: Attr,
    there: Attr | None,
    file: WholeFile,
    mtime_ns: int,
    mode: int,
) -> Attr:
    if there is None:
        return _new_file(tx, ctx, ledger, directory, file, mtime_ns, mode)
    if not file.slices and not there.length:
        # An empty file made empty again is still written to: its times move.
        check_changeable(there, 0, truncates=True)
        changed = there._replace(mtime_ns=content_time(there, mtime_ns), ctime_ns=ctx.now_ns)
        tx.set(Attr, there.inode, mtime_ns=changed.mtime_ns, ctime_ns=changed.ctime_ns)
        note_attributes(tx, changed, MTIME_CHANGED)
        return changed
    return append_slices(tx, ctx, ledger, there, file.slices, mtime_ns, truncate_to=0)


def _new_file(
    tx: Transaction,
    ctx: Context,
    ledger: Ledger,
    directory: Attr,
    file: WholeFile,
    mtime_ns: int,
    mode: int,
) -> Attr:
    name = file.names[-1]
    check_length(end_of(file.slices))
    check_new(directory.inode, name)
    check_may_add(directory, name)
    new = NewNode(file.inode, NodeType.FILE, mode)
    attr = new_attr(ctx, directory, new)._replace(length=end_of(file.slices), mtime_ns=mtime_ns)
    attr = inherit(tx, directory, attr, mode, ledger.rules)
    add_node(tx, ledger, name, attr)
    note_creation(tx, ctx, name, attr, new)
    written = [(one.index, one.record) for one in file.slices]
    note_writes(tx, file.inode, written, lambda _: 0, mtime_ns, ctx.now_ns)
    for index, records in grouped(file.slices).items():
        tx.put_new(Chunk(file.inode, index, b"".join(record.pack() for record in records)))
    return attr
