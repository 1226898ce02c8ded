"""Leases of periodic work: which client does it this time.

Law: a lease is a counter with the time of the last run, in seconds. Whoever sets it, in one
transaction, to a time that is an interval later does the work; all others leave it. Clients that
have died hold nothing. Names and intervals are the format's, so that official clients take part.
"""

from __future__ import annotations

from datetime import UTC, datetime

from juicecache.meta.change_log import note
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Counter, Xattr
from juicecache.model.attr import ROOT_INODE

STALE_SESSIONS = "lastCleanupSessions"
DELETED_FILES = "lastCleanupFiles"
SLICES = "nextCleanupSlices"
TRASH = "lastCleanupTrash"
CHANGE_LOG = "lastCleanupChangelog"

BACKUP = "lastBackup"
"""This one is an extended attribute of the root, with the time as text (RFC 3339)."""
REPACK = "juicecacheRepack"
"""Our own: official clients pack nothing, and look at no counter that they do not know."""

_EARLY = 0.9
"""Part of the interval after which a run counts as due: clients that wake up in turns would else
push it back by up to an interval each."""


def take_lease(tx: Transaction, name: str, now_s: int, interval_s: float) -> bool:
    """Return whether the caller is to do the work of a lease now."""
    if not is_free(tx, name, now_s, interval_s, lock=True):
        return False
    if name == BACKUP:
        value = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        tx.put(Xattr(ROOT_INODE, name, value))
        note(tx, "SETXATTR", ROOT_INODE, name, value, 0)
    else:
        tx.put(Counter(name, now_s))
    return True


def is_free(
    tx: Transaction, name: str, now_s: int, interval_s: float, *, lock: bool = False
) -> bool:
    """Return whether the work of a lease is due."""
    if name == BACKUP:
        last_s = _time_of(tx.get(Xattr, ROOT_INODE, name, lock=lock))
    else:
        row = tx.get(Counter, name, lock=lock)
        last_s = 0.0 if row is None else row.value
    return last_s <= now_s - interval_s * _EARLY


def _time_of(row: Xattr | None) -> float:
    """Return the time in an attribute; 0 where there is none, or something else."""
    try:
        return 0.0 if row is None else datetime.fromisoformat(row.value.decode()).timestamp()
    except ValueError:
        return 0.0
