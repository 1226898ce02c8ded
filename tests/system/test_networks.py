"""Hosts in network namespaces: they reach each other, fall silent, and leave nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import juicecache
from juicecache.testing.networks import Host, network

pytestmark = pytest.mark.service

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.0)"
LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
while True:
    one, _ = listener.accept()
    one.sendall(one.recv(100))
"""


def links() -> str:
    return subprocess.run(["ip", "-4", "addr"], capture_output=True, text=True, check=True).stdout


@contextmanager
def listening(host: Host) -> Iterator[int]:
    command = [*host.prefix, sys.executable, "-c", LISTEN, host.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


def connect(host: Host, address: str, port: int) -> str:
    """Return the error of a connection from a host, of its last line; empty without one."""
    command = [*host.prefix, sys.executable, "-c", CONNECT, address, str(port)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2]


def test_hosts_reach_each_other_and_the_test() -> None:
    with network(3) as hosts:
        assert hosts[0].gateway in links()
        with listening(hosts[1]) as port:
            assert connect(hosts[0], hosts[1].address, port) == ""
            assert connect(hosts[1], hosts[1].address, port) == ""
            assert "refused" in connect(hosts[0], hosts[2].address, port)
            with socket.create_connection((hosts[1].address, port), 1.0) as one:
                one.sendall(b"x")
                assert one.recv(1) == b"x"
        with socket.create_server((hosts[0].gateway, 0)) as here:
            assert connect(hosts[0], hosts[0].gateway, here.getsockname()[1]) == ""
    assert hosts[0].gateway not in links()


def test_a_host_that_is_cut_off_is_silent_however_long() -> None:
    with network(2) as hosts, listening(hosts[1]) as port:
        with socket.create_connection((hosts[1].address, port), 1.0) as one:
            hosts[1].cut()
            assert "timed out" in connect(hosts[0], hosts[1].address, port)
            one.sendall(b"x")
            began = time.monotonic()
            with pytest.raises(TimeoutError):  # after 3 s it would be unreachable, by default
                socket.create_connection((hosts[1].address, port), 4.0)
            assert time.monotonic() - began > 3.9
            assert connect(hosts[1], hosts[1].address, port) == ""
            hosts[1].heal()
            one.settimeout(60)
            assert one.recv(1) == b"x"
        assert connect(hosts[0], hosts[1].address, port) == ""


def test_networks_do_not_meet() -> None:
    with network(1) as some, network(1) as others, listening(others[0]) as port:
        assert some[0].address.rpartition(".")[0] != others[0].address.rpartition(".")[0]
        assert connect(some[0], others[0].address, port)


def test_a_killed_test_leaves_nothing_behind() -> None:
    code = """
from juicecache.testing.networks import network
with network(2) as hosts:
    print(hosts[0].address, flush=True)
    input()
"""
    root = str(Path(juicecache.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": root, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    ) as process:
        assert process.stdout is not None
        subnet = process.stdout.readline().rpartition(".")[0]
        assert subnet in links()
        process.send_signal(signal.SIGKILL)
    until_s = time.monotonic() + 20
    while subnet in links():  # the kernel takes a namespace down when it finds the time
        assert time.monotonic() < until_s
        time.sleep(0.05)
