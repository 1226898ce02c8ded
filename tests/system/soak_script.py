"""The processes of the soak test: one makes a volume, readers check it, one spoils their cache.

Run as ``soak_script.py make META BUCKET``, ``soak_script.py read META FOLDER VERIFY SEED END`` or
``soak_script.py spoil FOLDER KIND SEED END``; ``END`` is a time of the monotonic clock. What a
file must contain follows from its path.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from juicecache.faces.filesystem import JuiceCacheFileSystem
from juicecache.testing.tier_faults import block_files, damage
from juicecache.volume.formatting import format_volume

BLOCK_KIB = 1024
SMALL = [f"/small/{number % 7}/{number}" for number in range(400)]
MIDDLE = [f"/middle/{number}" for number in range(8)]
LARGE = [f"/large/{number}" for number in range(4)]
RANGE_BYTES = 64 * 1024
THREADS = 2
QUIET_S = 3.0
"""Before the disk is first full: who meets that keeps nothing for seconds, and sees no damage."""
HANG_S = 60.0
"""A reader that is not done so long after its end shows where it stands, and fails."""


def size_of(path: str) -> int:
    """Return the length of a file: packed, of less than a block, of several."""
    number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8])
    if path.startswith("/small"):
        return number % 60_000
    return 300_000 + number % 700_000 + (3 << 20) * path.startswith("/large")


@cache
def content_of(path: str) -> bytes:
    """Return what a file contains: no two parts of any two files are alike."""
    return hashlib.shake_128(path.encode()).digest(size_of(path))


def make(meta: str, bucket: str) -> None:
    """Make the volume, small files packed."""
    format_volume(
        meta, "soak", bucket=bucket, block_size_kib=BLOCK_KIB, compress="lz4", remember=False
    )
    fs = JuiceCacheFileSystem(meta=meta, cache_size="0")
    half = len(SMALL) // 2
    with fs.transaction:
        for path in [*SMALL[:half], *LARGE]:
            fs.pipe_file(path, content_of(path))
    fs.pipe({path: content_of(path) for path in [*SMALL[half:], *MIDDLE]})
    fs.volume.close()


# ------------------------------------------------------------------ reading


class Reader:
    """Reads at random in all ways, and counts. Any error and any wrong byte ends the process."""

    def __init__(self, meta: str, folder: str, verify: str, rng: random.Random) -> None:
        memory = rng.random() < 0.5
        self.fs = JuiceCacheFileSystem(
            meta=meta,
            cache_dir=f"memory:{folder}" if memory else folder,
            memory_size=rng.choice(["3MiB", "12MiB"]),
            cache_size=rng.choice(["64MiB"] * 8 + ["12MiB", "2MiB"]),  # the least is that of all
            cache_eviction=rng.choice(["2-random", "lru"]),
            free_space_ratio=rng.choice([0, 0.1]),
            verify_cache_checksum=verify,
            open_cache=rng.choice([0, 1]),
        )
        self.counts: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._ways: list[Callable[[random.Random], int]] = [
            self.cat, self.cat_many, self.cat_ranges, self.read_handle,
            self.fill_buffer, self.cat_view, self.map_file,
        ]  # fmt: skip

    def run(self, seed: int, end_s: float) -> None:
        """Read until the end; the first failure is that of the process, before it is killed."""
        rng = random.Random(seed)
        try:
            while time.monotonic() < end_s:
                way = rng.choice(self._ways)
                began_s = time.monotonic()
                self.counts[way.__name__] += way(rng)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def report(self) -> None:
        """Print what was read so far, and what the tiers in folders had to say."""
        tiers = [tier for tier in self.fs.stats().tiers if tier.medium == "directory"]
        for name in ("hits", "corrupt", "errors", "evicted"):
            self.counts[name] = sum(getattr(tier, name) for tier in tiers)
        self.counts["loads"] = self.fs.stats().blocks.loads
        print(json.dumps({"counts": self.counts, "slowest_s": self.slowest_s}), flush=True)

    @staticmethod
    def _any_path(rng: random.Random) -> str:
        return rng.choice(rng.choice([SMALL, SMALL, MIDDLE, LARGE]))

    @staticmethod
    def _any_range(rng: random.Random, path: str, most: int = RANGE_BYTES) -> tuple[int, int]:
        start = rng.randrange(size_of(path) + 1)
        return start, min(start + rng.choice([1, 4096, most]), size_of(path))

    def _check(self, path: str, start: int, stop: int, found: Any) -> int:
        if found != content_of(path)[start:stop]:
            raise AssertionError(f"wrong bytes in [{start}, {stop}) of {path}: {wrong(found)}")
        return 1

    def cat(self, rng: random.Random) -> int:
        path = self._any_path(rng)
        return self._check(path, 0, size_of(path), self.fs.cat_file(path))

    def cat_many(self, rng: random.Random) -> int:
        first = rng.randrange(len(SMALL) - 20)
        paths = [*SMALL[first : first + 20], rng.choice(MIDDLE)]
        found = self.fs.cat(paths)
        return sum(self._check(path, 0, size_of(path), found[path]) for path in paths)

    def cat_ranges(self, rng: random.Random) -> int:
        paths = [rng.choice(LARGE), *(self._any_path(rng) for _ in range(rng.randrange(12)))]
        ranges = [self._any_range(rng, path) for path in paths]
        found = self.fs.cat_ranges(
            paths, [start for start, _ in ranges], [stop for _, stop in ranges], on_error="raise"
        )
        wanted = zip(paths, ranges, found, strict=True)
        return sum(self._check(path, *limits, one) for path, limits, one in wanted)

    def read_handle(self, rng: random.Random) -> int:
        path = self._any_path(rng)
        at = rng.randrange(size_of(path) + 1) if rng.random() < 0.5 else 0
        count = 0
        with self.fs.open(path) as file:
            file.seek(at)
            for _ in range(rng.randrange(1, 6)):
                buffer = bytearray(rng.choice([100, RANGE_BYTES, 400_000, 1 << 20]))
                size = file.readinto(buffer)
                count += self._check(path, at, at + len(buffer), buffer[:size])
                at += size
            count += self._check(path, at, size_of(path), file.read())
        return count

    def fill_buffer(self, rng: random.Random) -> int:
        path = self._any_path(rng)
        start, stop = self._any_range(rng, path, 2 << 20)
        buffer = bytearray(stop - start)
        size = self.fs.cat_into(path, buffer, start) if buffer else 0
        return self._check(path, start, stop, buffer[:size])

    def cat_view(self, rng: random.Random) -> int:
        path = self._any_path(rng)
        limits = self._any_range(rng, path)
        return self._check(path, *limits, self.fs.cat_view(path, *limits))

    def map_file(self, rng: random.Random) -> int:
        path = rng.choice(MIDDLE)
        return self._check(path, 0, size_of(path), self.fs.map_file(path))


def wrong(found: Any) -> str:
    """Describe bytes that nobody should have seen."""
    return f"{memoryview(found).nbytes} bytes, {bytes(found[:32]).hex()}..."


def read(meta: str, folder: str, verify: str, seed: str, end: str) -> None:
    """Read with some threads until the end; report a few times a second."""
    end_s = float(end)
    faulthandler.dump_traceback_later(max(0.0, end_s - time.monotonic()) + HANG_S, exit=True)
    rng = random.Random(seed)
    reader = Reader(meta, folder, verify, rng)
    with ThreadPoolExecutor(THREADS) as pool:
        at_work = {pool.submit(reader.run, rng.getrandbits(64), end_s) for _ in range(THREADS)}
        while at_work:
            at_work = wait(at_work, 0.2).not_done
            reader.report()
    reader.fs.volume.close()


# ------------------------------------------------------------------ spoiling


class Chaos:
    """Does to a cache folder what broken disks, full ones and strangers do."""

    def __init__(self, folder: str, rng: random.Random) -> None:
        self.folder = Path(folder)
        self.rng = rng

    def seen(self) -> None:
        """Damage a file; that changes its time, or puts another one into its place."""
        damage(self.folder, self.rng)

    def unseen(self) -> None:
        """Damage a file and set its time back, as bits do that rot on the medium."""
        with suppress(FileNotFoundError):
            before = {path: path.stat().st_mtime_ns for path in block_files(self.folder)}
            path = damage(self.folder, self.rng)
            if path in before:
                os.utime(path, ns=(time.time_ns(), before[path]))

    def empty(self) -> None:
        """Leave nothing of some files but their names."""
        for path in block_files(self.folder):
            if self.rng.random() < 0.3:
                with suppress(FileNotFoundError):
                    os.truncate(path, 0)

    def remove(self) -> None:
        """Remove the folder of the tier, or some of what is in it."""
        tops = list(self.folder.iterdir())
        below = [one for top in tops for one in top.iterdir()]
        for victim in tops if self.rng.random() < 0.5 else self.rng.sample(below, len(below) // 2):
            if victim.is_dir():
                shutil.rmtree(victim, ignore_errors=True)
            else:
                victim.unlink(missing_ok=True)

    def fill(self) -> None:
        """Take all room of the file system for a moment."""
        ballast = self.folder.parent / "ballast"
        with ballast.open("wb", 0) as file, suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
        time.sleep(self.rng.uniform(0.05, 0.3))
        ballast.unlink()

    def tidy(self) -> None:
        """Remove what damage leaves that found no room."""
        for copy in self.folder.rglob(".copy-*"):
            copy.unlink(missing_ok=True)


def spoil(folder: str, kind: str, seed: str, end: str) -> None:
    """Spoil the cache until the end; print what was done how often."""
    rng = random.Random(seed)
    chaos = Chaos(folder, rng)
    counts: Counter[str] = Counter()
    acts = [chaos.seen if kind == "seen" else chaos.unseen, chaos.empty, chaos.remove, chaos.fill]
    fill_at_s = time.monotonic() + QUIET_S
    while time.monotonic() < float(end):
        (act,) = rng.choices(acts, [100, 1, 1, time.monotonic() > fill_at_s])
        try:
            act()
            counts[act.__name__] += 1
        except FileNotFoundError:  # readers evicted it just now
            pass
        except OSError:  # readers took the last room
            chaos.tidy()
        time.sleep(rng.uniform(0, 0.03))  # or nothing would ever be found
    print(json.dumps({"counts": counts, "slowest_s": 0}), flush=True)


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {"make": make, "read": read, "spoil": spoil}
    roles[sys.argv[1]](*sys.argv[2:])
