"""What a member does for others when its own reads, its store or its end are in the way."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from juicecache.errors import ConfigError
from juicecache.peers.source import Warmed
from juicecache.peers.wire import Name
from juicecache.runtime import loop_thread
from juicecache.volume.insight import file_blocks
from juicecache.volume.serving import BlockSource

FOLDER = "served"


class NoGroup:
    def former_owner(self, key):
        return None


@pytest.fixture
def served(site, content):
    """A volume with forty blocks, which looks after them for others."""
    volume = site.open(cache_dir=str(site.folder / FOLDER), looped=True, free_space_ratio=0)
    volume.parts()
    writer = site.open(cache_size="0")
    body = content(40 * site.block, 3)
    writer.write_file("/a", body)
    return volume, body


def source_of(volume, *, loading_bytes_max: int = 1 << 30) -> BlockSource:
    blocks = volume.parts().blocks
    return BlockSource(blocks, NoGroup(), dict, loading_bytes_max=loading_bytes_max)


def names_of(volume) -> list[Name]:
    return [Name(key.name, key.length) for key in file_blocks(volume.parts(), "/a")[2]]


class Ends:
    """What `done` was called with, once for each block."""

    def __init__(self) -> None:
        self.found = []
        self._came = threading.Condition()

    def __call__(self, what) -> None:
        with self._came:
            self.found.append(what)
            self._came.notify_all()

    def wait(self, count: int, timeout_s: float = 10.0) -> list:
        with self._came:
            assert self._came.wait_for(lambda: len(self.found) >= count, timeout_s), self.found
        return self.found


def test_a_load_that_fails_in_an_unknown_way_is_an_answer_all_the_same(served, site) -> None:
    volume, _ = served
    site.store(volume).fail("get", range(1, 3), lambda name: OSError("a fault of nobody's class"))
    source, ends = source_of(volume), Ends()
    names = names_of(volume)
    for name in names[:2]:
        assert source.warm(name, ends)
    assert ends.wait(2) == [Warmed.FAILED] * 2
    assert source.warm(names[2], ends)
    assert ends.wait(3)[2] == Warmed.LOADED
    assert source._under_way == 0
    assert volume.parts().blocks.loading_bytes == 0
    source.close()


def test_who_asks_does_not_wait_for_a_read_of_ours_that_waits_for_him(served, site) -> None:
    """A client of our node claims a block, and asks us; a read of ours waits for his claim."""
    volume, body = served
    client = site.open(cache_dir=str(site.folder / FOLDER), looped=True, free_space_ratio=0)
    key = next(iter(file_blocks(volume.parts(), "/a")[2]))
    claim = client.parts().tiers.claim(key)
    (flight,) = volume.parts().blocks.begin((key,))
    assert flight.claim is None
    source, ends = source_of(volume), Ends()
    began_s = time.monotonic()
    assert source.load(Name(key.name, key.length), 0, 10, ends)
    (held,) = ends.wait(1, 30)
    assert held is not None
    assert time.monotonic() - began_s < 5
    claim.release()
    assert volume.parts().blocks.settle(flight) == body[: site.block]
    assert site.store(volume).calls["get"] == 1
    source.close()


@pytest.mark.parametrize("looped", [False, True])
def test_close_leaves_what_waits_in_line(site, content, looped: bool) -> None:
    volume = site.open(cache_dir=str(site.folder / FOLDER), looped=looped, free_space_ratio=0)
    body = content(400 * site.block, 3)
    site.open(cache_size="0").write_file("/a", body)
    source = source_of(volume, loading_bytes_max=1)
    begun = threading.Event()
    store = site.store(volume)
    ends = Ends()
    if looped:
        event = asyncio.Event()
        store.hold("get", event)
    for name in names_of(volume):
        assert source.warm(name, ends)
    begun = time.monotonic()
    while not store.calls["get"]:
        assert time.monotonic() - begun < 10
    source.close()
    if looped:
        loop_thread().loop.call_soon_threadsafe(event.set)
    until_s = time.monotonic() + 10
    while source._under_way or volume.parts().blocks.loading_bytes:
        assert time.monotonic() < until_s
        time.sleep(0.001)
    time.sleep(0.1)
    assert store.calls["get"] < 200
    assert not source.warm(names_of(volume)[-1], ends)


def test_a_member_that_may_not_enter_itself_says_so_and_is_gone(site) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="with no_sharing this client only reads"):
        site.open(
            cache_group="g",
            group_secret="known",
            read_only=True,
            group_ip="127.0.0.1",
            free_space_ratio=0,
        ).parts()
    assert threading.active_count() == before


def test_ranges_of_a_block_that_is_being_loaded_wait_for_it(big_site, content) -> None:
    volume = big_site.open(cache_dir=str(big_site.folder / FOLDER), looped=True)
    body = content(big_site.block, 3)
    big_site.open(cache_size="0").write_file("/a", body)
    event = asyncio.Event()
    big_site.store(volume).hold("get", event)
    (key,) = file_blocks(volume.parts(), "/a")[2]
    (flight,) = volume.parts().blocks.begin((key,))
    found = []
    thread = threading.Thread(target=lambda: found.append(volume.read_file("/a", 5, 1000)))
    thread.start()
    thread.join(0.2)
    loop_thread().loop.call_soon_threadsafe(event.set)
    volume.parts().blocks.settle(flight)
    thread.join(10)
    assert found == [body[5:1000]]
    assert volume.stats().blocks.range_gets == 0
