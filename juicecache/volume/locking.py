"""Waiting for locks of files, for what stands on a volume as a mount does.

A lock that another owner has is asked for again, ever more slowly: nothing tells when it is free,
since its owner may be any client of the volume.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from juicecache.errors import ClosedError
from juicecache.meta import locks
from juicecache.meta.context import SessionNeededError
from juicecache.meta.engine import Transaction
from juicecache.meta.locks import LockKind, RangeLock
from juicecache.meta.rows import Session
from juicecache.volume.parts import Parts

_PAUSE_S = 0.001
"""Before the second try; the official client asks that often for an exclusive lock."""
_PAUSE_S_MAX = 0.05
"""A waiter costs a database no more than this often, and is late by no more."""


class Locks:
    """The locks of one process on a volume. May be used from several threads.

    They end with the session of the process: with `Volume.close`, and five heartbeats after the
    process died.

    Parameters
    ----------
    parts_of
        Returns the parts of the volume in the process that calls it.
    """

    def __init__(self, parts_of: Callable[[], Parts]) -> None:
        self._parts_of = parts_of

    def flock(
        self, inode: int, owner: int, kind: LockKind, *, stop: threading.Event | None = None
    ) -> bool:
        """Take, change or give up a BSD lock; see `meta.locks.flock`.

        Parameters
        ----------
        stop
            Wait until the lock is granted or this is set; None does not wait.

        Returns
        -------
        bool
            Whether the lock is granted.
        """
        parts = self._parts_of()
        sid = parts.meta.presence.ensure_session()

        def ask() -> bool:
            return _asked(parts, sid, lambda tx: locks.flock(tx, sid, inode, owner, kind))

        return _until(ask, stop)

    def set_range(
        self, inode: int, owner: int, lock: RangeLock, *, stop: threading.Event | None = None
    ) -> bool:
        """Take, change or give up a record lock; as `flock`, see `meta.locks.set_plock`."""
        parts = self._parts_of()
        sid = parts.meta.presence.ensure_session()

        def ask() -> bool:
            return _asked(parts, sid, lambda tx: locks.set_plock(tx, sid, inode, owner, lock))

        return _until(ask, stop)

    def find_range(self, inode: int, owner: int, wanted: RangeLock) -> RangeLock | None:
        """Return what stands in the way of a record lock; its process is 0 where it is not ours."""
        parts = self._parts_of()
        sid = parts.meta.presence.sid
        found = parts.engine.read(lambda tx: locks.get_plock(tx, sid, inode, owner, wanted))
        if found is None:
            return None
        return found[1] if found[0] == sid else found[1]._replace(pid=0)


def _asked(parts: Parts, sid: int, body: Callable[[Transaction], bool]) -> bool:
    """Take a lock for a session that is there: one of a session that ended would stay for ever."""

    def checked(tx: Transaction) -> bool:
        if tx.get(Session, sid, lock=True) is None:
            raise SessionNeededError
        return body(tx)

    try:
        return parts.engine.write(checked)
    except SessionNeededError:
        # Others ended it: this process was silent for too long, and has lost its locks.
        if not parts.meta.presence.renew(sid):
            raise ClosedError("the volume is closed") from None
        return parts.engine.write(checked)


def _until(ask: Callable[[], bool], stop: threading.Event | None) -> bool:
    pause_s = _PAUSE_S
    while not ask():
        # Never in step with other waiters.
        if stop is None or stop.wait(pause_s * random.uniform(0.5, 1.0)):
            return False
        pause_s = min(pause_s * 2, _PAUSE_S_MAX)
    return True
