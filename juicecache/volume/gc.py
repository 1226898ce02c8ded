"""Garbage collection: what no file needs any more is counted, and on request removed.

First the rows: sessions of clients that died, trash that expired, clones that were never
attached, content of removed files, slices that a compaction replaced, slices without a
reference. Then the objects that nothing refers to. Laws:

* Without ``delete`` and ``compact`` nothing is changed.
* A slice stays while any row mentions it: a record of a chunk, a delayed row, or a live
  reference row. Objects are listed before these rows are read, so that what is committed
  meanwhile is seen.
* Objects without a row are removed only behind a mark that makes a late commit fail.
* Memory is bounded by pages and batches, whatever the size of the volume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from juicecache.errors import JuicecacheError
from juicecache.meta import compaction, dropping
from juicecache.meta.dropping import SliceKey
from juicecache.meta.rows import SliceRef
from juicecache.meta.tally import SliceTally
from juicecache.model.layout import BlockKey, Layout, parse_block_name
from juicecache.objects.store import ObjectInfo, ObjectStore
from juicecache.runtime import start
from juicecache.volume.collector import Collector, GcReport
from juicecache.volume.parts import Parts

_PAGE = 1000
"""Rows of one read, entries of one removal: a transaction of some ten milliseconds."""
_OBJECTS_PAGE = 10_000
"""Objects listed before metadata is asked: ten requests to an object store."""
_CANDIDATES_MAX = 100_000
"""Objects that seem to be leaked and wait for one scan of all chunks: some 20 MB."""
_CLAIMED = 100
"""Slices marked, deleted and forgotten at a time."""


@dataclass(slots=True)
class StoredSlice:
    """The listed objects of one slice.

    Attributes
    ----------
    blocks
        {block name: raw length}.
    size
        What the slice has at least, as its blocks tell.
    """

    slice_id: int
    blocks: dict[str, int] = field(default_factory=dict)
    stored_bytes: int = 0
    newest_ns: int = 0
    size: int = 0

    def keys(self, layout: Layout) -> list[BlockKey]:
        """Return the keys of the listed blocks."""
        return [BlockKey(layout.namespace, name, length) for name, length in self.blocks.items()]


def collect_garbage(
    parts: Parts,
    *,
    delete: bool = False,
    compact: bool = False,
    min_age_s: float = 3600.0,
    progress: Callable[[GcReport], None] | None = None,
) -> GcReport:
    """Look for what no file needs any more. Safe to interrupt and to repeat.

    Parameters
    ----------
    delete
        Remove what was found. Objects that nothing refers to must be older than
        ``min_age_s``: younger ones may belong to a write that is not committed yet. Their
        age is by the clock of object storage; a write that is late all the same fails.
    compact
        Merge the records of every chunk that has two or more.
    progress
        Called with the report so far, after each page.

    Raises
    ------
    ReadOnlyVolumeError
        ``delete`` or ``compact`` where changes are refused.
    ObjectError, MetaError
        Object storage or the database cannot be read.
    """
    if delete or compact:
        parts.meta.gate.check_writable("/")
    collector = _Collector(parts, delete=delete, min_age_s=min_age_s, progress=progress)
    collector.collect_sessions()
    collector.collect_trash()
    collector.collect_detached()
    collector.collect_deleted_files()
    collector.collect_delayed()
    if compact:
        collector.compact()
        collector.repack()
    collector.collect_dead_slices()
    collector.collect_objects()
    if delete:
        parts.meta.view.forget()
    return collector.report


class _Collector(Collector):
    """One run: the steps in order, and the report so far."""

    def __init__(
        self,
        parts: Parts,
        *,
        delete: bool,
        min_age_s: float,
        progress: Callable[[GcReport], None] | None,
    ) -> None:
        super().__init__(parts, delete=delete)
        self._progress = progress
        # Files carry the time of this machine, objects that of their server.
        self._young_ns = time.time_ns() - round(min_age_s * 1e9)

    def collect_objects(self) -> None:
        """Count all objects, and remove those that belong to nothing."""
        if not self._engine.read(lambda tx: tx.implies_references):
            self._collect_objects(None)
            return
        # No row tells that a slice is in use, as it does on other engines. What some record
        # names now is in use now; the others are looked for once more, behind the listing.
        with SliceTally() as mentioned:
            compaction.count_records(self._engine, mentioned)
            self._collect_objects(mentioned)

    def _collect_objects(self, mentioned: SliceTally | None) -> None:
        waiting: list[StoredSlice] = []
        candidates: list[StoredSlice] = []
        held = 0
        for stored in self._stored_slices():
            waiting.append(stored)
            if len(waiting) == _PAGE:
                candidates += self._without_row(waiting, mentioned)
                waiting = []
                held = sum(len(one.blocks) for one in candidates)
            if held >= _CANDIDATES_MAX:
                self._settle(candidates)
                candidates, held = [], 0
        candidates += self._without_row(waiting, mentioned)
        self._settle(candidates)

    def _stored_slices(self) -> Iterator[StoredSlice]:
        """Iterate over the slices in object storage; their objects are neighbours in a listing."""
        layout = self.parts.layout
        current: StoredSlice | None = None
        for info in listed_objects(self.parts):
            self._count(objects=1)
            found = parse_block_name(info.name.rpartition("/")[2])
            if found is None or layout.object_name(info.name.rpartition("/")[2]) != info.name:
                self._count(other_objects=1)
                continue
            slice_id, index, length = found
            if current is None or current.slice_id != slice_id:
                if current is not None:
                    yield current
                current = StoredSlice(slice_id)
            current.blocks[info.name.rpartition("/")[2]] = length
            current.stored_bytes += info.size_bytes
            current.newest_ns = max(current.newest_ns, info.modified_ns)
            current.size = max(current.size, index * layout.block_bytes + length)
        if current is not None:
            yield current

    def _without_row(
        self, listed: list[StoredSlice], mentioned: SliceTally | None
    ) -> list[StoredSlice]:
        """Count slices by their reference rows; return those without one that may be leaked."""
        keys = [(one.slice_id, one.size) for one in listed]
        rows = self._engine.read(lambda tx: tx.get_many(SliceRef, keys))
        candidates = []
        for stored, row in zip(listed, rows, strict=True):
            if row is not None:
                self._count_objects("valid" if row.refs > 0 else "pending", stored)
            elif mentioned is not None and mentioned.count(stored.slice_id, stored.size) > 0:
                self._count_objects("valid", stored)
            elif stored.newest_ns > self._young_ns and mentioned is None:
                self._count_objects("skipped", stored)
            else:
                candidates.append(stored)
        if self._progress is not None:
            self._progress(self.report)
        return candidates

    def _settle(self, candidates: list[StoredSlice]) -> None:
        """Count, and remove, those that no chunk and no delayed row mentions either."""
        if not candidates:
            return
        used, counted = self._unmentioned(candidates)
        leaked: list[StoredSlice] = []
        for stored in candidates:
            if stored.slice_id in used:
                self._count_objects("valid", stored)
            elif stored.slice_id in counted:
                self._count_objects("pending", stored)
            elif stored.newest_ns > self._young_ns:
                self._count_objects("skipped", stored)
            else:
                self._count_objects("leaked", stored)
                leaked.append(stored)
        for first in range(0, len(leaked) if self._delete else 0, _CLAIMED):
            try:
                self._remove(leaked[first : first + _CLAIMED])
            except JuicecacheError as error:
                self._fail("leaked objects", error)

    def _remove(self, leaked: list[StoredSlice]) -> None:
        by_key: dict[SliceKey, StoredSlice] = {(one.slice_id, one.size): one for one in leaked}
        claimed = self._engine.write(lambda tx: dropping.claim_orphans(tx, by_key))
        keys = [key for one in claimed for key in by_key[one].keys(self.parts.layout)]
        self.parts.blocks.delete(keys)
        self._engine.write(lambda tx: dropping.forget_slices(tx, claimed))
        self._count(removed_objects=len(keys))

    def _unmentioned(self, candidates: list[StoredSlice]) -> tuple[set[int], set[int]]:
        """Return ids of slices that something mentions, and of others that have a row after all.

        A row says another size where some objects of a dead slice are gone already.
        """
        slice_ids = {one.slice_id for one in candidates}
        used = self._mentioned(slice_ids)
        counted: set[int] = set()
        if used != slice_ids:
            for rows in self._engine.sweep(SliceRef, page=_PAGE):
                counted.update(slice_ids.intersection(row.slice_id for row in rows))
        return used, counted - used

    def _count_objects(self, kind: str, stored: StoredSlice) -> None:
        self._count(**{f"{kind}_objects": len(stored.blocks), f"{kind}_bytes": stored.stored_bytes})


def listed_objects(parts: Parts) -> Iterator[ObjectInfo]:
    """Iterate over everything below the volume's blocks in object storage, a page at a time."""
    store, prefix = parts.store, parts.layout.chunks_prefix
    after = ""
    while infos := start(list_page(store, prefix, after), inline=store.inline).result():
        yield from infos
        after = infos[-1].name


async def list_page(store: ObjectStore, prefix: str, after: str) -> list[ObjectInfo]:
    """Return the objects that begin with ``prefix`` and follow ``after``, up to a page of them."""
    found: list[ObjectInfo] = []
    async with aclosing(store.list(prefix, after)) as listing:  # type: ignore[type-var]  # listings are generators
        async for info in listing:
            found.append(info)
            if len(found) == _OBJECTS_PAGE:
                break
    return found
