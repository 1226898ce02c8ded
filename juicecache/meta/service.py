"""`Meta`: the only door to the metadata for the floors above.

It resolves paths, hands out ids, and turns every operation into one transaction over the
rules of ``tree``, ``chunks`` and their neighbours. Its reading half is in ``lookups``, what it
remembers in ``view``, what it checks before a change in ``gate``.

Law: an error names the path that the caller gave, not the inode it failed on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from juicecache.errors import (
    AccessDeniedError,
    CommitUnknownError,
    EngineUnavailableError,
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    NotDirectoryError,
)
from juicecache.meta import (
    chunks,
    copying,
    files,
    holding,
    remove,
    rename,
    restoring,
    tree,
    xattr,
)
from juicecache.meta.context import Context
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.entries import check_name, check_not_in_trash
from juicecache.meta.gate import Gate
from juicecache.meta.ids import INODE_BATCH, SLICE_BATCH, IdBatch
from juicecache.meta.lookups import Lookups
from juicecache.meta.paths import join_path, split_path
from juicecache.meta.presence import Presence
from juicecache.meta.remove import Removed
from juicecache.meta.rename import RenameMode
from juicecache.meta.tree import AttrChange, NewNode
from juicecache.meta.xattr import XattrMode
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.model.setting import CLIENT_VERSION, Setting
from juicecache.model.slices import SliceRecord

T = TypeVar("T")

_REMOVED_PER_COMMIT = 1000
"""Entries that one transaction of a recursive removal takes: some 100 ms of the write lock."""


class Meta(Lookups):
    """Metadata of one volume, for one process.

    Parameters
    ----------
    engine, setting
        The database and its parsed record.
    read_only
        Refuse every change, whatever the database would allow.
    subdir
        The directory that the caller sees as the root.
    heartbeat_s
        How often the session is renewed and the record read again.
    owner
        (uid, gid, umask) of what is created.
    clock
        Returns nanoseconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        setting: Setting,
        *,
        read_only: bool = False,
        subdir: str = "",
        heartbeat_s: float = 12.0,
        owner: tuple[int, int, int] = (0, 0, 0o022),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.presence = Presence(engine, heartbeat_s, clock, f"{CLIENT_VERSION}+juicecache")
        gate = Gate(
            engine,
            setting,
            self.presence,
            read_only=read_only,
            heartbeat_s=heartbeat_s,
            owner=owner,
            clock=clock,
        )
        super().__init__(engine, gate, subdir)
        self._inodes = IdBatch(engine, "nextInode", INODE_BATCH, least=ROOT_INODE + 1)
        self._slices = IdBatch(engine, "nextChunk", SLICE_BATCH)

    # ------------------------------------------------------------------ the tree

    def make_node(
        self, path: str, kind: NodeType, mode: int, *, target: bytes = b"", rdev: int = 0
    ) -> Attr:
        """Create an entry of any type; its directory must exist."""
        names = self._entry(path)
        self.gate.check_writable(path)
        node = NewNode(self._inodes.take()[0], kind, mode, target, rdev)

        def body(tx: Transaction, ctx: Context) -> Attr:
            return tree.create(tx, ctx, tree.directory_of(tx, names), names[-1], node)

        return self.change(path, body)

    def make_parents(self, path: str) -> None:
        """Create the missing directories above ``path``; others may do the same meanwhile."""
        parts = split_path(path)[:-1]
        missing = []
        while parts:
            try:
                attr = self.resolve(join_path(parts))
            except EntryNotFoundError:
                missing.append(parts)
                parts = parts[:-1]
                continue
            if not attr.is_directory:
                raise NotDirectoryError(join_path(parts))
            break
        for names in reversed(missing):
            try:
                self.make_node(join_path(names), NodeType.DIRECTORY, 0o777)
            except EntryExistsError:
                continue

    def remove(self, path: str, *, directory: bool = False, skip_trash: bool = False) -> Removed:
        """Unlink a file, or remove an empty directory."""
        names = self._entry(path)
        act = remove.rmdir if directory else remove.unlink

        def body(tx: Transaction, ctx: Context) -> Removed:
            return act(tx, ctx, tree.directory_of(tx, names), names[-1])

        return self.change(path, body, removing=True, skip_trash=skip_trash)

    def remove_below(self, path: str, *, skip_trash: bool = False) -> list[Removed]:
        """Remove some entries below a directory; an empty list means that none is left."""
        names = self._names(path)

        def body(tx: Transaction, ctx: Context) -> list[Removed]:
            top = tree.resolve(tx, names, follow=False)
            return remove.remove_below(tx, ctx, top.inode, limit=_REMOVED_PER_COMMIT)

        return self.change(path, body, removing=True, skip_trash=skip_trash)

    def rename(self, source: str, target: str, mode: RenameMode) -> Removed | None:
        """Move an entry; returns what it replaced."""
        old, new = self._entry(source), self._entry(target)

        def body(tx: Transaction, ctx: Context) -> Removed | None:
            origin = tree.directory_of(tx, old)
            place = tree.directory_of(tx, new)
            return rename.rename(tx, ctx, (origin, old[-1]), (place, new[-1]), mode=mode)

        return self.change(source, body, target=target, removing=True)

    def restore(self, hour: str, entry: str) -> None:
        """Put an entry of the trash back where it was; see `restoring.restore`."""
        names = os.fsencode(hour), os.fsencode(entry)
        self.change(f"/.trash/{hour}/{entry}", lambda tx, ctx: restoring.restore(tx, ctx, *names))

    def link(self, source: str, target: str) -> Attr:
        """Give a file a second name."""
        old, new = self._names(source), self._entry(target)

        def body(tx: Transaction, ctx: Context) -> Attr:
            inode = tree.resolve(tx, old, follow=False).inode
            return tree.link(tx, ctx, inode, tree.directory_of(tx, new), new[-1])

        return self.change(source, body, target=target)

    def set_attr(self, path: str, change: AttrChange, *, follow: bool = True) -> Attr:
        """Change mode, owner, times or flags."""
        names = self._names(path)

        def body(tx: Transaction, ctx: Context) -> Attr:
            return tree.set_attr(tx, ctx, tree.resolve(tx, names, follow=follow).inode, change)

        return self.change(path, body)

    def set_xattr(self, path: str, name: str, value: bytes, mode: XattrMode) -> None:
        """Set an extended attribute."""
        names = self._names(path)

        def body(tx: Transaction, ctx: Context) -> None:
            xattr.set_xattr(tx, ctx, tree.resolve(tx, names).inode, name, value, mode=mode)

        self.change(path, body)

    def remove_xattr(self, path: str, name: str) -> None:
        """Remove an extended attribute; NoAttributeError when absent."""
        names = self._names(path)

        def body(tx: Transaction, ctx: Context) -> None:
            xattr.remove_xattr(tx, ctx, tree.resolve(tx, names).inode, name)

        self.change(path, body)

    # ------------------------------------------------------------------ contents

    def new_inodes(self, count: int) -> range:
        """Return numbers of inodes that were never used."""
        return self._inodes.take(count)

    def place_of(self, path: str) -> tuple[int, bytes]:
        """Return the inode of the directory that ``path`` is in, and its last name."""
        names = self._entry(path)
        return self._read(path, lambda tx: tree.directory_of(tx, names)), names[-1]

    def new_slice_id(self) -> int:
        """Return a slice id that was never used."""
        return self._slices.take()[0]

    def truncate(self, path: str, length: int) -> Attr:
        """Set the length of a file."""
        names = self._names(path)

        def body(tx: Transaction, ctx: Context) -> Attr:
            attr = tree.resolve(tx, names)
            check_not_in_trash(attr)
            return chunks.truncate(tx, ctx, attr.inode, length)

        return self.change(path, body)

    def truncate_inode(self, path: str, inode: int, length: int) -> Attr:
        """Set the length of an open file, whatever its name is now."""
        return self.change(path, lambda tx, ctx: chunks.truncate(tx, ctx, inode, length))

    def commit(
        self,
        path: str,
        inode: int,
        slices: Sequence[chunks.NewSlice],
        mtime_ns: int,
        *,
        held: Sequence[holding.Hold] = (),
    ) -> Attr:
        """Append stored slices to an existing file, in order; ``held`` is what kept them."""
        return self.change(
            path,
            lambda tx, ctx: chunks.commit_slices(tx, ctx, inode, slices, mtime_ns),
            held=held,
        )

    def commit_file(
        self,
        path: str,
        slices: Sequence[chunks.NewSlice],
        mtime_ns: int,
        *,
        exclusive: bool,
        held: Sequence[holding.Hold] = (),
    ) -> Attr:
        """Make ``path`` a file of exactly these slices; missing directories are made before.

        See `files.commit_files`; ``held`` is what kept the slices until now.
        """
        names = self._entry(path)
        self.gate.check_writable(path)
        file = files.WholeFile(names, self._inodes.take()[0], slices, exclusive)

        def body(tx: Transaction, ctx: Context) -> Attr:
            (outcome,) = files.commit_files(tx, ctx, [file], mtime_ns)
            if isinstance(outcome, FileError):
                raise outcome
            return outcome

        try:
            return self.change(path, body, held=held)
        except EntryNotFoundError:
            self.make_parents(path)
            return self.change(path, body, held=held)

    def commit_files(
        self,
        contents: Sequence[tuple[str, Sequence[chunks.NewSlice], bool]],
        mtime_ns: int,
        *,
        held: Sequence[holding.Hold] = (),
    ) -> list[Attr | FileError]:
        """Make paths files of exactly their slices, in one transaction.

        Missing directories are made before. The caller bounds the number of files.

        Parameters
        ----------
        contents
            Path, slices, and whether a path that is taken is refused.
        held
            What kept the slices until now.

        Returns
        -------
        list
            The attributes of each, or why it was refused; see `files.commit_files`.
        """
        first_path = contents[0][0]
        self.gate.check_writable(first_path)
        outcomes: list[Attr | FileError | None] = [None] * len(contents)
        wanted: dict[int, files.WholeFile] = {}
        ready: set[tuple[bytes, ...]] = set()
        inodes = self._inodes.take(len(contents))
        for number, (path, slices, exclusive) in enumerate(contents):
            try:
                names = self._entry(path)
                if names[:-1] not in ready:
                    self.make_parents(path)
                    ready.add(names[:-1])
                wanted[number] = files.WholeFile(names, inodes[number], slices, exclusive)
            except FileError as error:
                outcomes[number] = error
        if wanted:
            written = self.change(
                first_path,
                lambda tx, ctx: files.commit_files(tx, ctx, list(wanted.values()), mtime_ns),
                held=held,
            )
            for number, found in zip(wanted, written, strict=True):
                outcomes[number] = found
        for (path, _, _), outcome in zip(contents, outcomes, strict=True):
            if isinstance(outcome, FileError):
                outcome.locate(path)
        return [outcome for outcome in outcomes if outcome is not None]

    def hold(self, slices: Sequence[SliceRecord]) -> holding.Hold:
        """Keep stored slices referenced until they are committed; see `holding.hold_slices`.

        Returns
        -------
        Hold
            The file without a name that holds them; `Presence.release` ends it.

        Raises
        ------
        ReadOnlyVolumeError
        MetaError
            Nothing is held, as far as can be known.
        """
        self.gate.check_writable("")
        sid = self.presence.ensure_session()
        inode = self._inodes.take()[0]
        ctx = self.gate.context()
        try:
            return self.engine.write(lambda tx: holding.hold_slices(tx, ctx, sid, inode, slices))
        except CommitUnknownError as error:
            # The number is ours alone, so its row tells what became of the commit.
            attr = self.engine.read(lambda tx: tx.get(Attr, inode))
            if attr is None:
                raise EngineUnavailableError(f"nothing was held: {error}") from error
            return holding.Hold(inode, attr.space)

    def copy(self, source: str, target: str) -> None:
        """Copy a file by its slice records, replacing an existing file; no byte moves."""
        old, new = self._names(source), self._entry(target)
        self.gate.check_writable(target)
        inode = self._inodes.take()[0]

        def body(tx: Transaction, ctx: Context) -> None:
            origin = tree.resolve(tx, old)
            parent = tree.directory_of(tx, new)
            copying.replace_with_copy(tx, ctx, origin, parent, new[-1], inode)

        self.change(source, body, target=target)

    def copy_range(self, source: tuple[str, int], target: tuple[str, int], size: int) -> int:
        """Copy a range of a file into another existing one, each as (path, offset), by records."""
        old, new = self._names(source[0]), self._names(target[0])

        def body(tx: Transaction, ctx: Context) -> int:
            origin, place = tree.resolve(tx, old), tree.resolve(tx, new)
            check_not_in_trash(place)
            ends = origin.inode, source[1], place.inode, target[1]
            return copying.copy_range(tx, ctx, *ends, size)

        return self.change(source[0], body, target=target[0])

    # ------------------------------------------------------------------ inside

    def change(
        self,
        path: str,
        body: Callable[[Transaction, Context], T],
        *,
        target: str | None = None,
        removing: bool = False,
        skip_trash: bool = False,
        held: Sequence[holding.Hold] = (),
    ) -> T:
        """Run a transaction that changes the volume, after all checks that stand before one.

        An error of it names ``path``, and ``target`` where there are two; ``removing`` gives it a
        context that may take names away.
        """
        self.gate.check_writable(path)
        try:
            with _located(path, target):
                if removing:
                    return self.gate.remove(body, skip_trash=skip_trash)
                ctx = holding.with_room_for(self.gate.context(), held)
                return self.engine.write(lambda tx: body(tx, ctx))
        finally:
            self.view.forget()

    def _entry(self, path: str) -> tuple[bytes, ...]:
        names = self._names(path)
        if len(names) == len(self._prefix):
            raise AccessDeniedError(path, "the root cannot be created, moved, removed or replaced")
        with _located(path):
            check_name(names[-1])
        return names


@contextmanager
def _located(path: str, target: str | None = None) -> Iterator[None]:
    try:
        yield
    except FileError as error:
        error.locate(path, target)
        raise
