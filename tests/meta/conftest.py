"""A new volume on every engine that needs no server."""

from __future__ import annotations

import pytest

from juicecache.meta import tree
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine


@pytest.fixture(params=["memory", "sqlite"])
def engine(request, tmp_path):
    engine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "meta.db")
    engine.prepare()
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=True))
    yield engine
    engine.close()
