"""Anything that fsspec opens as an end of a synchronisation."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fsspec.core import url_to_fs

from juicecache.addresses import mask_url
from juicecache.errors import ConfigError, UnsupportedError
from juicecache.faces.sync.item import End, Item, Kind, checked, part_name

_WHOLE = frozenset(
    ["s3", "s3a", "gs", "gcs", "abfs", "az", "adl", "oss", "oci", "cos", "obs", "memory"]
)
"""Protocols whose files appear when they are complete; of others a file is renamed at its end."""
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What file systems call the time of the last change."""


class RemoteEnd(End):
    """A folder, or a single file, of an fsspec file system.

    Raises
    ------
    ConfigError
        No such file system, or a package that it needs is missing.
    """

    def __init__(self, url: str) -> None:
        self._shown = mask_url(url)
        try:
            fs, root = url_to_fs(url, use_listings_cache=False)
        except TypeError:
            fs, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{self._shown}: {mask_url(str(error))}") from None
        self._fs: Any = fs
        self._root: str = root.rstrip("/")
        names = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self._is_whole = not _WHOLE.isdisjoint(names)

    def __str__(self) -> str:
        return self._shown

    def _at(self, path: str) -> str:
        return f"{self._root}/{checked(path)}" if path else self._root or self._fs.root_marker

    def place(self) -> tuple[Any, tuple[str, ...]]:
        """Return the file system, which knows its equals, and the names from its root."""
        return self._fs, tuple(filter(None, self._root.split("/")))

    def listed(self, folder: str, *, follow: bool) -> list[Item]:
        """Return what is in a directory, in any order."""
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(self._at(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            if folder:
                raise  # it was listed a moment ago: what is not known is not empty
            return []
        here = self._at(folder).strip("/")
        items = []
        for entry in entries:
            full = str(entry["name"]).strip("/")
            name = full.removeprefix(f"{here}/") if here else full
            # Of a file, and of a marker of a folder, the listing has the path itself.
            if full != here and name and "/" not in name:
                items.append(self._item(f"{folder}/{name}" if folder else name, entry))
        return items

    def identity(self, folder: str) -> str:
        """Return what a directory is known by."""
        return folder

    @staticmethod
    def _item(path: str, entry: dict[str, Any]) -> Item:
        kind = Kind.DIRECTORY if entry.get("type") == "directory" else Kind.FILE
        size = entry.get("size") if kind is Kind.FILE else 0
        when = next((entry[name] for name in _TIMES if entry.get(name) is not None), None)
        return Item(path, kind, size, _nanoseconds(when))

    def find(self, path: str) -> Item | None:
        """Return one item, links followed."""
        self._fs.invalidate_cache()
        try:
            return self._item(path, self._fs.info(self._at(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> Any:
        """Open a file for reading."""
        return self._fs.open(self._at(path), "rb")

    def read(self, path: str, size: int | None) -> bytes:
        """Return the whole content of a small file."""
        content: bytes = self._fs.cat_file(self._at(path))
        return content

    def store(self, path: str, pieces: Iterable[bytes], size: int | None) -> None:
        """Make a file from pieces, whole or not at all."""
        target = self._at(path)
        with suppress(FileExistsError):
            self._fs.makedirs(self._fs._parent(target), exist_ok=True)
        if self._is_whole:
            self._write(target, pieces)
            return
        part = f"{self._fs._parent(target)}/{part_name()}"
        try:
            self._write(part, pieces)
            self._fs.mv(part, target)
        except BaseException:
            with suppress(Exception):
                self._fs.rm_file(part)
            raise

    def _write(self, target: str, pieces: Iterable[bytes]) -> None:
        """Write a file that is complete, or not there."""
        file = self._fs.open(target, "wb", autocommit=False)
        try:
            for piece in pieces:
                file.write(piece)
            file.close()
        except BaseException:
            with suppress(Exception):
                file.discard()
            raise
        if hasattr(file, "commit"):
            file.commit()

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it."""
        self._fs.makedirs(self._at(path), exist_ok=True)

    def remove(self, item: Item) -> None:
        """Remove a file or link, or an empty directory."""
        if item.kind is Kind.DIRECTORY:
            self._fs.rmdir(self._at(item.path))
        else:
            self._fs.rm_file(self._at(item.path))

    def read_link(self, path: str) -> str:
        """Return what a symbolic link leads to."""
        raise UnsupportedError(path, f"{self}: symbolic links are not known here")

    def make_link(self, path: str, leads_to: str) -> None:
        """Make a symbolic link."""
        raise UnsupportedError(path, f"{self}: symbolic links cannot be made here")

    def set_owner(self, path: str, item: Item) -> None:
        """Set permission bits, owner and time."""
        raise UnsupportedError(path, f"{self}: permission bits are not kept here")


def _nanoseconds(when: object) -> int | None:
    """Return a time of any of the kinds that file systems tell."""
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            return None
    if isinstance(when, datetime):
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if isinstance(when, int | float) and not isinstance(when, bool):
        return round(when * 1e9)
    return None
