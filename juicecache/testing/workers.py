"""``juicecache worker`` as a real process, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import juicecache

_PATIENCE_S = 30.0


class Worker:
    """A worker that is ready.

    Attributes
    ----------
    ready
        What it said when it was.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the worker ended: {process.communicate()[1]}")
        self.ready: dict[str, Any] = json.loads(line)

    def page(self, path: str) -> tuple[int, str]:
        """Return the status and the body of one of its pages."""
        address = self.ready["metrics"].removeprefix("http://")
        with closing(HTTPConnection(address, timeout=_PATIENCE_S)) as connection:
            connection.request("GET", path)
            page = connection.getresponse()
            return page.status, page.read().decode()

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal, and return the exit code and what it wrote to its standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=_PATIENCE_S)
        return self.process.returncode, errors


@contextmanager
def worker(meta: str, *words: str) -> Iterator[Worker]:
    """Run a worker of this machine in group ``g``, killed at the end if it is still there."""
    command = [sys.executable, "-m", "juicecache", "worker", meta, "--json", "--cache-group", "g"]
    local = ["--group-ip", "127.0.0.1", "--heartbeat", "1s", "--metrics", "127.0.0.1:0"]
    root = str(Path(juicecache.__file__).parents[1])
    with subprocess.Popen(
        [*command, *local, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        try:
            yield Worker(process)
        finally:
            if process.poll() is None:
                process.kill()
