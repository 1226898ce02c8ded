"""A large pack that is committed among single creations, in the same directories."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from juicecache.testing.engines import fresh_url
from juicecache.testing.oracle import assert_clean
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import open_volume

pytestmark = [pytest.mark.service, pytest.mark.slow]

FOLDERS = [f"/set/{number}" for number in range(10)]
FILES, CREATORS = 10_000, 2
STALL_S = 5.0
"""No single creation waits longer for the commits of a pack, on two shared cores."""


@contextmanager
def creators(meta: str) -> Iterator[dict[str, dict[str, float]]]:
    """Run clients; behind the block, what each has made, and when, by the name of its files."""
    made: dict[str, dict[str, float]] = {}
    command = [sys.executable, "-m", "juicecache.testing.creators", meta]
    names = [chr(ord("a") + number) for number in range(CREATORS)]
    processes = [
        subprocess.Popen(
            [*command, name, *FOLDERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield made
        for name, process in zip(names, processes, strict=True):
            output, _ = process.communicate("")
            assert process.returncode == 0
            made[name] = json.loads(output)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("kind", ["redis", "postgres", "mysql"])
def test_both_get_through(kind, tmp_path):
    meta = fresh_url(kind, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=0, remember=False)
    pack = {f"{FOLDERS[at % len(FOLDERS)]}/pack{at}": b"%d" % at for at in range(FILES)}
    with open_volume(meta, cache_size="0") as volume:
        for folder in FOLDERS:
            volume.make_directory(folder, parents=True)
        with creators(meta) as made:
            with volume.batch(deferred=True) as batch:
                for path, content in pack.items():
                    batch.write(path, content)
                began = time.time()
            ended = time.time()
        for times in made.values():
            meanwhile = [began, *(at for at in times.values() if began < at < ended), ended]
            assert len(meanwhile) > 2
            assert max(later - one for one, later in pairwise(meanwhile)) < STALL_S
        single = {path: path.encode() for times in made.values() for path in times}
        found = {
            f"{folder}/{one.name}" for folder in FOLDERS for one in volume.list_directory(folder)
        }
        assert found == pack.keys() | single.keys()
        for path, content in [*single.items(), *list(pack.items())[:: FILES // 100]]:
            assert volume.read_file(path) == content
    assert_clean(meta)
