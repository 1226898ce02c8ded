"""Storage of other kinds, through an fsspec file system.

Its calls block, so they run on a few threads of this store. The file system is opened with
the first call, and again in a forked child.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from juicecache.errors import (
    CorruptBlockError,
    JuicecacheError,
    ObjectDeniedError,
    ObjectError,
    ObjectNotFoundError,
    ObjectUnavailableError,
)
from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore
from juicecache.objects.walk import TEMPORARY_PREFIX, Item, walk
from juicecache.runtime import BoundedExecutor

T = TypeVar("T")

WORKERS = 16
"""Requests at once: a thread each, and these services are slow rather than the cores busy."""


class ForeignStore(ObjectStore):
    """Objects as files of an fsspec file system.

    Parameters
    ----------
    open_file_system
        Makes the file system; called on a thread of this store, once a process.
    root
        Stands before every name.
    address
        For people; without a secret.
    atomic_put
        False writes under a temporary name and renames.
    """

    def __init__(
        self, open_file_system: Callable[[], Any], root: str, address: str, *, atomic_put: bool
    ) -> None:
        self._open_file_system = open_file_system
        self._root = root
        self._address = address
        self._atomic_put = atomic_put
        self._opened: tuple[int, Any] | None = None
        self._lock = threading.Lock()
        self._executor = BoundedExecutor(WORKERS, "juicecache-foreign")

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of a file; its length is checked when it is read whole."""
        whole = start == 0 and (stop is None or stop == length)
        if not whole and stop is not None and stop <= start:
            return b""

        def read(fs: Any) -> bytes:
            if whole:
                return bytes(fs.cat_file(self._root + name))
            return bytes(fs.cat_file(self._root + name, start=start, end=stop))

        content = await self._run(name, read)
        if whole and length is not None and len(content) != length:
            raise CorruptBlockError(
                name, f"{length} bytes", f"{len(content)} bytes", "object storage"
            )
        return content

    async def put(self, name: str, body: Buffer) -> None:
        """Write a file, whole or not at all."""

        def write(fs: Any) -> None:
            path = self._root + name
            parent = path[: path.rfind("/") + 1]
            content = bytes(body)
            if self._atomic_put:
                fs.pipe_file(path, content)
                return
            temporary = f"{parent}{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            fs.makedirs(parent, exist_ok=True)
            fs.pipe_file(temporary, content)
            fs.mv(temporary, path)

        await self._run(name, write)

    async def delete(self, name: str) -> None:
        """Remove a file; an absent one is fine."""
        try:
            await self._run(name, lambda fs: fs.rm_file(self._root + name))
        except ObjectNotFoundError:
            pass

    async def head(self, name: str) -> ObjectInfo:
        """Return the size and time of a file."""
        found = await self._run(name, lambda fs: fs.info(self._root + name))
        if found["type"] != "file":
            raise ObjectNotFoundError(name, "no such object")
        return ObjectInfo(name, int(found["size"]), _modified_ns(found))

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate in the order of names, reading one directory at a time."""
        return walk(self._entries, prefix, after)

    async def create(self) -> None:
        """Make the directory."""
        if self._root.strip("/"):
            await self._run("", lambda fs: fs.makedirs(self._root, exist_ok=True))

    async def aclose(self) -> None:
        """Stop the threads."""
        self._executor.close(wait=False)

    def describe(self) -> str:
        """Return the address."""
        return self._address

    async def _entries(self, directory: str) -> Sequence[Item]:
        def read(fs: Any) -> Sequence[Item]:
            try:
                found = fs.ls(self._root + directory, detail=True, refresh=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [
                Item(
                    row["name"].rstrip("/").rpartition("/")[2],
                    row["type"] == "directory",
                    int(row.get("size") or 0),
                    _modified_ns(row),
                )
                for row in found
                if row["name"].strip("/") != (self._root + directory).strip("/")
            ]

        return await self._run(directory, read)

    async def _run(self, name: str, call: Callable[[Any], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._executor.pool, lambda: call(self._file_system())
            )
        except JuicecacheError:
            raise
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ObjectNotFoundError(name, f"no such object in {self._address}") from error
        except PermissionError as error:
            raise ObjectDeniedError(name, f"refused by {self._address}") from error
        except (OSError, TimeoutError) as error:
            raise ObjectUnavailableError(
                name, f"{type(error).__name__} at {self._address}"
            ) from error
        except Exception as error:  # drivers of many makers, each with its own classes
            raise ObjectError(name, f"{type(error).__name__} at {self._address}") from error

    def _file_system(self) -> Any:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), self._open_file_system()
            return self._opened[1]


def _modified_ns(row: dict[str, Any]) -> int:
    """Return the time of a file; file systems call it by different names, or not at all.

    A time that is not known is now: what was stored a moment ago looks the same, and a
    collector must not take it for old.
    """
    for key in ("mtime", "modified", "LastModified", "last_modified", "updated", "created"):
        value = row.get(key)
        if isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1_000_000_000)
        if isinstance(value, int | float) and value > 0:
            return int(value * 1_000_000_000)
    return time.time_ns()


def _parsed(text: str) -> datetime | None:
    """Return a time from ISO 8601 or the form of mail; without a zone it is UTC."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = parse(text)
        except (ValueError, TypeError):
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
