"""What client-side caching of Redis (RESP3 tracking) would cost those who write, and gain."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import redis
from harness import Report, scratch

import juicecache
from juicecache.testing.redis_server import redis_server

CLIENTS = (0, 10, 50, 200)
FILES = 500
RUNS = 5


def median_us(act: Callable[[int], object]) -> float:
    """Return what one of `FILES` calls takes, the median of `RUNS`."""
    times = []
    for run in range(RUNS):
        started = time.perf_counter()
        for number in range(FILES):
            act(run * FILES + number)
        times.append((time.perf_counter() - started) / FILES * 1e6)
    return statistics.median(times)


@contextlib.contextmanager
def trackers(port: int, count: int):
    """Keep connections that hear of every change of a node or an entry.

    Nobody reads them: what is pushed fits their buffers, and only the server's part is wanted.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            one = redis.connection.Connection(port=port, protocol=3)
            one.connect()
            stack.callback(one.disconnect)
            one.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "i", "PREFIX", "d")
            one.read_response()
        yield


def main() -> list[Report]:
    report = Report("Redis: what tracking of keys would cost, and what it could gain")
    with scratch() as folder, redis_server(folder) as server:
        meta = server.fresh_url()
        juicecache.format_volume(
            meta, "bench", bucket=str(folder / "objects"), trash_days=0, remember=False
        )
        rows = []
        with juicecache.open_volume(meta, cache_size=0) as volume:
            for count in CLIENTS:
                folder_of = f"/{count}"
                volume.make_directory(folder_of)
                with trackers(server.port, count):
                    create = median_us(
                        lambda number, head=folder_of: volume.write_file(f"{head}/{number}", b"")
                    )
                rows.append([f"create, {count} clients with tracking", f"{create:,.0f}"])
        rows += [
            [f"read of 4 KiB from memory, {name}", f"{warm(meta, folder, **options):,.0f}"]
            for name, options in (("as always", {}), ("`open_cache=1`", {"open_cache": 1}))
        ]
        report.table(["work", "us each, median"], rows)
    return [report]


def warm(meta: str, folder: Path, **options: float) -> float:
    with juicecache.open_volume(meta, cache_dir=str(folder / "cache"), **options) as volume:
        volume.write_file("/warm", bytes(4096))
        volume.read_file("/warm")
        return median_us(lambda _: volume.read_file("/warm"))
