"""Repacking: what is left of sparse packed slices moves together, and their objects go.

A packed slice keeps all its objects until its last file is gone. Where less than a bound of its
bytes is still pointed at, the live ranges are copied into a new slice and the files' records
follow. Laws:

* Blocks before metadata, as for every slice; a run that is killed leaves objects without a
  reference, or dead slices, and ``gc`` finds both.
* Whoever changed a file meanwhile wins: his list stays, and its old slice with it.
* Memory is bounded by one slice, a page of lists, and a number for each packed slice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from juicecache.errors import JuicecacheError, ObjectNotFoundError
from juicecache.meta.dropping import SliceKey
from juicecache.meta.repacking import Move, commit_moves
from juicecache.meta.rows import Chunk
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord
from juicecache.volume.cleaning import delete_slices, log
from juicecache.volume.pack import FILES_MAX
from juicecache.volume.parts import Parts
from juicecache.volume.writer import SliceWriter, Uploads

MIN_LIVE_SHARE = 0.5
"""Below this, a slice is rewritten. Space then never exceeds twice what lives, and each byte that
is copied frees at least one."""
_PAGE = 1000
_MOVES_MAX = 500
"""Lists changed by one transaction: some 30 ms, far below the others' busy timeout of 5 s."""


@dataclass(frozen=True, slots=True)
class RepackReport:
    """What was rewritten.

    Attributes
    ----------
    sparse_slices
        Slices of which too little was live.
    moved_lists
        Chunks whose records were moved.
    copied_bytes, freed_bytes
        What was stored anew, and the size of the slices that nothing needs any more (raw bytes).
    """

    sparse_slices: int = 0
    moved_lists: int = 0
    copied_bytes: int = 0
    freed_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class _Range(NamedTuple):
    """Bytes of a slice that records point at."""

    slice_id: int
    size: int
    off: int
    length: int


def repack(
    parts: Parts,
    *,
    min_live_share: float = MIN_LIVE_SHARE,
    stop: threading.Event | None = None,
    progress: Callable[[RepackReport], None] | None = None,
) -> RepackReport:
    """Rewrite packed slices of which too little is live. Safe to interrupt and to repeat.

    Parameters
    ----------
    min_live_share
        Of the bytes of a slice, the part that records must point at.
    stop
        Ends a run early, between two slices.
    progress
        Called with the report so far, after each slice that was written.

    Raises
    ------
    ReadOnlyVolumeError
    ObjectError, CorruptBlockError, MetaError
        What was done until then stands.
    """
    parts.meta.gate.check_writable("/")
    sparse = _sparse_slices(parts, min_live_share)
    report = RepackReport(sparse_slices=len(sparse))
    for rows in _batches(parts, sparse) if sparse else ():
        if stop is not None and stop.is_set():
            break
        report = _rewrite(parts, rows, sparse, report)
        if progress is not None:
            progress(report)
    return report


def _sparse_slices(parts: Parts, min_live_share: float) -> set[SliceKey]:
    """Return the slices of which records point at parts only, and at too little altogether.

    Two sweeps: one for what points at parts, one for who points at the whole of the same slices.
    A range that several files share counts several times, so such a slice stays a little longer.
    """
    live: dict[SliceKey, int] = {}
    for record in _records(parts):
        if record.length < record.size:
            key = record.slice_id, record.size
            live[key] = live.get(key, 0) + record.length
    sparse = {key for key, length in live.items() if length < min_live_share * key[1]}
    if sparse:
        for record in _records(parts):
            if record.length == record.size:
                sparse.discard((record.slice_id, record.size))
    return sparse


def _records(parts: Parts) -> Iterator[SliceRecord]:
    for rows in parts.engine.sweep(Chunk, page=_PAGE):
        for row in rows:
            yield from (one for one in SliceRecord.unpack_all(row.slices) if one.slice_id)


def _batches(parts: Parts, sparse: set[SliceKey]) -> Iterator[list[Chunk]]:
    """Iterate over the lists that point at sparse slices, as many at a time as fill a new one."""
    waiting: list[Chunk] = []
    ranges: set[_Range] = set()
    size = 0
    for rows in parts.engine.sweep(Chunk, page=_PAGE):
        for row in rows:
            wanted = set(_ranges(row.slices, sparse))
            if not wanted or _size(wanted) > CHUNK_BYTES:
                continue  # more than a slice holds: compaction makes less of it
            if size + _size(wanted - ranges) > CHUNK_BYTES or len(waiting) >= FILES_MAX:
                yield waiting
                waiting, ranges, size = [], set(), 0
            waiting.append(row)
            size += _size(wanted - ranges)
            ranges |= wanted
    if waiting:
        yield waiting


