"""Periodic work: what is done, by whom, and when it stays away."""

from __future__ import annotations

import threading

import pytest

from juicecache.config import VolumeOptions
from juicecache.meta import leases
from juicecache.meta.rows import Counter, DeletedFile, Session, SliceRef
from juicecache.model.attr import TRASH_INODE
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.faults import FaultyStore
from juicecache.testing.oracle import sums_wrong
from juicecache.testing.processes import in_child
from juicecache.volume.formatting import format_volume
from juicecache.volume.upkeep import Upkeep
from juicecache.volume.volume import Volume, open_volume

HOUR_S = 3600
JOBS = 7
LEASES = [leases.STALE_SESSIONS, leases.DELETED_FILES, leases.SLICES, leases.TRASH]


@pytest.fixture(params=SHARED_KINDS)
def meta(request, tmp_path):
    meta = fresh_url(request.param, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=1, remember=False)
    yield meta
    assert sums_wrong(meta) == []


@pytest.fixture
def volume(meta):
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        yield volume


def objects(tmp_path) -> list[str]:
    found = (tmp_path / "objects" / "volume" / "chunks").rglob("*_*_*")
    return sorted(path.name for path in found if path.is_file())


def move_clock(volume: Volume, hours: float) -> None:
    gate = volume.parts().meta.gate
    clock = gate._clock
    gate._clock = lambda: clock() + round(hours * HOUR_S * 1e9)


def later(volume: Volume, hours: float) -> Upkeep:
    """Run the jobs as of some hours from now."""
    move_clock(volume, hours)
    upkeep = Upkeep(volume.parts())
    upkeep.run_due()
    return upkeep


def counter(volume: Volume, name: str) -> int | None:
    row = volume.parts().engine.read(lambda tx: tx.get(Counter, name))
    return None if row is None else row.value


def scan(volume: Volume, table: type) -> list:
    return volume.parts().engine.read(lambda tx: list(tx.scan(table)))


def test_the_trash_ends_with_its_time_and_the_content_with_it(volume, tmp_path):
    volume.write_file("/file", b"x" * 100)
    volume.unlink("/file")
    later(volume, 20)
    assert objects(tmp_path) != []
    assert later(volume, 12).stats()[4].found == 2  # the hour, and the entry in it
    assert objects(tmp_path) == []
    hours = volume.parts().engine.read(lambda tx: list(tx.children(TRASH_INODE)))
    assert hours == []


def test_content_that_nobody_dropped_is_dropped_after_an_hour(volume, tmp_path):
    volume.write_file("/file", b"x" * 100)
    inode = volume.stat("/file").inode
    parts = volume.parts()
    parts.meta.remove("/file", skip_trash=True)  # as if we had died behind it
    later(volume, 0.5)
    assert [row.inode for row in scan(volume, DeletedFile)] == [inode]
    later(volume, 1)
    assert scan(volume, DeletedFile) == []
    assert objects(tmp_path) == []


def test_a_session_that_died_is_ended(volume, meta, tmp_path):
    def die() -> None:
        other = open_volume(meta, cache_size="0")
        other.write_file("/open", b"held")
        other.open("/open")
        other.unlink("/open")
        other.remove_tree("/.trash/" + other.list_directory("/.trash")[0].name)

    assert in_child(die) == 0
    assert len(scan(volume, Session)) <= 1
    later(volume, 0.1)
    assert scan(volume, Session) == []


def test_dead_slices_go_with_their_objects(volume, tmp_path):
    volume.write_file("/kept", b"x" * 100)
    engine = volume.parts().engine
    engine.write(lambda tx: tx.put(SliceRef(4000, 10, 0)))
    block = tmp_path / "objects" / "volume" / "chunks" / "0" / "4" / "4000_0_10"
    block.parent.mkdir(parents=True, exist_ok=True)
    block.write_bytes(b"0123456789")
    later(volume, 0)
    assert not block.exists()
    assert engine.read(lambda tx: tx.get(SliceRef, 4000, 10)) is None
    assert volume.read_file("/kept") == b"x" * 100


def test_the_jobs_of_two_clients_share_the_leases(volume, meta):
    with open_volume(meta, cache_size="0", no_bgjob=True) as other:
        first, second = later(volume, 0), later(other, 0)
        assert [job.runs for job in first.stats()] == [1] * JOBS
        assert [job.runs for job in second.stats()] == [0] * JOBS
        assert all(counter(volume, name) for name in LEASES)
        assert [job.runs for job in later(other, 24).stats()] == [1] * JOBS


def test_a_failure_is_told_and_the_other_jobs_run(meta, caplog):
    options = VolumeOptions.from_options({"cache_size": 0, "no_bgjob": True})
    with Volume(meta, options, wrap_store=FaultyStore) as volume:
        volume.parts().engine.write(lambda tx: tx.put(SliceRef(4000, 10, 0)))
        store = volume.parts().store
        assert isinstance(store, FaultyStore)
        store.fail("delete", range(100))
        upkeep = later(volume, 0)
        assert [job.name for job in upkeep.stats() if job.last_error] == ["slices"]
        assert "upkeep: slices" in caplog.text
        store.fail("delete", ())
        assert later(volume, 1).stats()[2].last_error == ""
        assert scan(volume, SliceRef) == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "upkeep" in thread.name]


def test_it_begins_with_the_first_change_and_ends_with_the_volume(tmp_path):
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(meta, cache_size="0") as volume:
        assert volume.list_directory("/") == []
        assert threads() == []
        volume.make_directory("/a")
        assert threads() == ["juicecache-upkeep"]
        volume.make_directory("/b")
        assert threads() == ["juicecache-upkeep"]
    assert threads() == []


@pytest.mark.parametrize("options", [{"no_bgjob": True}, {"read_only": True}])
def test_it_stays_away_where_it_is_not_wanted(tmp_path, options):
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(meta, cache_size="0", **options) as volume:
        if not volume.read_only:
            volume.make_directory("/a")
        assert threads() == []
