"""A live server is sent 100,000 inputs, most of them almost right, and goes on serving."""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from juicecache.errors import PeerProtocolError
from juicecache.model.segments import segment_sums
from juicecache.peers.handshake import NONCE_BYTES, Caller, Terms
from juicecache.peers.server import PeerServer, ServerLimits
from juicecache.peers.wire import (
    PREFIX,
    PREFIX_BYTES,
    VERSIONS,
    Decoder,
    Frame,
    Kind,
    Name,
    frame,
    get,
    get_many,
    parse_header,
    put,
    read_get,
    read_names,
    read_put,
    read_report,
)
from juicecache.testing.peer_caller import PeerCaller
from juicecache.testing.peer_source import FilesSource

TERMS = Terms("volume", "group", b"a secret of the group")
INPUTS = max(100_000, int(os.environ.get("JUICECACHE_FUZZ_INPUTS", "0")))
AFTER_HANDSHAKE = INPUTS * 7 // 10
"""Mutations of valid requests of a caller that is known."""
AT_ONCE = 32
"""Connections that are open together; fewer than the strangers that a server lets wait."""
SOUND_MAX = 16
"""Inputs on one connection, where none of them ends it; fewer than may be sent ahead."""
TIMEOUT_S = 20.0
RSS_GROWTH_MAX = 64 << 20
"""Far below what a leak of one body in a hundred inputs, or of each header, would come to."""
KINDS = [kind for kind in Kind if Kind.GET <= kind <= Kind.PING]


def rss_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@pytest.fixture
def source(tmp_path: Path) -> FilesSource:
    source = FilesSource(tmp_path)
    for number in range(4):
        source.add(f"b{number}", random.Random(number).randbytes(3000 + 70_000 * number))
    source.add("cold", b"c" * 500, cached=False)
    return source


@pytest.fixture
def server(source: FilesSource) -> Iterator[PeerServer]:
    before = len(os.listdir("/proc/self/fd"))
    server = PeerServer(("127.0.0.1", 0), TERMS, source, dict, limits=ServerLimits(beat_s=0.05))
    server.start()
    yield server
    server.close()
    assert len(os.listdir("/proc/self/fd")) == before


def valid(chance: random.Random, source: FilesSource, kind: Kind) -> bytes:
    """Return a whole valid request of a kind."""
    names = [Name(name, len(source.stored[name])) for name in ("b0", "b1", "b2", "cold")]
    names.append(Name("nowhere", 77))
    chosen = chance.choices(names, k=chance.randint(1, 3))
    block = chosen[0]
    if kind == Kind.GET:
        start = chance.randrange(block.length)
        return get(
            block, start, chance.randint(start + 1, block.length), cached=chance.random() < 0.5
        )
    if kind == Kind.GET_MANY:
        return get_many(chosen)
    if kind == Kind.PUT:
        content = chance.randbytes(chance.randint(1, 2000))
        return put(Name("put", len(content)), segment_sums(memoryview(content))) + content
    if kind == Kind.REPORT:
        return frame(kind, block)
    return frame(kind, [] if kind in (Kind.STATS, Kind.PING) else chosen)


STRANGE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        1 << 31,
        1 << 63,
        0.5,
        "",
        "b0",
        "cold",
        "../b0",
        "\0",
        "x" * 300,
    ),
    *(b"", b"\0", bytes(70_000), [], {}, ["b0", 3000], [["b0", 3000]], {"b0": 1}, [[[[]]]]),
]


