"""The engine on Redis."""

from __future__ import annotations

from contextlib import closing

import pytest

from juicecache.addresses import parse_meta
from juicecache.errors import ConfigError, JuicecacheError
from juicecache.meta.engines.redis import RedisEngine
from juicecache.meta.rows import Edge, SliceRef, key_of
from juicecache.model.attr import Attr, NodeType
from juicecache.testing.engine_contract import EngineContract
from juicecache.testing.engines import redis

pytestmark = pytest.mark.service


class TestRedis(EngineContract):
    @pytest.fixture
    def engine(self):
        engine = RedisEngine(parse_meta(redis().fresh_url()))
        engine.prepare()
        yield engine
        engine.close()


def test_what_the_official_client_is_told_of_itself_is_passed_over():
    tuned = "read-timeout=3s&write_timeout=3s&client-cache=true&route-read=replica"
    with closing(RedisEngine(parse_meta(f"{redis().fresh_url()}?{tuned}"))) as engine:
        assert engine.setting() is None
    with pytest.raises(ConfigError, match="unknown option 'tls-server-name'"):
        RedisEngine(parse_meta("rediss://localhost:6379/1?tls-server-name=other"))


def test_a_user_is_written_as_in_any_url():
    server = redis()
    server.command("ACL", "SETUSER", "a:b@c", "on", ">pass@word", "~*", "+@all")
    url = server.fresh_url().replace("redis://", "redis://a%3Ab%40c:pass%40word@")
    with closing(RedisEngine(parse_meta(url))) as engine:
        assert engine.setting() is None


def test_no_reply_of_what_was_asked_ahead_stays_behind():
    with closing(RedisEngine(parse_meta(redis().fresh_url()))) as engine:
        link = engine._link
        connection = link.pool.take()
        echo = [(b"ECHO", b"%d" % number) for number in range(5)]
        assert list(link.ask_ahead(connection, echo)) == [b"0", b"1", b"2", b"3", b"4"]
        with closing(link.ask_ahead(connection, echo)) as replies:
            assert next(replies) == b"0"
        assert link.ask(connection, [(b"ECHO", b"then")]) == [b"then"]
        with pytest.raises(JuicecacheError, match="unknown command"):
            list(link.ask_ahead(connection, [*echo[:2], (b"NONSENSE",), *echo[2:]]))
        assert link.ask(connection, [(b"ECHO", b"then")]) == [b"then"]
        link.pool.give_back(connection, sound=True)


@pytest.mark.parametrize("table", [Attr, Edge, SliceRef])
def test_what_a_scan_tells_again_comes_once(table, monkeypatch):
    """As it does when the server's table grows meanwhile; here it tells everything again."""
    with closing(RedisEngine(parse_meta(redis().fresh_url()))) as engine:
        rows = {
            Attr: [Attr(inode, NodeType.FILE) for inode in range(2, 900)],
            Edge: [Edge(7, b"%d" % n, n, NodeType.FILE) for n in range(2, 900)],
            SliceRef: [SliceRef(n, 100, 2) for n in range(2, 900)],
        }[table]
        for first in range(0, len(rows), 100):
            engine.write(lambda tx, some=rows[first : first + 100]: [tx.put(row) for row in some])
        ask, told = engine._link.ask, []

        def repeating(connection, commands):
            replies = ask(connection, commands)
            if commands[0][0] in (b"SCAN", b"HSCAN"):
                told.extend(replies[0][1])
                replies[0][1] = list(told)
            return replies

        monkeypatch.setattr(engine._link, "ask", repeating)
        found = [row for page in engine.sweep(table, page=50) for row in page]
        assert len(found) == len(rows)
        assert {key_of(row) for row in found} == {key_of(row) for row in rows}
