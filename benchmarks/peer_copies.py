"""The parts of `bench_peers` that need a slow object store: the reference copy, and warm-up.

The store is SeaweedFS behind a proxy in a process of its own, which delays everybody, clients and
workers, and counts what comes out.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import Contender, RemoteS3, Report, memory_folder, race, remote_s3, scratch
from peer_group import MIB, CacheGroup, client, workers

from juicecache import JuiceCacheFileSystem
from juicecache.testing.servers import DelayingProxy

MEMBERS, CLIENTS = 5, 8
FILE_S = 0.0726
"""What one uncached file costs the reference."""
REFERENCE = 10.3
"""How much faster the group of the reference is than its object storage."""
AIM = 50
ROUND_TRIP_S = 0.0005
FOLDERS, FOLDERS_FULL, FOLDER_FILES = 1, 10, 1100
SAMPLE_FILES, COLD_FILES = 40, 100
"""Files copied uncached, and from the cold group, one after another; each takes 73 ms."""
SHARED_FILES, BATCH_FILES = 256, 32
THREADS = 8
WARM_FILES, WARM_FILE_BYTES = 256, 4 * MIB
STORE_BYTES_PER_S = 100 * MIB
COPY_RUNS = 5
EGRESS_AIM = 1.02
FIRST_FILES, FIRST_BYTES = 40, 64 << 10
"""Loaded before anything is measured: the first request of a worker takes 0.4 s, most of it to
import what talks to S3. Of so many files each worker owns some."""


class Dataset:
    """Files of 1 MiB with an object each, behind a delay at which each costs `FILE_S`."""

    def __init__(self, s3: RemoteS3, folder: Path) -> None:
        self.s3 = s3
        self.meta = f"sqlite3://{folder}/meta.db"
        self._bucket = s3.format(self.meta, "bench")
        self.write([f"/first/{number:02d}" for number in range(FIRST_FILES)], FIRST_BYTES)

    def write(self, paths: Sequence[str], size: int) -> None:
        """Make files past the delay."""
        near = client(self.meta, bucket=f"{self.s3.near}/{self._bucket}")
        for parent in dict.fromkeys(path.rpartition("/")[0] for path in paths):
            near.makedirs(parent, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:  # file by file: none is packed
            list(pool.map(lambda path: near.pipe_file(path, os.urandom(size)), paths))
        near.volume.close()

    def introduce(self, group: CacheGroup) -> None:
        """Let every worker load something."""
        with group.client().volume as volume:
            volume.warmup(["/first"])

    def calibrate(self, paths: Sequence[str]) -> float:
        """Set the delay so that an uncached read costs `FILE_S`; return the delay."""
        fs = client(self.meta)
        proxy, delay_s = self.s3.proxy, FILE_S
        for _ in range(3):
            proxy.delay(delay_s)
            fs.cat_file(paths[0])
            times = []
            for path in paths:
                began = time.perf_counter()
                fs.cat_file(path)
                times.append(time.perf_counter() - began)
            delay_s += FILE_S - sorted(times)[len(times) // 2]
        proxy.delay(delay_s)
        fs.volume.close()
        return delay_s


class Egress:
    """Counts what the store sends while it is open, and takes the time."""

    def __init__(self, proxy: DelayingProxy) -> None:
        self._proxy = proxy
        self.bytes = 0
        self.took_s = 0.0

    def __enter__(self) -> Egress:
        self._before = self._proxy.traffic().to_client_bytes
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s = time.perf_counter() - self._began_s
        self.bytes = self._proxy.traffic().to_client_bytes - self._before

    def row(self, what: str, files: int, data_bytes: int) -> list[str]:
        """Return what was done, files a second, and the egress as a part of the data set."""
        return [what, f"{files / self.took_s:,.1f}", f"{self.bytes / data_bytes:.3f}"]


class Copies:
    """Copies of the data set into a folder on tmpfs; each begins with an empty one.

    The names repeat after `FOLDER_FILES` files, so that 11,000 of them do not fill the memory.
    """

    def __init__(self, tmpfs: Path) -> None:
        self._target = tmpfs / "copy"
        self.clean()

    def clean(self) -> None:
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir()

    def serial(self, fs: JuiceCacheFileSystem, paths: Sequence[str]) -> float:
        for number, path in enumerate(paths):
            fs.get_file(path, f"{self._target}/{number % FOLDER_FILES:05d}")
        return len(paths)

    def recursive(self, fs: JuiceCacheFileSystem, folder: str, count: int) -> float:
        fs.get(f"{folder}/", f"{self._target}/all/", recursive=True)
        assert len(os.listdir(self._target / "all")) == count
        return count


@contextmanager
def slow_dataset() -> Iterator[tuple[Dataset, Path]]:
    with ExitStack() as stack:
        s3 = stack.enter_context(remote_s3(FILE_S))
        folder = stack.enter_context(scratch())
        tmpfs = stack.enter_context(scratch(memory_folder()))
        yield Dataset(s3, folder), tmpfs


@contextmanager
def far_group(group: CacheGroup, round_trip_s: float) -> Iterator[JuiceCacheFileSystem]:
    """Open a client that reaches each worker through a proxy of its own."""
    with ExitStack() as stack:
        proxies = [
            stack.enter_context(DelayingProxy(port, round_trip_s, target_host=host))
            for host, port in group.addresses
        ]
        members = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        fs = group.client(group_members=members)
        yield fs
        fs.volume.close()


def copies(*, full: bool = False) -> Report:
    folders = FOLDERS_FULL if full else FOLDERS
    names = [f"/set/{one}/{n:05d}" for one in range(folders) for n in range(FOLDER_FILES)]
    shared = [f"/shared/{number:04d}" for number in range(SHARED_FILES)]
    report = Report(f"The reference copy: {len(names):,} files of 1 MiB, an object each")
    with slow_dataset() as (data, tmpfs):
        data.write([*names, *shared], MIB)
        delay_s = data.calibrate(names[:8])
        report.note(
            f"Into tmpfs, by a client that keeps nothing; {MEMBERS} workers. The store is "
            f"{1e3 * delay_s:.1f} ms away from everybody, so that an uncached read of a file costs "
            f"{1e3 * FILE_S:.1f} ms; its bandwidth is not bounded."
        )
        with workers(data.meta, MEMBERS) as group:
            data.introduce(group)
            copy = Copies(tmpfs)
            rows = [*cold_copies(data, group, copy, names), shared_cold(data, group, shared)]
            warm_copies(report, data, group, copy, names, full=full)
        report.note(f"The cold passes through the group before; egress aim {EGRESS_AIM}.")
        report.table(["cold, through the group", "files/s", "egress, of the data set"], rows)
    return report


def cold_copies(
    data: Dataset, group: CacheGroup, copy: Copies, names: Sequence[str]
) -> list[list[str]]:
    """Copy everything once: the first files one after another, the rest by several threads."""
    fs = group.client()

    def by_threads(part: Sequence[str]) -> None:
        shares = [part[number::THREADS] for number in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda share: copy.serial(fs, share), shares))

    rows = []
    for how, part, work in (
        ("one after another", names[:COLD_FILES], lambda part: copy.serial(fs, part)),
        (f"{THREADS} threads", names[COLD_FILES:], by_threads),
    ):
        with Egress(data.s3.proxy) as egress:
            work(part)
        rows.append(egress.row(f"{len(part):,} files, {how}", len(part), len(part) * MIB))
    copy.clean()
    fs.volume.close()
    return rows


def shared_cold(data: Dataset, group: CacheGroup, paths: Sequence[str]) -> list[str]:
    """Let several processes read the same cold files in the same order at the same time."""
    with group.readers(CLIENTS, read_batches, paths) as crew:
        with Egress(data.s3.proxy) as egress:
            sizes = crew.do(BATCH_FILES)
    assert sizes == [len(paths) * MIB] * CLIENTS
    what = f"{len(paths)} others, each of {CLIENTS} processes reads all of them"
    return egress.row(what, CLIENTS * len(paths), len(paths) * MIB)


def read_batches(fs: JuiceCacheFileSystem, paths: Sequence[str], files: int) -> int:
    """Read files, so many at a time; return their bytes."""
    return sum(
        len(content)
        for first in range(0, len(paths), files)
        for content in fs.cat(paths[first : first + files]).values()
    )


def warm_copies(
    report: Report,
    data: Dataset,
    group: CacheGroup,
    copy: Copies,
    names: Sequence[str],
    *,
    full: bool,
) -> None:
    uncached, near = client(data.meta), group.client()
    sample, runs = (names, 1) if full else (names[:SAMPLE_FILES], COPY_RUNS)

    def serial(name: str, fs: JuiceCacheFileSystem, part: Sequence[str]) -> Contender:
        return Contender(name, lambda: copy.serial(fs, part), copy.clean)

    def recursive(name: str, fs: JuiceCacheFileSystem) -> Contender:
        return Contender(name, lambda: copy.recursive(fs, "/set/0", FOLDER_FILES), copy.clean)

    with far_group(group, ROUND_TRIP_S) as far, far_group(group, 0.0) as through:
        one_by_one = [
            serial("uncached", uncached, sample),
            serial("from the warm group", near, names),
            serial("the same, 0.5 ms round trip to its workers", far, names),
            serial("the same, through the proxies of that, without the delay", through, names),
        ]
        for one in one_by_one[1:]:
            one.prepare()
            one.run()  # the memory of the target is in use from here on, for both sides
        race(one_by_one, runs)
    together = [recursive("uncached", uncached), recursive("from the warm group", near)]
    race(together, COPY_RUNS)
    blocks = near.volume.stats().blocks
    report.note(
        f"`get_file` of one after another; uncached it is measured on {len(sample):,} of the "
        f"files. Aim: {AIM} times as fast; the reference has {REFERENCE}. From peers came "
        f"{blocks.peer_blocks:,} blocks, {blocks.fallbacks:,} were fallbacks. The round trip is "
        "made by a proxy for each worker, which takes its time of the same cores."
    )
    copy_table(report, one_by_one)
    report.note(f"`get(recursive=True)` of {FOLDER_FILES:,} of the files.")
    copy_table(report, together)
    for fs in (uncached, near):
        fs.volume.close()


def copy_table(report: Report, contenders: Sequence[Contender]) -> None:
    """Medians, and how many times as fast as uncached each is."""
    report.table(
        ["who", "files/s, median", "min - max", "ms a file", "against uncached"],
        [
            [
                one.name,
                f"{one.rate:,.1f}",
                f"{min(one.rates):,.1f} - {max(one.rates):,.1f}",
                f"{1e3 / one.rate:.2f}",
                f"{one.rate / contenders[0].rate:.1f}x",
            ]
            for one in contenders
        ],
    )


def warmup() -> Report:
    data_bytes = WARM_FILES * WARM_FILE_BYTES
    report = Report(f"Warm-up of {data_bytes // MIB} MiB into {MEMBERS} workers")
    paths = [f"/warm/{number:04d}" for number in range(WARM_FILES)]
    with slow_dataset() as (data, _):
        data.write(paths, WARM_FILE_BYTES)
        proxy, rows = data.s3.proxy, []
        for rate in (STORE_BYTES_PER_S, 2 * STORE_BYTES_PER_S):
            proxy.bandwidth(rate)
            with workers(data.meta, MEMBERS) as group, group.client().volume as volume:
                data.introduce(group)
                with Egress(proxy) as egress:
                    seen = volume.warmup(["/warm"])
                assert seen.bytes == data_bytes, seen
                assert not seen.errors, seen.errors[:1]
                own = volume.stats().blocks
                rows.append(
                    [
                        f"{rate // MIB} MiB/s",
                        f"{egress.took_s:.2f}",
                        f"{data_bytes / MIB / egress.took_s:.1f}",
                        f"{data_bytes / egress.took_s / rate:.2f}",
                        f"{egress.bytes / data_bytes:.3f}",
                        f"{(own.peer_bytes + own.loaded_bytes) / MIB:,.0f} MiB",
                    ]
                )
    report.note(
        f"{WARM_FILES} files of {WARM_FILE_BYTES // MIB} MiB, `Volume.warmup` by a client that "
        "keeps nothing, each time into empty workers that have begun to load. The proxy before the "
        f"store, {1e3 * FILE_S:.1f} ms away, bounds what it brings to all of them together. Aim: "
        f"bounded by that alone; egress {EGRESS_AIM} of the data."
    )
    report.table(
        [
            *("store's bandwidth", "time, s", "MiB/s", "part of the bandwidth"),
            *("egress, of the data set", "came through the client"),
        ],
        rows,
    )
    return report
