"""The directory tier beyond the contract: damage, modes, ages, sick disks, forks."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from juicecache.cache.block_file import LAYOUT as VERSION
from juicecache.cache.directory import DirectoryTier
from juicecache.errors import ConfigError
from juicecache.testing.places import tmpfs
from juicecache.testing.tier_contract import block

LAYOUT = f"{VERSION}-u{os.geteuid()}"


class Clock:
    """Monotonic seconds that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def open_tier(path, capacity_bytes: int = 1 << 24, **options) -> DirectoryTier:
    options = {"free_space_ratio": 0.0, **options}
    return DirectoryTier(path, capacity_bytes=capacity_bytes, **options)


@pytest.fixture
def tier(tmp_path):
    tier = open_tier(tmp_path)
    yield tier
    tier.close()


def files(path: Path) -> list[Path]:
    return sorted(p for p in (path / LAYOUT).glob("*/*/*") if p.is_file())


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def age(path: Path, seconds: float) -> None:
    found = path.stat()
    os.utime(path, ns=(time.time_ns() - int(seconds * 1e9), found.st_mtime_ns))


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("at", [0, 4711, 9_999, 10_000, 10_004, 10_008, 10_015])
@pytest.mark.parametrize("part", [(0, None), (5, 10)])
@pytest.mark.parametrize("was_read", [False, True])
def test_a_flipped_bit_is_a_miss_wherever_it_is(tier, tmp_path, at, part, was_read):
    key, content = block(1, 10_000)
    tier.put(key, content)
    if was_read:
        tier.get(key)
    flip(files(tmp_path)[0], at)
    assert tier.get(key, *part) is None
    assert files(tmp_path) == []
    stats = tier.stats()
    assert (stats.corrupt, stats.misses, stats.errors, stats.used_bytes) == (1, 1, 0, 0)
    assert tier.put(key, content)
    assert tier.get(key) == content


@pytest.mark.parametrize("size", [0, 1, 9_999, 10_000, 10_015, 10_017, 20_000])
@pytest.mark.parametrize("verify", ["none", "shrink", "extend", "full"])
def test_another_size_is_a_miss_in_every_mode(tmp_path, size, verify):
    tier = open_tier(tmp_path, verify=verify)
    key, content = block(1, 10_000)
    tier.put(key, content)
    os.truncate(files(tmp_path)[0], size)
    assert not tier.contains(key)
    assert tier.get(key, 1, 2) is None
    assert tier.stats().corrupt == 1
    assert files(tmp_path) == []
    tier.close()


def test_a_truncated_file_is_replaced_by_a_put(tier, tmp_path):
    key, content = block(1, 10_000)
    tier.put(key, content)
    os.truncate(files(tmp_path)[0], 0)
    assert tier.put(key, content)
    assert tier.get(key) == content
    assert (tier.stats().items, tier.stats().corrupt) == (1, 1)


def test_a_deleted_file_is_a_plain_miss(tier, tmp_path):
    key, content = block(1, 10_000)
    tier.put(key, content)
    files(tmp_path)[0].unlink()
    assert tier.get(key) is None
    assert tier.stats().corrupt == tier.stats().errors == 0
    assert tier.put(key, content)


def test_a_folder_in_the_place_of_a_block_is_a_miss_and_goes(tier, tmp_path):
    key, content = block(1, 10_000)
    tier.put(key, content)
    (path,) = files(tmp_path)
    path.unlink()
    path.mkdir()
    assert tier.get(key) is None
    assert tier.stats().corrupt == 1
    assert tier.put(key, content)
    assert tier.get(key) == content


def test_the_whole_folder_may_be_cleared_while_in_use(tier, tmp_path):
    key, content = block(1, 10_000)
    tier.put(key, content)
    shutil.rmtree(tmp_path / LAYOUT)
    assert tier.get(key) is None
    assert tier.put(key, content)
    assert tier.get(key) == content
    assert tier.stats().items == 1


def keep_mtime(path: Path, at: int) -> None:
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    ("verify", "first_part", "first_whole", "later"),
    [
        ("none", False, False, False),
        ("shrink", False, True, False),
        ("extend", True, True, False),
        ("full", True, True, True),
    ],
)
def test_what_each_mode_checks(tmp_path, monkeypatch, verify, first_part, first_whole, later):
    monkeypatch.setattr("juicecache.cache.checking._MTIME_GRAIN_S", -1)
    tier = open_tier(tmp_path, verify=verify)

    def notices(*part: int, read_before: bool) -> bool:
        key, content = block(1, 10_000)
        tier.delete(key)
        assert tier.put(key, content)
        if read_before:
            assert tier.get(key) == content
        keep_mtime(files(tmp_path)[0], 17)
        return tier.get(key, *part) is None

    assert notices(10, 20, read_before=False) is first_part
    assert notices(read_before=False) is first_whole
    assert notices(read_before=True) is later
    assert notices(10, 20, read_before=True) is later
    tier.close()


