"""A tier in a folder on tmpfs or a disk, shared by all processes of the node without a daemon.

A block is one file, published by rename and found by its name; what is not there is a miss.
The form of the files is in ``block_file``, the quota in ``space``, what is checked in ``checking``.

Law: a hit takes no lock, lists nothing and copies nothing: open, fstat, one read, close.

Age of use is the access time of the file. The kernel keeps it for the first read (relatime);
after that a hit sets it when it is older than half a minute, so most hits cost no call.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from juicecache.cache.access import Access, prepare_root
from juicecache.cache.block_file import (
    BlockPaths,
    charge,
    file_bytes,
    read_checked,
    read_part,
    read_raw_sums,
    write_block,
)
from juicecache.cache.books import Books
from juicecache.cache.checking import ANY, Checks, identity
from juicecache.cache.claims import FREE, Claim, ClaimFile
from juicecache.cache.health import Health, device_of, probe
from juicecache.cache.memory_limit import memory_left
from juicecache.cache.policy import eviction_order
from juicecache.cache.room import Limits, NoRoomError
from juicecache.cache.space import Space
from juicecache.cache.tier import TierStats
from juicecache.errors import ConfigError
from juicecache.forks import survive_fork
from juicecache.model.layout import BlockKey
from juicecache.model.segments import Held, bounds, touched
from juicecache.mounts import is_memory_file_system, network_file_system

_AGE_GRAIN_S = 30.0
"""An access time this fresh is left alone: eviction needs no finer ages."""
_CLAIM_AGAIN_S = 5.0
"""After a block found no room, loads are not claimed for so long: none would be found here."""


class DirectoryTier:
    """Blocks in one folder of this machine.

    Parameters
    ----------
    path
        The folder; the tier uses its own subfolder of it, beside those of others.
    capacity_bytes
        Most that the blocks of all processes take, in whole pages.
    capacity_items
        Most blocks; 0 is no limit.
    free_space_ratio
        Part of the file system and of its inodes, and on tmpfs of the memory that this
        container may take, that is left free: less evicts blocks.
    eviction
        ``2-random``, ``lru`` or ``none``.
    expire_s
        A block that was not used for so long is dropped when it is asked for, and otherwise
        when blocks are counted, at some put; 0 is never.
    verify
        What is checked against the checksums: see ``checking``.
    clock
        Monotonic seconds.

    Raises
    ------
    ConfigError
        An option is wrong, or the folder cannot be used: it is on a network file system, is
        another user's, or cannot be made.
    """

    shared = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        capacity_bytes: int,
        capacity_items: int = 0,
        free_space_ratio: float = 0.1,
        eviction: str = "2-random",
        expire_s: float = 0,
        verify: str = "extend",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = Checks(verify)
        if not 0 <= free_space_ratio < 1:
            raise ConfigError(f"free_space_ratio is {free_space_ratio}; it can be 0 up to below 1")
        order = eviction_order(eviction, random.Random())
        folder = Path(path).absolute()
        self.path = os.fspath(path)
        root, access = _prepare(folder)
        self._access, self._user = access, os.geteuid()
        self.capacity_bytes = capacity_bytes
        self._paths = BlockPaths(root)
        self._clock = clock
        limits = Limits(capacity_bytes, capacity_items, free_space_ratio)
        if is_memory_file_system(folder):
            limits = replace(limits, memory_left=partial(memory_left, free_space_ratio))
        self._space = Space(root, limits, order, int(expire_s * 1e9), clock, access)
        self._claims = ClaimFile(root + b"/.loading", access)
        self._expire_s = expire_s if expire_s > 0 else float("inf")
        self._age_grain_s = min(_AGE_GRAIN_S, self._expire_s / 4)
        self._closed = False
        self._claim_again_at_s = float("-inf")
        self._health = Health(self.path, clock)
        self._root = root
        found = os.stat(root)
        self._place = found.st_dev, found.st_ino
        self._last_books = Books()
        self._count_from_zero()
        survive_fork(self)

    def _count_from_zero(self) -> None:
        self._hits = self._misses = self._stored = self._corrupt = self._errors = 0

    def before_fork(self) -> None:
        """Come to a state that can be copied."""
        self._claims.before_fork()

    def after_fork(self, *, in_child: bool) -> None:
        """Give the child its own locks, its own file of the books and of claims."""
        self._claims.after_fork(in_child=in_child)
        if in_child:
            self._space.after_fork_in_child()
            self._count_from_zero()

    # ------------------------------------------------------------------ reading

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block; None when it is not here, damaged or expired.

        A damaged or expired copy is removed. ``obj`` of a whole block is a `bytes` of exactly
        its content.
        """
        return self._counted(key, start, key.length if stop is None else stop, None)

    def get_into(self, key: BlockKey, start: int, stop: int, buffer: memoryview) -> bool:
        """Read bytes ``[start, stop)`` of a block into ``buffer``; False where `get` is None.

        The kernel copies straight into the buffer; what is checked is read there, too.
        """
        return self._counted(key, start, stop, buffer) is not None

    def _counted(
        self, key: BlockKey, start: int, stop: int, buffer: memoryview | None
    ) -> memoryview | None:
        try:
            content = None if self._closed else self._read(key, start, stop, buffer)
        except FileNotFoundError:
            content = None
        except OSError as error:
            self._refused(error, writing=False)
            content = None
        if content is None:
            self._misses += 1
            return None
        self._hits += 1
        return content

    def _read(
        self, key: BlockKey, start: int, stop: int, buffer: memoryview | None
    ) -> memoryview | None:
        path = self._paths.path(key)
        fd = os.open(path, os.O_RDONLY)
        try:
            view = None
            checked = self._checks.trusted(key, start, stop)
            if checked is not None:
                view = _read_plain(fd, key, start, stop, buffer)
            # What was read unchecked is what was checked once, if the file has not changed until
            # now; what is checked now counts for the file as it is before.
            stat = os.fstat(fd)
            now_s = time.time()
            if not self._is_fresh(path, stat, now_s):
                return None
            if stat.st_size != file_bytes(key.length):
                view = None
            elif checked is None or (checked is not ANY and checked[0] != identity(stat)):
                view = _read_checked(fd, key, start, stop, buffer)
                if view is not None:
                    self._checks.remember(key, stat, start, stop)
            if view is None:
                self._drop_damaged(path, stat.st_ino)
            else:
                self._note_use(fd, stat, now_s)
            return view
        finally:
            os.close(fd)

    def _is_fresh(self, path: bytes, stat: os.stat_result, now_s: float) -> bool:
        """Return whether a file counts; one that expired is removed."""
        if not self._access.trusts(stat, self._user):
            return False
        if now_s - stat.st_atime <= self._expire_s:
            return True
        self._space.remove(path, stat.st_ino)
        return False

    def _note_use(self, fd: int, stat: os.stat_result, now_s: float) -> None:
        if now_s - stat.st_atime > self._age_grain_s:
            _touch(fd, stat.st_mtime_ns)

    def hold(self, key: BlockKey, start: int, stop: int) -> Held | None:
        """Return the segments around ``[start, stop)`` as they stand in the file, unread."""
        try:
            held = None if self._closed else self._hold(key, touched(start, stop))
        except FileNotFoundError:
            held = None
        except OSError as error:
            self._refused(error, writing=False)
            held = None
        if held is None:
            self._misses += 1
        else:
            self._hits += 1
        return held

    def _hold(self, key: BlockKey, segments: range) -> Held | None:
        path = self._paths.path(key)
        fd = os.open(path, os.O_RDONLY)
        held = None
        try:
            stat, now_s = os.fstat(fd), time.time()
            if self._is_fresh(path, stat, now_s):
                # The size first: the checksums of a file that was cut stand elsewhere.
                sums = read_raw_sums(fd, key) if stat.st_size == file_bytes(key.length) else None
                if sums is None:
                    self._drop_damaged(path, stat.st_ino)
                else:
                    self._note_use(fd, stat, now_s)
                    first, last = bounds(segments, key.length)
                    ours = sums[4 * segments.start : 4 * segments.stop]
                    held = Held(fd, first, last - first, None, ours)
        finally:
            if held is None:
                os.close(fd)
        return held

    def examine(self, key: BlockKey) -> bool:
        """Read a block and compare it, whatever was checked before; True when it was bad."""
        self._checks.forget(key)
        path = self._paths.path(key)
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            stat = os.fstat(fd)
            sound = stat.st_size == file_bytes(key.length) and read_checked(fd, key) is not None
            if not sound:
                self._drop_damaged(path, stat.st_ino)
            return not sound
        except OSError as error:
            self._refused(error, writing=False)
            return False
        finally:
            os.close(fd)

    def _drop_damaged(self, path: bytes, inode: int) -> None:
        self._corrupt += 1
        self._space.remove(path, inode)

    def contains(self, key: BlockKey) -> bool:
        """Return whether a file of the right size is here; its checksum is not looked at."""
        try:
            found = os.stat(self._paths.path(key))
        except OSError:
            return False
        size_bytes = file_bytes(key.length)
        return (
            found.st_size == size_bytes
            and self._access.trusts(found, self._user)
            and not self._closed
        )

    def where(self, key: BlockKey) -> str | None:
        """Return the path of the folder, as it was given, when the block is here."""
        return self.path if self.contains(key) else None

    # ------------------------------------------------------------------ writing

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a block; False when there is no room, or another writer is at this block.

        False also for a while after the medium refused a write.
        """
        assert memoryview(content).nbytes == key.length, key
        if self._closed or not self._health.may_write():
            return False
        if self.contains(key):
            return True
        path = self._paths.path(key)
        try:
            self._look()
            kept = self._write(key, path, content)
        except TimeoutError:  # of the books
            return False
        except NoRoomError as error:
            self._claim_again_at_s = self._clock() + _CLAIM_AGAIN_S
            self._health.no_room(str(error))
            return False
        except OSError as error:
            self._refused(error)
            return False
        if kept:
            self._health.recovered()
        return kept

    def _refused(self, error: OSError, *, writing: bool = True) -> None:
        """Count an error; the medium is not sick where others are busy, or clear the folder."""
        self._errors += 1
        if not isinstance(error, (TimeoutError, FileNotFoundError)):
            self._health.refused(error, writing=writing)

    def _look(self) -> None:
        """See whether the folder is still the one whose books and claims are open.

        One that was removed is made again, by the books; but not where its file system is gone:
        the disk below its mount point is not ours to fill.

        Raises
        ------
        OSError
            That file system is gone, or somebody put a folder of his in the place of ours.
        """
        try:
            found = os.stat(self._root)
        except FileNotFoundError:
            if device_of(os.path.dirname(self._root)) != self._place[0]:
                raise OSError(errno.ENODEV, "its file system is not mounted") from None
            return
        if not self._access.trusts(found, self._user):
            raise OSError(errno.EPERM, f"its folder belongs to user {found.st_uid}")
        place = found.st_dev, found.st_ino
        if place != self._place:
            self._place = place
            self._space.close()
            self._claims.close()

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
                self._space.abandon(name, fd)
                return True
            write_block(fd, key, content)
            self._clear_way(path)
            self._space.publish(name, path)
        except BaseException:
            self._space.abandon(name, fd)
            raise
        finally:
            os.close(fd)
        self._stored += 1
        return True

    def claim(self, key: BlockKey) -> Claim | None:
        """Return the right to load a block; None while another process, or tier object, has it.

        While this tier keeps nothing, nobody should wait for what he will not find here.
        """
        if self._closed or not self._health.is_well or self._clock() < self._claim_again_at_s:
            return FREE
        if charge(file_bytes(key.length)) > self.capacity_bytes:
            return FREE
        try:
            return self._claims.claim(key)
        except OSError:
            return FREE  # a read-only or sick medium

    def _clear_way(self, path: bytes) -> None:
        """Take away what is in the block's place, a damaged copy, so that it is off the books."""
        try:
            inode = os.lstat(path).st_ino
        except FileNotFoundError:
            return
        self._drop_damaged(path, inode)

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; True when it was here."""
        path = self._paths.path(key)
        self._checks.forget(key)
        # Without a look the books would be opened, and made, where the file is not.
        return not self._closed and os.path.lexists(path) and self._space.remove(path)

    # ------------------------------------------------------------------ the rest

    def stats(self) -> TierStats:
        """Return the counters; the books are those of last time when they cannot be had."""
        if not self._closed:
            try:
                self._look()
                if self._health.should_probe():
                    self._probe()
                self._last_books = self._space.books()
            except OSError as error:
                self._refused(error, writing=self._health.may_write())
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
            state=self._health.state,
            reason=self._health.reason,
            since_s=self._health.since_s,
        )

    def _probe(self) -> None:
        """Find out whether the medium works again, for a tier that nobody puts anything into."""
        try:
            probe(self._root)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
        else:
            self._health.recovered()

    def close(self) -> None:
        """Stop; the blocks stay for others and for the next time. Safe to call twice."""
        self._closed = True
        self._space.close()
        self._claims.close()


def _prepare(folder: Path) -> tuple[bytes, Access]:
    """Make the tier's own folder; return its path and who may use it."""
    if kind := network_file_system(folder):
        raise ConfigError(
            f"the cache folder {folder} is on a network file system ({kind}): a cache there is "
            "as slow as what it caches, and its locks may not keep processes apart; "
            "use a local disk or /dev/shm"
        )
    return prepare_root(folder)


def _read_plain(
    fd: int, key: BlockKey, start: int, stop: int, buffer: memoryview | None
) -> memoryview | None:
    if buffer is not None:
        return buffer if os.preadv(fd, (buffer,), start) == stop - start else None
    found = os.pread(fd, stop - start, start)
    return memoryview(found) if len(found) == stop - start else None


def _read_checked(
    fd: int, key: BlockKey, start: int, stop: int, buffer: memoryview | None
) -> memoryview | None:
    if start == stop:
        return memoryview(b"")
    if buffer is not None or stop - start < key.length:
        return read_part(fd, key, start, stop, buffer)
    content = read_checked(fd, key)
    return None if content is None else memoryview(content)


def _touch(fd: int, mtime_ns: int) -> None:
    """Set the access time to now; the other stays, because it tells files apart."""
    try:
        os.utime(fd, ns=(time.time_ns(), mtime_ns))
    except OSError:
        pass  # a read-only file system keeps no ages
