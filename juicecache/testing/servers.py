"""Real parts for tests and benchmarks: an S3 server, a network that is slow, the official client.

Each is a process that the caller starts and stops here; nothing listens but on loopback.
A part that is not installed skips the test that asks for it (see `require`).
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from juicecache.errors import JuicecacheError
from juicecache.objects.s3 import S3Options, S3Store
from juicecache.runtime import loop_thread

START_TIMEOUT_S = 90
"""The server takes about 15 s on two idle cores."""

STOP_TIMEOUT_S = 1
"""For an orderly end, before it is killed: what it holds is thrown away."""

_ACCESS_KEY = "a"
_SECRET_KEY = "b"  # noqa: S105  (guards nothing but a test's own server)


def find(name: str) -> str | None:
    """Return the path of a command: on PATH, or beside this Python's own."""
    beside = Path(sys.executable).with_name(name)
    return shutil.which(name) or (str(beside) if beside.exists() else None)


def require(name: str) -> str:
    """Return the path of a command; skip the running test when it is not installed."""
    import pytest

    path = find(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def juicefs_binary() -> str:
    """Return the path of the official client; skip the running test without it."""
    return require("juicefs")


def run_juicefs(
    *arguments: str, timeout_s: float = 120, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the official client to its end.

    Raises
    ------
    AssertionError
        It failed; the text is what it printed.
    """
    done = subprocess.run(
        [juicefs_binary(), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=env,
        check=False,
    )
    shown = f"juicefs {arguments[0]}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, shown
    return done


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class S3Server:
    """A running S3 server."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    port: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def options(self, bucket: str) -> S3Options:
        """Return how to reach a bucket of this server."""
        return S3Options(
            self.endpoint, bucket, access_key=self.access_key, secret_key=self.secret_key
        )

    def fresh_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        bucket = f"bucket-{next(self._numbers)}"
        store = S3Store(self.options(bucket))
        loop_thread().run(store.create())
        loop_thread().run(store.aclose())
        return bucket


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start SeaweedFS with its S3 gateway below ``folder``; stop it at the end."""
    weed = require("weed")
    config = folder / "s3.json"
    credentials = [{"accessKey": _ACCESS_KEY, "secretKey": _SECRET_KEY}]
    everything = ["Admin", "Read", "List", "Tagging", "Write"]
    identity = {"name": "test", "credentials": credentials, "actions": everything}
    config.write_text(json.dumps({"identities": [identity]}))
    names = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3")
             for kind in ("", ".grpc")]  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        weed, "server", "-s3", f"-dir={folder}", f"-s3.config={config}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
        "-volume.preStopSeconds=0", "-s3.autoCreateBucket=false",
        # Each bucket takes several volumes of its own, and a session makes many buckets.
        "-master.volumePreallocate=false", "-master.volumeSizeLimitMB=256", "-volume.max=10000",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    log = folder / "weed.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        port = ports["-s3.port"]
        running = S3Server(f"http://127.0.0.1:{port}", _ACCESS_KEY, _SECRET_KEY, port)
        _await_answer(running, server, log)
        yield running
    finally:
        _stop(server)


def _await_answer(running: S3Server, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an object can be stored, which is later than until the port is open."""
    store = S3Store(running.options("probe"))
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while True:
            try:
                loop_thread().run(store.create())
                loop_thread().run(store.put("probe", b"probe"))
                return
            except JuicecacheError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    text = log.read_text(errors="replace")[-4000:]
                    raise RuntimeError(f"the S3 server did not start: {error}\n{text}") from error
                time.sleep(0.2)
    finally:
        loop_thread().run(store.aclose())


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Traffic(NamedTuple):
    """What went through a proxy so far; bytes count when they arrive at it."""

    to_server_bytes: int
    to_client_bytes: int
    connections: int
    flipped_bits: int


class DelayingProxy:
    """A TCP proxy that puts ``delay_s`` of round trip before a server, counts, and breaks.

    It runs in a process of its own, so that it takes no time of the measured one. It bounds
    neither bandwidth, unless told to (it passes over 1 GB/s), nor the number of connections, and
    what is delayed on one delays no other. Safe to use from many threads.

    Parameters
    ----------
    target_port, target_host
        Of the server.
    delay_s
        Of a round trip; half of it each way, and one more for making a connection.
    host
        The address to listen at.
    """

    def __init__(
        self,
        target_port: int,
        delay_s: float,
        *,
        target_host: str = "127.0.0.1",
        host: str = "127.0.0.1",
    ) -> None:
        command = [sys.executable, "-m", "juicecache.testing.delaying_proxy"]
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*command, host, target_host, str(target_port), str(delay_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.port = int(self._answer())
        self.endpoint = f"http://{host}:{self.port}"

    def traffic(self) -> Traffic:
        """Return what went through so far."""
        return self._tell("traffic")

    def delay(self, delay_s: float) -> None:
        """Set the round trip of all that arrives from now on."""
        self._tell(f"delay {delay_s}")

    def bandwidth(self, bytes_per_s: float) -> None:
        """Bound what all connections together bring to clients; `math.inf` is no bound."""
        self._tell(f"bandwidth {bytes_per_s}")

    def hang(self) -> None:
        """Pass nothing on, and keep all connections open, as also new ones are."""
        self._tell("hang")

    def refuse(self) -> None:
        """Reset all connections and refuse new ones, as where a server has ended."""
        self._tell("refuse")

    def flip_bits(self, after_bytes: int, every_bytes: int = 0) -> None:
        """Spoil the byte to a client that is ``after_bytes`` from now, over all connections.

        And again each ``every_bytes``, if that is not 0.
        """
        self._tell(f"flip {after_bytes} {every_bytes}")

    def forward(self) -> None:
        """Pass everything on as it is: the end of `hang`, `refuse` and `flip_bits`."""
        self._tell("forward")

    def close(self) -> None:
        """End the process. Safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.terminate()
        self._process.wait(STOP_TIMEOUT_S)

    def _tell(self, command: str) -> Traffic:
        """Give a command, and return the counts after it."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f"{command}\n")
            return Traffic(*map(int, self._answer().split()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the proxy ended")
        return line

    def __enter__(self) -> DelayingProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
