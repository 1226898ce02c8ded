"""Bad input, damage and refusals: a clear error, and nothing lost."""

from __future__ import annotations

import errno
import json
import pickle
import sqlite3
from pathlib import Path

import pytest

import juicecache
from juicecache.config import VolumeOptions
from juicecache.errors import (
    ClosedError,
    ConfigError,
    CorruptBlockError,
    EngineUnavailableError,
    InvalidNameError,
    ObjectDeniedError,
    ObjectNotFoundError,
    QuotaExceededError,
    ReadOnlyVolumeError,
    VolumeFormatError,
)
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.volume.volume import Volume

BLOCK = 64 << 10


def rows(meta: str) -> sqlite3.Connection:
    return sqlite3.connect(meta.removeprefix("sqlite3://"))


def change_record(meta: str, **members: object) -> None:
    with rows(meta) as database:
        (text,) = database.execute("SELECT value FROM jfs_setting").fetchone()
        database.execute(
            "UPDATE jfs_setting SET value = ?", (json.dumps(json.loads(text) | members),)
        )


def objects(tmp_path: Path) -> list[Path]:
    return sorted(p for p in (tmp_path / "store").rglob("*_*_*") if p.is_file())


@pytest.mark.parametrize("address", ["nonsense://x", "sqlite3://", "redis://h/x"])
def test_an_address_that_no_engine_serves(address):
    with pytest.raises(ConfigError):
        juicecache.open_volume(address)


@pytest.mark.parametrize("address", ["redis://:secret@127.0.0.1:1/0"])
def test_a_server_that_does_not_answer(address):
    with pytest.raises(EngineUnavailableError, match=r"127\.0\.0\.1:1.* does not answer") as caught:
        juicecache.open_volume(address)
    assert "secret" not in str(caught.value)


def test_a_database_that_was_never_formatted(tmp_path):
    with pytest.raises(VolumeFormatError):
        juicecache.open_volume(f"sqlite3://{tmp_path}/nothing.db")
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(VolumeFormatError, match="format"):
        juicecache.open_volume(f"sqlite3://{tmp_path}/empty.db")


def test_a_volume_of_a_newer_client(meta):
    change_record(meta, MetaVersion=2)
    with pytest.raises(VolumeFormatError, match="version 2"):
        juicecache.open_volume(meta)


def test_a_second_format_is_refused(meta, tmp_path):
    with pytest.raises(ConfigError, match="already holds"):
        juicecache.format_volume(meta, "other", bucket=str(tmp_path / "s"), remember=False)
    with pytest.raises(ConfigError, match="already holds a volume named"):
        juicecache.format_volume(
            f"sqlite3://{tmp_path}/m2.db", "test", bucket=str(tmp_path / "store"), remember=False
        )


def test_an_unknown_option_names_the_nearest(meta):
    with pytest.raises(ConfigError, match="cache_size"):
        juicecache.open_volume(meta, cache_sise=1)


@pytest.mark.parametrize(
    ("path", "number"),
    [("/" + "n" * 256, errno.ENAMETOOLONG), ("/a\0b", errno.EINVAL), ("/../etc", errno.EINVAL)],
)
def test_names_that_cannot_be(volume, path, number):
    with pytest.raises(InvalidNameError) as caught:
        volume.write_file(path, b"x")
    assert caught.value.errno == number
    assert caught.value.filename == path
    assert volume.list_directory("/") == []


def test_a_name_of_255_bytes(volume):
    volume.write_file("/" + "é" * 127 + "x", b"x")
    assert volume.read_file("/" + "é" * 127 + "x") == b"x"


