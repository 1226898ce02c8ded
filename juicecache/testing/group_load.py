"""The processes of the tests of a cache group under faults: members, and readers that never stop.

Run as ``python -m juicecache.testing.group_load ROLE META PAUSE_S OPTIONS [FILES SEED]``. The
role is ``member`` or ``reader``, the last two are for readers, options are JSON. Each prints a
line when it is ready. A line on the input of either is answered with a line of JSON about what it
did since the last; the end of the input ends it. What a file must contain follows from its path.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from functools import cache
from typing import Any

from juicecache.config import VolumeOptions
from juicecache.volume.latency import Latency
from juicecache.volume.volume import Volume

FAILURES_MAX = 5


def path_of(number: int) -> str:
    """Return the path of a file of the data set."""
    return f"/{number % 16}/{number}"


@cache
def content_of(path: str) -> bytes:
    """Return what a file contains: mostly some ten KiB, a few of several blocks."""
    number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8])
    size = 2_500_000 if number % 100 == 0 else 1 + number % 60_000
    return hashlib.shake_128(path.encode()).digest(size)


class Reader:
    """Reads files in random order, all of them in each round, and looks at every byte."""

    def __init__(self, volume: Volume, files: int, seed: int) -> None:
        self._volume = volume
        self._paths = [path_of(number) for number in range(files)]
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._reads = self._wrong = 0
        self._worst_s = 0.0
        self._worst = ""
        self._failures: list[str] = []

    def read(self) -> None:
        """Read one round."""
        self._random.shuffle(self._paths)
        for path in self._paths:
            began_s = time.monotonic()
            failure, right = "", True
            try:
                right = self._volume.read_file(path) == content_of(path)
            except Exception as error:
                failure = f"{path}: {type(error).__name__}: {error}"
            took_s = time.monotonic() - began_s
            with self._lock:
                self._reads += 1
                self._wrong += not right
                if took_s > self._worst_s:
                    self._worst_s, self._worst = took_s, path
                if failure and len(self._failures) < FAILURES_MAX:
                    self._failures.append(failure)

    def report(self) -> dict[str, Any]:
        """Return what happened since the last time."""
        group = self._volume.parts().blocks.group
        with self._lock:
            found = {
                "reads": self._reads,
                "wrong": self._wrong,
                "failures": self._failures,
                "worst_s": self._worst_s,
                "worst": self._worst,
                "blocks": self._volume.stats().to_dict()["blocks"],
            }
            self._begin()
        if group is not None:
            stats = group.stats()
            found["shares"] = stats.shares
            found["down"] = {p.name: p.reason for p in stats.peers if p.state == "down"}
        return found


def read(volume: Volume, files: int, seed: int) -> None:
    """Read until the input ends."""
    reader = Reader(volume, files, seed)
    volume.read_file(path_of(0))
    print("ready", flush=True)

    def go_on() -> None:
        while True:
            reader.read()

    threading.Thread(target=go_on, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(reader.report()), flush=True)


def serve(volume: Volume) -> None:
    """Be a member until the input ends."""
    serving = volume.parts().serving
    assert serving is not None
    print("ready", serving.name, flush=True)
    for _ in sys.stdin:
        stats = serving.stats()
        print(json.dumps({"parts": stats.parts, "loads": volume.stats().blocks.loads}), flush=True)
    serving.drain(20.0)
    volume.close()


def main() -> None:
    """Be what the command line says."""
    role, meta, pause_s, options, *rest = sys.argv[1:]
    parsed = VolumeOptions.from_options(json.loads(options))
    volume = Volume(meta, parsed, wrap_store=Latency(float(pause_s)))
    if role == "reader":
        read(volume, *map(int, rest))
    else:
        serve(volume)


if __name__ == "__main__":
    main()
