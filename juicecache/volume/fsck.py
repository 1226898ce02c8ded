"""Checking a volume: whether all blocks are there and the sums of the metadata add up.

Laws: nothing is changed without ``repair`` or ``sync_dir_stat``, and then only sums that can
be computed from the tree; content is never touched. Other clients may flush their sums a
second late, so a difference while somebody writes proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from juicecache.errors import EntryNotFoundError, JuicecacheError, NotDirectoryError
from juicecache.meta import tree, usage
from juicecache.meta.compaction import count_records
from juicecache.meta.engine import Transaction
from juicecache.meta.paths import split_path
from juicecache.meta.rows import Counter, DirStats, Edge, SliceRef
from juicecache.meta.tally import SliceTally, joined
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, TRASH_NAME, Attr, in_trash
from juicecache.volume.block_check import BlockCheck
from juicecache.volume.fsck_report import FsckReport, keep
from juicecache.volume.parts import Parts

_EDGES_PAGE = 10_000
"""Entries of one read: a transaction of some 50 ms."""


def check_volume(
    parts: Parts,
    *,
    path: str = "/",
    repair: bool = False,
    sync_dir_stat: bool = False,
    progress: Callable[[FsckReport], None] | None = None,
) -> FsckReport:
    """Check the files at and below ``path``; the whole volume and its trash for ``/``.

    Covered content counts like visible content; files that are open without a name are left
    out. Memory is bounded by pages; a check of the whole volume notes the size of every object and
    the references of every slice in temporary files, some 50 bytes for each.

    Parameters
    ----------
    repair
        Set the link counts of directories right.
    sync_dir_stat
        Count the sums of directories again, and for ``/`` the volume's; with ``repair``
        they are set right, by what they are off, and missing ones are made. Nobody should
        write meanwhile.
    progress
        Called after each directory with the report so far, which goes on changing.

    Raises
    ------
    ReadOnlyVolumeError
        ``repair``, and the volume cannot be written.
    EntryNotFoundError
        There is no such path.
    """
    if repair:
        parts.meta.gate.check_writable(path)
    check = _Check(parts, whole=_is_whole(parts, path), repair=repair, sums=sync_dir_stat)
    top = parts.meta.resolve(path, follow=False)
    if not top.is_directory:
        check.files([top])
        return check.report
    for root in (path, f"/{TRASH_NAME.decode()}") if check.whole else (path,):
        for directory, entries in parts.meta.walk(root):
            check.directory(directory)
            check.files([attr for _, attr in entries if attr.is_file])
            if progress is not None:
                progress(check.report)
    if check.whole:
        for _ in check.blocks.whole():
            if progress is not None:
                progress(check.report)
        check.entries()
        check.references()
        if sync_dir_stat:
            check.totals()
    return check.report


def _is_whole(parts: Parts, path: str) -> bool:
    return not split_path(path) and not split_path(parts.options.subdir)


class _Check:
    def __init__(self, parts: Parts, *, whole: bool, repair: bool, sums: bool) -> None:
        self.report = FsckReport()
        self.whole = whole
        self._parts = parts
        self._engine = parts.engine
        self._repair = repair
        self._sums = sums
        self._setting = parts.meta.gate.setting
        self.blocks = BlockCheck(parts, self.report)

    def files(self, files: list[Attr]) -> None:
        """Count files and, of a part of a volume, check their blocks."""
        self.report.files += len(files)
        self.report.bytes += sum(attr.length for attr in files)
        if not self.whole:
            self.blocks.files(files)

    # ------------------------------------------------------------------ sums

    def directory(self, path: str) -> None:
        """Check the entries and link count of a directory, and its sums where asked for.

        One that was removed since it was listed is left out.
        """

        def body(tx: Transaction) -> tuple[int, int, list[bytes], DirStats | None, DirStats]:
            names, subdirectories = set(), 0
            for name, child in tx.children(inode):
                names.add(name)
                subdirectories += child.is_directory
            lost = [edge.name for edge in tx.scan(Edge, inode) if edge.name not in names]
            stored = tx.get(DirStats, inode)
            nlink = tree.getattr(tx, inode).nlink
            return nlink, 2 + subdirectories, lost, stored, usage.count_entries(tx, inode)

        try:
            inode = self._parts.meta.resolve(path, follow=False).inode
            nlink, wanted, lost, stored, counted = self._engine.read(body)
        except (EntryNotFoundError, NotDirectoryError):
            return
        self.report.directories += 1
        for name in lost:
            self._differs(f"{path}: entry {os.fsdecode(name)!r} leads to no inode")
        # Directories of the trash are not counted, whatever is in them.
        if nlink != wanted and not in_trash(inode):
            self._differs(
                f"{path}: {nlink} links instead of {wanted}",
                lambda tx: tx.add(Attr, inode, nlink=wanted - nlink),
            )
        if self._sums and self._setting.dir_stats:
            self._compare(path, stored, counted)

    def _compare(self, path: str, stored: DirStats | None, counted: DirStats) -> None:
        inode = counted.inode
        if stored is None:
            # The first change in the directory makes the row: nothing is wrong without it.
            if self._repair:
                self._engine.write(lambda tx: tx.put_new(usage.count_entries(tx, inode)))
            return
        deltas = {
            field: getattr(counted, field) - getattr(stored, field)
            for field in ("data_length", "used_space", "used_inodes")
        }
        if any(deltas.values()):
            self._differs(
                f"{path}: sums {tuple(stored[1:])} instead of {tuple(counted[1:])}",
                lambda tx: tx.add(DirStats, inode, **deltas),
            )

    def entries(self) -> None:
        """Look for entries of directories that are gone: no path leads to them."""
        for edges in self._engine.sweep(Edge, page=_EDGES_PAGE):
            parents = sorted({edge.parent for edge in edges} - {ROOT_INODE, TRASH_INODE})
            keys = [(parent,) for parent in parents]
            rows = self._engine.read(lambda tx, keys=keys: tx.get_many(Attr, keys))  # type: ignore[misc]  # mypy cannot infer a lambda default
            gone = {parent for parent, row in zip(parents, rows, strict=True) if row is None}
            for edge in edges:
                if edge.parent in gone and self._is_entry(edge):
                    self._differs(
                        f"inode {edge.parent} is gone and has an entry {os.fsdecode(edge.name)!r} "
                        f"of inode {edge.inode}"
                    )

    def _is_entry(self, edge: Edge) -> bool:
        """Return whether an entry is still there: its directory may have gone with it."""
        return self._engine.read(lambda tx: tx.get(Edge, edge.parent, edge.name)) is not None

    def totals(self) -> None:
        """Check the volume's own counters."""
        names = (usage.USED_SPACE, usage.TOTAL_INODES)
        keys = [(name,) for name in names]
        rows = self._engine.read(lambda tx: tx.get_many(Counter, keys))
        stored = [row.value if row else 0 for row in rows]
        counted = list(usage.recount(self._engine))

        def mend(tx: Transaction) -> None:
            for name, old, new in zip(names, stored, counted, strict=True):
                tx.add(Counter, name, value=new - old)

        if stored != counted:
            self._differs(f"volume: totals {tuple(stored)} instead of {tuple(counted)}", mend)

    def references(self) -> None:
        """Compare reference counts with the records; never repaired, since data hangs on them.

        What differs is looked for a second time: records that come or go between two pages, which
        are read one after the other, make no difference twice.
        """
        found = set(self._wrong_references())
        if found:
            found.intersection_update(self._wrong_references())
        for slice_id, size, stored, count in sorted(found):
            self._differs(f"slice {slice_id} of {size} bytes: {stored} references, {count} records")

    def _wrong_references(self) -> Iterator[tuple[int, int, int, int]]:
        """Iterate over (slice id, size, references, records) of slices where these differ."""
        implied = int(self._engine.read(lambda tx: tx.implies_references))
        with SliceTally() as records, SliceTally() as references:
            count_records(self._engine, records)
            for rows in self._engine.sweep(SliceRef, page=_EDGES_PAGE):
                references.add({(row.slice_id, row.size): row.refs for row in rows})
            for (slice_id, size), count, stored in joined(records, references, missing=implied):
                # A row below zero without records waits for a collector, as it should.
                if stored != count and not (count == 0 and stored < 0):
                    yield slice_id, size, stored, count

    def _differs(self, what: str, mend: Callable[[Transaction], None] | None = None) -> None:
        if self._repair and mend is not None:
            try:
                self._engine.write(mend)
            except JuicecacheError as error:
                what = f"{what}; not repaired: {error}"
            else:
                keep(self.report.repaired, what)
                return
        self.report.wrong_sums += 1
        keep(self.report.sums, what)
