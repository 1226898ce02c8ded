"""The slow network that benchmarks measure through."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from juicecache.testing.servers import DelayingProxy

DELAY_S = 0.05
BIG = 20 << 20


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that answers each line with itself, and ``big`` with many bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(one: socket.socket) -> None:
        with one, one.makefile("rb") as lines:
            for line in lines:
                one.sendall(bytes(BIG) if line == b"big\n" else line)

    def accept() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(one,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_proxy_delays_and_counts(echo_port: int) -> None:
    with DelayingProxy(echo_port, DELAY_S) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            began = time.monotonic()
            client.sendall(b"first\n")
            assert client.recv(100) == b"first\n"
            assert time.monotonic() - began >= 2 * DELAY_S  # with the connection's own
            began = time.monotonic()
            client.sendall(b"again\n")
            assert client.recv(100) == b"again\n"
            assert time.monotonic() - began >= DELAY_S
            client.sendall(b"big\n")
            left = BIG
            while left:
                left -= len(client.recv(1 << 20))
        traffic = proxy.traffic()
        assert traffic == (16, 12 + BIG, 1)
