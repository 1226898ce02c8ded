"""Limits of a tier beyond its quota: items, memory, and what others reserved."""

from __future__ import annotations

import os
import random

import pytest

from juicecache.cache.books import BooksFile
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.policy import Lru, TwoRandom
from juicecache.cache.room import Limits, NoRoomError
from juicecache.cache.space import Space
from juicecache.testing.tier_contract import block


class Clock:
    """Monotonic seconds that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def open_file(space: Space, name: bytes, size_bytes: int) -> int | None:
    try:
        return space.open_file(name, size_bytes)
    except NoRoomError:
        return None


@pytest.mark.parametrize("eviction", ["lru", "2-random"])
def test_no_more_items_than_the_limit(tmp_path, eviction):
    options = {"capacity_bytes": 1 << 30, "free_space_ratio": 0, "eviction": eviction}
    tier = DirectoryTier(tmp_path, capacity_items=40, **options)
    for number in range(200):
        assert tier.put(*block(number, 100))
        assert tier.stats().items <= 40
    assert tier.stats().items >= 38
    assert tier.contains(block(199, 100)[0])
    fewer = DirectoryTier(tmp_path, capacity_items=10, **options)  # its owner changed his mind
    assert fewer.put(*block(200, 100))
    assert fewer.stats().items <= 10
    tier.close()
    fewer.close()


def test_without_eviction_the_item_limit_refuses(tmp_path):
    tier = DirectoryTier(
        tmp_path, capacity_bytes=1 << 30, capacity_items=3, free_space_ratio=0, eviction="none"
    )
    assert [tier.put(*block(number, 9)) for number in range(5)] == [True] * 3 + [False] * 2
    assert tier.delete(block(0, 9)[0])
    assert tier.put(*block(4, 9))
    tier.close()


def test_reservations_count_as_items(tmp_path):
    space = Space(os.fsencode(tmp_path), Limits(1 << 30, 2), Lru(), 0, Clock())
    fds = {name: space.open_file(name, 100) for name in (b"a", b"b")}
    with pytest.raises(NoRoomError, match="cache_items=2"):
        space.open_file(b"c", 100)
    space.abandon(b"a", fds[b"a"])
    fds[b"c"] = space.open_file(b"c", 100)
    assert None not in fds.values()
    for fd in fds.values():
        os.close(fd)
    assert space.books().items == 0  # their writers are dead now
    space.close()


class Memory:
    """A memory limit of which so much is taken by others; ours are the blocks of one folder."""

    def __init__(self, path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.others = 0
        self.blocks_are_ours = True

    def __call__(self) -> int:
        ours = sum(path.stat().st_blocks * 512 for path in self.path.rglob("*") if path.is_file())
        return self.limit - self.others - (ours if self.blocks_are_ours else 0)


def fill(space: Space, path, numbers) -> int:
    kept = 0
    for number in numbers:
        name = b"%d" % number
        fd = open_file(space, name, 1 << 16)
        if fd is not None:
            kept += 1
            os.write(fd, bytes(1 << 16))
            space.publish(name, os.fsencode(path / "n" / "000" / str(number)))
            os.close(fd)
    return kept


def test_blocks_make_room_when_memory_is_short(tmp_path):
    memory, clock = Memory(tmp_path, 1 << 20), Clock()
    limits = Limits(1 << 30, memory_left=memory)
    space = Space(os.fsencode(tmp_path), limits, TwoRandom(random.Random(1)), 0, clock)
    assert fill(space, tmp_path, range(50)) == 50
    assert memory() >= 0
    assert space.evicted > 30
    memory.others = 1 << 19  # the program itself grows
    clock.now_s += 10
    assert fill(space, tmp_path, range(100, 110)) == 10
    assert memory() >= 0
    space.close()


def test_memory_that_others_took_does_not_empty_the_tier(tmp_path):
    memory, clock = Memory(tmp_path, 1 << 20), Clock()
    limits = Limits(1 << 30, memory_left=memory)
    space = Space(os.fsencode(tmp_path), limits, TwoRandom(random.Random(1)), 0, clock)
    memory.blocks_are_ours = False
    assert fill(space, tmp_path, range(100)) == 100
    memory.others = 1 << 20
    clock.now_s += 10
    assert fill(space, tmp_path, range(100, 110)) == 0
    assert 0 < space.evicted < 10  # it was tried once
    clock.now_s += 100
    assert fill(space, tmp_path, range(100, 101)) == 0
    assert space.books().items > 80
    memory.others = 0
    clock.now_s += 10
    assert fill(space, tmp_path, range(100, 110)) == 10
    space.close()


def test_two_processes_do_not_take_the_same_free_memory(tmp_path):
    memory = Memory(tmp_path, 1 << 20)
    limits = Limits(1 << 30, memory_left=memory)
    spaces = [Space(os.fsencode(tmp_path), limits, None, 0, Clock()) for _ in range(4)]
    first = [space.open_file(b"first%d" % n, 4096) for n, space in enumerate(spaces)]
    assert None not in first
    # All have measured; what each reserves from now on, the others see in the books.
    kept = [open_file(space, b"%d" % n, 400_000) for n, space in enumerate(spaces)]
    assert [fd is not None for fd in kept] == [True, True, False, False]
    for fd in filter(None, first + kept):
        os.close(fd)
    for space in spaces:
        space.close()


def test_books_that_cannot_be_had_are_counted_by_who_did_without(tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.cache.books._LOCK_WAIT_S", 0.02)
    space = Space(os.fsencode(tmp_path), Limits(1 << 30), Lru(), 0, Clock())
    assert fill(space, tmp_path, range(3)) == 3
    other = BooksFile(os.fsencode(tmp_path / ".space"))
    fd = space.open_file(b"unfinished", 1 << 16)
    with other.held():
        assert space.remove(os.fsencode(tmp_path / "n/000/1"))
        space.abandon(b"unfinished", fd)
        os.close(fd)
    books = space.books()
    assert (books.items, books.used_bytes) == (2, 2 << 16)
    assert list((tmp_path / ".writing").iterdir()) == []
    other.close()
    space.close()


def test_only_the_file_that_was_meant_is_removed(tmp_path):
    space = Space(os.fsencode(tmp_path), Limits(1 << 30), Lru(), 0, Clock())
    assert fill(space, tmp_path, [1]) == 1
    path = tmp_path / "n/000/1"
    assert not space.remove(os.fsencode(path), path.stat().st_ino + 1)
    assert space.books().items == 1
    assert space.remove(os.fsencode(path), path.stat().st_ino)
    assert space.books().items == 0
    space.close()
