"""Locks of a process: only while its session is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from juicecache import format_volume, open_volume
from juicecache.errors import ClosedError
from juicecache.meta import session
from juicecache.meta.locks import LockKind, RangeLock
from juicecache.meta.rows import Flock, Plock, Session
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.volume.locking import Locks

RANGE = RangeLock(LockKind.EXCLUSIVE, 1, 0, 9)


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_a_lock_belongs_to_a_session_that_is_there(kind: str, tmp_path: Path) -> None:
    meta = fresh_url(kind, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(meta, cache_size="0") as volume:
        volume.write_file("/f", b"")
        inode = volume.stat("/f").inode
        parts = volume.parts()
        locks = Locks(volume.parts)
        assert locks.flock(inode, 7, LockKind.EXCLUSIVE)
        sid = parts.meta.presence.sid
        # Others take it for dead, and end it with its locks.
        parts.engine.write(lambda tx: session.close_session(tx, sid, 0))
        assert parts.engine.read(lambda tx: tx.locks_of(sid)) == []
        assert locks.flock(inode, 8, LockKind.SHARED)
        assert locks.set_range(inode, 8, RANGE)
        assert parts.engine.read(lambda tx: tx.get(Session, sid)) is not None
        assert len(parts.engine.read(lambda tx: tx.locks_of(sid))) == 2
        # One that is over does not come back.
        parts.meta.presence.end()
        with pytest.raises(ClosedError):
            _stale(locks, parts.meta.presence, sid, inode)
        assert parts.engine.read(lambda tx: list(tx.scan(Flock, inode))) == []
        assert parts.engine.read(lambda tx: list(tx.scan(Plock, inode))) == []


def _stale(locks: Locks, presence: object, sid: int, inode: int) -> None:
    """Ask as a thread does that began before the session ended."""
    presence.ensure_session = lambda: sid
    locks.flock(inode, 9, LockKind.EXCLUSIVE)
