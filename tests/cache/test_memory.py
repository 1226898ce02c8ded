"""The memory tier beyond the contract."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from juicecache.cache.memory import MemoryTier
from juicecache.testing.tier_contract import block


def test_the_longest_unused_goes_first():
    tier = MemoryTier(10 * 10_512)
    blocks = [block(number, 10_000) for number in range(11)]
    for key, content in blocks[:10]:
        tier.put(key, content)
    tier.get(blocks[0][0])
    tier.contains(blocks[1][0])
    tier.put(*blocks[10])
    assert [tier.contains(key) for key, _ in blocks] == [True, False] + [True] * 9
    assert tier.stats().evicted == 1


def test_immutable_content_is_not_copied():
    tier = MemoryTier(1 << 20)
    key, content = block(1, 1000)
    tier.put(key, memoryview(content))
    view = tier.get(key)
    assert view is not None
    assert view.obj is content


def test_very_small_blocks_are_bounded_too():
    tier = MemoryTier(100_000)
    for number in range(1000):
        tier.put(*block(number, 1))
    assert tier.stats().items < 200


def test_no_capacity_keeps_nothing():
    tier = MemoryTier(0)
    key, content = block(1, 0)
    assert tier.put(key, content) is False
    assert tier.get(key) is None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_has_its_own_copy_and_a_free_lock():
    tier = MemoryTier(1 << 20)
    key, content = block(1, 1000)
    tier.put(key, content)
    stop = threading.Event()

    def churn() -> None:
        number = 100
        while not stop.is_set():
            tier.put(*block(number, 50_000))
            tier.get(key)
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            tier.put(key, content)
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                view = tier.get(key)
                fine = view is None or bytes(view) == content
                fine = fine and tier.put(*block(2, 1000)) and tier.stats().used_bytes <= 1 << 20
                os._exit(0 if fine else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert not tier.contains(block(2, 1000)[0])
    finally:
        stop.set()
        thread.join()
