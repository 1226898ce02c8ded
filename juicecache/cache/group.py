"""Several folders as one tier: every block has one of them, the same for all processes."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections.abc import Sequence

from juicecache.cache.claims import Claim
from juicecache.cache.directory import DirectoryTier
from juicecache.cache.tier import TierStats
from juicecache.errors import ConfigError
from juicecache.model.layout import BlockKey
from juicecache.model.segments import Held

_SLOTS = 256
"""Shares of the folders are right to about a tenth; the table is made within a millisecond."""
_STATES = ("ok", "full", "sick")
"""Of a member, from good to bad: the group shows the worst."""


class DirectoryGroup:
    """Directory tiers side by side, usually one a disk; each block belongs to one of them.

    Which one is told by a hash of its name, weighted by capacity: the same in every process
    that has the same folders, in any order. One more folder takes its share of the blocks and
    moves no others.

    Parameters
    ----------
    tiers
        The members; the group closes them.

    Raises
    ------
    ConfigError
        There is none, or two are the same folder.
    """

    shared = True

    def __init__(self, tiers: Sequence[DirectoryTier]) -> None:
        paths = [os.path.realpath(tier.path) for tier in tiers]
        if not tiers or len(set(paths)) < len(paths):
            raise ConfigError(f"the cache folders must be different: {', '.join(paths)}")
        self._tiers = tuple(tiers)
        weights = [tier.capacity_bytes for tier in tiers]
        self.capacity_bytes = sum(weights)
        self._slots = tuple(self._tiers[_owner(slot, paths, weights)] for slot in range(_SLOTS))

    def member(self, key: BlockKey) -> DirectoryTier:
        """Return the tier that a block belongs to."""
        # The low bits choose the folder inside a tier; these must not follow from them.
        number = zlib.crc32(key.name.encode("utf-8", "surrogatepass")) >> 16
        return self._slots[number % _SLOTS]

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block; None on a miss."""
        return self.member(key).get(key, start, stop)

    def get_into(self, key: BlockKey, start: int, stop: int, buffer: memoryview) -> bool:
        """Copy bytes ``[start, stop)`` of a block into ``buffer``; False on a miss."""
        return self.member(key).get_into(key, start, stop, buffer)

    def hold(self, key: BlockKey, start: int, stop: int) -> Held | None:
        """Return the segments around bytes ``[start, stop)`` of a block; None on a miss."""
        return self.member(key).hold(key, start, stop)

    def examine(self, key: BlockKey) -> bool:
        """Read a block and compare it; True when it was bad, and is dropped."""
        return self.member(key).examine(key)

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a block in its member; no other stands in for a full or sick one."""
        return self.member(key).put(key, content)

    def claim(self, key: BlockKey) -> Claim | None:
        """Return the right to load a block; None while another has it."""
        return self.member(key).claim(key)

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; True when it was here."""
        return self.member(key).delete(key)

    def contains(self, key: BlockKey) -> bool:
        """Return whether the block is here, without touching its age."""
        return self.member(key).contains(key)

    def where(self, key: BlockKey) -> str | None:
        """Return the path of the member that has the block; None when it is not here."""
        return self.member(key).where(key)

    def stats(self) -> TierStats:
        """Return the sums over the members, and the worst state; ``where`` joins paths by ``:``."""
        each = [tier.stats() for tier in self._tiers]
        return TierStats(
            medium="directory",
            where=":".join(stats.where for stats in each),
            capacity_bytes=sum(stats.capacity_bytes for stats in each),
            used_bytes=sum(stats.used_bytes for stats in each),
            items=sum(stats.items for stats in each),
            hits=sum(stats.hits for stats in each),
            misses=sum(stats.misses for stats in each),
            stored=sum(stats.stored for stats in each),
            evicted=sum(stats.evicted for stats in each),
            corrupt=sum(stats.corrupt for stats in each),
            errors=sum(stats.errors for stats in each),
            state=max((stats.state for stats in each), key=_STATES.index),
            reason="; ".join(stats.reason for stats in each if stats.reason),
            since_s=max(stats.since_s for stats in each),
        )

    def close(self) -> None:
        """Close the members. Safe to call twice."""
        for tier in self._tiers:
            tier.close()


def _owner(slot: int, paths: Sequence[str], weights: Sequence[int]) -> int:
    """Return the index of the path that wins a slot: rendezvous hashing with weights."""

    def score(index: int) -> tuple[float, str]:
        seed = f"{slot}\0{paths[index]}".encode("utf-8", "surrogateescape")
        number = int.from_bytes(hashlib.blake2b(seed, digest_size=7).digest())
        # Of independent draws with rates w the first to fall is i with chance w[i] / sum(w).
        return weights[index] / -math.log((number + 0.5) / 2**56), paths[index]

    return max(range(len(paths)), key=score)
