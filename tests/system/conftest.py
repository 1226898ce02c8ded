"""Volumes that this library and the official client use together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from juicecache.testing.engines import SHARED_KINDS
from juicecache.testing.official import SharedVolume
from juicecache.testing.servers import juicefs_binary


@pytest.fixture
def shared(engine_kind: str, tmp_path: Path) -> SharedVolume:
    """A volume that is still to be formatted."""
    juicefs_binary()
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    return SharedVolume(tmp_path, engine=engine_kind)


@pytest.fixture(params=SHARED_KINDS)
def engine_kind(request: pytest.FixtureRequest) -> str:
    """The metadata engine of `shared`: each of them, unless a test chooses."""
    return str(request.param)
