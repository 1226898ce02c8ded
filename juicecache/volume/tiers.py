"""Which tiers the cache options ask for."""

from __future__ import annotations

from pathlib import Path

from juicecache.cache.directory import DirectoryTier
from juicecache.cache.group import DirectoryGroup
from juicecache.cache.memory import MemoryTier
from juicecache.cache.stack import TierStack
from juicecache.cache.tier import Tier
from juicecache.config import VolumeOptions


def build_tiers(options: VolumeOptions) -> TierStack:
    """Return the stack that ``cache_dir`` and ``cache_size`` describe; a size of 0 caches nothing.

    The word ``memory`` among the directories is this process's memory and stands in front.
    Several directories share ``cache_size`` equally and form one tier: a block is in one of them.
    """
    if options.cache_size_bytes == 0:
        return TierStack(())
    tiers: list[Tier] = []
    folders = [name for name in options.cache_dir if name != "memory"]
    if len(folders) < len(options.cache_dir):
        tiers.append(MemoryTier(options.memory_size_bytes))
    directories = [
        DirectoryTier(
            Path(folder).expanduser(),
            capacity_bytes=options.cache_size_bytes // len(folders),
            free_space_ratio=options.free_space_ratio,
            eviction=options.cache_eviction,
            expire_s=options.cache_expire_s,
            verify=options.verify_cache_checksum,
        )
        for folder in folders
    ]
    if len(directories) == 1:
        tiers += directories
    elif directories:
        tiers.append(DirectoryGroup(directories))
    return TierStack(tiers)
