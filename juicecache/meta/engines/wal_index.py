"""Whether a SQLite database changed, read from the index of its write-ahead log.

``PRAGMA data_version`` answers the same, but takes and frees two locks of the file for it: 3 us,
more with many processes. The header of the index, 48 bytes that every commit replaces when it
is complete, costs one read. Facts: sqlite.org/walformat.html, "The WAL-Index File Format".

Law: closing any descriptor of a file drops the locks that SQLite holds on it in this process.
So one descriptor a file is opened here, and closed only when the file has no name any more.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque

_HEADER_BYTES = 48
_VERSION = struct.pack("=I", 3_007_000)
"""What the header begins with in the one form there is, in the order of this machine."""
_IS_SET = 12
"""Where a byte says whether the header means anything."""
_TRIES = 3
"""Looks for a whole header: a commit replaces one copy after the other."""


class WalIndex:
    """The index of one log, for all engines of this process that watch it."""

    __slots__ = ("_fd", "users")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.users = 0

    def header(self) -> bytes:
        """Return what differs after every commit of any process; `is_whole` must have held."""
        return os.pread(self._fd, _HEADER_BYTES, 0)

    def is_whole(self) -> bool:
        """Return whether the header has the form that is known here."""
        for _ in range(_TRIES):
            both = os.pread(self._fd, 2 * _HEADER_BYTES, 0)
            first, second = both[:_HEADER_BYTES], both[_HEADER_BYTES:]
            if first == second:
                break
        return first == second and first.startswith(_VERSION) and first[_IS_SET] == 1

    def close_if_gone(self) -> bool:
        """Close the descriptor of a file without a name: nobody has a lock on it any more."""
        if self.users or os.fstat(self._fd).st_nlink:
            return False
        os.close(self._fd)
        return True


_lock = threading.Lock()
_indexes: dict[tuple[int, int], WalIndex] = {}
"""By device and inode; as many as databases that are there and were watched by this process."""
_forsaken: deque[WalIndex] = deque()


def watch(database: str | os.PathLike[str]) -> WalIndex | None:
    """Return the index of a database, which a connection of the caller holds in place.

    None where it cannot be read or has another form. `leave` it after that connection closed.
    """
    path = os.path.realpath(database) + "-shm"
    with _lock:
        _close_gone()
        try:
            found = os.stat(path)
            key = found.st_dev, found.st_ino
            if key not in _indexes:
                _indexes[key] = WalIndex(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None
        index = _indexes[key]
        if not index.is_whole():
            return None
        index.users += 1
        return index


def leave(index: WalIndex) -> None:
    """Watch it no longer; SQLite removes the file with the last connection of all processes."""
    with _lock:
        index.users -= 1
        _close_gone()


def forsake(index: WalIndex) -> None:
    """`leave` for one whose user was dropped; what that needs is done when it can be.

    A collection of garbage may call this amid anything, also where this thread has the lock.
    """
    _forsaken.append(index)
    if _lock.acquire(blocking=False):
        try:
            _close_gone()
        finally:
            _lock.release()


def _close_gone() -> None:
    while _forsaken:
        _forsaken.popleft().users -= 1
    for key, index in list(_indexes.items()):
        if index.close_if_gone():
            del _indexes[key]


def _after_in_child() -> None:
    # Another thread may have held it; what it guards changes in no call that can fail half-way.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_in_child)
