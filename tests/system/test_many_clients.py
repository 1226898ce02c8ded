"""Many processes with threads, and an official mount, in one tree at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
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
        assert failures == []
        expected = {path: crc for result in results for path, crc in result["expected"].items()}
        found = {
            f"{directory.rstrip('/')}/{name}": attr
            for directory, entries in volume.walk("/")
            for name, attr in entries
        }
        files = {path for path, attr in found.items() if not attr.is_directory}
        assert files == set(expected)
        assert {path: zlib.crc32(volume.read_file(path)) for path in files} == expected
        with shared.mounted() as point:
            assert_same(volume, point)
        volume.gc(delete=True, min_age_s=0)
        mended = volume.fsck(repair=True, sync_dir_stat=True)
        assert mended.ok, mended
        counts = sum((Counter(result["counts"]) for result in results), Counter())
        assert min(counts[f"{what} ok"] for what in ("write", "rename", "link", "unlink")) > 0
    assert_clean(shared.meta)


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
