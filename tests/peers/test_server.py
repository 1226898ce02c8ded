from __future__ import annotations

import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from juicecache.errors import ClosedError, ConfigError, PeerDeniedError, PeerProtocolError
from juicecache.model.segments import SEGMENT_BYTES, bounds, segment_sums, touched
from juicecache.peers.handshake import NONCE_BYTES, Caller, Terms
from juicecache.peers.server import PeerServer, ServerLimits
from juicecache.peers.source import Warmed
from juicecache.peers.wire import (
    KEYS_MAX,
    PREFIX,
    Frame,
    Kind,
    Name,
    frame,
    get,
    get_many,
    put,
    read_part,
)
from juicecache.testing.peer_caller import PeerCaller
from juicecache.testing.peer_source import FilesSource

TERMS = Terms("volume", "group", b"a secret of the group")
BLOCK = bytes(range(256)) * 1500 + b"the end"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def source(tmp_path: Path) -> FilesSource:
    return FilesSource(tmp_path)


@pytest.fixture
def serve(source: FilesSource) -> Iterator[Callable[..., PeerServer]]:
    """Start servers of the source; they and their files are gone at the end."""
    before = open_files()
    servers: list[PeerServer] = []

    def start(**limits: Any) -> PeerServer:
        server = PeerServer(
            ("127.0.0.1", 0), TERMS, source, lambda: {"name": "m1"}, limits=ServerLimits(**limits)
        )
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
        server.close()
        assert server.stats().failures == 0
        assert server.stats().connections == 0
    source.release()
    assert open_files() == before


@pytest.fixture
def server(serve: Callable[..., PeerServer]) -> PeerServer:
    return serve()


@pytest.fixture
def caller(server: PeerServer) -> Iterator[PeerCaller]:
    with known(server) as caller:
        yield caller


def known(server: PeerServer) -> PeerCaller:
    caller = PeerCaller(server.address)
    assert caller.meet(TERMS) == {"name": "m1"}
    return caller


def wait_until(holds: Callable[[], bool], caller: PeerCaller) -> None:
    """Ask a server for something again and again until it has noticed what happened elsewhere."""
    for _ in range(20_000):
        if holds():
            return
        caller.answer(frame(Kind.PING))
    raise AssertionError("it never came true")


def plain(kind: Kind, *header: int) -> Frame:
    return Frame(kind, list(header), bytearray())


def content(found: Frame, block: Name, start: int, stop: int) -> bytes:
    """Return the bytes of a PART, which are checked."""
    assert found.kind == Kind.PART
    first, last = bounds(touched(start, stop), block.length)
    one, size = read_part(found.header, [(block.length, start, stop)])
    assert size == len(found.body) == last - first
    assert segment_sums(memoryview(found.body)) == one.sums
    return bytes(found.body[start - first : stop - first])


# ---------------------------------------------------------------------- requests


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (0, SEGMENT_BYTES),
        (SEGMENT_BYTES - 1, SEGMENT_BYTES),
        (SEGMENT_BYTES - 1, SEGMENT_BYTES + 1),
        (SEGMENT_BYTES, 2 * SEGMENT_BYTES),
        (len(BLOCK) - 1, len(BLOCK)),
        (0, len(BLOCK)),
    ],
)
def test_a_range_comes_in_whole_segments_with_their_checksums(
    source: FilesSource, caller: PeerCaller, start: int, stop: int, in_memory: bool
) -> None:
    block = source.add("b", BLOCK)
    if in_memory:
        source.in_memory.add("b")
    assert content(caller.get(block, start, stop), block, start, stop) == BLOCK[start:stop]


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_block_larger_than_any_buffer_arrives_whole(
    source: FilesSource, caller: PeerCaller, server: PeerServer, in_memory: bool
) -> None:
    block = source.add("b", os.urandom(16 << 20))
    if in_memory:
        source.in_memory.add("b")
    for _ in range(3):
        found = caller.get(block)
        assert content(found, block, 0, block.length) == source.stored["b"]
    assert server.stats().parts == server.stats().hits == 3
    assert server.stats().sent_bytes > 48 << 20


