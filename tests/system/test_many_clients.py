"""Many processes with threads, and an official mount, in one tree at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from juicecache.testing.crowd import DIRECTORIES
from juicecache.testing.official import SharedVolume, assert_same
from juicecache.testing.oracle import assert_clean

pytestmark = [pytest.mark.service, pytest.mark.slow]

CROWD_S = float(os.environ.get("JUICECACHE_CROWD_S", "6"))
"""How long each engine is under load; a minute says something."""
START_S = 4
PROCESSES, THREADS = 8, 2


@pytest.mark.parametrize("trash_days", [0, 1], ids=["no trash", "trash"])
def test_no_entry_is_lost_or_doubled(shared: SharedVolume, trash_days: int) -> None:
    shared.format_theirs(trash_days=trash_days, block_size=64)
    with shared.open() as volume:
        for directory in DIRECTORIES:
            volume.make_directory(directory)
        with shared.mounted() as point:
            results = crowd(shared, point)
        failures = [failure for result in results for failure in result["failures"]]
        expected = {path: crc for result in results for path, crc in result["expected"].items()}
        found = {
            f"{directory.rstrip('/')}/{name}": attr
            for directory, entries in volume.walk("/")
            for name, attr in entries
        }
        files = {path for path, attr in found.items() if not attr.is_directory}
        lost, doubled = set(expected) - files, files - set(expected)
        assert (failures, lost, doubled) == ([], set(), set())
        assert {path: zlib.crc32(volume.read_file(path)) for path in files} == expected
        with shared.mounted() as point:
            assert_same(volume, point)
        volume.gc(delete=True, min_age_s=0)
        mended = volume.fsck(repair=True, sync_dir_stat=True)
        assert mended.ok, mended
        counts = sum((Counter(result["counts"]) for result in results), Counter())
        assert min(counts[f"{what} ok"] for what in ("write", "rename", "link", "unlink")) > 0
    assert_clean(shared.meta)


def test_no_entry_goes_with_its_directory(shared: SharedVolume) -> None:
    """Between clients of this library; the official one locks no directory on SQL servers."""
    shared.format_theirs(trash_days=0, block_size=64)
    made = 0
    with shared.open() as ours, shared.open() as others:
        stop_s = time.monotonic() + 2

        def come_and_go() -> int:
            removed = 0
            while time.monotonic() < stop_s:
                with suppress(FileExistsError):
                    others.make_directory("/d")
                with suppress(OSError):
                    others.remove_directory("/d")
                    removed += 1
            return removed

        with ThreadPoolExecutor() as pool:
            going = pool.submit(come_and_go)
            while time.monotonic() < stop_s:
                try:
                    ours.write_file("/d/x", b"")
                except FileNotFoundError:  # the directory, while it was written
                    continue
                made += 1
                ours.unlink("/d/x")
            assert going.result() > 0
    assert made > 0


def crowd(shared: SharedVolume, point: Path) -> list[dict]:
    stop_s = time.time() + START_S + CROWD_S
    places = [shared.meta] * PROCESSES + [str(point)]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "juicecache.testing.crowd", place),
                *(chr(ord("A") + number), str(THREADS), str(stop_s)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, place in enumerate(places)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(output) for output in outputs]
