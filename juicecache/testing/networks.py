"""Hosts for tests: network namespaces on one bridge, each of which can be cut off.

Only root can make them, with the ``ip`` command; elsewhere the test is skipped. The hosts share
files and memory with each other and with the test, only their networks are apart.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from juicecache.testing.servers import require

_NETWORKS = 250
"""Networks of one machine at a time; tests that run together differ by their process ids."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host; its processes see its address and loopback.

    Attributes
    ----------
    namespace
        As the ``ip`` command calls it.
    address
        What others of the network reach it by.
    """

    namespace: str
    address: str
    _port: str
    _bridge: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it on this host."""
        return ("ip", "netns", "exec", self.namespace)

    def cut(self) -> None:
        """Let no packet in or out any more: connections fall silent, nobody refuses anything."""
        _ip("link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Let packets pass again."""
        _ip("link", "set", self._port, "master", self._bridge)


@contextmanager
def network(hosts: int) -> Iterator[list[Host]]:
    """Make a network of so many hosts, and remove it at the end.

    The test's own processes reach them, and are reached by them, at the first address of the
    network, as long as it is not cut.
    """
    require("ip")
    if os.getuid() != 0:
        pytest.skip("network namespaces need root")
    number = os.getpid() % _NETWORKS
    stem, subnet = f"jc{os.getpid() % 100_000}", f"10.{200 + number // 50}.{number % 50}"
    with ExitStack() as undo:
        bridge = f"{stem}b"
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for at in range(hosts):
            host = Host(f"{stem}h{at}", f"{subnet}.{at + 2}", f"{stem}v{at}", bridge)
            _ip("netns", "add", host.namespace)
            undo.callback(_ip, "netns", "del", host.namespace)
            peer = ("peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "add", host._port, "type", "veth", *peer)
            undo.callback(_ip, "link", "del", host._port)  # the namespace may live on for a while
            host.heal()
            _ip("link", "set", host._port, "up")
            for command in (
                ("addr", "add", f"{host.address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
                ("route", "add", "default", "via", f"{subnet}.1"),
            ):
                _ip("-n", host.namespace, *command)
            made.append(host)
        yield made


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
