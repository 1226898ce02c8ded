"""``gc`` and ``fsck`` of a large generated volume beside the official commands: time and memory.

Every file has an object of its own, of one byte; one object in a thousand belongs to nothing.
``JUICECACHE_BENCH_OBJECTS`` sets their number.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Report, scratch

from juicecache.testing.engines import fresh_url
from juicecache.testing.servers import find
from juicecache.volume.dumping import load_metadata

OBJECTS = int(os.environ.get("JUICECACHE_BENCH_OBJECTS", "1000000"))
FOLDER = 1000
LEAKED_EVERY = 1000
DAY_S = 86_400


class Pieces(io.RawIOBase):
    """A file of pieces that are made as they are read."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece.encode()
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def dump(bucket: Path) -> Iterator[str]:
    """Make the dump of the volume piece by piece."""
    setting = {
        "Name": "bench",
        "UUID": "0b0c1f0e-6c55-4a52-9a5c-3d5d8d1d3b11",
        "Storage": "file",
        "Bucket": f"{bucket}/",
        "BlockSize": 4096,
        "Compression": "none",
        "TrashDays": 0,
        "MetaVersion": 1,
        "DirStats": True,
    }
    root = '{"inode":1,"type":"directory","mode":511,"nlink":2}'
    yield f'{{"Setting":{json.dumps(setting)},"FSTree":{{"attr":{root},"entries":{{'
    for first in range(1, OBJECTS + 1, FOLDER):
        comma = "," if first > 1 else ""
        number = 10 * OBJECTS + first
        attr = f'{{"inode":{number},"type":"directory","mode":493}}'
        yield f'{comma}"d{first}":{{"attr":{attr},"entries":{{'
        yield ",".join(
            f'"f{one}":{{"attr":{{"inode":{one + 1},"type":"regular","mode":420,"length":1}},'
            f'"chunks":[{{"index":0,"slices":[{{"id":{one},"size":1,"len":1}}]}}]}}'
            for one in range(first, min(first + FOLDER, OBJECTS + 1))
        )
        yield "}}"
    yield "}}}"


def store(bucket: Path) -> int:
    """Write the objects, a day old; return how many of them belong to nothing."""
    when = time.time() - DAY_S
    leaked = [OBJECTS + number for number in range(1, OBJECTS // LEAKED_EVERY + 1)]
    for one in (*range(1, OBJECTS + 1), *leaked):
        folder = bucket / "bench" / "chunks" / str(one // 1_000_000) / str(one // 1000)
        if one % 1000 in (0, 1):
            folder.mkdir(parents=True, exist_ok=True)
        path = f"{folder}/{one}_0_1"
        with open(path, "wb", 0) as file:
            file.write(b"x")
        os.utime(path, (when, when))
    (bucket / "bench" / "juicefs_uuid").write_text("0b0c1f0e-6c55-4a52-9a5c-3d5d8d1d3b11")
    return len(leaked)


def timed(words: list[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, its memory (MiB) and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    probe = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "print(done.stdout + done.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *words], capture_output=True, text=True, check=True
    )
    del before
    output, _, peak_kib = done.stdout.rstrip().rpartition("\n")
    return time.perf_counter() - started, int(peak_kib) / 1024, output


def main() -> list[Report]:
    report = Report(f"`gc` and `fsck` of {OBJECTS:,} objects in a local directory")
    with scratch() as folder:
        bucket = folder / "objects"
        leaked = store(bucket)
        rows = []
        for kind in os.environ.get("JUICECACHE_BENCH_ENGINES", "sqlite redis postgres").split():
            (folder / kind).mkdir()
            meta = fresh_url(kind, folder / kind)
            started = time.perf_counter()
            load_metadata(meta, io.BufferedReader(Pieces(dump(bucket)), 1 << 20))
            loaded_s = time.perf_counter() - started
            report.note(f"{kind}: `load` of the metadata took {loaded_s:.0f} s.")
            for command in ("gc", "fsck"):
                ours = timed([sys.executable, "-m", "juicecache", command, meta])
                theirs = timed([str(find("juicefs")), command, meta])
                if command == "gc":
                    assert f"leaked objects: {leaked}" in ours[2], ours[2]
                    assert f"{leaked} leaked" in theirs[2], theirs[2][-2000:]
                rows.append(
                    [
                        kind,
                        command,
                        f"{ours[0]:.0f} s",
                        f"{ours[1]:.0f} MiB",
                        f"{theirs[0]:.0f} s",
                        f"{theirs[1]:.0f} MiB",
                        f"{theirs[0] / ours[0]:.2f}x",
                    ]
                )
                print(rows[-1], file=sys.stderr)
        report.table(["engine", "command", "ours", "memory", "official", "memory", "ours is"], rows)
    return [report]