def _size(ranges: set[_Range]) -> int:
    return sum(one.length for one in ranges)


def _ranges(records: bytes, sparse: set[SliceKey]) -> Iterator[_Range]:
    for one in SliceRecord.unpack_all(records):
        if (one.slice_id, one.size) in sparse:
            yield _Range(one.slice_id, one.size, one.off, one.length)


def _rewrite(
    parts: Parts, rows: list[Chunk], sparse: set[SliceKey], report: RepackReport
) -> RepackReport:
    """Copy what some lists need of sparse slices, and let them point at the copy."""
    uploads = Uploads(parts)
    try:
        ranges = {one for row in rows for one in _ranges(row.slices, sparse)}
        starts, new = _copy(parts, uploads, ranges)
    except ObjectNotFoundError as error:
        # Others removed, or rewrote, these files meanwhile; what is damaged fsck tells.
        uploads.discard()
        log.info("repacking leaves %d lists alone: %s", len(rows), error)
        return report
    except BaseException:
        uploads.discard()
        raise
    moves = [_move(row, starts, new) for row in rows]
    moved, dead = _commit(parts, uploads, moves, (new.slice_id, new.size))
    delete_slices(parts, dead)
    return replace(
        report,
        moved_lists=report.moved_lists + moved,
        copied_bytes=report.copied_bytes + (new.size if moved else 0),
        freed_bytes=report.freed_bytes + sum(size for _, size in dead),
    )


def _copy(
    parts: Parts, uploads: Uploads, ranges: set[_Range]
) -> tuple[dict[_Range, int], SliceRecord]:
    """Store ranges end to end in a new slice; return where each begins, and the whole slice."""
    writer = SliceWriter(parts, uploads, 0)
    starts: dict[_Range, int] = {}
    done = []
    held: tuple[object, bytes] = (None, b"")
    for one in sorted(ranges):
        starts[one] = writer.offset
        at, end = one.off, one.off + one.length
        while at < end:
            # Neighbours share blocks: each is loaded once.
            key = parts.layout.block_key(one.slice_id, at // parts.layout.block_bytes, one.size)
            if held[0] != key:
                held = key, parts.blocks.load(key)
            inside = at % parts.layout.block_bytes
            piece = memoryview(held[1])[inside : inside + end - at]
            done += writer.write(piece, stable=False)
            at += piece.nbytes
    if writer.has_content:
        done.append(writer.cut())
    (whole,) = done
    return starts, whole.record


def _move(row: Chunk, starts: dict[_Range, int], new: SliceRecord) -> Move:
    after = b""
    for one in SliceRecord.unpack_all(row.slices):
        start = starts.get(_Range(one.slice_id, one.size, one.off, one.length))
        if start is not None:
            one = SliceRecord(one.pos, new.slice_id, new.size, start, one.length)
        after += one.pack()
    return Move(row.inode, row.index, row.slices, after)


def _commit(
    parts: Parts, uploads: Uploads, moves: list[Move], new: SliceKey
) -> tuple[int, list[SliceKey]]:
    """Commit the moves in bounded transactions; the slice goes again where none was possible."""
    meta, gate = parts.meta, parts.meta.gate
    moved, dead = 0, []
    try:
        for first in range(0, len(moves), _MOVES_MAX):
            some, number = moves[first : first + _MOVES_MAX], meta.new_slice_id()
            ctx, fresh = gate.context(), moved == 0

            def act(
                some: list[Move] = some, number: int = number, fresh: bool = fresh
            ) -> tuple[int, list[SliceKey]]:
                return parts.engine.write(
                    lambda tx: commit_moves(
                        tx,
                        ctx,  # noqa: B023 - called before the next round
                        some,
                        new,
                        number,
                        fresh=fresh,
                        trash_days=gate.setting.trash_days,
                    )
                )

            count, died = uploads.commit(act) if fresh else act()
            moved += count
            dead += died
            for move in some:
                meta.view.drop_extents(move.inode, move.index)
    except JuicecacheError:
        if not moved:
            uploads.discard()
        raise
    if not moved:
        parts.blocks.delete(parts.layout.block_keys(*new))
    return moved, dead
