"""Hosts for tests: network namespaces on one bridge, each of which can be cut off.

Only root can make them, with the commands ``ip`` (iproute2), ``unshare`` and ``nsenter``
(util-linux); elsewhere the test is skipped. The hosts share files and memory with each other and
with the test, only their networks are apart. A namespace lives as long as a process that holds
it, which ends when the test's process does, however that ends: nothing is left behind.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from juicecache.testing.servers import require

_NETWORKS = [f"198.{18 + number // 256}.{number % 256}" for number in range(512)]
"""The first bytes of the networks of 198.18.0.0/15, which is set aside for tests."""

_HOSTS_MAX = 250
_GATEWAY = 254

_HOLD = "echo; exec cat"
"""Says that it is inside, then waits for the end of its input."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host; its processes see its address and loopback.

    Attributes
    ----------
    address
        What others of the network reach it by.
    gateway
        What it reaches the test's own processes by, those that listen there.
    """

    address: str
    gateway: str
    _pid: int
    _port: str
    _bridge_pid: int

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it on this host, with the process id it gets here."""
        # Not `ip netns exec`, which hides the limits of cgroups behind a /sys of its own.
        return ("nsenter", f"--net=/proc/{self._pid}/ns/net", "--")

    def cut(self) -> None:
        """Let no packet in or out any more: connections fall silent, nobody refuses anything."""
        _ip(self._bridge_pid, f"link set {self._port} nomaster")

    def heal(self) -> None:
        """Let packets pass again."""
        _ip(self._bridge_pid, f"link set {self._port} master bridge")


@contextmanager
def network(hosts: int) -> Iterator[list[Host]]:
    """Make a network of so many hosts, and remove it at the end.

    The hosts and the test's own processes reach each other, as long as they are not cut off.
    """
    for command in ("ip", "unshare", "nsenter"):
        require(command)
    if os.getuid() != 0:
        pytest.skip("network namespaces need root")
    assert 0 < hosts <= _HOSTS_MAX
    with ExitStack() as stack:
        holders = [stack.enter_context(_holder()) for _ in range(hosts + 1)]
        for holder in holders:
            assert holder.stdout is not None
            if not holder.stdout.readline():
                pytest.skip("network namespaces cannot be made here")
        bridge, *pids = (holder.pid for holder in holders)
        _ip(bridge, "link add bridge type bridge forward_delay 0", "link set bridge up")
        subnet, outside = _connect_root(bridge)
        stack.callback(_ip, None, f"link del {outside}")  # a process may hold a namespace longer
        gateway = f"{subnet}.{_GATEWAY}"
        made = [
            Host(f"{subnet}.{number}", gateway, pid, f"port{number}", bridge)
            for number, pid in enumerate(pids, 1)
        ]
        for number, host in enumerate(made, 1):
            _ip(bridge, f"link add {host._port} type veth peer name eth0 netns {host._pid}")
            _ip(bridge, f"link set {host._port} up")
            host.heal()
            _ip(
                host._pid,
                "link set lo up",
                f"link set eth0 address {_mac(number)}",
                f"addr add {host.address}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {gateway}",
                *_neighbours(subnet, [*range(1, hosts + 1), _GATEWAY], "eth0", but=number),
            )
        _ip(None, *_neighbours(subnet, range(1, hosts + 1), outside, but=_GATEWAY))
        yield made


def _neighbours(subnet: str, numbers: Iterable[int], device: str, *, but: int) -> list[str]:
    """Return commands that make addresses known for good.

    A host that is cut off would else be unreachable, an error, as soon as it is asked for.
    """
    return [
        f"neigh replace {subnet}.{number} lladdr {_mac(number)} dev {device} nud permanent"
        for number in numbers
        if number != but
    ]


def _connect_root(bridge_pid: int) -> tuple[str, str]:
    """Return an unused subnet, and the link of this machine that is in it.

    The name of the link claims the subnet: of tests that run together only one can make it.
    """
    for subnet in random.sample(_NETWORKS, len(_NETWORKS)):
        link = f"jc{subnet.replace('.', '-')}"
        try:
            _ip(None, f"link add {link} type veth peer name root netns {bridge_pid}")
        except FileExistsError:
            continue
        _ip(bridge_pid, "link set root up master bridge")
        _ip(
            None,
            f"link set {link} address {_mac(_GATEWAY)}",
            f"addr add {subnet}.{_GATEWAY}/24 dev {link}",
            f"link set {link} up",
        )
        return subnet, link
    raise RuntimeError("there are 512 networks already")


@contextmanager
def _holder() -> Iterator[subprocess.Popen[str]]:
    """Start a process in a new namespace, which it holds until its input ends."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # an interrupt from the keyboard is not for it
    ) as holder:
        yield holder


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _ip(pid: int | None, *commands: str) -> None:
    """Run commands of ``ip``, in the namespace of a process or in the test's own."""
    inside = [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]
    done = subprocess.run(
        [*inside, "ip", "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
        check=False,
    )
    if "File exists" in done.stderr:
        raise FileExistsError(done.stderr)
    if done.returncode:
        raise RuntimeError(f"ip {commands}: {done.stderr.strip()}")
