"""Backups of metadata: which stay, who writes them, and that they can be loaded."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import ConfigError
from juicecache.meta import leases
from juicecache.meta.rows import Counter, Xattr
from juicecache.model.attr import ROOT_INODE
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.oracle import sums_wrong
from juicecache.testing.servers import run_juicefs
from juicecache.volume.backup import superfluous
from juicecache.volume.dumping import load_metadata
from juicecache.volume.formatting import format_volume
from juicecache.volume.upkeep import Upkeep
from juicecache.volume.volume import Volume, open_volume

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def named(*ages: timedelta) -> list[str]:
    return [f"v/meta/dump-{NOW - age:%Y-%m-%d-%H%M%S}.json.gz" for age in ages]


def hourly(days: int) -> list[str]:
    return named(*(timedelta(hours=hours) for hours in range(days * 24)))


def test_all_of_two_days_stay() -> None:
    assert superfluous(hourly(2), NOW) == []


def test_a_year_of_backups_shrinks_to_a_few_dozen() -> None:
    kept = set(hourly(365)) - set(superfluous(hourly(365), NOW))
    ages = sorted(
        (NOW - datetime.strptime(name, "v/meta/dump-%Y-%m-%d-%H%M%S.json.gz").replace(tzinfo=UTC))
        / DAY
        for name in kept
    )
    assert sum(age < 2 for age in ages) == 48
    assert 12 <= sum(2 <= age < 14 for age in ages) <= 13
    assert 6 <= sum(14 <= age < 60 for age in ages) <= 8
    assert 10 <= sum(age >= 60 for age in ages) <= 12


@given(st.lists(st.integers(0, 400 * 24 * 60), max_size=60, unique=True))
def test_what_stays_stays_and_nothing_is_lost_at_once(minutes: list[int]) -> None:
    names = named(*(timedelta(minutes=age) for age in minutes))
    gone = set(superfluous(names, NOW))
    kept = [name for name in dict.fromkeys(names) if name not in gone]
    assert superfluous(kept, NOW) == []
    if names:
        assert min(names) in kept  # the oldest is the first of its period


def test_other_objects_are_no_backups() -> None:
    others = ["v/meta/notes.txt", "v/meta/dump-2020-01-01-000000.bin", "v/meta/dump-x.json.gz"]
    assert superfluous([*others, *named(400 * DAY)], NOW) == []


@pytest.fixture(params=SHARED_KINDS)
def meta(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    meta = fresh_url(request.param, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=1, remember=False)
    return meta


def backups(folder: Path) -> list[Path]:
    return sorted((folder / "objects" / "volume" / "meta").glob("*"))


def run_as_of(volume: Volume, hours: float) -> Upkeep:
    gate = volume.parts().meta.gate
    clock = gate._clock
    gate._clock = lambda: clock() + round(hours * 3_600_000_000_000)
    upkeep = Upkeep(volume.parts())
    upkeep.run_due()
    return upkeep


def test_one_client_writes_one_an_hour(meta: str, tmp_path: Path) -> None:
    with (
        open_volume(meta, cache_size="0", no_bgjob=True) as volume,
        open_volume(meta, cache_size="0", no_bgjob=True) as other,
    ):
        volume.write_file("/deep/f", b"content")
        run_as_of(volume, 0)
        run_as_of(other, 0.5)
        (first,) = backups(tmp_path)
        stats = {job.name: job for job in run_as_of(other, 1).stats()}
        assert stats["backup"].runs == 1
        assert backups(tmp_path)[0] == first
        assert len(backups(tmp_path)) == 2
        row = volume.parts().engine.read(lambda tx: tx.get(Xattr, ROOT_INODE, leases.BACKUP))
        assert row is not None
        assert abs(datetime.fromisoformat(row.value.decode()) - datetime.now(UTC)) < 3 * DAY
    document = json.loads(gzip.decompress(first.read_bytes()))
    assert document["Setting"]["Name"] == "volume"
    assert "deep" in document["FSTree"]["entries"]


def test_a_backup_brings_the_volume_back(meta: str, tmp_path: Path) -> None:
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        volume.write_file("/deep/f", b"content" * 1000)
        run_as_of(volume, 0)
    (backup,) = backups(tmp_path)
    (tmp_path / "ours").mkdir()
    ours = fresh_url("redis", tmp_path / "ours")
    load_metadata(ours, backup)
    assert sums_wrong(ours) == []
    with open_volume(ours, cache_size="0") as volume:
        assert volume.read_file("/deep/f") == b"content" * 1000


@pytest.mark.service
def test_the_official_client_loads_a_backup(tmp_path: Path) -> None:
    meta = fresh_url("sqlite", tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        volume.write_file("/deep/f", b"content")
        run_as_of(volume, 0)
    (backup,) = backups(tmp_path)
    (tmp_path / "theirs").mkdir()
    theirs = fresh_url("sqlite", tmp_path / "theirs")
    run_juicefs("load", theirs, str(backup))
    run_juicefs("fsck", theirs)


def test_a_backup_of_an_encrypted_volume_needs_its_key(tmp_path: Path, rsa_key: str) -> None:
    meta = fresh_url("sqlite", tmp_path)
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        encrypt_rsa_key=rsa_key,
        compress="lz4",
        remember=False,
    )
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        volume.write_file("/f", b"content")
        run_as_of(volume, 0)
    (backup,) = backups(tmp_path)
    assert b"volume" not in backup.read_bytes()
    target = f"sqlite3://{tmp_path}/target.db"
    with pytest.raises(Exception, match="dump"):
        load_metadata(target, backup)
    load_metadata(target, backup, encrypt_rsa_key=rsa_key)
    with open_volume(target, cache_size="0") as volume:
        assert volume.read_file("/f") == b"content"
    with pytest.raises(ConfigError, match="already holds"):
        load_metadata(target, backup, encrypt_rsa_key=rsa_key)


def test_a_volume_that_is_too_large_or_wants_none_is_left_out(tmp_path: Path) -> None:
    meta = fresh_url("sqlite", tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(meta, cache_size="0", no_bgjob=True, backup_meta="0") as volume:
        names = [job.name for job in run_as_of(volume, 0).stats()]
        assert "backup" not in names
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        volume.parts().engine.write(lambda tx: tx.put(Counter("totalInodes", 1_000_001)))
        run_as_of(volume, 0)
        assert backups(tmp_path) == []
    with open_volume(meta, cache_size="0", no_bgjob=True, backup_meta="2h") as volume:
        run_as_of(volume, 3)
        assert len(backups(tmp_path)) == 1


def test_the_trash_may_be_left_out(tmp_path: Path) -> None:
    meta = fresh_url("sqlite", tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=1, remember=False)
    with open_volume(meta, cache_size="0", no_bgjob=True, backup_skip_trash=True) as volume:
        volume.write_file("/f", b"content")
        volume.unlink("/f")
        run_as_of(volume, 0)
    (backup,) = backups(tmp_path)
    assert "Trash" not in json.loads(gzip.decompress(backup.read_bytes()))
