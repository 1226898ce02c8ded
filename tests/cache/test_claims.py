"""Claims: one holder a block on the node, whatever becomes of him."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import juicecache
from juicecache.cache.access import PRIVATE
from juicecache.cache.block_file import LAYOUT
from juicecache.cache.claims import FREE, ClaimFile
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.group import DirectoryGroup
from juicecache.cache.memory import MemoryTier
from juicecache.cache.stack import TierStack
from juicecache.testing.processes import in_child
from juicecache.testing.tier_contract import block

KEY, CONTENT = block(1, 1000)
HOLD = """
import sys
from juicecache.cache.directory import DirectoryTier
from juicecache.testing.tier_contract import block
tier = DirectoryTier(sys.argv[1], capacity_bytes=1 << 24, free_space_ratio=0)
claim = tier.claim(block(1, 1000)[0])
print(claim is not None, flush=True)
sys.stdin.read()
"""


def open_tier(path: Path, **options) -> DirectoryTier:
    options = {"capacity_bytes": 1 << 24, "free_space_ratio": 0, **options}
    return DirectoryTier(path, **options)


@contextmanager
def holder(path: Path):
    """Run an independent process that holds the claim of the block."""
    root = str(Path(juicecache.__file__).parents[1])
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        try:
            assert process.stdout.readline() == b"True\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def tier(tmp_path):
    tier = open_tier(tmp_path)
    yield tier
    tier.close()


def test_one_holder_at_a_time(tier, tmp_path):
    other = open_tier(tmp_path)
    claim = tier.claim(KEY)
    assert claim is not None
    assert other.claim(KEY) is None
    assert tier.claim(KEY) is None
    assert other.claim(block(2, 1000)[0]) is not None
    claim.release()
    theirs = other.claim(KEY)
    assert theirs is not None
    claim.release()  # the second time is nobody's
    assert tier.claim(KEY) is None
    other.close()
    assert tier.claim(KEY) is not None


def test_a_killed_holder_holds_nothing(tier, tmp_path):
    with holder(tmp_path) as process:
        assert tier.claim(KEY) is None
        process.send_signal(signal.SIGSTOP)
        assert tier.claim(KEY) is None
        process.kill()
        process.wait()
        assert tier.claim(KEY) is not None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_neither_has_nor_keeps_its_parents_claims(tmp_path):
    """A claim lives as long as a copy of its descriptor: the child must close its own."""
    mine, probe = open_tier(tmp_path), open_tier(tmp_path)
    claim = mine.claim(KEY)
    assert claim is not None
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        claim.release()  # not the child's to give
        refused = mine.claim(KEY) is None
        os.write(ready[1], b"r" if refused else b"g")
        os.read(go[0], 1)
        os._exit(0 if mine.claim(KEY) is not None else 1)
    assert os.read(ready[0], 1) == b"r"
    assert probe.claim(KEY) is None
    mine.close()  # as the parent's death would: with the child alive the block is free
    theirs = probe.claim(KEY)
    assert theirs is not None
    theirs.release()
    os.write(go[1], b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for end in (*ready, *go):
        os.close(end)
    probe.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_amid_claims_of_threads(tier):
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            claim = tier.claim(KEY)
            if claim is not None:
                claim.release()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(20):
            key = block(10 + number, 1)[0]
            assert in_child(lambda key=key: signal.alarm(20) or tier.claim(key) is None) == 0
    finally:
        stop.set()
        thread.join()


def test_a_cleared_folder_is_no_way_around(tier, tmp_path):
    claim = tier.claim(KEY)
    next(tmp_path.rglob(".loading")).unlink()
    assert tier.claim(KEY) is not None
    other = open_tier(tmp_path)
    assert other.claim(KEY) is None
    claim.release()
    assert other.claim(KEY) is None
    other.close()


def test_where_nothing_is_kept_everybody_may_load(tmp_path):
    memory = MemoryTier(1 << 20)
    assert memory.claim(KEY) is FREE
    assert TierStack(()).claim(KEY) is FREE
    assert TierStack((memory,)).claim(KEY) is FREE
    full = open_tier(tmp_path / "full", capacity_bytes=4096 * 2, eviction="none")
    first, second = full.claim(KEY), full.claim(block(2, 1)[0])
    assert FREE not in (first, second)
    assert full.put(*block(3, 20_000)) is False
    assert full.claim(KEY) is FREE
    full.close()
    assert full.claim(KEY) is FREE


def test_a_file_that_cannot_be_opened_raises_only_below_the_tier(tmp_path):
    with pytest.raises(FileNotFoundError):
        ClaimFile(b"%s/gone/.loading" % os.fsencode(tmp_path), PRIVATE).claim(KEY)
    tier = open_tier(tmp_path)
    next(tmp_path.glob(f"{LAYOUT}*")).joinpath(".loading").mkdir()
    assert tier.claim(KEY) is FREE
    tier.close()


def test_a_stack_asks_the_tier_that_processes_share(tmp_path):
    group = DirectoryGroup([open_tier(tmp_path / name) for name in "ab"])
    stack = TierStack((MemoryTier(1 << 20), group))
    claim = stack.claim(KEY)
    assert claim not in (None, FREE)
    probe = open_tier(group.member(KEY).path)
    assert probe.claim(KEY) is None
    claim.release()
    assert probe.claim(KEY) is not None
    stack.close()
    probe.close()


def test_a_block_larger_than_the_quota_is_free(tmp_path):
    tier = open_tier(tmp_path, capacity_bytes=8192)
    assert tier.claim(block(1, 9000)[0]) is FREE
    assert tier.claim(block(2, 5000)[0]) not in (None, FREE)
    tier.close()


def test_a_tier_that_is_dropped_leaves_nothing_open(tmp_path):
    def files() -> list[str]:
        open_files = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        targets = [os.readlink(name) for name in open_files if os.path.lexists(name)]
        return [target for target in targets if target.startswith(str(tmp_path))]

    tier, other = open_tier(tmp_path), open_tier(tmp_path)
    assert tier.put(*block(1, 1000))
    claim = tier.claim(KEY)
    assert other.claim(KEY) is None
    assert len(files()) == 3
    del tier, claim
    gc.collect()
    assert other.claim(KEY) is not None
    other.close()
    assert files() == []
