"""Tiers in order, and folders side by side."""

from __future__ import annotations

import pytest

from juicecache.cache.directory import DirectoryTier
from juicecache.cache.group import DirectoryGroup
from juicecache.cache.memory import MemoryTier
from juicecache.cache.stack import TierStack
from juicecache.errors import ConfigError
from juicecache.testing.tier_contract import block
from juicecache.testing.tier_faults import FaultyTier


def directory(path, capacity_bytes: int = 1 << 24) -> DirectoryTier:
    return DirectoryTier(path, capacity_bytes=capacity_bytes, free_space_ratio=0)


def test_no_tiers_is_a_stack_too():
    stack = TierStack(())
    key, content = block(1, 10)
    assert stack.put(key, content) is False
    assert stack.get(key) is None
    assert stack.where(key) is None
    assert not stack.contains(key)
    assert stack.delete(key) is False
    assert stack.stats() == ()
    stack.close()


def test_a_whole_block_moves_up_and_a_part_does_not(tmp_path):
    memory, disk = MemoryTier(1 << 20), directory(tmp_path)
    stack = TierStack((memory, disk))
    key, content = block(1, 10_000)
    disk.put(key, content)
    assert stack.where(key) == str(tmp_path)
    assert stack.get(key, 5, 10) == content[5:10]
    assert stack.where(key) == str(tmp_path)
    view = stack.get(key)
    assert stack.where(key) == "memory"
    assert disk.contains(key)
    kept = memory.get(key)
    assert view is not None
    assert kept is not None
    assert kept.obj is view.obj
    stack.close()


def test_a_block_that_would_flush_a_small_tier_stays_below(tmp_path):
    memory, disk = MemoryTier(20_000), directory(tmp_path)
    stack = TierStack((memory, disk))
    key, content = block(1, 10_000)
    disk.put(key, content)
    assert stack.get(key) == content
    assert not memory.contains(key)
    stack.close()


@pytest.mark.parametrize("into", [False, True])
def test_a_block_read_by_ranges_moves_up_when_they_cost_as_much(tmp_path, into):
    memory, disk = MemoryTier(1 << 24), directory(tmp_path)
    stack = TierStack((memory, disk))
    key, content = block(1, 1 << 20)
    disk.put(key, content)
    buffer = memoryview(bytearray(100_000))
    reads = 0
    while not memory.contains(key):
        at = min(reads * 100_000, (1 << 20) - 100_000)
        if into:
            assert stack.get_into(key, at, at + 100_000, buffer)
            assert buffer == content[at : at + 100_000]
        else:
            assert stack.get(key, at, at + 100_000) == content[at : at + 100_000]
        reads += 1
        assert reads <= 11
    assert reads == 11
    assert stack.get(key, 5, 10) == content[5:10]
    assert memory.stats().hits == 1
    stack.close()


def test_small_ranges_count_as_calls(tmp_path):
    memory, disk = MemoryTier(1 << 24), directory(tmp_path)
    stack = TierStack((memory, disk))
    key, content = block(1, 1 << 20)
    disk.put(key, content)
    for number in range(16):
        assert not memory.contains(key)
        assert stack.get(key, number, number + 9) == content[number : number + 9]
    assert memory.contains(key)
    stack.close()


def test_a_crowded_tier_takes_blocks_read_by_ranges_late(tmp_path):
    memory, disk = MemoryTier(10 << 20), directory(tmp_path, 1 << 26)
    stack = TierStack((memory, disk))
    blocks = [block(number, 1 << 20) for number in range(12)]
    for key, content in blocks:
        disk.put(key, content)
    for epoch in range(8):
        stored = memory.stats().stored
        for key, content in blocks:
            for at in range(0, 1 << 20, 1 << 18):
                assert stack.get(key, at, at + (1 << 18)) == content[at : at + (1 << 18)]
        if 0 < epoch < 7:
            assert memory.stats().stored == stored == 9
    assert memory.stats().stored > 9
    stack.close()


def test_a_block_read_by_ranges_that_would_flush_a_small_tier_stays_below(tmp_path):
    memory, disk = MemoryTier(4 << 20), directory(tmp_path)
    stack = TierStack((memory, disk))
    key, content = block(1, 1 << 20)
    disk.put(key, content)
    for _ in range(200):
        assert stack.get(key, 0, 1000) == content[:1000]
    assert not memory.contains(key)
    stack.close()


def test_a_failing_tier_is_gone_round(tmp_path):
    first, second = FaultyTier(MemoryTier(1 << 20)), FaultyTier(directory(tmp_path))
    stack = TierStack((first, second))
    key, content = block(1, 10_000)
    assert stack.put(key, content)
    first.fail("get", range(1, 100))
    first.fail("get_into", range(1, 100))
    buffer = memoryview(bytearray(50))
    assert stack.get(key) == content
    assert stack.get_into(key, 100, 150, buffer)
    assert buffer == content[100:150]
    second.fail("get", range(1, 100))
    assert stack.get(key) is None
    first.fail("put", range(1, 100))
    second.fill()
    other = block(2, 100)
    assert stack.put(*other) is False
    second.fill(full=False)
    assert stack.put(*other) is True
    assert [stats.errors for stats in stack.stats()] == [5, 1]
    stack.close()


def test_put_and_delete_reach_every_tier(tmp_path):
    memory, disk = MemoryTier(1 << 20), directory(tmp_path)
    stack = TierStack((memory, disk))
    key, content = block(1, 10_000)
    assert stack.put(key, memoryview(content))
    assert memory.contains(key)
    assert disk.contains(key)
    assert [stats.medium for stats in stack.stats()] == ["memory", "directory"]
    assert stack.delete(key)
    assert not stack.contains(key)
    stack.close()
    assert stack.get(key) is None


def test_a_group_shares_by_capacity_and_all_agree(tmp_path):
    paths = {tmp_path / "a": 3 << 20, tmp_path / "b": 1 << 20}
    group = DirectoryGroup([directory(path, size) for path, size in paths.items()])
    turned = DirectoryGroup([directory(path, size) for path, size in reversed(paths.items())])
    keys = [block(number, 1)[0] for number in range(2000)]
    chosen = [group.member(key).path for key in keys]
    assert chosen == [turned.member(key).path for key in keys]
    assert 0.65 < chosen.count(str(tmp_path / "a")) / 2000 < 0.85

    wider = DirectoryGroup(
        [directory(p, s) for p, s in [*paths.items(), (tmp_path / "c", 4 << 20)]]
    )
    moved = [wider.member(key).path for key in keys]
    assert all(new in (old, str(tmp_path / "c")) for old, new in zip(chosen, moved, strict=True))
    for each in (group, turned, wider):
        each.close()


def test_a_group_keeps_a_block_once(tmp_path):
    group = DirectoryGroup([directory(tmp_path / name) for name in "ab"])
    blocks = [block(number, 100) for number in range(50)]
    for key, content in blocks:
        assert group.put(key, content)
        assert group.where(key) == group.member(key).path
    stats = group.stats()
    assert (stats.items, stats.where) == (50, f"{tmp_path}/a:{tmp_path}/b")
    # Which folder a block has says nothing about its place in there.
    places = {path.parent.name for path in (tmp_path / "a").glob("*/*/*/b*")}
    assert {int(place, 16) % 2 for place in places} == {0, 1}
    group.close()


def test_a_group_needs_different_folders(tmp_path):
    with pytest.raises(ConfigError, match="different"):
        DirectoryGroup([directory(tmp_path), directory(tmp_path / "x" / "..")])
    with pytest.raises(ConfigError):
        DirectoryGroup([])
