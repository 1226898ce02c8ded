"""A blocking caller of a member's server, for tests: it sends what it is told, right or wrong."""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from juicecache.model.segments import segment_sums
from juicecache.peers.handshake import NONCE_BYTES, Caller, Terms
from juicecache.peers.wire import Decoder, Frame, Kind, Name, get, get_many, put

_TIMEOUT_S = 20.0
"""Much more than a server on the same machine takes; a test that waits so long has failed."""
_READ_BYTES = 256 * 1024


class PeerCaller:
    """A connection to a member, before or after the handshake.

    Attributes
    ----------
    socket
        For what no method here does.
    """

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.socket: socket.socket = socket.create_connection(address, _TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._decoder = Decoder()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._frames: deque[Frame] = deque()

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
        """Close the socket."""
        self.socket.close()

    def meet(self, terms: Terms) -> dict[str, Any]:
        """Do the handshake; return what the member says of itself.

        Raises
        ------
        PeerError
        """
        caller = Caller(terms, os.urandom(NONCE_BYTES))
        self.send(caller.hello())
        self.send(caller.prove(self.receive()))
        return caller.accept(self.receive())

    def send(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        for piece in pieces:
            self.socket.sendall(piece)

    def receive(self) -> Frame:
        """Return the next frame; EOFError when the member closed the connection."""
        while not self._frames:
            try:
                count = self.socket.recv_into(self._buffer)
            except ConnectionError:
                count = 0
            if not count:
                raise EOFError
            self._frames.extend(self._decoder.feed(self._buffer[:count]))
        return self._frames.popleft()

    def answer(self, *request: bytes | bytearray | memoryview) -> Frame:
        """Send a request; return the first frame of the answer that is no LOADING."""
        self.send(*request)
        found = self.receive()
        while found.kind == Kind.LOADING:
            found = self.receive()
        return found

    def get(self, block: Name, start: int = 0, stop: int | None = None) -> Frame:
        """Request a piece of a block."""
        return self.answer(get(block, start, block.length if stop is None else stop))

    def put(self, block: Name, content: bytes) -> Frame:
        """Offer a block."""
        return self.answer(put(block, segment_sums(memoryview(content))), content)

    def get_many(self, blocks: Sequence[Name]) -> list[Frame]:
        """Request blocks; return the frames up to the last, without any LOADING."""
        found = [self.answer(get_many(blocks))]
        while found[-1].kind != Kind.DONE:
            found.append(self.receive())
        return [one for one in found if one.kind != Kind.LOADING]

    def is_closed(self) -> bool:
        """Wait for the member to close the connection, reading what it still says."""
        try:
            while True:
                self.receive()
        except (EOFError, ssl.SSLError):
            return True
        except TimeoutError:
            return False
