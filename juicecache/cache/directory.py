"""A tier in a folder on tmpfs or a disk, shared by all processes of the node without a daemon.

A block is one file, published by rename and found by its name; what is not there is a miss.
The form of the files is in ``block_file``, the quota in ``space``.

Law: a hit takes no lock, lists nothing and copies nothing: open, fstat, one read, close.

Age of use is the access time of the file. The kernel keeps it for the first read (relatime);
after that a hit sets it when it is older than half a minute, so most hits cost no call.

What is checked against the checksum, by the words of ``--verify-cache-checksum``:

``none``     nothing but the size of the file
``shrink``   a block when all of it is read, the first time this process reads that file
``extend``   a block the first time this process reads any part of that file: all of it is read
``full``     a block at every read: all of it is read
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from juicecache.cache.block_file import (
    LAYOUT,
    BlockPaths,
    file_bytes,
    read_checked,
    write_block,
)
from juicecache.cache.books import Books
from juicecache.cache.policy import eviction_order
from juicecache.cache.space import Space
from juicecache.cache.tier import TierStats
from juicecache.errors import ConfigError
from juicecache.forks import survive_fork
from juicecache.model.layout import BlockKey
from juicecache.mounts import network_file_system

_VERIFY = ("none", "shrink", "extend", "full")
_AGE_GRAIN_S = 30.0
"""An access time this fresh is left alone: eviction needs no finer ages."""
_VERIFIED_MAX = 1 << 17
"""Files remembered as checked, some 30 MB at most; then all are forgotten, and checked again."""
_RETRY_S = 5.0
"""After the medium refused a write, nothing is written for so long: a full or sick disk should
not slow down every read that comes by with a block."""


class DirectoryTier:
    """Blocks in one folder of this machine.

    Parameters
    ----------
    path
        The folder; the tier uses its own subfolder of it, beside those of others.
    capacity_bytes
        Most that the blocks of all processes take, in whole pages.
    free_space_ratio
        Part of the file system, and of its inodes, that is left free: less evicts blocks.
    eviction
        ``2-random``, ``lru`` or ``none``.
    expire_s
        A block that was not used for so long is dropped when it is asked for, and otherwise
        when blocks are counted, at some put; 0 is never.
    verify
        What is checked against the checksum: see the module.
    clock
        Monotonic seconds.

    Raises
    ------
    ConfigError
        An option is wrong, or the folder cannot be used: it is on a network file system, is
        another user's, or cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        capacity_bytes: int,
        free_space_ratio: float = 0.1,
        eviction: str = "2-random",
        expire_s: float = 0,
        verify: str = "extend",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if verify not in _VERIFY:
            raise ConfigError(
                f"verify_cache_checksum is {verify!r}; it can be {', '.join(_VERIFY)}"
            )
        if not 0 <= free_space_ratio < 1:
            raise ConfigError(f"free_space_ratio is {free_space_ratio}; it can be 0 up to below 1")
        order = eviction_order(eviction, random.Random())
        folder = Path(path).absolute()
        self.path = os.fspath(path)
        root = _prepare(folder)
        self.capacity_bytes = capacity_bytes
        self._paths = BlockPaths(root)
        self._clock = clock
        self._space = Space(
            root, capacity_bytes, free_space_ratio, order, int(expire_s * 1e9), clock
        )
        self._expire_s = expire_s if expire_s > 0 else float("inf")
        self._age_grain_s = min(_AGE_GRAIN_S, self._expire_s / 4)
        self._verified: dict[BlockKey, tuple[int, int]] = {}
        self._trusts_all = verify == "none"
        self._trusts_none = verify == "full"
        self._trusts_ranges = verify == "shrink"
        self._closed = False
        self._write_again_at_s = float("-inf")
        self._last_books = Books()
        self._hits = self._misses = self._stored = self._corrupt = self._errors = 0
        survive_fork(self)

    def before_fork(self) -> None:
        """Nothing waits: no other thread's work can be seen half done in the child."""

    def after_fork(self, *, in_child: bool) -> None:
        """Give the child its own lock and its own file of the books."""
        if in_child:
            self._space.after_fork_in_child()

    # ------------------------------------------------------------------ reading

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block; None when it is not here, damaged or expired.

        A damaged or expired copy is removed. ``obj`` of a whole block is a `bytes` of exactly
        its content.
        """
        try:
            content = None if self._closed else self._read(key, start, stop)
        except FileNotFoundError:
            content = None
        except OSError:
            self._errors += 1
            content = None
        if content is None:
            self._misses += 1
            return None
        self._hits += 1
        return content

    def _read(self, key: BlockKey, start: int, stop: int | None) -> memoryview | None:
        path = self._paths.path(key)
        fd = os.open(path, os.O_RDONLY)
        try:
            stat = os.fstat(fd)
            idle_s = time.time() - stat.st_atime
            if idle_s > self._expire_s:
                self._drop(path, stat.st_size)
                return None
            view = None
            if stat.st_size == file_bytes(key.length):
                file = stat.st_ino, stat.st_mtime_ns
                stop = key.length if stop is None else stop
                view = self._read_content(fd, key, file, start, stop)
            if view is None:
                self._drop_damaged(path, stat.st_size)
            elif idle_s > self._age_grain_s:
                _touch(fd, stat.st_mtime_ns)
            return view
        finally:
            os.close(fd)

    def _read_content(
        self, fd: int, key: BlockKey, file: tuple[int, int], start: int, stop: int
    ) -> memoryview | None:
        """Read a range, with what must be checked first; None when the file is damaged."""
        length = key.length
        whole = stop - start == length
        if (
            self._trusts_all
            or (self._verified.get(key) == file and not self._trusts_none)
            or (self._trusts_ranges and not whole)
        ):
            found = os.read(fd, length) if whole else os.pread(fd, stop - start, start)
            return memoryview(found) if len(found) == stop - start else None
        content = read_checked(fd, length)
        if content is None:
            return None
        self._remember(key, file)
        view = memoryview(content)
        return view if whole else view[start:stop]

    def _remember(self, key: BlockKey, file: tuple[int, int]) -> None:
        if len(self._verified) >= _VERIFIED_MAX:
            self._verified.clear()
        self._verified[key] = file

    def _drop_damaged(self, path: bytes, size_bytes: int) -> None:
        self._corrupt += 1
        self._drop(path, size_bytes)

    def _drop(self, path: bytes, size_bytes: int) -> None:
        if _remove(path):
            self._space.give_back(size_bytes)

    def contains(self, key: BlockKey) -> bool:
        """Return whether a file of the right size is here; its checksum is not looked at."""
        try:
            size = os.stat(self._paths.path(key)).st_size
        except OSError:
            return False
        return size == file_bytes(key.length) and not self._closed

    def where(self, key: BlockKey) -> str | None:
        """Return the path of the folder, as it was given, when the block is here."""
        return self.path if self.contains(key) else None

    # ------------------------------------------------------------------ writing

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a block; False when there is no room, or another writer is at this block.

        False also for a while after the medium refused a write.
        """
        assert memoryview(content).nbytes == key.length, key
        if self._closed or self._clock() < self._write_again_at_s:
            return False
        if self.contains(key):
            return True
        path = self._paths.path(key)
        try:
            return self._write(key, path, content)
        except TimeoutError:  # of the books: others are busy, the medium is not sick
            return False
        except OSError:
            self._errors += 1
            self._write_again_at_s = self._clock() + _RETRY_S
            return False

    def _write(self, key: BlockKey, path: bytes, content: bytes | memoryview) -> bool:
        size_bytes = file_bytes(key.length)
        folder, name = os.path.split(path)
        name = os.path.basename(os.path.dirname(folder)) + b"." + name
        fd = self._space.open_file(name, size_bytes)
        if fd is None:
            return False
        try:
            # Since we looked, another writer may have finished; a file of another size is wrong.
            if self.contains(key):
                self._space.abandon(name, size_bytes)
                return True
            write_block(fd, content)
            self._clear_way(path)
            self._space.publish(name, path)
        except BaseException:
            self._space.abandon(name, size_bytes)
            raise
        finally:
            os.close(fd)
        self._stored += 1
        return True

    def _clear_way(self, path: bytes) -> None:
        """Take away what is in the block's place, a damaged copy, so that it is off the books."""
        try:
            size_bytes = os.lstat(path).st_size
        except FileNotFoundError:
            return
        self._drop_damaged(path, size_bytes)

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; True when it was here."""
        path = self._paths.path(key)
        self._verified.pop(key, None)
        if self._closed or not _remove(path):
            return False
        self._space.give_back(file_bytes(key.length))
        return True

    # ------------------------------------------------------------------ the rest

    def stats(self) -> TierStats:
        """Return the counters; the books are those of last time when they cannot be had."""
        if not self._closed:
            try:
                self._last_books = self._space.books()
            except OSError:
                self._errors += 1
        return TierStats(
            medium="directory",
            where=self.path,
            capacity_bytes=self.capacity_bytes,
            used_bytes=self._last_books.used_bytes,
            items=self._last_books.items,
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            evicted=self._space.evicted,
            corrupt=self._corrupt,
            errors=self._errors,
        )

    def close(self) -> None:
        """Stop; the blocks stay for others and for the next time. Safe to call twice."""
        self._closed = True
        self._space.close()


def _prepare(folder: Path) -> bytes:
    """Make the tier's own folder, and return its path.

    It may belong to no one else: whoever owns it could hand us any content as a block, and
    could not read what we write.
    """
    if kind := network_file_system(folder):
        raise ConfigError(
            f"the cache folder {folder} is on a network file system ({kind}): a cache there is "
            "as slow as what it caches, and its locks may not keep processes apart; "
            "use a local disk or /dev/shm"
        )
    root = folder / LAYOUT
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        root.mkdir(0o700, exist_ok=True)
        owner = root.stat().st_uid
    except OSError as error:
        raise ConfigError(
            f"the cache folder {folder} cannot be used: {error.strerror or error}"
        ) from error
    if owner != os.geteuid():
        raise ConfigError(
            f"{root} belongs to user {owner}, not to user {os.geteuid()}: "
            "give each user a cache folder of its own"
        )
    return os.fsencode(root)


def _remove(path: bytes) -> bool:
    """Remove a file, or an empty folder in its place; True when a file is gone."""
    try:
        os.unlink(path)
    except IsADirectoryError:
        try:
            os.rmdir(path)
        except OSError:
            pass
        return False
    except OSError:
        return False
    return True


def _touch(fd: int, mtime_ns: int) -> None:
    """Set the access time to now; the other stays, because it tells files apart."""
    try:
        os.utime(fd, ns=(time.time_ns(), mtime_ns))
    except OSError:
        pass  # a read-only file system keeps no ages
