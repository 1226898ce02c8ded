from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.errors import PeerDeniedError
from juicecache.peers.handshake import Terms
from juicecache.peers.server import PeerServer, ServerLimits
from juicecache.peers.wire import Kind, Name, frame, get, get_many
from juicecache.testing.certificates import Authority
from juicecache.testing.peer_caller import PeerCaller
from juicecache.testing.peer_source import FilesSource

TERMS = Terms("volume", "group", b"a secret of the group")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> FilesSource:
    return FilesSource(tmp_path)


@pytest.fixture
def server(source: FilesSource, authority: Authority) -> Iterator[PeerServer]:
    before = len(os.listdir("/proc/self/fd"))
    server = PeerServer(
        ("127.0.0.1", 0),
        TERMS,
        source,
        dict,
        limits=ServerLimits(stalled_s=0.3, beat_s=0.05),
        tls=authority.server_context(authority.sign("member")),
    )
    server.start()
    yield server
    server.close()
    assert server.stats().failures == 0
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def client(authority: Authority) -> ssl.SSLContext:
    return authority.client_context(authority.sign("client"))


def known(server: PeerServer, client: ssl.SSLContext) -> PeerCaller:
    caller = PeerCaller(server.address, client)
    caller.meet(TERMS)
    return caller


@pytest.mark.parametrize("in_memory", [False, True])
def test_blocks_of_all_sizes_pass(
    server: PeerServer, source: FilesSource, client: ssl.SSLContext, in_memory: bool
) -> None:
    blocks = [
        source.add(f"b{size}", os.urandom(size))
        for size in (1, 16_383, 16_384, 16_385, 131_072, 131_073, 4 << 20, 16 << 20)
    ]
    if in_memory:
        source.in_memory.update(source.stored)
    with known(server, client) as caller:
        for block in blocks:
            assert bytes(caller.get(block).body) == source.stored[block.name]
        found = caller.get_many(blocks)
        assert [one.header[0] for one in found[:-1]] == list(range(8))
        for block, one in zip(blocks, found[:-1], strict=True):
            assert bytes(one.body) == source.stored[block.name]


def test_blocks_are_kept_and_requests_ahead_are_answered(
    server: PeerServer, source: FilesSource, client: ssl.SSLContext
) -> None:
    content = os.urandom(5_000_001)
    block = Name("new", len(content))
    with known(server, client) as caller:
        assert caller.put(block, content).header == [True]
        caller.send(get(block, 0, block.length) * 5 + frame(Kind.PING) * 40)
        for _ in range(5):
            assert bytes(caller.answer().body) == content
        for _ in range(40):
            assert caller.answer().kind == Kind.DONE


def test_a_load_is_waited_for(
    server: PeerServer, source: FilesSource, client: ssl.SSLContext
) -> None:
    block = source.add("b", os.urandom(300_000), cached=False)
    source.is_held = True
    with known(server, client) as caller:
        caller.send(get(block, 0, block.length))
        assert caller.receive().kind == Kind.LOADING
        source.release()
        assert bytes(caller.answer().body) == source.stored["b"]


def test_the_secret_is_asked_for_all_the_same(server: PeerServer, client: ssl.SSLContext) -> None:
    with PeerCaller(server.address, client) as caller:
        with pytest.raises(PeerDeniedError):
            caller.meet(Terms("volume", "group", b"another"))


def test_who_has_no_certificate_of_ours_gets_nothing(
    server: PeerServer, authority: Authority, client: ssl.SSLContext, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path, "another authority")

    def come_in(shown: Path | None) -> None:
        # With TLS 1.3 a client learns at its first read that it is not let in.
        with PeerCaller(server.address, authority.client_context(shown)) as caller:
            caller.meet(TERMS)

    for shown in (None, foreign.sign("foreigner")):
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            come_in(shown)
    with PeerCaller(server.address) as plain:
        plain.send(frame(Kind.PING) * 4)
        try:
            assert b"JC" not in plain.socket.recv(1000)
        except ConnectionError:
            pass
        with known(server, client) as caller:
            assert caller.answer(frame(Kind.PING)).kind == Kind.DONE
    assert server.stats().refused == 3


def test_a_caller_that_does_not_read_is_closed(
    server: PeerServer, source: FilesSource, client: ssl.SSLContext
) -> None:
    block = source.add("b", os.urandom(16 << 20))
    with known(server, client) as sick, known(server, client) as good:
        sick.send(get_many([block] * 4))
        while not server.stats().stalled:
            assert good.answer(frame(Kind.PING)).kind == Kind.DONE
