"""Quotas of directories, users and groups: set, listed, taken away and counted again.

What they count is kept by ``usage``. Laws: a new row of a directory begins with what is below
it; what is large is counted in pages outside the transaction, and what changes meanwhile may
be missed, as with every client: `check_quota` counts again and mends.
"""

from __future__ import annotations

import time
from collections import defaultdict
from enum import IntEnum
from typing import NamedTuple

from juicecache.errors import ConfigError, EntryNotFoundError, NotDirectoryError
from juicecache.meta.change_log import Origins, note
from juicecache.meta.context import CountNeededError, Used
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.entries import check_not_in_trash
from juicecache.meta.limits import GROUP, USER
from juicecache.meta.rows import SETTING, DirQuota, Record, UserGroupQuota
from juicecache.meta.usage import count_below, count_inside
from juicecache.model.attr import ID_MAX, ROOT_INODE, Attr, in_trash
from juicecache.model.setting import Setting, with_owners_counted

_PAGE = 10_000
"""Nodes read at a time where all are counted: some 2 MB, and 50 ms."""
_LIMIT_MAX = 2**63 - 1
_NO_LIMIT = -1
"""What a row says of a limit that was never set."""


class QuotaKind(IntEnum):
    """Whose quota it is; the numbers are those of the format."""

    DIRECTORY = 0
    USER = USER
    GROUP = GROUP


class Quota(NamedTuple):
    """One quota; a limit of 0 or less is none.

    Attributes
    ----------
    id
        The inode of the directory, or the number of the user or group.
    max_space, used_space
        Bytes, in whole units of 4 KiB a file.
    """

    kind: QuotaKind
    id: int
    max_space: int
    max_inodes: int
    used_space: int
    used_inodes: int


def set_quota(
    engine: Engine,
    kind: QuotaKind,
    number: int,
    *,
    max_space: int | None = None,
    max_inodes: int | None = None,
) -> Quota:
    """Set limits of a directory, user or group, and return its quota.

    Clients that run obey it within one heartbeat. The first limit of a user or group lets the
    volume count what all of them own.

    Parameters
    ----------
    number
        The inode of the directory, or the number of the user or group.
    max_space, max_inodes
        Bytes and entries; 0 lifts a limit, None leaves it as it is.

    Raises
    ------
    EntryNotFoundError, NotDirectoryError, AccessDeniedError
        There is no such directory; the last: it is in the trash.
    ConfigError
        A limit or number is out of range, or the volume keeps no usage of directories.
    """
    for limit in (max_space, max_inodes):
        if limit is not None and not 0 <= limit <= _LIMIT_MAX:
            raise ConfigError(f"a limit of {limit} is out of range")
    setting = _open(engine)
    if kind is QuotaKind.DIRECTORY:
        if not setting.dir_stats:
            raise ConfigError("the volume keeps no usage of directories (DirStats is off)")
    elif not 0 <= number <= ID_MAX:
        raise ConfigError(f"there is no {kind.name.lower()} {number}")
    elif not setting.user_group_quota:
        count_owners(engine)
    counted: dict[int, Used] = {}
    while True:
        try:
            return engine.write(lambda tx: _set(tx, kind, number, (max_space, max_inodes), counted))
        except CountNeededError as error:
            counted[number] = count_below(engine.read, error.inode) or Used()


def _set(
    tx: Transaction,
    kind: QuotaKind,
    number: int,
    limits: tuple[int | None, int | None],
    counted: dict[int, Used],
) -> Quota:
    if kind is QuotaKind.DIRECTORY:
        _check_directory(tx, number)
    row = _row(tx, kind, number)
    is_new = row is None
    if row is None:
        used = count_inside(tx, number, counted) if kind is QuotaKind.DIRECTORY else Used()
        row = Quota(kind, number, _NO_LIMIT, _NO_LIMIT, *used)
    space, inodes = (old if new is None else new for old, new in zip(row[2:4], limits, strict=True))
    row = row._replace(max_space=space, max_inodes=inodes)
    if is_new:
        tx.put_new(DirQuota(*row[1:]) if kind is QuotaKind.DIRECTORY else UserGroupQuota(*row))
    else:
        _change(tx, row, max_space=space, max_inodes=inodes)
    note(tx, "SETQUOTA", int(kind), number, space, inodes)
    return row


def remove_quota(engine: Engine, kind: QuotaKind, number: int) -> bool:
    """Take the limits of a directory, user or group away; return whether there were any.

    What a user or group owns is counted on.
    """
    _open(engine)

    def body(tx: Transaction) -> bool:
        row = _row(tx, kind, number)
        if row is None:
            return False
        if kind is QuotaKind.DIRECTORY:
            tx.delete(DirQuota, number)
        else:
            _change(tx, row, max_space=_NO_LIMIT, max_inodes=_NO_LIMIT)
        note(tx, "DELQUOTA", int(kind), number)
        return kind is QuotaKind.DIRECTORY or _is_limited(row)

    return engine.write(body)


