from __future__ import annotations

import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from juicecache.errors import ConfigError, MetaError
from juicecache.peers import group as group_module
from juicecache.peers import peer as peer_module
from juicecache.peers.group import Group
from juicecache.peers.handshake import Terms
from juicecache.peers.link import Address, Dialing
from juicecache.peers.members import AddressBook, Member
from juicecache.peers.peer import Peer
from juicecache.peers.server import PeerServer
from juicecache.peers.wire import Name
from juicecache.testing.peer_source import FilesSource
from juicecache.testing.scripted_member import Guest, ScriptedMember

TERMS = Terms("volume", "group", b"a secret of the group")
TIMEOUT_S = 0.2
DIALING = Dialing(TERMS, TIMEOUT_S)
HEARTBEAT_S = 0.1
KEYS = [f"block {n}".encode() for n in range(200)]
NOWHERE = [Member(f"m{n}", ("127.0.0.1", 1), 10, False) for n in range(5)]
"""Members whom nobody asks for anything."""


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peer_module, "_PROBE_PAUSE_S", 0.02)
    monkeypatch.setattr(group_module, "_PROBE_TICK_S", 0.01)
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    assert not group_threads()


@pytest.fixture
def build() -> Iterator[Callable[..., Group]]:
    """Make groups, which are closed at the end."""
    with ExitStack() as stack:

        def make(listing: Callable[[], Any], **options: Any) -> Group:
            dialing = options.pop("dialing", lambda: DIALING)
            options.setdefault("heartbeat_s", HEARTBEAT_S)
            group = Group("g", listing, dialing, **options)
            stack.callback(group.close)
            return group

        yield make


@pytest.fixture
def source(tmp_path: Path) -> FilesSource:
    return FilesSource(tmp_path)


@pytest.fixture
def serve(source: FilesSource) -> Iterator[Callable[..., tuple[PeerServer, Member]]]:
    with ExitStack() as stack:

        def start(name: str, address: Address = ("127.0.0.1", 0)) -> tuple[PeerServer, Member]:
            server = PeerServer(address, TERMS, source, dict)
            server.start()
            stack.callback(server.close)
            return server, Member(name, server.address, 10, False)

        yield start


def group_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "juicecache-group"]


def until(holds: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.002)


def routed(group: Group, keys: list[bytes] = KEYS) -> list[str | None]:
    found = [group.route(key) for key in keys]
    return [peer.name if peer is not None else None for peer in found]


# ---------------------------------------------------------------------- owners


def test_all_clients_come_to_the_same_owner(build: Callable[..., Group]) -> None:
    one = build(lambda: NOWHERE)
    shuffled = random.sample(NOWHERE, len(NOWHERE))
    other = build(lambda: shuffled)
    assert routed(one) == routed(other) == [one.owner_name(key) for key in KEYS]
    assert set(routed(one)) == {member.name for member in NOWHERE}


def test_one_of_weight_zero_owns_nothing(build: Callable[..., Group]) -> None:
    group = build(lambda: [*NOWHERE, Member("drained", ("127.0.0.1", 1), 0, False)])
    assert "drained" not in routed(group)
    assert group.stats().shares["drained"] == 0
    assert "drained" in group.peers()


def test_what_we_own_ourselves_we_load_ourselves(build: Callable[..., Group]) -> None:
    reader, member = build(lambda: NOWHERE), build(lambda: NOWHERE)
    member.join("m2", lambda: None)
    expected = [None if name == "m2" else name for name in routed(reader)]
    assert routed(member) == expected
    assert None in expected
    assert "m2" not in member.peers()
    assert [member.owner_name(key) for key in KEYS] == routed(reader)


