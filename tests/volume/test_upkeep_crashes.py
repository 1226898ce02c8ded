"""Upkeep that is killed, at every step of it: nothing is lost, and the next client finishes it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from juicecache.config import VolumeOptions
from juicecache.meta.engine import Engine
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.oracle import leaked, sums_wrong
from juicecache.testing.processes import in_child
from juicecache.testing.servers import run_juicefs
from juicecache.volume.formatting import change_volume, format_volume
from juicecache.volume.upkeep import Upkeep
from juicecache.volume.volume import Volume

DAY_NS = 86_400 * 10**9
KILLED = 9
STEPS_MAX = 400


class Killing:
    """Counts what a process does to database and store, and kills it before one step."""

    def __init__(self, left: int) -> None:
        self.left = left

    def step(self) -> None:
        if self.left == 0:
            os._exit(KILLED)
        self.left -= 1

    def watch(self, volume: Volume) -> None:
        engine, store = volume.parts().engine, volume.parts().store
        write, put, delete = engine.write, store.put, store.delete

        def counted_write(body: Any) -> Any:
            self.step()
            result = write(body)
            self.step()
            return result

        async def counted_put(name: str, body: Any) -> None:
            self.step()
            await put(name, body)

        async def counted_delete(name: str) -> None:
            self.step()
            await delete(name)

        engine.write = counted_write  # type: ignore[method-assign]
        store.put = counted_put  # type: ignore[method-assign]
        store.delete = counted_delete  # type: ignore[method-assign]


def opened(meta: str | Engine) -> Volume:
    return Volume(meta, VolumeOptions.from_options({"cache_size": 0, "no_bgjob": True}))


def fill(meta: str) -> dict[str, bytes]:
    """Leave work for every job; return what must stay."""
    kept: dict[str, bytes] = {}
    with opened(meta) as volume:
        files = [(f"/packed/{number}", b"%03d" % number * 700) for number in range(60)]
        volume.write_files(files)
        for path, content in files:
            if int(path.rpartition("/")[2]) % 6:
                volume.unlink(path)
            else:
                kept[path] = content
        volume.write_file("/large", os.urandom(200_000))
        volume.unlink("/large")
        with volume.open("/pieces", "wb") as file:
            file.write(b"0" * 100_000)
        for number in range(1, 6):
            with volume.open("/pieces", "r+b") as file:
                file.seek(number * 1000)
                file.write(b"%d" % number * 1000)
        kept["/pieces"] = volume.read_file("/pieces")
        volume.gc(compact=True)
        volume.make_directory("/tree/deep", parents=True)
        volume.write_file("/tree/deep/file", b"x" * 70_000)
        volume.remove_tree("/tree")
    return kept


def work(meta: str, left: int, *, compact: bool) -> int:
    """Run all jobs, three days later, in a process that ends before step ``left``."""

    def child() -> None:
        volume = opened(meta)
        gate = volume.parts().meta.gate
        clock = gate._clock
        gate._clock = lambda: clock() + 3 * DAY_NS
        Killing(left).watch(volume)
        if compact:
            volume.gc(delete=True, compact=True)
        else:
            Upkeep(volume.parts()).run_due()
        os._exit(0)

    return in_child(child)


def check(meta: str, kept: dict[str, bytes]) -> None:
    with opened(meta) as volume:
        for path, content in kept.items():
            assert volume.read_file(path) == content, path
    wrong = [line for line in sums_wrong(meta) if not line.startswith("slice")]
    assert wrong == []


def finish(meta: str, kept: dict[str, bytes]) -> None:
    """Let an undisturbed client do the rest; nothing is left to clean up then."""
    with opened(meta) as volume:
        gate = volume.parts().meta.gate
        clock = gate._clock
        gate._clock = lambda: clock() + 8 * DAY_NS
        report = volume.gc(delete=True, compact=True, min_age_s=0)
        assert report.errors == ()
    check(meta, kept)
    assert sums_wrong(meta) == []
    run_juicefs("fsck", meta)
    assert leaked(meta) == 0


@pytest.mark.service
@pytest.mark.parametrize("compact", [False, True], ids=["jobs", "gc"])
def test_a_kill_at_any_step_loses_nothing(compact: bool, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    volume = make(before)
    kept = fill(volume)
    for left in range(0, STEPS_MAX, 3):
        shutil.copytree(before, tmp_path / "now")
        meta = moved(tmp_path / "now")
        code = work(meta, left, compact=compact)
        check(meta, kept)
        if left % 30 == 0 or code == 0:
            finish(meta, kept)
        shutil.rmtree(tmp_path / "now")
        if code == 0:
            break
        assert code == KILLED
    assert 30 < left < STEPS_MAX - 3


def make(folder: Path) -> str:
    meta = f"sqlite3://{folder}/meta.db"
    format_volume(
        meta, "volume", bucket=f"{folder}/objects/", block_size_kib=64, trash_days=1, remember=False
    )
    return meta


def moved(now: Path) -> str:
    """Return the address of a copy of a volume, which uses its own copy of the objects."""
    meta = f"sqlite3://{now}/meta.db"
    change_volume(meta, bucket=f"{now}/objects/")
    return meta


@pytest.mark.service
@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_one_kill_after_the_other_comes_to_an_end(kind: str, tmp_path: Path) -> None:
    meta = fresh_url(kind, tmp_path)
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        block_size_kib=64,
        trash_days=1,
        remember=False,
    )
    kept = fill(meta)
    left = 3
    while (code := work(meta, left, compact=True)) == KILLED:
        check(meta, kept)
        left += 4
    assert code == 0
    assert left > 12
    finish(meta, kept)
