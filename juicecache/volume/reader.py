"""Ranges of files: which blocks they need, loaded together, put end to end.

Laws: what the tiers have is never asked of object storage; a missing object first means
a stale slice list, so it is read again before anybody hears of it; a small read of a
block that nobody has read yet fetches its range, the second one the block.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from juicecache.errors import CorruptBlockError, IsDirectoryError, ObjectNotFoundError
from juicecache.model.attr import Attr
from juicecache.model.layout import CHUNK_BYTES, BlockKey, BlockSpan, spans
from juicecache.model.slices import Extent
from juicecache.volume.blocks import Flight
from juicecache.volume.parts import Parts

_RANGE_SHARE = 4
"""A read of less than a quarter of a block fetches its range, as the official client does."""
_WHOLE_BYTES = 128 * 1024
"""A block up to this size costs about one round trip either way: always load it whole."""
_PLANNED_MAX = 256
"""Files looked up before their loads begin: look-ups would otherwise compete with answers
for the interpreter, and a longer list should not keep object storage waiting."""
_MISSING_PAUSES_S = (0.05, 0.2, 1.0, 3.0)
"""Pauses before a missing object is looked for again: first for a slice list that a
compaction replaced, then for the upload of a mount that commits before it uploads."""


class RangeRead:
    """Bytes ``[start, stop)`` of one file on their way.

    ``begin`` starts what object storage must deliver, ``collect`` waits and returns.
    """

    __slots__ = ("_parts", "_ranges", "_spans", "_views", "attr", "path", "start", "stop")

    def __init__(self, parts: Parts, attr: Attr, path: str, start: int, stop: int) -> None:
        self._parts = parts
        self.attr = attr
        self.path = path
        self.start = start
        self.stop = stop
        self._spans: list[tuple[BlockKey, BlockSpan]] = []
        self._views: list[memoryview | None] = []
        self._ranges: dict[int, Flight | Future[bytes]] = {}

    def plan(self, *, again: bool = False) -> None:
        """Find the blocks, from the remembered slice lists or the database."""
        indices = _chunk_indices(self.start, self.stop)
        lists = self._parts.meta.extents(self.path, self.attr, indices, again=again)
        for index, extents in zip(indices, lists, strict=True):
            self._add_spans(index, extents)

    def plan_cached(self) -> bool:
        """Find the blocks without a database; False when memory does not have all slice lists."""
        for index in _chunk_indices(self.start, self.stop):
            extents = self._parts.meta.view.extents(self.attr, index)
            if extents is None:
                return False
            self._add_spans(index, extents)
        return True

    def take_cached(self) -> bool:
        """Read what the tiers have; True when that is everything."""
        get = self._parts.tiers.get
        self._views = [get(key, span.start, span.stop) for key, span in self._spans]
        return None not in self._views

    def begin(self, *, whole: bool) -> None:
        """Start loading what `take_cached` did not find; ``whole`` forbids fetching ranges."""
        begin_reads(self._parts, (self,), whole=whole)

    def missing(self) -> Iterator[tuple[int, BlockKey, BlockSpan]]:
        """Iterate over what `take_cached` did not find: number, block and part of it."""
        for number, (key, span) in enumerate(self._spans):
            if self._views[number] is None:
                yield number, key, span

    def expect(self, number: int, coming: Flight | Future[bytes]) -> None:
        """Take the missing part ``number`` from a load, or a fetched range, under way."""
        self._ranges[number] = coming

    def begin_ahead(self) -> bool:
        """Start loading blocks that no tier has, without reading the others yet.

        Returns False when every block is in a tier: nothing was worth starting.
        """
        tiers = self._parts.tiers
        self._views = [None] * len(self._spans)
        absent = [number for number, (key, _) in enumerate(self._spans) if not tiers.where(key)]
        flights = self._parts.blocks.begin(self._spans[number][0] for number in absent)
        self._ranges.update(zip(absent, flights, strict=True))
        return bool(absent)

    def collect(self) -> bytes:
        """Wait and return exactly ``stop - start`` bytes; holes are zeros.

        Raises
        ------
        ObjectNotFoundError
            An object stayed missing after the slice list was read again.
        CorruptBlockError, ObjectError
        """
        try:
            return self._collect()
        except BaseException:
            # What else is on its way would count as loading for ever.
            self.abandon()
            raise

    def _collect(self) -> bytes:
        for pause_s in (*_MISSING_PAUSES_S, None):
            try:
                return self._assemble()
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
                self.attr = self._parts.meta.attr_of(self.path, self.attr.inode)
                self._spans, self._ranges = [], {}
                self.plan(again=True)
                self.take_cached()
                self.begin(whole=True)
            except CorruptBlockError as error:
                raise CorruptBlockError(
                    error.name, error.expected, error.found, f"{error.where}, read for {self.path}"
                ) from error
        raise AssertionError("unreachable: the last pass returns or raises")

    def abandon(self) -> None:
        """Stop caring for what is on its way."""
        self._parts.blocks.abandon(f for f in self._ranges.values() if isinstance(f, Flight))
        self._ranges = {}

    def _assemble(self) -> bytes:
        if len(self._spans) == 1 and self._spans[0][1].stop - self._spans[0][1].start == (
            self.stop - self.start
        ):
            return _as_bytes(self._content(0))
        pieces: list[memoryview | bytes] = []
        at = 0
        for number, (_, span) in enumerate(self._spans):
            if span.at > at:
                pieces.append(bytes(span.at - at))
            pieces.append(self._content(number))
            at = span.at + span.stop - span.start
        if at < self.stop - self.start:
            pieces.append(bytes(self.stop - self.start - at))
        return b"".join(pieces)

    def _content(self, number: int) -> memoryview:
        view = self._views[number]
        if view is not None:
            return view
        key, span = self._spans[number]
        flight = self._ranges.pop(number, None)
        if isinstance(flight, Future):
            return memoryview(flight.result())
        if flight is None:
            # Left to the tiers when it was begun; evicted since, unless they have it now.
            kept = self._parts.tiers.get(key, span.start, span.stop)
            if kept is not None:
                return kept
            flight = self._parts.blocks.begin((key,))[0]
        return memoryview(self._parts.blocks.settle(flight))[span.start : span.stop]

    def _add_spans(self, index: int, extents: list[Extent]) -> None:
        layout = self._parts.layout
        first = index * CHUNK_BYTES
        start, stop = max(self.start, first), min(self.stop, first + CHUNK_BYTES)
        shift = start - self.start
        for span in spans(extents, start - first, stop - first, layout.block_bytes):
            key = layout.block_key(span.slice_id, span.number, span.slice_size)
            self._spans.append((key, span._replace(at=span.at + shift) if shift else span))


def _chunk_indices(start: int, stop: int) -> range:
    return range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)) if stop > start else range(0)


def _as_bytes(view: memoryview) -> bytes:
    # The tiers and the store hand out views of whole bytes objects: no copy is needed then.
    whole = view.obj
    if type(whole) is bytes and len(whole) == view.nbytes:
        return whole
    return bytes(view)


def begin_reads(parts: Parts, reads: Sequence[RangeRead], *, whole: bool) -> None:
    """Start everything that several planned reads miss, each block once.

    A block is fetched in part only where a small part of it is wanted, once, and nobody
    asked for it before; ``whole`` forbids that.
    """
    blocks = parts.blocks
    missing = [(read, *one) for read in reads for one in read.missing()]
    wanted = Counter(key for _, _, key, _ in missing)
    load = []
    for read, number, key, span in missing:
        if whole or wanted[key] > 1 or _wants_block(parts, key, span):
            load.append((read, number, key))
        else:
            read.expect(number, blocks.begin_range(key, span.start, span.stop))
    flights = blocks.begin(key for _, _, key in load)
    for (read, number, _), flight in zip(load, flights, strict=True):
        read.expect(number, flight)


def _wants_block(parts: Parts, key: BlockKey, span: BlockSpan) -> bool:
    return (
        not parts.blocks.ranged
        or key.length <= _WHOLE_BYTES
        or (span.stop - span.start) * _RANGE_SHARE >= key.length
        # Where nothing is kept, the whole block would be thrown away again after each read.
        or (parts.options.cache_size_bytes > 0 and parts.blocks.touched(key))
    )


def clip(start: int | None, stop: int | None, length: int) -> tuple[int, int]:
    """Return a half-open range inside ``[0, length)`` from the bounds of a Python slice."""
    first, last, _ = slice(start, stop).indices(length)
    return first, max(first, last)


def file_attr(parts: Parts, path: str) -> Attr:
    """Return the attributes of a file that is to be read; IsDirectoryError for a directory."""
    attr = parts.meta.resolve(path, max_age_s=parts.options.open_cache_s)
    if attr.is_directory:
        raise IsDirectoryError(path)
    return attr


def peek_file(parts: Parts, path: str, start: int | None, stop: int | None) -> bytes | None:
    """Return a range of a file if memory and tiers have all of it, else None; never waits."""
    attr = parts.meta.cached(path, parts.options.open_cache_s)
    if attr is None or not attr.is_file:
        return None
    read = RangeRead(parts, attr, path, *clip(start, stop, attr.length))
    if not read.plan_cached() or not read.take_cached():
        return None
    return read.collect()


def read_file(parts: Parts, path: str, start: int | None, stop: int | None) -> bytes:
    """Return a range of a file, all its blocks loaded in parallel."""
    attr = file_attr(parts, path)
    return read_range(parts, attr, path, *clip(start, stop, attr.length))


def read_range(
    parts: Parts, attr: Attr, path: str, start: int, stop: int, *, whole: bool = False
) -> bytes:
    """Return bytes ``[start, stop)`` of an inode; the bounds must lie inside the file."""
    read = RangeRead(parts, attr, path, start, stop)
    read.plan()
    if not read.take_cached():
        read.begin(whole=whole)
    return read.collect()


def read_many_files(
    parts: Parts, requests: Sequence[tuple[str, int | None, int | None]]
) -> list[bytes | Exception]:
    """Return the outcome of every request, in order; all loads run at the same time."""
    outcomes: list[bytes | Exception | RangeRead] = []
    for first in range(0, len(requests), _PLANNED_MAX):
        planned = [_planned(parts, *one) for one in requests[first : first + _PLANNED_MAX]]
        begin_reads(parts, [one for one in planned if isinstance(one, RangeRead)], whole=False)
        outcomes += planned
    results: list[bytes | Exception] = []
    for outcome in outcomes:
        if not isinstance(outcome, RangeRead):
            results.append(outcome)
            continue
        try:
            results.append(outcome.collect())
        except Exception as error:
            results.append(error)
    return results


def _planned(parts: Parts, path: str, start: int | None, stop: int | None) -> RangeRead | Exception:
    try:
        attr = file_attr(parts, path)
        read = RangeRead(parts, attr, path, *clip(start, stop, attr.length))
        read.plan()
        read.take_cached()
    except Exception as error:
        return error
    return read
