"""A process that fills a batch is killed around each change it makes; nothing half is left.

The victims are forks of one process that was itself started anew and has nothing open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from juicecache.config import VolumeOptions
from juicecache.meta.rows import Session, SliceRef, Sustained
from juicecache.testing.oracle import assert_clean, sums_wrong
from juicecache.testing.processes import forking_runner
from juicecache.testing.servers import juicefs_binary
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume

BLOCK = 64 * 1024
PACK_FILES = 4
"""Of a quarter of a block each: the block of a pack is stored when its last file is there."""

RUNNER = f"""
import itertools, os, signal
from juicecache.config import VolumeOptions
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.objects.wrap import StoreWrapper
from juicecache.testing.processes import serve_forks
from juicecache.volume import cleaning, pack
from juicecache.volume.volume import Volume

pack.FILES_MAX = {PACK_FILES}
# Not on threads, at their own pace: the calls come in the same order in every victim.
cleaning.run_later = lambda parts, work, otherwise: work()

def tick():
    if next(left) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

class Engine(SqliteEngine):
    def attempt(self, body, *, writable):
        if not writable:  # where it is killed there, it could have been before or after
            return super().attempt(body, writable=False)
        tick()
        result = super().attempt(body, writable=True)
        tick()
        return result

class Store(StoreWrapper):
    async def put(self, name, body):
        tick()
        await super().put(name, body)
        tick()

    async def delete(self, name):
        tick()
        await super().delete(name)
        tick()

def work(path, deferred, ending):
    options = VolumeOptions.from_options({{"cache_size": 0}})
    engine = Engine(path + "/meta.db")
    volume = Volume(engine, options, wrap_store=Store)
    batch = volume.batch(deferred=deferred)

    def write(numbers):
        for number in numbers:
            batch.write(f"/set/{{number}}", bytes([number]) * {BLOCK // 4})

    write(range(0, 8))
    with volume.open("/large", "wb", batch=batch) as file:
        file.write(b"large" * 30_000)
    with volume.open("/log", "ab", batch=batch) as file:
        file.write(b"new")
    if ending != "commit":
        batch.secure()  # what the timer does
    write(range(8, 12))
    if ending == "discard":
        batch.discard()
    else:
        batch.commit()
    volume.close()
    engine.close()

def victim(call, deferred, ending, path):
    global left
    left = itertools.count(int(call), -1)
    work(path, deferred == "True", ending)

serve_forks(victim)
"""

OLD = {"/set/1": b"old", "/set/9": b"older", "/large": b"old", "/log": b"old"}
STEPS = [
    {f"/set/{number}": bytes([number]) * (BLOCK // 4) for number in range(first, first + 4)}
    for first in range(0, 12, PACK_FILES)
] + [{"/large": b"large" * 30_000}, {"/log": b"oldnew"}]
"""What the batch commits, one after the other: the packs, then the files too large for one."""

DEAD = "has 0 references and None records"


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., int]]:
    with forking_runner(RUNNER) as run:
        yield run


def make_volume(path: Path) -> None:
    """Make a volume with the old files, packed."""
    path.mkdir()
    meta = f"sqlite3://{path}/meta.db"
    format_volume(
        meta,
        "crashed",
        bucket=str(path / "objects"),
        block_size_kib=BLOCK >> 10,
        trash_days=0,
        remember=False,
    )
    with open_volume(path) as volume:
        assert volume.write_files(list(OLD.items())) == [None] * len(OLD)


def open_volume(path: Path) -> Volume:
    options = VolumeOptions.from_options({"cache_size": 0})
    return Volume(f"sqlite3://{path}/meta.db", options)


def contents(volume: Volume) -> dict[str, bytes]:
    paths = [
        f"{directory.rstrip('/')}/{entry.name}"
        for directory, entries in volume.walk()
        for entry in entries
        if not entry.attr.is_directory
    ]
    return {path: volume.read_file(path) for path in paths}


def steps_done(found: dict[str, bytes]) -> int:
    """Return how many steps of the batch happened, each as a whole and in their order."""
    for count in range(len(STEPS) + 1):
        wanted = dict(OLD)
        for step in STEPS[:count]:
            wanted |= step
        if found == wanted:
            return count
    raise AssertionError({path: (len(body), body[:8]) for path, body in found.items()})


def bury(volume: Volume) -> None:
    """Let the heartbeat of the dead process be long ago."""
    engine = volume.parts().engine
    for row in engine.read(lambda tx: list(tx.scan(Session))):
        engine.write(lambda tx, row=row: tx.put(row._replace(expire_s=1)))


def check(path: Path) -> int:
    """Check what is left; return how many steps of the batch happened."""
    # Content that nothing needs any more may wait for gc.
    wrong = [line for line in sums_wrong(path / "meta.db") if DEAD not in line]
    assert wrong == []
    with open_volume(path) as volume:
        found = contents(volume)
        done = steps_done(found)
        bury(volume)
        report = volume.gc(delete=True, min_age_s=0)
        assert report.errors == ()
        engine, layout = volume.parts().engine, volume.parts().layout
        assert engine.read(lambda tx: [*tx.scan(Session), *tx.scan(Sustained)]) == []
        needed = {
            key.name
            for row in engine.read(lambda tx: list(tx.scan(SliceRef)))
            for key in layout.block_keys(row.slice_id, row.size)
        }
        assert contents(volume) == found
    assert {file.name for file in (path / "objects").rglob("*_*_*")} == needed
    assert sums_wrong(path / "meta.db") == []
    return done


@pytest.mark.parametrize(
    ("deferred", "ending"),
    [(True, "commit"), (True, "hold"), (True, "discard"), (False, "hold")],
)
def test_wherever_a_process_is_killed_every_pack_is_whole(tmp_path, run, deferred, ending):
    call, status, seen = 0, -9, []
    while status == -9:
        call += 1
        path = tmp_path / str(call)
        make_volume(path)
        status = run(call, deferred, ending, path)
        seen.append(check(path))
    assert status == 0
    assert call > 20
    assert seen == sorted(seen)
    assert set(seen) == ({0} if ending == "discard" else set(range(len(STEPS) + 1)))


@pytest.mark.service
@pytest.mark.parametrize("call", [25, 40])
def test_the_official_client_finds_nothing_wrong(tmp_path, run, call):
    juicefs_binary()
    path = tmp_path / "volume"
    make_volume(path)
    assert run(call, True, "hold", path) == -9
    check(path)
    assert_clean(f"sqlite3://{path}/meta.db")
