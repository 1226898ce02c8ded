"""The engine on Redis."""

from __future__ import annotations

import pytest

from juicecache.addresses import parse_meta
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
