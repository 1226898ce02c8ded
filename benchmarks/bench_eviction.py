"""Which eviction order suits training: hit rates of the real orders over an invented trace.

A simulation without files: blocks of one size, ages that count accesses, room made in batches as
a directory tier makes it. Repeatable to the last digit, and no measure of speed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from harness import Report

from juicecache.cache.policy import Candidate, EvictionOrder, eviction_order

CAPACITY = 2000
"""Blocks; more change no rate by more than a percent."""
SLACK = 32
"""As ``juicecache.cache.space``: one eviction frees this part at once."""


class Chance:
    """Any block goes: what 2-random is measured against; no order of the package."""

    sampled = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def victims(
        self, candidates: Iterable[Candidate], needed_bytes: int, needed_items: int = 0
    ) -> list[Candidate]:
        return self._rng.sample(list(candidates), max(needed_bytes, needed_items))


class Cache:
    """Blocks of one byte by name, with the count of accesses at their last use."""

    def __init__(self, order: EvictionOrder | None) -> None:
        self._order = order
        self._here: dict[bytes, int] = {}
        self._now = 0

    def read(self, name: bytes) -> bool:
        """Read a block, keep it, and return whether it was here."""
        self._now += 1
        hit = name in self._here
        if hit or self._has_room():
            self._here[name] = self._now
        return hit

    def _has_room(self) -> bool:
        if len(self._here) < CAPACITY:
            return True
        if self._order is None:
            return False
        candidates = [Candidate(age, 1, name) for name, age in self._here.items()]
        for victim in self._order.victims(candidates, 1 + CAPACITY // SLACK):
            del self._here[victim.path]
        return True

    def rate(self, names: list[bytes]) -> float:
        return sum(map(self.read, names)) / len(names)


def blocks(tag: str, parts: float) -> list[bytes]:
    """Return names of a set of blocks so many times as large as the cache."""
    return [f"{tag}{number}".encode() for number in range(round(CAPACITY * parts))]


def rates(order: EvictionOrder | None, factor: float, *, scanned: bool) -> list[float]:
    """Return the hit rates of each phase of the trace."""
    trace = random.Random(7)
    cache = Cache(order)
    if scanned:
        cache.rate(blocks("scan", 5))
    epochs = []
    data = blocks("epoch", factor)
    for _ in range(6):
        trace.shuffle(data)
        epochs.append(cache.rate(data))
    hot = blocks("hot", 0.25)
    loop = [name for _ in range(10) for name in trace.sample(hot, len(hot))]
    in_loop = cache.rate(loop)
    hits = 0
    for name in blocks("other scan", 5):
        cache.read(name)
        hits += cache.read(trace.choice(hot))
    return [epochs[1], epochs[5], in_loop, hits / (5 * CAPACITY)]


def main() -> list[Report]:
    reports = []
    for factor in (1.2, 2.0):
        report = Report(f"Hit rates by eviction order, data set {factor} x the cache")
        rows = []
        for name in ("lru", "2-random", "pure chance", "none"):
            for scanned in (True, False):
                rng = random.Random(1)
                order = Chance(rng) if name == "pure chance" else eviction_order(name, rng)
                found = rates(order, factor, scanned=scanned)
                before = "a scan of 5 x the cache" if scanned else "nothing"
                rows.append([name, before, *(f"{100 * rate:.0f}%" for rate in found)])
        report.table(
            ["order", "before", "epoch 2", "epoch 6", "hot loop of 1/4 x", "the same in a scan"],
            rows,
        )
        reports.append(report)
    return reports


if __name__ == "__main__":
    for report in main():
        print(report.text())