def test_who_is_down_is_passed_over_and_comes_back(
    build: Callable[..., Group], serve: Callable[..., Any], source: FilesSource
) -> None:
    block = source.add("b", b"content")
    (first, a), (_, b), (_, c) = (serve(name) for name in "abc")
    members = [a, b, c]
    group = build(lambda: members)
    usual = routed(group)
    key = KEYS[usual.index("a")]
    first.close()
    peer = group.route(key)
    assert peer is not None
    assert peer.fetch(block, 0, 7) is None
    now = routed(group)
    assert "a" not in now
    assert [name for name in now if name is not None] == now
    assert all(after == before for before, after in zip(usual, now, strict=True) if before != "a")
    without = build(lambda: [b, c])
    assert now == routed(without)  # where they will be once the list is without it
    serve("a", first.address)
    until(lambda: routed(group) == usual)
    peer = group.route(key)
    assert peer is not None
    assert peer.fetch(block, 0, 7) == b"content"


def test_when_all_are_down_we_load_ourselves(build: Callable[..., Group]) -> None:
    group = build(lambda: NOWHERE, heartbeat_s=100.0)
    for peer in group.peers().values():
        assert peer.fetch(Name("b", 1), 0, 1) is None
    assert routed(group) == [None] * len(KEYS)
    assert {peer.state for peer in group.stats().peers} == {"down"}


def test_former_owners_leave_out_who_is_new_and_ourselves(build: Callable[..., Group]) -> None:
    new = Member("new", ("127.0.0.1", 1), 10, True)
    group = build(lambda: [*NOWHERE, new, Member("me", ("127.0.0.1", 1), 10, False)])
    group.join("me", lambda: None)
    former = [group.former_owner(key) for key in KEYS]
    names = {peer.name for peer in former if peer is not None}
    assert names == {member.name for member in NOWHERE}
    expected = build(lambda: NOWHERE)
    assert [peer.name for peer in former if peer is not None] == routed(expected)
    for peer in group.peers().values():
        peer.fetch(Name("b", 1), 0, 1)
    until(lambda: group.former_owner(KEYS[0]) is None)


def test_without_anybody_else_there_is_no_former_owner(build: Callable[..., Group]) -> None:
    group = build(lambda: [Member("new", ("127.0.0.1", 1), 10, True)])
    assert group.former_owner(b"key") is None


# ---------------------------------------------------------------------- the list


def test_who_joins_and_leaves_is_seen_within_a_heartbeat(build: Callable[..., Group]) -> None:
    members = NOWHERE[:2]
    readings = threading.Semaphore(0)

    def listing() -> list[Member]:
        readings.release()
        return members

    group = build(listing)
    assert set(routed(group)) == {"m0", "m1"}
    kept = group.peers()["m1"]
    members = NOWHERE[1:]
    began_s = time.monotonic()
    until(lambda: set(routed(group)) == {"m1", "m2", "m3", "m4"})
    assert time.monotonic() - began_s < 2 * HEARTBEAT_S + 0.3
    assert group.peers()["m1"] is kept
    members = [member._replace(address=("127.0.0.1", 2)) for member in NOWHERE]
    until(lambda: group.peers()["m1"].address[1] == 2)
    while readings.acquire(blocking=False):
        pass
    assert all(readings.acquire(timeout=5) for _ in range(3))


def test_too_few_members_are_not_used(build: Callable[..., Group]) -> None:
    members = NOWHERE[:2]
    group = build(lambda: members, size_min=3)
    assert routed(group) == [None] * len(KEYS)
    stats = group.stats()
    assert (stats.state, stats.reason) == ("waiting", "2 of 3 members are there")
    members = NOWHERE[:3]
    until(lambda: None not in routed(group))
    assert (group.stats().state, group.stats().reason) == ("ready", "")


@pytest.mark.parametrize(
    "error", [MetaError("down"), OSError("unreachable"), KeyError("a bug"), RuntimeError()]
)
def test_a_list_that_cannot_be_read_leaves_the_last_one(
    build: Callable[..., Group], error: Exception
) -> None:
    failing = True

    def listing() -> list[Member]:
        if failing:
            raise error
        return NOWHERE

    group = build(listing)
    assert routed(group) == [None] * len(KEYS)
    assert group.stats().state == "waiting"
    assert group.stats().reason == (str(error) or "RuntimeError")
    failing = False
    until(lambda: None not in routed(group))
    failing = True
    until(lambda: group.stats().reason)
    assert None not in routed(group)
    assert group.stats().state == "ready"


