"""One folder and many processes, started anew as on a real node; some are killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import juicecache
from juicecache.cache.block_file import LAYOUT as VERSION
from juicecache.cache.block_file import charge, file_bytes
from juicecache.cache.directory import DirectoryTier
from juicecache.testing.tier_contract import block
from juicecache.testing.tier_faults import charged_bytes

LAYOUT = f"{VERSION}-u{os.geteuid()}"
CAPACITY_BYTES = 4 << 20

PRELUDE = f"""
import os, random, sys
from juicecache.cache.books import BooksFile
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.room import Limits
from juicecache.cache.space import Space
from juicecache.testing.tier_contract import block
path, seed = sys.argv[1], int(sys.argv[2])
root = f"{{path}}/{LAYOUT}".encode()
tier = DirectoryTier(
    path, capacity_bytes={CAPACITY_BYTES}, free_space_ratio=0, eviction=sys.argv[3]
)
rng = random.Random(seed)

def stay():
    print("ready", flush=True)
    sys.stdin.read()
"""

FILL = """
kept = 0
for _ in range(150):
    key, content = block(rng.randrange(200), 50_000 + rng.randrange(3))
    found = tier.get(key)
    assert found is None or found == content
    kept += tier.put(key, content)
assert kept > 100, kept
stats = tier.stats()
assert stats.errors == stats.corrupt == 0, stats
"""

FILL_FOREVER = """
print("ready", flush=True)
while True:
    tier.put(*block(rng.randrange(10_000), 300_000))
"""

RESERVE = """
space = Space(root, Limits(1 << 22), None, 0, lambda: 0)
assert space.open_file(b"unfinished", 3 << 20) is not None
stay()
"""

DIE_WRITING = """
import juicecache.cache.directory as module
module.write_block = lambda fd, key, content: os.kill(os.getpid(), 9)
tier.put(*block(1, 500_000))
"""

HOLD_BOOKS = """
with BooksFile(root + b"/.space").held():
    stay()
"""


def start(code: str, folder: Path, seed: int = 0, eviction: str = "2-random") -> subprocess.Popen:
    root = str(Path(juicecache.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(folder), str(seed), eviction],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )


@contextmanager
def running(code: str, folder: Path):
    """Run a process that waits for its end once it has said that it is ready."""
    with start(code, folder) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def taken(folder: Path) -> int:
    """Return what is on disk while nobody may create or evict."""
    root = folder / LAYOUT
    try:
        fd = os.open(root / ".space", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return charged_bytes(root)
    finally:
        os.close(fd)


def open_tier(folder: Path) -> DirectoryTier:
    return DirectoryTier(folder, capacity_bytes=CAPACITY_BYTES, free_space_ratio=0)


@pytest.mark.parametrize("eviction", ["2-random", "lru"])
def test_eight_processes_together_keep_the_quota(tmp_path, eviction):
    processes = [start(FILL, tmp_path, seed, eviction) for seed in range(8)]
    most = 0
    try:
        while alive := [p for p in processes if p.poll() is None]:
            most = max(most, taken(tmp_path))
            with suppress(subprocess.TimeoutExpired):
                alive[0].wait(0.02)  # a look holds the books, and the others up
        assert [process.returncode for process in processes] == [0] * 8
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert CAPACITY_BYTES // 2 < most <= CAPACITY_BYTES
    tier = open_tier(tmp_path)
    assert tier.stats().used_bytes == taken(tmp_path)
    tier.close()


def test_killed_writers_leave_nothing_for_long(tmp_path):
    for seed in range(4):
        processes = [start(FILL_FOREVER, tmp_path, 10 * seed + n) for n in range(2)]
        for process in processes:
            assert process.stdout.readline() == b"ready\n"
        while not list((tmp_path / LAYOUT).glob("[!.]*/*/*")):
            time.sleep(0)
        for process in processes:
            process.kill()
            process.communicate()
        assert taken(tmp_path) <= CAPACITY_BYTES
    tier = open_tier(tmp_path)
    for number in range(40):
        key, content = block(number, 300_000)
        assert tier.put(key, content)
        assert tier.get(key) == content
        assert taken(tmp_path) <= CAPACITY_BYTES
    assert list((tmp_path / LAYOUT / ".writing").iterdir()) == []
    assert tier.stats().used_bytes == taken(tmp_path)
    tier.close()


def test_a_reservation_counts_while_its_writer_lives_and_not_after(tmp_path):
    tier = open_tier(tmp_path)
    with running(RESERVE, tmp_path) as process:
        assert tier.stats().used_bytes == 3 << 20
        assert tier.put(*block(1, 500_000))
        assert tier.put(*block(2, 1 << 20)) is False  # nothing more can be evicted
        assert tier.stats().used_bytes == 3 << 20
        process.kill()
        process.wait()
        assert tier.put(*block(2, 1 << 20)) is True
        assert tier.put(*block(3, 2 << 20)) is True
    assert tier.stats().items == 2
    tier.close()


def test_a_killed_holder_of_the_books_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.cache.books._LOCK_WAIT_S", 0.05)
    tier = open_tier(tmp_path)
    key, content = block(1, 1000)
    tier.put(key, content)
    with running(HOLD_BOOKS, tmp_path) as process:
        assert tier.put(*block(2, 1000)) is False  # rather than wait for a stopped process
        assert tier.get(key) == content
        assert tier.delete(key) is True
        process.kill()
        process.wait()
        assert tier.put(*block(2, 1000)) is True
    assert tier.get(block(2, 1000)[0]) == block(2, 1000)[1]
    tier.close()


def test_a_block_whose_writer_was_killed_can_be_put_again(tmp_path):
    tier = open_tier(tmp_path)
    with start(DIE_WRITING, tmp_path) as process:
        assert process.wait() == -signal.SIGKILL
    assert taken(tmp_path) == charge(file_bytes(500_000))  # the reservation, which nobody holds
    key, content = block(1, 500_000)
    assert tier.get(key) is None
    assert tier.put(key, content) is True
    assert tier.stats().used_bytes == taken(tmp_path) == charge(file_bytes(500_000))
    tier.close()
