"""The tiers of a process in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterable

from juicecache.cache.tier import Tier, TierStats
from juicecache.model.layout import BlockKey

_PROMOTED_PART = 8
"""A block larger than this part of a tier does not move up into it: it would push out most of
what is there."""


class TierStack:
    """Tiers, the fastest first; without any, everything is a miss.

    Every tier keeps what is put, so that a slower one still has what a faster one evicts.
    Folders that share the blocks among them are one tier: a `DirectoryGroup`.

    Parameters
    ----------
    tiers
        In the order of asking; the stack closes them.
    """

    def __init__(self, tiers: Iterable[Tier]) -> None:
        self._tiers = tuple(tiers)
        # Fixed for the life of a tier, and read at every promotion.
        self._block_bytes_max = [tier.capacity_bytes // _PROMOTED_PART for tier in self._tiers]

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block from the first tier that has them.

        A whole block is put into the tiers above, on this thread. Bytes and buffers are as
        for a tier.
        """
        for level, tier in enumerate(self._tiers):
            view = tier.get(key, start, stop)
            if view is not None:
                if level and view.nbytes == key.length:
                    self._promote(level, key, view)
                return view
        return None

    def _promote(self, level: int, key: BlockKey, view: memoryview) -> None:
        for tier, block_bytes_max in zip(self._tiers[:level], self._block_bytes_max, strict=False):
            if key.length <= block_bytes_max:
                tier.put(key, view)

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Offer a block to every tier; True when one of them has it afterwards."""
        kept = [tier.put(key, content) for tier in self._tiers]
        return any(kept)

    def delete(self, key: BlockKey) -> bool:
        """Forget a block in every tier; True when one had it."""
        had = [tier.delete(key) for tier in self._tiers]
        return any(had)

    def contains(self, key: BlockKey) -> bool:
        """Return whether some tier has the block, without touching its age."""
        return any(tier.contains(key) for tier in self._tiers)

    def where(self, key: BlockKey) -> str | None:
        """Return what the first tier that has the block is called: ``memory`` or a path."""
        for tier in self._tiers:
            if place := tier.where(key):
                return place
        return None

    def stats(self) -> tuple[TierStats, ...]:
        """Return the counters of the tiers, in their order."""
        return tuple(tier.stats() for tier in self._tiers)

    def close(self) -> None:
        """Close all tiers. Safe to call twice."""
        for tier in self._tiers:
            tier.close()
