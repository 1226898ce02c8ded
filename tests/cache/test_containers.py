"""Two containers and one folder: process ids mean nothing, both processes are number 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import juicecache
from juicecache.cache.block_file import LAYOUT, charge, file_bytes
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.files import find_writers
from juicecache.testing.tier_contract import block

CAPACITY_BYTES = 4 << 20
CODE = f"""
import os, sys
import juicecache.cache.directory as module
from juicecache.testing.tier_contract import block
assert os.getpid() == 1
tier = module.DirectoryTier(sys.argv[1], capacity_bytes={CAPACITY_BYTES}, free_space_ratio=0)

def stay(*_):
    print("writing", flush=True)
    sys.stdin.read()

if sys.argv[2] == "dies":
    write, left = module.write_block, iter(range(20))
    module.write_block = lambda *a: write(*a) if next(left, None) is not None else stay()
    for number in range(100):
        tier.put(*block(number, 300_000))
else:
    for number in range(int(sys.argv[2]), int(sys.argv[2]) + 60):
        key, content = block(number, 300_000)
        assert tier.put(key, content), number
        assert tier.get(key) in (None, content)
        assert tier.stats().used_bytes <= {CAPACITY_BYTES}
    assert tier.stats().errors == tier.stats().corrupt == 0
"""


def contain(folder: Path, what: str) -> subprocess.Popen:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    root = str(Path(juicecache.__file__).parents[1])
    return subprocess.Popen(
        [*command, sys.executable, "-c", CODE, str(folder), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


@pytest.fixture(autouse=True)
def can_contain() -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare command")
    if done.returncode:
        pytest.skip("no process namespace can be made here")


def test_one_container_dies_writing_and_the_other_goes_on(tmp_path):
    with contain(tmp_path, "dies") as victim:
        assert victim.stdout.readline() == "writing\n"
        with contain(tmp_path, "1000") as other:
            assert other.wait(60) == 0
        # Its reservation is respected while it lives, although the other is a number 1 as well.
        root = tmp_path / f"{LAYOUT}-u{os.geteuid()}"
        (unfinished,) = (root / ".writing").iterdir()
        assert unfinished.stat().st_size == file_bytes(300_000)
        victim.send_signal(signal.SIGKILL)
    while find_writers(os.fsencode(root)).living:
        time.sleep(0.001)  # its parent is gone at once, itself when the kernel is done with it
    tier = DirectoryTier(tmp_path, capacity_bytes=CAPACITY_BYTES, free_space_ratio=0)
    assert tier.put(*block(2000, 300_000))
    assert list((root / ".writing").iterdir()) == []
    sizes = [charge(path.stat().st_size) for path in root.glob("[!.]*/*/*")]
    assert tier.stats().used_bytes == sum(sizes) <= CAPACITY_BYTES
    tier.close()


def test_two_containers_fill_one_tier(tmp_path):
    with contain(tmp_path, "0") as one, contain(tmp_path, "1000") as other:
        assert (one.wait(60), other.wait(60)) == (0, 0)