def test_a_block_that_is_not_cached_is_loaded_unless_only_a_cached_one_is_wanted(
    source: FilesSource, caller: PeerCaller, server: PeerServer
) -> None:
    block = source.add("b", BLOCK, cached=False)
    assert caller.answer(get(block, 0, 10, cached=True)) == plain(Kind.MISS)
    assert source.calls["load"] == 0
    assert content(caller.get(block, 5, 10), block, 5, 10) == BLOCK[5:10]
    assert caller.answer(get(block, 0, 10, cached=True)).kind == Kind.PART
    assert (server.stats().loads, server.stats().misses, server.stats().hits) == (1, 1, 1)


def test_a_load_that_fails_is_a_miss_and_one_too_many_is_busy(
    source: FilesSource, caller: PeerCaller, server: PeerServer
) -> None:
    assert caller.get(Name("nowhere", 10)).kind == Kind.MISS
    source.is_busy = True
    assert caller.get(Name("nowhere", 10)).kind == Kind.BUSY
    assert (server.stats().misses, server.stats().busy) == (1, 1)


def test_a_caller_that_waits_for_a_load_hears_that_it_goes_on(
    source: FilesSource, serve: Callable[..., PeerServer]
) -> None:
    source.is_held = True
    block = source.add("b", BLOCK, cached=False)
    with known(serve(beat_s=0.01)) as caller:
        caller.send(get(block, 0, block.length))
        assert [caller.receive() for _ in range(3)] == [plain(Kind.LOADING)] * 3
        source.release()
        found = caller.receive()
        while found.kind == Kind.LOADING:
            found = caller.receive()
        assert content(found, block, 0, block.length) == BLOCK


def test_of_many_blocks_the_cached_come_first_and_the_others_as_they_are_loaded(
    source: FilesSource, caller: PeerCaller
) -> None:
    blocks = [
        source.add(f"b{number}", BLOCK[number:], cached=number % 2 == 1) for number in range(6)
    ]
    source.failing.add("b2")
    source.is_held = True
    caller.send(get_many(blocks))
    order = []
    for step in ((), ("b4",), ("b2",), ("b0",)):
        if step:
            source.wait_for(1)
            source.release(*step)
        for _ in range(1 if step else 3):
            found = caller.answer()
            order.append((found.kind.name, found.header[0]))
            if found.kind == Kind.PART:
                assert bytes(found.body) == BLOCK[found.header[0] :]
    assert order == [("PART", 1), ("PART", 3), ("PART", 5), ("PART", 4), ("MISS", 2), ("PART", 0)]
    assert caller.answer().kind == Kind.DONE


def test_a_caller_that_does_not_read_holds_few_files(
    source: FilesSource, server: PeerServer
) -> None:
    """However many of the blocks that were loaded for him are ready."""
    blocks = [source.add(f"b{n}", bytes(1 << 20), cached=False) for n in range(50)]
    source.is_held = True
    with known(server) as slow, known(server) as other:
        slow.send(get_many(blocks))
        source.wait_for(50)
        before = open_files()
        source.is_held = False
        source.release()
        wait_until(lambda: server.stats().loads == 50, other)
        for _ in range(100):  # the results have come to their connection behind these
            other.answer(frame(Kind.PING))
        assert open_files() <= before + 3
        found = [slow.answer() for _ in range(50)]
        assert sorted(one.header[0] for one in found) == list(range(50))
        assert all(one.kind == Kind.PART and not any(one.body) for one in found)
        assert slow.answer().kind == Kind.DONE


def test_many_blocks_are_loaded_a_bounded_number_at_a_time(
    source: FilesSource, caller: PeerCaller
) -> None:
    blocks = [source.add(f"b{number}", b"x%d" % number, cached=False) for number in range(KEYS_MAX)]
    source.is_held = True
    caller.send(get_many(blocks))
    source.wait_for(64)
    assert source.calls["load"] == 64
    source.is_held = False
    source.release()
    numbers = set()
    while (found := caller.answer()).kind == Kind.PART:
        assert bytes(found.body) == b"x%d" % found.header[0]
        numbers.add(found.header[0])
    assert found.kind == Kind.DONE
    assert numbers == set(range(KEYS_MAX))


def test_of_many_blocks_those_that_cannot_be_loaded_are_busy(
    source: FilesSource, caller: PeerCaller
) -> None:
    blocks = [source.add("here", BLOCK), Name("one", 5), Name("two", 6)]
    source.is_busy = True
    found = caller.get_many(blocks)
    assert [(one.kind.name, one.header[:1]) for one in found] == [
        ("PART", [0]),
        ("BUSY", [1]),
        ("BUSY", [2]),
        ("DONE", []),
    ]


