"""Ranges of files: which blocks they need, loaded together, put end to end.

Laws: what the tiers have is never asked of object storage; a missing object first means
a stale slice list, so it is read again before anybody hears of it; bytes are copied once,
from the tier into what the caller gets; what a path is asked for comes from one version of
its file.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from juicecache.cache.tier import as_bytes
from juicecache.errors import (
    CorruptBlockError,
    IsDirectoryError,
    ObjectNotFoundError,
    StaleHandleError,
)
from juicecache.model.attr import Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES, BlockKey, BlockSpan, spans
from juicecache.model.slices import Extent
from juicecache.volume.flight import Flight
from juicecache.volume.loading import Gathering, load_missing
from juicecache.volume.parts import Parts

T = TypeVar("T")

_PLANNED_MAX = 256
"""Files looked up before their loads begin: look-ups would otherwise compete with answers
for the interpreter, and a longer list should not keep object storage waiting."""
_MISSING_PAUSES_S = (0.05, 0.2, 1.0, 3.0)
"""Pauses before a missing object is looked for again: first for a slice list that a
compaction replaced, then for the upload of a mount that commits before it uploads."""
_CHANGES_MAX = 10
"""Versions of a file that one read begins with; each time somebody had written a new one."""


class RangeRead:
    """Bytes ``[start, stop)`` of one file on their way.

    ``begin`` starts what object storage must deliver, ``collect`` waits and returns. Bytes
    that are one part of one block are handed on as they come from the tier; all others are
    read straight into one buffer, the caller's or our own.

    Parameters
    ----------
    target
        Where the bytes go: writable, contiguous, of ``stop - start`` bytes, and not to be
        touched by others until `collect_into` returns.
    exact
        Read the version that ``attr`` is of, or nothing; else a later one, as an open file does.

    Raises
    ------
    StaleHandleError
        By `plan` and whatever waits: the file is another version, or no longer reaches so far.
    """

    __slots__ = (
        "_arriving", "_exact", "_missing", "_parts", "_space", "_spans", "_target", "_view",
        "attr", "path", "start", "stop",
    )  # fmt: skip

    def __init__(
        self,
        parts: Parts,
        attr: Attr,
        path: str,
        start: int,
        stop: int,
        target: memoryview | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self._parts = parts
        self._exact = exact
        self.attr = attr
        self.path = path
        self.start = start
        self.stop = stop
        self._spans: list[tuple[BlockKey, BlockSpan]] = []
        self._missing: dict[int, None] = {}  # a set that keeps its order
        self._arriving: dict[int, Flight] = {}
        self._view: memoryview | None = None
        self._target = target
        self._space: io.BytesIO | None = None

    @property
    def is_whole_file(self) -> bool:
        """Whether this reads all of the file."""
        return self.start == 0 and self.stop == self.attr.length

    def plan(self, *, again: bool = False) -> None:
        """Find the blocks, from the remembered slice lists or the database."""
        indices = _chunk_indices(self.start, self.stop)
        now, lists = self._parts.meta.extents(self.path, self.attr, indices, again=again)
        if now.length < self.stop or (self._exact and not now.is_same_version(self.attr)):
            raise StaleHandleError(
                self.path, "the file was changed while it was read; open it again"
            )
        for index, extents in zip(indices, lists, strict=True):
            self._add_spans(index, extents)
        self._missing = dict.fromkeys(range(len(self._spans)))
        if self._target is not None:
            self._clear_holes(self._target)

    def plan_cached(self) -> bool:
        """Find the blocks without a database; False when memory does not have all slice lists."""
        for index in _chunk_indices(self.start, self.stop):
            extents = self._parts.meta.view.extents(self.attr, index)
            if extents is None:
                return False
            self._add_spans(index, extents)
        self._missing = dict.fromkeys(range(len(self._spans)))
        return True

    def take_cached(self) -> bool:
        """Read what the tiers have; True when that is everything."""
        tiers = self._parts.tiers
        if self._is_one_part():
            key, span = self._spans[0]
            self._view = tiers.get(key, span.start, span.stop)
            self._missing = {} if self._view is not None else {0: None}
        else:
            target = self._open_target()
            self._missing = dict.fromkeys(
                number
                for number, (key, span) in enumerate(self._spans)
                if not tiers.get_into(key, span.start, span.stop, _part(target, span))
            )
        return not self._missing

    def begin(self) -> None:
        """Start loading the missing blocks, all at once: for reads of a bounded size."""
        flights = self._parts.blocks.begin(self._spans[number][0] for number in self._missing)
        self._arriving.update(zip(self._missing, flights, strict=True))

    def missing(self) -> Iterator[tuple[int, BlockKey, BlockSpan]]:
        """Iterate over what no tier had: number, block and part of it."""
        for number in self._missing:
            yield (number, *self._spans[number])

    def place(self, number: int, content: memoryview) -> None:
        """Take the bytes of the missing part ``number``."""
        self._place(number, content)
        del self._missing[number]

    def expect(self, number: int, flight: Flight) -> None:
        """Take the missing part ``number`` from a load, or a fetched range, under way."""
        self._arriving[number] = flight

    def begin_ahead(self) -> bool:
        """Start loading blocks that no tier has, without reading the others yet.

        Returns False when every block is in a tier: nothing was worth starting.
        """
        tiers = self._parts.tiers
        absent = [number for number, (key, _) in enumerate(self._spans) if not tiers.where(key)]
        keys = [self._spans[number][0] for number in absent]
        flights = self._parts.blocks.begin(keys, ahead=True)
        self._arriving.update(zip(absent, flights, strict=True))
        return bool(absent)

    def collect(self) -> bytes:
        """Wait and return exactly ``stop - start`` bytes; holes are zeros.

        Raises
        ------
        ObjectNotFoundError
            An object stayed missing after the slice list was read again.
        CorruptBlockError, ObjectError
        """
        self._settle()
        if self._view is not None:
            return as_bytes(self._view)
        self._open_target().release()
        assert self._space is not None
        return self._space.getvalue()  # its own bytes: nobody holds a view of them any more

    def collect_into(self) -> None:
        """Wait until all bytes are in the caller's buffer; raises like `collect`."""
        assert self._space is None, "the buffer is our own"
        self._settle()

    def _settle(self) -> None:
        try:
            self._settle_missing()
        except BaseException:
            # What else is on its way would count as loading for ever.
            self.abandon()
            raise

    def _settle_missing(self) -> None:
        for pause_s in (*_MISSING_PAUSES_S, None):
            try:
                for number in self._missing:
                    self._place(number, self._content(number))
                self._missing = {}
                return
            except ObjectNotFoundError as error:
                self.abandon()
                if pause_s is None:
                    raise ObjectNotFoundError(
                        error.name,
                        f"the object is missing from object storage; {self.path} needs it "
                        "(run 'juicecache fsck' to list what else is missing). "
                        f"Object storage says: {error.detail}",
                    ) from error
                time.sleep(pause_s)
                self._spans, self._arriving, self._view = [], {}, None
                self.plan(again=True)
                self.take_cached()
                self.begin()
            except CorruptBlockError as error:
                raise CorruptBlockError(
                    error.name, error.expected, error.found, f"{error.where}, read for {self.path}"
                ) from error
        raise AssertionError("unreachable: the last pass returns or raises")

    def abandon(self) -> None:
        """Stop caring for what is on its way."""
        self._parts.blocks.abandon(self._arriving.values())
        self._arriving = {}

    def _is_one_part(self) -> bool:
        if self._target is not None or len(self._spans) != 1:
            return False
        span = self._spans[0][1]
        return span.stop - span.start == self.stop - self.start

    def _open_target(self) -> memoryview:
        """Return where the bytes go; our own buffer is made on first use, all zeros."""
        if self._target is None:
            self._space = io.BytesIO(bytes(self.stop - self.start))
            self._target = self._space.getbuffer()
        return self._target

    def _clear_holes(self, target: memoryview) -> None:
        at = 0
        for _, span in self._spans:
            if span.at > at:
                target[at : span.at] = bytes(span.at - at)
            at = span.at + span.stop - span.start
        if at < len(target):
            target[at:] = bytes(len(target) - at)

    def _place(self, number: int, content: memoryview) -> None:
        if self._is_one_part():
            self._view = content
        else:
            _part(self._open_target(), self._spans[number][1])[:] = content

    def _content(self, number: int) -> memoryview:
        key, span = self._spans[number]
        flight = self._arriving.get(number)
        if flight is None:
            # Left to the tiers when it was begun; evicted since, unless they have it now.
            kept = self._parts.tiers.get(key, span.start, span.stop)
            if kept is not None:
                return kept
            flight = self._parts.blocks.begin((key,))[0]
        body = memoryview(self._parts.blocks.settle(flight))
        self._arriving.pop(number, None)  # not before: an interrupt abandons what is in there
        return body[span.start - flight.start : span.stop - flight.start]

    def _add_spans(self, index: int, extents: list[Extent]) -> None:
        layout = self._parts.layout
        first = index * CHUNK_BYTES
        start, stop = max(self.start, first), min(self.stop, first + CHUNK_BYTES)
        shift = start - self.start
        for span in spans(extents, start - first, stop - first, layout.block_bytes):
            key = layout.block_key(span.slice_id, span.number, span.slice_size)
            self._spans.append((key, span._replace(at=span.at + shift) if shift else span))


