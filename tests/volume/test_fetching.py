"""Blocks on their way from members: who waits, who gives up, and what a closed volume leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from juicecache.cache.claims import FREE
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.stack import TierStack
from juicecache.runtime import loop_thread
from juicecache.volume import fetching as fetching_module
from juicecache.volume.blocks import Blocks
from juicecache.volume.insight import file_blocks

BLOCK = 64 << 10


class Member:
    """A peer that answers when it is told to."""

    def __init__(self, content: Callable[[str], bytes]) -> None:
        self.is_up = True
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked: list[str] = []
        self._content = content

    def fetch(self, block, start, stop, *, cached=False):
        self.asked.append(block.name)
        assert self.may_answer.wait(30)
        content = self._content(block.name)
        return None if content is None else memoryview(content)[start:stop]

    def fetch_many(self, names):
        self.asked.extend(name.name for name in names)
        assert self.may_answer.wait(30)
        for number, name in enumerate(names):
            yield number, self._content(name.name)


class OneOwner:
    """A group in which one member owns everything."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def route(self, key: bytes) -> Any:
        return self._member

    def former_owner(self, key: bytes) -> Any:
        return None

    def close(self) -> None:
        pass


class Reader:
    """The blocks of a client of `OneOwner`, and what is in them."""

    def __init__(self, site, content, tmp_path) -> None:
        self.volume = site.open(cache_size="0", looped=True)
        self.body = content(6 * site.block, 1)
        self.volume.write_file("/a", self.body)
        self.keys = list(file_blocks(self.volume.parts(), "/a")[2])
        self.store = site.store(self.volume)
        at = {key.name: n * site.block for n, key in enumerate(self.keys)}
        self.of = {name: self.body[n : n + site.block] for name, n in at.items()}
        self.member = Member(self.of.__getitem__)
        self.folder = tmp_path / "shared"
        self._open: list[Blocks] = []

    def blocks(self, *, keeps: bool = True, group: bool = True) -> Blocks:
        parts = self.volume.parts()
        tiers = [DirectoryTier(self.folder, capacity_bytes=1 << 30, free_space_ratio=0)]
        owner = OneOwner(self.member) if group else None
        blocks = Blocks(parts.layout, parts.store, TierStack(tiers if keeps else []), owner)
        self._open.append(blocks)
        return blocks

    def close(self) -> None:
        self.member.may_answer.set()
        for blocks in self._open:
            blocks.close()
            blocks.tiers.close()


@pytest.fixture
def reader(site, content, tmp_path):
    reader = Reader(site, content, tmp_path)
    yield reader
    reader.close()


def in_thread(act: Callable[[], Any]) -> Future:
    """Return the outcome of a call on a thread that may never end."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def landed(blocks: Blocks) -> None:
    """Return when nothing is on its way: another thread may be keeping a block."""
    until_s = time.monotonic() + 10
    while blocks.loading_bytes or blocks._flights:
        assert time.monotonic() < until_s, "a load was leaked"
        time.sleep(0.001)


def test_two_processes_that_want_the_same_blocks_in_another_order_do_not_wait_for_each_other(
    reader,
) -> None:
    one, two, third = (reader.blocks() for _ in range(3))
    first, second = reader.keys[:2]
    claim = third.tiers.claim(second)
    reader.member.may_answer.clear()
    ours = one.begin((second, first))
    assert [flight.claim is None for flight in ours] == [True, False]
    time.sleep(0.3)  # until `one` looks for the second only now and then
    claim.release()
    theirs = two.begin((first, second))
    assert [flight.claim is None for flight in theirs] == [True, False]
    # Each has one of the blocks on its way, and its reader waits for the other first.
    reader.member.may_answer.set()
    began_s = time.monotonic()
    outcomes = [
        in_thread(lambda: [one.settle(flight) for flight in ours]),
        in_thread(lambda: [two.settle(flight) for flight in theirs]),
    ]
    for outcome, keys in zip(outcomes, ((second, first), (first, second)), strict=True):
        assert outcome.result(30) == [reader.of[key.name] for key in keys]
    assert time.monotonic() - began_s < 5
    assert sorted(reader.member.asked) == sorted((first.name, second.name))


def test_who_comes_as_a_load_is_given_up_gets_the_block(reader, monkeypatch) -> None:
    blocks = reader.blocks()
    (flight,) = blocks.begin(reader.keys[:1])
    later = []
    ours = blocks._fetching.give_up

    def give_up(taken) -> bool:
        later.extend(blocks.begin(reader.keys[:1]))
        return ours(taken)

    monkeypatch.setattr(blocks._fetching, "give_up", give_up)
    blocks.abandon((flight,))
    assert blocks.settle(later[0]) == reader.of[reader.keys[0].name]
    landed(blocks)


def test_a_reader_who_waited_for_another_process_is_served_after_close(reader) -> None:
    blocks, other = reader.blocks(), reader.blocks()
    claim = other.tiers.claim(reader.keys[0])
    assert claim not in (None, FREE)
    (flight,) = blocks.begin(reader.keys[:1])
    assert flight.claim is None
    outcome = in_thread(lambda: blocks.settle(flight))
    blocks.close()
    claim.release()
    # Whoever loads it then: the reader does not wait for ever.
    assert outcome.result(10) == reader.of[reader.keys[0].name]
    landed(blocks)


def test_close_does_not_wait_for_what_nobody_asked_for_yet(reader, monkeypatch) -> None:
    monkeypatch.setattr(fetching_module, "_BATCH", 1)
    monkeypatch.setattr(fetching_module, "_THREADS_PER_PEER", 1)
    blocks = reader.blocks(keeps=False)
    reader.member.may_answer.clear()
    flights = blocks.begin(reader.keys, ahead=True)
    while not reader.member.asked:
        time.sleep(0.001)
    closed = in_thread(blocks.close)
    reader.member.may_answer.set()
    closed.result(10)
    assert len(reader.member.asked) <= 2
    # Who wants the others all the same asks for them.
    assert [blocks.settle(flight) for flight in flights] == list(reader.of.values())
    assert blocks.loading_bytes == 0


def test_threads_that_keep_nothing_share_the_load_that_the_owner_refused(reader) -> None:
    blocks = reader.blocks(keeps=False)
    reader.member._content = lambda name: None
    event = asyncio.Event()
    reader.store.hold("get", event)
    key = reader.keys[0]
    outcomes = [in_thread(lambda: blocks.fetch_part(key, 0, key.length)) for _ in range(6)]
    while len(reader.member.asked) < 6 or not reader.store.calls["get"]:
        time.sleep(0.001)
    time.sleep(0.05)
    loop_thread().loop.call_soon_threadsafe(event.set)
    assert all(bytes(outcome.result(10)) == reader.of[key.name] for outcome in outcomes)
    assert reader.store.calls["get"] == 1
    assert blocks.stats().fallbacks == 6
    assert blocks.loading_bytes == 0
