"""Files open for writing: binary io objects over the slice writer.

Laws: a write handle commits at ``flush`` and ``close``, when all its blocks are stored; a
handle that a forked child inherited never commits.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from juicecache.errors import MetaError, StaleHandleError
from juicecache.meta.chunks import NewSlice
from juicecache.model.attr import Attr
from juicecache.volume.batch import Batch
from juicecache.volume.cleaning import log
from juicecache.volume.compacting import compact_after_commit
from juicecache.volume.parts import Parts
from juicecache.volume.reader import read_range
from juicecache.volume.writer import SliceWriter, Uploads

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_SECURED_AGE_S = 600.0
"""Stored blocks wait this long for a reference, as far as writes come by: the official collector
removes unreferenced objects after an hour."""
_SECURE_AGAIN_S = 60.0
"""After a failure: a write should not wait for a database that is away each time."""
_SECURED_SLICES = 256
"""Slices secured at once (16 GiB): a transaction must not hold the database lock for long."""
_COMMITTED_SLICES_MAX = 10_000
"""Slices in one commit (640 GiB): some 300 ms of the lock. A new file that is still longer shows
up before it is complete."""


class FileWriter(io.BufferedIOBase):
    """A file open for writing from one position on: a new one, or the end of an existing one.

    A new file (``inode`` 0) becomes visible, whole, at the first ``flush`` or ``close``; until
    then nobody sees a change, also where it replaces an existing file. Only one of more than
    640 GiB is committed in parts. As with a plain file, whoever
    leaves a ``with`` block by an error keeps what was written before it; `discard` does not.

    Parameters
    ----------
    inode
        The file to append to; 0 makes or replaces ``path`` at the first commit.
    offset
        Where the first byte goes.
    exclusive
        Fail at the first commit when the name is taken.
    autocommit
        False leaves the commit to `commit`: ``flush`` and ``close`` only store.
    batch
        Takes the file over when it is closed, a small one as a part of a pack; with
        ``autocommit`` False.
    on_open, on_close
        Called with the inode when the handle begins to keep it alive, and when it ends.
    """

    def __init__(
        self,
        parts: Callable[[], Parts],
        path: str,
        *,
        inode: int = 0,
        offset: int = 0,
        exclusive: bool = False,
        autocommit: bool = True,
        batch: Batch | None = None,
        mode: str = "wb",
        on_open: Callable[[int], None],
        on_close: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.path = path
        self.replaces = not inode
        self._batch = batch
        self._secure_at_s = float("-inf")
        self._held_slices = 0
        self.mode = mode
        self._autocommit = autocommit
        self._on_open = on_open
        self._parts = parts
        self._inode = inode
        self.exclusive = exclusive
        self._on_close = on_close
        self._pid = os.getpid()
        self._uploads = Uploads(parts())
        self._writer = SliceWriter(parts(), self._uploads, offset)
        self._slices: list[NewSlice] = []
        self._broken: BaseException | None = None
        self._ended = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte goes."""
        return self._writer.offset

    def write(self, content: ReadableBuffer, /) -> int:
        """Take all of ``content``; it is copied, so the caller may change it afterwards.

        Waits while all upload slots of the volume are taken.
        """
        self._check_usable()
        try:
            self._slices += self._writer.write(memoryview(content), stable=False)
            if self._uploads.age_s > _SECURED_AGE_S or self._fresh_slices >= _SECURED_SLICES:
                self._secure()
        except BaseException as error:
            self._broken = error
            raise
        return memoryview(content).nbytes

    @property
    def _fresh_slices(self) -> int:
        return len(self._slices) - self._held_slices

    def _secure(self) -> None:
        """Let something point at what is stored, so that no collector takes it for garbage."""
        self._cut()
        whole = self._inode or len(self._slices) >= _COMMITTED_SLICES_MAX
        if self._autocommit and whole:
            self._commit()
            return
        if time.monotonic() < self._secure_at_s:
            return
        try:
            self.hold()
        except MetaError as error:
            self._secure_at_s = time.monotonic() + _SECURE_AGAIN_S
            # The commit looks for blocks that waited for too long, so nothing is lost unseen.
            log.warning("%s: stored blocks could not be kept referenced: %s", self.path, error)

    def flush(self) -> None:
        """Store and commit everything written so far; nothing new means nothing done."""
        if self.closed or os.getpid() != self._pid or self._broken is not None:
            return
        if self._autocommit and (self._writer.has_content or self._slices):
            self._commit()

    def commit(self) -> None:
        """Make a file that was opened with ``autocommit=False`` and closed visible.

        Raises
        ------
        StaleHandleError
            In a forked child, after `discard`, or after a failed write.
        """
        self._check_owner()
        self._commit()
        self._end_hold()

    def hold(self) -> None:
        """Keep what is stored in complete slices referenced until the commit."""
        fresh = self._slices[self._held_slices :]
        if fresh:
            self._uploads.hold([new.record for new in fresh])
            self._slices[self._held_slices :] = [new._replace(fresh=False) for new in fresh]
            self._held_slices = len(self._slices)

    def discard(self) -> None:
        """Forget what is not committed, remove its objects, and close. Safe to repeat."""
        if os.getpid() == self._pid:
            self._uploads.discard()
        self._slices, self._held_slices = [], 0
        self._broken = self._broken or StaleHandleError(self.path, "the handle was discarded")
        if not self.closed:
            super().close()
        self._end_hold()

    def close(self) -> None:
        """Commit and close. In a forked child, which only inherited the handle: just close.

        Raises
        ------
        ObjectError
            Storing failed; nothing since the last commit is visible.
        """
        if self.closed:
            return
        try:
            if os.getpid() == self._pid and self._broken is None:
                self._settle()
        except BaseException:
            self.discard()
            raise
        super().close()
        if self._autocommit or self._broken is not None:
            self.discard()

    def _settle(self) -> None:
        """Commit at the end, or only store everything where the commit comes later."""
        if self._batch is not None:
            self._join(self._batch)
        elif not self._autocommit:
            self._store()
        elif self._writer.has_content or self._slices or not self._inode:
            self._commit()

    def _join(self, batch: Batch) -> None:
        """Leave the file to the batch: a small one its content, else the stored slices."""
        if self.replaces and not self._slices and batch.accepts(self._writer.offset):
            content = self._writer.withdraw()
            if content is not None:
                batch.write(self.path, content, exclusive=self.exclusive)
                return
        self._store()
        batch.add_file(self)

    def _store(self) -> None:
        self._cut()
        self._uploads.wait()

    def _check_usable(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path}: I/O operation on a closed file")
        self._check_owner()

    def _check_owner(self) -> None:
        if os.getpid() != self._pid:
            raise StaleHandleError(
                self.path, "opened for writing by the parent process; open it again here"
            )
        if self._broken is not None:
            raise StaleHandleError(
                self.path, f"an earlier write failed ({self._broken}); discard or close the handle"
            )

    def _cut(self) -> None:
        if self._writer.has_content:
            self._slices.append(self._writer.cut())

    def _commit(self) -> None:
        try:
            self._cut()
            attr = self._uploads.commit(self._commit_slices)
            compact_after_commit(self._parts(), attr, self._slices)
        except BaseException as error:
            self._broken = error
            raise
        self._slices, self._held_slices = [], 0

    def _commit_slices(self) -> Attr:
        meta = self._parts().meta
        if self._inode:
            return meta.commit(
                self.path, self._inode, self._slices, time.time_ns(), held=self._uploads.held
            )
        attr = meta.commit_file(
            self.path,
            self._slices,
            time.time_ns(),
            exclusive=self.exclusive,
            held=self._uploads.held,
        )
        self._inode = attr.inode
        self._on_open(attr.inode)
        return attr

    def _end_hold(self) -> None:
        if self._inode and not self._ended and os.getpid() == self._pid:
            self._ended = True
            self._on_close(self._inode)


