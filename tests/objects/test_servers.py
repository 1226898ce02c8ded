"""The network that benchmarks measure through: slow, counted, and broken on purpose."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from juicecache.testing.servers import DelayingProxy

DELAY_S = 0.05
BIG = 20 << 20
SILENCE_S = 0.2
"""Long enough for an answer on loopback to come, were it to come."""


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that answers each line with itself, and ``big`` with many bytes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def talk(one: socket.socket) -> None:
        with one, one.makefile("rb") as lines:
            try:
                for line in lines:
                    one.sendall(bytes(BIG) if line == b"big\n" else line)
            except ConnectionError:  # the proxy broke it
                return

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


@pytest.fixture
def proxy(echo_port: int) -> Iterator[DelayingProxy]:
    with DelayingProxy(echo_port, 0) as proxy:
        yield proxy


def connect(proxy: DelayingProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


def receive(client: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        chunk = client.recv(1 << 20)
        assert chunk, "it ended"
        received += chunk
    return bytes(received)


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line)
    return receive(client, BIG if line == b"big\n" else len(line))


def test_proxy_delays_and_counts(echo_port: int) -> None:
    with DelayingProxy(echo_port, DELAY_S) as proxy:
        with connect(proxy) as client:
            began = time.monotonic()
            assert ask(client, b"first\n") == b"first\n"
            assert time.monotonic() - began >= 2 * DELAY_S  # with the connection's own
            began = time.monotonic()
            assert ask(client, b"again\n") == b"again\n"
            assert time.monotonic() - began >= DELAY_S
            assert ask(client, b"big\n") == bytes(BIG)
        traffic = proxy.traffic()
        assert traffic == (16, 12 + BIG, 1, 0)


def test_proxy_bounds_what_all_connections_bring_together(proxy: DelayingProxy) -> None:
    proxy.bandwidth(2 * BIG / 0.5)
    with connect(proxy) as one, connect(proxy) as other:
        began = time.monotonic()
        for client in (one, other):
            client.sendall(b"big\n")
        for client in (one, other):
            receive(client, BIG)
        assert 0.5 <= time.monotonic() - began < 5
    proxy.bandwidth(math.inf)
    with connect(proxy) as client:
        ask(client, b"big\n")
    assert proxy.traffic().to_client_bytes == 3 * BIG


def test_many_connections_are_delayed_at_the_same_time(echo_port: int) -> None:
    count = 200
    with DelayingProxy(echo_port, DELAY_S) as proxy:
        clients = [connect(proxy) for _ in range(count)]
        for line in (b"first\n", b"again\n"):
            began = time.monotonic()
            for client in clients:
                client.sendall(line)
            for client in clients:
                assert receive(client, len(line)) == line
        assert DELAY_S <= time.monotonic() - began < 10 * DELAY_S
        for client in clients:
            client.close()
        assert proxy.traffic().connections == count


def test_a_near_network_is_near(echo_port: int) -> None:
    delay_s = 0.0005
    with DelayingProxy(echo_port, delay_s) as proxy, connect(proxy) as client:
        took_s = []
        for _ in range(100):
            began = time.monotonic()
            ask(client, b"line\n")
            took_s.append(time.monotonic() - began)
        assert delay_s <= sorted(took_s)[10] < 0.0015  # whole milliseconds each way would be two


def test_the_delay_changes_while_connections_are_open(proxy: DelayingProxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"line\n") == b"line\n"
        proxy.delay(DELAY_S)
        began = time.monotonic()
        assert ask(client, b"line\n") == b"line\n"
        assert time.monotonic() - began >= DELAY_S


def test_a_bit_flips_where_it_is_told_to(proxy: DelayingProxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"abcd\n") == b"abcd\n"
        proxy.flip_bits(1)
        assert ask(client, b"abcd\n") == b"accd\n"
        assert ask(client, b"abcd\n") == b"abcd\n"
        assert proxy.traffic().flipped_bits == 1


def test_bits_flip_again_and_again(proxy: DelayingProxy) -> None:
    with connect(proxy) as client:
        proxy.flip_bits(100, 1 << 20)
        spoilt = ask(client, b"big\n")
        places = [at for at in range(100, BIG, 1 << 20) if spoilt[at] == 1]
        assert len(places) == spoilt.count(1) == BIG >> 20
        assert spoilt.count(0) == BIG - len(places)
        assert proxy.traffic().flipped_bits == len(places)
        proxy.forward()
        assert ask(client, b"big\n") == bytes(BIG)


def test_a_proxy_that_hangs_is_silent_and_goes_on(proxy: DelayingProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"big\n")
        left = BIG - len(client.recv(1000))  # hangs in the midst of it
        proxy.hang()
        before = proxy.traffic()
        with connect(proxy) as late:
            late.sendall(b"late\n")
            late.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                late.recv(1)
            assert proxy.traffic()[:2] == before[:2]
            proxy.forward()
            late.settimeout(20)
            assert receive(late, 5) == b"late\n"
        assert receive(client, left) == bytes(left)


def test_what_is_on_its_way_hangs_too(echo_port: int) -> None:
    with DelayingProxy(echo_port, SILENCE_S) as proxy, connect(proxy) as client:
        assert ask(client, b"first\n") == b"first\n"
        client.sendall(b"again\n")
        proxy.hang()
        client.settimeout(2 * SILENCE_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.forward()
        client.settimeout(20)
        assert receive(client, 6) == b"again\n"


def test_a_proxy_that_refuses_has_no_connections(proxy: DelayingProxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"line\n") == b"line\n"
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.refuse()
    proxy.forward()
    with connect(proxy) as client:
        assert ask(client, b"line\n") == b"line\n"


def test_ends_reach_the_other_side_behind_what_was_sent(echo_port: int) -> None:
    with DelayingProxy(echo_port, DELAY_S) as proxy, connect(proxy) as client:
        client.sendall(b"line\nbig\n")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 5 + BIG) == b"line\n" + bytes(BIG)
        assert client.recv(1) == b""


def test_a_server_that_is_not_there_resets() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with DelayingProxy(unused.getsockname()[1], 0) as proxy, connect(proxy) as client:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
