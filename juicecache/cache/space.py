"""The quota and the free space of a directory tier, kept together by all processes of the node.

What is used stands in the books (``books``), which count both the blocks and what writers have
reserved. Whoever creates a file or evicts holds them, so there is one evictor at a time;
reading a block never takes them.

Laws: space is reserved before it is written, so the quota holds at every moment. A crash leaves
the books too high, never too low: they go up before a file grows, and down after one is gone.
Who lives is told by the lock on a file being written, never by a process id. Books that a crash
may have left wrong are marked or betrayed by a dead file, and counted anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator

from juicecache.cache.block_file import charge
from juicecache.cache.books import Books, BooksFile, make_folder
from juicecache.cache.policy import Candidate, EvictionOrder

_WRITE_S_MAX = 600.0
"""No write of a block takes as long. An older file is dead even when its lock is held, as it is
by a child that was forked in the middle of its parent's write."""
_COUNT_S = 600.0
"""The books are counted anew after this time: bounds what damage from outside can do to them."""
_STATVFS_S = 1.0
"""How long a measured free space is believed, less what this process wrote since."""
_SLACK = 32
"""An eviction frees this part of what is there at once, so that its listing serves many blocks."""
_VICTIMS_PART = 4
"""A sampled order takes at most this part of one folder, so that chance spreads over all."""
_ROUNDS_MAX = 16
"""So often it goes through all folders, which leaves one block in a hundred."""


