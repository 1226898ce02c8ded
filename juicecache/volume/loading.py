"""What reads miss, loaded by block: each block once, cut for all who want a part of it.

Laws: of what is loaded and not cut yet, about ``buffer_size`` bytes exist at a time, however
much is asked for; a block that fails is the error of the reads that want it, and of no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from juicecache.model.layout import BlockKey, BlockSpan
from juicecache.volume.flight import Flight
from juicecache.volume.parts import Parts

if TYPE_CHECKING:
    from juicecache.volume.reader import RangeRead

_RANGE_SHARE = 4
"""A read of less than a quarter of a block fetches its range, as the official client does."""
_WHOLE_BYTES = 128 * 1024
"""A block up to this size costs about one round trip either way: always load it whole."""
_REQUESTS_MAX = 1024
"""Requests under way for one call: ranges are small, so that bytes alone would not bound them."""
_PEER_WINDOW_BYTES = 64 << 20
"""On their way at once where there is a cache group: its answers come at once, and memory that
is used again is twice as fast as fresh memory. What owners have to load first keeps sixteen
requests of 4 MiB under way."""

Want: TypeAlias = "tuple[RangeRead, int, BlockSpan]"
"""A read, and the number and place of the part that it misses."""


def wants_block(parts: Parts, key: BlockKey, wants: Sequence[Want]) -> bool:
    """Return whether all of a block is loaded for what reads miss of it; if so, load it now.

    Where something is kept, a second touch loads the block; so does the first, when a whole
    file is read that shares its block with others (packed files): who reads one such file
    will read its neighbours, and one request then brings some forty files of 100 KiB. Blocks
    that do not stay for the neighbours are an exception: see `Touches.pays_whole`.
    """
    missed_bytes = sum(span.stop - span.start for _, _, span in wants)
    if (
        key.length <= _WHOLE_BYTES
        or missed_bytes * _RANGE_SHARE >= key.length
        or not parts.blocks.is_ranged(key)
    ):
        return True
    # Where nothing is kept, the whole block would be thrown away again after each read.
    if parts.options.cache_size_bytes == 0:
        return len(wants) > 1
    read = wants[0][0]
    likely = len(wants) > 1 or (read.is_whole_file and read.attr.length < key.length)
    blocks = parts.blocks
    return blocks.is_loading(key) or blocks.touches.pays_whole(key, likely=likely)


class Gathering:
    """The blocks that several reads miss, on their way in a window.

    ``add`` reads as they are planned and call ``begin`` to keep object storage busy
    meanwhile; ``finish`` when all are there. Blocks are given up only then, so that reads
    added late share them.
    """

    def __init__(self, parts: Parts, *, whole: bool = False) -> None:
        self._parts = parts
        self._whole = whole
        self._waiting: dict[BlockKey, list[Want]] = {}
        self._queue: deque[BlockKey] = deque()
        self._bytes_max = parts.options.buffer_size_bytes
        if parts.blocks.group is not None:
            self._bytes_max = min(self._bytes_max, _PEER_WINDOW_BYTES)
        self._window: deque[tuple[Sequence[Want], Flight]] = deque()

    def add(self, read: RangeRead) -> None:
        """Take over what a read misses."""
        for number, key, span in read.missing():
            if key not in self._waiting:
                self._waiting[key] = []
                self._queue.append(key)
            self._waiting[key].append((read, number, span))

    def begin(self) -> None:
        """Start blocks that are surely wanted whole, as far as the window reaches."""
        undecided = deque[BlockKey]()
        while self._queue and self._has_room():
            key = self._queue.popleft()
            if self._is_wanted_whole(key):
                self._load(key)
            else:
                undecided.append(key)  # reads that come yet may want it too
        self._queue.extendleft(reversed(undecided))

    def finish(self) -> None:
        """Load everything, and place it in the reads; failures wait there for `collect`."""
        try:
            while self._queue or self._window:
                while self._queue and self._has_room():
                    self._start(self._queue.popleft())
                self._take(*self._window[0])
                self._window.popleft()
        finally:
            # After an interrupt what is on its way is dropped.
            self._parts.blocks.abandon(flight for _, flight in self._window)

    def _has_room(self) -> bool:
        return not self._window or (
            len(self._window) < _REQUESTS_MAX and self._parts.blocks.loading_bytes < self._bytes_max
        )

    def _is_wanted_whole(self, key: BlockKey) -> bool:
        return self._whole or wants_block(self._parts, key, self._waiting[key])

    def _start(self, key: BlockKey) -> None:
        if self._is_wanted_whole(key):
            self._load(key)
            return
        wants = self._waiting[key]
        while wants and self._has_room():
            want = wants.pop(0)
            _, _, span = want
            flight = self._parts.blocks.begin_range(
                key, span.start, span.stop, ahead=bool(self._window)
            )
            self._window.append(((want,), flight))
        if wants:
            self._queue.appendleft(key)

    def _load(self, key: BlockKey) -> None:
        # Not a copy: reads that are added late share it.
        (flight,) = self._parts.blocks.begin((key,), ahead=bool(self._window))
        self._window.append((self._waiting[key], flight))

    def _take(self, wants: Sequence[Want], flight: Flight) -> None:
        try:
            body = memoryview(self._parts.blocks.settle(flight))
        except Exception:
            for read, number, _ in wants:
                read.expect(number, flight)  # whose failure it meets again
            return
        for read, number, span in wants:
            read.place(number, body[span.start - flight.start : span.stop - flight.start])


def load_missing(parts: Parts, reads: Iterable[RangeRead], *, whole: bool = False) -> None:
    """Load what planned reads miss; ``whole`` forbids fetching ranges."""
    gathering = Gathering(parts, whole=whole)
    for read in reads:
        gathering.add(read)
    gathering.finish()
