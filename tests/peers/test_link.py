from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import (
    CorruptBlockError,
    PeerBusyError,
    PeerDeniedError,
    PeerError,
    PeerProtocolError,
    PeerUnavailableError,
)
from juicecache.model.segments import SEGMENT_BYTES, pack_sums, segment_sums
from juicecache.peers import link as link_module
from juicecache.peers.handshake import Terms
from juicecache.peers.link import Dialing, Link, dial
from juicecache.peers.server import PeerServer, ServerLimits
from juicecache.peers.source import Warmed
from juicecache.peers.wire import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    PREFIX,
    Kind,
    Name,
    frame,
    part,
)
from juicecache.testing.certificates import Authority
from juicecache.testing.peer_source import FilesSource
from juicecache.testing.scripted_member import Guest, ScriptedMember

TERMS = Terms("volume", "group", b"a secret of the group")
TIMEOUT_S = 0.2
SLACK_S = 0.15
"""What a busy machine may add."""
DIALING = Dialing(TERMS, TIMEOUT_S)
PATIENT = Dialing(TERMS, 5.0)
BLOCK = os.urandom(3 * SEGMENT_BYTES + 1234)
NAME = Name("b", len(BLOCK))
LOADING = frame(Kind.LOADING)


def whole_part(content: bytes, number: int = 0) -> bytes:
    sums = pack_sums(segment_sums(memoryview(content)))
    return part(number, sums, len(content)) + content


@pytest.fixture(autouse=True)
def _no_socket_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def source(tmp_path: Path) -> FilesSource:
    return FilesSource(tmp_path)


@pytest.fixture
def server(source: FilesSource) -> Iterator[PeerServer]:
    limits = ServerLimits(beat_s=TIMEOUT_S / 4)
    server = PeerServer(("127.0.0.1", 0), TERMS, source, lambda: {"name": "m1"}, limits=limits)
    server.start()
    yield server
    source.release()
    server.close()
    assert server.stats().failures == 0


@pytest.fixture
def link(server: PeerServer) -> Iterator[Link]:
    link = dial(server.address, DIALING)
    yield link
    link.close()
    link.close()


def played(script: Callable[[Guest], None], act: Callable[[Link], Any]) -> Any:
    """Return what ``act`` does with a link to a member that shakes hands and then misbehaves."""

    def greet(guest: Guest) -> None:
        guest.meet(TERMS)
        script(guest)

    with ScriptedMember(greet) as member:
        link = dial(member.address, DIALING)
        try:
            return act(link)
        finally:
            link.close()


def answering(*pieces: bytes) -> Callable[[Guest], None]:
    """Answer the first request with these bytes, then say nothing."""

    def script(guest: Guest) -> None:
        guest.receive()
        guest.send(*pieces)
        guest.wait_until_gone()

    return script


# ---------------------------------------------------------------------- what comes


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("start", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, len(BLOCK) - 1])
@pytest.mark.parametrize("size", [1, SEGMENT_BYTES, SEGMENT_BYTES + 1, len(BLOCK)])
def test_a_range_is_what_stands_in_the_block(
    source: FilesSource, link: Link, start: int, size: int, in_memory: bool
) -> None:
    source.add("b", BLOCK)
    if in_memory:
        source.in_memory.add("b")
    stop = min(start + size, len(BLOCK))
    found = link.fetch(NAME, start, stop)
    assert found is not None
    assert found == BLOCK[start:stop]
    assert found.readonly


@pytest.mark.parametrize("size", [1, SEGMENT_BYTES, 100 << 10, 4 << 20])
def test_a_whole_block_is_bytes_and_no_copy(source: FilesSource, link: Link, size: int) -> None:
    content = os.urandom(size)
    found = link.fetch(source.add("c", content), 0, size)
    assert found is not None
    assert type(found.obj) is bytes
    assert found.obj == content


def test_what_a_member_says_of_itself_is_known(link: Link) -> None:
    assert link.about == {"name": "m1"}


def test_what_is_only_in_object_storage_is_loaded_unless_it_shall_not(
    source: FilesSource, link: Link
) -> None:
    source.add("b", BLOCK, cached=False)
    assert link.fetch(NAME, 0, 10, cached=True) is None
    assert source.calls["load"] == 0
    assert link.fetch(NAME, 0, len(BLOCK)) == BLOCK
    assert source.calls["load"] == 1
    assert link.fetch(NAME, 5, 10, cached=True) == BLOCK[5:10]