def test_not_to_know_how_to_dial_is_no_error_of_a_reader(build: Callable[..., Group]) -> None:
    found: list[Dialing] = []

    def dialing() -> Dialing:
        if not found:
            raise ConfigError("no certificate")
        return found[0]

    group = build(lambda: NOWHERE, dialing=dialing)
    assert routed(group) == [None] * len(KEYS)
    assert "no certificate" in group.stats().reason
    found.append(DIALING)
    until(lambda: None not in routed(group))


def test_a_slow_list_holds_up_nobody_who_has_one(build: Callable[..., Group]) -> None:
    entered, go_on = threading.Event(), threading.Event()
    calls = 0

    def listing() -> list[Member]:
        nonlocal calls
        calls += 1
        if calls > 1:
            entered.set()
            go_on.wait(10)
        return NOWHERE

    group = build(listing)
    before = routed(group)
    assert entered.wait(5)
    try:
        assert routed(group) == before
        assert group.stats().state == "ready"
        assert group.peers()
        assert group.owner_name(KEYS[0]) == before[0]
        assert group.former_owner(KEYS[0]) is not None
    finally:
        go_on.set()


def test_to_join_holds_up_no_reader(build: Callable[..., Group]) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def beat() -> None:
        entered.set()
        go_on.wait(10)

    group = build(lambda: NOWHERE)
    before = routed(group)
    joining = threading.Thread(target=group.join, args=("m2", beat))
    joining.start()
    assert entered.wait(5)
    try:
        assert routed(group) == before
    finally:
        go_on.set()
        joining.join()
    assert routed(group) == [None if name == "m2" else name for name in before]


