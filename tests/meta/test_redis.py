"""The engine on Redis."""

from __future__ import annotations

from contextlib import closing

import pytest

from juicecache.addresses import parse_meta
from juicecache.errors import ConfigError, JuicecacheError
from juicecache.meta.engines.redis import RedisEngine
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
