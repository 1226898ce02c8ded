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
from juicecache.meta.engine import Engine
from juicecache.meta.naming import path_of
from juicecache.meta.quota import Quota, QuotaKind
from juicecache.volume.parts import Parts


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
