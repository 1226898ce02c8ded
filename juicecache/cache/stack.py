"""The tiers of a process in the order in which they are asked."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable

from juicecache.cache.claims import FREE, Claim
from juicecache.cache.tier import Tier, TierStats
from juicecache.model.layout import BlockKey
from juicecache.model.segments import Held

_PROMOTED_PART = 8
"""A block larger than this part of a tier does not move up into it: it would push out most of
what is there."""
_CALL_BYTES = 64 * 1024
"""What one read of a range costs beside its bytes, in bytes that could be copied meanwhile."""
_CROWDED = 8
"""So many times its length is read by ranges from a block before it pushes others out above."""
_RANGED_MAX = 8192
"""Blocks remembered as read by ranges, 2 MB; the one not read for longest is forgotten."""


class TierStack:
    """Tiers, the fastest first; without any, everything is a miss.

    Every tier keeps what is put, so that a slower one still has what a faster one evicts.
    Folders that share the blocks among them are one tier: a `DirectoryGroup`.

    What a lower tier answers moves up: a whole block at once, since its bytes are at hand; one
    that is read by ranges, as that of many small files, when the ranges have cost as much as
    reading it whole, so that moving it at most doubles what was spent.

    Parameters
    ----------
    tiers
        In the order of asking; the stack closes them.
    """

    def __init__(self, tiers: Iterable[Tier]) -> None:
        self._tiers = tuple(tiers)
        self._claimed = next((tier for tier in self._tiers if tier.shared), None)
        # Fixed for the life of a tier, and read at every promotion.
        self._ranged: OrderedDict[BlockKey, int] = OrderedDict()
        self._block_bytes_max = [tier.capacity_bytes // _PROMOTED_PART for tier in self._tiers]

    @property
    def is_empty(self) -> bool:
        """Whether there is no tier at all."""
        return not self._tiers

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block from the first tier that has them.

        A block that moves up is put into the tiers above on this thread. Bytes and buffers are
        as for a tier.
        """
        for level, tier in enumerate(self._tiers):
            view = tier.get(key, start, stop)
            if view is not None:
                if level:
                    if view.nbytes == key.length:
                        self._promote(level, key, view)
                    else:
                        self._range_read(level, key, view.nbytes)
                return view
        return None

    def get_into(self, key: BlockKey, start: int, stop: int, buffer: memoryview) -> bool:
        """Copy bytes ``[start, stop)`` of a block into ``buffer``; False when no tier has them.

        ``buffer`` is as for a tier.
        """
        for level, tier in enumerate(self._tiers):
            if tier.get_into(key, start, stop, buffer):
                if level:
                    self._range_read(level, key, stop - start)
                return True
        return False

    def hold(self, key: BlockKey, start: int, stop: int) -> Held | None:
        """Return segments of a block for a peer, from the first tier that has it.

        Nothing moves up: what peers read often is in their own tiers.
        """
        for tier in self._tiers:
            held = tier.hold(key, start, stop)
            if held is not None:
                return held
        return None

    def examine(self, key: BlockKey) -> bool:
        """Compare every copy of a block with its checksums; True when one was bad."""
        bad = [tier.examine(key) for tier in self._tiers]
        return any(bad)

    def _range_read(self, level: int, key: BlockKey, size_bytes: int) -> None:
        """Take note of a range read below the top; move the block up when that has paid."""
        if all(key.length > most for most in self._block_bytes_max[:level]):
            return
        before = self._ranged.pop(key, 0)
        spent = before + max(size_bytes, _CALL_BYTES)
        # Once is no habit; and where there is no room, that is looked at once a length.
        repeated = before and spent // key.length > before // key.length
        if repeated and (spent >= _CROWDED * key.length or self._has_room(level, key)):
            whole = self._tiers[level].get(key)
            if whole is not None:
                self._promote(level, key, whole)
            return
        self._ranged[key] = spent
        if len(self._ranged) > _RANGED_MAX:
            with contextlib.suppress(KeyError):  # another thread was first
                self._ranged.popitem(last=False)

    def _has_room(self, level: int, key: BlockKey) -> bool:
        """Return whether some tier above would not have to push out others."""
        each = (tier.stats() for tier in self._tiers[:level])
        return any(tier.capacity_bytes - tier.used_bytes > key.length for tier in each)

    def _promote(self, level: int, key: BlockKey, view: memoryview) -> None:
        for tier, block_bytes_max in zip(self._tiers[:level], self._block_bytes_max, strict=False):
            if key.length <= block_bytes_max:
                tier.put(key, view)

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Offer a block to every tier; True when one of them has it afterwards."""
        kept = [tier.put(key, content) for tier in self._tiers]
        return any(kept)

    def claim(self, key: BlockKey) -> Claim | None:
        """Return the right to load a block, of the first tier that processes share.

        None while another process loads it: it will be found here. Without such a tier it is
        granted to everybody.
        """
        return FREE if self._claimed is None else self._claimed.claim(key)

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
