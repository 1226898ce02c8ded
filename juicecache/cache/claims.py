"""Which process of the node is loading which block: byte locks on one empty file.

A claim is a lock on one byte, whose place is a hash of the block, of the *open file description*:
so it belongs neither to a thread nor to a process but to a descriptor, the kernel frees it with
the last copy of that, and nothing is left to clean. A claim only saves work: whoever cannot get
one may load all the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from hashlib import blake2b

from juicecache.cache.access import Access
from juicecache.cache.descriptor import Descriptor
from juicecache.model.layout import BlockKey

_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, a process id that stays 0."""
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None) if struct.calcsize("P") == 8 else None
"""Elsewhere there are no such locks: then every claim is granted."""
_OFFSETS = (1 << 62) - 1
"""Two of a million blocks share a byte with a chance of one in ten million; then one waits."""


class Claim:
    """The right to load one block; this one stands for nothing and is always granted."""

    __slots__ = ()

    def release(self) -> None:
        """Let others have it. Safe to call twice, from any thread."""


FREE = Claim()


class _ByteClaim(Claim):
    """A byte that is locked."""

    __slots__ = ("_file", "_offset")

    def __init__(self, file: ClaimFile, offset: int) -> None:
        self._file = file
        self._offset = offset

    def release(self) -> None:
        """Unlock the byte."""
        self._file._release(self, self._offset)


class ClaimFile:
    """The file, and what this process has claimed in it.

    Parameters
    ----------
    path
        Made when first needed; its folder is not.
    access
        Who may use it.
    """

    def __init__(self, path: bytes, access: Access) -> None:
        self._path = path
        self._access = access
        self._lock = threading.Lock()
        self._file = Descriptor(self)
        self._held: dict[int, _ByteClaim] = {}

    def claim(self, key: BlockKey) -> Claim | None:
        """Return a claim, or None while somebody else has it; never waits.

        Raises
        ------
        OSError
            The file cannot be used.
        """
        if _SET_LOCK is None:
            return FREE
        offset = int.from_bytes(blake2b(key.raw, digest_size=8).digest()) & _OFFSETS
        with self._lock:
            # Locks on a file that was removed keep nobody out who opens the path now.
            if self._file.fd >= 0 and not os.fstat(self._file.fd).st_nlink:
                self._forget()
            # The kernel would grant this descriptor its own byte again.
            if offset in self._held:
                return None
            if self._file.fd < 0:
                self._file.fd = self._access.create(self._path, os.O_RDWR)
            if not self._set(fcntl.F_WRLCK, offset):
                return None
            claim = self._held[offset] = _ByteClaim(self, offset)
            return claim

    def _set(self, kind: int, offset: int) -> bool:
        assert _SET_LOCK is not None
        try:
            fcntl.fcntl(self._file.fd, _SET_LOCK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _release(self, claim: _ByteClaim, offset: int) -> None:
        with self._lock:
            # Not the byte of a descriptor that was closed since, or of a parent process.
            if self._held.get(offset) is claim:
                del self._held[offset]
                with contextlib.suppress(OSError):
                    self._set(fcntl.F_UNLCK, offset)

    def _forget(self) -> None:
        self._file.close()
        self._held.clear()

    def close(self) -> None:
        """Release every claim and close the file; a later claim opens it again."""
        with self._lock:
            self._forget()

    def before_fork(self) -> None:
        """Let no thread be half-way through opening: the child must know what it has to close."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on. A child closes its copy, which would keep its dead parent's claims."""
        if in_child:
            self._lock = threading.Lock()
            self._forget()
        else:
            self._lock.release()
