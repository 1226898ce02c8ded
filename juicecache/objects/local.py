"""``file`` storage: a directory; the file of an object is the Bucket address and its name.

Laws: no coroutine of this store suspends, and the directory itself is made by `create` only,
so that a missing mount is an error and never filled. Files are not flushed to the disk one
by one, as the official client does not.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Sequence

from juicecache.errors import (
    ConfigError,
    CorruptBlockError,
    ObjectDeniedError,
    ObjectError,
    ObjectNotFoundError,
)
from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore
from juicecache.objects.walk import TEMPORARY_PREFIX, Item, walk

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class LocalStore(ObjectStore):
    """Objects as files below one directory.

    Parameters
    ----------
    folder
        An absolute path; a ``/`` at its end is optional.

    Raises
    ------
    ConfigError
        The path is relative.
    """

    inline = True

    def __init__(self, folder: str) -> None:
        if not folder.startswith("/"):
            raise ConfigError(f"the bucket of file storage must be an absolute path: {folder!r}")
        self._folder = folder if folder.endswith("/") else folder + "/"

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of a file; see `ObjectStore.get`."""
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._translate(name, error) from error
        try:
            return _read(descriptor, name, start, stop, length)
        except OSError as error:
            raise self._translate(name, error) from error
        finally:
            os.close(descriptor)

    async def put(self, name: str, body: Buffer) -> None:
        """Write a file beside its place and rename it there."""
        path = self._path(name)
        parent = path[: path.rfind("/") + 1]
        temporary = f"{parent}{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            descriptor = self._open_new(temporary, parent)
            try:
                try:
                    os.fchmod(descriptor, FILE_MODE)
                    _write(descriptor, body)
                finally:
                    os.close(descriptor)
                os.rename(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise self._translate(name, error) from error

    async def delete(self, name: str) -> None:
        """Remove a file; an absent one is fine, an absent bucket directory is not."""
        try:
            os.unlink(self._path(name))
        except OSError as error:
            if error.errno not in _ABSENT or not self._exists():
                raise self._translate(name, error) from error

    async def head(self, name: str) -> ObjectInfo:
        """Return the size and time of a file."""
        try:
            found = os.stat(self._path(name))
        except OSError as error:
            raise self._translate(name, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise ObjectNotFoundError(name, "no such object")
        return ObjectInfo(name, found.st_size, found.st_mtime_ns)

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate in the order of names, reading one directory at a time."""
        return walk(self._entries, prefix, after)

    async def create(self) -> None:
        """Make the directory and its parents."""
        try:
            os.makedirs(self._folder, DIRECTORY_MODE, exist_ok=True)
        except OSError as error:
            raise self._translate("", error) from error

    async def aclose(self) -> None:
        """Do nothing: no descriptor outlives a call."""

    def describe(self) -> str:
        """Return the directory as a URL."""
        return f"file://{self._folder}"

    def _exists(self) -> bool:
        return os.path.isdir(self._folder)

    def _path(self, name: str) -> str:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ObjectError(name, "not the name of an object")
        return self._folder + name

    def _open_new(self, temporary: str, parent: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(temporary, flags, FILE_MODE)
        except FileNotFoundError:
            # Each level by itself and never the bucket directory, which makedirs would make.
            end = len(self._folder)
            while (end := parent.find("/", end) + 1) > 0:
                try:
                    os.mkdir(parent[:end], DIRECTORY_MODE)
                    os.chmod(parent[:end], DIRECTORY_MODE)
                except FileExistsError:
                    pass
            return os.open(temporary, flags, FILE_MODE)

    async def _entries(self, directory: str) -> Sequence[Item]:
        items = []
        try:
            with os.scandir(self._folder + directory) as found:
                for entry in found:
                    try:
                        is_directory = entry.is_dir()
                        status = entry.stat()
                    except FileNotFoundError:
                        continue  # deleted while we read the directory
                    items.append(Item(entry.name, is_directory, status.st_size, status.st_mtime_ns))
        except OSError as error:
            if error.errno in _ABSENT and self._exists():
                return []
            raise self._translate(directory, error) from error
        return items

    def _translate(self, name: str, error: OSError) -> ObjectError:
        """Return our error for one of the operating system."""
        if error.errno in _ABSENT:
            if not self._exists():
                return ObjectNotFoundError(
                    name, f"the bucket directory {self._folder} does not exist; is it mounted?"
                )
            return ObjectNotFoundError(name, "no such object")
        words = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _DENIED:
            return ObjectDeniedError(name, f"{words} in {self._folder}")
        return ObjectError(name, f"{words} in {self._folder}")


def _read(descriptor: int, name: str, start: int, stop: int | None, length: int | None) -> bytes:
    size = os.fstat(descriptor).st_size
    if length is not None and size != length:
        raise CorruptBlockError(name, f"{length} bytes", f"{size} bytes", "object storage")
    wanted = max(0, (size if stop is None else min(stop, size)) - start)
    content = os.pread(descriptor, wanted, start)
    if len(content) == wanted:
        return content
    # One call moves 2 GiB at most, and a file being cut short ends early.
    parts = [content]
    done = len(content)
    while done < wanted and (part := os.pread(descriptor, wanted - done, start + done)):
        parts.append(part)
        done += len(part)
    if done < wanted:
        raise CorruptBlockError(name, f"{wanted} bytes", f"{done} bytes", "object storage")
    return b"".join(parts)


def _write(descriptor: int, body: Buffer) -> None:
    view = memoryview(body).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
