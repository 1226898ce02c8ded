"""Compaction: the visible bytes of a fragmented chunk are copied into one new slice.

Before that, leading records of which nothing can be seen are dropped, without a copy.

Laws: blocks before metadata, as for every write; at most the blocks of one chunk are read
and written, never all in memory at once; content, length and times stay as they are, so
whoever reads meanwhile sees the same bytes before and after. Who loses a race gives up and
leaves nothing behind.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from juicecache.errors import JuicecacheError, ObjectNotFoundError
from juicecache.meta.chunks import NewSlice, read_chunk
from juicecache.meta.compaction import abandon_slice, commit_compaction, drop_covered
from juicecache.meta.dropping import SliceKey
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Chunk
from juicecache.model.attr import Attr
from juicecache.model.layout import BlockSpan, spans
from juicecache.model.slices import (
    CHUNK_BYTES,
    RECORD_BYTES,
    CompactionPlan,
    SliceRecord,
    covered_records,
    plan_compaction,
    visible,
)
from juicecache.volume.cleaning import delete_slices, run_later
from juicecache.volume.flight import Flight
from juicecache.volume.parts import Parts
from juicecache.volume.writer import SliceWriter, Uploads

log = logging.getLogger("juicecache")

_QUEUED_MAX = 64
"""Chunks that wait for a background compaction: the next commit of a chunk that finds no
place asks again, so nothing is lost by a short queue."""
_COVERED_RECORDS = 16
"""How often a list is looked at for covered content: eight overwrites of a whole file, each of
which appends a hole and a slice. Copying a file then costs an eighth of what was written."""
_COVERED_SHARE = 2
"""Covered bytes for each visible one that make a compaction worth it: it copies one third
and gives back two thirds."""


class Urgency(Enum):
    """When a chunk should be compacted, as far as its list of records tells."""

    NOT = 0
    LATER = 1
    NOW = 2


def urgency(records: bytes) -> Urgency:
    """Return when to compact the chunk with this list, which a commit has just appended to.

    Every hundred records, and beyond 350 with each commit, in the background; from 2,500 on
    before the commit returns, since lists have a largest size in some databases: the rule of
    the official client. Besides, a list of 16 and more records in which two thirds of the
    bytes are covered by later ones: a file that is overwritten again and again.
    """
    count = len(records) // RECORD_BYTES
    if count >= 2500:
        return Urgency.NOW
    if count % 100 == 99 or count > 350:
        return Urgency.LATER
    # A look costs some microseconds a record: not with every commit.
    looks = count >= _COVERED_RECORDS and count % _COVERED_RECORDS < 2
    return Urgency.LATER if looks and _is_mostly_covered(records) else Urgency.NOT


def _is_mostly_covered(records: bytes) -> bool:
    rows = SliceRecord.unpack_all(records)
    held = sum(row.length for row in rows if row.slice_id)
    seen = sum(extent.length for extent in visible(records))
    return held - seen >= _COVERED_SHARE * seen


def compact_chunk(parts: Parts, inode: int, index: int) -> bool:
    """Merge the records of one chunk.

    Safe to interrupt and to run twice at the same time: the second one gives up.

    Returns
    -------
    bool
        False when there was nothing to merge, or others changed the list meanwhile.

    Raises
    ------
    ObjectNotFoundError, CorruptBlockError, ObjectError
        Content of the chunk is missing, damaged or out of reach; the list stays as it is.
    ReadOnlyVolumeError
    """
    parts.meta.gate.check_writable(f"inode {inode}")
    records = _read_list(parts, inode, index)
    dropped = _drop_covered(parts, inode, index, records)
    if dropped is None:
        return False
    records = records[dropped:]
    plan = plan_compaction(records)
    if plan is None:
        return dropped > 0
    uploads = Uploads(parts)
    try:
        merged = _store(parts, uploads, plan, index)
        dead = uploads.commit(lambda: _commit(parts, inode, index, records, plan, merged))
    except BaseException as error:
        uploads.discard()
        # What another compaction replaced is deleted under our eyes.
        if isinstance(error, ObjectNotFoundError) and records != _read_list(parts, inode, index):
            return False
        raise
    if dead is None:
        _give_up(parts, (merged.slice_id, merged.size))
        return False
    parts.meta.view.drop_extents(inode, index)
    delete_slices(parts, dead)
    return True


def _drop_covered(parts: Parts, inode: int, index: int, records: bytes) -> int | None:
    """Drop leading records of which nothing can be seen; no byte is copied.

    So a packed file that was written anew stays packed. Returns the length of what is gone;
    None when the list has changed meanwhile.
    """
    covered = records[: covered_records(records) * RECORD_BYTES]
    if not covered:
        return 0
    gate, number = parts.meta.gate, parts.meta.new_slice_id()
    ctx, trash_days = gate.context(), gate.setting.trash_days
    dead = parts.engine.write(
        lambda tx: drop_covered(tx, ctx, inode, index, covered, number, trash_days=trash_days)
    )
    if dead is None:
        return None
    parts.meta.view.drop_extents(inode, index)
    delete_slices(parts, dead)
    return len(covered)


def _read_list(parts: Parts, inode: int, index: int) -> bytes:
    return parts.engine.read(lambda tx: read_chunk(tx, inode, index))


def _store(parts: Parts, uploads: Uploads, plan: CompactionPlan, index: int) -> SliceRecord:
    writer = SliceWriter(parts, uploads, index * CHUNK_BYTES + plan.pos)
    done: list[NewSlice] = []
    for piece in _content(parts, plan):
        done += writer.write(piece, stable=False)
    if writer.has_content:
        done.append(writer.cut())
    (merged,) = done
    return merged.record


def _content(parts: Parts, plan: CompactionPlan) -> Iterator[memoryview | bytes]:
    """Iterate over the bytes of the merged slice, the next blocks already on their way."""
    stop = plan.pos + plan.length
    waiting: deque[tuple[BlockSpan, memoryview | Flight]] = deque()
    at = 0
    try:
        for span in spans(plan.extents, plan.pos, stop, parts.layout.block_bytes):
            # Loaded blocks wait in memory: the read buffer of the volume bounds them.
            while waiting and (
                len(waiting) >= parts.options.max_downloads
                or parts.blocks.loading_bytes >= parts.options.buffer_size_bytes
            ):
                yield from _piece(parts, at, *waiting[0])
                at = _end(waiting.popleft()[0])
            key = parts.layout.block_key(span.slice_id, span.number, span.slice_size)
            kept = parts.tiers.get(key, span.start, span.stop)
            waiting.append(
                (span, parts.blocks.begin((key,), ahead=True)[0] if kept is None else kept)
            )
        while waiting:
            yield from _piece(parts, at, *waiting[0])
            at = _end(waiting.popleft()[0])
    finally:
        parts.blocks.abandon(source for _, source in waiting if isinstance(source, Flight))
    yield from _zeros(parts, plan.length - at)


def _piece(
    parts: Parts, at: int, span: BlockSpan, source: memoryview | Flight
) -> Iterator[memoryview | bytes]:
    yield from _zeros(parts, span.at - at)
    if isinstance(source, Flight):
        source = memoryview(parts.blocks.settle(source))[span.start : span.stop]
    yield source


def _end(span: BlockSpan) -> int:
    return span.at + span.stop - span.start


def _zeros(parts: Parts, count: int) -> Iterator[bytes]:
    block_bytes = parts.layout.block_bytes
    for first in range(0, count, block_bytes):
        yield bytes(min(block_bytes, count - first))


def _commit(
    parts: Parts, inode: int, index: int, records: bytes, plan: CompactionPlan, merged: SliceRecord
) -> list[SliceKey] | None:
    gate = parts.meta.gate
    ctx, trash_days = gate.context(), gate.setting.trash_days

    def body(tx: Transaction) -> list[SliceKey] | None:
        slice_id = merged.slice_id
        return commit_compaction(
            tx, ctx, inode, index, records, plan, slice_id, trash_days=trash_days
        )

    return parts.engine.write(body)


def _give_up(parts: Parts, stored: SliceKey) -> None:
    """Delete a slice that was stored for nothing; what fails here is left to ``gc``."""
    parts.engine.write(lambda tx: abandon_slice(tx, *stored))
    delete_slices(parts, [stored])


def compact_after_commit(parts: Parts, attr: Attr, slices: Sequence[NewSlice]) -> None:
    """Compact the chunks that a commit appended to, where `urgency` asks for it.

    Never raises for a compaction that fails: the commit stands, and the next one asks again.

    Parameters
    ----------
    attr
        As the commit of ``slices`` returned it.
    """
    if attr.atime_ns == attr.ctime_ns:
        return  # the commit made the file, so each of its lists is new: spare the reading
    inode, indices = attr.inode, sorted({new.index for new in slices})

    def body(tx: Transaction) -> list[Chunk | None]:
        return tx.get_many(Chunk, [(inode, index) for index in indices])

    try:
        for row in parts.engine.read(body):
            when = Urgency.NOT if row is None else urgency(row.slices)
            if row is not None and when is Urgency.NOW:
                compact_chunk(parts, inode, row.index)
            elif row is not None and when is Urgency.LATER:
                _compact_later(parts, inode, row.index)
    except JuicecacheError as error:
        log.warning("compaction of inode %d is left to the next commit: %s", inode, error)


def _compact_later(parts: Parts, inode: int, index: int) -> None:
    # Two threads may both pass; the second compaction then gives up.
    chunk = inode, index
    if chunk in parts.compacting or len(parts.compacting) >= _QUEUED_MAX:
        return
    parts.compacting.add(chunk)

    def run() -> None:
        try:
            compact_chunk(parts, inode, index)
        finally:
            parts.compacting.discard(chunk)

    run_later(parts, run, f"compaction of inode {inode} is left to the next commit")


def compact_path(parts: Parts, path: str, progress: Callable[[int], None] | None = None) -> int:
    """Compact every fragmented chunk of the file, or the files, at and below ``path``.

    Returns
    -------
    int
        Chunks that were merged; ``progress`` is called with the number so far.
    """
    parts.meta.gate.check_writable(path)
    attr = parts.meta.resolve(path)
    files = (
        [attr]
        if not attr.is_directory
        else (
            child for _, entries in parts.meta.walk(path) for _, child in entries if child.is_file
        )
    )
    merged = 0
    for file in files:
        for index in fragmented_chunks(parts, file.inode):
            merged += compact_chunk(parts, file.inode, index)
            if progress is not None:
                progress(merged)
    return merged


def fragmented_chunks(parts: Parts, inode: int) -> list[int]:
    """Return the chunks of a file that have two records or more."""

    def body(tx: Transaction) -> list[int]:
        rows = tx.scan(Chunk, inode)
        return [row.index for row in rows if len(row.slices) > RECORD_BYTES]

    return parts.engine.read(body)