def test_read_only(open_volume):
    open_volume().write_file("/a", b"x")
    volume = open_volume(read_only=True)
    assert volume.read_file("/a") == b"x"
    for change in (
        lambda: volume.write_file("/b", b""),
        lambda: volume.unlink("/a"),
        lambda: volume.open("/a", "ab"),
        lambda: volume.gc(delete=True),
    ):
        with pytest.raises(ReadOnlyVolumeError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_a_database_that_cannot_be_written(open_volume, tmp_path):
    open_volume().write_file("/a", b"x")
    engine = SqliteEngine(tmp_path / "meta.db", read_only=True)
    volume = Volume(engine, VolumeOptions.from_options({"cache_dir": "memory"}))
    assert volume.read_only
    with volume.open("/a") as file:
        assert file.read() == b"x"
    with pytest.raises(ReadOnlyVolumeError, match="the metadata database is read-only"):
        volume.write_file("/b", b"")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(volume)
    volume.close()
    engine.close()


def test_a_directory_quota(open_volume, meta):
    with rows(meta) as database:
        database.execute("INSERT INTO jfs_dir_quota VALUES (1, 0, 1, 0, 0)")
    volume = open_volume()
    volume.write_file("/a", b"")
    with pytest.raises(QuotaExceededError, match="the quota of directory inode 1, 1 inodes"):
        volume.write_file("/b", b"")


def test_an_encryption_that_is_switched_on_meanwhile(open_volume, meta):
    volume = open_volume(heartbeat=1)
    volume.write_file("/a", b"x")
    change_record(meta, EncryptKey="pem", EncryptAlgo="sm4gcm", KeyEncrypted=False)
    volume.parts().meta.gate.refresh()  # a heartbeat later
    with pytest.raises(ReadOnlyVolumeError, match=r"writing is refused: .* sm4gcm"):
        volume.write_file("/b", b"")
    assert volume.read_file("/a") == b"x"


def test_a_closed_volume(open_volume):
    volume = open_volume()
    volume.close()
    volume.close()
    with pytest.raises(ClosedError):
        volume.stat("/")


def test_a_missing_object_names_key_and_path(open_volume, tmp_path):
    volume = open_volume(cache_size=0)
    volume.write_file("/a", b"x" * 100)
    (lost,) = objects(tmp_path)
    lost.unlink()
    with pytest.raises(ObjectNotFoundError) as caught:
        volume.read_file("/a")
    assert lost.name in str(caught.value)
    assert "/a" in str(caught.value)
    assert volume.fsck().lost_blocks == 1


def test_a_slice_list_that_a_compaction_replaced(open_volume):
    ours, other = open_volume(cache_size=0), open_volume(cache_size=0)
    with ours.open("/a", "wb") as file:
        for number in range(4):
            file.write(bytes([number]) * 100)
            file.flush()
    content = ours.read_file("/a")  # the old list is remembered
    assert other.compact("/") == 1  # trash is off: the old objects go at once
    with ours.open("/a") as file:
        assert file.read() == content


def test_a_truncated_object(open_volume, tmp_path):
    volume = open_volume(cache_size=0)
    volume.write_file("/a", b"x" * 100)
    (short,) = objects(tmp_path)
    short.write_bytes(b"x" * 50)
    with pytest.raises(CorruptBlockError, match="/a"):
        volume.read_file("/a")
    report = volume.fsck()
    assert not report.ok
    assert report.damaged_blocks == 1


def test_a_damaged_copy_in_the_cache_is_dropped(open_volume, tmp_path):
    volume = open_volume()
    volume.write_file("/a", b"x" * 1000)
    volume.close()
    (copy,) = (p for p in (tmp_path / "cache").rglob("b*_*_*"))
    copy.write_bytes(b"y" + copy.read_bytes()[1:])
    volume = open_volume()
    assert volume.read_file("/a") == b"x" * 1000
    assert sum(tier.corrupt for tier in volume.stats().tiers) == 1


def test_secrets_stay_secret(meta, tmp_path):
    options = {"secret_key": "s3cr3t", "session_token": "t0k3n", "cache_dir": "memory"}
    volume = juicecache.open_volume(meta, **options)
    shown = f"{volume!r} {volume.options!r} {volume.stats()!r} {volume.setting!r}"
    assert "s3cr3t" not in shown
    assert "t0k3n" not in shown
    again = pickle.loads(pickle.dumps(volume))
    assert again.options == volume.options
    volume.close()
    again.close()


@pytest.mark.service
def test_wrong_keys_and_a_missing_bucket(s3, tmp_path):
    meta, bucket = f"sqlite3://{tmp_path}/m.db", s3.fresh_bucket()
    keys = {"access_key": s3.access_key, "secret_key": s3.secret_key}
    juicecache.format_volume(
        meta, "remote", storage="s3", bucket=f"{s3.endpoint}/{bucket}", remember=False, **keys
    )
    with juicecache.open_volume(meta, cache_size=0) as volume:
        volume.write_file("/a", b"x" * 100)
    with juicecache.open_volume(meta, cache_size=0, secret_key="wr0ng") as volume:
        with pytest.raises(ObjectDeniedError) as caught:
            volume.read_file("/a")
        assert "wr0ng" not in str(caught.value)
        with pytest.raises(ObjectDeniedError):
            volume.write_file("/b", b"x")
        assert not volume.exists("/b")
    missing = juicecache.open_volume(meta, cache_size=0, bucket=f"{s3.endpoint}/no-such-bucket")
    with missing, pytest.raises(ObjectNotFoundError):
        missing.write_file("/b", b"x")


@pytest.mark.service
def test_a_damaged_object_on_s3(s3, tmp_path):
    import asyncio

    import aiobotocore.session

    meta, bucket = f"sqlite3://{tmp_path}/m.db", s3.fresh_bucket()
    keys = {"access_key": s3.access_key, "secret_key": s3.secret_key}
    juicecache.format_volume(
        meta, "remote", storage="s3", bucket=f"{s3.endpoint}/{bucket}", remember=False, **keys
    )
    volume = juicecache.open_volume(meta, cache_size=0)
    volume.write_file("/a", b"x" * 100)
    name = volume.explain("/a").blocks[0].object_name

    async def damage() -> None:
        session = aiobotocore.session.get_session()
        async with session.create_client(
            "s3",
            endpoint_url=s3.endpoint,
            region_name="us-east-1",
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
        ) as client:
            found = await client.head_object(Bucket=bucket, Key=name)
            await client.put_object(
                Bucket=bucket, Key=name, Body=b"y" + b"x" * 99, Metadata=found["Metadata"]
            )

    asyncio.run(damage())
    with volume, pytest.raises(CorruptBlockError, match="/a"):
        volume.read_file("/a")
