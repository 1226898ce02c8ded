"""Every tier passes the contract, in every mode."""

from __future__ import annotations

import pytest

from juicecache.cache.directory import DirectoryTier
from juicecache.cache.group import DirectoryGroup
from juicecache.cache.memory import MemoryTier
from juicecache.testing.tier_contract import CAPACITY_BYTES, TierContract
from juicecache.testing.tier_faults import FaultyTier


class TestMemory(TierContract):
    @pytest.fixture
    def tier(self):
        tier = MemoryTier(CAPACITY_BYTES)
        yield tier
        tier.close()


class TestDirectory(TierContract):
    @pytest.fixture(
        params=[
            ("2-random", "extend"),
            ("2-random", "shrink"),
            ("lru", "full"),
            ("lru", "none"),
        ],
        ids="/".join,
    )
    def tier(self, request, tmp_path):
        eviction, verify = request.param
        tier = DirectoryTier(
            tmp_path,
            capacity_bytes=CAPACITY_BYTES,
            free_space_ratio=0,
            eviction=eviction,
            verify=verify,
        )
        yield tier
        tier.close()


class TestGroup(TierContract):
    @pytest.fixture
    def tier(self, tmp_path):
        members = [
            DirectoryTier(tmp_path / name, capacity_bytes=CAPACITY_BYTES // 2, free_space_ratio=0)
            for name in ("a", "b")
        ]
        group = DirectoryGroup(members)
        yield group
        group.close()


class TestFaultyWithoutFaults(TierContract):
    @pytest.fixture
    def tier(self):
        tier = FaultyTier(MemoryTier(CAPACITY_BYTES))
        yield tier
        tier.close()
