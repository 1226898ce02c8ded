"""What of the block files has to be checked against the checksums, and what was.

By the words of ``--verify-cache-checksum``:

``none``     nothing but the size of the file
``shrink``   a block when all of it is read, the first time this process does that
``extend``   each 64 KiB of a block the first time this process reads any part of them
``full``     at every read, each 64 KiB that it touches

A file is known by its inode and its time of change: one that was put anew, or changed in place,
is checked anew.
"""

from __future__ import annotations

import os
import time

from juicecache.errors import ConfigError
from juicecache.model.layout import BlockKey
from juicecache.model.segments import segment_count, touched

_VERIFY = ("none", "shrink", "extend", "full")
_FILES_MAX = 1 << 17
"""Files remembered as checked, some 40 MB at most; then all are forgotten, and checked again."""
_MTIME_GRAIN_S = 0.02
"""Two changes so close to each other may leave the same time, before Linux 6.13: what changed so
lately is not remembered as checked."""
_ALL_SEGMENTS = -1

Checked = tuple[tuple[int, int], int]
"""What tells a file from others, and the segments of it that were checked, a bit each."""
ANY: Checked = (0, 0), _ALL_SEGMENTS
"""Stands for a file that need not be checked."""


class Checks:
    """What this process has checked of the files of one tier.

    Threads use it without a lock: what one forgets that another has just added is checked again.

    Parameters
    ----------
    verify
        One of the four words.

    Raises
    ------
    ConfigError
        It is none of them.
    """

    def __init__(self, verify: str) -> None:
        if verify not in _VERIFY:
            raise ConfigError(
                f"verify_cache_checksum is {verify!r}; it can be {', '.join(_VERIFY)}"
            )
        self._trusts_all = verify == "none"
        self._trusts_none = verify == "full"
        self._trusts_ranges = verify == "shrink"
        self._files: dict[BlockKey, Checked] = {}

    def trusted(self, key: BlockKey, start: int, stop: int) -> Checked | None:
        """Return the file whose bytes ``[start, stop)`` were checked; None if they must be."""
        if self._trusts_none:
            return None
        if self._trusts_all or (self._trusts_ranges and stop - start < key.length):
            return ANY
        checked = self._files.get(key)
        if checked is None or checked[1] == _ALL_SEGMENTS:
            return checked
        needed = _bits(start, stop)
        return checked if checked[1] & needed == needed else None

    def remember(self, key: BlockKey, stat: os.stat_result, start: int, stop: int) -> None:
        """Take note that bytes ``[start, stop)`` of a file were checked after ``stat``."""
        if self._trusts_none or time.time() - stat.st_mtime <= _MTIME_GRAIN_S:
            return
        file, segments = identity(stat), _bits(start, stop)
        checked = self._files.get(key)
        if checked is not None and checked[0] == file:
            segments |= checked[1]
        elif len(self._files) >= _FILES_MAX:
            self._files.clear()
        everything = (1 << segment_count(key.length)) - 1
        self._files[key] = file, _ALL_SEGMENTS if segments == everything else segments

    def forget(self, key: BlockKey) -> None:
        """Remember nothing of a block."""
        self._files.pop(key, None)


def identity(stat: os.stat_result) -> tuple[int, int]:
    """Return what tells a file and its content from others."""
    return stat.st_ino, stat.st_mtime_ns


def _bits(start: int, stop: int) -> int:
    segments = touched(start, stop)
    return (1 << segments.stop) - (1 << segments.start)
