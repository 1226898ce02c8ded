"""A directory of a volume as an end of a synchronisation."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from juicecache.errors import EntryNotFoundError, FileError, NotDirectoryError
from juicecache.faces.sync.item import End, Item, Kind, checked
from juicecache.model.attr import Attr, NodeType
from juicecache.volume.volume import Volume

_KINDS = {
    NodeType.FILE: Kind.FILE,
    NodeType.DIRECTORY: Kind.DIRECTORY,
    NodeType.SYMLINK: Kind.LINK,
}
_LINKS_MAX = 40
"""As many as any path may go through."""
_TRASH = ".trash"
"""In the root alone: what was removed is not synchronised."""


class VolumeEnd(End):
    """A directory, or a single file, of a volume, which is the caller's to close.

    Parameters
    ----------
    address
        For people.
    """

    packs = True
    has_owners = True

    def __init__(self, volume: Volume, root: str, address: str) -> None:
        self._volume = volume
        self._root = root.rstrip("/")
        self._address = address

    def __str__(self) -> str:
        return self._address

    def _at(self, path: str) -> str:
        return f"{self._root}/{checked(path)}" if path else self._root or "/"

    def place(self) -> tuple[str, tuple[str, ...]]:
        """Return the volume, and the names from its root."""
        return self._volume.setting.uuid, canonical(self._volume, self._root)

    def listed(self, folder: str, *, follow: bool) -> list[Item]:
        """Return what is in a directory, in any order."""
        items = []
        for name, attr in self._volume.list_directory(self._at(folder)):
            if not folder and not self._root and name == _TRASH:
                continue
            path = f"{folder}/{name}" if folder else name
            found: Attr | None = attr
            is_link = follow and attr.type == NodeType.SYMLINK
            if is_link:
                found = self._followed(path)
            if found is None:
                items.append(Item(path, Kind.LINK))
            elif found.type in _KINDS:
                items.append(_item(path, found)._replace(is_link=is_link))
        return items

    def identity(self, folder: str) -> int:
        """Return what a directory is known by."""
        return self._volume.stat(self._at(folder)).inode

    def _followed(self, path: str) -> Attr | None:
        try:
            return self._volume.stat(self._at(path))
        except FileError:  # it leads nowhere, or in a circle
            return None

    def find(self, path: str) -> Item | None:
        """Return one item, links followed."""
        try:
            attr = self._volume.stat(self._at(path))
        except (EntryNotFoundError, NotDirectoryError):
            return None
        return _item(path, attr) if attr.type in _KINDS else None

    def open(self, path: str) -> Any:
        """Open a file for reading."""
        return self._volume.open(self._at(path))

    def read(self, path: str, size: int | None) -> bytes:
        """Return the whole content of a small file."""
        return self._volume.read_file(self._at(path))

    def store(self, path: str, pieces: Iterable[bytes], size: int | None) -> None:
        """Make a file from pieces, whole or not at all."""
        target = self._at(path)
        self._volume.make_directory(target.rpartition("/")[0] or "/", parents=True, exist_ok=True)
        file: Any = self._volume.open(target, "wb")
        try:
            for piece in pieces:
                file.write(piece)
        except BaseException:
            file.discard()
            raise
        file.close()

    def store_many(self, contents: list[tuple[str, bytes]]) -> list[Exception | None]:
        """Make small files, packed; return what went wrong with each."""
        return self._volume.write_files([(self._at(path), content) for path, content in contents])

    def copy_inside(self, source: End, path: str) -> bool:
        """Copy the records of a file of the same volume."""
        if not isinstance(source, VolumeEnd) or source._volume is not self._volume:
            return False
        target = self._at(path)
        self._volume.make_directory(target.rpartition("/")[0] or "/", parents=True, exist_ok=True)
        self._volume.copy_file(source._at(path), target)
        return True

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it."""
        self._volume.make_directory(self._at(path), parents=True, exist_ok=True)

    def remove(self, item: Item) -> None:
        """Remove a file or link, or an empty directory; of what a link leads to, the link."""
        if item.kind is Kind.DIRECTORY and not item.is_link:
            self._volume.remove_directory(self._at(item.path))
        else:
            self._volume.unlink(self._at(item.path))

    def read_link(self, path: str) -> str:
        """Return what a symbolic link leads to."""
        return self._volume.readlink(self._at(path))

    def make_link(self, path: str, leads_to: str) -> None:
        """Make a symbolic link."""
        target = self._at(path)
        self._volume.make_directory(target.rpartition("/")[0] or "/", parents=True, exist_ok=True)
        with suppress(EntryNotFoundError):
            self._volume.unlink(target)
        self._volume.symlink(leads_to, target)

    def set_owner(self, path: str, item: Item) -> None:
        """Set permission bits, owner and time."""
        changes = {"mode": item.mode, "uid": item.uid, "gid": item.gid, "mtime_ns": item.mtime_ns}
        known = {name: value for name, value in changes.items() if value is not None}
        self._volume.set_attr(self._at(path), follow=True, **known)


def canonical(volume: Volume, path: str) -> tuple[str, ...]:
    """Return the names that a path stands for, links on the way and at its end followed."""
    names: list[str] = []
    waiting = path.split("/")[::-1]
    links = 0
    while waiting:
        name = waiting.pop()
        if name == "..":
            del names[-1:]
        if name in ("", ".", ".."):
            continue
        here = "/" + "/".join([*names, name])
        try:
            is_link = volume.stat(here, follow=False).type == NodeType.SYMLINK
        except FileError:  # not there yet
            is_link = False
        if not is_link or links == _LINKS_MAX:
            names.append(name)
            continue
        links += 1
        leads_to = volume.readlink(here)
        if leads_to.startswith("/"):
            names = []
        waiting += leads_to.split("/")[::-1]
    return tuple(names)


def _item(path: str, attr: Attr) -> Item:
    size = attr.length if attr.is_file else 0
    return Item(path, _KINDS[attr.type], size, attr.mtime_ns, attr.mode, attr.uid, attr.gid)