def list_quotas(engine: Engine) -> list[Quota]:
    """Return all quotas of directories, and those of users and groups that limit anything."""

    def body(tx: Transaction) -> list[Quota]:
        directories = [Quota(QuotaKind.DIRECTORY, *row) for row in tx.scan(DirQuota)]
        owners = [Quota(QuotaKind(row.kind), *row[1:]) for row in tx.scan(UserGroupQuota)]
        return directories + [quota for quota in owners if _is_limited(quota)]

    return engine.read(body)


def check_quota(
    engine: Engine, kind: QuotaKind, number: int, *, repair: bool = False
) -> tuple[Quota, Used]:
    """Return a quota as it is stored, and what it must count.

    Parameters
    ----------
    repair
        Store what was counted. While others write, what they change during a count that
        takes more than a transaction may be missed.

    Raises
    ------
    EntryNotFoundError
        There is no such quota.
    """
    _open(engine)
    counted: dict[int, Used] = {}
    if kind is not QuotaKind.DIRECTORY:
        counted[number] = count_owned(engine).get((kind, number), Used())

    def body(tx: Transaction) -> tuple[Quota, Used]:
        row = _row(tx, kind, number, lock=repair)
        if row is None:
            raise EntryNotFoundError("", f"{kind.name.lower()} {number} has no quota")
        is_directory = kind is QuotaKind.DIRECTORY
        used = count_inside(tx, number, counted) if is_directory else counted[number]
        if repair and used != (row.used_space, row.used_inodes):
            _change(tx, row, used_space=used.space, used_inodes=used.inodes)
        return row, used

    while True:
        try:
            return engine.write(body) if repair else engine.read(body)
        except CountNeededError as error:
            counted[number] = count_below(engine.read, error.inode) or Used()


def count_owners(engine: Engine) -> None:
    """Store what every user and group owns, and let the volume keep it from now on.

    Running clients begin within one heartbeat; what they change before is counted by the next
    call. Limits stay.
    """
    _open(engine)
    owned = count_owned(engine)

    def body(tx: Transaction) -> None:
        record = tx.get(Record, SETTING, lock=True)
        assert record is not None, "the volume's record was there"
        there = {(row.kind, row.id): row for row in tx.scan(UserGroupQuota)}
        for kind, number in sorted(owned.keys() | there.keys()):
            used = owned.get((kind, number), Used())
            old = there.get((kind, number))
            limits = (_NO_LIMIT, _NO_LIMIT) if old is None else (old.max_space, old.max_inodes)
            tx.put(UserGroupQuota(kind, number, *limits, *used))
        text = with_owners_counted(record.text)
        if text != record.text:
            tx.put(Record(SETTING, text))
            note(tx, "INIT_ENABLE_USERGROUPQUOTA")

    engine.write(body)


def count_owned(engine: Engine) -> dict[tuple[int, int], Used]:
    """Return what each (kind, number) owns: all nodes but the roots and the hours of the trash."""
    sums: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for page in engine.sweep(Attr, page=_PAGE):
        for attr in page:
            if attr.inode == ROOT_INODE or in_trash(attr.inode):
                continue
            for key in ((USER, attr.uid), (GROUP, attr.gid)):
                sums[key][0] += attr.space
                sums[key][1] += 1
    return {key: Used(space, inodes) for key, (space, inodes) in sums.items()}


def _row(tx: Transaction, kind: QuotaKind, number: int, *, lock: bool = True) -> Quota | None:
    if kind is QuotaKind.DIRECTORY:
        directory = tx.get(DirQuota, number, lock=lock)
        return None if directory is None else Quota(kind, *directory)
    owner = tx.get(UserGroupQuota, int(kind), number, lock=lock)
    return None if owner is None else Quota(kind, *owner[1:])


def _change(tx: Transaction, row: Quota, **fields: int) -> None:
    if row.kind is QuotaKind.DIRECTORY:
        tx.set(DirQuota, row.id, **fields)
    else:
        tx.set(UserGroupQuota, int(row.kind), row.id, **fields)


def _is_limited(quota: Quota) -> bool:
    return quota.max_space >= 0 or quota.max_inodes >= 0


def _check_directory(tx: Transaction, inode: int) -> None:
    attr = tx.get(Attr, inode, lock=True)
    if attr is None:
        raise EntryNotFoundError("", f"inode {inode} does not exist")
    if not attr.is_directory:
        raise NotDirectoryError("", f"inode {inode} is not a directory")
    check_not_in_trash(attr)


def _open(engine: Engine) -> Setting:
    """Return the volume's record; what follows is noted where the volume keeps a change log."""
    text = engine.setting()
    if not text:
        raise ConfigError(f"{engine.describe()} holds no volume")
    setting = Setting.parse(text)
    setting.check_open()
    if setting.change_log and engine.origin is None:
        engine.origin = Origins(lambda: 0, time.time_ns)
    return setting
