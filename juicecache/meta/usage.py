"""Usage: totals of the volume, rows of directories, quotas, owners, and the sums behind them.

Laws:

* All of them change by deltas, in the transaction that changes the tree.
* Reads of a transaction do not see its own writes, so everything that one transaction adds
  to one row is first merged in a `Ledger` and written once.
* A directory row counts direct entries: lengths of regular files only, 4 KiB units of
  space, every entry as one inode. A missing row is computed from the entries before it
  changes; a delta is never the start of a row.
* A directory's quota counts all that is below it, itself excluded: what changes in a
  directory changes the quotas at and above it. The trash is below no quota.
* A user's or group's row counts each inode once, whatever the number of its names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from juicecache.errors import NoSpaceError
from juicecache.meta.change_log import note
from juicecache.meta.context import Context, CountNeededError, Used
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.limits import GROUP, USER, check_limit, quotas_above
from juicecache.meta.rows import Counter, DirQuota, DirStats, UserGroupQuota
from juicecache.model.acl import Rule
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr

USED_SPACE = "usedSpace"
TOTAL_INODES = "totalInodes"

_CHECKED_BYTES = 1 << 40
"""Growth from which the sum is checked: with less at a time nobody ever gets near the limit."""
_INT64_MAX = 2**63 - 1
_PAGE = 1000
"""Entries that `subtree` keeps per level of depth: 200 KB, and few round trips."""
_COUNTED_INSIDE = 1000
"""Entries that are counted in a transaction, some 5 ms of it; what is below a larger directory
is counted before, so that nobody waits for it."""

PageReader: TypeAlias = Callable[
    [Callable[[Transaction], list[tuple[bytes, Attr]]]], list[tuple[bytes, Attr]]
]
"""Reads one page of entries: in the transaction at hand, or in one of its own."""


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
    """What one transaction adds to all sums, and to directory link counts.

    Attributes
    ----------
    space, inodes
        What is added to the volume.
    rules
        Access control lists that the transaction has found or made.
    """

    __slots__ = ("_below", "_gone", "_nlinks", "_owners", "_usage", "inodes", "rules", "space")

    def __init__(self) -> None:
        self.space = 0
        self.inodes = 0
        self.rules: dict[Rule, int] = {}
        self._usage: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._below: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        """What is added for the quotas at and above a directory alone."""
        self._owners: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        """By (uid, gid)."""
        self._nlinks: defaultdict[int, int] = defaultdict(int)
        self._gone: set[int] = set()

    def volume(self, attr: Attr, space: int, inodes: int) -> None:
        """Add to what the volume, and the owner of ``attr``, hold."""
        self.space += space
        self.inodes += inodes
        self.owner(attr, space, inodes)

    def owner(self, attr: Attr, space: int, inodes: int) -> None:
        """Add to what the owner and the group of ``attr`` hold."""
        sums = self._owners[attr.uid, attr.gid]
        sums[0] += space
        sums[1] += inodes

    def directory(self, inode: int, length: int, space: int, inodes: int) -> None:
        """Add to the usage of the direct entries of a directory, and so to the quotas above."""
        sums = self._usage[inode]
        sums[0] += length
        sums[1] += space
        sums[2] += inodes

    def below(self, inode: int, space: int, inodes: int) -> None:
        """Add to the quotas at and above a directory alone: what is deeper comes or goes."""
        sums = self._below[inode]
        sums[0] += space
        sums[1] += inodes

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
        """Drop what was added to a directory that goes itself, or whose usage rows go.

        The quotas above count it all the same.
        """
        _, space, inodes = self._usage.pop(directory, (0, 0, 0))
        if space or inodes:
            self.below(directory, space, inodes)
        self._gone.add(directory)
        if not usage_only:
            self._nlinks.pop(directory, None)

    def settle(
        self, tx: Transaction, ctx: Context, path: bytes | str = "", *, limited: bool = True
    ) -> None:
        """Write everything, each row once; called once, at the end of an operation.

        Parameters
        ----------
        path
            What errors name.
        limited
            Whether limits apply: not to what is there in any case.

        Raises
        ------
        NoSpaceError
            The volume grows past its capacity or its limit of inodes.
        QuotaExceededError
            What is below a directory, or what a user or group owns, grows past its limit.
        """
        if limited:
            self._check_limits(tx, ctx, path)
        charge(tx, self.space, self.inodes)
        if ctx.dir_stats:
            self._settle_directories(tx)
            if ctx.quotas:
                self._settle_quotas(tx, ctx, path if limited else None)
        if ctx.user_group:
            self._settle_owners(tx, ctx.held, path if limited else None)
        for inode, nlink in sorted(self._nlinks.items()):
            tx.add(Attr, inode, nlink=nlink)
            tx.set(Attr, inode, mtime_ns=ctx.now_ns, ctime_ns=ctx.now_ns)

    def settle_released(self, tx: Transaction) -> None:
        """Write what inodes that lost their names before give back: totals, and owners' rows."""
        charge(tx, self.space, self.inodes)
        self._settle_owners(tx, Used(), None, makes=False)

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
                made = DirStats(
                    inode,
                    counted.data_length + length,
                    counted.used_space + space,
                    counted.used_inodes + inodes,
                )
                tx.put_new(made)
                note(tx, "DIRSTAT", *made)
            else:
                tx.add(DirStats, inode, data_length=length, used_space=space, used_inodes=inodes)

    def _settle_quotas(self, tx: Transaction, ctx: Context, path: bytes | str | None) -> None:
        """Add to the quotas above what changed; limits apply where a ``path`` is given."""
        sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        known: dict[int, frozenset[int]] = {}
        added = [(directory, *sums[1:]) for directory, sums in self._usage.items()]
        added += [(directory, *sums) for directory, sums in self._below.items()]
        for directory, space, inodes in added:
            if space or inodes:
                for inode in quotas_above(tx, directory, ctx.quotas, known):
                    sums[inode][0] += space
                    sums[inode][1] += inodes
        changed = sorted(
            (inode, both) for inode, both in sums.items() if any(both) and inode not in self._gone
        )
        rows = tx.get_many(DirQuota, [(inode,) for inode, _ in changed]) if changed else []
        for (inode, (space, inodes)), row in zip(changed, rows, strict=True):
            if row is None:
                continue  # it was taken away since the volume's record was read
            if path is not None:
                check_limit(row, Used(space, inodes), Used(), path, f"directory inode {inode}")
            tx.add(DirQuota, inode, used_space=space, used_inodes=inodes)

    def _settle_owners(
        self, tx: Transaction, held: Used, path: bytes | str | None, *, makes: bool = True
    ) -> None:
        """Add to owners' rows; ``makes`` those that are missing, else they are left alone."""
        owners: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        for (uid, gid), (space, inodes) in self._owners.items():
            for key in ((USER, uid), (GROUP, gid)):
                owners[key][0] += space
                owners[key][1] += inodes
        changed = sorted((key, sums) for key, sums in owners.items() if any(sums))
        rows = tx.get_many(UserGroupQuota, [key for key, _ in changed]) if changed else []
        for ((kind, number), (space, inodes)), row in zip(changed, rows, strict=True):
            if row is not None:
                if path is not None:
                    who = f"{'user' if kind == USER else 'group'} {number}"
                    check_limit(row, Used(space, inodes), held, path, who)
                tx.add(UserGroupQuota, kind, number, used_space=space, used_inodes=inodes)
            elif makes:
                tx.put_new(UserGroupQuota(kind, number, -1, -1, max(0, space), max(0, inodes)))


