"""The process behind `juicecache.testing.servers.DelayingProxy`.

Run as ``python -m juicecache.testing.delaying_proxy TARGET_PORT DELAY_S``. Prints its port, then
a line of counts for each line on its input, and ends when the input does.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

QUEUED_BYTES_MAX = 64 << 20
"""Bytes on their way in one direction of one connection: 25 Gbit/s times 20 ms."""


class Counts:
    """Bytes and connections so far."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.connections = 0


class Pipe(asyncio.Protocol):
    """One end of a connection: what arrives here leaves at the other end, later."""

    def __init__(self, delay_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay_s = delay_s
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.not_before = 0.0
        self.transport: asyncio.Transport | None = None
        self.other: Pipe | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, chunk: bytes) -> None:
        """Queue bytes for the other end."""
        self._queued_bytes += len(chunk)
        self._enqueue(chunk)
        if self._queued_bytes > QUEUED_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other end, behind what is queued."""
        self._enqueue(None)

    def _enqueue(self, chunk: bytes | None) -> None:
        # One queue and one timer: timers that fall together would not keep their order.
        self._queue.append((max(self.not_before, self._loop.time() + self._delay_s), chunk))
        if self._timer is None:
            self._timer = self._loop.call_at(self._queue[0][0], self.flush)

    def flush(self) -> None:
        """Hand on what is due."""
        self._timer = None
        target = self.other.transport if self.other is not None else None
        if target is None:  # not connected yet, or refused for good
            if self.transport is None or self.transport.is_closing():
                return
            self._timer = self._loop.call_later(0.001, self.flush)
            return
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now:
            _, chunk = self._queue.popleft()
            if chunk is None:
                target.close()
                return
            self._queued_bytes -= len(chunk)
            target.write(chunk)
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self.flush)
        if self._queued_bytes <= QUEUED_BYTES_MAX and self.transport is not None:
            self.transport.resume_reading()


class Entrance(Pipe):
    """The client's end; connects to the server."""

    def __init__(self, target_port: int, delay_s: float, counts: Counts) -> None:
        super().__init__(delay_s / 2)
        # Making a connection takes a round trip of its own.
        self.not_before = self._loop.time() + 1.5 * delay_s
        self._target_port = target_port
        self._counts = counts
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the way to the server."""
        super().connection_made(transport)
        self._counts.connections += 1
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        far = Exit(self._delay_s, self._counts)
        far.other = self
        try:
            await self._loop.create_connection(lambda: far, "127.0.0.1", self._target_port)
        except OSError:
            assert self.transport is not None
            self.transport.close()
            return
        self.other = far

    def data_received(self, chunk: bytes) -> None:
        """Count and queue."""
        self._counts.sent_bytes += len(chunk)
        super().data_received(chunk)


class Exit(Pipe):
    """The server's end."""

    def __init__(self, delay_s: float, counts: Counts) -> None:
        super().__init__(delay_s)
        self._counts = counts

    def data_received(self, chunk: bytes) -> None:
        """Count and queue."""
        self._counts.received_bytes += len(chunk)
        super().data_received(chunk)


async def serve(target_port: int, delay_s: float) -> None:
    """Serve until the standard input ends."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    server = await loop.create_server(
        lambda: Entrance(target_port, delay_s, counts), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(counts.sent_bytes, counts.received_bytes, counts.connections, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