def test_what_nobody_has_is_a_miss_and_the_connection_goes_on(
    source: FilesSource, link: Link
) -> None:
    assert link.fetch(Name("none", 10), 0, 10) is None
    source.is_busy = True
    with pytest.raises(PeerBusyError):
        link.fetch(Name("none", 10), 0, 10)
    source.add("b", BLOCK)
    assert link.fetch(NAME, 0, 1) == BLOCK[:1]


def test_a_block_is_put_unless_it_is_not_kept(source: FilesSource, link: Link) -> None:
    content = os.urandom(4 << 20)
    assert link.put(Name("new", len(content)), content)
    assert link.fetch(Name("new", len(content)), 0, len(content)) == content
    source.failing.add("other")
    assert not link.put(Name("other", 3), b"abc")
    source.is_busy = True
    assert not link.put(Name("third", 3), memoryview(b"abc"))
    assert link.ask(frame(Kind.PING)) is None


def test_warming_says_what_became_of_each(source: FilesSource, link: Link) -> None:
    names = [source.add("a", b"a"), source.add("b", b"b", cached=False), Name("none", 1)]
    assert dict(link.warm(names)) == {0: Warmed.CACHED, 1: Warmed.LOADED, 2: Warmed.FAILED}
    source.is_busy = True
    assert dict(link.warm([Name("none", 1)])) in ({}, {0: Warmed.FAILED})


def test_many_come_each_once(source: FilesSource, link: Link) -> None:
    contents = [os.urandom(1 + n * 40_000) for n in range(10)]
    names = [source.add(f"b{n}", c, cached=n % 3 > 0) for n, c in enumerate(contents)]
    source.failing.add("b3")
    source.stored["b6"] = b"of another length"
    found = list(link.fetch_many([*names, Name("none", 1)]))
    assert sorted(number for number, _ in found) == list(range(11))
    expected = dict(enumerate(contents)) | {3: Kind.MISS, 6: Kind.MISS, 10: Kind.MISS}
    assert dict(found) == expected


# ---------------------------------------------------------------------- how it comes


class CutSocket:
    """Gives what a member sends in pieces, and now and then nothing in time."""

    def __init__(self, stream: bytes, cuts: list[int]) -> None:
        self._stream = memoryview(stream)
        self._cuts = sorted(set(cuts))
        self._at = 0

    def send(self, content: memoryview) -> int:
        return min(len(content), 7)

    def recv_into(self, buffer: memoryview) -> int:
        piece = self.recv(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def recv(self, size: int, flags: int = 0) -> bytes:
        stop = min(self._at + size, len(self._stream))
        if self._cuts and self._cuts[0] <= self._at:
            self._cuts.pop(0)
            raise BlockingIOError
        if self._cuts:
            stop = min(stop, self._cuts[0])
        piece, self._at = bytes(self._stream[self._at : stop]), stop
        return piece


def cut_link(stream: bytes, cuts: list[int]) -> Link:
    sock: Any = CutSocket(stream, cuts)
    return Link(sock, 5.0)


@given(
    st.data(),
    st.integers(0, 30),
    st.sampled_from([1, 100, SEGMENT_BYTES, SEGMENT_BYTES + 1]),
    st.booleans(),
)
def test_wherever_packets_are_cut(data: Any, beats: int, size: int, misses: bool) -> None:
    """LOADING frames before the answer, in whatever pieces all of it arrives."""
    content = BLOCK[:size]
    stream = LOADING * beats + (frame(Kind.MISS) if misses else whole_part(content))
    cuts = data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=40))
    found = cut_link(stream, cuts).fetch(Name("b", size), 0, size)
    assert found == (None if misses else content)


@given(st.data())
def test_wherever_the_packets_of_many_are_cut(data: Any) -> None:
    blocks = [BLOCK[: 1 + 90 * n] for n in range(4)]
    order = data.draw(st.permutations(range(4)))
    stream = b""
    for number in order:
        beats = data.draw(st.integers(0, 3))
        answer = frame(Kind.MISS, [number]) if number == 2 else whole_part(blocks[number], number)
        stream += LOADING * beats + answer
    stream += LOADING + frame(Kind.DONE)
    cuts = data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=20))
    names = [Name(f"b{n}", len(b)) for n, b in enumerate(blocks)]
    found = list(cut_link(stream, cuts).fetch_many(names))
    assert found == [(n, Kind.MISS if n == 2 else blocks[n]) for n in order]


