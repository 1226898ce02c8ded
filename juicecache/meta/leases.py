"""Leases of periodic work: which client does it this time.

Law: a lease is a counter with the time of the last run, in seconds. Whoever sets it, in one
transaction, to a time that is an interval later does the work; all others leave it. Clients that
have died hold nothing. Names and intervals are the format's, so that official clients take part.
"""

from __future__ import annotations

from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Counter

STALE_SESSIONS = "lastCleanupSessions"
DELETED_FILES = "lastCleanupFiles"
SLICES = "nextCleanupSlices"
TRASH = "lastCleanupTrash"
CHANGE_LOG = "lastCleanupChangelog"

REPACK = "juicecacheRepack"
"""Our own: official clients pack nothing, and look at no counter that they do not know."""

_EARLY = 0.9
"""Part of the interval after which a run counts as due: clients that wake up in turns would else
push it back by up to an interval each."""


def take_lease(tx: Transaction, name: str, now_s: int, interval_s: float) -> bool:
    """Return whether the caller is to do the work of a lease now."""
    if not is_free(tx, name, now_s, interval_s, lock=True):
        return False
    tx.put(Counter(name, now_s))
    return True


def is_free(
    tx: Transaction, name: str, now_s: int, interval_s: float, *, lock: bool = False
) -> bool:
    """Return whether the work of a lease is due."""
    row = tx.get(Counter, name, lock=lock)
    return row is None or row.value <= now_s - interval_s * _EARLY
