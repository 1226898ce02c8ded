"""Quotas of a volume as its users see them: paths and sizes instead of inodes and rows.

The rules are those of ``meta.quota``; here the owner of a quota is found, and its path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from juicecache.errors import ConfigError, EntryNotFoundError, NotDirectoryError
from juicecache.meta import quota
from juicecache.meta.context import Used
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.paths import join_path
from juicecache.meta.quota import Quota, QuotaKind
from juicecache.meta.rows import Edge
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, TRASH_NAME, Attr
from juicecache.volume.parts import Parts

_PAGE = 10_000
"""Entries that are read at a time where the name of a directory is looked for: some 50 ms."""
_DEPTH_MAX = 4096
"""Directories above one another that are followed: only damaged metadata has more, or circles."""


@dataclass(frozen=True, slots=True)
class QuotaOwner:
    """Whose quota is meant: exactly one of a directory, a user and a group."""

    path: str | None = None
    uid: int | None = None
    gid: int | None = None

    def __post_init__(self) -> None:
        if (self.path, self.uid, self.gid).count(None) != 2:
            raise ConfigError("a quota belongs to one path, one uid or one gid")


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """One quota.

    Attributes
    ----------
    kind
        ``directory``, ``user`` or ``group``.
    id
        The inode of the directory, or the number of the user or group.
    path
        Of the directory, from the root of the volume; empty for users and groups, and for a
        directory that is gone.
    capacity_bytes, inodes_max
        The limits; 0 is none.
    used_bytes, used_inodes
        What the quota counts.
    counted_bytes, counted_inodes
        What it should count; None where that was not asked for.
    """

    kind: str
    id: int
    path: str
    capacity_bytes: int
    inodes_max: int
    used_bytes: int
    used_inodes: int
    counted_bytes: int | None = None
    counted_inodes: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the quota counts what it should, as far as that was asked for."""
        counted = (self.counted_bytes, self.counted_inodes)
        return counted in ((None, None), (self.used_bytes, self.used_inodes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; without ``counted_*`` where nothing was counted."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def list_quotas(parts: Parts, owner: QuotaOwner | None = None) -> list[QuotaReport]:
    """Return all quotas, or that of ``owner``: empty where it has none."""
    parts.meta.gate.check()
    return [_report(parts.engine, row) for row in _wanted(parts, owner)]


def set_quota(
    parts: Parts,
    owner: QuotaOwner,
    *,
    capacity_bytes: int | None = None,
    inodes_max: int | None = None,
) -> QuotaReport:
    """Set limits of a directory, user or group; see `meta.quota.set_quota`.

    This client obeys it at once, the others within their heartbeat.
    """
    parts.meta.gate.check_writable(owner.path or "")
    kind, number = _found(parts, owner)
    row = quota.set_quota(
        parts.engine, kind, number, max_space=capacity_bytes, max_inodes=inodes_max
    )
    parts.meta.gate.refresh()
    return _report(parts.engine, row)


def remove_quota(parts: Parts, owner: QuotaOwner) -> bool:
    """Take the limits of a directory, user or group away; return whether there were any."""
    parts.meta.gate.check_writable(owner.path or "")
    removed = quota.remove_quota(parts.engine, *_found(parts, owner))
    parts.meta.gate.refresh()
    return removed


def check_quotas(
    parts: Parts,
    owner: QuotaOwner | None = None,
    *,
    repair: bool = False,
    progress: Callable[[QuotaReport], None] | None = None,
) -> list[QuotaReport]:
    """Return all quotas, or that of ``owner``, with what they should count.

    Parameters
    ----------
    repair
        Store what was counted. What others write meanwhile may be missed.
    progress
        Called with each quota that is counted.

    Raises
    ------
    EntryNotFoundError
        ``owner`` has no quota.
    """
    if repair:
        parts.meta.gate.check_writable("")
    else:
        parts.meta.gate.check()
    wanted = _wanted(parts, owner)
    if owner is not None and not wanted:
        raise EntryNotFoundError(owner.path or "", "there is no quota")
    reports = []
    for row in wanted:
        try:
            stored, used = quota.check_quota(parts.engine, row.kind, row.id, repair=repair)
        except EntryNotFoundError:
            continue  # taken away meanwhile
        report = _report(parts.engine, stored, used)
        if progress is not None:
            progress(report)
        reports.append(report)
    return reports


def path_of(engine: Engine, inode: int) -> str:
    """Return the path of a directory from the root of the volume; empty where it is gone."""
    names: list[bytes] = []
    for _ in range(_DEPTH_MAX):
        if inode == ROOT_INODE:
            return join_path(tuple(reversed(names)))
        attr = engine.read(lambda tx, inode=inode: tx.get(Attr, inode))  # type: ignore[misc]  # mypy cannot infer a lambda default
        name = None if attr is None else _name_in(engine, attr)
        if attr is None or name is None:
            return ""
        names.append(name)
        inode = attr.parent
    return ""


def _name_in(engine: Engine, attr: Attr) -> bytes | None:
    """Return the name of a directory in the one above it."""
    if attr.inode == TRASH_INODE:
        return TRASH_NAME
    after: tuple[bytes] | None = None

    def page(tx: Transaction) -> list[Edge]:
        return list(tx.scan(Edge, attr.parent, after=after, limit=_PAGE))

    while edges := engine.read(page):
        for edge in edges:
            if edge.inode == attr.inode:
                return edge.name
        after = (edges[-1].name,)
    return None


def _wanted(parts: Parts, owner: QuotaOwner | None) -> list[Quota]:
    rows = quota.list_quotas(parts.engine)
    if owner is None:
        return rows
    found = _found(parts, owner)
    return [row for row in rows if (row.kind, row.id) == found]


def _found(parts: Parts, owner: QuotaOwner) -> tuple[QuotaKind, int]:
    """Return the kind and the number of whom a quota belongs to."""
    if owner.uid is not None:
        return QuotaKind.USER, owner.uid
    if owner.gid is not None:
        return QuotaKind.GROUP, owner.gid
    path = owner.path or "/"
    attr = parts.meta.resolve(path)
    if not attr.is_directory:
        raise NotDirectoryError(path, "only directories have a quota")
    return QuotaKind.DIRECTORY, attr.inode


def _report(engine: Engine, row: Quota, counted: Used | None = None) -> QuotaReport:
    is_directory = row.kind is QuotaKind.DIRECTORY
    return QuotaReport(
        row.kind.name.lower(),
        row.id,
        path_of(engine, row.id) if is_directory else "",
        max(row.max_space, 0),
        max(row.max_inodes, 0),
        row.used_space,
        row.used_inodes,
        *(counted if counted is not None else ()),
    )
