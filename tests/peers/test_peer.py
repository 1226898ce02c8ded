from __future__ import annotations

import gc
import os
import socket
import struct
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from juicecache.errors import PeerError, PeerUnavailableError
from juicecache.model.segments import SEGMENT_BYTES, pack_sums, segment_sums
from juicecache.peers import peer as peer_module
from juicecache.peers.handshake import Terms
from juicecache.peers.link import Address, Dialing
from juicecache.peers.peer import Peer
from juicecache.peers.server import PeerServer, ServerLimits
from juicecache.peers.source import Warmed
from juicecache.peers.wire import Kind, Name, frame, part
from juicecache.testing.certificates import Authority
from juicecache.testing.peer_source import FilesSource
from juicecache.testing.scripted_member import Guest, ScriptedMember

TERMS = Terms("volume", "group", b"a secret of the group")
TIMEOUT_S = 0.2
SLACK_S = 0.15
"""What a busy machine may add."""
DIALING = Dialing(TERMS, TIMEOUT_S)
BLOCK = os.urandom(2 * SEGMENT_BYTES + 99)
NAME = Name("b", len(BLOCK))
PAUSE_S = 0.02


@pytest.fixture(autouse=True)
def _no_socket_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peer_module, "_PROBE_PAUSE_S", PAUSE_S)
    before = open_files()
    yield
    assert open_files() == before


@pytest.fixture
def source(tmp_path: Path) -> FilesSource:
    source = FilesSource(tmp_path)
    source.add("b", BLOCK)
    return source


@pytest.fixture
def serve(source: FilesSource) -> Iterator[Callable[..., PeerServer]]:
    servers: list[PeerServer] = []

    def start(address: Address = ("127.0.0.1", 0), terms: Terms = TERMS) -> PeerServer:
        limits = ServerLimits(beat_s=TIMEOUT_S / 4)
        servers.append(PeerServer(address, terms, source, dict, limits=limits))
        servers[-1].start()
        return servers[-1]

    yield start
    source.release()
    for server in servers:
        server.close()
        assert server.stats().failures == 0


@pytest.fixture
def server(serve: Callable[..., PeerServer]) -> PeerServer:
    return serve()


@pytest.fixture
def peer(server: PeerServer) -> Iterator[Peer]:
    peer = Peer("m1", server.address, DIALING)
    yield peer
    peer.close()
    peer.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(holds: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.002)


def whole_part(content: bytes, number: int = 0) -> bytes:
    sums = pack_sums(segment_sums(memoryview(content)))
    return part(number, sums, len(content)) + content


def bad_part(content: bytes, number: int = 0) -> bytes:
    return whole_part(content, number)[:-1] + bytes([content[-1] ^ 1])


def whole(peer: Peer) -> memoryview | None:
    return peer.fetch(NAME, 0, len(BLOCK))


