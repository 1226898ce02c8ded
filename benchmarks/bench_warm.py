"""Warm reads: everything is in a directory tier on tmpfs, and beside it as plain files.

No network: object storage is a folder that warm reads do not touch. The parts stand alone,
``python benchmarks/bench_warm.py [plain] [simplecache] [mount] [ranges] [processes]
[sequential] [loader] [profile]``; without a word all of them run.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from harness import Contender, OfficialMount, Report, environment, memory_folder, race, scratch

import juicecache
from juicecache import JuiceCacheFileSystem

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1 MiB": (MIB, 200, 5), "100 KiB": (100 * KIB, 1000, 5)}
"""Bytes of a file, files, and passes over them in one run."""
PROCESSES = 8
THREADS = 16
LARGE_BYTES, STEP_BYTES = 1 << 30, 4 * MIB
LOADER_FILES, LOADER_WORKERS = 5000, 2


class WarmSet:
    """The same files in a volume whose directory tier has them, and plain beside the tier."""

    def __init__(self, folder: Path, tmpfs: Path, size: int, count: int, **options: object) -> None:
        self.meta = f"sqlite3://{folder}/meta.db"
        juicecache.format_volume(
            self.meta, "bench", bucket=str(folder / "store"), trash_days=0, remember=False
        )
        self.options = {"cache_dir": str(tmpfs / "cache"), "cache_size": "8GiB", **options}
        self.fs = self.open()
        self.plain = tmpfs / "plain"
        self.plain.mkdir()
        self.names = [f"{number:05d}" for number in range(count)]
        # One by one and in turn: no file is packed, and the pages of both sets lie alike.
        for name in self.names:
            content = os.urandom(size)
            self.fs.pipe_file(f"/set/{name}", content)
            (self.plain / name).write_bytes(content)
        self.paths = [f"/set/{name}" for name in self.names]
        self.files = [str(self.plain / name) for name in self.names]
        self.fs.warmup("/set")

    def open(self, **options: object) -> JuiceCacheFileSystem:
        return JuiceCacheFileSystem(
            volume="bench", meta=self.meta, skip_instance_cache=True, **{**self.options, **options}
        )


@contextmanager
def warm_set(size: int, count: int, **options: object) -> Iterator[WarmSet]:
    with scratch() as folder, scratch(memory_folder()) as tmpfs:
        made = WarmSet(folder, tmpfs, size, count, **options)
        yield made
        made.fs.volume.close()


def read_plain(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def reading(read: Callable[[str], bytes], paths: Sequence[str], passes: int) -> Callable[[], float]:
    def run() -> float:
        for _ in range(passes):
            for path in paths:
                read(path)
        return passes * len(paths)

    return run


def plain() -> Report:
    report = Report("Warm whole files, one after another, against plain files on the same tmpfs")
    for label, (size, count, passes) in SIZES.items():
        with warm_set(size, count) as data:
            plain_files = Contender(
                "plain `open().read()`", reading(read_plain, data.files, passes)
            )
            full = data.open(verify_cache_checksum="full")
            memory = data.open(cache_dir="memory", memory_size="1GiB")
            memory.warmup("/set")
            variants = {
                "default": reading(data.fs.cat_file, data.paths, passes),
                "checksum on every read": reading(full.cat_file, data.paths, passes),
                "something changed before every pass": changing_passes(data, passes),
                "everything forgotten before every read": forgetting_reads(data, passes),
                "memory tier": reading(memory.cat_file, data.paths, passes),
            }
            contenders = [plain_files, *(Contender(*one) for one in variants.items())]
            for one in contenders:
                one.run()
            race(contenders)
            report.note(f"{count} files of {label}.")
            report.share_table(contenders)
            full.volume.close()
            memory.volume.close()
    return report


def changing_passes(data: WarmSet, passes: int) -> Callable[[], float]:
    """Before each pass another client changes something elsewhere in the volume."""
    other = data.open()

    def run() -> float:
        for _ in range(passes):
            other.touch("/elsewhere")
            for path in data.paths:
                data.fs.cat_file(path)
        return passes * len(data.paths)

    return run


def forgetting_reads(data: WarmSet, passes: int) -> Callable[[], float]:
    def run() -> float:
        cat_file, forget = data.fs.cat_file, data.fs.volume.forget
        for _ in range(passes):
            for path in data.paths:
                forget()
                cat_file(path)
        return passes * len(data.paths)

    return run


def simplecache() -> Report:
    import fsspec

    report = Report("Warm whole files, against fsspec's simplecache")
    for label, (size, count, passes) in SIZES.items():
        with warm_set(size, count) as data:
            theirs = fsspec.filesystem(
                "simplecache",
                target_protocol="file",
                cache_storage=str(data.plain.parent / "simplecache"),
            )
            for path in data.files:
                theirs.cat_file(path)
            for threads in (1, THREADS):
                contenders = [
                    Contender(
                        "juicecache", threaded(data.fs.cat_file, data.paths, threads, passes)
                    ),
                    Contender(
                        "simplecache", threaded(theirs.cat_file, data.files, threads, passes)
                    ),
                    Contender("plain", threaded(read_plain, data.files, threads, passes)),
                ]
                race(contenders)
                report.note(f"{count} files of {label}, {threads} thread(s).")
                report.race_table("files/s", contenders)
    return report


def threaded(
    read: Callable[[str], bytes], paths: Sequence[str], threads: int, passes: int
) -> Callable[[], float]:
    if threads == 1:
        return reading(read, paths, passes)

    def run() -> float:
        shares = [paths[number::threads] for number in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(lambda share: reading(read, share, passes)(), shares))

    return run


def drop_pages(paths: Sequence[str]) -> None:
    """Let the kernel forget the contents that it keeps of files, so that their server is asked."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def mount() -> Report:
    report = Report("Warm whole files, one after another, against the official mount")
    if not OfficialMount.available():
        report.note("The official client cannot be mounted here.")
        return report
    for label, (size, count, passes) in SIZES.items():
        with warm_set(size, count) as data, scratch() as folder:
            official = OfficialMount(data.meta, folder)
            official.remount()
            try:
                mounted = [str(official.point / "set" / name) for name in data.names]
                reading(read_plain, mounted, 2)()
                contenders = [
                    Contender("juicecache", reading(data.fs.cat_file, data.paths, passes)),
                    Contender(
                        "official mount, from its cache folder on the same tmpfs",
                        reading(read_plain, mounted, 1),
                        lambda mounted=mounted: drop_pages(mounted),
                    ),
                    Contender(
                        "official mount, from the kernel's page cache",
                        reading(read_plain, mounted, passes),
                        lambda mounted=mounted: reading(read_plain, mounted, 1)(),
                    ),
                ]
                race(contenders)
            finally:
                official.unmount()
            report.note(f"{count} files of {label}.")
            report.race_table("files/s", contenders)
    return report


