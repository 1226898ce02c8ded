"""Which blocks go when room is needed: pure orders over what a tier holds.

Nothing here knows files, locks or clocks; ages are numbers that come with the candidates.
The names are those of the option ``--cache-eviction``.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from juicecache.errors import ConfigError


class Candidate(NamedTuple):
    """A block that may be evicted.

    Attributes
    ----------
    last_used_ns
        The larger, the later it was used; only comparisons count.
    size_bytes
        What evicting it frees.
    path
        What the tier calls it.
    """

    last_used_ns: int
    size_bytes: int
    path: bytes


class EvictionOrder(Protocol):
    """A rule that picks victims.

    Attributes
    ----------
    sampled
        Whether a random part of the tier is enough to choose from; else the order must see
        every block.
    """

    sampled: bool

    def victims(
        self, candidates: Iterable[Candidate], needed_bytes: int, needed_items: int = 0
    ) -> list[Candidate]:
        """Return the candidates to evict, first to go first.

        They are at least ``needed_items`` of together at least ``needed_bytes`` unless that is
        more than there is, and every one of them is needed: without the last, they fall short.
        """


class Lru:
    """The longest unused goes first."""

    name = "lru"
    sampled = False

    def victims(
        self, candidates: Iterable[Candidate], needed_bytes: int, needed_items: int = 0
    ) -> list[Candidate]:
        """Return the oldest candidates; memory grows with the victims, not the candidates."""
        if needed_bytes <= 0 and needed_items <= 0:
            return []
        chosen: list[tuple[int, Candidate]] = []  # a heap with the youngest in front
        total = 0
        for candidate in candidates:
            age = -candidate.last_used_ns
            enough = total >= needed_bytes and len(chosen) >= needed_items
            if enough and age <= chosen[0][0]:
                continue
            heapq.heappush(chosen, (age, candidate))
            total += candidate.size_bytes
            while len(chosen) > needed_items and total - chosen[0][1].size_bytes >= needed_bytes:
                total -= heapq.heappop(chosen)[1].size_bytes
        return [candidate for _, candidate in sorted(chosen, reverse=True)]


class TwoRandom:
    """Of two at random the longer unused goes first: nearly as good as LRU, without a scan.

    Parameters
    ----------
    rng
        The source of chance; a seeded one makes the order repeatable.
    """

    name = "2-random"
    sampled = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def victims(
        self, candidates: Iterable[Candidate], needed_bytes: int, needed_items: int = 0
    ) -> list[Candidate]:
        """Return the losers of as many random pairs as are needed."""
        left = list(candidates)
        chosen: list[Candidate] = []
        while left and (needed_bytes > 0 or len(chosen) < needed_items):
            pair = self._rng.randrange(len(left)), self._rng.randrange(len(left))
            loser = min(pair, key=lambda at: left[at].last_used_ns)
            left[loser], left[-1] = left[-1], left[loser]
            chosen.append(left.pop())
            needed_bytes -= chosen[-1].size_bytes
        return chosen


def eviction_order(name: str, rng: random.Random) -> EvictionOrder | None:
    """Return the order that the option ``--cache-eviction`` calls ``name``.

    For ``none`` it is None: nothing goes, and a full tier keeps nothing new.

    Raises
    ------
    ConfigError
        There is no such order.
    """
    if name == Lru.name:
        return Lru()
    if name == TwoRandom.name:
        return TwoRandom(rng)
    if name == "none":
        return None
    raise ConfigError(f"cache_eviction is {name!r}; it can be none, 2-random or lru")
