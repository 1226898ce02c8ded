"""What stands at one end of a synchronisation, and how two listings are joined."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from enum import Enum
from typing import IO, Any, NamedTuple

from juicecache.errors import InvalidNameError

PART = ".juicecache-sync-"
"""What unfinished files begin with: no items. Those that a killed run left may be removed."""
_numbers = itertools.count()


def part_name() -> str:
    """Return a name for an unfinished file that nobody else has."""
    return f"{PART}{os.getpid()}-{next(_numbers)}"


class Kind(Enum):
    """What an item is; anything else is left out."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


class Item(NamedTuple):
    """One entry below the root of an end.

    Attributes
    ----------
    path
        Relative to the root, names joined by ``/``; undecodable bytes as ``os.fsdecode`` has them.
    size
        Bytes of a file; None where the end does not tell.
    mtime_ns
        Nanoseconds since 1970; None where the end does not tell.
    mode, uid, gid
        Permission bits and owner; None where the end has none.
    is_link
        It is what a symbolic link in this place leads to.
    is_beyond
        It is below such a link: not in the tree at all.
    """

    path: str
    kind: Kind
    size: int | None = None
    mtime_ns: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    is_link: bool = False
    is_beyond: bool = False

    @property
    def key(self) -> bytes:
        """What listings are ordered by: as object storage orders names, bytewise.

        Directories count with the ``/`` behind them, so that what is below follows them.
        """
        return key_of(self.path, is_directory=self.kind is Kind.DIRECTORY)


def key_of(path: str, *, is_directory: bool) -> bytes:
    """Return what a path is ordered by."""
    return path.encode("utf-8", "surrogateescape") + (b"/" if is_directory else b"")


class End(ABC):
    """One side of a synchronisation. May be used from several threads.

    Paths are relative to its root. Whatever is stored appears whole or not at all.
    """

    packs = False
    """Whether many small files are stored at once by `store_many`."""
    has_owners = False
    """Whether permission bits, owners and times are kept here."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the address for people, without a secret."""

    @abstractmethod
    def place(self) -> tuple[Hashable, tuple[str, ...]]:
        """Return which file system this is, and the names from its root to ours."""

    def overlaps(self, other: End) -> bool:
        """Return whether one of two ends is the other, or lies in it."""
        system, names = self.place()
        other_system, other_names = other.place()
        return system == other_system and all(a == b for a, b in zip(names, other_names))  # noqa: B905 - one may be longer

    @abstractmethod
    def listed(self, folder: str, *, follow: bool) -> list[Item]:
        """Return what is in a directory, in any order; nothing where there is none.

        Parameters
        ----------
        follow
            What a symbolic link leads to takes its place; else it is a `Kind.LINK`.
        """

    @abstractmethod
    def identity(self, folder: str) -> Hashable:
        """Return what a directory is known by, whatever the links on the way to it."""

    def walk(self, enters: Callable[[str], bool], *, follow: bool) -> Iterator[Item]:
        """Iterate over everything below the root in the order of `Item.key`.

        A directory that a link has inside of itself is left out there.

        Parameters
        ----------
        enters
            Whether to look into a directory.
        follow
            As in `listed`.
        """
        top = self.find("")
        if top is None or top.kind is not Kind.DIRECTORY:
            return
        pending = [(self._ordered("", follow), self.identity(""), False)]
        while pending:
            items, _, is_beyond = pending[-1]
            item = next(items, None)
            if item is None:
                pending.pop()
                continue
            if is_beyond:
                item = item._replace(is_beyond=True)
            if item.kind is not Kind.DIRECTORY:
                yield item
            elif enters(item.path):
                known = self.identity(item.path)
                if all(known != above for _, above, _ in pending):
                    yield item
                    below = self._ordered(item.path, follow)
                    pending.append((below, known, is_beyond or item.is_link))

    def _ordered(self, folder: str, follow: bool) -> Iterator[Item]:
        return iter(sorted(self.listed(folder, follow=follow), key=lambda item: item.key))

    @abstractmethod
    def find(self, path: str) -> Item | None:
        """Return one item, links followed; None where there is none."""

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[IO[bytes] | Any]:
        """Open a file for reading."""

    @abstractmethod
    def read(self, path: str, size: int | None) -> bytes:
        """Return the whole content of a small file of about ``size`` bytes."""

    @abstractmethod
    def store(self, path: str, pieces: Iterable[bytes], size: int | None) -> None:
        """Make a file from pieces; nothing is left behind where they raise."""

    def store_many(self, contents: list[tuple[str, bytes]]) -> list[Exception | None]:
        """Make small files; return what went wrong with each."""
        outcomes: list[Exception | None] = []
        for path, content in contents:
            try:
                self.store(path, [content], len(content))
                outcomes.append(None)
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def copy_inside(self, source: End, path: str) -> bool:
        """Copy a file from another root of the same place without its bytes; False if it is not."""
        return False

    @abstractmethod
    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it; one that is there is fine."""

    @abstractmethod
    def remove(self, item: Item) -> None:
        """Remove a file or link, or an empty directory; of what a link leads to, the link."""

    @abstractmethod
    def read_link(self, path: str) -> str:
        """Return what a symbolic link leads to."""

    @abstractmethod
    def make_link(self, path: str, leads_to: str) -> None:
        """Make a symbolic link, in place of a file or link."""

    @abstractmethod
    def set_owner(self, path: str, item: Item) -> None:
        """Give a file or directory the permission bits, owner and time of an item."""

    def close(self) -> None:
        """Release what was opened for this end alone."""
        return


def checked(path: str) -> str:
    """Return a relative path that stays below any root.

    Raises
    ------
    InvalidNameError
    """
    if any(name in ("", ".", "..") for name in path.split("/")) or "\0" in path:
        raise InvalidNameError(path, "a name that leads elsewhere is not synchronised")
    return path


class Pair(NamedTuple):
    """What one path is on both sides; one of them may be missing."""

    source: Item | None
    target: Item | None


def joined(source: Iterator[Item], target: Iterator[Item]) -> Iterator[Pair]:
    """Iterate over two ordered listings as one, holding an item of each."""
    one, other = next(source, None), next(target, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < other.key):
            yield Pair(one, None)
            one = next(source, None)
        elif one is None or other.key < one.key:
            yield Pair(None, other)
            other = next(target, None)
        else:
            yield Pair(one, other)
            one, other = next(source, None), next(target, None)
