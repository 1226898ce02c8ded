"""The SQL engine on PostgreSQL and MariaDB."""

from __future__ import annotations

import pytest

from juicecache.testing.engine_contract import EngineContract
from juicecache.testing.engines import fresh_url
from juicecache.volume.parts import open_engine

pytestmark = pytest.mark.service


class TestPostgres(EngineContract):
    kind = "postgres"
    table_prefix = ""

    @pytest.fixture
    def engine(self, tmp_path):
        url = fresh_url(self.kind, tmp_path)
        if self.table_prefix:
            url += ("&" if "?" in url else "?") + f"table_prefix={self.table_prefix}"
        engine = open_engine(url, read_only=False)
        engine.prepare()
        yield engine
        engine.close()


class TestPostgresWithPrefix(TestPostgres):
    table_prefix = "abc"


class TestMysql(TestPostgres):
    kind = "mysql"


class TestMysqlWithPrefix(TestMysql):
    table_prefix = "abc"