def test_of_many_blocks_one_that_goes_before_its_turn_is_loaded(tmp_path: Path) -> None:
    class Hasty(FilesSource):
        def has(self, block: Name) -> bool:
            return True

    source = Hasty(tmp_path)
    blocks = [source.add("gone", b"gone", cached=False), source.add("here", BLOCK)]
    server = PeerServer(("127.0.0.1", 0), TERMS, source, lambda: {"name": "m1"})
    server.start()
    with known(server) as caller:
        found = caller.get_many(blocks)
    server.close()
    assert [one.kind.name for one in found] == ["PART", "PART", "DONE"]
    assert {one.header[0]: bytes(one.body) for one in found[:2]} == {0: b"gone", 1: BLOCK}
    assert server.stats().loads == 1


def test_has_evict_report_stats_and_ping(source: FilesSource, caller: PeerCaller) -> None:
    here, there = source.add("here", BLOCK), source.add("there", BLOCK)
    gone = Name("gone", 7)
    assert caller.answer(frame(Kind.HAS, [here, gone, there])).header == [b"\1\0\1"]
    assert caller.answer(frame(Kind.REPORT, here)).header == [False]
    source.bad.add("here")
    assert caller.answer(frame(Kind.REPORT, here)).header == [True]
    assert caller.answer(frame(Kind.HAS, [here, gone, there])).header == [b"\0\0\1"]
    assert caller.answer(frame(Kind.EVICT, [here, gone, there])).header == [1]
    source.facts = {"used_bytes": 1 << 40, "name": "m1"}
    assert caller.answer(frame(Kind.STATS)).header == [source.facts]
    assert caller.answer(frame(Kind.PING)) == plain(Kind.DONE)


def test_facts_that_do_not_fit_into_a_header_are_left_out(
    source: FilesSource, caller: PeerCaller, caplog: pytest.LogCaptureFixture
) -> None:
    source.facts = {"long": "x" * 70_000}
    assert caller.answer(frame(Kind.STATS)).header == [{}]
    assert "left out" in caplog.text


def test_warming_tells_of_each_block_as_it_ends(source: FilesSource, caller: PeerCaller) -> None:
    names = [
        source.add("here", BLOCK),
        source.add("slow", BLOCK, cached=False),
        Name("nowhere", 5),
    ]
    source.is_held = True
    caller.send(frame(Kind.WARM, names))
    source.wait_for(3)
    for name, number, outcome in (
        ("nowhere", 2, Warmed.FAILED),
        ("slow", 1, Warmed.LOADED),
        ("here", 0, Warmed.CACHED),
    ):
        source.release(name)
        assert caller.answer() == plain(Kind.STEP, number, outcome)
    assert caller.answer().kind == Kind.DONE
    source.is_busy = True
    assert caller.answer(frame(Kind.WARM, names)) == plain(Kind.BUSY)
    assert caller.answer(frame(Kind.PING)) == plain(Kind.DONE)


def test_warming_more_than_goes_at_once(source: FilesSource, caller: PeerCaller) -> None:
    names = [source.add(f"b{number}", b"abc", cached=False) for number in range(200)]
    source.is_held = True
    caller.send(frame(Kind.WARM, names))
    source.wait_for(64)
    assert source.calls["warm"] == 64
    source.is_held = False
    source.release()
    steps = [caller.answer() for _ in range(200)]
    assert sorted(one.header for one in steps) == [[n, Warmed.LOADED] for n in range(200)]
    assert caller.answer().kind == Kind.DONE


def test_a_block_is_kept_when_its_checksums_hold(source: FilesSource, caller: PeerCaller) -> None:
    block = Name("new", len(BLOCK))
    assert caller.put(block, BLOCK).header == [True]
    assert content(caller.get(block), block, 0, len(BLOCK)) == BLOCK
    source.failing.add("other")
    assert caller.put(Name("other", 4), b"abcd").header == [False]
    source.is_busy = True
    assert caller.put(Name("third", 4), b"abcd").kind == Kind.BUSY
    assert caller.answer(frame(Kind.PING)).kind == Kind.DONE


def test_a_block_whose_checksums_differ_is_not_kept(
    source: FilesSource, caller: PeerCaller, server: PeerServer
) -> None:
    wrong = BLOCK[:-1] + b"!"
    caller.send(put(Name("new", len(BLOCK)), segment_sums(memoryview(BLOCK))), wrong)
    assert caller.is_closed()
    assert source.calls["keep"] == 0
    assert server.stats().protocol_errors == 1


