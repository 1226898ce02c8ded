"""Servers that restart, connections that break, users without rights."""

from __future__ import annotations

import re
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from juicecache.errors import (
    CommitUnknownError,
    EngineUnavailableError,
    MetaError,
    ReadOnlyVolumeError,
)
from juicecache.meta import tree
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.rows import Counter, Edge
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.testing import engines
from juicecache.testing.cutting_proxy import CuttingProxy
from juicecache.testing.databases import mysql_server, postgres_server
from juicecache.testing.processes import wait_for
from juicecache.testing.redis_server import redis_server
from juicecache.volume.parts import open_engine

pytestmark = pytest.mark.service

SERVERS = ["redis", "postgres", "mysql"]


def increment(tx: Transaction) -> None:
    tx.get(Counter, "a", lock=True)
    tx.add(Counter, "a", value=1)


def value(engine: Engine) -> int:
    row = engine.read(lambda tx: tx.get(Counter, "a"))
    return row.value if row else 0


@pytest.fixture(params=SERVERS)
def url(request, tmp_path) -> str:
    url = engines.fresh_url(request.param, tmp_path)
    with closing(open_engine(url, read_only=False)) as engine:
        engine.prepare()
    return url


def at_port(url: str, port: int) -> str:
    return re.sub(r":\d+(\)?/)", rf":{port}\1", url)


def port_of(url: str) -> int:
    found = re.search(r":(\d+)\)?/", url)
    assert found is not None
    return int(found[1])


# ---------------------------------------------------------------------- connections


@pytest.mark.parametrize("delivers", [False, True], ids=["lost", "answer lost"])
@pytest.mark.parametrize("message", [1, 2, 3])
def test_a_broken_connection_never_commits_twice(url, message, delivers):
    with CuttingProxy(port_of(url)) as proxy:
        with closing(open_engine(at_port(url, proxy.port), read_only=False)) as engine:
            engine.write(increment)
            proxy.cut(message, delivers=delivers)
            try:
                engine.write(increment)
                done = {2}
            except CommitUnknownError:
                done = {1, 2} if message > 1 else set()
            with closing(open_engine(url, read_only=False)) as direct:
                assert value(direct) in done
                engine.write(increment)  # what is cut further on is a transaction of its own
                assert value(direct) in {one + 1 for one in done}
        assert proxy.cuts == 1


@pytest.mark.parametrize("message", [1, 2])
def test_a_broken_connection_of_a_reader_is_not_seen(url, message):
    with CuttingProxy(port_of(url)) as proxy:
        with closing(open_engine(at_port(url, proxy.port), read_only=False)) as engine:
            engine.write(increment)
            proxy.cut(message, delivers=False)
            assert [value(engine) for _ in range(3)] == [1, 1, 1]


def test_who_never_answered_is_an_error_at_once_without_the_password(url):
    with CuttingProxy(1) as nobody:
        port = nobody.port
    started = time.monotonic()
    secret = at_port(url, port).replace("://", "://somebody:pass-word@", 1)
    if url.count("@"):
        secret = at_port(url, port)
    with closing(open_engine(secret, read_only=False)) as engine:
        with pytest.raises(EngineUnavailableError, match=f"{port}.* does not answer") as caught:
            engine.setting()
    assert "pass-word" not in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_wrong_password_is_told(kind, tmp_path):
    url = engines.fresh_url(kind, tmp_path).replace("pass-word", "other-word")
    with closing(open_engine(url, read_only=False)) as engine:
        with pytest.raises(EngineUnavailableError, match="lets nobody in") as caught:
            engine.setting()
    assert "other-word" not in str(caught.value)


def test_a_wrong_password_of_redis_is_told(tmp_path):
    with redis_server(tmp_path, "--requirepass", "pass-word") as server:
        good = server.fresh_url().replace("redis://", "redis://:pass-word@")
        with closing(open_engine(good, read_only=False)) as engine:
            assert engine.setting() is None
        for url in (server.fresh_url(), good.replace("pass-word", "other-word")):
            with closing(open_engine(url, read_only=False)) as engine:
                with pytest.raises(EngineUnavailableError, match="lets nobody in") as caught:
                    engine.setting()
            assert "word" not in str(caught.value).replace("password", "")


# ---------------------------------------------------------------------- restarts


