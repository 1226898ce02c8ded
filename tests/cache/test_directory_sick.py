"""A medium that refuses: the state that shows, reads that go on, writes that come back."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from juicecache.cache.directory import DirectoryTier
from juicecache.cache.group import DirectoryGroup
from juicecache.cache.memory import MemoryTier
from juicecache.cache.stack import TierStack
from juicecache.testing.places import mount, tmpfs
from juicecache.testing.processes import in_child
from juicecache.testing.tier_contract import block
from juicecache.testing.tier_faults import DAMAGES, block_files, damage


class Clock:
    """Monotonic seconds that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def open_tier(path, clock, **options) -> DirectoryTier:
    options = {"capacity_bytes": 1 << 24, "free_space_ratio": 0, **options}
    return DirectoryTier(path, clock=clock, **options)


def fill(path: Path) -> None:
    with path.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def states(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "health" in record.name]


def test_a_full_disk_says_so_once_and_recovers(tmp_path, clock, caplog):
    caplog.set_level(logging.INFO)
    with tmpfs(tmp_path / "disk", "1m") as disk:
        tier = open_tier(disk, clock)
        kept = block(1, 100_000)
        assert tier.put(*kept)
        fill(disk / "theirs")
        for number in range(10, 20):
            assert tier.put(*block(number, 500_000)) is False
        stats = tier.stats()
        assert (stats.state, stats.errors) == ("full", 1)
        assert stats.reason == f"No space left on device (ENOSPC) at {disk}"
        assert stats.since_s > 0
        assert tier.get(kept[0]) == kept[1]
        (disk / "theirs").unlink()
        assert tier.put(*block(10, 500_000)) is False  # not yet
        clock.now_s += 5.1
        assert tier.put(*block(10, 500_000)) is True
        assert (tier.stats().state, tier.stats().reason) == ("ok", "")
        assert len(states(caplog)) == 2
        tier.close()


def test_the_pause_grows_to_a_minute(tmp_path, clock, monkeypatch):
    tier = open_tier(tmp_path, clock)
    tries = []

    def refuse(fd, key, content):
        tries.append(clock.now_s)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("juicecache.cache.directory.write_block", refuse)
    for _ in range(3000):
        assert tier.put(*block(1, 1000)) is False
        clock.now_s += 0.1
    pauses = [round(b - a) for a, b in itertools.pairwise(tries)]
    assert pauses == [5, 10, 20, 40, 60, 60, 60]
    stats = tier.stats()
    assert (stats.state, stats.items, stats.used_bytes) == ("sick", 0, 0)
    assert "(EIO)" in stats.reason
    tier.close()


def test_a_read_error_is_a_miss_and_shows(tmp_path, clock, monkeypatch, caplog):
    tier = open_tier(tmp_path, clock, verify="full")
    stack = TierStack((MemoryTier(0), tier))
    key, content = block(1, 1000)
    assert stack.put(key, content)

    def refuse(fd, key):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("juicecache.cache.directory.read_checked", refuse)
        for _ in range(5):
            assert stack.get(key) is None
    stats = tier.stats()
    assert (stats.state, stats.errors, stats.misses) == ("sick", 5, 5)
    assert len(states(caplog)) == 1
    assert stack.get(key) == content  # tried every time
    clock.now_s += 6
    assert tier.stats().state == "ok"  # nobody puts anything here: a probe finds out
    tier.close()


def test_a_read_only_disk_serves_reads_and_comes_back(tmp_path, clock):
    with tmpfs(tmp_path / "disk", "1m") as disk:
        tier = open_tier(disk, clock)
        key, content = block(1, 100_000)
        tier.put(key, content)
        tier.close()
        mount("-o", "remount,ro", str(disk))
        tier = open_tier(disk, clock)
        assert tier.put(*block(2, 100)) is False
        assert "(EROFS)" in tier.stats().reason
        assert tier.get(key) == content
        mount("-o", "remount,rw", str(disk))
        clock.now_s += 6
        assert tier.stats().state == "ok"
        assert tier.put(*block(2, 100)) is True
        tier.close()


def test_an_unmounted_disk_is_not_written_below_its_mount_point(tmp_path, clock):
    point = tmp_path / "disk"
    key, content = block(1, 1000)
    with tmpfs(point, "1m"):
        tier = open_tier(point / "cache", clock)
        assert tier.put(key, content)
        subprocess.run(["umount", "-l", str(point)], check=True)
        assert tier.get(key) is None
        assert tier.put(key, content) is False
        assert "not mounted" in tier.stats().reason
        assert tier.delete(key) is False
        assert list(point.iterdir()) == []
        # Another file system in its place is used once somebody opens a tier there.
        with tmpfs(point, "1m"):
            clock.now_s += 20
            assert tier.put(key, content) is False
            other = open_tier(point / "cache", clock)
            clock.now_s += 60
            assert tier.put(key, content) is True
            assert other.get(key) == content
            assert tier.stats().state == "ok"
            assert tier.stats().items == other.stats().items == 1
            other.close()
        tier.close()


