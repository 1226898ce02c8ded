"""One file of 1 GiB on S3, sequential by 4 MiB: written, read cold, read warm."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from harness import Contender, RemoteS3, Report, memory_folder, race, remote_s3, scratch

from juicecache import JuiceCacheFileSystem

LARGE_BYTES = 1 << 30
STEP_BYTES = 4 << 20
BUFFER_MIB = 64


def large_file(s3: RemoteS3, folder: Path, tmpfs: Path) -> Report:
    report = Report("One file of 1 GiB, sequential by 4 MiB, object store 20 ms away")
    meta = f"sqlite3://{folder}/meta.db"
    s3.format(meta, "bench")
    fs = JuiceCacheFileSystem(
        volume="bench",
        meta=meta,
        cache_dir=str(tmpfs / "cache"),
        cache_size="4GiB",
        buffer_size=BUFFER_MIB,
    )
    piece = os.urandom(STEP_BYTES)
    fs.pipe("/first", piece)  # connections and modules are not what is measured

    def write_volume() -> float:
        with fs.open("/large", "wb") as file:
            return fill(file, piece)

    def read_volume() -> float:
        with fs.open("/large", "rb") as file:
            return drain(file)

    rows = [["write", *measured(write_volume)]]
    fs.warmup("/large", evict=True)
    rows.append(["read, cold", *measured(read_volume)])
    rows.append(["read, warm", *measured(read_volume)])
    report.table(["work", "MiB/s", "growth of the peak of memory"], rows)
    report.note(f"`buffer_size` is {BUFFER_MIB} MiB.")
    plain = tmpfs / "plain"
    with open(plain, "wb") as file:
        fill(file, piece)

    def read_plain() -> float:
        with open(plain, "rb") as file:
            return drain(file)

    contenders = [
        Contender("juicecache, warm directory tier", read_volume),
        Contender("plain file on the same tmpfs", read_plain),
    ]
    race(contenders)
    report.race_table("MiB/s", contenders)
    fs.volume.close()
    return report


def fill(file, piece: bytes) -> float:
    for _ in range(LARGE_BYTES // STEP_BYTES):
        file.write(piece)
    return LARGE_BYTES / (1 << 20)


def drain(file) -> float:
    total = 0
    while piece := file.read(STEP_BYTES):
        total += len(piece)
    assert total == LARGE_BYTES
    return total / (1 << 20)


def measured(work: Callable[[], float]) -> tuple[str, str]:
    """Speed of one run, and how far the peak of resident memory rose above where it began."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is used now
    before = resident("VmHWM")
    started = time.perf_counter()
    done = work()
    speed = done / (time.perf_counter() - started)
    return f"{speed:,.0f}", f"{(resident('VmHWM') - before) / 1024:.0f} MiB"


def resident(field: str) -> int:
    """KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(field)


def main() -> list[Report]:
    with remote_s3() as s3, scratch() as folder, scratch(memory_folder()) as tmpfs:
        return [large_file(s3, folder, tmpfs)]
