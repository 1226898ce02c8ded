"""A cache group: blocks and ranges from peers, the reference copy, warm-up, and what it costs.

The parts stand alone, ``python benchmarks/bench_peers.py [block] [copy] [range] [warmup] [cpu]
[scale] [--full]``; without a word all of them run. ``--full`` copies 11,000 files, not 1,100, and
takes half an hour.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from harness import Contender, Report, environment, race
from peer_copies import copies, warmup
from peer_group import (
    GB,
    KIB,
    MIB,
    BareLoop,
    CacheGroup,
    Crew,
    bare_pair,
    cpu_s,
    from_peers,
    placed,
    plain_files,
    read_for,
    warm_group,
)

from juicecache.peers.wire import Name
from juicecache.volume.insight import file_blocks
from juicecache.volume.volume import Volume

SIZES = {
    "4 MiB": (4 * MIB, 64, 0.7),
    "1 MiB": (MIB, 256, 0.7),
    "100 KiB": (100 * KIB, 1000, 0.5),
}
"""Bytes of a block, blocks, and the part of the bare loop to be reached."""
PASS_BYTES, BLOCK_RUNS = 256 * MIB, 7
"""Fetched by each contender in each of its runs."""
CPU_BYTES = 3 * GB
"""Fetched to see what a worker uses of the processors, which is counted in steps of 10 ms."""
RANGE_BYTES, RANGES = 128 * KIB, 2000
MEMBERS = 5
SCALES = (1, 2, 3, 5)
SCALE_RUNS, SCALE_TIME_S = 5, 1.0


def sequence(count: int, total: int) -> list[int]:
    """Return which of ``count`` blocks to read, in random order, each as often."""
    passes = max(1, total // count)
    numbers = list(range(count)) * passes
    random.Random(1).shuffle(numbers)
    return numbers


def peer_fetches(volume: Volume, paths: Sequence[str]) -> list[Callable[[], memoryview | None]]:
    """Return what asks the owner for the one block of each file."""
    parts = volume.parts()
    assert parts.blocks.group is not None
    found = []
    for path in paths:
        (key,) = file_blocks(parts, path)[2]
        peer = parts.blocks.group.route(key.raw)
        assert peer is not None
        found.append(partial(peer.fetch, Name(key.name, key.length), 0, key.length))
    return found


def blocks() -> Report:
    report = Report("A block from a peer, against a bare loop of `sendfile` and `recv_into`")
    report.note(
        "One worker, one connection, the caller's own thread; ours checks the CRC-32C of every "
        "block. The bare loop checks nothing and receives into one buffer. `read_file` opens the "
        "file each time: `open_cache` and `attr_cache` are 0, as by default. MiB/s, medians of "
        f"{BLOCK_RUNS} runs with a new connection each, with both ends where the "
        "kernel puts them, and with a core for each, as on two hosts."
    )
    for label, (size, count, aim) in SIZES.items():
        with warm_group(1, size, count) as (group, paths), plain_files(size, count) as files:
            ours = FreshClient(group, paths)
            with BareLoop(files, size) as bare, BareLoop(files, size, keeps_open=True) as kept:
                found = []
                for apart in (False, True):
                    contenders = block_contenders(ours, bare, kept)
                    with placed((group.pids[0], bare.pid, kept.pid), apart=apart):
                        race(contenders, BLOCK_RUNS)
                    found.append(contenders)
            ours.close()
            report.note(
                f"{label}; {ours.fallbacks} fallbacks. Aim: {aim} of the loop that opens its files."
            )
            block_table(report, *found)
    return report


class FreshClient:
    """A client with a new connection in each run, for which the kernel finds windows anew."""

    def __init__(self, group: CacheGroup, paths: Sequence[str]) -> None:
        self._group = group
        self.paths = paths
        self.fallbacks = 0
        self._open()

    def _open(self) -> None:
        self.volume = self._group.client().volume
        self.fetches = peer_fetches(self.volume, self.paths)
        self.fetches[0]()

    def prepare(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        self.fallbacks += self.volume.stats().blocks.fallbacks
        self.volume.close()


def block_contenders(ours: FreshClient, bare: BareLoop, kept: BareLoop) -> list[Contender]:
    numbers = sequence(len(ours.paths), PASS_BYTES // bare.size)
    mib = len(numbers) * bare.size / MIB

    def by_loop(loop: BareLoop) -> float:
        for number in numbers:
            loop.fetch(number)
        return mib

    def by_peer() -> float:
        for number in numbers:
            assert ours.fetches[number]() is not None
        return mib

    def by_file() -> float:
        read_file = ours.volume.read_file
        for number in numbers:
            read_file(ours.paths[number])
        return mib

    return [
        Contender("bare loop, opens the file for each", partial(by_loop, bare), bare.reconnect),
        Contender("bare loop, files kept open", partial(by_loop, kept), kept.reconnect),
        Contender("`Peer.fetch`", by_peer, ours.prepare),
        Contender("`Volume.read_file`", by_file, ours.prepare),
    ]


def block_table(report: Report, free: Sequence[Contender], apart: Sequence[Contender]) -> None:
    """Medians of both placements, and what part of the first contender's each is."""
    place = ("MiB/s", "min - max", "part of bare")
    report.table(
        ["who", *place, *(f"a core each: {title}" for title in place)],
        [
            [
                pair[0].name,
                *(
                    text
                    for one, bare in zip(pair, (free[0], apart[0]), strict=True)
                    for text in (
                        f"{one.rate:,.0f}",
                        f"{min(one.rates):,.0f} - {max(one.rates):,.0f}",
                        f"{one.rate / bare.rate:.2f}",
                    )
                ),
            ]
            for pair in zip(free, apart, strict=True)
        ],
    )