class Space:
    """The room for files below one root.

    Parameters
    ----------
    root
        The folder of the layout, made when it is first needed.
    capacity_bytes
        Most that all files together may take.
    free_space_ratio
        Part of the file system, and of its inodes, that must stay free for others.
    order
        Which blocks go first; None means that none goes.
    expire_ns
        Age of last use beyond which a block goes whenever blocks are counted; 0 is never.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        root: bytes,
        capacity_bytes: int,
        free_space_ratio: float,
        order: EvictionOrder | None,
        expire_ns: int,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._writing = root + b"/.writing"
        self._capacity_bytes = capacity_bytes
        self._ratio = free_space_ratio
        self._order = order
        self._expire_ns = expire_ns
        self._clock = clock
        self._file = BooksFile(root + b"/.space")
        self._free_bytes, self._inodes_short, self._measured_at_s = 0, False, float("-inf")
        self.evicted = 0

    # ------------------------------------------------------------------ for writers

    def open_file(self, name: bytes, size_bytes: int) -> int | None:
        """Reserve room for a file of ``size_bytes`` and create it; None when there is none.

        The descriptor holds the lock that tells the others that its writer lives; it is the
        only one for this name: None also when another writer is at it. It ends with `publish`
        or `abandon`.

        Raises
        ------
        OSError
            The medium refuses.
        TimeoutError
            Another process held the books for too long.
        """
        needed = charge(size_bytes)
        if needed > self._capacity_bytes:
            return None
        with self._held() as books:
            if not self._is_free(name, books):
                return None
            short = self._shortage(books, needed)
            if short > 0:
                self._measured_at_s = float("-inf")  # room may have been made since
                self._make_room(books, self._shortage(books, needed))
                if self._shortage(books, needed) > 0:
                    return None
            # The empty file first: should this process be killed before the books are written,
            # the file betrays it, and it takes no space yet.
            fd = self._create(name, size_bytes)
            books.used_bytes += needed
            books.items += 1
            try:
                self._file.store(books)
            except BaseException:
                os.close(fd)
                raise
            self._free_bytes -= needed
            return fd

    def _create(self, name: bytes, size_bytes: int) -> int:
        path = self._temporary(name)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            make_folder(self._writing)
            fd = os.open(path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A count reads from the size what is reserved.
            os.ftruncate(fd, size_bytes)
        except BaseException:
            os.close(fd)
            os.unlink(path)
            raise
        return fd

    def publish(self, name: bytes, path: bytes) -> None:
        """Give the finished file its place, and with it the room that was reserved."""
        try:
            os.rename(self._temporary(name), path)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            make_folder(os.path.dirname(folder))
            make_folder(folder)
            os.rename(self._temporary(name), path)

    def abandon(self, name: bytes, size_bytes: int) -> None:
        """Remove a file that was not finished, and give its room back."""
        self._measured_at_s = float("-inf")
        try:
            os.unlink(self._temporary(name))
        except OSError:
            # It is still there; or others took its writer for dead, and count without it.
            return
        self.give_back(size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Take a file that is gone, of ``size_bytes``, off the books."""
        # When the books are not to be had they stay too high until the next count.
        with contextlib.suppress(OSError):
            with self._held() as books:
                books.used_bytes = max(0, books.used_bytes - charge(size_bytes))
                books.items = max(0, books.items - 1)

    def books(self) -> Books:
        """Return what all processes use; counted first if that was long ago.

        Raises
        ------
        OSError, TimeoutError
            As `open_file`.
        """
        with self._held() as books:
            return books

    def close(self) -> None:
        """Close what is open, when no other thread uses it."""
        self._file.close()

    def after_fork_in_child(self) -> None:
        """Leave the parent's locks to it."""
        self._file.after_fork_in_child()

    # ------------------------------------------------------------------ counting

    @contextlib.contextmanager
    def _held(self) -> Iterator[Books]:
        with self._file.held() as books:
            if not 0 <= time.time() - books.counted_at_s < _COUNT_S:
                self._count(books)
            yield books

    def _count(self, books: Books) -> None:
        """Find out what is used, from the files themselves; drops what is dead or expired."""
        writing, _ = self._writers()
        books.used_bytes = sum(charge(stat.st_size) for stat in writing)
        books.items = len(writing)
        oldest_ns = time.time_ns() - self._expire_ns if self._expire_ns else 0
        # A file may be finished while we look: then it must not be counted again.
        for candidate in self._files(frozenset(stat.st_ino for stat in writing)):
            if candidate.last_used_ns < oldest_ns and self._remove(candidate):
                continue
            books.used_bytes += candidate.size_bytes
            books.items += 1
        books.counted_at_s = time.time()
        self._file.store(books)

    def _is_free(self, name: bytes, books: Books) -> bool:
        """Return whether ``name`` can be created; what a dead writer left of it goes first."""
        try:
            alive = self._alive(self._temporary(name))
        except FileNotFoundError:
            return True
        if alive is None:
            self._count(books)
        return alive is None

    def _alive(self, path: bytes) -> os.stat_result | None:
        """Return what is known of a file that is being written; None when its writer is dead.

        Then it is removed. Only the holder of the books creates such files, so none can be
        taken for dead between its creation and its lock.

        Raises
        ------
        FileNotFoundError
            It is not there, or not any more: it was finished.
        """
        fd = os.open(path, os.O_RDWR)
        try:
            stat = os.fstat(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.time() - stat.st_ctime < _WRITE_S_MAX:
                    return stat
            os.unlink(path)
            return None
        finally:
            os.close(fd)

    def _writers(self) -> tuple[list[os.stat_result], bool]:
        """Return the files that are being written, and whether some were left by the dead."""
        living, some_dead = [], False
        for entry in _entries(self._writing):
            with contextlib.suppress(FileNotFoundError):
                found = self._alive(entry.path)
                if found is None:
                    some_dead = True
                else:
                    living.append(found)
        return living, some_dead

    def _files(self, skipped: frozenset[int] = frozenset()) -> Iterator[Candidate]:
        for folder in self._folders():
            yield from _blocks_in(folder, skipped)

    def _folders(self) -> list[bytes]:
        """Return all folders that hold blocks, of every namespace."""
        return [
            folder.path
            for top in _entries(self._root)
            if not top.name.startswith(b".") and top.is_dir(follow_symlinks=False)
            for folder in _entries(top.path)
            if folder.is_dir(follow_symlinks=False)
        ]

    def _temporary(self, name: bytes) -> bytes:
        return self._writing + b"/" + name

    # ------------------------------------------------------------------ making room

    def _shortage(self, books: Books, needed: int) -> int:
        """Return how many bytes must go before ``needed`` more may come."""
        now = self._clock()
        if not 0 <= now - self._measured_at_s < _STATVFS_S:
            found = os.statvfs(self._root)
            spare = int(found.f_blocks * self._ratio) * found.f_frsize
            self._free_bytes = found.f_bavail * found.f_frsize - spare
            if not found.f_blocks:  # a tmpfs without a size
                self._free_bytes = self._capacity_bytes
            self._inodes_short = found.f_favail < found.f_files * self._ratio
            self._measured_at_s = now
        short = max(books.used_bytes + needed - self._capacity_bytes, needed - self._free_bytes)
        return max(short, needed) if self._inodes_short else short

    def _make_room(self, books: Books, short: int) -> None:
        """Evict blocks of at least ``short`` bytes, if that is positive and there are as many."""
        _, some_dead = self._writers()
        if some_dead:
            short -= books.used_bytes
            self._count(books)
            short += books.used_bytes
        if short <= 0:
            return
        # Whoever comes after a crash in here counts first.
        trusted_at_s, books.counted_at_s = books.counted_at_s, 0.0
        self._file.store(books)
        wanted = short + min(self._capacity_bytes, books.used_bytes) // _SLACK
        for victim in self._victims(wanted):
            if self._remove(victim):
                self.evicted += 1
                books.used_bytes = max(0, books.used_bytes - victim.size_bytes)
                books.items = max(0, books.items - 1)
        books.counted_at_s = trusted_at_s
        self._measured_at_s = float("-inf")

    def _victims(self, wanted: int) -> Iterator[Candidate]:
        """Iterate over blocks of ``wanted`` bytes; if sampled, folder by folder at random."""
        if self._order is None:
            return
        if not self._order.sampled:
            yield from self._order.victims(self._files(), wanted)
            return
        folders = self._folders()
        random.shuffle(folders)
        for _ in range(_ROUNDS_MAX):
            for folder in folders:
                if wanted <= 0:
                    return
                found = list(_blocks_in(folder))
                part = max(1, len(found) // _VICTIMS_PART)
                for victim in self._order.victims(found, wanted)[:part]:
                    wanted -= victim.size_bytes
                    yield victim

    @staticmethod
    def _remove(candidate: Candidate) -> bool:
        try:
            os.unlink(candidate.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            return False
        return True


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    """List a folder; one that is gone or no folder is empty."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _blocks_in(folder: bytes, skipped: frozenset[int] = frozenset()) -> Iterator[Candidate]:
    """Iterate over the blocks of a folder, but for the inodes ``skipped``."""
    for entry in _entries(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file(follow_symlinks=False) and entry.inode() not in skipped:
                stat = entry.stat(follow_symlinks=False)
                yield Candidate(stat.st_atime_ns, charge(stat.st_size), entry.path)