def test_blocks_beyond_the_room_for_them_pass_by_and_the_room_comes_back(
    source: FilesSource, serve: Callable[..., PeerServer]
) -> None:
    server = serve(put_bytes_max=10_000)
    body = bytes(6000)
    with known(server) as first, known(server) as second:
        source.is_held = True
        sums = segment_sums(memoryview(body))
        first.send(put(Name("a", 6000), sums), body)
        source.wait_for(1)
        assert second.put(Name("b", 6000), body).kind == Kind.BUSY
        source.is_held = False
        source.release()
        assert first.answer().header == [True]
        assert second.put(Name("b", 6000), body).header == [True]
        assert second.put(Name("c", 10_001), bytes(10_001)).kind == Kind.BUSY
        # A caller that goes in the middle of a body takes its room with it.
        first.send(put(Name("d", 6000), sums), body[:100])
        first.close()
        wait_until(lambda: server.stats().connections == 1, second)
        assert second.put(Name("e", 10_000), bytes(10_000)).header == [True]
        # And one that goes while its block is being kept.
        source.is_held = True
        third = known(server)
        third.send(put(Name("f", 6000), sums), body)
        source.wait_for(1)
        third.close()
        wait_until(lambda: server.stats().connections == 1, second)
        assert second.put(Name("g", 6000), body).kind == Kind.BUSY
        source.is_held = False
        source.release()
        assert second.put(Name("g", 10_000), bytes(10_000)).header == [True]


def test_requests_sent_ahead_are_answered_in_their_order(
    source: FilesSource, caller: PeerCaller
) -> None:
    blocks = [source.add(f"b{n}", os.urandom(300_000), cached=n % 2 == 0) for n in range(10)]
    caller.send(b"".join(get(block, 0, block.length) for block in blocks))
    for block in blocks:
        assert bytes(caller.answer().body) == source.stored[block.name]


def test_endless_requests_ahead_are_refused(caller: PeerCaller, server: PeerServer) -> None:
    caller.send(frame(Kind.PING) * 65)
    assert caller.is_closed()
    assert server.stats().protocol_errors == 1


# ---------------------------------------------------------------------- who is let in


@pytest.mark.parametrize(
    ("terms", "error", "words"),
    [
        (Terms("volume", "group", b"another"), PeerDeniedError, "secret"),
        (Terms("other", "group", TERMS.secret), PeerDeniedError, "another volume"),
        (Terms("volume", "other", TERMS.secret), PeerDeniedError, "another cache group"),
        (Terms("volume", "group", TERMS.secret, (2, 3)), PeerProtocolError, "update the older"),
        (Terms("volume", "group", b""), PeerDeniedError, "secret"),
    ],
)
def test_who_is_of_another_group_is_told_why_and_gets_nothing(
    server: PeerServer, terms: Terms, error: type[Exception], words: str
) -> None:
    with PeerCaller(server.address) as caller:
        with pytest.raises(error, match=words) as raised:
            caller.meet(terms)
        assert "a secret of the group" not in str(raised.value)
        assert caller.is_closed()
    assert server.stats().refused == 1


def test_a_newer_caller_that_knows_our_version_is_served(server: PeerServer) -> None:
    with PeerCaller(server.address) as caller:
        caller.meet(Terms(TERMS.volume, TERMS.group, TERMS.secret, (1, 2)))
        assert caller.answer(frame(Kind.PING)).kind == Kind.DONE


def test_nothing_is_answered_before_the_handshake(server: PeerServer, source: FilesSource) -> None:
    block = source.add("b", BLOCK)
    for request in (get(block, 0, 1), frame(Kind.PING), frame(Kind.HAS, [block]), b"GET / HTTP/1"):
        with PeerCaller(server.address) as caller:
            assert caller.answer(request.ljust(16)).kind == Kind.REFUSED
            assert caller.is_closed()
    assert source.calls["find"] == source.calls["has"] == 0


@pytest.mark.parametrize("kind", [Kind.CHALLENGE, Kind.HELLO, Kind.REFUSED])
def test_a_frame_of_the_handshake_is_no_request_even_right_behind_it(
    server: PeerServer, kind: Kind
) -> None:
    with PeerCaller(server.address) as one:
        caller = Caller(TERMS, bytes(NONCE_BYTES))
        one.send(caller.hello())
        one.send(caller.prove(one.receive()) + frame(kind, [1]))
        assert one.is_closed()
    assert server.stats().protocol_errors == 1
    assert server.stats().failures == 0