class FileUpdater(FileWriter):
    """A file open for reading and writing in place (``r+b``).

    A write that does not continue the one before begins a new slice; a read first commits
    what was written, and sees it.
    """

    def __init__(
        self,
        parts: Callable[[], Parts],
        path: str,
        attr: Attr,
        *,
        on_open: Callable[[int], None],
        on_close: Callable[[int], None],
    ) -> None:
        super().__init__(
            parts, path, inode=attr.inode, mode="r+b", on_open=on_open, on_close=on_close
        )
        self._pos = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read or write."""
        return self._pos

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; writing past the end leaves a hole of zeros."""
        if whence == io.SEEK_END:
            self.flush()
            start = self._attr().length
        else:
            start = self._pos if whence == io.SEEK_CUR else 0
        if start + offset < 0:
            raise ValueError(f"{self.path}: seek to {start + offset}, before the start of the file")
        self._pos = start + offset
        return self._pos

    def write(self, content: ReadableBuffer, /) -> int:
        """Write at the position and move it."""
        self._check_usable()
        if self._pos != self._writer.offset:
            self._restart()
        count = super().write(content)
        self._pos += count
        return count

    def _restart(self) -> None:
        try:
            self._cut()
        except BaseException as error:
            # Its last block is not stored: the slice must never be committed.
            self._broken = error
            raise
        self._writer = SliceWriter(self._parts(), self._uploads, self._pos)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes from the position on, own writes included."""
        self._check_usable()
        self.flush()
        attr = self._attr()
        stop = attr.length if size is None or size < 0 else min(attr.length, self._pos + size)
        if stop <= self._pos:
            return b""
        content = read_range(self._parts(), attr, self.path, self._pos, stop)
        self._pos = stop
        return content

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        return self.read(size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` as far as the file reaches; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        content = self.read(view.nbytes)
        view[: len(content)] = content
        return len(content)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length (the position by default); growing adds zeros."""
        self._check_usable()
        self.flush()
        length = self._pos if size is None else size
        self._parts().meta.truncate_inode(self.path, self._inode, length)
        return length

    def _attr(self) -> Attr:
        return self._parts().meta.attr_of(self.path, self._inode)