def ranges() -> Report:
    report = Report("Warm random ranges of 4 KiB in files of 64 MiB")
    count, reads = 4, 5000
    with warm_set(64 * MIB, count) as data:
        numbers = random.Random(1)
        wanted = [
            (numbers.randrange(count), numbers.randrange(64 * MIB - 4096)) for _ in range(reads)
        ]

        def ours(number: int, at: int) -> bytes:
            return data.fs.cat_file(data.paths[number], at, at + 4096)

        def theirs(number: int, at: int) -> bytes:
            with open(data.files[number], "rb", buffering=0) as file:
                file.seek(at)
                return file.read(4096)

        with data.fs.open(data.paths[0]) as handle, open(data.files[0], "rb", buffering=0) as file:

            def by_handle(_: int, at: int) -> bytes:
                return handle.read_range(at, at + 4096)

            def by_pread(_: int, at: int) -> bytes:
                return os.pread(file.fileno(), 4096, at)

            works = {
                "`cat_file`": ours,
                "plain file: open, seek, read, close": theirs,
                "`read_range` of an open handle": by_handle,
                "plain `pread` of an open file": by_pread,
            }
            rows = {name: latencies(read, wanted) for name, read in works.items()}
    report.note(f"Mean and 99th percentile of {reads:,} reads, medians of 5 rounds.")
    report.table(["who", "mean, us", "p99, us"], [[name, *row] for name, row in rows.items()])
    return report