def test_a_stranger_that_says_nothing_is_closed(serve: Callable[..., PeerServer]) -> None:
    server = serve(handshake_s=0.02, beat_s=0.01)
    with PeerCaller(server.address) as caller:
        assert caller.is_closed()
    assert server.stats().refused == 1


def test_strangers_and_callers_beyond_their_number_are_turned_away(
    serve: Callable[..., PeerServer],
) -> None:
    server = serve(strangers_max=2, connections_max=3)
    with ExitStack() as stack:
        strangers = [stack.enter_context(PeerCaller(server.address)) for _ in range(2)]
        late = stack.enter_context(PeerCaller(server.address))
        assert late.receive().kind == Kind.BUSY
        assert late.is_closed()
        for one in strangers:
            one.meet(TERMS)
        stack.enter_context(known(server))
        late = stack.enter_context(PeerCaller(server.address))
        assert late.receive().kind == Kind.BUSY
        strangers[0].close()
        wait_until(lambda: server.stats().connections == 2, strangers[1])
        stack.enter_context(known(server))
    assert server.stats().busy == 2


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"x" * 16, id="no magic"),
        pytest.param(PREFIX.pack(b"JC", 99, 0, 0, 0), id="no kind"),
        pytest.param(PREFIX.pack(b"JC", Kind.GET, 1, 0, 0), id="no zero"),
        pytest.param(PREFIX.pack(b"JC", Kind.GET, 0, 1 << 20, 0), id="header too long"),
        pytest.param(PREFIX.pack(b"JC", Kind.PUT, 0, 0, 1 << 40), id="body too long"),
        pytest.param(PREFIX.pack(b"JC", Kind.GET, 0, 0, 5), id="body of a GET"),
        pytest.param(PREFIX.pack(b"JC", Kind.PUT, 0, 0, 0), id="empty PUT"),
        pytest.param(PREFIX.pack(b"JC", Kind.GET, 0, 4, 0) + b"\xc1\xc1\xc1\xc1", id="no msgpack"),
        pytest.param(frame(Kind.GET, ["b", 10, 0, 11, False]), id="past the end"),
        pytest.param(frame(Kind.GET, ["b", 10, 5, 5, False]), id="empty range"),
        pytest.param(frame(Kind.GET, ["b", 10, 0, 5, 0]), id="no flag"),
        pytest.param(frame(Kind.GET_MANY, []), id="no blocks"),
        pytest.param(frame(Kind.HAS, [["b", 1]] * (KEYS_MAX + 1)), id="too many blocks"),
        pytest.param(frame(Kind.WARM, [["b"]]), id="no length"),
        pytest.param(frame(Kind.EVICT, ["b"]), id="no pairs"),
        pytest.param(frame(Kind.REPORT, ["b", 0]), id="no bytes"),
        pytest.param(frame(Kind.STATS, [1]), id="STATS of something"),
        pytest.param(frame(Kind.PUT, ["b", 3, b"1234"], 2) + b"ab", id="short PUT"),
        pytest.param(frame(Kind.HELLO, [1, 1, "volume", "group", bytes(32)]), id="HELLO again"),
        pytest.param(frame(Kind.DONE), id="an answer"),
        pytest.param(frame(Kind.PART, [0, b""], 3) + b"abc", id="a part"),
    ],
)
def test_who_sends_what_is_no_request_is_closed_and_the_others_are_served(
    server: PeerServer, source: FilesSource, wrong: bytes
) -> None:
    block = source.add("b", BLOCK)
    with known(server) as good, known(server) as bad:
        bad.send(wrong)
        assert bad.is_closed()
        assert bytes(good.get(block).body) == BLOCK
    assert server.stats().protocol_errors == 1


def test_a_caller_that_goes_before_its_block_is_loaded_leaves_no_file_open(
    server: PeerServer, source: FilesSource, caller: PeerCaller
) -> None:
    blocks = [source.add(f"b{number}", BLOCK, cached=False) for number in range(20)]
    source.is_held = True
    before = open_files()
    leaving = known(server)
    leaving.send(get_many(blocks))
    source.wait_for(20)
    leaving.close()
    wait_until(lambda: server.stats().connections == 1, caller)
    assert open_files() == before
    source.release()
    caller.answer(frame(Kind.PING))
    wait_until(lambda: open_files() == before, caller)


