"""The process behind `juicecache.testing.servers.DelayingProxy`.

Run as ``python -m juicecache.testing.delaying_proxy HOST TARGET_HOST TARGET_PORT DELAY_S``. Prints
its port, then a line of counts after each command on its input, and ends when the input does.
One thread and bare sockets on an event loop: it has to be faster than what is measured through it.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import select
import selectors
import socket
import struct
import sys
from collections import deque
from contextlib import suppress
from math import inf
from pathlib import Path

QUEUED_BYTES_MAX = 64 << 20
"""Bytes on their way in one direction of one connection: 25 Gbit/s times 20 ms."""

READ_BYTES = 1 << 20
"""Read at once: so much that a turn of the loop costs little beside the copying."""

WAITING_MAX = 1024
"""Connections not yet accepted; hundreds are made at the same time."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class FineSelector(selectors.EpollSelector):
    """Waits to the microsecond: the milliseconds of epoll are longer than a near network."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready."""
        if timeout is None:
            return super().select(None)
        if timeout > 0:
            select.select([self], [], [], timeout)
        return super().select(0)


class Wire:
    """What holds for all connections: the delay, the faults, and the counts so far."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.hanging = False
        self.to_server_bytes = 0
        self.to_client_bytes = 0
        self.connections = 0
        self.flipped_bits = 0
        self.flip_at: int | None = None
        """The byte to a client that is spoilt next, counted like ``to_client_bytes``."""
        self.flip_every_bytes = 0
        self.client_bytes_per_s = inf
        self._free_at = 0.0
        self.buffer = memoryview(bytearray(READ_BYTES))

    def pass_to_server(self, chunk: memoryview) -> None:
        """Count bytes of a client."""
        self.to_server_bytes += len(chunk)

    def pass_to_client(self, chunk: memoryview) -> None:
        """Count bytes of the server, and spoil those whose turn it is."""
        start = self.to_client_bytes
        self.to_client_bytes += len(chunk)
        while self.flip_at is not None and self.flip_at < self.to_client_bytes:
            chunk[self.flip_at - start] ^= 1
            self.flipped_bits += 1
            self.flip_at = self.flip_at + self.flip_every_bytes if self.flip_every_bytes else None

    def passed_at(self, now: float, size: int) -> float:
        """Return when bytes to a client, behind all that arrived before, are through."""
        self._free_at = max(now, self._free_at) + size / self.client_bytes_per_s
        return self._free_at


class Lane:
    """One direction of a connection: what arrives at ``source`` leaves by ``target``, later."""

    def __init__(
        self, connection: Connection, source: socket.socket, target: socket.socket
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._wire = connection.wire
        self._is_up = source is connection.client
        self._pass = self._wire.pass_to_server if self._is_up else self._wire.pass_to_client
        self._source = source
        self._target = target
        self._queue: deque[tuple[float, memoryview]] = deque()  # an empty chunk is the end
        self._queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False
        self._blocked = False  # the target takes no more for now
        self._source_ended = False
        self.ended = False

    def settle(self) -> None:
        """Wait for all that has to be waited for now, and for nothing else."""
        if self._connection.closed:
            return
        hanging = self._wire.hanging
        full = self._blocked or self._queued_bytes > QUEUED_BYTES_MAX
        reading = not (hanging or full or self._source_ended)
        if reading and not self._reading:
            self._loop.add_reader(self._source, self._receive)
        elif self._reading and not reading:
            self._loop.remove_reader(self._source)
        self._reading = reading
        if self._blocked and not hanging:
            self._loop.add_writer(self._target, self._unblock)
        else:
            self._loop.remove_writer(self._target)
        if self._queue and self._timer is None and not (hanging or self._blocked):
            self._timer = self._loop.call_at(self._queue[0][0], self._on_time)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        if self._timer is not None:
            self._timer.cancel()

    def _receive(self) -> None:
        try:
            chunk = self._wire.buffer[: self._source.recv_into(self._wire.buffer)]
        except BlockingIOError:
            return
        except OSError:
            chunk = self._wire.buffer[:0]  # a reset arrives as an end
        self._source_ended = not chunk
        self._pass(chunk)
        now = self._loop.time()
        through = now if self._is_up else self._wire.passed_at(now, len(chunk))
        due = max(self._connection.not_before, through + self._wire.delay_s / 2)
        if chunk and not self._queue and due <= now:
            chunk = self._send(chunk)
            if not chunk:
                return
        self._queue.append((due, memoryview(bytes(chunk))))
        self._queued_bytes += len(chunk)
        self.settle()

    def _on_time(self) -> None:
        self._timer = None
        self._flush()

    def _unblock(self) -> None:
        self._blocked = False
        self._flush()

    def _flush(self) -> None:
        """Hand on what is due."""
        while self._queue and not (self._blocked or self.ended or self._wire.hanging):
            due, chunk = self._queue[0]
            if due > self._loop.time():
                break
            rest = self._send(chunk)
            self._queued_bytes -= len(chunk) - len(rest)
            if rest:
                self._queue[0] = (due, rest)
            else:
                self._queue.popleft()
        if self.ended:
            self._connection.end_lane()
        else:
            self.settle()

    def _send(self, chunk: memoryview) -> memoryview:
        """Return what the target did not take."""
        try:
            if not chunk:
                self.ended = True
                self._target.shutdown(socket.SHUT_WR)
                return chunk
            sent = self._target.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._connection.close()
            return chunk[:0]
        self._blocked = sent < len(chunk)
        return chunk[sent:]


class Connection:
    """A client, the server's end made for it, and a lane each way."""

    def __init__(self, wire: Wire, client: socket.socket, target: tuple[str, int]) -> None:
        self.wire = wire
        self.client = client
        self.closed = False
        self._loop = asyncio.get_running_loop()
        # Making a connection takes a round trip of its own, which loopback has not taken.
        self.not_before = self._loop.time() + 1.5 * wire.delay_s
        self._server = socket.socket()
        self._lanes: tuple[Lane, ...] = ()
        for one in (client, self._server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._server.connect_ex(target) in (0, errno.EINPROGRESS):
            self._loop.add_writer(self._server, self._connected)
        else:
            self.close(reset=True)

    def _connected(self) -> None:
        self._loop.remove_writer(self._server)
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close(reset=True)
            return
        self._lanes = (
            Lane(self, self.client, self._server),
            Lane(self, self._server, self.client),
        )
        self.settle()

    def settle(self) -> None:
        """Go on as the wire now says."""
        for lane in self._lanes:
            lane.settle()

    def end_lane(self) -> None:
        """Close when nothing is to come from either side."""
        if all(lane.ended for lane in self._lanes):
            self.close()

    def close(self, *, reset: bool = False) -> None:
        """Close both ends, or break them. Safe to call twice."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_writer(self._server)  # not yet connected
        for lane in self._lanes:
            lane.stop()
        for one in (self.client, self._server):
            if reset:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            one.close()


class Proxy:
    """Accepts connections, and does what the commands say."""

    def __init__(self, host: str, target: tuple[str, int], delay_s: float) -> None:
        self.wire = Wire(delay_s)
        self._target = target
        self._connections: set[Connection] = set()
        self._listener = self._listen((host, 0))
        self.address: tuple[str, int] = self._listener.getsockname()

    def obey(self, command: str, *arguments: str) -> None:
        """Do what one line of the input says."""
        wire = self.wire
        if command == "delay":
            wire.delay_s = float(arguments[0])
        elif command == "bandwidth":
            wire.client_bytes_per_s = float(arguments[0])
        elif command == "flip":
            after_bytes, wire.flip_every_bytes = map(int, arguments)
            wire.flip_at = wire.to_client_bytes + after_bytes
        elif command == "refuse":
            self._stop_listening()
            for connection in self._connections:
                connection.close(reset=True)
        elif command in ("hang", "forward"):
            wire.hanging = command == "hang"
            if command == "forward":
                wire.flip_at = None
            if self._listener.fileno() < 0:
                self._listener = self._listen(self.address)
            for connection in self._connections:
                connection.settle()

    def close(self) -> None:
        """End all connections."""
        self._stop_listening()
        for connection in self._connections:
            connection.close()

    def _listen(self, address: tuple[str, int]) -> socket.socket:
        listener = socket.create_server(address, backlog=WAITING_MAX)
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept)
        return listener

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = self._listener.accept()
            self.wire.connections += 1
            self._connections = {one for one in self._connections if not one.closed}
            self._connections.add(Connection(self.wire, client, self._target))


async def serve(host: str, target: tuple[str, int], delay_s: float) -> None:
    """Serve until the standard input ends."""
    proxy = Proxy(host, target, delay_s)
    wire = proxy.wire
    print(proxy.address[1], flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        proxy.obey(*line.split())
        counts = (wire.to_server_bytes, wire.to_client_bytes, wire.connections, wire.flipped_bits)
        print(*counts, flush=True)
    proxy.close()


def lift_limits() -> None:
    """Take all the connections that the system allows, and wait without its usual 50 us more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):  # less exact, then
        Path("/proc/self/timerslack_ns").write_text("1")


if __name__ == "__main__":
    lift_limits()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FineSelector())) as runner:
        runner.run(serve(sys.argv[1], (sys.argv[2], int(sys.argv[3])), float(sys.argv[4])))