def test_a_folder_that_was_replaced_has_books_and_claims_of_its_own(tmp_path, clock):
    tier = open_tier(tmp_path / "cache", clock)
    key, content = block(1, 1000)
    tier.put(key, content)
    assert tier.claim(block(3, 10)[0])
    (tmp_path / "cache").rename(tmp_path / "away")
    other = open_tier(tmp_path / "cache", clock)
    assert other.put(*block(2, 1000))
    assert tier.put(key, content)
    assert tier.stats().items == other.stats().items == 2
    assert len(block_files(tmp_path / "cache")) == 2
    claim = tier.claim(key)
    assert claim is not None
    assert other.claim(key) is None
    shutil.rmtree(tmp_path / "cache")
    assert tier.put(key, content)
    assert tier.stats().state == "ok"
    for each in (tier, other):
        each.close()


def test_a_folder_cleared_amid_a_write_is_no_sickness(tmp_path, clock, monkeypatch):
    tier = open_tier(tmp_path, clock)

    def clear(fd, key, content):
        shutil.rmtree(next(tmp_path.glob("juicecache-*")))

    key, content = block(1, 1000)
    with monkeypatch.context() as patch:
        patch.setattr("juicecache.cache.directory.write_block", clear)
        assert tier.put(key, content) is False
    assert tier.stats().state == "ok"
    assert tier.put(key, content) is True
    assert tier.get(key) == content
    tier.close()


def test_a_folder_without_rights_is_sick_until_they_are_back(clock):
    if os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        mine = folder / "mine"
        mine.mkdir()
        os.chown(mine, 65534, 65534)

        def act() -> int:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            tier = open_tier(mine, clock)
            key, content = block(1, 1000)
            assert tier.put(key, content)
            writing = next(mine.glob("*/.writing"))
            writing.chmod(0o500)
            assert tier.put(*block(2, 1000)) is False
            stats = tier.stats()
            assert stats.state == "sick", stats
            assert "(EACCES)" in stats.reason
            assert tier.get(key) == content
            writing.chmod(0o700)
            clock.now_s += 6
            assert tier.put(*block(2, 1000)) is True
            assert tier.stats().state == "ok"
            return 0

        assert in_child(act) == 0


@pytest.mark.parametrize(
    ("options", "size", "reason"),
    [
        ({"capacity_bytes": 1 << 20}, 2 << 20, "a block takes 2.0 MiB, the quota (cache_size) is"),
        ({"eviction": "none", "capacity_bytes": 1 << 20}, 900_000, "MiB of the quota (cache_size)"),
        ({"eviction": "none", "capacity_items": 1}, 1000, "cache_items=1"),
        ({"free_space_ratio": 0.9999999}, 1 << 20, "beyond free_space_ratio=1"),
    ],
)
def test_a_limit_that_keeps_blocks_out_is_told(tmp_path, clock, caplog, options, size, reason):
    tier = DirectoryTier(
        tmp_path, clock=clock, **{"capacity_bytes": 1 << 30, "free_space_ratio": 0, **options}
    )
    if "eviction" in options:
        assert tier.put(*block(1, 300_000))
    for number in range(2, 9):
        assert tier.put(*block(number, size)) is False
    stats = tier.stats()
    assert (stats.state, stats.errors) == ("full", 0)
    assert reason in stats.reason
    assert stats.reason.endswith(f"at {tmp_path}")
    assert tier.stats().state == "full"  # to look is no write
    assert len(caplog.records) == 1
    if "free_space_ratio" not in options:
        tier.delete(block(1, 300_000)[0])
        assert tier.put(*block(1, 3000))
        assert (tier.stats().state, tier.stats().reason) == ("ok", "")
        assert tier.put(*block(10, 2 << 20)) is False
        assert tier.stats().state == "full"
        assert len(caplog.records) == 1
    tier.close()


def test_a_memory_disk_that_is_too_small_is_told(tmp_path):
    with tmpfs(tmp_path / "disk", "2m") as disk:
        tier = DirectoryTier(disk, capacity_bytes=1 << 30)
        assert tier.put(*block(1, 4 << 20)) is False
        stats = tier.stats()
        assert stats.state == "full"
        assert "a block takes 4.0 MiB, 1.8 MiB of the disk" in stats.reason
        assert "free_space_ratio=0.1" in stats.reason
        tier.close()


def test_a_group_shows_the_worst_of_its_members(tmp_path, clock, monkeypatch):
    group = DirectoryGroup([open_tier(tmp_path / name, clock) for name in "ab"])

    def refuse(fd, key, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    key, content = block(1, 1000)
    monkeypatch.setattr("juicecache.cache.directory.write_block", refuse)
    assert group.put(key, content) is False
    stats = group.stats()
    assert stats.state == "full"
    assert stats.reason.endswith(group.member(key).path)
    group.close()


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_misses(tmp_path, clock, kind):
    tier = open_tier(tmp_path, clock)
    rng = random.Random(1)
    blocks = [block(number, 70_000) for number in range(20)]
    for key, content in blocks:
        tier.put(key, content)
    for _ in range(10):
        assert damage(tmp_path, rng, kind) is not None
    for key, content in blocks:
        for start, stop in ((5, 10), (0, None), (65_000, 70_000)):
            view = tier.get(key, start, stop)
            assert view is None or view == content[start:stop]
    assert tier.stats().errors == 0
    assert tier.stats().misses > 0
    tier.close()
