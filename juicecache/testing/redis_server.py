"""A Redis server for tests and benchmarks; nothing listens but on loopback, nothing is kept."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from juicecache.testing.servers import free_ports, require

_DATABASES = 10_000
_START_TIMEOUT_S = 20


@dataclass
class RedisServer:
    """A server that runs, and the databases in it that nobody had yet."""

    port: int
    folder: Path
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fresh_url(self) -> str:
        """Return the address of an empty database."""
        return f"redis://127.0.0.1:{self.port}/{next(self._numbers) % _DATABASES}"

    def command(self, *words: str, database: int = 0) -> str:
        """Run one command and return what is printed."""
        tool = [require("redis-cli"), "-p", str(self.port), "-n", str(database)]
        done = subprocess.run([*tool, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def stop(self) -> None:
        """End the server at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it again, on what it has on disk."""
        self.process = _start(self.folder, self.arguments)


def _start(folder: Path, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    path = folder / "redis.log"
    with path.open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while b"Ready to accept" not in path.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"no Redis: {path.read_text()[-500:]}")
        time.sleep(0.02)
    return process


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a server; skip the running test where none is installed.

    Parameters
    ----------
    options
        Further arguments, such as ``--requirepass`` and a word.
    """
    (port,) = free_ports(1)
    arguments = [require("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    arguments += ["--dir", str(folder), "--save", "", "--databases", str(_DATABASES), *options]
    server = RedisServer(port, folder, tuple(arguments), _start(folder, tuple(arguments)))
    try:
        yield server
    finally:
        server.stop()