def test_a_member_beats_before_each_reading_until_it_is_closed(
    build: Callable[..., Group],
) -> None:
    said: list[str] = []
    group = build(lambda: [said.append("listed"), NOWHERE][1])
    group.join("m2", lambda: said.append("alive"))
    until(lambda: len(said) >= 6)
    group.close()
    assert said[: len(said) // 2 * 2] == ["alive", "listed"] * (len(said) // 2)
    count = len(said)
    group.refresh()
    group.start()
    assert len(said) == count


def test_members_that_hang_do_not_delay_our_heartbeat(build: Callable[..., Group]) -> None:
    """Each takes a time limit to find out, and the others would think that we are gone."""
    beats: list[float] = []

    def silent(guest: Guest) -> None:
        guest.wait_until_gone()

    with ExitStack() as stack:
        hanging = [
            Member(f"h{n}", stack.enter_context(ScriptedMember(silent)).address, 1, False)
            for n in range(8)
        ]
        group = build(lambda: hanging)
        group.join("me", lambda: beats.append(time.monotonic()))
        threads = [
            threading.Thread(target=peer.fetch, args=(Name("b", 1), 0, 1))
            for peer in group.peers().values()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: all(peer.errors >= 2 for peer in group.stats().peers))
        group.close()
    gaps = [after - before for before, after in pairwise(beats)]
    assert max(gaps) < HEARTBEAT_S + 2 * TIMEOUT_S


# ---------------------------------------------------------------------- beginning and end


def test_nothing_begins_before_somebody_asks(build: Callable[..., Group]) -> None:
    def never() -> list[Member]:
        raise AssertionError

    group = build(never)
    stats = group.stats()
    assert (stats.name, stats.me, stats.state, stats.reason) == (
        "g",
        "",
        "waiting",
        "not asked yet",
    )
    assert (stats.members, stats.shares, stats.peers) == ((), {}, ())
    assert not group_threads()


def test_stats_are_complete(build: Callable[..., Group]) -> None:
    group = build(lambda: NOWHERE[::-1])
    group.join("m1", lambda: None)
    stats = group.stats()
    assert (stats.name, stats.me, stats.state, stats.reason) == ("g", "m1", "ready", "")
    assert stats.members == tuple(NOWHERE)
    assert sum(stats.shares.values()) == pytest.approx(1)
    assert sorted(peer.name for peer in stats.peers) == ["m0", "m2", "m3", "m4"]


def test_an_empty_group_says_so(build: Callable[..., Group]) -> None:
    group = build(list)
    assert routed(group) == [None] * len(KEYS)
    assert group.owner_name(b"key") is None
    assert (group.stats().state, group.stats().reason) == ("waiting", "it has no members")


def test_one_thread_however_many_begin_together(build: Callable[..., Group]) -> None:
    readings: list[int] = []
    group = build(lambda: [readings.append(1), NOWHERE][1], heartbeat_s=100.0)
    threads = [threading.Thread(target=routed, args=(group,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(group_threads()) == 1
    assert len(readings) == 1


def test_close_ends_the_thread_and_what_is_left_works(
    build: Callable[..., Group], serve: Callable[..., Any], source: FilesSource
) -> None:
    block = source.add("b", b"content")
    server, member = serve("a")
    group = build(lambda: [member])
    peer = group.route(b"key")
    assert peer is not None
    assert peer.fetch(block, 0, 7) == b"content"
    group.close()
    group.close()
    assert not group_threads()
    until(lambda: server.stats().connections == 0)
    assert group.route(b"key") is peer
    assert group.stats().members == (member,)
    assert not group_threads()


def test_a_group_that_never_began_can_be_closed_and_asked(build: Callable[..., Group]) -> None:
    group = build(lambda: NOWHERE)
    group.close()
    assert group.route(b"key") is None
    assert group.former_owner(b"key") is None
    assert not group_threads()


# ---------------------------------------------------------------------- fork


def in_child(act: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            act()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_has_a_thread_and_connections_of_its_own(
    build: Callable[..., Group], serve: Callable[..., Any], source: FilesSource
) -> None:
    block = source.add("b", b"content")
    server, member = serve("a")
    members = [member]
    group = build(lambda: members)

    def reads() -> Peer:
        peer = group.route(b"key")
        assert peer is not None
        assert peer.fetch(block, 0, 7) == b"content"
        return peer

    reads()
    accepted = server.stats().accepted

    def child() -> None:
        nonlocal members
        reads()
        assert len(group_threads()) == 1
        members = [*members, NOWHERE[0]]
        until(lambda: "m0" in group.peers())
        group.close()

    in_child(child)
    assert server.stats().accepted == accepted + 1
    assert reads().stats().errors == 0
    assert server.stats().accepted == accepted + 1


def test_a_child_of_a_member_is_no_member(build: Callable[..., Group]) -> None:
    beats: list[int] = []
    group = build(lambda: NOWHERE)
    group.join("m2", lambda: beats.append(os.getpid()))
    assert None in routed(group)

    def child() -> None:
        beats.clear()
        assert group.me == ""
        assert group.stats().me == ""
        assert None not in routed(group)
        assert "m2" in group.peers()
        group.refresh()
        assert beats == []
        group.close()

    in_child(child)
    assert group.me == "m2"


def test_a_fork_while_the_list_is_read(build: Callable[..., Group]) -> None:
    entered, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def listing() -> list[Member]:
        if os.getpid() == parent and entered.is_set() is False and group_threads():
            entered.set()
            go_on.wait(10)
        return NOWHERE

    group = build(listing)
    expected = routed(group)
    assert entered.wait(5)
    try:
        in_child(lambda: child_reads(group, expected))
    finally:
        go_on.set()
    assert routed(group) == expected


def child_reads(group: Group, expected: list[str | None]) -> None:
    assert routed(group) == expected
    group.refresh()
    assert routed(group) == expected
    group.close()


def test_members_known_by_addresses_alone(
    build: Callable[..., Group], serve: Callable[..., Any], source: FilesSource
) -> None:
    block = source.add("b", b"content")
    _, member = serve("a")
    source.facts = member.about()
    book = AddressBook(lambda: [member.address, ("127.0.0.1", 1)], DIALING)
    group = build(book.members)

    def reads() -> None:
        peer = group.route(b"key")
        assert peer is not None
        assert peer.fetch(block, 0, 7) == b"content"

    reads()
    in_child(lambda: (reads(), group.refresh(), reads(), group.close(), book.close()))
    reads()
    group.refresh()
    assert group.stats().reason == ""
    group.close()
    book.close()
