"""A process is killed before each of its system calls in turn; the next one finds all in order.

The victims are forks of one process that was itself started anew and has nothing open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from juicecache.cache.block_file import LAYOUT, charge
from juicecache.cache.books import BooksFile
from juicecache.cache.directory import DirectoryTier
from juicecache.testing.processes import forking_runner
from juicecache.testing.tier_contract import block

CAPACITY_BYTES = 12 * 4096
OPTIONS = f"capacity_bytes={CAPACITY_BYTES}, free_space_ratio=0, eviction='lru', expire_s=1000"

RUNNER = f"""
import errno, fcntl, itertools, os, signal, time
import juicecache.cache.directory as directory
from juicecache.testing.processes import serve_forks
from juicecache.testing.tier_contract import block

CHANGING = "open close unlink rename rmdir mkdir ftruncate pwrite writev utime".split()

def die_at(call):
    left = itertools.count(call, -1)
    def counted(function):
        def instead(*args, **kwargs):
            if next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return instead
    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    fcntl.flock = counted(fcntl.flock)

def work(path):
    ticks = itertools.count(0, 100)
    tier = directory.DirectoryTier(path, clock=lambda: next(ticks), {OPTIONS})

    def place(number):
        return tier._paths.path(block(number, 4000)[0])

    def refuse(fd, key, content):
        raise OSError(errno.ENOSPC, "full")

    def age(number):
        os.utime(place(number), (time.time() - 2000, time.time()))

    for number in range(6):
        assert tier.put(*block(number, 4000))
    os.truncate(place(0), 4015)
    assert tier.put(*block(0, 4000)) and tier.get(block(0, 4000)[0])
    with open(place(1), "r+b") as file:
        file.write(b"damaged")
    assert tier.get(block(1, 4000)[0]) is None
    assert tier.delete(block(2, 4000)[0])
    write, directory.write_block = directory.write_block, refuse
    assert not tier.put(*block(7, 4000))
    directory.write_block = write
    for number in range(10, 22):
        assert tier.put(*block(number, 4000))
    assert tier.stats().evicted
    age(20)
    assert tier.get(block(20, 4000)[0]) is None
    age(21)
    os.unlink(os.path.dirname(os.path.dirname(os.path.dirname(place(0)))) + b"/.space")
    assert tier.stats().used_bytes
    tier.close()

def victim(call, path):
    die_at(int(call))
    work(path)

serve_forks(victim)
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[int, Path], int]]:
    with forking_runner(RUNNER) as run:
        yield run


def open_tier(path: Path) -> DirectoryTier:
    return DirectoryTier(
        path, capacity_bytes=CAPACITY_BYTES, free_space_ratio=0, eviction="lru", expire_s=1000
    )


def check(tier: DirectoryTier, path: Path) -> None:
    """Everything is in order when ``tier`` has put one block."""
    root = path / f"{LAYOUT}-u{os.geteuid()}"
    assert tier.put(*block(99, 4000))
    assert list((root / ".writing").iterdir()) == []
    assert charges(root) == booked(root)
    for number in range(22):
        key, content = block(number, 4000)
        assert tier.get(key) in (None, content)
    key, content = block(99, 4000)
    assert tier.get(key) == content
    assert charges(root) == booked(root)
    assert sum(charges(root)) <= CAPACITY_BYTES


def charges(root: Path) -> list[int]:
    return [charge(path.stat().st_size) for path in root.glob("[!.]*/*/*")]


def booked(root: Path) -> list[int]:
    file = BooksFile(os.fsencode(root / ".space"))
    with file.held() as books:
        assert books.counted_at_s
        assert books.used_bytes == 4096 * books.items
        booked = [4096] * books.items
    file.close()
    return booked


@pytest.mark.parametrize("kind", ["the next process", "a neighbour"])
def test_wherever_a_process_is_killed_nothing_is_lost(tmp_path, run, kind):
    call, status = 0, -9
    while status == -9:
        call += 1
        path = tmp_path / str(call)
        tier = open_tier(path)
        if kind == "a neighbour":
            assert tier.put(*block(98, 4000))
        status = run(call, path)
        if kind == "a neighbour":
            tier.stats()  # looks for the dead, as does whoever needs room
        check(tier, path)
        tier.close()
    assert status == 0
    assert call > 200
