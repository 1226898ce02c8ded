"""A file open for reading: a binary io object that recognises sequential reads.

Laws: reading ahead is bounded by ``max_readahead`` for a handle and by ``buffer_size`` for
the volume; a handle that a forked child inherited reads on, with loads of its own.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from juicecache.model.attr import Attr
from juicecache.volume.loading import load_missing
from juicecache.volume.parts import Parts
from juicecache.volume.reader import RangeRead, read_range

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_DIRECT_BYTES = 256 * 1024
"""A read of at least this size takes its bytes straight from the tiers; smaller ones are
served out of a whole segment kept by the handle."""


class FileReader(io.BufferedIOBase):
    """A file open for reading, at the version that existed when it was opened.

    Sequential reads are recognised and the next segments (one block long each) are loaded
    in the background, twice as many after each, up to ``max_readahead``.

    Parameters
    ----------
    parts
        Returns the parts of the volume in the current process.
    on_close
        Called once with the inode when the handle is closed.
    """

    def __init__(
        self,
        parts: Callable[[], Parts],
        path: str,
        attr: Attr,
        on_close: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.path = path
        self.attr = attr
        self.size = attr.length
        self.mode = "rb"
        self._parts = parts
        self._on_close = on_close
        self._pos = 0
        self._expected = 0
        self._segment = b""
        self._segment_start = 0
        self._pid = os.getpid()
        self._ahead: deque[RangeRead] = deque()
        self._window = 1

    # ------------------------------------------------------------------ io

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._pos

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; reading past the end gives nothing."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._pos, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self.path}: seek to {start + offset}, before the start of the file")
        self._pos = start + offset
        return self._pos

    def read(self, size: int | None = -1, /) -> bytes:
        """Return exactly ``size`` bytes, fewer only at the end; all the rest for -1 or None."""
        self._check_open()
        rest = max(0, self.size - self._pos)
        wanted = rest if size is None or size < 0 else min(size, rest)
        if not wanted:
            return b""
        first = self._buffered(wanted)
        if len(first) == wanted:
            return first
        if wanted - len(first) >= _DIRECT_BYTES and not self._ahead:
            direct = self._direct(wanted - len(first))
            if direct is not None:
                behind = direct.collect()
                return first + behind if first else behind
        pieces = [first] if first else []
        missing = wanted - len(first)
        while missing:
            self._fill()
            piece = self._buffered(missing)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes with at most one load."""
        self._check_open()
        if self._pos >= self.size:
            return b""
        if not self._available():
            self._fill()
        return self._buffered(self._available() if size < 0 else size)

    def peek(self, size: int = 0, /) -> bytes:
        """Return bytes from the position on without moving it; makes ``readline`` fast."""
        self._check_open()
        if self._pos >= self.size:
            return b""
        if not self._available():
            self._fill()
        at = self._pos - self._segment_start
        # One line at a time must not copy the rest of a 4 MiB segment.
        return self._segment[at : at + max(size, io.DEFAULT_BUFFER_SIZE)]

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` as far as the file reaches; returns the number of bytes.

        Large reads of what is cached go straight into it.
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self.size - self._pos)]
        done = self._copy(view)
        while done < len(view):
            rest = view[done:]
            if len(rest) >= _DIRECT_BYTES and not self._ahead:
                direct = self._direct(len(rest), rest)
                if direct is not None:
                    direct.collect_into()
                    break
            self._fill()
            done += self._copy(rest)
        return len(view)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` with at most one load."""
        view = memoryview(buffer).cast("B")
        content = self.read1(view.nbytes)
        view[: len(content)] = content
        return len(content)

    def read_range(self, start: int, stop: int) -> bytes:
        """Return bytes ``[start, stop)``, clipped to the file, without moving the position."""
        self._check_open()
        start, stop = min(start, self.size), min(stop, self.size)
        if stop <= start:
            return b""
        return read_range(self._parts(), self.attr, self.path, start, stop)

    def close(self) -> None:
        """Release the file; what is being read ahead is given up."""
        if self.closed:
            return
        self._drop_ahead()
        self._segment = b""
        super().close()
        self._on_close(self.attr.inode)

    # ------------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path}: I/O operation on a closed file")

    def _available(self) -> int:
        end = self._segment_start + len(self._segment)
        return end - self._pos if self._segment_start <= self._pos < end else 0

    def _buffered(self, size: int) -> bytes:
        count = min(size, self._available())
        if not count:
            return b""
        at = self._pos - self._segment_start
        self._pos += count
        if count == len(self._segment):
            return self._segment
        return self._segment[at : at + count]

    def _copy(self, target: memoryview) -> int:
        """Move on by what the segment has for ``target``, copied into it."""
        count = min(len(target), self._available())
        if count:
            at = self._pos - self._segment_start
            target[:count] = memoryview(self._segment)[at : at + count]
            self._pos += count
        return count

    def _direct(self, size: int, target: memoryview | None = None) -> RangeRead | None:
        """Return the read of the next bytes, if the tiers have them; move on behind them.

        What they do not have is loaded only for a whole file; else reading ahead shall see it.
        """
        start = self._pos
        read = RangeRead(self._parts(), self.attr, self.path, start, start + size, target)
        read.plan()
        if not read.take_cached():
            if not read.is_whole_file:
                return None
            load_missing(self._parts(), (read,))
        self._pos = self._expected = start + size
        return read

    def _fill(self) -> None:
        """Make the segment hold the byte at the position."""
        parts = self._parts()
        if os.getpid() != self._pid:
            # What the parent has on its way will never arrive here.
            self._pid, self._ahead = os.getpid(), deque()
        sequential = self._pos == self._expected or self._available_ahead()
        if not self._available_ahead():
            self._drop_ahead()
            if not sequential:
                self._window = 1
        step = parts.layout.block_bytes
        if self._ahead:
            read = self._ahead.popleft()
            self._segment_start = read.start
            self._segment = read.collect()
            missed = True
        else:
            missed = self._fill_now(parts, step, sequential=sequential)
        self._expected = self._segment_start + len(self._segment)
        if sequential and missed and not parts.blocks.inline:
            self._extend(parts, step)

    def _fill_now(self, parts: Parts, step: int, *, sequential: bool) -> bool:
        start = self._pos // step * step if sequential else self._pos
        # A jump asks for little: the tail of a Parquet file, an index, a header.
        size = step if sequential else _DIRECT_BYTES
        read = RangeRead(parts, self.attr, self.path, start, min(start + size, self.size))
        read.plan()
        missed = not read.take_cached()
        if missed:
            if sequential and not read.is_whole_file:
                read.begin()
            else:
                load_missing(parts, (read,))  # a small file may share its block with others
            if sequential and not parts.blocks.inline:
                self._segment_start, self._segment = start, b""
                self._extend(parts, step, after=read.stop)
        self._segment = read.collect()
        self._segment_start = start
        return missed

    def _available_ahead(self) -> bool:
        while self._ahead and self._ahead[0].stop <= self._pos:
            self._ahead.popleft().abandon()
        return bool(self._ahead) and self._ahead[0].start <= self._pos

    def _extend(self, parts: Parts, step: int, *, after: int = 0) -> None:
        options = parts.options
        limit = min(options.max_readahead_bytes, options.buffer_size_bytes) // step
        after = self._ahead[-1].stop if self._ahead else after or self._expected
        while len(self._ahead) < min(self._window, limit) and after < self.size:
            if parts.blocks.loading_bytes >= options.buffer_size_bytes:
                break
            read = RangeRead(parts, self.attr, self.path, after, min(after + step, self.size))
            read.plan()
            if not read.begin_ahead():
                break
            self._ahead.append(read)
            after = read.stop
        self._window = min(max(1, limit), self._window * 2)

    def _drop_ahead(self) -> None:
        if os.getpid() != self._pid:
            return
        while self._ahead:
            self._ahead.popleft().abandon()
