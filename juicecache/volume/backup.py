"""Backups of metadata in object storage: written by one client an interval, thinned out with age.

Names, place and form are the official client's, which writes and thins them too:
``{volume}/meta/dump-YYYY-MM-DD-HHMMSS.json.gz``, in UTC.
"""

from __future__ import annotations

import mmap
import tempfile
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO, cast

from juicecache.errors import ObjectError
from juicecache.meta import usage
from juicecache.objects.store import ObjectInfo
from juicecache.runtime import start
from juicecache.volume.dumping import compressed, write_dump
from juicecache.volume.parts import Parts

_NAME = "dump-%Y-%m-%d-%H%M%S.json.gz"
_INODES_MAX = 1_000_000
"""A larger volume is left out where backups are wanted as often as by default: to write its
metadata takes a large part of an hour."""
_EVERY_S = 3600.0
_DAY = 86_400
_AGES = ((2 * _DAY, 0), (14 * _DAY, _DAY), (60 * _DAY, 7 * _DAY))
"""Up to which age (seconds) one backup is kept in each period of which length; 0 keeps all."""
_OLD = 30 * _DAY
_NEWEST = 7


class _StoppedError(Exception):
    """The volume is closed meanwhile: the backup is given up."""


def back_up(parts: Parts, stop: threading.Event) -> str | None:
    """Write a backup of the metadata now, and remove those that are no longer needed.

    Returns
    -------
    str or None
        The object; None where the volume is too large for the interval, or ``stop`` was set.

    Raises
    ------
    ObjectError, MetaError
        It could not be written, or old ones could not be removed.
    """
    options = parts.options
    if options.backup_meta_s <= _EVERY_S:
        used = parts.engine.read(usage.totals)
        if used.used_inodes > _INODES_MAX:
            return None
    gate = parts.meta.gate
    now = datetime.fromtimestamp(gate.now_ns() // 1_000_000_000, UTC)
    name = parts.layout.backups_prefix + now.strftime(_NAME)

    def check(entries: int) -> None:
        if stop.is_set():
            raise _StoppedError

    # On disk, unnamed: the dump of a million files has some 100 MB.
    with tempfile.TemporaryFile() as raw:
        file = cast("BinaryIO", raw)
        try:
            with compressed(file) as text:
                write_dump(
                    parts.engine,
                    gate.setting,
                    text,
                    skip_trash=options.backup_skip_trash,
                    progress=check,
                )
        except _StoppedError:
            return None
        file.flush()
        # Unmapped with the last view of it, which a client of object storage may keep for a while.
        body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        start(parts.store.put(name, body), inline=parts.store.inline).result()
    thin_out(parts, now)
    return name


def thin_out(parts: Parts, now: datetime) -> None:
    """Remove backups of which their time has enough others."""
    store = parts.store
    prefix = parts.layout.backups_prefix
    names = [info.name for info in start(_listed(parts), inline=store.inline).result()]
    waiting = [
        start(store.delete(name), inline=store.inline)
        for name in superfluous([name for name in names if "/" not in name[len(prefix) :]], now)
    ]
    errors = [error for future in waiting if isinstance(error := future.exception(), ObjectError)]
    if errors:
        raise errors[0]


async def _listed(parts: Parts) -> list[ObjectInfo]:
    return [info async for info in parts.store.list(parts.layout.backups_prefix)]


def superfluous(names: Iterable[str], now: datetime) -> list[str]:
    """Return the backups that may go.

    All of two days stay, and the newest seven; else the first of each day up to two weeks, of each
    week up to sixty days, and of each thirty days beyond.

    Days and weeks are those of the calendar, so that what stays today stays tomorrow. Objects of
    other names are not ours and are left out.
    """
    kept: set[tuple[int, int]] = set()
    gone = []
    # The newest stay whatever their age: after a pause they are all that is near the end of it.
    for when, name in sorted(_dated(names))[:-_NEWEST]:
        age_s = now.timestamp() - when.timestamp()
        period = next((length for limit, length in _AGES if age_s < limit), _OLD)
        if not period:
            continue
        key = period, int(when.timestamp()) // period
        if key in kept:
            gone.append(name)
        kept.add(key)
    return gone


def _dated(names: Iterable[str]) -> Iterator[tuple[datetime, str]]:
    for name in names:
        try:
            when = datetime.strptime(name.rpartition("/")[2], _NAME)
        except ValueError:
            continue
        yield when.replace(tzinfo=UTC), name