# ---------------------------------------------------------------------- files


def test_only_the_user_may_look(tmp_path):
    umask = os.umask(0)
    try:
        tier = open_tier(tmp_path / "made" / "here")
        key, content = block(1, 100)
        tier.put(key, content)
    finally:
        os.umask(umask)
    everything = [tmp_path / "made" / "here", *(tmp_path / "made" / "here").rglob("*")]
    assert len(everything) == 7  # here, the layout, books, writing, namespace, folder, block
    for path in everything:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    tier.close()


def test_neighbours_are_left_alone(tier, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "theirs").write_bytes(b"x" * 100_000)
    tier.put(*block(1, 100))
    assert tier.stats().items == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAYOUT, "raw"]


def test_folders_stay_small(tier, tmp_path):
    for number in range(600):
        tier.put(*block(number, 1))
    sizes = [len(list(folder.iterdir())) for folder in (tmp_path / LAYOUT).glob("*/*")]
    assert max(sizes) < 10


def test_what_is_there_is_a_hit_at_once_and_counted_later(tier, tmp_path):
    blocks = [block(number, 1000) for number in range(5)]
    for key, content in blocks:
        tier.put(key, content)
    (tmp_path / LAYOUT / ".space").unlink()
    again = open_tier(tmp_path)
    assert not (tmp_path / LAYOUT / ".space").exists()
    assert all(again.get(key) == content for key, content in blocks)
    assert (again.stats().items, again.stats().used_bytes) == (5, 5 * 4096)
    again.close()


