"""Redis behind Sentinel for tests: a master, its replica, and three sentinels that watch them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicecache.testing.redis_server import RedisServer, redis_server
from juicecache.testing.servers import free_ports, require

_NAME = "shelf"
_SENTINELS, _QUORUM = 3, 2
_DOWN_AFTER_MS, _FAILOVER_MS = 500, 4000
_READY_TIMEOUT_S = 20


@dataclass
class SentinelGroup:
    """Servers that run.

    Attributes
    ----------
    port
        Where the sentinels listen, each on an address of loopback of its own.
    password
        Of the servers; the sentinels have none.
    """

    master: RedisServer
    replica: RedisServer
    sentinels: list[subprocess.Popen[bytes]]
    port: int
    password: str

    def url(self, database: int = 1, *, name: str = _NAME) -> str:
        """Return the address of whoever is the master, as the official client takes it."""
        hosts = ",".join(_host(at) for at in range(len(self.sentinels)))
        return f"redis://:{self.password}@{name},{hosts}:{self.port}/{database}"

    def direct(self, server: RedisServer, database: int = 1) -> str:
        """Return the address of one of the servers."""
        return f"redis://:{self.password}@127.0.0.1:{server.port}/{database}"


def _host(at: int) -> str:
    return f"127.0.0.{at + 1}"


@contextmanager
def sentinel_group(folder: Path, password: str = "pass-word") -> Iterator[SentinelGroup]:  # noqa: S107
    """Run a master, a replica and sentinels; skip the running test without Redis."""
    with ExitStack() as stack:

        def run(name: str, *options: str) -> RedisServer:
            place = folder / name
            place.mkdir()
            return stack.enter_context(redis_server(place, *options))

        # A replica that has nothing yet would take over as well.
        options = ["--requirepass", password, "--masterauth", password]
        options += ["--repl-diskless-sync-delay", "0"]
        master = run("master", *options)
        replica = run("replica", *options, "--replicaof", f"127.0.0.1 {master.port}")
        (port,) = free_ports(1)
        sentinels = [
            stack.enter_context(_sentinel(folder, at, port, master.port, password))
            for at in range(_SENTINELS)
        ]
        _await_ready(port)
        while "master_link_status:up" not in replica.command("-a", password, "INFO"):
            time.sleep(0.05)
        yield SentinelGroup(master, replica, sentinels, port, password)


@contextmanager
def _sentinel(
    folder: Path, at: int, port: int, master: int, password: str
) -> Iterator[subprocess.Popen[bytes]]:
    path = folder / f"sentinel{at}.conf"  # which it changes itself
    path.write_text(
        f"port {port}\n"
        f"bind {_host(at)}\n"
        f"dir {folder}\n"
        f"sentinel announce-ip {_host(at)}\n"
        f"sentinel monitor {_NAME} 127.0.0.1 {master} {_QUORUM}\n"
        f"sentinel auth-pass {_NAME} {password}\n"
        f"sentinel down-after-milliseconds {_NAME} {_DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {_NAME} {_FAILOVER_MS}\n"
    )
    command = [require("redis-server"), str(path), "--sentinel"]
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _await_ready(port: int) -> None:
    """Wait until every sentinel knows the others and the replica: before, none takes over."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    waiting = list(range(_SENTINELS))
    state: Any = None
    while waiting:
        try:
            state = _state(waiting[0], port)
            if state["num-other-sentinels"] == _SENTINELS - 1 and state["num-slaves"] == 1:
                waiting.pop(0)
                continue
        except OSError as error:
            state = error
        if time.monotonic() > deadline:
            raise RuntimeError(f"the sentinels are not ready: {state}")
        time.sleep(0.05)


def _state(at: int, port: int) -> Any:
    """Return what a sentinel knows of the master."""
    import redis

    with redis.Redis(_host(at), port, protocol=2) as client:
        try:
            return client.sentinel_master(_NAME)
        except redis.ConnectionError as error:
            raise OSError(str(error)) from error
