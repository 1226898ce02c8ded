"""A Redis Cluster for tests: nodes that share the slots, and slots that move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

from juicecache.testing.redis_server import RedisServer, redis_server
from juicecache.testing.servers import free_ports

_SLOTS = 16384
_READY_TIMEOUT_S = 20


@dataclass
class RedisCluster:
    """Nodes that run, without replicas; each has an equal range of slots at first.

    The number of a database stands in the keys, where it chooses the slot.
    """

    nodes: list[RedisServer]
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def fresh_url(self) -> str:
        """Return the address of a volume that nobody had yet, by one of the nodes."""
        return self.url(next(self._numbers))

    def url(self, database: int, *nodes: RedisServer) -> str:
        """Return the address of a volume by some of the nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes or self.nodes[:1])
        return f"redis://{hosts}/{database}"

    def slot(self, database: int) -> int:
        """Return the slot in which the keys of a volume are."""
        return int(self.nodes[0].command("CLUSTER", "KEYSLOT", f"{{{database}}}"))

    def owner(self, slot: int) -> RedisServer:
        """Return the node that has a slot."""
        for line in self.nodes[0].command("CLUSTER", "NODES").splitlines():
            _, place, *_ = line.split()
            for span in line.split()[8:]:
                first, _, last = span.partition("-")
                if first.isdigit() and int(first) <= slot <= int(last or first):
                    port = int(place.partition("@")[0].rpartition(":")[2])
                    return next(node for node in self.nodes if node.port == port)
        raise RuntimeError(f"nobody has slot {slot}")

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Let a slot move from one node to another; its keys stay where they are for now."""
        target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", _name(source))
        source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", _name(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, limit: int) -> int:
        """Move some keys of a slot; return how many there were."""
        keys = source.command("CLUSTER", "GETKEYSINSLOT", str(slot), str(limit)).split()
        if keys:
            place = ("127.0.0.1", str(target.port), "", "0", "10000", "KEYS", *keys)
            source.command("MIGRATE", *place)
        return len(keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """Give the slot to the node that has all its keys now."""
        for node in (target, *self.nodes):
            node.command("CLUSTER", "SETSLOT", str(slot), "NODE", _name(target))


def _name(node: RedisServer) -> str:
    return node.command("CLUSTER", "MYID").strip()


@contextmanager
def redis_cluster(folder: Path, nodes: int = 3) -> Iterator[RedisCluster]:
    """Run a cluster; skip the running test without Redis."""
    with ExitStack() as stack:
        servers = []
        for at in range(nodes):
            # The second port is by default 10,000 above the first, which may be more than is.
            (port,) = free_ports(1)
            options = ("--cluster-enabled", "yes", "--cluster-port", str(port))
            place = folder / f"node{at}"
            place.mkdir()
            servers.append(stack.enter_context(redis_server(place, *options)))
        bounds = [_SLOTS * at // nodes for at in range(nodes + 1)]
        for node, (first, stop) in zip(servers, pairwise(bounds), strict=True):
            node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(stop - 1))
            bus = node.arguments[node.arguments.index("--cluster-port") + 1]
            servers[0].command("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus)
        _await_ready(servers)
        yield RedisCluster(servers)


def _await_ready(nodes: list[RedisServer]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    for node in nodes:
        while True:
            state = node.command("CLUSTER", "INFO")
            if "cluster_state:ok" in state and f"cluster_size:{len(nodes)}" in state:
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"no cluster: {state}")
            time.sleep(0.05)
