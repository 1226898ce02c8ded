"""Checking a volume: whether all blocks are there and the sums of the metadata add up.

Laws: nothing is changed without ``repair`` or ``sync_dir_stat``, and then only sums that can
be computed from the tree; content is never touched. Other clients may flush their sums a
second late, so a difference while somebody writes proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from juicecache.config import rsa_passphrase
from juicecache.errors import (
    EntryNotFoundError,
    JuicecacheError,
    NotDirectoryError,
    ObjectNotFoundError,
)
from juicecache.meta import tree, usage
from juicecache.meta.compaction import record_counts
from juicecache.meta.engine import Transaction
from juicecache.meta.paths import split_path
from juicecache.meta.rows import Chunk, Counter, DirStats, Edge, SliceRef
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, TRASH_NAME, Attr, in_trash
from juicecache.model.layout import BlockKey
from juicecache.model.setting import Setting
from juicecache.model.slices import refs_of
from juicecache.objects.encrypt import Cipher
from juicecache.runtime import start
from juicecache.volume.gc import listed_objects
from juicecache.volume.parts import Parts

_LISTED_MAX = 1000
"""Findings kept of each kind: enough to see the pattern; the numbers count all."""
_EDGES_PAGE = 10_000
"""Entries of one read: a transaction of some 50 ms."""
_HEADS = 64
"""Objects asked for at once where a part of a volume is checked."""


@dataclass(slots=True)
class FsckReport:
    """What a check found.

    ``lost`` and ``damaged`` name files and their objects; ``sums`` says which counters,
    directory sums, link counts and reference counts differ; ``repaired`` which of them were
    set right.
    """

    files: int = 0
    directories: int = 0
    blocks: int = 0
    bytes: int = 0
    lost_blocks: int = 0
    damaged_blocks: int = 0
    wrong_sums: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or everything that was is repaired."""
        return not self.lost_blocks and not self.damaged_blocks and not self.wrong_sums

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


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
    out. A check of the whole volume keeps the name and size of every object and the
    references of every slice in memory, some 400 bytes for each object.

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
        check.files([(path, top)])
        return check.report
    for root in (path, f"/{TRASH_NAME.decode()}") if check.whole else (path,):
        for directory, entries in parts.meta.walk(root):
            head = directory.rstrip("/")
            check.directory(directory)
            check.files([(f"{head}/{name}", attr) for name, attr in entries if attr.is_file])
            if progress is not None:
                progress(check.report)
    if check.whole:
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
        self._sizes = (
            {info.name: info.size_bytes for info in listed_objects(parts)} if whole else {}
        )
        self._setting = parts.meta.gate.setting
        self._overhead = _sealed_overhead(self._setting)

    # ------------------------------------------------------------------ content

    def files(self, files: list[tuple[str, Attr]]) -> None:
        """Check the blocks of the slices of files, covered ones included."""
        for path, attr in files:
            rows = self._engine.read(lambda tx, attr=attr: list(tx.scan(Chunk, attr.inode)))  # type: ignore[misc]  # mypy cannot infer a lambda default
            slices = {key for row in rows for key in refs_of(row.slices)}
            keys = [key for one in sorted(slices) for key in self._parts.layout.block_keys(*one)]
            self.report.files += 1
            self.report.blocks += len(keys)
            self.report.bytes += attr.length
            for first in range(0, len(keys), _HEADS):
                self._judge(path, attr.inode, keys[first : first + _HEADS])

    def _judge(self, path: str, inode: int, keys: list[BlockKey]) -> None:
        names = [self._parts.layout.object_name(key.name) for key in keys]
        sizes = {name: self._sizes[name] for name in names if name in self._sizes}
        # What was stored since the listing is there all the same.
        sizes.update(self._ask([name for name in names if name not in sizes]))
        for key, name in zip(keys, names, strict=True):
            size = sizes.get(name)
            if size is None:
                if self._is_used(inode, key):
                    self.report.lost_blocks += 1
                    _keep(self.report.lost, f"{path}: {name}")
            elif not self._is_right(key, size):
                self.report.damaged_blocks += 1
                _keep(
                    self.report.damaged,
                    f"{path}: {name} has {size} bytes, its content {key.length}",
                )

    def _is_used(self, inode: int, key: BlockKey) -> bool:
        """Return whether a file still has the slice of a block: it may be compacted or removed."""
        rows = self._engine.read(lambda tx: list(tx.scan(Chunk, inode)))
        slice_id = int(key.name.partition("_")[0])
        return any(slice_id == used for row in rows for used, _ in refs_of(row.slices))

    def _ask(self, names: list[str]) -> dict[str, int]:
        store = self._parts.store
        waiting = [start(store.head(name), inline=store.inline) for name in names]
        sizes: dict[str, int] = {}
        for name, future in zip(names, waiting, strict=True):
            try:
                sizes[name] = future.result().size_bytes
            except ObjectNotFoundError:
                continue
        return sizes

    def _is_right(self, key: BlockKey, size: int) -> bool:
        if self._setting.compression not in ("", "none"):
            return size > self._overhead
        return size == key.length + self._overhead

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
        after: tuple[int, bytes] | None = (-1, b"")
        while after is not None:
            lost, after = self._engine.read(lambda tx, after=after: _lost_entries(tx, after))  # type: ignore[misc]  # mypy cannot infer a lambda default
            for edge in lost:
                self._differs(
                    f"inode {edge.parent} is gone and has an entry {os.fsdecode(edge.name)!r} "
                    f"of inode {edge.inode}"
                )

    def totals(self) -> None:
        """Check the volume's own counters."""
        names = (usage.USED_SPACE, usage.TOTAL_INODES)

        def body(tx: Transaction) -> tuple[list[int], list[int]]:
            rows = tx.get_many(Counter, [(name,) for name in names])
            return [row.value if row else 0 for row in rows], list(usage.recount(tx))

        stored, counted = self._engine.read(body)

        def mend(tx: Transaction) -> None:
            for name, old, new in zip(names, stored, counted, strict=True):
                tx.add(Counter, name, value=new - old)

        if stored != counted:
            self._differs(f"volume: totals {tuple(stored)} instead of {tuple(counted)}", mend)

    def references(self) -> None:
        """Compare reference counts with the records; never repaired, since data hangs on them."""
        counts, rows, implied = self._engine.read(
            lambda tx: (
                record_counts(tx),
                {(row.slice_id, row.size): row.refs for row in tx.scan(SliceRef)},
                int(tx.implies_references),
            )
        )
        for slice_id, size in sorted(counts.keys() | rows.keys()):
            stored, count = rows.get((slice_id, size), implied), counts[slice_id, size]
            # A row below zero without records waits for a collector, as it should.
            if stored != count and not (count == 0 and stored < 0):
                self._differs(
                    f"slice {slice_id} of {size} bytes: {stored} references, {count} records"
                )

    def _differs(self, what: str, mend: Callable[[Transaction], None] | None = None) -> None:
        if self._repair and mend is not None:
            try:
                self._engine.write(mend)
            except JuicecacheError as error:
                what = f"{what}; not repaired: {error}"
            else:
                _keep(self.report.repaired, what)
                return
        self.report.wrong_sums += 1
        _keep(self.report.sums, what)


def _lost_entries(
    tx: Transaction, after: tuple[int, bytes]
) -> tuple[list[Edge], tuple[int, bytes] | None]:
    """Look at a page of entries behind (directory, name).

    Returns those of directories without an inode, and where to go on; None at the end.
    """
    edges = list(tx.scan(Edge, after=after, limit=_EDGES_PAGE))
    parents = sorted({edge.parent for edge in edges} - {ROOT_INODE, TRASH_INODE})
    rows = tx.get_many(Attr, [(parent,) for parent in parents])
    gone = {parent for parent, row in zip(parents, rows, strict=True) if row is None}
    last = (edges[-1].parent, edges[-1].name) if len(edges) == _EDGES_PAGE else None
    return [edge for edge in edges if edge.parent in gone], last


def _keep(findings: list[str], what: str) -> None:
    if len(findings) < _LISTED_MAX:
        findings.append(what)


def _sealed_overhead(setting: Setting) -> int:
    """Return by how much encryption makes an object longer."""
    if not setting.encrypted:
        return 0
    cipher = Cipher(setting.encrypt_key, setting.encrypt_algo, rsa_passphrase())
    return len(cipher.seal(b""))
