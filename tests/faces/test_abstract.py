"""The suites that fsspec itself demands of every implementation."""

from __future__ import annotations

import pytest
from fsspec.tests import abstract


class VolumeFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, open_fs):
        return open_fs()

    @pytest.fixture
    def fs_path(self):
        return "/work"


class TestCopy(VolumeFixtures, abstract.AbstractCopyTests):
    pass


class TestGet(VolumeFixtures, abstract.AbstractGetTests):
    pass


class TestPut(VolumeFixtures, abstract.AbstractPutTests):
    pass


class TestOpen(VolumeFixtures, abstract.AbstractOpenTests):
    pass


class TestPipe(VolumeFixtures, abstract.AbstractPipeTests):
    pass
