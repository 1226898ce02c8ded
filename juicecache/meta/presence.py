"""What this process has open, and the session that protects it from removal.

An inode that is unlinked while a handle of ours is open keeps its node and content until
the last close. That needs a session row with a heartbeat, so that others can clean up
after us; it is made when first needed and belongs to one process.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from juicecache.hosts import own_addresses
from juicecache.meta import session
from juicecache.meta.engine import Engine

_log = logging.getLogger("juicecache")


class Presence:
    """Open inodes of this process, and its session.

    Parameters
    ----------
    heartbeat_s
        How often the session is renewed; others drop it after five times this.
    clock
        Returns nanoseconds since the epoch.
    version
        What ``status`` of every client shows for us.

    Attributes
    ----------
    opened
        How many handles each inode has; what is in it outlives its last name.
    sid
        Our session, 0 while there is none.
    """

    def __init__(
        self, engine: Engine, heartbeat_s: float, clock: Callable[[], int], version: str
    ) -> None:
        self._engine = engine
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._version = version
        self._lock = threading.Lock()
        self._session_lock = threading.Lock()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._sustained: set[int] = set()
        self.opened: dict[int, int] = {}
        self.sid = 0

    def open(self, inode: int) -> None:
        """Count one more handle of ``inode``."""
        with self._lock:
            self.opened[inode] = self.opened.get(inode, 0) + 1

    def sustain(self, inode: int) -> bool:
        """Note that an open inode lost its last name; False when it was closed meanwhile.

        The caller of a False must `release` the inode itself.
        """
        with self._lock:
            if inode not in self.opened:
                return False
            self._sustained.add(inode)
            return True

    def close(self, inode: int) -> bool:
        """Count one handle less; True when the caller must now `release` the inode."""
        with self._lock:
            count = self.opened.get(inode, 0) - 1
            if count > 0:
                self.opened[inode] = count
                return False
            self.opened.pop(inode, None)
            if inode not in self._sustained:
                return False
            self._sustained.discard(inode)
            return True

    def release(self, inode: int) -> bool:
        """Finish a sustained inode; True when its content may be dropped now."""
        now_s = self._now_s()
        return self._engine.write(lambda tx: session.release(tx, self.sid, inode, now_s))

    def ensure_session(self) -> int:
        """Return our session id; the first call makes the row and starts the heartbeat."""
        with self._session_lock:
            if self.sid:
                return self.sid
            now_s, info = self._now_s(), self._describe()
            self.sid = self._engine.write(
                lambda tx: session.open_session(tx, now_s, self._heartbeat_s, info)
            )
            self._beat = threading.Thread(
                target=self._keep_alive,
                args=(self.sid, info),
                name="juicecache-heartbeat",
                daemon=True,
            )
            self._beat.start()
            return self.sid

    def end(self) -> list[int]:
        """Give the session up; return inodes whose content may be dropped now.

        Handles that are still open lose what protected their files. Safe to call twice.
        """
        self._stop.set()
        with self._session_lock:
            beat, self._beat = self._beat, None
            sid, self.sid = self.sid, 0
        if beat is not None:
            beat.join()
        removed: list[int] = []
        done = not sid
        while not done:
            now_s = self._now_s()
            finished, done = self._engine.write(
                lambda tx, now_s=now_s: session.close_session(tx, sid, now_s)  # type: ignore[misc]  # mypy cannot infer a lambda default
            )
            removed += finished
        return removed

    def _keep_alive(self, sid: int, info: bytes) -> None:
        # A little earlier than the period and never in step with other clients.
        while not self._stop.wait(self._heartbeat_s * random.uniform(0.8, 1.0)):
            try:
                self._renew(sid, info)
            except Exception as error:  # a thread that dies takes the session with it
                _log.warning("session %d was not renewed: %r", sid, error)

    def renew(self, sid: int) -> bool:
        """Make our session anew that others have ended; False where it is not ours any more."""
        with self._session_lock:
            if not sid or self.sid != sid:
                return False
            self._renew(sid, self._describe())
            return True

    def _renew(self, sid: int, info: bytes) -> None:
        now_s = self._now_s()
        known = self._engine.write(
            lambda tx: session.refresh_session(tx, sid, now_s, self._heartbeat_s, info)
        )
        if not known:
            _log.warning(
                "session %d was removed by another client: this process was silent for too "
                "long, and files it had open without a name are gone",
                sid,
            )

    def _now_s(self) -> int:
        return self._clock() // 1_000_000_000

    def _describe(self) -> bytes:
        return json.dumps(
            {
                "Version": self._version,
                "HostName": socket.gethostname(),
                "IPAddrs": own_addresses(),
                "MountPoint": "juicecache",
                "MountTime": datetime.fromtimestamp(self._now_s(), UTC).isoformat(),
                "ProcessID": os.getpid(),
            }
        ).encode()