def ranges() -> Report:
    report = Report(f"Random ranges of 128 KiB from {MEMBERS} workers, to a client without cache")
    size, count = 64 * MIB, 4
    with warm_group(MEMBERS, size, count) as (group, paths):
        fs = group.client()
        numbers = random.Random(1)
        wanted = [
            (numbers.randrange(count), numbers.randrange(size - RANGE_BYTES)) for _ in range(RANGES)
        ]
        handles = [fs.open(path) for path in paths]

        def by_file(number: int, at: int) -> None:
            fs.volume.read_file(paths[number], at, at + RANGE_BYTES)

        def by_handle(number: int, at: int) -> None:
            handles[number].read_range(at, at + RANGE_BYTES)

        rows = []
        for name, read in {
            "`read_file`": by_file,
            "`read_range` of an open file": by_handle,
        }.items():
            found = [latencies(read, wanted) for _ in range(5)]
            rows.append(
                [name, *(f"{statistics.median(one):.3f}" for one in zip(*found, strict=True))]
            )
        for handle in handles:
            handle.close()
        report.note(
            f"{RANGES:,} ranges at any byte of {count} files of 64 MiB; one in 32 spans two "
            f"blocks. Medians of 5 rounds; {from_peers(fs)}. Aim: p50 0.5 ms, p99 5 ms."
        )
        report.table(["who", "p50, ms", "p99, ms", "longest, ms"], rows)
        fs.volume.close()
    return report


def latencies(
    read: Callable[[int, int], None], wanted: Sequence[tuple[int, int]]
) -> tuple[float, float, float]:
    times = []
    for one in wanted:
        began = time.perf_counter()
        read(*one)
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100], times[-1]


def cpu() -> Report:
    report = Report("Processor time for each GB that a worker serves")
    rows = []
    for label, (size, count, _) in SIZES.items():
        numbers = sequence(count, CPU_BYTES // size)
        gb = len(numbers) * size / GB
        with warm_group(1, size, count) as (group, paths), plain_files(size, count) as files:
            fs = group.client()
            fetches = peer_fetches(fs.volume, paths)
            with BareLoop(files, size) as bare:
                used = [
                    used_s(group.pids[0], [fetches[number] for number in numbers]),
                    used_s(bare.pid, [partial(bare.fetch, number) for number in numbers]),
                ]
            row = [f"{one / gb:.3f}" for pair in used for one in pair]
            rows.append([label, *row])
            fs.volume.close()
    report.note("From `/proc/<pid>/stat`; by one client with `Peer.fetch`. Aim: 1.0 for a worker.")
    report.table(
        ["block", "worker, s/GB", "its client", "server of the bare loop", "its client"],
        rows,
    )
    return report


def used_s(pid: int, fetches: Sequence[Callable[[], object]]) -> tuple[float, float]:
    """Return the processor time that another process and this one used meanwhile."""
    before, own = cpu_s(pid), time.process_time()
    for fetch in fetches:
        assert fetch() is not None
    return cpu_s(pid) - before, time.process_time() - own


def scale() -> Report:
    report = Report("Workers with as many client processes: files of 1 MiB, all warm")
    found = {}
    for count in SCALES:
        with (
            warm_group(count, MIB, 256) as (group, paths),
            plain_files(MIB, 256) as files,
            group.readers(count, read_for, paths) as readers,
            Crew(count, partial(bare_pair, files, MIB)) as pairs,
        ):
            contenders = [timed("bare pairs", pairs), timed("juicecache", readers)]
            for _ in range(SCALE_RUNS):
                for one in contenders:
                    one.run()
            found[count] = [one.rate for one in contenders]
    first = found[SCALES[0]]
    report.note(
        "Total of all clients, medians of "
        f"{SCALE_RUNS} rounds of {SCALE_TIME_S:g} s; each reads files at random by `read_file`. "
        "A bare pair is the loop of `sendfile` and `recv_into` between two processes: what these "
        "cores allow."
    )
    report.table(
        [
            *("workers and clients", "MiB/s", "against one", "bare pairs, MiB/s"),
            *("against one pair", "part of bare"),
        ],
        [
            [
                f"{count}",
                f"{ours:,.0f}",
                f"{ours / first[1]:.2f}x",
                f"{bare:,.0f}",
                f"{bare / first[0]:.2f}x",
                f"{ours / bare:.2f}",
            ]
            for count, (bare, ours) in found.items()
        ],
    )
    return report


def timed(name: str, crew: Crew) -> Contender:
    """Return a contender that notes the total rate of a crew, which counts for itself."""

    def run() -> float:
        rate = sum(crew.do(SCALE_TIME_S)) / MIB
        contender.rates.append(rate)
        return rate

    contender = Contender(name, run)
    return contender


PARTS: dict[str, Callable[[], Report]] = {
    "block": blocks,
    "copy": copies,
    "range": ranges,
    "warmup": warmup,
    "cpu": cpu,
    "scale": scale,
}


def main() -> list[Report]:
    return [part() for part in PARTS.values()]


if __name__ == "__main__":
    print(environment(), end="\n\n", flush=True)
    words = [word for word in sys.argv[1:] if word != "--full"]
    for word in words or PARTS:
        part = (
            partial(copies, full=True) if word == "copy" and "--full" in sys.argv else PARTS[word]
        )
        print(part().text(), flush=True)
