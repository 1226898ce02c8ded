"""A new volume on every engine."""

from __future__ import annotations

import pytest

from juicecache.meta import tree
from juicecache.testing.engines import KINDS, fresh_engine


@pytest.fixture(params=KINDS)
def engine(request, tmp_path):
    engine = fresh_engine(request.param, tmp_path)
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=True))
    yield engine
    engine.close()