def test_a_load_that_ends_behind_the_server_leaves_no_file_open(
    serve: Callable[..., PeerServer], source: FilesSource
) -> None:
    server = serve()
    source.is_held = True
    block = source.add("b", BLOCK, cached=False)
    with known(server) as caller:
        caller.send(get(block, 0, 1))
        source.wait_for(1)
        server.close()
        before = open_files()
        source.release()
        assert open_files() == before
        assert caller.is_closed()


def test_a_caller_that_does_not_read_holds_nobody_up_and_is_closed(
    serve: Callable[..., PeerServer], source: FilesSource
) -> None:
    server = serve(stalled_s=0.3, beat_s=0.05)
    block = source.add("b", os.urandom(16 << 20))
    small = source.add("s", BLOCK)
    before = open_files()
    with ExitStack() as stack:
        good = stack.enter_context(known(server))
        for _ in range(8):
            stack.enter_context(known(server)).send(get_many([block] * 4))
        for _ in range(200):
            assert bytes(good.get(small).body) == BLOCK
        wait_until(lambda: server.stats().connections == 1, good)
        assert server.stats().stalled == 8
        assert open_files() == before + 2 + 8  # our own ends, and the one of the server
        assert bytes(good.get(small).body) == BLOCK


def test_a_request_that_stops_half_way_and_an_idle_caller_are_closed(
    serve: Callable[..., PeerServer],
) -> None:
    server = serve(stalled_s=0.05, beat_s=0.01)
    with known(server) as caller:
        caller.send(put(Name("b", 100), (0,)), b"some")
        assert caller.is_closed()
    assert server.stats().stalled == 1
    server = serve(idle_s=0.05, beat_s=0.01)
    with known(server) as caller:
        assert caller.is_closed()
    assert server.stats().stalled == 0


def test_a_file_that_is_shorter_than_it_was_ends_the_connection_only(
    server: PeerServer, source: FilesSource, caller: PeerCaller, tmp_path: Path
) -> None:
    block = source.add("b", BLOCK)
    os.truncate(tmp_path / "b", 1000)
    with known(server) as other:
        other.send(get(block, 0, block.length))
        assert other.is_closed()
    assert caller.answer(frame(Kind.PING)).kind == Kind.DONE


def test_an_error_of_the_source_is_logged_and_ends_the_connection_only(
    source: FilesSource, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FilesSource):
        def has(self, block: Name) -> bool:
            raise ZeroDivisionError

    server = PeerServer(("127.0.0.1", 0), TERMS, Broken(Path()), lambda: {"name": "m1"})
    server.start()
    with known(server) as caller, known(server) as other:
        caller.send(frame(Kind.HAS, [["b", 1]]))
        assert caller.is_closed()
        assert other.answer(frame(Kind.PING)).kind == Kind.DONE
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text
    assert server.stats().failures == 1
    server.close()


def test_hundreds_of_callers_at_once(server: PeerServer, source: FilesSource) -> None:
    blocks = [source.add(f"b{n}", os.urandom(100_000 + n), cached=n % 2 == 0) for n in range(20)]
    before = open_files()
    with ExitStack() as stack:
        callers = [stack.enter_context(known(server)) for _ in range(300)]
        assert server.stats().connections == 300
        for turn in range(2):
            for number, caller in enumerate(callers):
                block = blocks[(number + turn) % 20]
                caller.send(get(block, 0, block.length))
            for number, caller in enumerate(callers):
                name = blocks[(number + turn) % 20].name
                assert bytes(caller.answer().body) == source.stored[name]
        assert open_files() == before + 2 * 300
    with known(server) as last:
        wait_until(lambda: server.stats().connections == 1, last)
    assert server.stats().accepted == 301


def test_callers_on_threads_of_their_own_get_their_own_bytes(
    server: PeerServer, source: FilesSource
) -> None:
    blocks = [source.add(f"b{n}", os.urandom(70_000 * (n + 1)), cached=False) for n in range(8)]
    wrong: list[str] = []

    def read(first: int) -> None:
        with known(server) as caller:
            for number in range(first, first + 40):
                block = blocks[number % 8]
                if bytes(caller.get(block).body) != source.stored[block.name]:
                    wrong.append(block.name)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert server.stats().parts == 320


