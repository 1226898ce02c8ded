"""Slice records: what stands in a chunk, what of it is visible, and how it is merged.

A chunk's content is a list of 24-byte records in order of application: a later record
covers every earlier one in its range, holes included. Pure arithmetic; facts of the format:
``docs/format.md``, "Slices".
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

CHUNK_BYTES = 64 << 20
"""Bytes of one chunk: fixed by the format."""
FILE_BYTES_MAX = CHUNK_BYTES << 31
"""Longest file, 128 PiB: what the official client allows. Sums of less than 64 of them fit into
the signed 64 bits of a row; see ``usage`` for the rest."""
RECORD_BYTES = 24
_RECORD = struct.Struct(">IQIII")

_COMPACT_RECORDS_MAX = 1000
"""Records merged at once: what the official client takes, and a bounded transaction."""
_COMPACT_SKIP_BYTES = 1 << 20
_COMPACT_SKIP_SHARE = 5
"""Leading records of at least this size, and of a fifth of what would be merged behind
them, are left where they are: moving them would cost more than it saves."""


class SliceRecord(NamedTuple):
    """One record: bytes ``[off, off + length)`` of a slice stand at ``pos`` of the chunk.

    A slice id of 0 is a hole, which reads as zeros. ``size`` is the whole slice's and the
    same in all its records, because object names depend on it.
    """

    pos: int
    slice_id: int
    size: int
    off: int
    length: int

    def pack(self) -> bytes:
        """Return the 24 bytes of the format."""
        return _RECORD.pack(*self)

    @classmethod
    def unpack_all(cls, records: bytes) -> list[SliceRecord]:
        """Return the records of a chunk, in order of application."""
        return [cls._make(fields) for fields in _RECORD.iter_unpack(records)]


class Extent(NamedTuple):
    """A visible part of a chunk: like a record, but never a hole and never covered."""

    pos: int
    slice_id: int
    size: int
    off: int
    length: int


class CompactionPlan(NamedTuple):
    """How the records of a chunk become one.

    Attributes
    ----------
    skipped, taken
        Leading records that stay, and the number behind them that are merged.
    pos, length
        What the merged record covers.
    extents
        The bytes to copy; what they leave out of ``[pos, pos + length)`` is zeros.
    """

    skipped: int
    taken: int
    pos: int
    length: int
    extents: list[Extent]


def visible(records: bytes) -> list[Extent]:
    """Return what can be seen of a chunk, in order of position; gaps are holes."""
    if len(records) == RECORD_BYTES:
        only = Extent._make(_RECORD.unpack(records))
        return [only] if only.slice_id else []
    return [extent for extent in _overlay(_RECORD.iter_unpack(records)) if extent.slice_id]


def _overlay(records: Iterable[tuple[int, ...]]) -> list[Extent]:
    """Lay records over one another; holes stay as extents of slice 0."""
    laid: list[Extent] = []
    ends: list[int] = []  # where each extent ends: sorted like the extents themselves
    for fields in records:
        new = Extent._make(fields)
        stop = new.pos + new.length
        first = bisect_left(ends, new.pos + 1)
        last = first
        pieces = [new]
        while last < len(laid) and laid[last].pos < stop:
            old = laid[last]
            if old.pos < new.pos:
                pieces.insert(0, old._replace(length=new.pos - old.pos))
            if old.pos + old.length > stop:
                pieces.append(_from(old, stop))
            last += 1
        laid[first:last] = pieces
        ends[first:last] = [piece.pos + piece.length for piece in pieces]
    return laid


def _from(extent: Extent, start: int) -> Extent:
    """Return ``extent`` without what stands in front of ``start``."""
    cut = start - extent.pos
    return Extent(
        start,
        extent.slice_id,
        extent.size,
        extent.off + cut if extent.slice_id else 0,
        extent.length - cut,
    )


def refs_of(records: bytes) -> Counter[tuple[int, int]]:
    """Return how many records point at each slice: {(id, size): count}; holes do not count."""
    counts: Counter[tuple[int, int]] = Counter()
    for _, slice_id, size, _, _ in _RECORD.iter_unpack(records):
        if slice_id:
            counts[slice_id, size] += 1
    return counts


def truncate_records(
    old_length: int, new_length: int, existing: Sequence[int]
) -> Iterator[tuple[int, SliceRecord]]:
    """Iterate over the holes that take a file from one length to another: (chunk, record).

    Parameters
    ----------
    existing
        Chunks strictly between those of the two lengths that have a row; the others are
        holes already.
    """
    start, stop = sorted((old_length, new_length))
    if start == stop:
        return
    first, last = start // CHUNK_BYTES, stop // CHUNK_BYTES
    begin = start % CHUNK_BYTES
    end = stop % CHUNK_BYTES if first == last else CHUNK_BYTES
    yield first, _hole(begin, end - begin)
    for index in existing:
        yield index, _hole(0, CHUNK_BYTES)
    if last != first and stop % CHUNK_BYTES:
        yield last, _hole(0, stop % CHUNK_BYTES)


def _hole(pos: int, length: int) -> SliceRecord:
    return SliceRecord(pos, 0, 0, 0, length)


def copy_records(
    chunks: Mapping[int, Sequence[Extent]], source_start: int, target_start: int, size: int
) -> Iterator[tuple[int, SliceRecord]]:
    """Iterate over the records that copy a range of one file into another: (chunk, record).

    Parameters
    ----------
    chunks
        What is visible in every chunk of the source that the range touches.

    Holes are copied as holes; records are split where the target's chunks end.
    """
    stop = source_start + size
    at = source_start
    while at < stop:
        index, pos = divmod(at, CHUNK_BYTES)
        end = min(CHUNK_BYTES, pos + stop - at)
        for piece in _with_holes(chunks.get(index, ()), pos, end):
            shift = target_start - source_start + index * CHUNK_BYTES
            yield from _split(piece, piece.pos + shift)
        at += end - pos


def _with_holes(extents: Sequence[Extent], start: int, stop: int) -> Iterator[Extent]:
    at = start
    for extent in extents:
        end = min(extent.pos + extent.length, stop)
        if end <= at or extent.pos >= stop:
            continue
        if extent.pos > at:
            yield Extent(at, 0, 0, 0, extent.pos - at)
        piece = _from(extent, max(at, extent.pos))
        yield piece._replace(length=end - piece.pos)
        at = end
    if at < stop:
        yield Extent(at, 0, 0, 0, stop - at)


def _split(piece: Extent, target: int) -> Iterator[tuple[int, SliceRecord]]:
    off, rest = piece.off, piece.length
    while rest:
        index, pos = divmod(target, CHUNK_BYTES)
        length = min(rest, CHUNK_BYTES - pos)
        yield index, SliceRecord(pos, piece.slice_id, piece.size, off, length)
        off += length if piece.slice_id else 0
        target += length
        rest -= length


def covered_records(records: bytes) -> int:
    """Return how many leading records of a chunk can go without a visible change.

    Those before the first one of which anything can be seen: they are covered, or holes over
    what is covered. Of a list of which nothing can be seen none: compaction shortens it.
    """
    rows = SliceRecord.unpack_all(records)
    numbered = (
        row._replace(slice_id=number if row.slice_id else 0)
        for number, row in enumerate(rows, start=1)
    )
    seen = [extent.slice_id for extent in _overlay(numbered) if extent.slice_id]
    return min(seen) - 1 if seen else 0


def plan_compaction(records: bytes) -> CompactionPlan | None:
    """Return how to merge the records of a chunk; None when there are fewer than two to merge.

    Large leading records that are fully visible stay as they are. An all-hole list becomes
    one zero byte, as the official client does it.
    """
    rows = SliceRecord.unpack_all(records)[:_COMPACT_RECORDS_MAX]
    skipped = 0
    while True:
        taken = rows[skipped:]
        if len(taken) < 2:
            return None
        laid = _overlay(taken)
        extents = [extent for extent in laid if extent.slice_id]
        if extents:
            pos, stop = extents[0].pos, extents[-1].pos + extents[-1].length
        else:
            pos, stop = laid[0].pos, laid[0].pos + 1
        first = taken[0]
        merged = stop - pos
        if not (
            first.slice_id
            and first.length >= _COMPACT_SKIP_BYTES
            and first.length * _COMPACT_SKIP_SHARE >= merged
            and extents
            and tuple(extents[0]) == tuple(first)
        ):
            return CompactionPlan(skipped, len(taken), pos, merged, extents)
        skipped += 1
