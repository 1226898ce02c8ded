"""The books of a directory tier: what all processes of the node use together, in one small file.

Law: who reads or changes them holds the lock on the file. It is the system's, so a killed
process holds nothing; and nobody waits for it longer than a bound.
Who is about to remove what the books contain marks them first (`Books.marked`): should he die
before they are right again, the next holder finds the mark.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from juicecache.cache.access import PRIVATE, Access
from juicecache.cache.descriptor import Descriptor

_RECORD = struct.Struct("<8s16sQQd")
_MAGIC = b"JCSPACE1"
_LOCK_WAIT_S = 2.0
"""Longer than an eviction from a full tier of some 400,000 blocks. Then a block is simply not
kept: a reader must not hang because some process was stopped in the middle."""
_POLL_S = 0.0005


@dataclass
class Books:
    """What all processes together use.

    Attributes
    ----------
    used_bytes
        Pages of the files that are here or being written.
    items
        Those files.
    counted_at_s
        When they were last counted, by the clock of the machine; 0 means that they must be.
    """

    used_bytes: int = 0
    items: int = 0
    counted_at_s: float = 0.0


class BooksFile:
    """The file, and this process's lock on it.

    Parameters
    ----------
    path
        Made, with the folder that it is in, when first needed.
    access
        Who may use them.
    """

    def __init__(self, path: bytes, access: Access = PRIVATE) -> None:
        self._path = path
        self._access = access
        self._lock = threading.Lock()
        self._file = Descriptor(self)
        self._stored = Books()

    @contextlib.contextmanager
    def held(self) -> Iterator[Books]:
        """Hold the books; what the block made of them is written at its end, even on an error.

        Raises
        ------
        TimeoutError
            Others held them for too long.
        OSError
            The medium refuses.
        """
        deadline = time.monotonic() + _LOCK_WAIT_S
        if not self._lock.acquire(timeout=_LOCK_WAIT_S):
            raise TimeoutError
        try:
            self._take(deadline)
            try:
                self._stored = self._load()
                books = replace(self._stored)
                try:
                    yield books
                finally:
                    if books != self._stored:
                        self.store(books)
            finally:
                fcntl.flock(self._file.fd, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def marked(self, books: Books) -> Iterator[None]:
        """Let files go that the books, which the caller holds, contain.

        At the end of the block they are right again; after an error in it, or when this process
        is killed in it, they must be counted.
        """
        trusted_at_s, books.counted_at_s = books.counted_at_s, 0.0
        self.store(books)
        yield
        books.counted_at_s = trusted_at_s

    def _take(self, deadline: float) -> None:
        """Lock the file of the books; opened anew if somebody cleared the whole folder."""
        while True:
            if self._file.fd >= 0 or self._open():
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(self._file.fd).st_nlink:
                        return
                    self._forget()
                    continue
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_POLL_S)

    def _open(self) -> bool:
        """Open the file; False when it has to be tried again."""
        root = os.path.dirname(self._path)
        self._access.make_above(os.path.dirname(root))
        self._access.make_folder(root)
        try:
            self._file.fd = self._access.create(self._path, os.O_RDWR)
        except PermissionError:
            if not self._access.shared:
                raise
            # Whoever makes it is between two calls, or died there. If he lives he finds out,
            # before he relies on it, that his file has no name any more.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            return False
        return True

    def _forget(self) -> None:
        """Close the file of the books; the next use opens it."""
        self._file.close()

    def close(self) -> None:
        """Close what is open, when nobody uses it."""
        with self._lock:
            self._forget()

    def after_fork_in_child(self) -> None:
        """Leave the parent's locks to it."""
        self._lock = threading.Lock()
        self._forget()

    def _load(self) -> Books:
        raw = os.pread(self._file.fd, _RECORD.size, 0)
        if len(raw) == _RECORD.size:
            magic, boot, used_bytes, items, counted_at_s = _RECORD.unpack(raw)
            # After a power cut the disk may have an older state of them than of the blocks.
            if magic == _MAGIC and boot == _boot_id():
                return Books(used_bytes, items, counted_at_s)
        return Books()

    def store(self, books: Books) -> None:
        """Write the books, which the caller holds."""
        record = _RECORD.pack(_MAGIC, _boot_id(), books.used_bytes, books.items, books.counted_at_s)
        os.pwrite(self._file.fd, record, 0)
        self._stored = replace(books)


@cache
def _boot_id() -> bytes:
    """Return 16 bytes that change when the machine starts anew; zeros where it does not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8")
        return bytes.fromhex(text.strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
