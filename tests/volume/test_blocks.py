"""One load of a block on the node, however many processes ask, and the fate of those who wait."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from hashlib import md5
from pathlib import Path

import pytest

import juicecache
from juicecache.cache.claims import FREE
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.memory import MemoryTier
from juicecache.cache.stack import TierStack
from juicecache.runtime import loop_thread
from juicecache.testing.processes import wait_for
from juicecache.testing.tier_contract import block
from juicecache.testing.tier_faults import FaultyTier, damage
from juicecache.volume import blocks as module
from juicecache.volume.insight import file_blocks

READ = """
import asyncio, os, sys
from juicecache.config import VolumeOptions
from juicecache.objects.wrap import StoreWrapper
from juicecache.volume.volume import Volume

meta, cache, log, delay_s, inline, order = sys.argv[1:]

class SlowStore(StoreWrapper):
    \"\"\"Writes down each load, before it takes its time.\"\"\"

    def __init__(self, inner):
        super().__init__(inner)
        self.inline = bool(int(inline))

    async def get(self, name, start=0, stop=None, *, length=None):
        fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{os.getpid()} {name}\\n".encode())
        os.close(fd)
        if self.inline:
            import time
            time.sleep(float(delay_s))
        else:
            await asyncio.sleep(float(delay_s))
        return await self._inner.get(name, start, stop, length=length)

options = VolumeOptions.from_options({"cache_dir": cache, "read_only": True})
volume = Volume(meta, options, wrap_store=SlowStore)
print("ready", flush=True)
sys.stdin.readline()
import hashlib
paths = ["/a", "/b"] if order == "ab" else ["/b", "/a"]
sums = {path: hashlib.md5(volume.read_file(path)).hexdigest() for path in paths}
stats = volume.stats().blocks
print(sums["/a"], sums["/b"], stats.loads, stats.node_shared, flush=True)
volume.close()
"""


class Node:
    """A volume with twenty blocks, and the processes that read it."""

    def __init__(self, site, content, tmp_path: Path) -> None:
        volume = site.open(cache_size="0")
        self.files = {"/a": content(10 * site.block, 1), "/b": content(10 * site.block, 2)}
        for path, data in self.files.items():
            volume.write_file(path, data)
        self.site = site
        self.cache = tmp_path / "node-cache"
        self.log = tmp_path / "loads"
        self.stack = ExitStack()

    def start(self, *, delay_s: float = 0.05, inline: bool = False, order: str = "ab"):
        root = str(Path(juicecache.__file__).parents[1])
        arguments = [self.site.meta, str(self.cache), str(self.log), str(delay_s)]
        process = subprocess.Popen(
            [sys.executable, "-c", READ, *arguments, str(int(inline)), order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        self.stack.callback(process.stdout.close)
        return process

    def go(self, *processes) -> None:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.close()

    def outcome(self, process) -> tuple[int, int]:
        """Return (loads, blocks from others) of a process that read the right bytes."""
        first, second, loads, shared = process.stdout.readline().split()
        assert (first, second) == tuple(md5(data).hexdigest() for data in self.files.values())
        return int(loads), int(shared)

    def loads(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []

    def await_load(self) -> None:
        while not self.loads():
            time.sleep(0.001)


@pytest.fixture
def node(site, content, tmp_path):
    node = Node(site, content, tmp_path)
    yield node
    node.stack.close()


@pytest.mark.parametrize("inline", [False, True])
def test_eight_processes_load_each_block_once(node, inline):
    delay_s = 0.005 if inline else 0.1
    processes = [
        node.start(delay_s=delay_s, inline=inline, order=("ab", "ba")[number % 2])
        for number in range(8)
    ]
    node.go(*processes)
    outcomes = [node.outcome(process) for process in processes]
    names = [line.split()[1] for line in node.loads()]
    assert len(names) == len(set(names)) == 20
    assert sum(loads for loads, _ in outcomes) == 20
    assert sum(shared for _, shared in outcomes) > 0


def test_a_killed_holder_is_replaced(node):
    holder = node.start(delay_s=600)
    node.go(holder)
    node.await_load()
    heir = node.start()
    node.go(heir)
    began = time.monotonic()
    holder.kill()
    holder.wait()
    assert node.outcome(heir) == (20, 0)
    assert time.monotonic() - began < 5


def test_a_stopped_holder_is_not_waited_for_long(node, monkeypatch, site):
    monkeypatch.setattr(module, "_SILENCE_S", 0.3)
    holder = node.start(delay_s=0.2)
    node.go(holder)
    node.await_load()
    holder.send_signal(signal.SIGSTOP)
    volume = site.open(cache_dir=str(node.cache), looped=True)
    began = time.monotonic()
    assert volume.read_file("/a") == node.files["/a"]
    assert 0.3 < time.monotonic() - began < 5
    assert volume.stats().blocks.node_shared == 0
    assert volume.stats().blocks.loads == 10
    holder.send_signal(signal.SIGCONT)
    node.outcome(holder)


def hold(volume, site):
    """Return a load of the first block of ``/a``, and the event that its request waits for."""
    event = asyncio.Event()
    site.store(volume).hold("get", event)
    parts = volume.parts()
    key = key_of(volume)
    return parts.blocks.begin((key,))[0], event


def key_of(volume):
    return next(iter(file_blocks(volume.parts(), "/a")[2]))


def free(event) -> None:
    loop_thread().loop.call_soon_threadsafe(event.set)


def test_a_block_that_is_not_collected_is_kept_all_the_same(node, site, monkeypatch):
    monkeypatch.setattr(module, "_UNCOLLECTED_S", 0.01)
    dawdler = site.open(cache_dir=str(node.cache), looped=True)
    flight, event = hold(dawdler, site)
    other = site.open(cache_dir=str(node.cache), looped=True)
    coming = other.parts().blocks.begin((key_of(other),))[0]
    free(event)
    body = other.parts().blocks.settle(coming)
    assert body == node.files["/a"][: site.block]
    assert (other.stats().blocks.loads, other.stats().blocks.node_shared) == (0, 1)
    blocks = dawdler.parts().blocks
    assert blocks.loading_bytes == site.block  # its bytes are still held for its reader
    assert blocks.settle(flight) == body
    assert blocks.loading_bytes == other.parts().blocks.loading_bytes == 0


@pytest.mark.parametrize("fate", ["abandon", "fail"])
def test_a_load_that_comes_to_nothing_is_taken_over(node, site, fate):
    first = site.open(cache_dir=str(node.cache), looped=True)
    if fate == "fail":
        site.store(first).fail("get", {1})
    flight, event = hold(first, site)
    other = site.open(cache_dir=str(node.cache), looped=True)
    coming = other.parts().blocks.begin((key_of(other),))[0]
    assert coming.claim is None
    if fate == "abandon":
        first.parts().blocks.abandon((flight,))
    free(event)
    assert other.parts().blocks.settle(coming) == node.files["/a"][: site.block]
    assert other.stats().blocks.loads == 1
    assert first.parts().blocks.loading_bytes == 0


def test_a_block_put_since_it_was_missed_is_not_loaded(node, site):
    volume = site.open(cache_dir=str(node.cache), looped=True)
    key = key_of(volume)
    assert volume.parts().tiers.get(key) is None
    elsewhere = DirectoryTier(node.cache, capacity_bytes=1 << 30, free_space_ratio=0)
    elsewhere.put(key, node.files["/a"][: key.length])
    assert volume.parts().blocks.load(key) == node.files["/a"][: key.length]
    assert site.store(volume).calls["get"] == 0
    elsewhere.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_amid_a_load_loads_for_itself(node, site, monkeypatch):
    """The parent's claim is respected while it loads, and does not outlive it in the child."""
    parent = site.open(cache_dir=str(node.cache), looped=True)
    flight, event = hold(parent, site)
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        fine = False
        try:
            module._SILENCE_S = 0.2
            key = key_of(parent)
            fine = parent.parts().blocks.load(key) == node.files["/a"][: key.length]
        finally:
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    free(event)
    assert parent.parts().blocks.settle(flight) == node.files["/a"][: site.block]


