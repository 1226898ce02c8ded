"""Sessions of live clients, and what they hold.

A session row with a heartbeat lets others clean up after a client that died: its locks go,
and files without a name that it had open are finished. A client that holds neither needs
no session.

Law: an inode with a sustained row keeps its node and content until the last close; the
row and the node go in the same transaction, which writes the row of the removed file.
"""

from __future__ import annotations

from itertools import islice

from juicecache.meta.change_log import note
from juicecache.meta.engine import Transaction
from juicecache.meta.remove import bury
from juicecache.meta.rows import Counter, Session, Sustained, key_of
from juicecache.meta.usage import Ledger
from juicecache.model.attr import Attr

_HEARTBEATS = 5
"""Missed heartbeats that end a session; fixed by the format, so that all clients agree."""
_SUSTAINED_PER_COMMIT = 1000
"""Files finished in one transaction: some 50 ms, far below the others' busy timeout of 5 s."""


def open_session(tx: Transaction, now_s: int, heartbeat_s: float, info: bytes) -> int:
    """Insert a session and return its id.

    Parameters
    ----------
    info
        JSON with Version, HostName, IPAddrs, MountPoint, MountTime (RFC 3339) and ProcessID, shown
        by ``status`` of every client.
    """
    row = tx.get(Counter, "nextSession", lock=True)
    sid = (row.value if row else 0) + 1
    tx.add(Counter, "nextSession", value=1)
    made = Session(sid, _expiry(now_s, heartbeat_s), info)
    tx.put_new(made)
    note(tx, "INCR_COUNTER", "nextSession", 1)
    note(tx, "NEWSESSION", *made)
    return sid


def refresh_session(tx: Transaction, sid: int, now_s: int, heartbeat_s: float, info: bytes) -> bool:
    """Renew a session; False when others had removed it, and what it held.

    The row is made again then: the client may come back from a long pause.
    """
    known = tx.get(Session, sid, lock=True) is not None
    renewed = Session(sid, _expiry(now_s, heartbeat_s), info)
    tx.put(renewed)
    if not known:
        note(tx, "NEWSESSION", *renewed)
    return known


def _expiry(now_s: int, heartbeat_s: float) -> int:
    return now_s + round(_HEARTBEATS * heartbeat_s)


def release(tx: Transaction, sid: int, inode: int, now_s: int) -> bool:
    """Finish a sustained inode after its last close.

    Returns
    -------
    bool
        Whether the file is removed with this commit, so that its chunks may be dropped.
    """
    return bool(_finish(tx, sid, [inode], now_s))


def _finish(tx: Transaction, sid: int, inodes: list[int], now_s: int) -> list[int]:
    """Delete sustained rows and their nodes; return the inodes that are removed."""
    ledger = Ledger()
    removed = []
    for inode in inodes:
        if tx.get(Sustained, sid, inode, lock=True) is None:
            continue  # others took our session for dead and finished the file
        tx.delete(Sustained, sid, inode)
        attr = tx.get(Attr, inode, lock=True)
        if attr is not None and attr.nlink == 0:
            bury(tx, ledger, attr, now_s)
            note(tx, "DELSUSTAINED", sid, inode)
            removed.append(inode)
    # The entry left its directory at the unlink; the volume and its owner still count the node.
    ledger.settle_released(tx)
    return removed


def close_session(tx: Transaction, sid: int, now_s: int) -> tuple[list[int], bool]:
    """End a session: its locks are released, its sustained inodes finished.

    Returns
    -------
    tuple
        Inodes of removed files whose chunks may be dropped after the commit; and whether
        the session is gone. If not, it held more files than one transaction should finish:
        call again.
    """
    # Whoever takes a lock for it looks at the row as well: one of the two is first.
    tx.get(Session, sid, lock=True)
    for lock in tx.locks_of(sid):
        tx.delete(type(lock), *key_of(lock))
    held = [row.inode for row in tx.scan(Sustained, sid, limit=_SUSTAINED_PER_COMMIT + 1)]
    removed = _finish(tx, sid, held[:_SUSTAINED_PER_COMMIT], now_s)
    done = len(held) <= _SUSTAINED_PER_COMMIT
    if done:
        tx.delete(Session, sid)
        note(tx, "CLEANSESSION", sid)
    return removed, done


def stale_sessions(tx: Transaction, now_s: int, *, after: int = 0, limit: int) -> list[int]:
    """Return ids behind ``after``, ascending, of sessions whose heartbeat stopped."""
    rows = tx.scan(Session, after=(after,))
    return list(islice((row.sid for row in rows if row.expire_s < now_s), limit))


def close_stale_session(tx: Transaction, sid: int, now_s: int) -> tuple[list[int], bool]:
    """`close_session` of another client, unless its heartbeat came back."""
    row = tx.get(Session, sid, lock=True)
    if row is None or row.expire_s >= now_s:
        return [], True
    return close_session(tx, sid, now_s)