# ---------------------------------------------------------------------- begin and end


def test_an_address_that_cannot_be_had_is_named(server: PeerServer, source: FilesSource) -> None:
    second = PeerServer(server.address, TERMS, source, dict)
    with pytest.raises(ConfigError, match=rf"group_ip 127.0.0.1, group_port {server.address[1]}"):
        second.start()
    second.close()
    with pytest.raises(ClosedError):
        second.start()


def test_draining_answers_what_is_under_way_and_lets_the_idle_go(
    server: PeerServer, source: FilesSource, caller: PeerCaller
) -> None:
    block = source.add("b", BLOCK, cached=False)
    source.is_held = True
    with known(server) as waiting, PeerCaller(server.address):
        waiting.send(get(block, 0, block.length))
        source.wait_for(1)
        server.drain(0)
        assert caller.is_closed()
        with pytest.raises(ConnectionError):
            socket.create_connection(server.address)
        source.release()
        assert bytes(waiting.answer().body) == BLOCK
        assert waiting.is_closed()
        server.drain(20)
        assert server.stats().connections == 0


def test_closing_ends_what_is_under_way(
    server: PeerServer, source: FilesSource, caller: PeerCaller
) -> None:
    source.is_held = True
    block = source.add("b", BLOCK, cached=False)
    caller.send(get(block, 0, block.length))
    source.wait_for(1)
    server.drain(0.01)
    assert server.stats().connections == 1
    server.close()
    assert caller.is_closed()


def test_a_forked_child_holds_no_copy_of_a_socket(
    server: PeerServer, source: FilesSource, caller: PeerCaller
) -> None:
    block = source.add("b", BLOCK)
    assert bytes(caller.get(block).body) == BLOCK
    served = _sockets_on(server.address[1])
    assert len(served) == 3  # listening, the server's end, the caller's
    waits = _open_links().count("anon_inode:[eventpoll]")
    said, says = os.pipe()
    go, goes = os.pipe()
    child = os.fork()
    if not child:
        try:
            caller.close()
            links = _open_links()
            held = len(served.intersection(links))
            waits -= links.count("anon_inode:[eventpoll]")
            began_s = time.monotonic()
            server.drain(10)
            server.close()
            os.write(says, struct.pack("iid", held, waits, time.monotonic() - began_s))
            os.read(go, 1)
        finally:
            os._exit(0)
    try:
        held, waits, drained_s = struct.unpack("iid", os.read(said, 16))
        assert drained_s < 5
        assert held == 0
        assert waits >= 2  # both loops of the server
        assert served.issubset(_open_links())
        assert bytes(caller.get(block).body) == BLOCK  # the parent goes on
        server.close()
        with pytest.raises(ConnectionError):
            socket.create_connection(server.address)
    finally:
        os.write(goes, b"x")
        os.waitpid(child, 0)
        for fd in (said, says, go, goes):
            os.close(fd)


def test_a_copy_of_a_closed_connection_elsewhere_disturbs_nobody(
    server: PeerServer, caller: PeerCaller
) -> None:
    """As a child has that is between fork and exec, or was made by a library in C."""
    wrong = [known(server), known(server)]
    fds = [int(fd) for fd in os.listdir("/proc/self/fd")]
    copies = [os.dup(fd) for fd in fds if _is_open(fd) and stat.S_ISSOCK(os.fstat(fd).st_mode)]
    try:
        for one in wrong:
            one.send(b"x" * PREFIX.size)
        wait_until(lambda: server.stats().protocol_errors == len(wrong), caller)
        for one in wrong:
            one.send(b"they are heard by nobody")
        for _ in range(4):  # on each thread
            with known(server) as right:
                assert right.answer(frame(Kind.PING)) == plain(Kind.DONE)
        began_s = time.process_time()
        threading.Event().wait(0.2)
        assert time.process_time() - began_s < 0.1
    finally:
        for copy in copies:
            os.close(copy)
        for one in wrong:
            one.close()


def _open_links() -> list[str]:
    """Return what each descriptor of this process stands for."""
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in range(1024) if _is_open(fd)]


def _sockets_on(port: int) -> set[str]:
    """Return the sockets with an end at a port, as `_open_links` names them."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    end = f":{port:04X}"
    held = [row for row in rows if row[1].endswith(end) or row[2].endswith(end)]
    return {f"socket:[{row[9]}]" for row in held if row[9] != "0"}  # else of a past connection


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