def test_ranges_and_tiers_that_nobody_shares_claim_nothing(node, site):
    alone = site.open(cache_size="0", looped=True)
    flight = alone.parts().blocks.begin((key_of(alone),))[0]
    assert flight.claim in (FREE, None)
    assert alone.parts().blocks.settle(flight) == node.files["/a"][: site.block]
    sharing = site.open(cache_dir=str(node.cache), looped=True)
    blocks = sharing.parts().blocks
    blocks.settle(blocks.begin_range(key_of(sharing), 0, 10))
    assert not list(node.cache.rglob(".loading"))


def test_threads_of_two_volumes_load_each_block_once(node, site):
    volumes = [site.open(cache_dir=str(node.cache), looped=True) for _ in range(2)]
    for volume in volumes:
        site.store(volume).delay("get", 0.02)
    wrong = []

    def read(volume, path) -> None:
        if volume.read_file(path) != node.files[path]:
            wrong.append(path)

    threads = [
        threading.Thread(target=read, args=(volume, path))
        for volume in volumes for path in ("/a", "/b", "/a")
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(site.store(volume).calls["get"] for volume in volumes) == 20


def with_tiers(volume, *tiers) -> module.Blocks:
    """Return the blocks of a volume, over other tiers."""
    parts = volume.parts()
    return module.Blocks(parts.layout, parts.store, TierStack(tiers))


def test_nobody_waits_where_nothing_is_kept(node, site):
    """A full tier keeps no block, so that whoever waited would load it after all."""
    volume = site.open(cache_size="0", looped=True)
    directory = DirectoryTier(
        node.cache, capacity_bytes=site.block + 8192, free_space_ratio=0, eviction="none"
    )
    assert directory.put(*block(1, 9000))
    blocks = with_tiers(volume, directory)
    first, second = list(file_blocks(volume.parts(), "/a")[2])[:2]
    flights = blocks.begin((first,))
    assert flights[0].claim not in (None, FREE)
    assert blocks.settle(flights[0]) == node.files["/a"][: site.block]
    flights = blocks.begin((first, second))
    assert blocks.settle(flights[1]) == node.files["/a"][site.block : 2 * site.block]
    assert [flight.claim for flight in flights] in ([FREE, None], [None, None])
    assert directory.claim(first) is FREE
    blocks.settle(flights[0])
    directory.close()


def test_who_waited_in_vain_loads_beside_the_others(node, site):
    """What the tier did not keep for the first it will not keep for those who wait."""
    events = [asyncio.Event(), asyncio.Event()]
    volumes = [site.open(cache_size="0", looped=True) for _ in range(6)]
    every = []
    for number, volume in enumerate(volumes):
        site.store(volume).hold("get", events[number > 0])
        full = FaultyTier(DirectoryTier(node.cache, capacity_bytes=1 << 30, free_space_ratio=0))
        full.fail("put", range(1, 9))
        every.append(with_tiers(volume, full))
    key = key_of(volumes[0])
    flights = [blocks.begin((key,))[0] for blocks in every]
    assert [flight.claim is None for flight in flights] == [False, *[True] * 5]
    free(events[0])
    every[0].settle(flights[0])
    until = time.monotonic() + 10
    while sum(site.store(volume).calls["get"] for volume in volumes) < 6:
        assert time.monotonic() < until, "they load one after the other"
        time.sleep(0.001)
    free(events[1])
    for blocks, flight in zip(every, flights, strict=True):
        assert blocks.settle(flight) == node.files["/a"][: site.block]
        blocks.tiers.close()


def test_a_block_larger_than_the_quota_is_not_claimed(node, site):
    volume = site.open(cache_dir=str(node.cache), cache_size="60KiB", looped=True)
    flight = volume.parts().blocks.begin((key_of(volume),))[0]
    assert flight.claim in (FREE, None)
    volume.parts().blocks.settle(flight)


@pytest.mark.parametrize("how", ["file", "files", "handle", "load"])
def test_an_interrupt_leaks_no_load(node, site, how):
    volume = site.open(cache_dir=str(node.cache), looped=True)
    blocks = volume.parts().blocks
    event = asyncio.Event()
    site.store(volume).hold("get", event)

    def read():
        if how == "file":
            return volume.read_file("/a")
        if how == "files":
            return volume.read_files([("/a", None, None)])[0]
        if how == "load":
            return blocks.load(key_of(volume))
        with volume.open("/a") as file:
            return file.read()

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            read()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert blocks.loading_bytes > 0
    free(event)
    wait_for(lambda: blocks.loading_bytes == 0)
    assert blocks._flights == {}
    assert read() == node.files["/a"][: site.block if how == "load" else None]


@pytest.mark.parametrize("fault", ["get", "put", "claim", "full", "slow"])
def test_faults_of_tiers_cost_requests_and_nothing_else(node, site, fault):
    volume = site.open(cache_size="0", looped=True)
    memory = FaultyTier(MemoryTier(1 << 20))
    disk = FaultyTier(DirectoryTier(node.cache, capacity_bytes=1 << 24, free_space_ratio=0))
    for tier in (memory, disk):
        if fault == "full":
            tier.fill()
        elif fault == "slow":
            tier.delay("put", 0.01)
        else:
            tier.fail(fault, range(1, 1000))
    blocks = with_tiers(volume, memory, disk)
    for _ in range(2):
        for number, key in enumerate(file_blocks(volume.parts(), "/a")[2]):
            at = number * site.block
            assert blocks.load(key) == node.files["/a"][at : at + site.block]
    kept = fault in ("claim", "slow")
    assert site.store(volume).calls["get"] == (10 if kept else 20)
    assert blocks.loading_bytes == 0
    blocks.tiers.close()


@pytest.mark.parametrize("verify", ["extend", "full"])
def test_what_is_read_is_right_while_files_are_damaged(node, site, verify):
    volumes = [
        site.open(cache_dir=str(node.cache), looped=True, verify_cache_checksum=verify)
        for _ in range(2)
    ]
    rng = random.Random(1)
    wrong: list[object] = []
    stop = threading.Event()

    def read(volume, seed: int) -> None:
        mine = random.Random(seed)
        try:
            while not stop.is_set():
                path = mine.choice(("/a", "/b"))
                start = mine.randrange(10 * site.block)
                end = start + mine.choice((10, 5000, 3 * site.block))
                if volume.read_file(path, start, end) != node.files[path][start:end]:
                    wrong.append((path, start, end))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(volume, n)) for n, volume in enumerate(volumes)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 1.5
    done = 0
    while time.monotonic() < until:
        done += damage(node.cache, rng) is not None
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert done > 10
    assert sum(tier.corrupt for volume in volumes for tier in volume.stats().tiers) > 0
