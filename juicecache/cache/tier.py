"""The contract of one cache tier: block key to bytes, on this machine.

This floor knows no file, inode, object or network. A block is an opaque key and a
length; blocks are immutable, so nothing here is ever invalidated, only evicted.

Laws: a miss is ``None``, never an exception; a damaged copy is dropped, counted and
answered as a miss; a full or sick disk makes ``put`` answer False and reads go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from juicecache.model.layout import BlockKey


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counters of one tier since this process opened it.

    ``used_bytes`` and ``items`` describe the tier as a whole (all processes); the other
    numbers are this process's own.
    """

    medium: str
    where: str
    capacity_bytes: int
    used_bytes: int
    items: int
    hits: int
    misses: int
    stored: int
    evicted: int
    corrupt: int
    errors: int


class Tier(Protocol):
    """One level of cache."""

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block, read-only and independent of the tier; None on a miss."""

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a whole block of ``key.length`` bytes; False when it was not kept."""

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; True when it was here."""

    def contains(self, key: BlockKey) -> bool:
        """Return whether the block is here, without touching its age."""

    def stats(self) -> TierStats:
        """Return the counters."""

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
