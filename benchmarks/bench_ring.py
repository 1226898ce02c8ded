"""The ring of a cache group, simulated to a thousand members: balance, what moves, and its cost.

Pure code, no network. Shares and moves are repeatable to the last digit; only times are measured.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

from harness import RUNS, Report

from juicecache.peers.ring import Ring

SIZES = (2, 5, 10, 50, 200, 1000)
"""Members."""
BLOCKS = 10_000
SEEDS = 10
"""Groups with other names; the table shows the worst of them."""
GIB = 1 << 30
UUID = b"6f1f0d6e-9f0c-4f2f-8b6e-1b7d0c7f2a10"


def weights(count: int, seed: int, *, mixed: bool = False) -> dict[str, int]:
    """Return members named like hosts, of 40 GiB each or, mixed, of 40, 100 and 400 GiB."""
    rng = Random(seed)
    names = [f"node-{rng.getrandbits(24):06x}-{at}" for at in range(count)]
    return {name: (40, 100, 400)[at % 3 if mixed else 0] * GIB for at, name in enumerate(names)}


def blocks(count: int, seed: int) -> list[bytes]:
    """Return keys of the blocks of 64 MiB slices of one volume."""
    first = 1000 * seed
    return [b"%s\0%d_%d_4194304" % (UUID, first + at // 16, at % 16) for at in range(count)]


def fullest(ring: Ring, allotted: Mapping[str, int], keys: list[bytes]) -> tuple[float, float]:
    """Return the fullest member against what its weight allots to it: in slots, and in blocks."""
    total = sum(allotted.values())
    counts = Counter(map(ring.owner, keys))
    slots, owned = ring.shares(), len(keys)
    return (
        max(slots[name] * total / weight for name, weight in allotted.items()),
        max(counts[name] / owned * total / weight for name, weight in allotted.items()),
    )


def balance() -> Report:
    report = Report(f"Ring: the fullest member against its part, worst of {SEEDS} groups")
    rows = []
    for mixed in (False, True):
        for count in SIZES:
            found = []
            for seed in range(SEEDS):
                members = weights(count, seed, mixed=mixed)
                keys = blocks(max(BLOCKS, 1000 * count if not seed else 0), seed)
                found.append(fullest(Ring(members), members, keys))
            rows.append(
                [
                    f"{count}",
                    "40, 100, 400 GiB" if mixed else "equal",
                    f"{max(slots for slots, _ in found):.3f}",
                    f"{max(worst for _, worst in found[1:]):.3f}",
                    f"{found[0][1]:.3f}",
                ]
            )
    many = f"of {BLOCKS:,} blocks"
    report.table(["members", "weights", "of the key space", many, "of 1,000 blocks each"], rows)
    report.note("With 1,000 members 10,000 blocks are ten each: chance, and not the ring, decides.")
    return report


def moved(before: Ring, after: Ring, keys: list[bytes], who: str) -> tuple[float, int]:
    """Return the part of the blocks that moved, and how many did so past the one that changed."""
    pairs = [(before.owner(key), after.owner(key)) for key in keys]
    moves = [pair for pair in pairs if pair[0] != pair[1]]
    return len(moves) / len(pairs), sum(1 for pair in moves if who not in pair)


def moves() -> Report:
    report = Report(f"Ring: blocks that move when one member changes, of {BLOCKS:,}")
    rows = []
    for count in SIZES:
        members = weights(count, 1)
        last = next(reversed(members))
        without = {name: weight for name, weight in members.items() if name != last}
        keys, ring, smaller = blocks(BLOCKS, 1), Ring(members), Ring(without)
        changes = [
            (smaller, ring),
            (ring, smaller),
            (ring, Ring(members | {last: 0})),
            (ring, Ring(members | {last: 80 * GIB})),
        ]
        found = [moved(*change, keys, last) for change in changes]
        joined, left, drained, doubled = (f"{100 * part:.2f}%" for part, _ in found)
        must = f"{100 * (2 / (count + 1) - 1 / count):.2f}%"
        stray = f"{sum(count for _, count in found)}"
        rows.append(
            [f"{count}", joined, left, drained, f"{100 / count:.2f}%", doubled, must, stray]
        )
    report.table(
        [
            *("members", "the last joins", "leaves", "is drained", "must move (1/N)"),
            *("its weight doubles", "must move", "moved between others"),
        ],
        rows,
    )
    return report


def seconds(act: Callable[[], object]) -> float:
    """Return the median time of some runs."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def cost() -> Report:
    report = Report(f"Ring: what it costs, median of {RUNS} runs")
    keys, rows = blocks(BLOCKS, 1), []
    for count in SIZES:
        members = weights(count, 1)
        ring = Ring(members)
        build = seconds(lambda members=members: Ring(members))
        owner = seconds(lambda ring=ring: [ring.owner(key) for key in keys]) / BLOCKS
        first = seconds(lambda ring=ring: [next(ring.owners(key)) for key in keys]) / BLOCKS
        some = keys[:200]
        ranked = seconds(lambda ring=ring: [list(ring.owners(key)) for key in some]) / len(some)  # noqa: B023
        rows.append(
            [
                f"{count}",
                f"{1e3 * build:.0f} ms",
                f"{1e6 * owner:.2f} us",
                f"{1e6 * first:.2f} us",
                f"{1e6 * ranked:.1f} us",
            ]
        )
    report.table(["members", "build", "owner", "owner as the first of owners", "all owners"], rows)
    return report


def main() -> list[Report]:
    return [balance(), moves(), cost()]


if __name__ == "__main__":
    for report in main():
        print(report.text())