def latencies(
    read: Callable[[int, int], bytes], wanted: Sequence[tuple[int, int]]
) -> tuple[str, str]:
    means, tails = [], []
    for _ in range(5):
        times = []
        for number, at in wanted:
            started = time.perf_counter()
            read(number, at)
            times.append((time.perf_counter() - started) * 1e6)
        means.append(statistics.mean(times))
        tails.append(sorted(times)[len(times) * 99 // 100])
    return f"{statistics.median(means):.1f}", f"{statistics.median(tails):.1f}"


class Readers:
    """Processes that read the whole set once each time they are told to."""

    def __init__(self, make: Callable[[], Callable[[], float]]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes = []
        self._processes = []
        for _ in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=self._serve, args=(make, theirs))
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    @staticmethod
    def _serve(make, pipe) -> None:
        run = make()
        while pipe.recv():
            pipe.send(run())

    def run(self) -> float:
        for pipe in self._pipes:
            pipe.send(True)
        return sum(pipe.recv() for pipe in self._pipes)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(False)
        for process in self._processes:
            process.join()


def processes() -> Report:
    report = Report(f"{PROCESSES} processes read the same warm files")
    for label, (size, count, passes) in SIZES.items():
        with warm_set(size, count) as data:

            def ours(data: WarmSet = data, passes: int = passes) -> Callable[[], float]:
                return reading(data.open().cat_file, data.paths, passes)

            def theirs(data: WarmSet = data, passes: int = passes) -> Callable[[], float]:
                return reading(read_plain, data.files, passes)

            groups = {"plain files": Readers(theirs), "juicecache": Readers(ours)}
            contenders = [Contender(name, group.run) for name, group in groups.items()]
            try:
                for one in contenders:
                    one.run()
                race(contenders)
            finally:
                for group in groups.values():
                    group.close()
            report.note(f"{count} files of {label}, every process reads all of them.")
            report.share_table(contenders)
    return report


def sequential() -> Report:
    report = Report("One warm file of 1 GiB, sequential by 4 MiB")
    with warm_set(MIB, 1) as data:
        piece = os.urandom(STEP_BYTES)
        large = data.plain / "large"
        with data.fs.open("/large", "wb") as ours, open(large, "wb") as theirs:
            for _ in range(LARGE_BYTES // STEP_BYTES):
                ours.write(piece)
                theirs.write(piece)
        data.fs.warmup("/large")
        openers = {
            "plain file": lambda: large.open("rb"),
            "juicecache": lambda: data.fs.open("/large", "rb"),
        }
        for how, drain in (("read", drain_read), ("readinto one buffer", drain_readinto)):
            contenders = [
                Contender(name, lambda opener=opener, drain=drain: drain(opener))
                for name, opener in openers.items()
            ]
            race(contenders)
            report.note(f"`{how}`.")
            report.share_table(contenders, "MiB/s")
    return report


def drain_read(opener) -> float:
    total = 0
    with opener() as file:
        while piece := file.read(STEP_BYTES):
            total += len(piece)
    assert total == LARGE_BYTES
    return total / MIB


def drain_readinto(opener) -> float:
    total, buffer = 0, bytearray(STEP_BYTES)
    with opener() as file:
        while count := file.readinto(buffer):
            total += count
    assert total == LARGE_BYTES
    return total / MIB


def loader() -> Report:
    report = Report(
        f"One epoch of a PyTorch DataLoader over {LOADER_FILES:,} files of 100 KiB, "
        f"{LOADER_WORKERS} workers"
    )
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):
        def __init__(self, read: Callable[[str], bytes], paths: Sequence[str]) -> None:
            self.read, self.paths = read, paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, number: int) -> torch.Tensor:
            return torch.frombuffer(bytearray(self.read(self.paths[number])), dtype=torch.uint8)

    def epoch(
        read: Callable[[str], bytes], paths: Sequence[str], stay: bool
    ) -> Callable[[], float]:
        batches = DataLoader(
            Files(read, paths),
            batch_size=64,
            shuffle=True,
            num_workers=LOADER_WORKERS,
            persistent_workers=stay,
        )

        def run() -> float:
            total = sum(batch.numel() for batch in batches)
            assert total == len(paths) * 100 * KIB
            return len(paths)

        return run

    with warm_set(100 * KIB, LOADER_FILES) as data:
        trusting = data.open(verify_cache_checksum="none")
        for stay in (True, False):
            contenders = [
                Contender("plain files", epoch(read_plain, data.files, stay)),
                Contender("juicecache", epoch(data.fs.cat_file, data.paths, stay)),
                Contender(
                    "juicecache, nothing checked", epoch(trusting.cat_file, data.paths, stay)
                ),
            ]
            # Each worker checks a block when it first meets it: most have met most after three.
            for one in contenders * 3:
                one.run()
            race(contenders)
            how = "stay for all epochs" if stay else "start anew with every epoch, by fork"
            report.note(f"Workers {how}; shuffled batches of 64, contents as tensors.")
            report.share_table(contenders)
        trusting.volume.close()
    return report


_READS = """
import sys
from juicecache import JuiceCacheFileSystem
meta, cache, count = sys.argv[1:]
fs = JuiceCacheFileSystem(volume="bench", meta=meta, cache_dir=cache)
fs.cat_file("/set/00000")
for _ in range(int(count)):
    fs.cat_file("/set/00000")
"""


def profile() -> Report:
    """What one warm read of a file of 100 KiB consists of."""
    report = Report("One warm `cat_file` of 100 KiB: calls, system calls, copies")
    with warm_set(100 * KIB, 1) as data:
        path = data.paths[0]
        data.fs.cat_file(path)
        time.sleep(0.1)  # a file of this very moment is checked again
        data.fs.cat_file(path)
        calls: list[str] = []

        def note(frame, event: str, function) -> None:
            if event == "call":
                file = Path(frame.f_code.co_filename)
                calls.append(f"{file.parent.name}/{file.stem}.{frame.f_code.co_name}")
            elif event == "c_call":
                calls.append(f"C {function.__qualname__}")

        sys.setprofile(note)
        data.fs.cat_file(path)
        sys.setprofile(None)
        python = [name for name in calls if not name.startswith("C ")]
        report.note(f"{len(python)} Python functions, in order: {', '.join(python)}.")
        report.note(f"{len(calls) - len(python) - 1} C functions.")
        tracemalloc.start()
        kept = data.fs.cat_file(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        report.note(
            f"Peak of memory allocated: {peak:,} bytes for a result of {len(kept):,}: one buffer, "
            "into which the kernel copies."
        )
        if shutil.which("strace"):
            report.table(["system call", "per read"], system_calls(data))
    return report


def system_calls(data: WarmSet) -> list[tuple[str, str]]:
    """Count under strace twice; what 1,000 more reads add is theirs."""
    counts = []
    for reads in (100, 1100):
        command = ["strace", "-f", "-c", "-U", "name,calls", sys.executable, "-c", _READS]
        arguments = [data.meta, data.options["cache_dir"], str(reads)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        lines = [line.split() for line in done.stderr.splitlines()]
        counts.append({one[0]: int(one[1]) for one in lines if len(one) == 2 and one[1].isdigit()})
    less, more = counts
    added = {name: (count - less.get(name, 0)) / 1000 for name, count in more.items()}
    return [
        (f"`{name}`", f"{count:.2f}")
        for name, count in sorted(added.items(), key=lambda one: -one[1])
        if count > 0.01 and name != "total"
    ]


PARTS: dict[str, Callable[[], Report]] = {
    "plain": plain,
    "simplecache": simplecache,
    "mount": mount,
    "ranges": ranges,
    "processes": processes,
    "sequential": sequential,
    "loader": loader,
    "profile": profile,
}


def main() -> list[Report]:
    return [part() for part in PARTS.values()]


if __name__ == "__main__":
    print(environment(), end="\n\n", flush=True)
    for name in sys.argv[1:] or PARTS:
        print(PARTS[name]().text(), flush=True)
