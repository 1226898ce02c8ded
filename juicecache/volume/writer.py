"""From bytes written to slices committed.

Law: blocks before metadata. A slice is committed only when all its blocks are stored; a
crash leaves unreferenced objects at worst, which ``gc`` removes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from juicecache.errors import CommitUnknownError, JuicecacheError
from juicecache.meta.chunks import NewSlice
from juicecache.meta.holding import Hold
from juicecache.model.layout import CHUNK_BYTES, BlockKey
from juicecache.model.slices import SliceRecord
from juicecache.objects.store import Buffer
from juicecache.volume.cleaning import release
from juicecache.volume.parts import Parts

T = TypeVar("T")

_UNREFERENCED_S_MAX = 3000.0
"""Objects without a reference are safe from collectors for an hour; some of it is spent
between our clock and theirs."""


class Uploads:
    """Blocks of one writer on their way to object storage.

    At most as many as the volume has upload slots, over all its writers.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pending: list[tuple[BlockKey, Buffer, Future[None]]] = []
        self._first_stored_s = 0.0
        self._doubtful: list[BlockKey] = []
        self._failure: BaseException | None = None
        self.stored: list[BlockKey] = []
        self.held: list[Hold] = []

    @property
    def age_s(self) -> float:
        """How long the oldest block waits for its commit already; 0 when none is stored."""
        return time.monotonic() - self._first_stored_s if self.stored else 0.0

    def add(self, key: BlockKey, body: Buffer) -> None:
        """Start storing a block; waits while all slots are taken. ``body`` must not change."""
        slots = self._parts.upload_slots
        slots.acquire()
        try:
            future = self._parts.blocks.upload(key, body)
        except BaseException:
            slots.release()
            raise
        future.add_done_callback(lambda _: slots.release())
        self._pending.append((key, body, future))
        self._collect(wait=False)

    def wait(self) -> None:
        """Wait until everything is stored.

        Raises
        ------
        ObjectError
            The first failure, every time until `discard`: a block that was lost once must keep
            each later commit from happening. Every block was waited for all the same.
        """
        self._collect(wait=True)

    def discard(self) -> None:
        """Wait for what is under way and delete everything stored since the last commit."""
        for _, _, future in self._pending:
            future.exception()
        keys = [*self.stored, *self._doubtful, *(key for key, _, _ in self._pending)]
        self._pending, self._doubtful, self.stored = [], [], []
        self._failure = None
        try:
            self._parts.blocks.delete(keys)
        except JuicecacheError:
            # Unreferenced objects are garbage that gc collects; the first error matters more.
            pass
        self._release()

    def hold(self, slices: Sequence[SliceRecord]) -> None:
        """Keep complete slices referenced until `commit` or `discard`, however late that is.

        Raises like `commit`, and leaves them as they were.
        """
        self.held.append(self._commit(lambda: self._parts.meta.hold(slices)))

    def _release(self) -> None:
        """Let the files go that kept slices referenced, and what only they point at."""
        held, self.held = self.held, []
        for one in held:
            release(self._parts, one.inode)

    def commit(self, act: Callable[[], T]) -> T:
        """Run ``act``, which commits everything added so far, once all of it is stored.

        After an error that leaves open whether the commit happened, the objects stay: they
        may be in use, and ``gc`` removes them if they are not. After any other error they
        wait for `discard`.

        Raises
        ------
        ObjectNotFoundError
            Blocks waited for so long that a collector removed them.
        """
        result = self._commit(act)
        self._release()
        return result

    def _commit(self, act: Callable[[], T]) -> T:
        self.wait()
        if self.age_s > _UNREFERENCED_S_MAX:
            self._parts.blocks.require(self.stored)
        try:
            result = act()
        except CommitUnknownError:
            self.stored = []
            raise
        except JuicecacheError:
            raise
        except BaseException:
            # An interrupt may have come behind the commit.
            self.stored = []
            raise
        self.stored = []
        return result

    def _collect(self, *, wait: bool) -> None:
        rest = []
        for key, body, future in self._pending:
            if not wait and not future.done():
                rest.append((key, body, future))
                continue
            error = future.exception()
            if error is not None:
                self._failure = self._failure or error
                # Its answer may be all that was lost: `discard` removes it as well.
                self._doubtful.append(key)
                continue
            # A copy for the next reader, and no reference to the writer's buffer afterwards.
            self._parts.blocks.keep_uploaded(key, body)
            if not self.stored:
                self._first_stored_s = time.monotonic()
            self.stored.append(key)
        self._pending = rest
        if self._failure is not None:
            raise self._failure