def charge(tx: Transaction, space: int, inodes: int) -> None:
    """Add to the volume's totals without looking at its limits."""
    tx.add(Counter, USED_SPACE, value=space)
    tx.add(Counter, TOTAL_INODES, value=inodes)


def grow(
    tx: Transaction, ctx: Context, ledger: Ledger, attr: Attr, length: int, space: int
) -> None:
    """Account for a file that changes its size: ``length`` and ``space`` are deltas.

    Every directory that has an entry for the file is charged once an entry; a file without
    a name (unlinked while open) charges the volume and its owner only.
    """
    ledger.volume(attr, space, 0)
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


def count_below(read: PageReader, top: int, *, limit: int | None = None) -> Used | None:
    """Return what all entries below directory ``top`` count, it itself excluded.

    Parameters
    ----------
    read
        Reads pages; with a transaction for each, the sum is of no one moment.
    limit
        Give up, and return None, behind so many entries.
    """
    space = inodes = 0
    pending = [top]
    while pending:
        directory, after = pending.pop(), b""
        while True:
            page = read(
                lambda tx, directory=directory, after=after: list(  # type: ignore[misc]  # mypy cannot infer a lambda default
                    tx.children(directory, after=after, limit=_PAGE)
                )
            )
            inodes += len(page)
            if limit is not None and inodes > limit:
                return None
            for _, attr in page:
                space += attr.space
                if attr.is_directory:
                    pending.append(attr.inode)
            if len(page) < _PAGE:
                break
            after = page[-1][0]
    return Used(space, inodes)


def count_inside(tx: Transaction, top: int, counted: Mapping[int, Used]) -> Used:
    """Return what is below directory ``top``: as of now, or where that is too much, as counted.

    Raises
    ------
    CountNeededError
        It is too much for a transaction, and ``counted`` does not have it.
    """
    found = count_below(lambda body: body(tx), top, limit=_COUNTED_INSIDE)
    if found is None:
        found = counted.get(top)
    if found is None:
        raise CountNeededError(top)
    return found


def recount(engine: Engine) -> Totals:
    """Return what the volume's counters must be: the sums over all nodes.

    Hourly trash directories, and files without a name that somebody has open, count.
    """
    space = inodes = 0
    for page in engine.sweep(Attr, page=_PAGE):
        for attr in page:
            if attr.inode not in (ROOT_INODE, TRASH_INODE):
                space += attr.space
                inodes += 1
    return Totals(space, inodes)


def _counted_length(attr: Attr) -> int:
    return attr.length if attr.is_file else 0


def _counter(tx: Transaction, name: str) -> int:
    row = tx.get(Counter, name)
    return row.value if row else 0