@given(st.integers(0, 400), st.integers(1, 255), st.integers(0, 60))
def test_one_wrong_byte_never_gives_wrong_bytes(at: int, flip: int, beats: int) -> None:
    content = BLOCK[:300]
    stream = bytearray(LOADING * min(beats, 2) + whole_part(content))
    stream[at % len(stream)] ^= flip
    try:
        found = cut_link(bytes(stream), []).fetch(Name("b", 300), 0, 300)
    except (PeerError, CorruptBlockError):
        return
    assert found is None or found == content


# ---------------------------------------------------------------------- waiting


def test_an_owner_that_loads_is_waited_for(source: FilesSource, link: Link) -> None:
    source.add("b", BLOCK, cached=False)
    source.is_held = True
    began_s = time.monotonic()
    timer = threading.Timer(3 * TIMEOUT_S, source.release)
    timer.start()
    assert link.fetch(NAME, 0, len(BLOCK)) == BLOCK
    assert time.monotonic() - began_s >= 3 * TIMEOUT_S
    timer.join()


@pytest.mark.parametrize(
    "said", [b"", LOADING[:5], LOADING, LOADING + whole_part(BLOCK)[:-1], whole_part(BLOCK)[:20]]
)
def test_one_that_is_silent_is_given_up_in_time(said: bytes) -> None:
    def act(link: Link) -> float:
        began_s = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="silent"):
            link.fetch(NAME, 0, len(BLOCK))
        assert not link.is_stale
        return time.monotonic() - began_s

    took_s = played(answering(said), act)
    assert TIMEOUT_S <= took_s <= 1.25 * TIMEOUT_S + SLACK_S


def test_silence_is_noticed_without_delay() -> None:
    def act(link: Link) -> float:
        began_s = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="silent"):
            link.fetch(NAME, 0, len(BLOCK))
        return time.monotonic() - began_s

    # The best of some: a busy machine adds to one of them, not to all.
    assert min(played(answering(b""), act) for _ in range(3)) <= 1.15 * TIMEOUT_S


def test_one_that_takes_nothing_is_given_up_in_time() -> None:
    content = bytes(64 << 20)
    gone = threading.Event()

    def act(link: Link) -> float:
        began_s = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="took nothing"):
            link.put(Name("b", len(content)), content)
        assert not link.is_stale
        gone.set()
        return time.monotonic() - began_s

    took_s = played(lambda guest: (gone.wait(), None)[1], act)
    # The checksums of 64 MiB, and what the kernel takes before it is full, come before.
    assert TIMEOUT_S <= took_s <= 1.5 * TIMEOUT_S + 2 * SLACK_S


def test_a_trickle_is_waited_for() -> None:
    content = BLOCK[:40]
    stream = whole_part(content)

    def script(guest: Guest) -> None:
        guest.receive()
        pause = threading.Event()
        step = len(stream) // 8
        for at in range(0, len(stream), step):
            guest.send(stream[at : at + step])
            pause.wait(TIMEOUT_S / 2)
        guest.wait_until_gone()

    began_s = time.monotonic()
    assert played(script, lambda link: link.fetch(Name("b", 40), 0, 40)) == content
    assert time.monotonic() - began_s > 2 * TIMEOUT_S