class SliceWriter:
    """Contiguous bytes of a file, cut into slices at chunk borders and into blocks.

    Parameters
    ----------
    offset
        Where in the file the first byte goes.
    """

    def __init__(self, parts: Parts, uploads: Uploads, offset: int) -> None:
        self._parts = parts
        self._uploads = uploads
        self._block_bytes = parts.layout.block_bytes
        self._buffer = io.BytesIO()
        self._slice_id = 0
        self._slice_start = offset
        self.offset = offset

    @property
    def has_content(self) -> bool:
        """Whether a slice is open."""
        return self.offset > self._slice_start

    @property
    def has_blocks(self) -> bool:
        """Whether blocks of the open slice are stored or on their way."""
        return self.offset - self._slice_start > self._buffer.tell()

    def withdraw(self) -> bytes | None:
        """Take back the content of the open slice; None when a part of it was sent already."""
        if self.has_blocks:
            return None
        content, self._buffer = self._buffer.getvalue(), io.BytesIO()
        self._slice_id, self.offset = 0, self._slice_start
        return content

    def write(self, content: Buffer, *, stable: bool) -> list[NewSlice]:
        """Take bytes; returns the slices that they completed.

        ``stable`` promises that ``content`` does not change until the uploads are waited
        for, so that whole blocks need no copy.
        """
        done: list[NewSlice] = []
        view = memoryview(content)
        if not view.nbytes:  # an empty array may have a shape that cannot be cast
            return done
        view = view.cast("B")
        while view.nbytes:
            if not self._slice_id:
                self._slice_id = self._parts.meta.new_slice_id()
                self._slice_start = self.offset
            room = min(
                self._block_bytes - self._buffer.tell(),
                CHUNK_BYTES - self.offset % CHUNK_BYTES,
            )
            piece, view = view[:room], view[room:]
            if stable and not self._buffer.tell() and piece.nbytes == self._block_bytes:
                self.offset += piece.nbytes
                self._upload(piece)
            else:
                self._buffer.write(piece)
                self.offset += piece.nbytes
                if self._buffer.tell() == self._block_bytes:
                    self._upload_buffer()
            if self.offset % CHUNK_BYTES == 0:
                done.append(self.cut())
        return done

    def cut(self) -> NewSlice:
        """End the open slice: upload its last block and return its record."""
        size = self.offset - self._slice_start
        if self._buffer.tell():
            self._upload_buffer()
        index, pos = divmod(self._slice_start, CHUNK_BYTES)
        record = SliceRecord(pos, self._slice_id, size, 0, size)
        self._slice_id, self._slice_start = 0, self.offset
        return NewSlice(index, record)

    def _upload_buffer(self) -> None:
        # getvalue() gives its bytes away without a copy, and object storage shares them.
        body, self._buffer = self._buffer.getvalue(), io.BytesIO()
        self._upload(body)

    def _upload(self, body: Buffer) -> None:
        # Whole blocks of a growing slice are named alike whatever its final size; only the
        # last one carries the rest, so the size so far gives every block its final name.
        size = self.offset - self._slice_start
        index = (size - 1) // self._block_bytes
        self._uploads.add(self._parts.layout.block_key(self._slice_id, index, size), body)
