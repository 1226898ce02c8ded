"""The server of a cache-group member: callers that know the secret get blocks from it.

::

    server      listens, shares connections out to a few I/O threads, counts
    loop        one such thread: an epoll and its connections
    connection  one caller: handshake, then a request at a time
    answers     what is said to each request
    channel     the socket, plain or inside TLS, and what waits to be sent on it

Blocks that are cached as files go from the file to the socket inside the kernel. What the server
must know of blocks it asks its `Source`, which never waits.
"""

from __future__ import annotations

import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from juicecache.errors import ClosedError, ConfigError
from juicecache.forks import survive_fork
from juicecache.peers.connection import Service
from juicecache.peers.handshake import Terms
from juicecache.peers.limits import Room, ServerLimits, ServerStats, add_up
from juicecache.peers.loop import IoThread
from juicecache.peers.source import Source

__all__ = ["PeerServer", "ServerLimits", "ServerStats"]

_IO_THREADS = 2
"""A file that is not in the page cache makes the kernel wait for the disk, and then the other
thread goes on. For blocks in memory one thread is as good: two moved 0.5 to 2.7 times as much on
two cores that the callers shared, and used up to twice the CPU for blocks of 100 KiB."""
_BACKLOG = 512
"""Callers that the kernel holds while we are at work: as many as start together with a job."""


class PeerServer:
    """Serves the blocks of one volume to one group; silent until `start`.

    Parameters
    ----------
    address
        To listen on; port 0 takes any free one.
    about
        What a caller learns once he has proved that he knows the secret: texts and numbers.
        Called from an I/O thread, must not wait.
    tls
        Wraps every connection; None sends in clear.
    """

    def __init__(
        self,
        address: tuple[str, int],
        terms: Terms,
        source: Source,
        about: Callable[[], dict[str, Any]],
        *,
        limits: ServerLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not hasattr(select, "epoll"):
            raise ConfigError("a member of a cache group needs Linux; elsewhere set no_sharing")
        limits = limits or ServerLimits()
        self.address = address
        connections_max = min(limits.connections_max, _open_files_max() // 2)
        room = Room(connections_max, limits.strangers_max, limits.put_bytes_max)
        self._service = Service(terms, source, about, limits, room)
        self._tls = tls
        self._threads: tuple[IoThread, ...] = ()
        self._listening: socket.socket | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self) -> None:
        """Listen and serve; ``address`` is the real one from here on.

        Raises
        ------
        ConfigError
            The address cannot be had.
        ClosedError
            After `close`.
        """
        with self._lock:
            if self._is_closed:
                raise ClosedError("the server of the cache group is closed")
            assert not self._threads
            self._listening = listening = _listen(self.address)
            self.address = listening.getsockname()[:2]
            self._threads = tuple(
                IoThread(
                    number, self._service, self._tls, listening if not number else None, self._share
                )
                for number in range(_IO_THREADS)
            )
            self._next_thread = cycle(self._threads)
            survive_fork(self)
            for thread in self._threads:
                thread.start()

    def drain(self, timeout_s: float) -> None:
        """Take no more callers, answer what is under way and let idle callers go.

        Returns when nobody is left, or after ``timeout_s``; `close` then ends the rest.
        """
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.drain()
        for thread in self._threads:
            thread.is_empty.wait(max(0.0, end_s - time.monotonic()))

    def stats(self) -> ServerStats:
        """Return the counters."""
        connections = self._service.room.connections
        return add_up(connections, [thread.counts for thread in self._threads])

    def close(self) -> None:
        """Close all connections and end the threads. Safe to call twice, and in a forked child."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join()
        if self._listening is not None:
            self._listening.close()

    def before_fork(self) -> None:
        """Do nothing: the parent goes on serving, and waiting for it could wait for a tier."""

    def after_fork(self, *, in_child: bool) -> None:
        """Let a child hold no copy of a socket: callers would wait for it behind a dead parent."""
        if not in_child:
            return
        self._lock = threading.Lock()
        self._is_closed = True
        if self._listening is not None:
            self._listening.close()
        for thread in self._threads:
            thread.forget()

    def _share(self, connected: socket.socket) -> None:
        next(self._next_thread).adopt(connected)


def _open_files_max() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, kind, protocol, _, bound = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            # Connections of a member that was just here must not keep its successor waiting.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(bound)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on group_ip {host}, group_port {port}: {error.strerror or error}"
        ) from error
    return listening