def _part(target: memoryview, span: BlockSpan) -> memoryview:
    return target[span.at : span.at + span.stop - span.start]


def _chunk_indices(start: int, stop: int) -> range:
    return range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)) if stop > start else range(0)


def clip(start: int | None, stop: int | None, length: int) -> tuple[int, int]:
    """Return a half-open range inside ``[0, length)`` from the bounds of a Python slice."""
    if start is None and stop is None:
        return 0, length
    first, last, _ = slice(start, stop).indices(length)
    return first, max(first, last)


def file_attr(parts: Parts, path: str) -> Attr:
    """Return the attributes of a file that is to be read; IsDirectoryError for a directory."""
    attr = parts.meta.resolve(path, max_age_s=parts.options.open_cache_s)
    if attr.type == NodeType.DIRECTORY:
        raise IsDirectoryError(path)
    return attr


def lone_part(parts: Parts, attr: Attr, start: int, stop: int) -> tuple[BlockKey, int, int] | None:
    """Return the one part of one block that ``[start, stop)`` is, from remembered slice lists.

    None where they say otherwise or are not known; then a `RangeRead` finds out. This is its
    arithmetic for the read that matters most, of a small file or of a small range, without
    the lists and tuples of the general case: a tenth of what that costs.
    """
    index = start // CHUNK_BYTES
    extents = parts.meta.view.extents(attr, index)
    if extents is None or len(extents) != 1 or stop <= start:
        return None
    pos, slice_id, slice_size, off, length = extents[0]
    inside = start - index * CHUNK_BYTES - pos
    size = stop - start
    if inside < 0 or inside + size > length:
        return None
    number, begin = divmod(off + inside, parts.layout.block_bytes)
    end = begin + size
    if end > parts.layout.block_bytes:
        return None
    return parts.layout.block_key(slice_id, number, slice_size), begin, end


