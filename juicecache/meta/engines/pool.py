"""Connections of one process to a server: one transaction at a time each, kept for the next.

Law: a connection belongs to the process that opened it. A forked child leaves those of its parent
alone, and opens its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from juicecache.errors import ClosedError

C = TypeVar("C")

_IDLE_MAX = 64
"""Kept for the next transaction: as many as any process has busy threads."""


class Pool(Generic[C]):
    """Idle connections, newest first: those that are used stay warm, the others age.

    Parameters
    ----------
    name
        What errors call the server.
    connect, disconnect
        Open a connection, and close one; ``disconnect`` never raises.
    """

    def __init__(
        self, name: str, connect: Callable[[], C], disconnect: Callable[[C], object]
    ) -> None:
        self._name = name
        self._connect = connect
        self._disconnect = disconnect
        self._idle: list[C] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> C:
        """Return a connection that no one else uses until it is handed back."""
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self._name} is closed")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def give_back(self, connection: C, *, sound: bool) -> None:
        """Keep a connection for the next transaction, or close it."""
        if sound:
            with self._lock:
                if not self._closed and len(self._idle) < _IDLE_MAX:
                    self._idle.append(connection)
                    return
        self._disconnect(connection)

    def drop_idle(self) -> None:
        """Close the connections that wait: what broke one has most likely broken all."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            self._disconnect(connection)

    def forget(self) -> None:
        """Leave the connections to the process that this one was forked from."""
        self._idle, self._lock = [], threading.Lock()

    def close(self) -> None:
        """Close what is idle now, and the rest as it is handed back."""
        with self._lock:
            self._closed = True
        self.drop_idle()
