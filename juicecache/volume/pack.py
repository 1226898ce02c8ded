"""Packing: the contents of many small files, end to end in one shared slice.

A slice of 64 MiB holds 650 files of 100 KiB in 16 objects. Each file has one record that
points at its part; the slice has as many references as records (``docs/format.md``). So
every client reads, clones, overwrites and deletes such files like any other, and whoever
loads a block has its neighbours in the same request.

Law: a slice is committed in one transaction with all its files, so it is either referenced
by every file that was not refused, or by none.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import NamedTuple

from juicecache.errors import FileError, ObjectError
from juicecache.meta.chunks import NewSlice
from juicecache.model.attr import Attr
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord
from juicecache.objects.store import Buffer
from juicecache.volume.compacting import compact_after_commit
from juicecache.volume.parts import Parts
from juicecache.volume.writer import SliceWriter, Uploads

_PACKED_SHARE = 4
"""Files of up to a quarter of a block are packed: a larger one alone makes objects that are
worth a request each, and reading it would load much that nobody asked for."""
_GAP_SHARE = 16
"""A file that would lie across two blocks begins the next one, if that leaves at most this
part of a block unused: files of up to 256 KiB are one request, and in memory one piece."""
FILES_MAX = 2000
"""Files of one slice: a commit of some 60 ms, far below the others' busy timeout of 5 s."""


class PackedFile(NamedTuple):
    """One file of a pack: bytes ``[start, start + length)`` of its slice."""

    path: str
    start: int
    length: int
    exclusive: bool


def is_small(parts: Parts, size_bytes: int) -> bool:
    """Return whether a file of this size is packed, where there are several."""
    return size_bytes * _PACKED_SHARE <= parts.layout.block_bytes


class Pack:
    """One shared slice on its way, and the files in it.

    Its blocks are uploaded as they fill. It ends with `commit` or `discard`.

    Attributes
    ----------
    files
        In the order of their contents.
    record
        The whole slice, once it is closed and if there is any content.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._uploads = Uploads(parts)
        self._writer = SliceWriter(parts, self._uploads, 0)
        self._block_bytes = parts.layout.block_bytes
        self.files: list[PackedFile] = []
        self.record: SliceRecord | None = None

    @property
    def has_stored(self) -> bool:
        """Whether blocks are stored, or on their way, that nothing points at."""
        return not self._uploads.held and (self.record is not None or self._writer.has_blocks)

    def has_room(self, size_bytes: int) -> bool:
        """Return whether another file of this size goes in."""
        end = self._writer.offset + self._gap(size_bytes) + size_bytes
        return self.record is None and len(self.files) < FILES_MAX and end <= CHUNK_BYTES

    def add(self, path: str, content: Buffer, *, exclusive: bool) -> None:
        """Take a copy of a file's content; waits while all upload slots are taken."""
        size_bytes = memoryview(content).nbytes
        done = self._writer.write(bytes(self._gap(size_bytes)), stable=False)
        start = self._writer.offset
        done += self._writer.write(content, stable=False)
        if done:  # exactly full
            self.record = done[0].record
        self.files.append(PackedFile(path, start, size_bytes, exclusive))

    def _gap(self, size_bytes: int) -> int:
        """Return how many bytes to leave unused before a file of this size."""
        left = self._block_bytes - self._writer.offset % self._block_bytes
        return left if left < size_bytes and left * _GAP_SHARE <= self._block_bytes else 0

    def close(self) -> None:
        """Store the last block; no file goes in afterwards."""
        if self.record is None and self._writer.has_content:
            self.record = self._writer.cut().record

    def wait(self) -> None:
        """Wait until all blocks of a closed pack are stored, and let go of their bytes."""
        self._uploads.wait()

    def hold(self) -> None:
        """Keep what is stored referenced until the commit, however late that is."""
        self.close()
        if self.record is not None and not self._uploads.held:
            self._uploads.hold([self.record])

    def commit(self, files: list[PackedFile]) -> list[Attr | FileError]:
        """Commit some of the files, all of them in one transaction; return what came of each.

        Raises
        ------
        ObjectError, MetaError, NoSpaceError
            None is committed, and nothing is left behind; after a CommitUnknownError all of
            them may be.
        """
        try:
            self.close()
            self.wait()
            stored = list(self._uploads.stored)
            outcomes = self._uploads.commit(lambda: self._commit(files))
        except BaseException:
            self.discard()
            raise
        filled = []
        for file, outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, Attr) and file.length:
                filled.append(file)
                compact_after_commit(self._parts, outcome, self._slices(file))
        if not filled:
            with suppress(ObjectError):  # nothing points at the slice; what stays gc collects
                self._parts.blocks.delete(stored)
        return outcomes

    def discard(self) -> None:
        """Forget everything and remove its objects, but for those that a file points at."""
        self._uploads.discard()

    def _commit(self, files: list[PackedFile]) -> list[Attr | FileError]:
        contents = [(file.path, self._slices(file), file.exclusive) for file in files]
        return self._parts.meta.commit_files(contents, time.time_ns(), held=self._uploads.held)

    def _slices(self, file: PackedFile) -> list[NewSlice]:
        if not file.length:
            return []
        assert self.record is not None, file
        whole = self.record
        record = SliceRecord(0, whole.slice_id, whole.size, file.start, file.length)
        return [NewSlice(0, record, fresh=not self._uploads.held)]