def of_one_version(parts: Parts, path: str, read: Callable[[Attr], T]) -> T:
    """Return what ``read`` makes of the attributes of a file, again while others change it."""
    for _ in range(_CHANGES_MAX - 1):
        try:
            return read(file_attr(parts, path))
        except StaleHandleError:
            parts.meta.view.forget()
    return read(file_attr(parts, path))


def peek_file(parts: Parts, path: str, start: int | None, stop: int | None) -> bytes | None:
    """Return a range of a file if memory and tiers have all of it, else None; never waits."""
    attr = parts.meta.cached(path, parts.options.open_cache_s)
    if attr is None or not attr.is_file:
        return None
    first, last = clip(start, stop, attr.length)
    part = lone_part(parts, attr, first, last)
    if part is not None:
        view = parts.tiers.get(*part)
        return None if view is None else as_bytes(view)
    read = RangeRead(parts, attr, path, first, last)
    if not read.plan_cached() or not read.take_cached():
        return None
    return read.collect()


def read_file(parts: Parts, path: str, start: int | None, stop: int | None) -> bytes:
    """Return a range of a file, all its blocks loaded in parallel."""

    def read(attr: Attr) -> bytes:
        return read_range(parts, attr, path, *clip(start, stop, attr.length), exact=True)

    return of_one_version(parts, path, read)


def read_range(
    parts: Parts,
    attr: Attr,
    path: str,
    start: int,
    stop: int,
    *,
    whole: bool = False,
    exact: bool = False,
) -> bytes:
    """Return bytes ``[start, stop)`` of an inode; the bounds must lie inside the file."""
    part = lone_part(parts, attr, start, stop)
    if part is not None:
        view = parts.tiers.get(*part) or _fetched(parts, part)
        if view is not None:
            return as_bytes(view)
    read = RangeRead(parts, attr, path, start, stop, exact=exact)
    return _gather(parts, read, is_missing=part is not None, whole=whole)


