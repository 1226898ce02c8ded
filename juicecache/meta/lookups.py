"""Looking at the tree: the reading half of `Meta`.

Laws: what ``view`` remembers is answered from there, while it is fresh; everything else is
one transaction. An error names the path that the caller gave, not the inode it failed on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from juicecache.errors import EntryNotFoundError, FileError, NotDirectoryError
from juicecache.meta import chunks, tree, usage, xattr
from juicecache.meta.engine import Engine, Found, Listed, Transaction
from juicecache.meta.gate import Gate
from juicecache.meta.paths import ROOT_HERE, join_path, split_path
from juicecache.meta.view import Snapshot, View
from juicecache.model.attr import Attr, NodeType
from juicecache.model.slices import Extent, visible
from juicecache.runtime import collector_paused

T = TypeVar("T")


class Lookups:
    """What can be asked about one volume without changing it.

    Parameters
    ----------
    engine, gate
        The database, and what is checked before it is asked.
    subdir
        The directory that the caller sees as the root.

    Attributes
    ----------
    view
        What is remembered.
    """

    def __init__(self, engine: Engine, gate: Gate, subdir: str) -> None:
        self.engine = engine
        self.gate = gate
        self.view = View(engine)
        prefix = split_path(subdir)
        self._prefix = (*prefix, ROOT_HERE) if prefix else ()

    def cached(self, path: str, max_age_s: float = 0.0) -> Attr | None:
        """Return the attributes of ``path`` if memory has them fresh; no transaction."""
        return self.view.fresh(max_age_s).attrs.get(path)

    def resolve(self, path: str, *, follow: bool = True, max_age_s: float = 0.0) -> Attr:
        """Return the attributes of ``path``.

        Parameters
        ----------
        follow
            Whether a symbolic link at the end is followed.
        max_age_s
            Accept an answer from memory that is at most so old although something changed.

        Raises
        ------
        EntryNotFoundError, NotDirectoryError, InvalidNameError
        """
        snapshot = self.view.fresh(max_age_s)
        key = path if follow else (path,)
        attr = snapshot.attrs.get(key)
        if attr is None:
            if follow:
                return self._look_up(snapshot, path)
            names = self._names(path)
            attr = self._read(path, lambda tx: tree.resolve(tx, names, follow=False))
            snapshot.keep(key, attr)
        return attr

    def _look_up(self, snapshot: Snapshot, path: str) -> Attr:
        """Ask the database, for the first slice list too, and for more of the directory."""
        names = self._names(path)
        head = path[: path.rfind("/") + 1]
        paging = snapshot.paging(head)
        # Of "/d/sub/." the head is not the path of the directory that the last name is in.
        limit = paging.look() if path[len(head) :] not in ("", ".") else 0

        def body(tx: Transaction) -> tuple[Found, list[Listed]]:
            found = _find(tx, names)
            page: list[Listed] = []
            if limit:
                directory = tree.resolve(tx, names[:-1])
                page = list(tx.listing(directory.inode, after=paging.after, limit=limit))
            return found, page

        (attr, records), page = self._read(path, body)
        self._learn(snapshot, path, attr, records)
        if limit:
            paging.advance(page, limit)
            snapshot.keep_page(head, page)
            for entry in page:
                if entry.records is not None:
                    self.view.keep_records(entry.attr, entry.records)
        return attr

    def resolve_many(
        self, paths: Sequence[str], *, max_age_s: float = 0.0
    ) -> list[Attr | FileError]:
        """Return the attributes of each path, or why there are none, in one transaction.

        The slice lists of their first chunks come with them, and are remembered.
        """
        snapshot = self.view.fresh(max_age_s)
        known: dict[str, Attr | FileError] = {}
        unknown: dict[str, tuple[bytes, ...]] = {}
        for path in paths:
            attr = snapshot.attrs.get(path)
            if attr is not None:
                known[path] = attr
            elif path not in unknown:
                try:
                    unknown[path] = self._names(path)
                except FileError as error:
                    known[path] = error
        if unknown:
            with collector_paused():
                looked_up = self._read("", lambda tx: _find_all(tx, list(unknown.values())))
                for path, found in zip(unknown, looked_up, strict=True):
                    if isinstance(found, FileError):
                        found.locate(path, None)
                        known[path] = found
                    else:
                        known[path] = found.attr
                        self._learn(snapshot, path, *found)
        return [known[path] for path in paths]

    def _learn(self, snapshot: Snapshot, path: str, attr: Attr, records: bytes | None) -> None:
        snapshot.keep(path, attr)
        if records is not None:
            self.view.keep_records(attr, records)

    def attr_of(self, path: str, inode: int) -> Attr:
        """Return the attributes of an open file, from the database, whatever its name is now."""
        return self._read(path, lambda tx: tree.getattr(tx, inode))

    def children(self, path: str) -> list[tuple[bytes, Attr]]:
        """Return the entries of a directory in name order, read in one transaction."""
        names = self._names(path)
        return self._read(path, lambda tx: list(tree.children(tx, tree.resolve(tx, names).inode)))

    def walk(self, path: str) -> Iterator[tuple[str, list[tuple[str, Attr]]]]:
        """Iterate over the directories at and below ``path``, each with its entries, top down.

        Every directory is read in a transaction of its own; one that vanishes meanwhile is
        left out. Symbolic links are entries, never followed.
        """
        top = join_path(split_path(path))
        pending = [top]
        while pending:
            directory = pending.pop()
            try:
                children = self.children(directory)
            except (EntryNotFoundError, NotDirectoryError):
                if directory == top:
                    raise
                continue
            entries = [(os.fsdecode(name), attr) for name, attr in children]
            yield directory, entries
            head = directory.rstrip("/")
            pending += [f"{head}/{name}" for name, attr in reversed(entries) if attr.is_directory]

    def readlink(self, path: str) -> bytes:
        """Return the target of a symbolic link."""
        names = self._names(path)
        return self._read(
            path, lambda tx: tree.readlink(tx, tree.resolve(tx, names, follow=False).inode)
        )

    def extents(
        self, path: str, attr: Attr, indices: Sequence[int], *, again: bool = False
    ) -> tuple[Attr, list[list[Extent]]]:
        """Return what is visible in chunks of a file, and the version: ``attr`` or a later one.

        ``again`` drops what memory has: its objects were missing. ``path`` is for errors.
        """
        found = [None if again else self.view.extents(attr, index) for index in indices]
        unknown = [index for index, known in zip(indices, found, strict=True) if known is None]
        if not unknown:
            return attr, [known for known in found if known is not None]

        def body(tx: Transaction) -> tuple[Attr, Sequence[int], list[bytes]]:
            now = tree.getattr(tx, attr.inode)
            # What memory has of another version does not go together with what is read now.
            wanted = unknown if now.is_same_version(attr) else indices
            return now, wanted, [chunks.read_chunk(tx, attr.inode, index) for index in wanted]

        now, read, records = self._read(path, body)
        lists = [visible(text) for text in records]
        self.view.keep_extents(now, read, lists)
        fresh = dict(zip(read, lists, strict=True))
        return now, [
            fresh.get(index, known or []) for index, known in zip(indices, found, strict=True)
        ]

    def get_xattr(self, path: str, name: str) -> bytes:
        """Return the value of an extended attribute; NoAttributeError when absent."""
        names = self._names(path)
        return self._read(path, lambda tx: xattr.get_xattr(tx, tree.resolve(tx, names).inode, name))

    def list_xattr(self, path: str) -> list[str]:
        """Return the names of the extended attributes."""
        names = self._names(path)
        return self._read(path, lambda tx: xattr.list_xattr(tx, tree.resolve(tx, names).inode))

    def totals(self) -> usage.Totals:
        """Return what the volume holds."""
        return self.engine.read(usage.totals)

    def summary(self, path: str) -> usage.Summary:
        """Return what the tree at and below ``path`` holds, read in one transaction."""
        names = self._names(path)
        return self._read(path, lambda tx: usage.subtree(tx, tree.resolve(tx, names, follow=False)))

    def _read(self, path: str, body: Callable[[Transaction], T]) -> T:
        self.gate.check()
        try:
            return self.engine.read(body)
        except FileError as error:
            error.locate(path, None)
            raise

    def _names(self, path: str) -> tuple[bytes, ...]:
        return self._prefix + split_path(path)


def _find(tx: Transaction, names: Sequence[bytes]) -> Found:
    """Return what a path leads to, links followed, and its first slice list."""
    found = tx.find(_plain(names))
    if found is None or found.attr.type == NodeType.SYMLINK:
        attr = tree.resolve(tx, names)
        return Found(attr, chunks.read_chunk(tx, attr.inode, 0) if attr.is_file else b"")
    return found


def _plain(names: Sequence[bytes]) -> Sequence[bytes]:
    """Return names that go down only, which no root keeps from going up."""
    return [name for name in names if name != ROOT_HERE] if ROOT_HERE in names else names


def _find_all(tx: Transaction, paths: Sequence[Sequence[bytes]]) -> list[Found | FileError]:
    results: list[Found | FileError] = []
    for names, found in zip(paths, tx.find_many([_plain(names) for names in paths]), strict=True):
        if found is not None and found.attr.type != NodeType.SYMLINK:
            results.append(found)
            continue
        try:
            results.append(_find(tx, names))
        except FileError as error:
            results.append(error)
    return results