def mutate(chance: random.Random, raw: bytes, other: bytes) -> bytes:
    """Return a frame that is nearly ``raw``."""
    if chance.random() < 0.5:
        return mutate_bytes(chance, bytearray(raw), other)
    magic, kind, zero, header_bytes, body_bytes = PREFIX.unpack_from(raw)
    body = raw[PREFIX_BYTES + header_bytes :]
    if chance.random() < 0.3:  # sizes that do not fit, large ones among them
        size = chance.choice((0, 1, header_bytes + 1, 2047, 65_535, 65_537, 1 << 24, (1 << 32) - 1))
        sizes = (size, body_bytes) if chance.random() < 0.5 else (header_bytes, size)
        return PREFIX.pack(magic, kind, zero, *sizes) + raw[PREFIX_BYTES:]
    header = parse_header(raw[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
    inner = header
    while inner and isinstance(inner[0], list) and chance.random() < 0.7:
        inner = chance.choice(inner)
    if inner and chance.random() < 0.2:
        del inner[chance.randrange(len(inner))]
    elif inner and chance.random() < 0.7:
        inner[chance.randrange(len(inner))] = chance.choice(STRANGE)
    else:
        inner.insert(chance.randint(0, len(inner)), chance.choice(STRANGE))
    return frame(chance.choice(KINDS) if chance.random() < 0.1 else kind, header, len(body)) + body


def mutate_bytes(chance: random.Random, wrong: bytearray, other: bytes) -> bytes:
    """Return bytes that are nearly ``wrong``, which is used up."""
    how = chance.randrange(7)
    at = chance.randrange(len(wrong))
    if how == 0:
        wrong[at] ^= 1 << chance.randrange(8)
    elif how == 1:
        wrong[at] = chance.choice((0, 1, 0x7F, 0x80, 0xC1, 0xD9, 0xDC, 0xDD, 0xFF))
    elif how == 2:
        del wrong[at : at + chance.randint(1, 8)]
    elif how == 3:
        wrong[at:at] = chance.randbytes(chance.randint(1, 8))
    elif how == 4:
        size = min(chance.randint(1, 16), len(wrong) - at)
        wrong[at : at + size] = chance.randbytes(size)
    elif how == 5:
        wrong[at:] = other[chance.randrange(len(other)) :]
    elif len(wrong) > PREFIX_BYTES:  # behind a right prefix
        wrong[chance.randrange(PREFIX_BYTES, len(wrong))] = chance.randrange(256)
    return bytes(wrong)


def known_input(chance: random.Random, source: FilesSource, sent: Counter[Kind]) -> bytes:
    """Return a mutation of the next kind of request."""
    kind = KINDS[sent.total() % len(KINDS)]
    sent[kind] += 1
    raw = valid(chance, source, kind)
    return mutate(chance, raw, valid(chance, source, chance.choice(KINDS)))


def stranger_input(chance: random.Random, source: FilesSource) -> bytes:
    """Return a mutation of what a stranger says first, or of what he must not say."""
    nonce = chance.randbytes(NONCE_BYTES)
    other = [
        frame(Kind.HELLO, [*VERSIONS, "other", "group", nonce]),
        frame(Kind.PROOF, [nonce]),
        valid(chance, source, chance.choice(KINDS)),
    ]
    hello = Caller(TERMS, nonce).hello()
    return mutate(chance, chance.choice([hello, hello, *other]), chance.choice(other))


def is_sound(raw: bytes) -> bool:
    """Return whether a connection survives an input, so that another can be sent behind it."""
    decoder = Decoder()
    try:
        for one in decoder.feed(memoryview(raw)):
            if not is_answered(one):
                return False
    except PeerProtocolError:
        return False
    return not decoder.is_midway


def is_answered(one: Frame) -> bool:
    """Return whether a frame is a request; PeerProtocolError if it does not have its form."""
    if one.kind in (Kind.STATS, Kind.PING):
        return not one.header
    if one.kind == Kind.GET:
        read_get(one.header)
    elif one.kind == Kind.REPORT:
        read_report(one.header)
    elif one.kind == Kind.PUT:
        sums = read_put(one.header, len(one.body)).sums
        return sums == segment_sums(memoryview(one.body))
    elif one.kind in KINDS:
        read_names(one.kind, one.header)
    return one.kind in KINDS


def next_known(chance: random.Random, source: FilesSource, sent: Counter[Kind]) -> bytes:
    """Return inputs for one connection: all but the last leave it open."""
    inputs = [known_input(chance, source, sent)]
    while is_sound(inputs[-1]) and len(inputs) < SOUND_MAX:
        inputs.append(known_input(chance, source, sent))
    return b"".join(inputs)


def connect(server: PeerServer, number: int) -> socket.socket:
    # From many addresses: each has 28,000 ports, and a port rests for a minute after its use.
    return socket.create_connection(server.address, TIMEOUT_S, (f"127.0.0.{2 + number % 200}", 0))


def end(one: socket.socket) -> None:
    """Read what the server still says, until it closes the connection; TimeoutError if not."""
    with one:
        try:
            one.shutdown(socket.SHUT_WR)
            while one.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise


def send(one: socket.socket, raw: bytes) -> None:
    try:
        one.sendall(raw)
    except ConnectionError:  # closed for what came before
        pass


def attack_as_known(server: PeerServer, raws: list[bytes]) -> None:
    """Send each input on a connection of its own, whose handshake is done."""
    callers = [Caller(TERMS, os.urandom(NONCE_BYTES)) for _ in raws]
    sockets = [connect(server, number) for number in range(len(raws))]
    for caller, one in zip(callers, sockets, strict=True):
        one.sendall(caller.hello())
    for caller, one in zip(callers, sockets, strict=True):
        one.sendall(caller.prove(receive(one)))
    for caller, one, raw in zip(callers, sockets, raws, strict=True):
        caller.accept(receive(one))
        send(one, raw)
    for one in sockets:
        end(one)


def receive(one: socket.socket) -> Frame:
    """Return a short frame; nothing comes behind it unasked."""
    (found,) = Decoder().feed(memoryview(one.recv(4096)))
    return found


def attack_as_stranger(server: PeerServer, raws: list[bytes]) -> None:
    """Send each input on a connection of its own."""
    sockets = [connect(server, number) for number in range(len(raws))]
    for one, raw in zip(sockets, raws, strict=True):
        send(one, raw)
    for one in sockets:
        end(one)


def check(server: PeerServer, source: FilesSource) -> None:
    """Check that a good caller gets right bytes."""
    with PeerCaller(server.address) as caller:
        caller.meet(TERMS)
        for name in ("b0", "b1", "b2", "b3"):
            found = caller.get(Name(name, len(source.stored[name])))
            assert bytes(found.body) == source.stored[name]


@pytest.mark.slow
def test_a_live_server_survives_what_it_is_sent(server: PeerServer, source: FilesSource) -> None:
    seed = int(os.environ.get("JUICECACHE_FUZZ_SEED", random.randrange(1 << 32)))
    print(f"JUICECACHE_FUZZ_SEED={seed}")
    chance = random.Random(seed)
    sent: Counter[Kind] = Counter()
    strangers = rounds = 0
    files = len(os.listdir("/proc/self/fd"))
    warm = 0
    while sent.total() < AFTER_HANDSHAKE or strangers < INPUTS - AFTER_HANDSHAKE:
        if sent.total() < AFTER_HANDSHAKE:
            attack_as_known(server, [next_known(chance, source, sent) for _ in range(AT_ONCE)])
        if strangers < INPUTS - AFTER_HANDSHAKE:
            strangers += AT_ONCE
            attack_as_stranger(server, [stranger_input(chance, source) for _ in range(AT_ONCE)])
        rounds += 1
        if rounds % 50 == 0:
            check(server, source)
            assert len(os.listdir("/proc/self/fd")) <= files + 2 * AT_ONCE
            warm = warm or rss_bytes()
            assert rss_bytes() < warm + RSS_GROWTH_MAX
    check(server, source)
    stats = server.stats()
    assert stats.failures == stats.stalled == 0
    assert stats.requests > AFTER_HANDSHAKE // 3
    assert stats.protocol_errors > AFTER_HANDSHAKE // 4
    assert stats.refused > strangers // 4
    assert min(sent[kind] for kind in KINDS) >= AFTER_HANDSHAKE // len(KINDS)
