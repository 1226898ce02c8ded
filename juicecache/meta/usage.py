"""Usage: the volume's totals, the usage row of each directory, and the sums behind both.

Laws:

* Totals and directory rows change by deltas, in the transaction that changes the tree.
* Reads of a transaction do not see its own writes, so everything that one transaction adds
  to one row is first merged in a `Ledger` and written once.
* A directory row counts direct entries: lengths of regular files only, 4 KiB units of
  space, every entry as one inode. A missing row is computed from the entries before it
  changes; a delta is never the start of a row.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from juicecache.errors import NoSpaceError
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Counter, DirStats
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr

USED_SPACE = "usedSpace"
TOTAL_INODES = "totalInodes"

_CHECKED_BYTES = 1 << 40
"""Growth from which the sum is checked: with less at a time nobody ever gets near the limit."""
_INT64_MAX = 2**63 - 1
_PAGE = 1000
"""Entries that `subtree` keeps per level of depth: 200 KB, and few round trips."""


class Totals(NamedTuple):
    """What the volume holds, the root and the trash root not counted."""

    used_space: int
    used_inodes: int


class Summary(NamedTuple):
    """What a subtree holds, its top included; a hard link counts once an entry."""

    files: int = 0
    directories: int = 0
    length: int = 0
    space: int = 0


class Ledger:
    """What one transaction adds to totals, directory usage and directory link counts."""

    __slots__ = ("_nlinks", "_usage", "inodes", "space")

    def __init__(self) -> None:
        self.space = 0
        self.inodes = 0
        self._usage: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._nlinks: defaultdict[int, int] = defaultdict(int)

    def volume(self, space: int, inodes: int) -> None:
        """Add to what the volume holds."""
        self.space += space
        self.inodes += inodes

    def directory(self, inode: int, length: int, space: int, inodes: int) -> None:
        """Add to the usage of the direct entries of a directory."""
        sums = self._usage[inode]
        sums[0] += length
        sums[1] += space
        sums[2] += inodes

    def enter(self, directory: int, attr: Attr) -> None:
        """Count a new entry for ``attr`` in ``directory``."""
        self.directory(directory, _counted_length(attr), attr.space, 1)

    def leave(self, directory: int, attr: Attr) -> None:
        """Count one entry for ``attr`` less in ``directory``."""
        self.directory(directory, -_counted_length(attr), -attr.space, -1)

    def touch(self, directory: int, *, nlink: int = 0) -> None:
        """Set the times of a directory whose entries change, and add to its link count."""
        self._nlinks[directory] += nlink

    def forget(self, directory: int, *, usage_only: bool = False) -> None:
        """Drop what was added to a directory that goes itself, or whose usage row goes."""
        self._usage.pop(directory, None)
        if not usage_only:
            self._nlinks.pop(directory, None)

    def settle(self, tx: Transaction, ctx: Context, path: bytes | str = "") -> None:
        """Write everything, each row once; called once, at the end of an operation.

        Raises
        ------
        NoSpaceError
            The volume grows past its capacity or its limit of inodes; names ``path``.
        """
        self._check_limits(tx, ctx, path)
        charge(tx, self.space, self.inodes)
        if ctx.dir_stats:
            self._settle_directories(tx)
        for inode, nlink in sorted(self._nlinks.items()):
            tx.add(Attr, inode, nlink=nlink)
            tx.set(Attr, inode, mtime_ns=ctx.now_ns, ctime_ns=ctx.now_ns)

    def _check_limits(self, tx: Transaction, ctx: Context, path: bytes | str) -> None:
        if (
            self.space > 0
            and ctx.capacity_bytes > 0
            and _counter(tx, USED_SPACE) + self.space > ctx.capacity_bytes
        ):
            raise NoSpaceError(
                path, f"the volume's capacity of {ctx.capacity_bytes} bytes is reached"
            )
        if self.space >= _CHECKED_BYTES and _counter(tx, USED_SPACE) + self.space > _INT64_MAX:
            raise NoSpaceError(path, "lengths of files add up to more than the format can count")
        if (
            self.inodes > 0
            and ctx.inodes_max > 0
            and _counter(tx, TOTAL_INODES) + self.inodes > ctx.inodes_max
        ):
            raise NoSpaceError(path, f"the volume's limit of {ctx.inodes_max} inodes is reached")

    def _settle_directories(self, tx: Transaction) -> None:
        changed = sorted((inode, sums) for inode, sums in self._usage.items() if any(sums))
        rows = tx.get_many(DirStats, [(inode,) for inode, _ in changed]) if changed else []
        for (inode, (length, space, inodes)), row in zip(changed, rows, strict=True):
            if row is None:
                counted = count_entries(tx, inode)
                tx.put_new(
                    DirStats(
                        inode,
                        counted.data_length + length,
                        counted.used_space + space,
                        counted.used_inodes + inodes,
                    )
                )
            else:
                tx.add(DirStats, inode, data_length=length, used_space=space, used_inodes=inodes)


def charge(tx: Transaction, space: int, inodes: int) -> None:
    """Add to the volume's totals without looking at its limits."""
    tx.add(Counter, USED_SPACE, value=space)
    tx.add(Counter, TOTAL_INODES, value=inodes)


