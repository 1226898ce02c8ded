"""The quota and the free space of a directory tier, kept together by all processes of the node.

What is used stands in the books (``books``), which count both the blocks and what writers have
reserved. Whoever creates a file or removes one holds them, so there is one evictor at a time;
reading a block never takes them.

Laws: space is reserved before it is written, so the quota holds at every moment. A crash leaves
the books too high, never too low: they go up before a file grows, and down after one is gone;
and they are marked from before it is gone until they are right. Who lives is told by the lock on
a file being written, never by a process id. So a crash at any point is betrayed, by the mark or
by a dead file, and the next holder counts anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import stat
import time
from collections.abc import Callable, Iterator

from juicecache.cache.access import PRIVATE, Access
from juicecache.cache.block_file import charge
from juicecache.cache.books import Books, BooksFile
from juicecache.cache.files import WRITING, block_folders, blocks, blocks_in, find_writers, living
from juicecache.cache.policy import Candidate, EvictionOrder
from juicecache.cache.room import Limits, NoRoomError, Room, Shortage

_COUNT_S = 600.0
"""The books are counted anew after this time: bounds what damage from outside can do to them."""
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
    limits
        What all files together may take.
    order
        Which blocks go first; None means that none goes.
    expire_ns
        Age of last use beyond which a block goes whenever blocks are counted; 0 is never.
    clock
        Monotonic seconds.
    access
        Who may use the tier.
    """

    def __init__(
        self,
        root: bytes,
        limits: Limits,
        order: EvictionOrder | None,
        expire_ns: int,
        clock: Callable[[], float],
        access: Access = PRIVATE,
    ) -> None:
        self._root = root
        self._limits = limits
        self._order = order
        self._expire_ns = expire_ns
        self._access = access
        self._file = BooksFile(root + b"/.space", access)
        self._room = Room(root, limits, clock)
        # What this process cannot know before it has held the books, or did without them.
        self._must_look, self._must_count = True, False
        self.evicted = 0

    # ------------------------------------------------------------------ for writers

    def open_file(self, name: bytes, size_bytes: int) -> int | None:
        """Reserve room for a file of ``size_bytes`` and create it; None if another writer is at it.

        The descriptor holds the lock that tells the others that its writer lives; it is the
        only one for this name. It ends with `publish` or `abandon`.

        Raises
        ------
        NoRoomError
            There is no room for it.
        OSError
            The medium refuses.
        TimeoutError
            Another process held the books for too long.
        """
        needed = charge(size_bytes)
        if needed > self._limits.capacity_bytes:
            raise NoRoomError(self._room.reason(Books(), needed))
        with self._held() as books:
            if not self._is_free(name, books):
                return None
            if self._room.shortage(books, needed):
                self._room.forget()  # others may have made room since
                self._make_room(books, needed)
                if self._room.shortage(books, needed):
                    raise NoRoomError(self._room.reason(books, needed))
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
            return fd

    def _create(self, name: bytes, size_bytes: int) -> int:
        path = self._temporary(name)
        flags = os.O_EXCL | os.O_RDWR
        try:
            fd = self._access.create(path, flags)
        except FileNotFoundError:
            self._make_folder(self._root + WRITING)
            fd = self._access.create(path, flags)
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
        """Give the finished file its place, and with it the room that was reserved.

        Raises
        ------
        OSError, TimeoutError
            As `open_file`.
        """
        temporary = self._temporary(name)
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            with self._file.held():
                self._make_folder(os.path.dirname(folder))
                self._make_folder(folder)
            os.rename(temporary, path)

    def _make_folder(self, path: bytes) -> None:
        """Make a folder below the root; who calls this holds the books."""
        self._access.make_folder(path, self._root + b"/.making")

    def abandon(self, name: bytes, fd: int) -> None:
        """Remove a file that was not finished, and give its room back.

        When the books are not to be had, the file stays, and betrays itself once ``fd``, which
        the caller closes afterwards, does not lock it any more.
        """
        self._room.forget()
        with contextlib.suppress(OSError), self._held() as books:
            self._remove_booked(books, self._temporary(name), os.fstat(fd).st_ino)

    def remove(self, path: bytes, inode: int | None = None) -> bool:
        """Remove a block, or an empty folder in its place; True when a file is gone.

        Parameters
        ----------
        inode
            Another file, which took the place of this one meanwhile, stays.
        """
        try:
            with self._held() as books:
                return self._remove_booked(books, path, inode)
        except OSError:
            # The books are not to be had, and stay too high until this process gets them.
            with contextlib.suppress(OSError):
                if _unlink(path):
                    self._must_count = True
                    return True
            return False

    def _remove_booked(self, books: Books, path: bytes, inode: int | None) -> bool:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        if inode not in (None, found.st_ino):
            return False
        if stat.S_ISDIR(found.st_mode):
            with contextlib.suppress(OSError):
                os.rmdir(path)
            return False
        with self._file.marked(books):
            if gone := _unlink(path):
                _take_off(books, charge(found.st_size))
        return gone

    def books(self) -> Books:
        """Return what all processes use; counted first if that was long ago.

        Raises
        ------
        OSError, TimeoutError
            As `open_file`.
        """
        with self._held() as books:
            self._bury(books)
            return books

    def close(self) -> None:
        """Close what is open, when no other thread uses it."""
        self._file.close()

    def after_fork_in_child(self) -> None:
        """Leave the parent's locks to it, and its evictions."""
        self._file.after_fork_in_child()
        self.evicted = 0

    # ------------------------------------------------------------------ counting

    @contextlib.contextmanager
    def _held(self) -> Iterator[Books]:
        with self._file.held() as books:
            if self._must_count or not 0 <= time.time() - books.counted_at_s < _COUNT_S:
                self._count(books)
            elif self._must_look:
                self._bury(books)
            self._must_look = self._must_count = False
            yield books

    def _bury(self, books: Books) -> None:
        """Count anew if there is a file of a dead writer."""
        if find_writers(self._root).dead:
            self._count(books)

    def _count(self, books: Books) -> None:
        """Find out what is used, from the files themselves; drops what is dead or expired."""
        with self._file.marked(books):
            writers = find_writers(self._root)
            for path in writers.dead:
                _unlink(path)
            used_bytes = sum(charge(found.st_size) for found in writers.living)
            items = len(writers.living)
            oldest_ns = time.time_ns() - self._expire_ns if self._expire_ns else 0
            # A file may be finished while we look: then it must not be counted again.
            being_written = frozenset(found.st_ino for found in writers.living)
            for candidate in blocks(self._root, being_written):
                if candidate.last_used_ns < oldest_ns and _unlink(candidate.path):
                    continue
                used_bytes += candidate.size_bytes
                items += 1
            books.used_bytes, books.items = used_bytes, items
        books.counted_at_s = time.time()
        self._file.store(books)
        self._room.forget()

    def _is_free(self, name: bytes, books: Books) -> bool:
        """Return whether ``name`` can be created; what a dead writer left of it goes first."""
        try:
            if living(self._temporary(name)):
                return False
        except FileNotFoundError:
            return True
        self._count(books)
        return True

    def _temporary(self, name: bytes) -> bytes:
        return b"%b%b/%b" % (self._root, WRITING, name)

    # ------------------------------------------------------------------ making room

    def _make_room(self, books: Books, needed: int) -> None:
        """Evict blocks until ``needed`` bytes may come, if there are as many."""
        self._bury(books)
        short = self._room.shortage(books, needed)
        if not short or not short.can_evict or self._order is None:
            return
        with self._file.marked(books):
            for victim in self._victims(self._order, self._with_slack(short, books)):
                if _unlink(victim.path):
                    self.evicted += 1
                    _take_off(books, victim.size_bytes)
        self._room.forget()
        if self._room.shortage(books, needed):
            self._room.evicted_in_vain(needed)

    def _with_slack(self, short: Shortage, books: Books) -> Shortage:
        size_bytes, items = short.size_bytes, short.items
        if size_bytes:
            size_bytes += min(self._limits.capacity_bytes, books.used_bytes) // _SLACK
        if items:
            items += books.items // _SLACK
        return Shortage(size_bytes, items)

    def _victims(self, order: EvictionOrder, short: Shortage) -> Iterator[Candidate]:
        """Iterate over blocks of so much; if sampled, folder by folder at random."""
        size_bytes, items = short.size_bytes, short.items
        if not order.sampled:
            yield from order.victims(blocks(self._root), size_bytes, items)
            return
        folders = block_folders(self._root)
        random.shuffle(folders)
        for _ in range(_ROUNDS_MAX):
            for folder in folders:
                if size_bytes <= 0 and items <= 0:
                    return
                found = list(blocks_in(folder))
                part = max(1, len(found) // _VICTIMS_PART)
                for victim in order.victims(found, size_bytes, items)[:part]:
                    size_bytes -= victim.size_bytes
                    items -= 1
                    yield victim


def _take_off(books: Books, size_bytes: int) -> None:
    books.used_bytes = max(0, books.used_bytes - size_bytes)
    books.items = max(0, books.items - 1)


def _unlink(path: bytes) -> bool:
    """Remove a file; False when it is gone or may not go.

    Raises
    ------
    OSError
        The medium failed.
    """
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in (
            errno.ENOENT,
            errno.EISDIR,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
        ):
            raise
        return False
    return True
