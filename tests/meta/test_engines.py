"""The contract of engines, on every engine that needs no server."""

from __future__ import annotations

import pytest

from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.testing.engine_contract import EngineContract


class TestMemory(EngineContract):
    @pytest.fixture
    def engine(self):
        engine = MemoryEngine()
        engine.prepare()
        yield engine
        engine.close()


class TestSqlite(EngineContract):
    table_prefix = ""

    @pytest.fixture
    def engine(self, tmp_path):
        engine = SqliteEngine(tmp_path / "meta.db", table_prefix=self.table_prefix)
        engine.prepare()
        yield engine
        engine.close()


class TestSqliteWithPrefix(TestSqlite):
    table_prefix = "abc"