def grow(
    tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr, length: int, space: int
) -> None:
    """Account for a file that changes its size: ``length`` and ``space`` are deltas.

    Every directory that has an entry for the file is charged once an entry; a file without
    a name (unlinked while open) charges the volume only.
    """
    ledger.volume(space, 0)
    if ctx.dir_stats and attr.nlink > 0:
        links = {attr.parent: 1} if attr.parent else tx.links(attr.inode)
        for directory, count in links.items():
            ledger.directory(directory, length * count, space * count, 0)


def totals(tx: Transaction) -> Totals:
    """Return the volume's totals as its counters have them, never below zero."""
    return Totals(max(0, _counter(tx, USED_SPACE)), max(0, _counter(tx, TOTAL_INODES)))


def count_entries(tx: Transaction, directory: int) -> DirStats:
    """Return what the usage row of a directory must be, from its entries."""
    length = space = inodes = 0
    for _, attr in tx.children(directory):
        length += _counted_length(attr)
        space += attr.space
        inodes += 1
    return DirStats(directory, length, space, inodes)


def subtree(tx: Transaction, top: Attr) -> Summary:
    """Return what the tree below and including ``top`` holds.

    Iterative; memory is bounded by the depth of the tree, whatever its width.
    """
    if not top.is_directory:
        return Summary(1, 0, _counted_length(top), top.space)
    files, directories, length, space = 0, 1, 0, top.space
    # One frame a level: a directory, the last name seen, subdirectories of the page in hand.
    frames: list[tuple[int, bytes | None, list[int]]] = [(top.inode, b"", [])]
    while frames:
        inode, after, pending = frames.pop()
        if not pending and after is not None:
            page = list(tx.children(inode, after=after, limit=_PAGE))
            after = page[-1][0] if len(page) == _PAGE else None
            for _, attr in page:
                space += attr.space
                if attr.is_directory:
                    directories += 1
                    pending.append(attr.inode)
                else:
                    files += 1
                    length += _counted_length(attr)
        if pending:
            child = pending.pop()
            frames.append((inode, after, pending))
            frames.append((child, b"", []))
        elif after is not None:
            frames.append((inode, after, pending))
    return Summary(files, directories, length, space)


def recount(tx: Transaction) -> Totals:
    """Return what the volume's counters must be: the sums over all nodes.

    Hourly trash directories, and files without a name that somebody has open, count.
    """
    space = inodes = 0
    for attr in tx.scan(Attr):
        if attr.inode not in (ROOT_INODE, TRASH_INODE):
            space += attr.space
            inodes += 1
    return Totals(space, inodes)


def _counted_length(attr: Attr) -> int:
    return attr.length if attr.is_file else 0


def _counter(tx: Transaction, name: str) -> int:
    row = tx.get(Counter, name)
    return row.value if row else 0