def in_child(act: Callable[[], object]) -> None:
    """Do something in a forked child, which must end well, with warnings as errors."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            act()
            gc.collect()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


# ---------------------------------------------------------------------- what it gives


def test_blocks_and_ranges_come_and_are_counted(source: FilesSource, peer: Peer) -> None:
    found = whole(peer)
    assert found == BLOCK
    assert type(found.obj) is bytes
    assert peer.fetch(NAME, SEGMENT_BYTES - 1, SEGMENT_BYTES + 1) == BLOCK[65535:65537]
    assert peer.fetch(Name("none", 1), 0, 1) is None
    source.add("cold", b"abc", cached=False)
    assert peer.fetch(Name("cold", 3), 0, 3, cached=True) is None
    assert source.calls["load"] == 1
    assert peer.put(Name("new", 3), b"new")
    stats = peer.stats()
    assert (stats.gets, stats.hits, stats.misses) == (4, 2, 2)
    assert (stats.busy, stats.errors, stats.corrupt, stats.puts) == (0, 0, 0, 1)
    assert stats.bytes == len(BLOCK) + 2
    assert stats.seconds > 0
    assert (stats.name, stats.state, stats.reason) == ("m1", "up", "")
    assert stats.address == f"127.0.0.1:{peer.address[1]}"


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert Peer("m", ("::1", 7), DIALING).stats().address == "[::1]:7"


def test_one_connection_serves_one_thread(server: PeerServer, peer: Peer) -> None:
    for _ in range(20):
        assert whole(peer) == BLOCK
    assert list(peer.fetch_many([NAME])) == [(0, BLOCK)]
    peer.look()
    assert server.stats().accepted == 1


def test_one_that_is_busy_stays_up(source: FilesSource, peer: Peer) -> None:
    source.is_busy = True
    assert peer.fetch(Name("none", 1), 0, 1) is None
    assert [content for _, content in peer.fetch_many([Name("none", 1), NAME])].count(BLOCK) == 1
    assert not peer.put(Name("new", 1), b"x")
    stats = peer.stats()
    assert (stats.state, stats.busy, stats.misses, stats.errors) == ("up", 2, 0, 0)


def test_one_with_too_many_connections_is_busy() -> None:
    def script(guest: Guest) -> None:
        guest.receive()
        guest.send(frame(Kind.BUSY))

    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        assert whole(peer) is None
        assert list(peer.fetch_many([NAME, NAME])) == [(0, None), (1, None)]
        assert peer.is_up
        assert peer.stats().busy == 2
        peer.close()


def test_of_many_each_comes_once(source: FilesSource, peer: Peer) -> None:
    names = [source.add(f"b{n}", bytes([n]) * (1 + n), cached=n % 2 > 0) for n in range(20)]
    source.failing.update(("b2", "b4"))
    found = list(peer.fetch_many(names))
    assert sorted(n for n, _ in found) == list(range(20))
    for n, content in found:
        assert content == (None if n in (2, 4) else bytes([n]) * (1 + n))
    assert list(peer.fetch_many([])) == []
    stats = peer.stats()
    assert (stats.gets, stats.hits, stats.misses, stats.state) == (20, 18, 2, "up")


def test_warming_notes_what_became_of_each(source: FilesSource, peer: Peer) -> None:
    source.add("cold", b"abc", cached=False)
    noted: dict[int, int] = {}
    peer.warm([NAME, Name("cold", 3)], noted.__setitem__)
    assert noted == {0: Warmed.CACHED, 1: Warmed.LOADED}


# ---------------------------------------------------------------------- what goes wrong


def test_a_bad_copy_is_a_miss_that_the_member_hears_of() -> None:
    reports = []

    def script(guest: Guest) -> None:
        guest.meet(TERMS)
        for request in guest.requests():
            if request.kind == Kind.REPORT:
                reports.append(request.header)
                guest.send(frame(Kind.DONE, [True]))
            elif request.kind == Kind.GET:
                guest.send(bad_part(BLOCK))
            else:
                guest.send(whole_part(BLOCK, 2), bad_part(BLOCK, 0), whole_part(BLOCK, 1))
                guest.send(frame(Kind.DONE))

    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        assert whole(peer) is None
        assert reports == [[*NAME]]
        assert list(peer.fetch_many([NAME] * 3)) == [(2, BLOCK), (1, BLOCK), (0, None)]
        assert reports == [[*NAME]] * 2
        stats = peer.stats()
        assert (stats.corrupt, stats.hits, stats.misses, stats.errors) == (2, 2, 0, 0)
        assert peer.is_up
        peer.close()
        assert member.visits == 1


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        whole_part(BLOCK, 1)[:-1],
        whole_part(BLOCK, 0),
        part(9, bytes(12), len(BLOCK)) + BLOCK,
        frame(Kind.MISS, [-1]),
        frame(Kind.BUSY, [1, 2])[:-1],
        b"nonsense, and more of that",
        frame(Kind.DONE, [1]),
    ],
)
def test_whatever_a_member_answers_of_many_each_comes_once(wrong: bytes) -> None:
    def script(guest: Guest) -> None:
        guest.meet(TERMS)
        guest.receive()
        guest.send(whole_part(BLOCK, 0), frame(Kind.BUSY, [3]), wrong)

    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        found = list(peer.fetch_many([NAME] * 5))
        assert sorted(n for n, _ in found) == list(range(5))
        assert found[0] == (0, BLOCK)
        assert all(content is None for _, content in found[1:])
        assert peer.is_up == (wrong == frame(Kind.DONE, [1]))
        peer.close()


def test_who_stops_reading_many_leaves_no_connection(server: PeerServer, peer: Peer) -> None:
    coming = peer.fetch_many([NAME] * 3)
    assert next(coming) == (0, BLOCK)
    coming.close()  # type: ignore[attr-defined]
    until(lambda: server.stats().connections == 0)
    assert peer.is_up
    assert whole(peer) == BLOCK


def ends(guest: Guest) -> None:
    guest.receive()


def resets(guest: Guest) -> None:
    guest.receive()
    guest.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def ends_in_the_middle(guest: Guest) -> None:
    guest.receive()
    guest.send(whole_part(BLOCK)[:-5])


def is_silent(guest: Guest) -> None:
    guest.receive()
    guest.wait_until_gone()


def talks_nonsense(guest: Guest) -> None:
    guest.receive()
    guest.send(b"220 mail.example.org ESMTP Postfix")
    guest.wait_until_gone()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (ends, "closed"),
        (resets, "reset"),
        (ends_in_the_middle, "closed"),
        (is_silent, "silent"),
        (talks_nonsense, "no frame"),
    ],
)
@pytest.mark.parametrize("after_handshake", [False, True])
def test_one_that_fails_is_down_at_once_and_comes_back(
    wrong: Callable[[Guest], None],
    reason: str,
    after_handshake: bool,
    serve: Callable[..., PeerServer],
) -> None:
    def script(guest: Guest) -> None:
        if after_handshake:
            guest.meet(TERMS)
        wrong(guest)

    if wrong is ends_in_the_middle and not after_handshake:
        reason = "a body came"
    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        began_s = time.time()
        assert whole(peer) is None
        assert not peer.is_up
        stats = peer.stats()
        assert (stats.state, stats.errors, stats.gets, stats.hits) == ("down", 1, 1, 0)
        assert reason in stats.reason
        assert stats.since_s >= began_s - 0.1
        until(lambda: peer.probe() or member.visits >= 2)
        until(lambda: peer.stats().errors >= 2 or peer.probe())
        assert not peer.is_up
    serve(member.address)
    until(lambda: peer.probe() or peer.is_up)
    assert whole(peer) == BLOCK
    assert peer.stats().reason == ""
    peer.close()


@pytest.mark.parametrize(
    "terms",
    [
        Terms("other", "group", TERMS.secret),
        Terms("volume", "other", TERMS.secret),
        Terms("volume", "group", b"wrong"),
        Terms("volume", "group", TERMS.secret, (7, 8)),
    ],
)
def test_one_of_others_is_down_and_says_why(server: PeerServer, terms: Terms) -> None:
    peer = Peer("m", server.address, Dialing(terms, TIMEOUT_S))
    assert whole(peer) is None
    assert "it refuses us: " in peer.stats().reason
    assert repr(terms.secret) not in repr(peer.stats())
    with pytest.raises(PeerError, match=r"m \(127\.0\.0\.1:"):
        peer.look()
    peer.close()


def test_tls_on_one_side_is_a_miss(server: PeerServer, tmp_path: Path) -> None:
    context = Authority(tmp_path).client_context(None)
    peer = Peer("m", ("localhost", server.address[1]), Dialing(TERMS, TIMEOUT_S, context))
    assert whole(peer) is None
    assert peer.stats().reason.startswith("TLS: ")


def test_silence_costs_no_more_than_the_time_limit() -> None:
    """Also on an idle connection: there is no second try with one that is silent."""

    def script(guest: Guest) -> None:
        guest.meet(TERMS)
        guest.receive()
        guest.send(whole_part(BLOCK))
        guest.wait_until_gone()

    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        assert whole(peer) == BLOCK
        for act in (lambda: whole(peer), lambda: dict(peer.fetch_many([NAME, NAME])).get(0)):
            began_s = time.monotonic()
            assert act() is None
            assert TIMEOUT_S <= time.monotonic() - began_s <= 1.25 * TIMEOUT_S + SLACK_S
            assert whole(peer) == BLOCK
        peer.close()


def test_a_probe_pause_grows_once_however_many_fail_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_module, "_PROBE_PAUSE_S", 100.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    peer = Peer("m", address, DIALING)
    with ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(lambda _: whole(peer), range(16)))
    assert peer.stats().errors == 16
    assert peer.probe_at_s <= time.monotonic() + 100
    peer.probe()  # not yet
    assert peer.stats().errors == 16


def test_pauses_between_probes_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_PROBE_PAUSE_S_MAX", 4 * PAUSE_S)
    with socket.create_server(("127.0.0.1", 0)) as free:
        peer = Peer("m", free.getsockname(), DIALING)
    assert whole(peer) is None
    pauses = []
    for _ in range(4):
        errors = peer.stats().errors
        until(lambda errors=errors: peer.probe() or peer.stats().errors > errors)
        pauses.append(peer.probe_at_s - time.monotonic())
    assert PAUSE_S < pauses[0] <= 2 * PAUSE_S
    assert 2 * PAUSE_S < pauses[1] <= 4 * PAUSE_S
    assert pauses[3] <= 4 * PAUSE_S


def test_one_that_answers_nothing_but_probes_is_asked_less_and_less() -> None:
    def script(guest: Guest) -> None:
        guest.meet(TERMS)
        for request in guest.requests():
            if request.kind != Kind.PING:
                return
            guest.send(frame(Kind.DONE))

    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        pauses = []
        for _ in range(3):
            assert whole(peer) is None
            assert not peer.is_up
            pauses.append(peer.probe_at_s - time.monotonic())
            until(lambda: peer.probe() or peer.is_up)
        peer.close()
    assert 0 < pauses[0] <= PAUSE_S < pauses[1] <= 2 * PAUSE_S < pauses[2] <= 4 * PAUSE_S


def test_what_a_member_says_of_itself_is_not_deep(source: FilesSource, peer: Peer) -> None:
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    flat: dict[str, object] = {
        "name": "m1",
        "used": 1,
        "states": ["up", None],
        "reasons": [],
        "share": 0.5,
        "": None,
    }
    flat["server"] = {"hits": 3}
    source.facts = flat | {"deep": deep, "more": [[1]], "map": {"a": [1]}, "raw": b"x"}
    assert peer.look() == flat


# ---------------------------------------------------------------------- idle connections


@pytest.mark.parametrize("act", ["fetch", "fetch_many", "put", "look", "warm"])
def test_a_member_that_was_started_anew_costs_no_failed_request(
    act: str, serve: Callable[..., PeerServer]
) -> None:
    server = serve()
    peer = Peer("m", server.address, DIALING)
    assert whole(peer) == BLOCK
    server.close()
    again = serve(server.address)
    if act == "fetch":
        assert whole(peer) == BLOCK
    elif act == "fetch_many":
        assert list(peer.fetch_many([NAME, NAME])) == [(0, BLOCK), (1, BLOCK)]
    elif act == "put":
        assert peer.put(Name("big", 4 << 20), bytes(4 << 20))
    elif act == "warm":
        noted: list[tuple[int, int]] = []
        peer.warm([NAME], lambda number, what: noted.append((number, what)))
        assert noted == [(0, Warmed.CACHED)]
    else:
        peer.look()
    assert peer.is_up
    assert peer.stats().errors == 0
    assert again.stats().accepted == 1
    peer.close()


def test_what_was_noted_is_not_noted_twice() -> None:
    """A member that dies while it warms is not asked for all of it again."""

    def script(guest: Guest) -> None:
        guest.meet(TERMS)
        for request in guest.requests():
            if request.kind == Kind.PING:
                guest.send(frame(Kind.DONE))
            else:
                guest.send(frame(Kind.STEP, [0, 1]))
                return

    with ScriptedMember(script) as member:
        peer = Peer("m", member.address, DIALING)
        peer.ask(frame(Kind.PING))
        noted: list[int] = []
        with pytest.raises(PeerUnavailableError, match=r"m \("):
            peer.warm([NAME, NAME], lambda number, _: noted.append(number))
        assert noted == [0]
        assert not peer.is_up


def test_many_threads_share_one_peer(
    source: FilesSource, server: PeerServer, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "_IDLE_MAX", 4)
    before = open_files()
    names = [source.add(f"b{n}", os.urandom(50_000 + n)) for n in range(16)]
    ready = threading.Barrier(16)

    def work(name: Name) -> None:
        ready.wait()
        for _ in range(20):
            found = peer.fetch(name, 0, name.length)
            assert found == source.stored[name.name]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, names))
    assert peer.is_up
    until(lambda: server.stats().connections <= 4)
    until(lambda: open_files() - before <= 2 * 4)


def test_closing_lets_those_who_read_end(source: FilesSource, server: PeerServer) -> None:
    peer = Peer("m", server.address, DIALING)
    assert whole(peer) == BLOCK
    source.add("cold", b"abc", cached=False)
    source.is_held = True
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(peer.fetch, Name("cold", 3), 0, 3)
        source.wait_for(1)
        peer.close()
        source.release()
        assert reading.result() == b"abc"
    until(lambda: server.stats().connections == 0)
    assert whole(peer) == BLOCK  # who still has it may use it, and leaves nothing behind
    until(lambda: server.stats().connections == 0)


# ---------------------------------------------------------------------- fork


def test_a_child_uses_connections_of_its_own(server: PeerServer, peer: Peer) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: whole(peer), range(50)))
    accepted = server.stats().accepted
    for _ in range(3):
        in_child(lambda: child_reads(peer))
        assert whole(peer) == BLOCK
    assert peer.stats().errors == 0
    assert server.stats().accepted == accepted + 3


def child_reads(peer: Peer) -> None:
    peer.after_fork_in_child()
    for _ in range(3):
        assert whole(peer) == BLOCK
    assert list(peer.fetch_many([NAME] * 2)) == [(0, BLOCK), (1, BLOCK)]
    peer.close()


def test_a_child_holds_no_connection_that_a_thread_of_its_parent_uses(
    source: FilesSource, server: PeerServer, peer: Peer
) -> None:
    source.add("cold", b"abc", cached=False)
    source.is_held = True
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(peer.fetch, Name("cold", 3), 0, 3)
        source.wait_for(1)

        def child() -> None:
            before = open_files()
            peer.after_fork_in_child()
            assert open_files() < before

        in_child(child)
        source.release()
        assert reading.result() == b"abc"


def test_a_child_that_reads_on_gets_misses_and_takes_nothing_from_its_parent(
    peer: Peer, source: FilesSource
) -> None:
    content = os.urandom(1 << 20)
    names = [source.add(f"b{n}", content) for n in range(4)]
    coming = peer.fetch_many(names)
    assert next(coming) == (0, content)

    def child() -> None:
        peer.after_fork_in_child()
        assert sorted(coming) == [(1, None), (2, None), (3, None)]

    in_child(child)
    assert list(coming) == [(n, content) for n in (1, 2, 3)]
