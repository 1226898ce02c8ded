"""The command ``demo``: the cache at work on a volume that exists only meanwhile.

The volume is a SQLite file and a local directory in a temporary folder; nothing of the
user's (volume list, cache folder) is touched. All access goes through fsspec, as a program's
would; the members of its cache group are processes of their own. Law: every byte that is read
is checked, outside of the time that is measured, and what is simulated is called so.
"""

from __future__ import annotations

import hashlib
import random
import select
import shutil
import signal
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from juicecache.errors import ConfigError, CorruptBlockError, NoSpaceError
from juicecache.faces.cli.arguments import Command, count, size_bytes
from juicecache.faces.cli.console import Console, size
from juicecache.faces.cli.demo_table import (
    DIRECTORY,
    MEMORY,
    NO_CACHE,
    PEERS,
    Row,
    comparison,
    comparison_lines,
    row_lines,
    step_name,
)

_VOLUME = "demo"
_VOLUME_URL = f"juicecache://{_VOLUME}/"
_TOTAL_BYTES_MAX = 1 << 30
"""All content: this is a demonstration, and it is held in memory as well."""
_BATCH_BYTES = 32 << 20
"""Content written or read by one call."""
_SINGLE_COLD_FILES = 100
"""Files read cold one at a time: a far store makes each of them wait for a request."""
_WORKERS = 3
_ROWS = 500_000
"""Of the Parquet file: some 10 MB."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)


def _latency_ms(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1000:
            return float(text)
    raise ArgumentTypeError(f"{text!r} is not a number of milliseconds from 0 to 1000")


def _size_in_kib(text: str) -> int:
    return size_bytes(f"{text}K" if text.isdigit() else text)


def _configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--files", type=count(1, 100_000), default=1000, help="small files (default: 1000)")
    add("--size", type=_size_in_kib, default=100 << 10, help="of each, in KiB (default: 100K)")
    add(
        "--latency",
        metavar="MS",
        type=_latency_ms,
        default=0.0,
        help="simulate object storage that answers so much later (default: 0)",
    )
    add("--keep", action="store_true", help="leave the volume there, and say where it is")


def _demo(arguments: Namespace, console: Console) -> int:
    """Write, then read cold and from each tier; print a table."""
    total = arguments.files * arguments.size
    if not 0 < total <= _TOTAL_BYTES_MAX:
        raise ConfigError(f"--files times --size is {size(total)}: at most 1 GiB, and not nothing")
    with _folders(total, keep=arguments.keep) as (folder, cache):
        demo = _Demo(folder, cache, arguments, console)
        pandas = _pandas_problem()
        demo.announce(table=pandas is None)
        demo.write()
        demo.read_bare()
        demo.read_cold()
        group = _group_problem()
        if group is None:
            demo.read_peers()
        demo.read_warm(DIRECTORY, str(cache / "cold"))
        demo.read_warm(MEMORY, "memory")
        if pandas is None:
            demo.read_table()
        demo.report([reason for reason in (pandas, group) if reason], keep=arguments.keep)
    return 0


@contextmanager
def _folders(total_bytes: int, *, keep: bool) -> Iterator[tuple[Path, Path]]:
    """Make folders for the volume and the cache; remove them however the demonstration ends."""
    with ExitStack() as stack:
        stack.enter_context(_terminated_cleanly())
        folder = Path(tempfile.mkdtemp(prefix="juicecache-demo-"))
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        needed = 4 * total_bytes + _BATCH_BYTES
        if shutil.disk_usage(folder).free < needed:
            raise NoSpaceError(str(folder), f"the demonstration needs {size(needed)} here")
        place = folder
        if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > 2 * needed:
            with suppress(OSError):
                place = Path(tempfile.mkdtemp(prefix="juicecache-demo-", dir=_SHARED_MEMORY))
                stack.callback(shutil.rmtree, place, ignore_errors=True)
        yield folder, place / "cache"


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Turn a termination signal into an exit that cleans up; on the main thread only."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # another thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pandas_problem() -> str | None:
    """Return why the step with pandas is skipped; None where it can run."""
    absent = [name for name in ("pandas", "pyarrow") if find_spec(name) is None]
    if not absent:
        return None
    return (
        f"skipped: Parquet through pandas ({' and '.join(absent)} not installed; "
        "pip install 'juicecache[pandas]')"
    )


def _group_problem() -> str | None:
    """Return why the cache group is skipped; None where it can run."""
    if hasattr(select, "epoll"):
        return None
    return "skipped: the cache group (its members need Linux)"


class _Demo:
    """The steps of one run and what they measured."""

    def __init__(self, folder: Path, cache: Path, arguments: Namespace, console: Console) -> None:
        self.folder = folder
        self.cache = cache
        self.meta = f"sqlite3://{folder}/meta.db"
        self.latency_ms: float = arguments.latency
        self.console = console
        self.file_bytes: int = arguments.size
        self.paths = [f"/photos/{n // 1000:03d}/{n:06d}.bin" for n in range(arguments.files)]
        self.digests: dict[str, bytes] = {}
        self.rows: list[Row] = []

    def announce(self, *, table: bool) -> None:
        """Say what is about to happen."""
        store = "a local directory"
        if self.latency_ms:
            store += f" with a SIMULATED latency of {self.latency_ms:g} ms a request"
        total = size(len(self.paths) * self.file_bytes)
        files = f"{len(self.paths)} files of {size(self.file_bytes)} ({total})"
        rows = f"; a table of {_ROWS:,} rows as Parquet" if table else ""
        self.console.line(f"content: {files}{rows}")
        self.console.line(f"volume: SQLite in {self.folder}; object storage: {store}")
        self.console.line(f"cache: a directory in {self.cache.parent}, and this process's memory")
        self.console.line()

    @contextmanager
    def connected(self, cache_dir: str = "", group: str = "") -> Iterator[Any]:
        """Open the volume anew, with empty memory, through fsspec; without a folder, no cache.

        With a group it reads from that.
        """
        import fsspec

        # Known to an installed package already; a source tree has no entry points.
        fsspec.register_implementation(
            "juicecache", "juicecache.faces.filesystem.JuiceCacheFileSystem", clobber=True
        )
        options: dict[str, Any] = {"cache_dir": cache_dir} if cache_dir else {"cache_size": "0"}
        if group:
            options |= {"cache_group": group, "no_sharing": True}
        fs = fsspec.filesystem(
            "juicecache",
            volume=_VOLUME,
            meta=self.meta,
            free_space_ratio=0,  # the space was checked
            memory_size=f"{3 * _TOTAL_BYTES_MAX}B",
            skip_instance_cache=True,
            **options,
        )
        if self.latency_ms:
            fs.volume.close()
            fs.volume = _late_volume(self.meta, fs.volume.options, self.latency_ms / 1000)
        try:
            yield fs
        finally:
            fs.volume.close()

    def write(self) -> None:
        """Make the volume and store all files, many at once."""
        from juicecache.volume.formatting import format_volume

        format_volume(
            self.meta, _VOLUME, bucket=str(self.folder / "objects"), trash_days=0, remember=False
        )
        with self.connected() as fs:
            elapsed_s, done = 0.0, 0
            for batch in self._batches(self.paths):
                contents = {path: random.randbytes(self.file_bytes) for path in batch}
                for path, content in contents.items():
                    self.digests[path] = _digest(content)
                started_s = time.perf_counter()
                fs.pipe(contents)
                elapsed_s += time.perf_counter() - started_s
                done += len(batch)
                self._progress("writing", done)
            self._note("write, many at once", done, elapsed_s, fs.stats().blocks.uploads)

    def read_bare(self) -> None:
        """Read some files, one at a time, as a client that keeps nothing and knows nobody."""
        with self.connected() as fs:
            self._read(NO_CACHE, fs, self.paths[:_SINGLE_COLD_FILES], at_once=False)

    def read_peers(self) -> None:
        """Read as a client that keeps nothing, from workers: at first they load, then they have."""
        from juicecache.faces.cli.demo_workers import GROUP, workers

        folders = [self.cache / f"worker-{number}" for number in range(_WORKERS)]
        with workers(self.meta, folders, self.latency_ms / 1000), self.connected("", GROUP) as fs:
            self._read(f"{PEERS}, which load", fs, self.paths, at_once=True)
            self._read(PEERS, fs, self.paths, at_once=False)
            self._read(PEERS, fs, self.paths, at_once=True)

    def read_cold(self) -> None:
        """Read with every tier empty: some files one at a time, the others many at once."""
        single = min(_SINGLE_COLD_FILES, max(len(self.paths) // 2, 1))
        with self.connected(str(self.cache / "cold")) as fs:
            self._read("cold", fs, self.paths[:single], at_once=False)
            if single < len(self.paths):
                self._read("cold", fs, self.paths[single:], at_once=True)

    def read_warm(self, tier: str, cache_dir: str) -> None:
        """Load what one tier lacks, then read all files from it, in both ways."""
        with self.connected(cache_dir) as fs:
            self.console.progress(f"warming up the {tier}")
            fs.warmup("/")
            self._read(tier, fs, self.paths, at_once=False)
            self._read(tier, fs, self.paths, at_once=True)

    def _read(self, step: str, fs: Any, paths: Sequence[str], *, at_once: bool) -> None:
        """Read and check files; only the reading is timed."""
        elapsed_s, done, before = 0.0, 0, _requests(fs)
        for batch in self._batches(paths):
            started_s = time.perf_counter()
            if at_once:
                contents = fs.cat_ranges(batch, None, None, on_error="raise")
            else:
                contents = [fs.cat_file(path) for path in batch]
            elapsed_s += time.perf_counter() - started_s
            for path, content in zip(batch, contents, strict=True):
                self._check(path, self.digests[path], _digest(content), step)
            done += len(batch)
            self._progress(f"reading, {step}", done)
        self._note(step_name(step, at_once=at_once), done, elapsed_s, _requests(fs) - before)

    def read_table(self) -> None:
        """Write a Parquet file with pandas and read it cold, then from each tier."""
        import numpy as np
        import pandas as pd

        generator = np.random.default_rng(1)
        frame = pd.DataFrame({"id": np.arange(_ROWS), "value": generator.random(_ROWS)})
        path = "/table.parquet"
        with self.connected() as fs, fs.open(path, "wb") as file:
            frame.to_parquet(file)
        folder = str(self.cache / "table")
        for step, cache_dir in (
            ("cold", folder),
            ("directory tier", folder),
            ("memory tier", "memory"),
        ):
            with self.connected(cache_dir) as fs:
                if step == "memory tier":
                    fs.warmup(path)
                before, started_s = _requests(fs), time.perf_counter()
                found = pd.read_parquet(path, filesystem=fs)
                elapsed_s = time.perf_counter() - started_s
                self._check(path, True, frame.equals(found), step)
                length, requests = fs.size(path), _requests(fs) - before
            self.rows.append(Row(f"pandas.read_parquet, {step}", 1, length, elapsed_s, requests))

    def report(self, skipped: Sequence[str], *, keep: bool) -> None:
        """Print the tables."""
        lines = [
            *row_lines(self.rows),
            "",
            *comparison_lines(self.rows),
            "",
            "every byte read was compared with what was written: all equal",
            "cold: no tier has the blocks, but the kernel may hold the local directory's pages",
            "no cache, peers: the client keeps nothing; the peers are three workers, processes of",
            "this machine, without a network between, and what they load counts as requests, too",
            "memory tier: a file of one block is handed over without a copy",
        ]
        if self.latency_ms:
            lines.append(
                f"SIMULATED: every object request took {self.latency_ms:g} ms longer than the "
                "local directory"
            )
        else:
            lines.append("object storage is as near as a local directory: see also --latency 20")
        lines += skipped
        if keep:
            lines.append(
                f"kept: {self.folder}; try: juicecache ls {_VOLUME_URL} --meta {self.meta}"
            )
        value = {
            "simulated_latency_ms": self.latency_ms,
            "rows": [row.plain() for row in self.rows],
            "one_at_a_time_ms": comparison(self.rows),
            "verified": True,
            "skipped": "; ".join(skipped) or None,
            "kept": str(self.folder) if keep else None,
        }
        self.console.result(value, lines)

    def _batches(self, paths: Sequence[str]) -> Iterator[Sequence[str]]:
        step = max(_BATCH_BYTES // self.file_bytes, 1)
        for start in range(0, len(paths), step):
            yield paths[start : start + step]

    def _progress(self, what: str, done: int) -> None:
        self.console.progress(f"{what}: {done} of {len(self.paths)} files")

    def _note(self, step: str, files: int, elapsed_s: float, requests: int) -> None:
        self.rows.append(Row(step, files, files * self.file_bytes, elapsed_s, requests))

    @staticmethod
    def _check(path: str, expected: object, found: object, step: str) -> None:
        if expected != found:
            raise CorruptBlockError(path, "what was written", "other bytes", step)


def _late_volume(meta: str, options: Any, pause_s: float) -> Any:
    from juicecache.volume.latency import Latency
    from juicecache.volume.volume import Volume

    return Volume(meta, options, Latency(pause_s))


def _requests(fs: Any) -> int:
    """Return how often object storage was asked for content, by workers for us, too."""
    blocks = fs.stats().blocks
    report = fs.volume.group()
    members = () if report is None else report.members
    served = sum(member.stats.loads for member in members if member.stats is not None)
    return int(blocks.loads + blocks.range_gets + served)


def _digest(content: Any) -> bytes:
    return hashlib.sha256(content).digest()


COMMANDS = {"demo": Command(_configure, _demo)}
