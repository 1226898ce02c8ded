"""What cgroups leave: from invented trees, and from a real cgroup where one can be made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from juicecache.cache.memory_limit import memory_left

MIB = 1 << 20


def group(path: Path, limit: object, used: int, inactive: int = 0, version: int = 2) -> None:
    path.mkdir(parents=True, exist_ok=True)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    limit_name, used_name, inactive_name = names[version]
    (path / limit_name).write_text(f"{limit}\n")
    (path / used_name).write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 4711\ninactive_anon 3\n{inactive_name} {inactive}\n")


def left(tmp_path: Path, membership: str, ratio: float = 0.0) -> int | None:
    own = tmp_path / "own"
    own.write_text(membership)
    return memory_left(ratio, tmp_path / "tree", own)


def test_the_limit_less_what_is_used_and_cannot_be_taken_back(tmp_path):
    group(tmp_path / "tree/pod/c", 100 * MIB, 30 * MIB, 10 * MIB)
    assert left(tmp_path, "0::/pod/c\n") == 80 * MIB
    assert left(tmp_path, "0::/pod/c\n", 0.1) == 70 * MIB
    assert left(tmp_path, "0::/pod/c\n", 0.875) == -7.5 * MIB


def test_the_narrowest_of_all_ancestors_counts(tmp_path):
    group(tmp_path / "tree/pod/c/d", "max", 0)
    group(tmp_path / "tree/pod/c", 100 * MIB, 30 * MIB)
    group(tmp_path / "tree/pod", 200 * MIB, 180 * MIB)
    assert left(tmp_path, "0::/pod/c/d\n") == 20 * MIB
    group(tmp_path / "tree", 50 * MIB, 40 * MIB)
    assert left(tmp_path, "0::/pod/c/d\n") == 10 * MIB


def test_the_mounted_root_counts_when_our_path_is_not_in_it(tmp_path):
    group(tmp_path / "tree", 50 * MIB, 40 * MIB)
    assert left(tmp_path, "0::/kubepods/pod1/c\n") == 10 * MIB
    assert left(tmp_path, "0::/../../elsewhere\n") == 10 * MIB


def test_version_1_and_both_at_once(tmp_path):
    group(tmp_path / "tree/memory/docker/c", 64 * MIB, 30 * MIB, 10 * MIB, version=1)
    group(tmp_path / "tree/memory", 9223372036854771712, 1 << 40, version=1)
    membership = "3:cpu,cpuacct:/docker/c\n4:memory:/docker/c\n0::/\n"
    assert left(tmp_path, membership) == 44 * MIB
    group(tmp_path / "tree", 20 * MIB, 0)
    assert left(tmp_path, membership) == 20 * MIB


@pytest.mark.parametrize("membership", ["", "0::/\n", "4:memory:/x\n1:name=systemd:/\n"])
def test_without_limits_nothing_is_told(tmp_path, membership):
    assert left(tmp_path, membership) is None
    group(tmp_path / "tree", "max", 5)
    group(tmp_path / "tree/memory/x", 9223372036854771712, 5, version=1)
    assert left(tmp_path, membership) is None
    assert memory_left(0.1, tmp_path / "tree", tmp_path / "no file") is None


def test_what_cannot_be_read_limits_nothing(tmp_path):
    group(tmp_path / "tree/a", "nonsense", 5)
    group(tmp_path / "tree", 10 * MIB, 5)
    (tmp_path / "tree/memory.stat").unlink()
    assert left(tmp_path, "0::/a\n") is None


FILL = """
import sys
from pathlib import Path
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.memory_limit import memory_left
from juicecache.testing.tier_contract import block
Path(sys.argv[2]).write_text("0")  # this process
ratio = float(sys.argv[3])
tier = DirectoryTier(sys.argv[1], capacity_bytes=1 << 30, free_space_ratio=ratio)
first = 1000 * int(sys.argv[4])
kept = sum(tier.put(*block(first + number, 1 << 20)) for number in range(150))
stats = tier.stats()
print(kept, stats.used_bytes, stats.evicted, stats.errors, memory_left(0))
"""


def test_processes_together_keep_a_real_limit_below_the_quota(memory_cgroup, memory_disk):
    memory_cgroup.limit(300 * MIB)
    command = [sys.executable, "-c", FILL, str(memory_disk), memory_cgroup.members, "0.2"]
    processes = [subprocess.Popen([*command, seed], stdout=subprocess.PIPE) for seed in "123"]
    results = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]  # nobody was killed
    assert sum(int(result[0]) for result in results) > 400  # of 450
    assert sum(int(result[2]) for result in results) > 150
    assert all(int(result[3]) == 0 for result in results)
    used, still_left = (max(int(result[at]) for result in results) for at in (1, 4))
    assert 50 * MIB < used < 240 * MIB
    assert still_left > 30 * MIB