def _fetched(parts: Parts, part: tuple[BlockKey, int, int]) -> memoryview | None:
    """Return a part from its owner in the cache group, if that is the short way."""
    try:
        return parts.blocks.fetch_part(*part)
    except (ObjectNotFoundError, CorruptBlockError):
        return None  # the long way looks whether the slice list is stale, and names the file


def _gather(parts: Parts, read: RangeRead, *, is_missing: bool, whole: bool = False) -> bytes:
    """Return a range of any form; where it ``is_missing``, the tiers were asked already."""
    read.plan()
    if is_missing or not read.take_cached():
        load_missing(parts, (read,), whole=whole)
    return read.collect()


def read_view(parts: Parts, path: str, start: int | None, stop: int | None) -> memoryview:
    """Return a range of a file as a read-only view; see `Volume.read_view`."""

    def read(attr: Attr) -> memoryview:
        first, last = clip(start, stop, attr.length)
        part = lone_part(parts, attr, first, last)
        view = None if part is None else parts.tiers.get(*part) or _fetched(parts, part)
        if view is None:
            whole = RangeRead(parts, attr, path, first, last, exact=True)
            view = memoryview(_gather(parts, whole, is_missing=part is not None))
        return view

    return of_one_version(parts, path, read)


def read_into(parts: Parts, path: str, buffer: memoryview, start: int) -> int:
    """Fill a buffer from ``start`` on as far as the file reaches; see `Volume.read_into`."""

    def read(attr: Attr) -> int:
        first, last = clip(start, None, attr.length)
        return read_range_into(parts, attr, path, buffer, first, min(last, first + buffer.nbytes))

    return of_one_version(parts, path, read)


def read_range_into(
    parts: Parts, attr: Attr, path: str, buffer: memoryview, start: int, stop: int
) -> int:
    """Put bytes ``[start, stop)`` of one version into the start of ``buffer``; return how many."""
    target = buffer[: stop - start]
    part = lone_part(parts, attr, start, stop)
    if part is not None:
        if parts.tiers.get_into(*part, target):
            return stop - start
        if (view := _fetched(parts, part)) is not None:
            target[:] = view
            return stop - start
    read = RangeRead(parts, attr, path, start, stop, target, exact=True)
    read.plan()
    if part is not None or not read.take_cached():
        load_missing(parts, (read,))
    read.collect_into()
    return stop - start


def read_many_files(
    parts: Parts, requests: Sequence[tuple[str, int | None, int | None]]
) -> list[bytes | Exception]:
    """Return the outcome of every request, in order; each block is loaded once for all."""
    outcomes: list[bytes | Exception | RangeRead] = []
    gathering = Gathering(parts)
    for first in range(0, len(requests), _PLANNED_MAX):
        for outcome in _planned(parts, requests[first : first + _PLANNED_MAX]):
            if isinstance(outcome, RangeRead):
                gathering.add(outcome)
            outcomes.append(outcome)
        gathering.begin()
    gathering.finish()
    results: list[bytes | Exception] = []
    for outcome, request in zip(outcomes, requests, strict=True):
        try:
            result = outcome.collect() if isinstance(outcome, RangeRead) else outcome
        except Exception as error:
            result = error
        if isinstance(result, StaleHandleError):
            parts.meta.view.forget()
            result = _outcome(parts, *request)
        results.append(result)
    return results


def _outcome(parts: Parts, path: str, start: int | None, stop: int | None) -> bytes | Exception:
    try:
        return read_file(parts, path, start, stop)
    except Exception as error:
        return error


def _planned(
    parts: Parts, requests: Sequence[tuple[str, int | None, int | None]]
) -> Iterator[RangeRead | bytes | Exception]:
    """Iterate over the bytes that are here, the reads that miss something, and what failed."""
    paths = [path for path, _, _ in requests]
    attrs = parts.meta.resolve_many(paths, max_age_s=parts.options.open_cache_s)
    for (path, start, stop), attr in zip(requests, attrs, strict=True):
        if isinstance(attr, Exception):
            yield attr
            continue
        if attr.is_directory:
            yield IsDirectoryError(path)
            continue
        try:
            read = RangeRead(parts, attr, path, *clip(start, stop, attr.length), exact=True)
            read.plan()
            yield read.collect() if read.take_cached() else read
        except Exception as error:
            yield error
