"""How much more a directory tier may take: its quota, its file system and its memory limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from juicecache.cache.block_file import charge
from juicecache.cache.books import Books
from juicecache.cache.files import find_writers

_MEASURE_S = 1.0
"""How long a measured free space is believed, less what was reserved since."""
_STAT_BLOCK_BYTES = 512
"""The unit of ``st_blocks``, whatever the file system."""
_MEMORY_REST_S = 60.0
"""After blocks were evicted and memory is still short, it is not ours: it is charged to another
container, or is no cache at all. Then new blocks are refused for so long, not old ones evicted,
which would empty the tier of all containers for nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tier may take.

    Attributes
    ----------
    capacity_bytes
        Most that all files together may take, in whole pages.
    capacity_items
        Most files; 0 is no limit.
    free_space_ratio
        Part of the file system, and of its inodes, that must stay free for others.
    memory_left
        Bytes that may still be taken of the memory that this process is allowed, for a tier
        that lies in memory; None when nothing limits it.
    """

    capacity_bytes: int
    capacity_items: int = 0
    free_space_ratio: float = 0.0
    memory_left: Callable[[], int | None] = lambda: None


class NoRoomError(Exception):
    """A file does not fit, whatever is evicted; its text says what is short, and the option."""


class Shortage(NamedTuple):
    """What must go before more may come, both positive or 0; and whether evicting is of use."""

    size_bytes: int
    items: int
    can_evict: bool = True

    def __bool__(self) -> bool:
        return self.size_bytes > 0 or self.items > 0


class Room:
    """The limits of a tier, with what was measured last.

    What all processes reserved since then is known from the books, so that they do not take the
    same free space twice.

    Parameters
    ----------
    root
        The folder of the tier.
    clock
        Monotonic seconds.
    """

    def __init__(self, root: bytes, limits: Limits, clock: Callable[[], float]) -> None:
        self._root = root
        self.limits = limits
        self._clock = clock
        self._disk_bytes = self._used_bytes = 0
        self._memory_bytes: int | None = None
        self._inodes_short = False
        self._measured_at_s = self._spare_memory_until_s = float("-inf")

    def shortage(self, books: Books, needed: int) -> Shortage:
        """Return what must go before a file that takes ``needed`` bytes may come.

        Whoever asks holds the books.

        Raises
        ------
        OSError
            The medium does not tell.
        """
        now = self._clock()
        if not 0 <= now - self._measured_at_s < _MEASURE_S:
            self._measure(books)
            self._measured_at_s = now
        limits = self.limits
        needed_since = needed + books.used_bytes - self._used_bytes
        size_bytes = max(
            books.used_bytes + needed - limits.capacity_bytes, needed_since - self._disk_bytes, 0
        )
        memory = 0 if self._memory_bytes is None else max(needed_since - self._memory_bytes, 0)
        items = books.items + 1 - limits.capacity_items if limits.capacity_items else 0
        return Shortage(
            max(size_bytes, memory),
            max(items, int(self._inodes_short)),
            can_evict=not memory or now >= self._spare_memory_until_s,
        )

    def reason(self, books: Books, needed: int) -> str:
        """Return what keeps out a file that takes ``needed`` bytes, after `shortage` said so."""
        limits = self.limits
        since = books.used_bytes - self._used_bytes
        wanted, ratio = f"a block takes {_size(needed)}", limits.free_space_ratio
        if needed > limits.capacity_bytes:
            return f"{wanted}, the quota (cache_size) is {_size(limits.capacity_bytes)}"
        if needed > self._disk_bytes - since:
            free = _size(self._disk_bytes - since)
            return f"{wanted}, {free} of the disk are free beyond free_space_ratio={ratio:g}"
        if self._memory_bytes is not None and needed > self._memory_bytes - since:
            free = _size(self._memory_bytes - since)
            return f"{wanted}, {free} of the memory are free beyond free_space_ratio={ratio:g}"
        if self._inodes_short:
            return f"fewer inodes are free than free_space_ratio={ratio:g}"
        if books.used_bytes + needed > limits.capacity_bytes:
            free = _size(limits.capacity_bytes - books.used_bytes)
            return f"{wanted}, {free} of the quota (cache_size) are free and none is evicted"
        return (
            f"there are as many blocks as cache_items={limits.capacity_items} and none is evicted"
        )

    def _measure(self, books: Books) -> None:
        # What is reserved but not written yet is not taken from the free space that we see.
        unwritten = sum(
            max(0, charge(stat.st_size) - stat.st_blocks * _STAT_BLOCK_BYTES)
            for stat in find_writers(self._root).living
        )
        found = os.statvfs(self._root)
        ratio = self.limits.free_space_ratio
        spare = int(found.f_blocks * ratio) * found.f_frsize
        self._disk_bytes = found.f_bavail * found.f_frsize - spare - unwritten
        if not found.f_blocks:  # a tmpfs without a size
            self._disk_bytes = self.limits.capacity_bytes
        self._inodes_short = found.f_favail < found.f_files * ratio
        memory_bytes = self.limits.memory_left()
        self._memory_bytes = None if memory_bytes is None else memory_bytes - unwritten
        self._used_bytes = books.used_bytes

    def forget(self) -> None:
        """Measure anew next time: something was removed, or the books were corrected."""
        self._measured_at_s = float("-inf")

    def evicted_in_vain(self, needed: int) -> None:
        """Remember it if memory is what is still short of ``needed`` after an eviction."""
        if self._memory_bytes is not None and self._memory_bytes < needed:
            self._spare_memory_until_s = self._clock() + _MEMORY_REST_S


def _size(size_bytes: int) -> str:
    return f"{max(size_bytes, 0) / 2**20:.1f} MiB"
