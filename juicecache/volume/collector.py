"""Rows that no file needs any more, found page by page and, on request, finished.

Sessions of clients that died, trash that expired, clones that were never attached, content of
removed files, slices that a compaction replaced, slices without a reference. Laws:

* Everything is safe to interrupt at any point and to repeat, also beside others who do the same.
* Memory is bounded by pages, whatever the size of the volume.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from juicecache.errors import JuicecacheError
from juicecache.meta import change_log, compaction, dropping, remove, session, trash
from juicecache.meta.dropping import SliceKey
from juicecache.meta.engine import Transaction
from juicecache.meta.remove import Removed
from juicecache.meta.rows import Chunk, DelayedSlices, DeletedFile, SliceRef
from juicecache.model.attr import Attr
from juicecache.model.slices import RECORD_BYTES, refs_of
from juicecache.volume.cleaning import clean_files, delete_slices, is_droppable
from juicecache.volume.compacting import compact_chunk
from juicecache.volume.parts import Parts
from juicecache.volume.repacking import repack

_PAGE = 1000
"""Rows of one read, entries of one removal: a transaction of some ten milliseconds."""
_DEAD_MAX = 100_000
"""Dead slices, some 20 MB, for which all chunks are looked through once before they go."""
_DETACHED_S = 24 * 3600
"""A clone that takes longer than a day has died: the bound of the official client."""
_ERRORS_MAX = 100
"""Errors kept in a report: enough to see the pattern."""


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was found, and with ``delete`` and ``compact`` removed and merged; bytes as stored.

    Attributes
    ----------
    stale_sessions, expired_trash, detached_trees, deleted_files, delayed_rows, dead_slices
        Sessions without a heartbeat, hourly trash directories past their time, clones never
        attached, removed files with content, expired rows of compactions, slices without
        a reference.
    trash_entries
        Entries removed from the trash.
    compacted_chunks
        Chunks whose records were merged.
    repacked_slices
        Packed slices of which little was live, so that it was written anew.
    objects
        Listed objects: ``valid`` ones are needed, ``pending`` ones belong to slices without a
        reference, ``leaked`` ones to nothing, ``skipped`` ones to nothing but are young, and
        ``other`` ones are no blocks and are never touched.
    removed_objects
        Leaked objects that were removed.
    errors
        What could not be done, a bounded number.
    """

    stale_sessions: int = 0
    expired_trash: int = 0
    trash_entries: int = 0
    detached_trees: int = 0
    deleted_files: int = 0
    delayed_rows: int = 0
    dead_slices: int = 0
    compacted_chunks: int = 0
    repacked_slices: int = 0
    objects: int = 0
    valid_objects: int = 0
    valid_bytes: int = 0
    pending_objects: int = 0
    pending_bytes: int = 0
    leaked_objects: int = 0
    leaked_bytes: int = 0
    skipped_objects: int = 0
    skipped_bytes: int = 0
    other_objects: int = 0
    removed_objects: int = 0
    errors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Collector:
    """One run over the rows: each step counts what it finds, and finishes it with ``delete``.

    Parameters
    ----------
    stop
        Ends a run early, between two rows.
    """

    def __init__(self, parts: Parts, *, delete: bool, stop: threading.Event | None = None) -> None:
        self._counts: Counter[str] = Counter()
        self._errors: list[str] = []
        self.parts = parts
        self._engine = parts.engine
        self._delete = delete
        self.stop = stop or threading.Event()
        self._now_ns = parts.meta.gate.now_ns()
        self._now_s = self._now_ns // 1_000_000_000
        self._trash_days = parts.meta.gate.setting.trash_days

    def collect_sessions(self) -> None:
        """Finish the sessions of clients that died, and what they held."""

        def act(sid: int) -> None:
            done = False
            while not done:
                removed, done = self._engine.write(
                    lambda tx: session.close_stale_session(tx, sid, self._now_s)
                )
                clean_files(self.parts, removed)

        self._each(
            "stale_sessions",
            lambda tx, after: session.stale_sessions(tx, self._now_s, after=after, limit=_PAGE),
            act,
        )

    def collect_trash(self) -> None:
        """Remove for good what has been in the trash for its time."""
        hours = self._engine.read(
            lambda tx: trash.expired_hours(tx, self._now_ns, self._trash_days)
        )
        self._count(expired_trash=len(hours))
        for edge in hours if self._delete else ():
            try:
                gate = self.parts.meta.gate
                while not self.stop.is_set() and (
                    removed := gate.remove(
                        lambda tx, ctx, edge=edge: remove.remove_below(  # type: ignore[misc]  # mypy cannot infer a lambda default
                            tx, ctx, edge.inode, limit=_PAGE
                        ),
                        skip_trash=True,
                    )
                ):
                    self._finish(removed)
                    self._count(trash_entries=len(removed))
                if self.stop.is_set():
                    return
                ctx = gate.context()
                self._engine.write(
                    lambda tx, edge=edge, ctx=ctx: trash.drop_hour(tx, ctx, edge.name)  # type: ignore[misc]
                )
            except JuicecacheError as error:
                self._fail(f"trash of {edge.name.decode()}", error)

    def collect_detached(self) -> None:
        """Remove clones that were begun and never attached."""

        def act(top: int) -> None:
            done = False
            while not done:
                removed, done = self.parts.meta.gate.remove(
                    lambda tx, ctx: remove.remove_detached(tx, ctx, top, limit=_PAGE),
                    skip_trash=True,
                )
                self._finish(removed)

        before_s = self._now_s - _DETACHED_S
        self._each(
            "detached_trees",
            lambda tx, after: dropping.detached_nodes(tx, before_s, after=after, limit=_PAGE),
            act,
        )

    def collect_deleted_files(self, *, min_age_s: float = 0.0) -> None:
        """Drop the content of removed files: of any age, since that is safe beside who does it."""
        before_s = self._now_s - min_age_s
        for rows in self._engine.sweep(DeletedFile, page=_PAGE):
            inodes = [row.inode for row in rows if row.expire_s <= before_s]
            if not self._act(
                "deleted_files", inodes, lambda inode: clean_files(self.parts, [inode])
            ):
                return

    def collect_delayed(self) -> None:
        """Drop the references that compactions left to the time of the trash."""

        def act(slice_id: int) -> None:
            dead = self._engine.write(lambda tx: compaction.drop_delayed(tx, slice_id))
            delete_slices(self.parts, dead)

        before_s = self._now_s - self._trash_days * 86_400
        for rows in self._engine.sweep(DelayedSlices, page=_PAGE):
            if not self._act("delayed_rows", compaction.expired_delayed(rows, before_s), act):
                return

    def collect_dead_slices(self) -> None:
        """Delete the objects of slices without a reference."""
        dead: list[SliceKey] = []
        for rows in self._engine.sweep(SliceRef, page=_PAGE):
            if self.stop.is_set():
                return
            found = dropping.dead_slices(rows)
            self._count(dead_slices=len(found))
            dead += found
            if len(dead) >= _DEAD_MAX:
                self._delete_dead(dead)
                dead = []
        self._delete_dead(dead)

    def _delete_dead(self, dead: list[SliceKey]) -> None:
        if not dead or not self._delete:
            return
        used = self._mentioned({slice_id for slice_id, _ in dead})
        for slice_id in sorted(used):
            self._fail(f"slice {slice_id}", "it has no reference, yet a file uses it")
        free = [key for key in dead if key[0] not in used]
        for first in range(0, len(free), _PAGE):
            if self.stop.is_set():
                return
            try:
                delete_slices(self.parts, free[first : first + _PAGE])
            except JuicecacheError as error:
                self._fail("slices without a reference", error)

    def trim_change_log(self, limit: int) -> None:
        """Remove the lines that the setting no longer wants, ``limit`` in a transaction."""
        setting = self.parts.meta.gate.setting
        bounds = {"age_s": setting.change_log_age_s, "lines": setting.change_log_lines}
        count = limit if setting.change_log and any(bounds.values()) else 0
        while count == limit and not self.stop.is_set():
            count = self._engine.write(
                lambda tx: change_log.trim(tx, self._now_s, **bounds, limit=limit)
            )

    def compact(self) -> None:
        """Merge the records of every chunk that has several."""
        for row in self._chunks():
            inode, index = row.inode, row.index
            if len(row.slices) <= RECORD_BYTES or not self._is_node(inode):
                continue
            try:
                self._count(compacted_chunks=compact_chunk(self.parts, inode, index))
            except JuicecacheError as error:
                self._fail(f"chunk {index} of inode {inode}", error)

    def repack(self) -> None:
        """Write anew what is left of sparse packed slices."""
        try:
            report = repack(self.parts, stop=self.stop)
        except JuicecacheError as error:
            self._fail("repacking", error)
        else:
            self._count(repacked_slices=report.sparse_slices)

    def _is_node(self, inode: int) -> bool:
        return self._engine.read(lambda tx: tx.get(Attr, inode)) is not None

    def _each(
        self,
        name: str,
        find: Callable[[Transaction, int], list[int]],
        act: Callable[[int], None],
    ) -> None:
        """Count what ``find`` finds behind an id, page by page; with ``delete``, ``act`` on it."""
        after = 0
        while found := self._engine.read(lambda tx: find(tx, after)):  # noqa: B023
            after = found[-1]
            if not self._act(name, found, act):
                return

    def _act(self, name: str, found: list[int], act: Callable[[int], None]) -> bool:
        """Count what was found and, with ``delete``, ``act`` on it; False to stop."""
        self._count(**{name: len(found)})
        for one in found if self._delete else ():
            if self.stop.is_set():
                return False
            try:
                act(one)
            except JuicecacheError as error:
                self._fail(f"{name.replace('_', ' ')}: {one}", error)
        return True

    def _finish(self, removed: list[Removed]) -> None:
        """Drop the content of files that lost their last name."""
        clean_files(self.parts, [one.inode for one in removed if is_droppable(self.parts, one)])

    def _mentioned(self, slice_ids: set[int]) -> set[int]:
        """Return which of the slices any chunk or delayed row mentions; reads all of them."""
        found: set[int] = set()
        for chunk in self._chunks():
            found.update(slice_ids.intersection(slice_id for slice_id, _ in refs_of(chunk.slices)))
        for rows in self._engine.sweep(DelayedSlices, page=_PAGE):
            for row in rows:
                entries = compaction.entries_of(row.slices)
                found.update(slice_ids.intersection(slice_id for slice_id, _ in entries))
        return found

    def _chunks(self) -> Iterator[Chunk]:
        for rows in self._engine.sweep(Chunk, page=_PAGE):
            yield from rows

    # ------------------------------------------------------------------ the report

    @property
    def report(self) -> GcReport:
        """What was found so far."""
        return GcReport(**self._counts, errors=tuple(self._errors))

    def _count(self, **more: int) -> None:
        for name, count in more.items():  # a million times: quicker than Counter.update
            self._counts[name] += count

    def _fail(self, what: str, reason: object) -> None:
        if len(self._errors) < _ERRORS_MAX:
            self._errors.append(f"{what}: {reason}")
