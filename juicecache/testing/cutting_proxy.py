"""A way to a server that breaks at a chosen message: before it arrives, or behind its answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_ANSWER_TIMEOUT_S = 10.0
_MESSAGE_BYTES_MAX = 1 << 20


class CuttingProxy:
    """Forwards connections to a port on loopback.

    What a client sends in one piece counts as a message: the clients here send a message at once
    and wait for its answer.

    Attributes
    ----------
    port
        Where it listens, on loopback.
    cuts
        How many connections it has broken.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self._lock = threading.Lock()
        self._left = 0
        self._delivers = False
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self, message: int, *, delivers: bool) -> None:
        """Break the connection of the client that sends this message from now on, from 1.

        ``delivers`` lets the server have the message, and its answer is lost; else it is lost.
        """
        with self._lock:
            self._left, self._delivers = message, delivers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            _close(one)
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                return
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while message := client.recv(_MESSAGE_BYTES_MAX):
                with self._lock:
                    self._left -= 1
                    is_cut = self._left == 0
                if not is_cut:
                    server.sendall(message)
                    continue
                self.cuts += 1
                _close(client)
                if self._delivers:
                    server.sendall(message)
                    self._await_end(server)
                break
        _close(server)
        _close(client)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while answer := server.recv(_MESSAGE_BYTES_MAX):
                client.sendall(answer)
        _close(client)

    @staticmethod
    def _await_end(server: socket.socket) -> None:
        """Tell the server that nothing more comes, and wait until it has done what it was sent."""
        server.shutdown(socket.SHUT_WR)
        server.settimeout(_ANSWER_TIMEOUT_S)
        while server.recv(_MESSAGE_BYTES_MAX):
            pass


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
