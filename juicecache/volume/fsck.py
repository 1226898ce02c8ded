"""Checking a volume: whether all blocks are there and the sums of the metadata add up.

Laws: nothing is changed without ``repair`` or ``sync_dir_stat``, and then only sums that can
be computed from the tree; content is never touched. Other clients may flush their sums a
second late, so a difference while somebody writes proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from juicecache.errors import JuicecacheError, ObjectNotFoundError
from juicecache.meta import usage
from juicecache.meta.compaction import record_counts
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Chunk, Counter, DirStats, SliceRef
from juicecache.model.attr import TRASH_NAME, Attr
from juicecache.model.layout import BlockKey
from juicecache.model.slices import refs_of
from juicecache.runtime import start
from juicecache.volume.gc import listed_objects
from juicecache.volume.parts import Parts

_LISTED_MAX = 1000
"""Findings kept of each kind: enough to see the pattern; the numbers count all."""
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

    A check of the whole volume keeps the name and size of every object in memory, some 200
    bytes each.

    Parameters
    ----------
    repair
        Set the link counts of directories right.
    sync_dir_stat
        Count the sums of directories again, and for ``/`` the volume's; with ``repair``
        they are set right.
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
    check = _Check(parts, whole=path.strip("/") == "", repair=repair, sums=sync_dir_stat)
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
        check.references()
        if sync_dir_stat:
            check.totals()
    return check.report


class _Check:
    def __init__(self, parts: Parts, *, whole: bool, repair: bool, sums: bool) -> None:
        self.report = FsckReport()
        self.whole = whole
        self._parts = parts
        self._engine = parts.engine
        self._repair = repair
        self._sums = sums
        self._sizes = (
            {info.name: info.size_bytes for info in listed_objects(parts)} if whole else None
        )

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
                self._judge(path, keys[first : first + _HEADS])

    def _judge(self, path: str, keys: list[BlockKey]) -> None:
        names = [self._parts.layout.object_name(key.name) for key in keys]
        sizes = (
            [self._sizes.get(name) for name in names]
            if self._sizes is not None
            else (self._ask(names))
        )
        for key, name, size in zip(keys, names, sizes, strict=True):
            if size is None:
                self.report.lost_blocks += 1
                _keep(self.report.lost, f"{path}: {name}")
            elif not self._is_right(key, size):
                self.report.damaged_blocks += 1
                _keep(
                    self.report.damaged,
                    f"{path}: {name} has {size} bytes, its content {key.length}",
                )

    def _ask(self, names: list[str]) -> list[int | None]:
        store = self._parts.store
        waiting = [start(store.head(name), inline=store.inline) for name in names]
        sizes: list[int | None] = []
        for future in waiting:
            try:
                sizes.append(future.result().size_bytes)
            except ObjectNotFoundError:
                sizes.append(None)
        return sizes

    def _is_right(self, key: BlockKey, size: int) -> bool:
        setting = self._parts.meta.gate.setting
        if setting.compression not in ("", "none"):
            return size > 0
        return size > key.length if setting.encrypted else size == key.length

    # ------------------------------------------------------------------ sums

    def directory(self, path: str) -> None:
        """Check the link count of a directory, and its sums where they were asked for."""
        self.report.directories += 1
        attr = self._parts.meta.resolve(path)

        def body(tx: Transaction) -> tuple[int, DirStats | None, DirStats]:
            subdirectories = sum(child.is_directory for _, child in tx.children(attr.inode))
            stored = tx.get(DirStats, attr.inode)
            return 2 + subdirectories, stored, usage.count_entries(tx, attr.inode)

        nlink, stored, counted = self._engine.read(body)
        # Directories of the trash are not counted, whatever is in them.
        in_trash = path.startswith(f"/{TRASH_NAME.decode()}")
        if attr.nlink != nlink and not in_trash:
            self._differs(
                f"{path}: {attr.nlink} links instead of {nlink}",
                lambda tx: tx.set(Attr, attr.inode, nlink=nlink),
            )
        if self._sums and stored is not None and stored != counted:
            self._differs(
                f"{path}: sums {tuple(stored[1:])} instead of {tuple(counted[1:])}",
                lambda tx: tx.put(counted),
            )

    def totals(self) -> None:
        """Check the volume's own counters."""
        stored, counted = self._engine.read(lambda tx: (usage.totals(tx), usage.recount(tx)))
        if stored == counted:
            return

        def body(tx: Transaction) -> None:
            tx.put(Counter(usage.USED_SPACE, counted.used_space))
            tx.put(Counter(usage.TOTAL_INODES, counted.used_inodes))

        self._differs(f"volume: totals {tuple(stored)} instead of {tuple(counted)}", body)

    def references(self) -> None:
        """Compare reference counts with the records; never repaired, since data hangs on them."""
        counts, rows = self._engine.read(
            lambda tx: (
                record_counts(tx),
                {(r.slice_id, r.size): r.refs for r in tx.scan(SliceRef)},
            )
        )
        for key, count in counts.items():
            if rows.get(key, 0) != count:
                self._differs(f"slice {key[0]}: {rows.get(key, 0)} references, {count} records")

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


def _keep(findings: list[str], what: str) -> None:
    if len(findings) < _LISTED_MAX:
        findings.append(what)
