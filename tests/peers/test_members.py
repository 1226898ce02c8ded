from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import PeerProtocolError, PeerUnavailableError
from juicecache.peers import members as members_module
from juicecache.peers.handshake import Terms
from juicecache.peers.link import Address, Dialing
from juicecache.peers.members import AddressBook, Member, resolve
from juicecache.peers.server import PeerServer
from juicecache.testing.peer_source import FilesSource
from juicecache.testing.scripted_member import Guest, ScriptedMember

TERMS = Terms("volume", "group", b"a secret of the group")
TIMEOUT_S = 0.2
SLACK_S = 0.2
DIALING = Dialing(TERMS, TIMEOUT_S)


@pytest.fixture(autouse=True)
def _no_socket_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Member]]:
    """Start members; return what they say of themselves."""
    with ExitStack() as stack:

        def start(
            name: str, address: Address = ("127.0.0.1", 0), weight: int = 5, **facts: Any
        ) -> Member:
            source = FilesSource(tmp_path)
            server = PeerServer(address, TERMS, source, dict)
            server.start()
            stack.callback(server.close)
            member = Member(name, server.address, weight, False)
            source.facts = {**member.about(), **facts}
            return member

        yield start


@pytest.fixture
def book() -> Iterator[Callable[..., AddressBook]]:
    with ExitStack() as stack:

        def make(addresses: Callable[[], Any]) -> AddressBook:
            found = AddressBook(addresses, DIALING)
            stack.callback(found.close)
            return found

        yield make


def free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address: Address = free.getsockname()
    return address


def silent(guest: Guest) -> None:
    guest.wait_until_gone()


# ---------------------------------------------------------------------- what one says


@given(
    st.builds(
        Member,
        st.text(min_size=1, max_size=255),
        st.tuples(st.text(min_size=1, max_size=255), st.integers(1, 65535)),
        st.integers(0, 1 << 40),
        st.booleans(),
    )
)
def test_a_member_comes_back_from_what_it_says(member: Member) -> None:
    assert Member.parse(member.about()) == member
    elsewhere = ("10.0.0.1", 5)
    assert Member.parse(member.about(), elsewhere) == member._replace(address=elsewhere)


GOOD = Member("m", ("10.0.0.1", 7), 5, False).about()


@pytest.mark.parametrize(
    "about",
    [
        None,
        [],
        {},
        GOOD | {"name": ""},
        GOOD | {"name": b"m"},
        GOOD | {"name": "m" * 256},
        GOOD | {"host": ""},
        GOOD | {"port": 0},
        GOOD | {"port": 65536},
        GOOD | {"port": "7"},
        GOOD | {"weight": -1},
        GOOD | {"weight": True},
        GOOD | {"weight": 1.5},
        GOOD | {"weight": 1 << 41},
        GOOD | {"backup": 0},
        {key: value for key, value in GOOD.items() if key != "backup"},
    ],
)
def test_what_does_not_have_its_form_is_refused(about: object) -> None:
    with pytest.raises(PeerProtocolError):
        Member.parse(about)


# ---------------------------------------------------------------------- names


def test_a_name_gives_all_its_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str, port: int, **how: Any) -> list[Any]:
        assert (name, port) == ("workers", 7)
        return [(0, 0, 0, "", (host, port)) for host in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]

    monkeypatch.setattr(members_module.socket, "getaddrinfo", lookup)
    assert resolve("workers", 7) == [("10.0.0.1", 7), ("10.0.0.2", 7)]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError])
def test_a_name_that_is_not_known_says_so(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lookup(*args: Any, **how: Any) -> None:
        raise error

    monkeypatch.setattr(members_module.socket, "getaddrinfo", lookup)
    with pytest.raises(PeerUnavailableError, match=r"workers: the name cannot be resolved"):
        resolve("workers", 7)


# ---------------------------------------------------------------------- address books


def test_those_that_answer_are_listed_by_name(
    serve: Callable[..., Member], book: Callable[..., AddressBook]
) -> None:
    members = [serve(name) for name in ("c", "a", "b")]
    found = book(lambda: [member.address for member in members])
    assert found.members() == sorted(members)
    assert found.members() == sorted(members)


def test_who_comes_and_goes_is_seen_when_asked_next(
    serve: Callable[..., Member], book: Callable[..., AddressBook]
) -> None:
    a, late = serve("a"), free_address()
    addresses = [a.address, late]
    found = book(lambda: addresses)
    assert found.members() == [a]
    b = serve("b", late, weight=0)
    assert found.members() == [a, b]
    del addresses[0]
    assert found.members() == [b]
    addresses.append(serve("d").address)
    assert [member.name for member in found.members()] == ["b", "d"]


def test_a_service_name_that_cannot_be_resolved_is_an_error(
    book: Callable[..., AddressBook],
) -> None:
    def addresses() -> list[Address]:
        raise PeerUnavailableError("the name cannot be resolved", "workers")

    with pytest.raises(PeerUnavailableError, match="workers"):
        book(addresses).members()


def test_one_member_at_two_addresses_is_one(
    serve: Callable[..., Member], book: Callable[..., AddressBook]
) -> None:
    one = serve("m", ("0.0.0.0", 0))
    port = one.address[1]
    places = [("127.0.0.2", port), ("127.0.0.1", port), ("127.0.0.2", port)]
    for order in (places, places[::-1]):
        found = book(lambda order=order: order)
        assert found.members() == [one._replace(address=("127.0.0.1", port))]


def test_who_says_nonsense_of_itself_is_no_member(
    serve: Callable[..., Member], book: Callable[..., AddressBook]
) -> None:
    a, wrong = serve("a"), serve("b", weight=5, backup="yes")
    assert book(lambda: [wrong.address, a.address]).members() == [a]


def test_dead_addresses_cost_one_time_limit_together(
    serve: Callable[..., Member], book: Callable[..., AddressBook]
) -> None:
    a, b = serve("a"), serve("b")
    with ExitStack() as stack:
        hanging = [stack.enter_context(ScriptedMember(silent)).address for _ in range(20)]
        found = book(lambda: [*hanging[:10], a.address, free_address(), *hanging[10:], b.address])
        began_s = time.monotonic()
        assert found.members() == [a, b]
        assert time.monotonic() - began_s <= 1.25 * TIMEOUT_S + SLACK_S


def test_a_child_asks_on_connections_of_its_own(
    serve: Callable[..., Member], book: Callable[..., AddressBook]
) -> None:
    member = serve("a")
    found = book(lambda: [member.address])
    assert found.members() == [member]
    threads = threading.active_count()
    child = os.fork()
    if child == 0:
        os._exit(not all(found.members() == [member] for _ in range(3)))
    during = [found.members() for _ in range(3)]
    assert os.waitpid(child, 0)[1] == 0
    assert during == [[member]] * 3
    assert threading.active_count() == threads