def test_wrong_options_and_folders(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="extend"):
        open_tier(tmp_path, verify="sometimes")
    with pytest.raises(ConfigError, match="2-random"):
        open_tier(tmp_path, eviction="fifo")
    with pytest.raises(ConfigError, match="free_space_ratio"):
        open_tier(tmp_path, free_space_ratio=1.0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        open_tier(tmp_path / "file")


def test_a_folder_of_another_user_is_refused(tmp_path):
    (tmp_path / LAYOUT).mkdir()
    try:
        os.chown(tmp_path / LAYOUT, 12345, 12345)
    except PermissionError:
        pytest.skip("only root can give a folder away")
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        open_tier(tmp_path)


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.cache.directory.network_file_system", lambda path: "nfs4")
    with pytest.raises(ConfigError, match="network file system"):
        open_tier(tmp_path)


# ---------------------------------------------------------------------- ages and room


def test_lru_keeps_what_was_read_lately(tmp_path):
    tier = open_tier(tmp_path, 40 * 4096, eviction="lru")
    blocks = [block(number, 4000) for number in range(40)]
    for key, content in blocks:
        assert tier.put(key, content)
    for path in files(tmp_path):
        age(path, 3600)
    for key, _ in blocks[:20]:
        assert tier.get(key)
    for number in range(100, 118):
        assert tier.put(*block(number, 4000))
    assert all(tier.contains(key) for key, _ in blocks[:20])
    assert tier.stats().used_bytes <= 40 * 4096
    tier.close()


def test_a_hit_changes_the_age_but_not_the_identity(tier, tmp_path):
    key, content = block(1, 1000)
    tier.put(key, content)
    (path,) = files(tmp_path)
    age(path, 3600)
    before = path.stat()
    assert tier.get(key) == content
    after = path.stat()
    assert time.time() - after.st_atime < 60
    assert after.st_mtime_ns == before.st_mtime_ns


def test_looking_does_not_change_the_age(tier, tmp_path):
    key, content = block(1, 1000)
    tier.put(key, content)
    (path,) = files(tmp_path)
    age(path, 3600)
    assert tier.contains(key)
    assert tier.where(key) == str(tmp_path)
    assert time.time() - path.stat().st_atime > 3500


def test_without_eviction_a_full_tier_stays_as_it_is(tmp_path):
    tier = open_tier(tmp_path, 10 * 4096, eviction="none")
    kept = [tier.put(*block(number, 4000)) for number in range(15)]
    assert kept == [True] * 10 + [False] * 5
    assert tier.stats().evicted == tier.stats().errors == 0
    tier.close()


def test_expired_blocks_are_misses_and_go_when_counted(tmp_path):
    tier = open_tier(tmp_path, expire_s=100)
    blocks = [block(number, 1000) for number in range(3)]
    for key, content in blocks:
        tier.put(key, content)
    for path in files(tmp_path):
        age(path, 200)
    assert tier.get(blocks[0][0]) is None
    assert len(files(tmp_path)) == 2
    (tmp_path / LAYOUT / ".space").unlink()
    assert tier.stats().items == 0
    assert files(tmp_path) == []
    assert tier.stats().corrupt == 0
    tier.close()


def test_free_space_is_left_to_others(tmp_path):
    clock = Clock()
    found = os.statvfs(tmp_path)
    # Whatever is free here, this ratio asks for more than there is.
    ratio = min(0.9999, found.f_bavail / found.f_blocks + 0.01)
    full = open_tier(tmp_path, free_space_ratio=ratio, clock=clock)
    plenty = open_tier(tmp_path, clock=clock)
    key, content = block(1, 1000)
    assert full.put(key, content) is False
    assert plenty.put(key, content) is True
    assert full.get(key) == content
    assert full.put(*block(2, 1000)) is False  # and what is here makes room for others
    assert full.get(key) is None
    assert full.stats().evicted == 1
    full.close()
    plenty.close()


@pytest.fixture
def small_disk(tmp_path):
    """Eight MiB of tmpfs."""
    with tmpfs(tmp_path / "disk", "8m") as point:
        yield point


def fill(path: Path) -> None:
    with path.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


def test_a_disk_smaller_than_the_quota_evicts(small_disk):
    tier = open_tier(small_disk, 1 << 30, free_space_ratio=0.25)
    for number in range(40):
        assert tier.put(*block(number, 500_000))
        found = os.statvfs(small_disk)
        assert found.f_bavail >= found.f_blocks // 4
    assert 8 < tier.stats().items < 13
    assert tier.stats().errors == 0
    tier.close()


def test_a_full_disk_refuses_blocks_serves_reads_and_recovers(small_disk):
    clock = Clock()
    tier = open_tier(small_disk, 1 << 30, clock=clock)
    key, content = block(1, 100_000)
    assert tier.put(key, content)
    fill(small_disk / "theirs")
    other = block(2, 500_000)
    assert tier.put(*other) is False
    assert tier.stats().errors == 1
    assert tier.get(key) == content
    assert tier.put(*block(3, 10)) is False  # not even tried
    assert tier.stats().errors == 1
    (small_disk / "theirs").unlink()
    clock.now_s += 60
    assert tier.put(*other) is True
    assert tier.stats().items == 2
    tier.close()


def test_a_read_only_disk_serves_reads(small_disk):
    tier = open_tier(small_disk, verify="full")
    key, content = block(1, 100_000)
    tier.put(key, content)
    tier.close()
    for path in files(small_disk):
        age(path, 3600)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    tier = open_tier(small_disk)
    assert tier.get(key) == content
    assert tier.put(*block(2, 100)) is False
    assert tier.stats().errors >= 1
    assert tier.delete(key) is False
    tier.close()


# ---------------------------------------------------------------------- forks and the model


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_works_beside_its_parent(tier):
    key, content = block(1, 1000)
    tier.put(key, content)
    stop = threading.Event()

    def churn() -> None:
        number = 100
        while not stop.is_set():
            tier.put(*block(number, 50_000))
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(10, 30):
            mine = block(number, 1000)
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                fine = tier.put(*mine) and bytes(tier.get(mine[0]) or b"") == mine[1]
                tier.close()
                tier.close()
                os._exit(0 if fine else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert tier.stats().used_bytes <= 1 << 24
    finally:
        stop.set()
        thread.join()
    found = tier.get(block(29, 1000)[0])
    assert found is None or found == block(29, 1000)[1]


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "range", "delete", "damage"]), st.integers(0, 7)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS, st.sampled_from(["lru", "2-random", "none"]))
def test_what_comes_back_is_what_was_put(tmp_path_factory, operations, eviction):
    folder = tmp_path_factory.mktemp("model")
    tier = open_tier(folder, 5 * 4096, eviction=eviction)
    here: set[int] = set()
    for operation, number in operations:
        key, content = block(number, 100 + number)
        if operation == "put":
            if tier.put(key, content):
                here.add(number)
        elif operation == "delete":
            assert not tier.delete(key) or number in here
            here.discard(number)
        elif operation == "damage":
            for path in files(folder)[:1]:
                flip(path, number)
        else:
            start, stop = (3, 50) if operation == "range" else (0, None)
            view = tier.get(key, start, stop)
            assert view is None or (view == content[start:stop] and number in here)
        used = sum(4096 for _ in files(folder))
        assert used == tier.stats().used_bytes <= 5 * 4096
        assert len(files(folder)) == tier.stats().items
    tier.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("verify", ["none", "shrink", "extend", "full"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "footer"])
def test_a_copy_that_somebody_found_bad_is_examined_and_dropped(tmp_path, verify, damage):
    tier = DirectoryTier(tmp_path, capacity_bytes=1 << 24, free_space_ratio=0, verify=verify)
    key, content = block(1, 200_000)
    tier.put(key, content)
    assert tier.get(key) == content
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file() and p.name.endswith(key.name))
    raw = bytearray(path.read_bytes())
    if damage == "truncate":
        raw = raw[:-1]
    else:
        raw[1000 if damage == "flip" else -20] ^= 1
    path.write_bytes(raw)
    held = tier.hold(key, 0, key.length)
    assert (held is None) == (damage != "flip"), "what is sent is not read, only its footer"
    if held is not None:
        os.close(held.fd)
        assert tier.examine(key) is True
    assert not tier.contains(key)
    assert tier.stats().corrupt == 1
    assert tier.stats().items == 0