def databases(tmp_path: Path, kind: str):
    make = {
        "redis": lambda: redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always"),
        "postgres": lambda: postgres_server(tmp_path),
        "mysql": lambda: mysql_server(tmp_path),
    }
    return make[kind]()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_restart_is_waited_for_and_nothing_is_counted_twice(kind, tmp_path):
    with databases(tmp_path, kind) as server:
        with closing(open_engine(server.fresh_url(), read_only=False)) as engine:
            engine.prepare()
            engine.write(increment)
            done, unknown, failures = [1], [0], []
            stop = threading.Event()

            def work() -> None:
                while not stop.is_set():
                    try:
                        engine.write(increment)
                        done[0] += 1  # under the interpreter's lock, as the next one
                    except CommitUnknownError:
                        unknown[0] += 1
                    except MetaError as error:
                        failures.append(error)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_for(lambda: done[0] > 20)
            server.stop()
            server.start()
            before = done[0]
            wait_for(lambda: done[0] > before + 20)
            stop.set()
            for thread in threads:
                thread.join()
            assert failures == []
            assert done[0] <= value(engine) <= done[0] + unknown[0]
            assert unknown[0] <= 4


# ---------------------------------------------------------------------- rights


def readers(kind: str, tmp_path: Path) -> tuple[str, str]:
    """Return the address of a volume for its owner, and for somebody who may only read."""
    url = engines.fresh_url(kind, tmp_path)
    with closing(open_engine(url, read_only=False)) as engine:
        engine.prepare()
        engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    name = url.rpartition("/")[2].partition("?")[0]
    if kind == "redis":
        engines.redis().command(
            *("ACL", "SETUSER", "reader", "on", ">look", "~*", "+@read", "+@connection"),
            *("+evalsha", "+script|load", "+info", "+select"),
        )
        return url, url.replace("redis://", "redis://reader:look@")
    if kind == "postgres":
        server = engines.postgres()
        server.admin("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'look'")
        server.admin("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", name)
    else:
        server = engines.mysql()
        server.admin(
            "CREATE OR REPLACE USER reader@'127.0.0.1' IDENTIFIED BY 'look'; "
            f"GRANT SELECT ON {name}.* TO reader@'127.0.0.1'"
        )
    return url, re.sub(r"://[^@]*@", "://reader:look@", url)


@pytest.mark.parametrize("kind", SERVERS)
def test_who_may_only_read_reads(kind, tmp_path):
    url, look = readers(kind, tmp_path)
    with closing(open_engine(look, read_only=True)) as engine:
        found = engine.read(lambda tx: tx.get(Attr, ROOT_INODE))
        assert found is not None
        assert engine.read(lambda tx: list(tx.listing(ROOT_INODE))) == []
        assert engine.setting() is None
        with pytest.raises(ReadOnlyVolumeError):
            engine.write(increment)
    with closing(open_engine(look, read_only=False)) as engine:
        with pytest.raises(ReadOnlyVolumeError):
            engine.write(increment)
    with closing(open_engine(url, read_only=True)) as engine:
        assert value(engine) == 0
    if kind == "postgres":
        engines.postgres().admin("DROP OWNED BY reader", url.rpartition("/")[2].partition("?")[0])


# ---------------------------------------------------------------------- Redis


def test_scripts_that_the_server_forgot_are_sent_again(tmp_path):
    with closing(open_engine(engines.fresh_url("redis", tmp_path), read_only=False)) as engine:
        engine.write(increment)
        engines.redis().command("SCRIPT", "FLUSH")
        engine.write(increment)
        assert value(engine) == 2


def test_a_sweep_ends_with_the_server_that_it_began_on(tmp_path):
    """How far it came means nothing to another, and what it misses would be thought garbage."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        with closing(open_engine(server.fresh_url(), read_only=False)) as engine:
            edges = {Edge(at, b"%d" % at, at, NodeType.FILE) for at in range(3000)}
            engine.write(lambda tx: [tx.put(edge) for edge in sorted(edges)])
            sweep = engine.sweep(Edge, page=32)
            next(sweep)
            server.stop()
            server.start()
            with pytest.raises(EngineUnavailableError, match="begin again"):
                list(sweep)
            assert {edge for page in engine.sweep(Edge, page=32) for edge in page} == edges
            pages: list[int] = []

            def restart_once(gone: int) -> None:
                pages.append(gone)
                if len(pages) == 1:
                    server.stop()
                    server.start()

            engine.erase(restart_once)
            assert list(engine.sweep(Edge, page=32)) == []


def test_a_full_server_is_told_and_nothing_is_half_done(tmp_path):
    with redis_server(tmp_path) as server:
        with closing(open_engine(server.fresh_url(), read_only=False)) as engine:
            engine.write(increment)
            server.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(EngineUnavailableError, match="memory"):
                engine.write(increment)
            server.command("CONFIG", "SET", "maxmemory", "0")
            engine.write(increment)
            assert value(engine) == 2
