"""One I/O thread of a member's server: an epoll, the connections it watches, and what arrives.

Laws: nothing that runs here waits; whatever one connection does, the thread goes on with the
others; a file that a load brings is closed even if it comes when nobody is there any more.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from juicecache.errors import PeerProtocolError
from juicecache.peers.answers import Answer
from juicecache.peers.channel import Channel, GoneError, PlainChannel, TlsChannel, discard
from juicecache.peers.connection import Connection, Service
from juicecache.peers.limits import Counts
from juicecache.peers.wire import Kind, frame

_BUFFER_BYTES = 256 * 1024
"""Read at once: large beside the calls around it; one for all connections of the thread."""
_EVENTS_MAX = 64
"""Connections that have their turn before results of loads have theirs."""
_ACCEPTS_MAX = 64
"""Connections taken before those that are here have their turn."""
_EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
_BUSY = frame(Kind.BUSY)

_log = logging.getLogger("juicecache")

_Result = tuple[Connection, Answer, int, Any]


class IoThread:
    """Serves some of the connections of a server on a thread of its own.

    Parameters
    ----------
    number
        For its name.
    listening
        A socket whose callers `accept` shares out; None for all threads but one.
    accept
        Called with each new socket.
    """

    def __init__(
        self,
        number: int,
        service: Service,
        tls: ssl.SSLContext | None,
        listening: socket.socket | None,
        accept: Callable[[socket.socket], None],
    ) -> None:
        self.counts = Counts()
        self.is_empty = threading.Event()
        self._service = service
        self._tls = tls
        self._accept = accept
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._connections: dict[int, Connection] = {}
        self._masks: dict[int, int] = {}
        self._lock = threading.Lock()
        self._arrived: deque[socket.socket] = deque()
        self._results: deque[_Result] = deque()
        self._is_draining = self._is_stopping = self._is_over = False
        self._now_s = time.monotonic()
        self._listening = listening
        self._is_listening = False
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._listen()
        self._thread = threading.Thread(
            target=self._run, name=f"juicecache-peers-{number}", daemon=True
        )

    # ------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def adopt(self, connected: socket.socket) -> None:
        """Serve a connection, which has a place in the room."""
        with self._lock:
            if not self._is_over:
                self._arrived.append(connected)
                self._wake()
                return
        self._service.room.leave(stranger=True)
        connected.close()

    def post(self, connection: Connection, answer: Answer, number: int, result: Any) -> None:
        """Bring the result of a load to its connection."""
        with self._lock:
            if not self._is_over:
                self._results.append((connection, answer, number, result))
                self._wake()
                return
        discard(result)

    def drain(self) -> None:
        """Stop to listen; close each connection as it becomes idle, and then set ``is_empty``."""
        with self._lock:
            self._is_draining = True
            self._wake()

    def stop(self) -> None:
        """Close everything and end; does not wait for it."""
        with self._lock:
            self._is_stopping = True
            self._wake()

    def join(self) -> None:
        """Wait for the end, except on the thread itself."""
        if self._thread.ident is None:
            self._close()
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def forget(self) -> None:
        """Close the copies of all files that a forked child has; the parent has its own."""
        self._lock = threading.Lock()  # a thread of the parent may have had the other one
        self.is_empty = threading.Event()
        self.is_empty.set()
        if self._is_over:
            return
        self._is_over = True
        for connection in list(self._connections.values()):
            connection.release()
        for connected in self._arrived:
            connected.close()
        for *_, result in self._results:
            discard(result)
        self._epoll.close()
        os.close(self._wake_fd)

    def _wake(self) -> None:
        # Under the lock: after it, the number might be that of another file. It never waits.
        if not self._is_over:
            os.eventfd_write(self._wake_fd, 1)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            _log.exception("a thread that serves the cache group ended; this member is of no use")
        finally:
            self._close()

    def _serve(self) -> None:
        beat_s = self._service.limits.beat_s
        next_tick_s = 0.0
        while not self._is_stopping:
            watching = self._connections or (self._listening and not self._is_listening)
            # Not a whole beat: what happens meanwhile must not put the next one off.
            wait_s = max(next_tick_s - time.monotonic(), 0.0) if watching else None
            ready = self._epoll.poll(wait_s, _EVENTS_MAX)
            self._now_s = now_s = time.monotonic()
            for fd, events in ready:
                connection = self._connections.get(fd)
                if connection is not None:
                    self._attempt(connection, partial(connection.turn, events, now_s))
                elif fd == self._wake_fd:
                    os.eventfd_read(fd)
                else:
                    self._take_callers()
            if self._results or self._arrived:
                self._take_posted()
            if now_s >= next_tick_s:
                next_tick_s = now_s + beat_s
                self._tick()
            if self._is_draining:
                self._thin_out()

    def _attempt(self, connection: Connection, step: Callable[[], None]) -> None:
        """Do a step of a connection; close it if that ends it."""
        try:
            step()
            if not connection.is_closed:
                self._watch(connection)
            return
        except GoneError:
            pass
        except PeerProtocolError:
            self.counts.protocol_errors += 1
        except Exception:
            self.counts.failures += 1
            _log.exception("serving a block of the cache group failed")
        self._drop(connection)

    def _watch(self, connection: Connection) -> None:
        fd, events = connection.channel.fd, connection.events()
        if self._masks[fd] != events:
            self._epoll.modify(fd, events)
            self._masks[fd] = events

    def _drop(self, connection: Connection) -> None:
        fd = connection.channel.fd
        # Forgotten first: once it is closed, its number is free.
        if self._connections.pop(fd, None) is not None:
            del self._masks[fd]
            # Closing alone leaves it in the epoll for as long as a child has a copy of it: also
            # one that is between fork and exec.
            self._epoll.unregister(fd)
        connection.close()

    def _take_posted(self) -> None:
        """Begin with new connections and go on where a load ended."""
        with self._lock:
            arrived, self._arrived = self._arrived, deque()
            results, self._results = self._results, deque()
        for connected in arrived:
            self._begin(connected)
        for connection, answer, number, result in results:
            self._attempt(
                connection, partial(connection.settle, answer, number, result, self._now_s)
            )

    def _begin(self, connected: socket.socket) -> None:
        """Serve a new connection."""
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel: Channel = (
                PlainChannel(connected) if self._tls is None else TlsChannel(connected, self._tls)
            )
            self._epoll.register(channel.fd, channel.receive_on)
        except OSError:  # it is gone already
            connected.close()
            self._service.room.leave(stranger=True)
            return
        self._masks[channel.fd] = channel.receive_on
        self._connections[channel.fd] = Connection(
            channel, self._service, self.counts, self._buffer, self.post, self._now_s
        )

    def _tick(self) -> None:
        for connection in list(self._connections.values()):
            self._attempt(connection, partial(connection.tick, self._now_s))
        if self._listening is not None and not self._is_listening and not self._is_draining:
            self._listen()

    def _thin_out(self) -> None:
        """Close what is idle, on the way to the end."""
        if self._listening is not None:
            self._deafen()
            self._listening.close()
            self._listening = None
        for connection in list(self._connections.values()):
            if connection.is_idle:
                self._drop(connection)
        if not self._connections:
            self.is_empty.set()

    def _close(self) -> None:
        """Close everything; what comes later is discarded where it comes."""
        with self._lock:
            self._is_over = True
            arrived, results = list(self._arrived), list(self._results)
            os.close(self._wake_fd)
        for connection in list(self._connections.values()):
            self._drop(connection)
        for connected in arrived:
            connected.close()
            self._service.room.leave(stranger=True)
        for *_, result in results:
            discard(result)
        if self._listening is not None:
            self._listening.close()  # a refused connection tells callers more than silence
        self._epoll.close()
        self.is_empty.set()

    # ------------------------------------------------------------------ callers

    def _listen(self) -> None:
        if self._listening is not None:
            self._epoll.register(self._listening.fileno(), select.EPOLLIN)
            self._is_listening = True

    def _deafen(self) -> None:
        if self._listening is not None and self._is_listening:
            self._epoll.unregister(self._listening.fileno())
            self._is_listening = False

    def _take_callers(self) -> None:
        """Accept those that wait; turn away whom there is no room for."""
        assert self._listening is not None
        for _ in range(_ACCEPTS_MAX):
            try:
                connected, _address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    # The caller stays in the queue, so epoll would say it again and again.
                    _log.warning("no caller of the cache group can be taken: %s", error.strerror)
                    self._deafen()
                    return
                continue  # that caller is gone
            self.counts.accepted += 1
            if self._service.room.admit():
                self._accept(connected)
            else:
                self.counts.busy += 1
                self._turn_away(connected)

    def _turn_away(self, connected: socket.socket) -> None:
        """Say that there is no room; what the caller sent is read, or closing would undo that."""
        with connected:
            try:
                connected.setblocking(False)
                if self._tls is None:
                    connected.send(_BUSY)
                    connected.shutdown(socket.SHUT_WR)
                connected.recv_into(self._buffer)
            except OSError:
                pass
