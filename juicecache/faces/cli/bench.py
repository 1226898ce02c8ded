"""The command ``bench``: the official client's five measurements, on a volume or locally."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

from juicecache.errors import CorruptBlockError
from juicecache.faces.cli.arguments import (
    Command,
    Place,
    add_meta_flag,
    add_volume_options,
    any_place,
    count,
    open_place,
    size_bytes,
)
from juicecache.faces.cli.console import Console, size, table
from juicecache.volume.volume import Volume

_MIB = 1 << 20


class _Target(NamedTuple):
    """The calls that are measured, of a volume or of the local file system."""

    open: Callable[[str, str], Any]
    stat: Callable[[str], Any]
    make_directory: Callable[[str], Any]
    remove_tree: Callable[[str], Any]


class _Outcome(NamedTuple):
    """One row: ``count`` files and ``total_bytes`` of all threads, in ``elapsed_s``."""

    item: str
    files: int
    total_bytes: int
    elapsed_s: float
    threads: int

    def plain(self) -> dict[str, Any]:
        return {
            "item": self.item,
            "files": self.files,
            "bytes": self.total_bytes,
            "seconds": self.elapsed_s,
            "files_per_s": self.files / self.elapsed_s,
            "bytes_per_s": self.total_bytes / self.elapsed_s,
        }

    def row(self, *, big: bool) -> tuple[str, str, str]:
        each_s = self.elapsed_s * self.threads / self.files
        if big:
            rate = f"{self.total_bytes / _MIB / self.elapsed_s:.2f} MiB/s"
            return self.item, rate, f"{each_s:.2f} s/file"
        rate = f"{self.files / self.elapsed_s:.1f} files/s"
        return self.item, rate, f"{each_s * 1e3:.2f} ms/file"


def _kib(text: str) -> int:
    """Return bytes of ``128K`` or, without a unit, of a number of KiB."""
    return size_bytes(f"{text}K" if text.isdigit() else text)


def _configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("path", metavar="PATH", type=any_place, help="juicecache://VOLUME/path or a local folder")
    add("--block-size", type=size_bytes, default=_MIB, help="of each read and write (default: 1M)")
    add("--big-file-size", type=size_bytes, default=1 << 30, help="default: 1G; 0 for none")
    add("--small-file-size", type=_kib, default=128 << 10, help="in KiB without unit (128K)")
    add("--small-file-count", type=count(0, 10**7), default=100, help="a thread (default: 100)")
    add("-p", "--threads", type=count(1, 256), default=1, help="working at once (default: 1)")
    add_meta_flag(parser)
    add_volume_options(parser)


def _bench(arguments: Namespace, console: Console) -> int:
    """Write, read and stat files in a folder of our own below the path, then remove it."""
    place: Place = arguments.path
    block_bytes = max(arguments.block_size, 1)
    with ExitStack() as stack:
        if place.volume:
            volume = stack.enter_context(open_place(arguments, place.volume))
            target = _volume_target(volume)
        else:
            target = _Target(open, os.stat, os.makedirs, shutil.rmtree)
        folder = place.below(f"__juicecache_bench_{uuid.uuid4().hex[:12]}__").path
        target.make_directory(folder)
        stack.callback(target.remove_tree, folder)
        pool = stack.enter_context(ThreadPoolExecutor(arguments.threads))
        stopped = threading.Event()
        stack.callback(stopped.set)  # an interrupt ends the threads after the file in hand
        run = _Run(target, folder, pool, arguments.threads, block_bytes, console, stopped)
        big = run.measure("big", 1, arguments.big_file_size) if arguments.big_file_size else []
        small = run.measure("small", arguments.small_file_count, arguments.small_file_size)
    value = {
        "path": str(place),
        "block_size": block_bytes,
        "big_file_size": arguments.big_file_size,
        "small_file_size": arguments.small_file_size,
        "small_file_count": arguments.small_file_count,
        "threads": arguments.threads,
        "results": [outcome.plain() for outcome in [*big, *small]],
    }
    rows = [*(o.row(big=True) for o in big), *(o.row(big=False) for o in small)]
    heading = (
        f"{place}: blocks of {size(block_bytes)}, big file {size(arguments.big_file_size)}, "
        f"{arguments.small_file_count} small files of {size(arguments.small_file_size)}, "
        f"{arguments.threads} threads"
    )
    served = "the cache tiers" if place.volume else "the page cache"
    note = f"reads follow the writes at once: {served} may answer them"
    console.result(value, [heading, *table(("item", "value", "cost"), rows), note])
    return 0


def _volume_target(volume: Volume) -> _Target:
    return _Target(
        volume.open,
        volume.stat,
        lambda path: volume.make_directory(path, parents=True),
        lambda path: volume.remove_tree(path, skip_trash=True),
    )


class _Run(NamedTuple):
    """What all measurements have in common."""

    target: _Target
    folder: str
    pool: ThreadPoolExecutor
    threads: int
    block_bytes: int
    console: Console
    stopped: threading.Event

    def measure(self, kind: str, files: int, file_bytes: int) -> list[_Outcome]:
        """Write and read ``files`` files a thread, and stat the small ones."""
        if not files:
            return []
        block = os.urandom(min(self.block_bytes, max(file_bytes, 1)))
        steps: dict[str, Callable[[str], None]] = {
            f"write {kind} file": lambda path: self._write(path, block, file_bytes),
            f"read {kind} file": lambda path: self._read(path, file_bytes),
        }
        if kind == "small":
            steps["stat file"] = self.target.stat
        return [self._timed(item, step, kind, files, file_bytes) for item, step in steps.items()]

    def _timed(
        self, item: str, step: Callable[[str], None], kind: str, files: int, file_bytes: int
    ) -> _Outcome:
        self.console.progress(f"{item} ...")

        def work(thread: int) -> None:
            for number in range(files):
                if self.stopped.is_set():
                    return
                step(f"{self.folder}/{kind}.{thread}.{number}")

        started_s = time.perf_counter()
        list(self.pool.map(work, range(self.threads)))
        elapsed_s = time.perf_counter() - started_s
        total = files * self.threads
        moved = 0 if item == "stat file" else total * file_bytes
        return _Outcome(item, total, moved, elapsed_s, self.threads)

    def _write(self, path: str, block: bytes, file_bytes: int) -> None:
        with self.target.open(path, "wb") as file:
            for start in range(0, file_bytes, self.block_bytes):
                file.write(block[: file_bytes - start])

    def _read(self, path: str, file_bytes: int) -> None:
        found = 0
        with self.target.open(path, "rb") as file:
            while piece := file.read(self.block_bytes):
                found += len(piece)
        if found != file_bytes:
            raise CorruptBlockError(path, f"{file_bytes} bytes", f"{found} bytes", "the benchmark")


COMMANDS = {"bench": Command(_configure, _bench)}
