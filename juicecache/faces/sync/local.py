"""Local files as an end of a synchronisation."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from juicecache.faces.sync.item import PART, End, Item, Kind, checked, part_name


class LocalEnd(End):
    """A folder, or a single file, of this machine."""

    has_owners = True

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)

    def __str__(self) -> str:
        return self._root

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{checked(path)}" if path else self._root

    def place(self) -> tuple[str, tuple[str, ...]]:
        """Return the names from the root of this machine, links followed."""
        return "local", Path(os.path.realpath(self._root)).parts

    def listed(self, folder: str, *, follow: bool) -> list[Item]:
        """Return what is in a directory, in any order."""
        items = []
        with os.scandir(self._at(folder)) as entries:
            for entry in entries:
                if entry.name.startswith(PART):
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                is_link = follow and entry.is_symlink()
                try:
                    item = _item(path, entry.stat(follow_symlinks=follow))
                except OSError:
                    if is_link:  # it leads nowhere, or in a circle
                        items.append(Item(path, Kind.LINK))
                    continue
                if item is not None:
                    items.append(item._replace(is_link=True) if is_link else item)
        return items

    def identity(self, folder: str) -> tuple[int, int]:
        """Return what a directory is known by."""
        status = os.stat(self._at(folder))
        return status.st_dev, status.st_ino

    def find(self, path: str) -> Item | None:
        """Return one item, links followed."""
        try:
            return _item(path, os.stat(self._at(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        return open(self._at(path), "rb", buffering=0)

    def read(self, path: str, size: int | None) -> bytes:
        """Return the whole content of a small file."""
        return Path(self._at(path)).read_bytes()

    def store(self, path: str, pieces: Iterable[bytes], size: int | None) -> None:
        """Make a file from pieces, whole or not at all."""
        target = self._at(path)
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        # As short as it may be: the name of the file can have the full length already.
        part = os.path.join(folder, part_name())
        try:
            # Buffered: a raw file takes a part of a piece, and says so to nobody, on a full disk.
            with open(part, "wb") as file:
                file.writelines(pieces)
            os.replace(part, target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it."""
        os.makedirs(self._at(path), exist_ok=True)

    def remove(self, item: Item) -> None:
        """Remove a file or link, or an empty directory; of what a link leads to, the link."""
        path = self._at(item.path)
        is_directory = item.kind is Kind.DIRECTORY and not item.is_link
        (os.rmdir if is_directory else os.unlink)(path)

    def read_link(self, path: str) -> str:
        """Return what a symbolic link leads to."""
        return os.readlink(self._at(path))

    def make_link(self, path: str, leads_to: str) -> None:
        """Make a symbolic link."""
        target = self._at(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(target)
        os.symlink(leads_to, target)

    def set_owner(self, path: str, item: Item) -> None:
        """Set permission bits, owner and time."""
        target = self._at(path)
        if item.uid is not None and item.gid is not None:
            with suppress(PermissionError):  # only the superuser gives files away
                os.chown(target, item.uid, item.gid)
        if item.mode is not None:
            os.chmod(target, item.mode)
        if item.mtime_ns is not None:
            os.utime(target, ns=(item.mtime_ns, item.mtime_ns))


def _item(path: str, status: os.stat_result) -> Item | None:
    """Return the item of a path; None for pipes, devices and the like."""
    kinds = {
        stat.S_IFREG: Kind.FILE,
        stat.S_IFDIR: Kind.DIRECTORY,
        stat.S_IFLNK: Kind.LINK,
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return Item(
        path,
        kind,
        status.st_size if kind is Kind.FILE else 0,
        status.st_mtime_ns,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
    )
