"""Which tiers the cache options ask for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from juicecache.cache.directory import DirectoryTier
from juicecache.cache.group import DirectoryGroup
from juicecache.cache.memory import MemoryTier
from juicecache.cache.stack import TierStack
from juicecache.cache.tier import Tier
from juicecache.config import TierOptions, VolumeOptions, default_cache_dir
from juicecache.errors import ConfigError

_log = logging.getLogger("juicecache")


def build_tiers(options: VolumeOptions) -> TierStack:
    """Return the stack that the options describe, at length or in short.

    Raises
    ------
    ConfigError
        A folder cannot be used, is named twice, or is inside another one. Where nobody chose
        the folder, one that cannot be made is no error: nothing is kept.
    """
    levels = options.tiers or _at_length(options)
    folders = [
        os.path.realpath(os.path.expanduser(name)) for level in levels for name, _ in level.folders
    ]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"the cache folder {folder} is in more than one tier")
        for other in folders:
            if folder.startswith(f"{other.rstrip('/')}/"):
                raise ConfigError(
                    f"the cache folder {folder} is inside of {other}, which is one too: "
                    "each would count what the other keeps"
                )
    built: list[Tier] = []
    try:
        built.extend(_build(level, options) for level in levels)  # one by one: all are closed
    except ConfigError as error:
        for tier in built:
            tier.close()
        by_default = not options.tiers and options.cache_dir == default_cache_dir()
        if by_default and isinstance(error.__cause__, OSError):
            _log.warning("nothing is cached: %s; cache_dir names another folder", error)
            return TierStack([])
        option = "tiers" if options.tiers else "cache_dir"
        instead = " instead of tiers" if options.tiers else ""
        raise ConfigError(
            f"option {option}: {error}; name another folder, or give cache_size=0{instead}"
        ) from error
    return TierStack(built)


def _at_length(options: VolumeOptions) -> tuple[TierOptions, ...]:
    """Return what ``cache_dir`` and ``cache_size`` mean; a size of 0 caches nothing.

    The word ``memory`` among the directories is this process's memory and stands in front.
    Several directories share ``cache_size`` equally and form one tier: a block is in one of them.
    """
    if options.cache_size_bytes == 0:
        return ()
    levels = []
    names = [name for name in options.cache_dir if name != "memory"]
    if len(names) < len(options.cache_dir):
        levels.append(TierOptions((), options.memory_size_bytes))
    if names:
        share_bytes = options.cache_size_bytes // len(names)
        levels.append(TierOptions(tuple((name, share_bytes) for name in names), 0))
    return tuple(levels)


def _build(level: TierOptions, options: VolumeOptions) -> Tier:
    ratio = level.free_space_ratio
    directories = [
        DirectoryTier(
            Path(name).expanduser(),
            capacity_bytes=size_bytes,
            capacity_items=options.cache_items,
            free_space_ratio=options.free_space_ratio if ratio is None else ratio,
            eviction=options.cache_eviction,
            expire_s=options.cache_expire_s,
            verify=options.verify_cache_checksum,
        )
        for name, size_bytes in level.folders
    ]
    if not directories:
        return MemoryTier(level.memory_bytes)
    return directories[0] if len(directories) == 1 else DirectoryGroup(directories)
