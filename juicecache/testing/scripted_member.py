"""A member of a cache group that does what a test says, right or wrong, byte by byte."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from juicecache.peers.handshake import NONCE_BYTES, Doorkeeper, Terms
from juicecache.peers.wire import Decoder, Frame

_TIMEOUT_S = 20.0
"""Much more than any test takes."""
_READ_BYTES = 64 * 1024


class Guest:
    """A caller of a `ScriptedMember`.

    Attributes
    ----------
    number
        How many came before.
    socket
        For what no method here does.
    """

    def __init__(self, number: int, connected: socket.socket) -> None:
        self.number = number
        self.socket = connected
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()

    def meet(self, terms: Terms, about: dict[str, Any] | None = None) -> None:
        """Do the handshake."""
        door = Doorkeeper(terms, os.urandom(NONCE_BYTES), about or {})
        while not door.is_open:
            self.send(door.receive(self.receive()))

    def receive(self) -> Frame:
        """Return the next frame; EOFError when the caller closed the connection."""
        while not self._frames:
            chunk = self.socket.recv(_READ_BYTES)
            if not chunk:
                raise EOFError
            self._frames.extend(self._decoder.feed(memoryview(chunk)))
        return self._frames.popleft()

    def requests(self) -> Iterator[Frame]:
        """Iterate over frames until the caller goes."""
        with contextlib.suppress(EOFError):
            while True:
                yield self.receive()

    def send(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Send bytes, each piece at once."""
        for piece in pieces:
            self.socket.sendall(piece)

    def wait_until_gone(self) -> None:
        """Say nothing until the caller closes the connection."""
        while self.socket.recv(_READ_BYTES):
            pass


class ScriptedMember:
    """Listens, and plays ``script`` to every caller, on a thread for each.

    When it returns the connection is closed. That the caller goes early is no error; what else
    a script raises, `close` raises.

    Attributes
    ----------
    address
        Where it listens.
    visits
        How many callers came.
    """

    def __init__(
        self, script: Callable[[Guest], None], address: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self._script = script
        self._listening = socket.create_server(address)
        self.address: tuple[str, int] = self._listening.getsockname()
        self.visits = 0
        self._open: set[socket.socket] = set()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the threads; raise the first error of a script."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connected in list(self._open):
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()
        if self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                connected.settimeout(_TIMEOUT_S)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.add(connected)
                guest = Guest(self.visits, connected)
                self.visits += 1
                thread = threading.Thread(target=self._play, args=(guest,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _play(self, guest: Guest) -> None:
        try:
            self._script(guest)
        except (EOFError, ConnectionError):
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._open.discard(guest.socket)
            guest.socket.close()