@pytest.mark.parametrize("at_once", [0, len(whole_part(BLOCK)) - len(BLOCK)])
def test_a_trickle_has_an_end(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Neither the head of an answer nor its body keeps a reader for as long as it likes."""
    monkeypatch.setattr(link_module, "_TRICKLE_TIMEOUTS", 1)
    monkeypatch.setattr(link_module, "_SLOWEST_BYTES_S", 100 * len(BLOCK))
    stream = whole_part(BLOCK)

    def script(guest: Guest) -> None:
        guest.receive()
        guest.send(stream[:at_once])
        pause = threading.Event()
        for at in range(at_once, len(stream)):
            guest.send(stream[at : at + 1])
            pause.wait(TIMEOUT_S / 4)

    def act(link: Link) -> float:
        began_s = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="too slow"):
            link.fetch(NAME, 0, len(BLOCK))
        assert not link.is_stale
        return time.monotonic() - began_s

    assert played(script, act) <= 2.5 * TIMEOUT_S + SLACK_S


def test_one_that_takes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_TRICKLE_TIMEOUTS", 1)
    monkeypatch.setattr(link_module, "_SLOWEST_BYTES_S", 1 << 40)
    content = bytes(64 << 20)
    gone = threading.Event()

    def script(guest: Guest) -> None:
        while not gone.wait(TIMEOUT_S / 8):
            guest.socket.recv(256 << 10)

    def act(link: Link) -> None:
        with pytest.raises(PeerUnavailableError, match="too slow"):
            link.put(Name("b", len(content)), content)
        gone.set()

    played(script, act)


def test_loading_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_LOADING_S_MAX", TIMEOUT_S)

    def script(guest: Guest) -> None:
        guest.receive()
        pause = threading.Event()
        while True:
            guest.send(LOADING)
            pause.wait(TIMEOUT_S / 8)

    def act(link: Link) -> None:
        with pytest.raises(PeerUnavailableError, match="it was loading for"):
            link.fetch(NAME, 0, len(BLOCK))

    played(script, act)


@pytest.mark.parametrize("piece", [LOADING, PREFIX.pack(b"JC", Kind.CHALLENGE, 0, 2000, 0), b"J"])
def test_a_stranger_cannot_keep_us_waiting(piece: bytes) -> None:
    """One that has not proved anything may be slow for a bounded time."""

    def script(guest: Guest) -> None:
        guest.receive()
        pause = threading.Event()
        guest.send(piece)
        while True:
            guest.send(LOADING if piece == LOADING else b"C")
            pause.wait(TIMEOUT_S / 8)

    with ScriptedMember(script) as member:
        began_s = time.monotonic()
        with pytest.raises(PeerError):
            dial(member.address, DIALING)
        assert time.monotonic() - began_s < 1.25 * TIMEOUT_S + SLACK_S


# ---------------------------------------------------------------------- what is wrong

BAD_SUM = bytearray(whole_part(BLOCK))
BAD_SUM[-1] ^= 1


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no frame"),
        (PREFIX.pack(b"JC", 99, 0, 0, 0), "no frame"),
        (PREFIX.pack(b"JC", Kind.PART, 1, 0, 0), "no frame"),
        (PREFIX.pack(b"JC", Kind.PART, 0, HEADER_BYTES_MAX + 1, 0), "too long"),
        (PREFIX.pack(b"JC", Kind.PART, 0, 4, BODY_BYTES_MAX + 1), "too long"),
        (PREFIX.pack(b"JC", Kind.LOADING, 0, 1, 0) + b"x", "too long"),
        (PREFIX.pack(b"JC", Kind.MISS, 0, 0, 1) + b"x", "too long"),
        (PREFIX.pack(b"JC", Kind.PART, 0, 3, 0) + b"\xc1\xc1\xc1", "cannot be read"),
        (frame(Kind.PART), "form"),
        (part(0, b"", len(BLOCK)), "form"),
        (part(1, bytes(16), len(BLOCK)), "form"),
        (part(0, bytes(16), len(BLOCK) - 1), "instead of"),
        (part(0, bytes(16), 0), "instead of"),
        (frame(Kind.DONE), "where a PART belongs"),
        (frame(Kind.GET, ["b", 1, 0, 1, False]), "where a PART belongs"),
        (frame(Kind.STEP, [0, 1]), "where a PART belongs"),
        (frame(Kind.MISS) * 2, "more than was asked"),
    ],
)
def test_nonsense_is_said_to_be_nonsense(said: bytes, text: str) -> None:
    def act(link: Link) -> None:
        with pytest.raises(PeerProtocolError, match=text):
            link.fetch(NAME, 0, len(BLOCK))

    played(answering(said), act)


def test_bytes_that_do_not_fit_their_sum_are_not_given_and_the_next_come() -> None:
    def script(guest: Guest) -> None:
        for request in guest.requests():
            guest.send(bytes(BAD_SUM) if request.header[2] == 0 else whole_part(BLOCK))

    def act(link: Link) -> None:
        with pytest.raises(CorruptBlockError, match="a peer's copy"):
            link.fetch(NAME, 0, len(BLOCK))
        assert link.fetch(NAME, 1, len(BLOCK)) == BLOCK[1:]

    played(script, act)


@pytest.mark.parametrize("said", [b"", LOADING, whole_part(BLOCK)[:10], whole_part(BLOCK)[:-1]])
@pytest.mark.parametrize("reset", [False, True])
def test_an_end_in_the_middle(said: bytes, reset: bool) -> None:
    def script(guest: Guest) -> None:
        guest.receive()
        guest.send(said)
        if reset:
            guest.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def act(link: Link) -> None:
        with pytest.raises(PeerUnavailableError, match=r"closed|reset"):
            link.fetch(NAME, 0, len(BLOCK))
        if not said:
            assert link.is_stale
        elif not reset:
            assert not link.is_stale

    played(script, act)


A, B, C = BLOCK[:10], BLOCK[10:30], BLOCK[30:60]
NAMES = [Name("a", 10), Name("b", 20), Name("c", 30)]


@pytest.mark.parametrize(
    "said",
    [
        whole_part(A, 0) + whole_part(A, 0),
        whole_part(A, 0) + frame(Kind.MISS, [0]),
        frame(Kind.BUSY, [3]),
        frame(Kind.MISS, [-1]),
        frame(Kind.MISS),
        part(3, bytes(4), 10) + A,
        whole_part(A, 1),
        frame(Kind.STEP, [0, 1]),
    ],
)
def test_a_wrong_answer_about_many(said: bytes) -> None:
    def act(link: Link) -> None:
        found = []
        with pytest.raises(PeerProtocolError):
            found.extend(link.fetch_many(NAMES))
        assert len(found) <= 1

    played(answering(said), act)


def test_of_many_each_says_why_it_does_not_come() -> None:
    bad = bytearray(whole_part(B, 1))
    bad[-1] ^= 1
    said = frame(Kind.BUSY, [2]) + bytes(bad) + frame(Kind.DONE)
    found = played(answering(said), lambda link: list(link.fetch_many(NAMES)))
    assert found == [(2, Kind.BUSY), (1, Kind.REPORT), (0, Kind.MISS)]


@pytest.mark.parametrize("kind", [Kind.MISS, Kind.PART, Kind.STEP])
def test_a_wrong_answer_to_a_question(kind: Kind) -> None:
    def act(link: Link) -> None:
        with pytest.raises(PeerProtocolError, match="where a DONE belongs"):
            link.ask(frame(Kind.PING))

    played(answering(frame(kind)), act)


def test_warming_goes_on_behind_a_block_that_there_is_no_time_for() -> None:
    steps = frame(Kind.STEP, [0, 1]), frame(Kind.BUSY, [1]), frame(Kind.STEP, [2, 2])
    for final in frame(Kind.DONE), frame(Kind.BUSY):
        said = b"".join(steps) + final
        assert played(answering(said), lambda link: list(link.warm(NAMES))) == [(0, 1), (2, 2)]


@pytest.mark.parametrize(
    "said",
    [
        frame(Kind.STEP, [1, 1]) + frame(Kind.STEP, [1, 1]),
        frame(Kind.BUSY, [1]) + frame(Kind.STEP, [1, 1]),
        frame(Kind.BUSY, [3]),
        frame(Kind.BUSY, ["x"]),
        frame(Kind.MISS, [1]),
    ],
)
def test_a_wrong_answer_about_warming(said: bytes) -> None:
    def act(link: Link) -> None:
        with pytest.raises(PeerProtocolError):
            list(link.warm(NAMES))

    played(answering(said), act)


@pytest.mark.parametrize("header", [[], [0], [0, "x"], [1, 1], [0, 1, 2]])
def test_a_wrong_step(header: list[Any]) -> None:
    def act(link: Link) -> None:
        with pytest.raises(PeerProtocolError):
            list(link.warm([Name("a", 1)]))

    played(answering(frame(Kind.STEP, header)), act)


# ---------------------------------------------------------------------- the beginning


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (Terms("other", "group", TERMS.secret), "another volume"),
        (Terms("volume", "other", TERMS.secret), "another cache group"),
        (Terms("volume", "group", b"wrong"), "secret of the group differs"),
        (Terms("volume", "group", b""), "no secret"),
    ],
)
def test_who_does_not_belong_is_denied(server: PeerServer, terms: Terms, text: str) -> None:
    with pytest.raises(PeerDeniedError, match=text):
        dial(server.address, Dialing(terms, TIMEOUT_S))


def test_versions_without_a_common_one_say_so(server: PeerServer) -> None:
    terms = Terms("volume", "group", TERMS.secret, (98, 99))
    with pytest.raises(PeerProtocolError, match="update the older"):
        dial(server.address, Dialing(terms, TIMEOUT_S))


def test_a_member_that_does_not_know_the_secret_is_not_believed() -> None:
    def script(guest: Guest) -> None:
        guest.receive()
        guest.send(frame(Kind.CHALLENGE, [1, bytes(32)]))
        guest.receive()
        guest.send(frame(Kind.WELCOME, [bytes(32), {}]))

    with ScriptedMember(script) as member, pytest.raises(PeerDeniedError, match="does not know"):
        dial(member.address, DIALING)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        frame(Kind.BUSY),
        frame(Kind.PART, [0, b""], 5) + b"12345",
        PREFIX.pack(b"JC", Kind.CHALLENGE, 0, 60_000, 0),
        frame(Kind.CHALLENGE, [7, bytes(32)]),
        frame(Kind.REFUSED, ["denied", "\x1b[31mred"]),
    ],
)
def test_a_handshake_that_goes_wrong(said: bytes) -> None:
    def script(guest: Guest) -> None:
        guest.receive()
        guest.send(said)

    with ScriptedMember(script) as member, pytest.raises(PeerError) as caught:
        dial(member.address, DIALING)
    assert caught.value.detail
    assert "\x1b" not in caught.value.detail


@pytest.mark.parametrize("host", [".", "a" * 300, "a..b", "with\0zero"])
def test_an_address_that_cannot_be_one(host: str) -> None:
    with pytest.raises(PeerUnavailableError, match=r"."):
        dial((host, 1), DIALING)


def test_a_refused_connection_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with pytest.raises(PeerUnavailableError, match="refused"):
        dial(address, DIALING)


# ---------------------------------------------------------------------- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_server(source: FilesSource, authority: Authority) -> Iterator[PeerServer]:
    server = PeerServer(
        ("127.0.0.1", 0),
        TERMS,
        source,
        dict,
        limits=ServerLimits(beat_s=TIMEOUT_S / 4),
        tls=authority.server_context(authority.sign("member")),
    )
    server.start()
    yield server
    source.release()
    server.close()


def local(server: PeerServer) -> tuple[str, int]:
    return "localhost", server.address[1]


def test_inside_tls_all_is_the_same(
    source: FilesSource, tls_server: PeerServer, authority: Authority
) -> None:
    content = os.urandom(4 << 20)
    name = source.add("b", content, cached=False)
    source.is_held = True
    context = authority.client_context(authority.sign("client"))
    link = dial(local(tls_server), Dialing(TERMS, TIMEOUT_S, context))
    timer = threading.Timer(2 * TIMEOUT_S, source.release)
    timer.start()
    found = link.fetch(name, 0, name.length)
    timer.join()
    assert found == content
    assert type(found.obj) is bytes
    assert link.fetch(name, SEGMENT_BYTES - 1, SEGMENT_BYTES + 1) == content[65535:65537]
    source.is_held = False
    assert link.put(Name("new", name.length), content[::-1])
    assert list(link.fetch_many([Name("new", name.length), name])) == [
        (0, content[::-1]),
        (1, content),
    ]
    link.close()


def test_inside_tls_too_silence_has_an_end(authority: Authority) -> None:
    context = authority.server_context(authority.sign("member"))
    done = threading.Event()

    def script(guest: Guest) -> None:
        with context.wrap_socket(guest.socket, server_side=True) as wrapped:
            guest.socket = wrapped
            guest.meet(TERMS)
            done.wait()

    client = authority.client_context(authority.sign("client"))
    with ScriptedMember(script) as member:
        for act in (
            lambda link: link.fetch(NAME, 0, 1),
            lambda link: link.put(Name("b", 16 << 20), bytes(16 << 20)),
        ):
            link = dial(("localhost", member.address[1]), Dialing(TERMS, TIMEOUT_S, client))
            began_s = time.monotonic()
            with pytest.raises(PeerUnavailableError, match=r"silent|took nothing"):
                act(link)
            assert TIMEOUT_S <= time.monotonic() - began_s <= 1.5 * TIMEOUT_S + SLACK_S
            link.close()
        done.set()


def test_tls_on_one_side_only(
    server: PeerServer, tls_server: PeerServer, authority: Authority
) -> None:
    context = authority.client_context(authority.sign("client"))
    with pytest.raises(PeerUnavailableError, match="TLS"):
        dial(local(server), Dialing(TERMS, 2.0, context))
    with pytest.raises(PeerError):
        dial(tls_server.address, Dialing(TERMS, 2.0))


def test_certificates_that_nobody_trusts(
    tls_server: PeerServer, authority: Authority, tmp_path: Path
) -> None:
    strange = Authority(tmp_path, "strange")
    with pytest.raises(PeerUnavailableError, match="CERTIFICATE"):
        dial(local(tls_server), Dialing(TERMS, 2.0, strange.client_context(strange.sign("c1"))))
    for shown in (None, strange.sign("c2")):
        with pytest.raises(PeerError):
            dial(local(tls_server), Dialing(TERMS, 2.0, authority.client_context(shown)))
