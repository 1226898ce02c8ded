"""A volume as a whole: bad input, refusals, secrets, forks, two clients, sessions."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import pickle
import sqlite3
import tempfile
from pathlib import Path

import pytest

from juicecache.config import VolumeOptions
from juicecache.errors import (
    ClosedError,
    ConfigError,
    EngineUnavailableError,
    InvalidNameError,
    JuicecacheError,
    ObjectDeniedError,
    ObjectError,
    ObjectNotFoundError,
    QuotaExceededError,
    ReadOnlyVolumeError,
    VolumeFormatError,
)
from juicecache.meta.engines import sqlite_file
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import ChangeLine, DirQuota, Session, Sustained
from juicecache.testing.processes import in_child
from juicecache.volume.formatting import change_volume, format_volume
from juicecache.volume.volume import Volume, open_volume

NOBODY = 65534


def change_record(site, **members) -> None:
    """Change members of the stored record, as another client may."""
    engine = SqliteEngine(site.folder / "meta.db")
    record = json.loads(engine.setting() or "")
    engine.put_setting(json.dumps(record | members))
    engine.close()


def rows(volume, table) -> list:
    return volume.parts().engine.read(lambda tx: list(tx.scan(table)))


# ---------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ("oracle://host/1", "oracle"),
        ("sqlite3://", "sqlite3"),
        ("nowhere", "nowhere"),
        ("redis://:pass-word@host:6379/x", "redis"),
    ],
)
def test_an_address_that_cannot_work_is_named(meta, words):
    with pytest.raises(ConfigError) as failed:
        open_volume(meta)
    assert words in str(failed.value)
    assert "pass-word" not in str(failed.value)


def test_a_database_without_a_volume_is_named(tmp_path):
    path = tmp_path / "meta.db"
    with pytest.raises(VolumeFormatError, match=r"meta\.db"):
        open_volume(f"sqlite3://{path}")
    assert not path.exists()
    engine = SqliteEngine(path)
    engine.prepare()
    engine.close()
    with pytest.raises(VolumeFormatError, match="format"):
        open_volume(f"sqlite3://{path}")
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(JuicecacheError, match=r"meta\.db"):
        open_volume(f"sqlite3://{path}")


@pytest.mark.parametrize("version", [2, 9, 99])
def test_a_newer_volume_is_refused(site, version):
    change_record(site, MetaVersion=version)
    with pytest.raises(VolumeFormatError, match=str(version)):
        site.open()


def test_a_damaged_record_is_refused(site):
    engine = SqliteEngine(site.folder / "meta.db")
    engine.put_setting("{")
    engine.close()
    with pytest.raises(VolumeFormatError):
        site.open()


def test_an_unknown_option_names_the_nearest(site):
    with pytest.raises(ConfigError, match="cache_size"):
        open_volume(site.meta, cache_sise=1)


def test_a_cache_folder_that_cannot_be_used_is_an_error(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        site.open(cache_dir=str(tmp_path / "file" / "cache"))


def test_a_bucket_that_is_gone_is_an_error_of_reading_and_writing(site, no_pauses):
    volume = site.open(cache_size=0)
    volume.write_file("/file", b"x")
    site.objects.rename(site.folder / "elsewhere")
    with pytest.raises(ObjectNotFoundError, match="mounted"):
        volume.read_file("/file")
    with pytest.raises(ObjectNotFoundError, match="mounted"):
        volume.write_file("/other", b"x")
    assert not volume.exists("/other")


@pytest.fixture
def s3_meta(s3, tmp_path):
    meta = f"sqlite3://{tmp_path}/s3.db"
    format_volume(
        meta, "onsthree", storage="s3", bucket=f"{s3.endpoint}/{s3.fresh_bucket()}",
        access_key=s3.access_key, secret_key="b", remember=False,
    )  # fmt: skip
    return meta


@pytest.mark.service
def test_wrong_credentials_and_buckets_are_told_apart(s3, s3_meta):
    with open_volume(s3_meta, cache_size=0) as volume:
        volume.write_file("/file", b"content")
        assert volume.read_file("/file") == b"content"
    secret = "wrong-and-secret"
    with open_volume(s3_meta, cache_size=0, secret_key=secret) as volume:
        with pytest.raises(ObjectDeniedError) as denied:
            volume.read_file("/file")
        assert secret not in repr(denied.value) + str(denied.value)
        with pytest.raises(ObjectDeniedError):
            volume.write_file("/other", b"x")
    missing = f"{s3.endpoint}/there-is-no-such-bucket"
    with open_volume(s3_meta, cache_size=0, bucket=missing) as volume:
        with pytest.raises(ObjectError, match="there-is-no-such-bucket"):
            volume.write_file("/other", b"x")
        assert not volume.exists("/other")


# ---------------------------------------------------------------------- names and paths


@pytest.mark.parametrize(
    ("path", "number"),
    [("/" + "x" * 256, errno.ENAMETOOLONG), ("/a\0b", errno.EINVAL), ("/a/../b", errno.EINVAL)],
)
def test_names_that_cannot_be_are_refused_with_the_path(site, path, number):
    volume = site.open()
    volume.write_file("/there", b"x")
    for act in (
        lambda: volume.write_file(path, b"x"),
        lambda: volume.make_directory(path),
        lambda: volume.rename("/there", path),
        lambda: volume.symlink("x", path),
        lambda: volume.open(path, "wb").close(),
    ):
        with pytest.raises(InvalidNameError) as failed:
            act()
        assert failed.value.errno == number
        assert path in (failed.value.filename, failed.value.filename2)
    assert [entry.name for entry in volume.list_directory("/")] == ["there"]
    assert len(site.block_names()) == 1


def test_the_longest_name_and_undecodable_bytes_are_names(site):
    volume = site.open()
    for name in ("x" * 255, "é" * 127, os.fsdecode(b"\xff\xfe")):
        volume.write_file(f"/{name}", name.encode("utf-8", "surrogateescape"))
        assert volume.read_file(f"/{name}") == name.encode("utf-8", "surrogateescape")
    assert len(volume.list_directory("/")) == 3


def test_reading_what_is_no_file_is_an_error(site):
    volume = site.open()
    volume.make_directory("/directory")
    volume.write_file("/file", b"x")
    for act in (volume.read_file, volume.open, volume.explain):
        with pytest.raises(IsADirectoryError):
            act("/directory")
        with pytest.raises(FileNotFoundError):
            act("/none")
        with pytest.raises(NotADirectoryError):
            act("/file/below")


def test_the_root_is_not_removed_or_replaced(site):
    volume = site.open()
    for act in (volume.unlink, volume.remove_directory, lambda path: volume.rename(path, "/x")):
        with pytest.raises(PermissionError):
            act("/")
    with pytest.raises((PermissionError, IsADirectoryError)):
        volume.write_file("/", b"x")


# ---------------------------------------------------------------------- refusals


def test_a_record_that_we_cannot_keep_stops_writing_and_not_reading(site):
    site.open().write_file("/file", b"x")
    volume = Volume(site.meta, dataclasses.replace(site.options(), heartbeat_s=0.0))
    change_record(site, EncryptKey="pem", EncryptAlgo="sm4gcm", KeyEncrypted=False)
    assert volume.read_file("/file") == b"x"
    for act in (
        lambda: volume.write_file("/new", b"x"),
        lambda: volume.copy_file("/file", "/new"),
        lambda: volume.unlink("/file"),
        lambda: volume.open("/new", "wb"),
        lambda: volume.truncate("/file", 0),
        lambda: volume.make_directory("/d/e", parents=True),
    ):
        with pytest.raises(ReadOnlyVolumeError, match="sm4gcm"):
            act()
    volume.close()
    assert len(site.block_names()) == 1


def test_a_full_quota_stops_growth_and_names_the_path(site):
    volume = site.open()
    volume.parts().engine.write(lambda tx: tx.put(DirQuota(1, 8192, 0, 0, 0)))
    volume.write_file("/new", b"x")
    with pytest.raises(QuotaExceededError, match="8192 bytes") as refused:
        volume.write_file("/other", bytes(5000))
    assert refused.value.filename == "/other"
    assert [name for name, _ in volume.list_directory("/")] == ["new"]
    volume.write_file("/new", b"y")


def test_a_feature_switched_on_meanwhile_is_noticed_with_the_next_heartbeat(site):
    options = dataclasses.replace(site.options(), heartbeat_s=0.0, no_bgjob=True)
    with Volume(site.meta, options) as volume:
        volume.write_file("/file", b"x")
        change_record(site, ChangeLog=True)
        volume.write_file("/file", b"y")
        change_record(site, ChangeLog=False)
        volume.write_file("/file", b"z")
        lines = volume.parts().engine.read(lambda tx: [row.text for row in tx.scan(ChangeLine)])
        assert [line.split("|")[1][:5] for line in lines] == ["TRUNC", "WRITE"]
        change_record(site, UUID="3b241101-e2bb-4255-8caf-4136c566a962", Name="other")
        for act in (volume.list_directory, volume.stat, volume.summary):
            with pytest.raises(VolumeFormatError, match="another volume"):
                act("/file" if act == volume.stat else "/")


def test_a_change_of_limits_is_noticed_with_the_next_heartbeat(site):
    options = dataclasses.replace(site.options(), heartbeat_s=0.0)
    with Volume(site.meta, options) as volume:
        volume.write_file("/file", b"x")
        change_volume(site.meta, capacity_bytes=8192)
        volume.write_file("/second", b"x")
        with pytest.raises(OSError, match="capacity") as failed:
            volume.write_file("/third", b"x")
        assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, "/third")
        assert len(site.block_names()) == 2


def test_a_read_only_option_refuses_and_writes_nothing(site):
    site.open().write_file("/file", b"x")
    before = (site.folder / "meta.db").read_bytes()
    volume = site.open(read_only=True)
    assert volume.read_only
    with volume.open("/file") as file:
        assert file.read() == b"x"
    for act in (
        lambda: volume.write_file("/new", b"x"),
        lambda: volume.copy_file("/file", "/new"),
        lambda: volume.make_directory("/d/e", parents=True),
        lambda: volume.set_attr("/file", mode=0o600),
    ):
        with pytest.raises(ReadOnlyVolumeError, match=r"read_only|read-only") as failed:
            act()
        assert str(failed.value.filename).startswith(("/new", "/d", "/file"))
    volume.close()
    assert (site.folder / "meta.db").read_bytes() == before


def test_a_database_that_cannot_be_written_is_read():
    with tempfile.TemporaryDirectory() as folder:
        meta = f"sqlite3://{folder}/meta.db"
        format_volume(meta, "frozen", bucket=f"{folder}/objects", remember=False)
        with open_volume(meta, cache_size=0) as volume:
            volume.write_file("/file", b"x")
        Path(folder, "meta.db").chmod(0o444)
        Path(folder).chmod(0o555)

        def act() -> int:
            if os.getuid() == 0:
                os.setuid(NOBODY)  # root may write to everything
            with open_volume(meta, cache_size=0) as volume:
                assert volume.read_only
                assert volume.read_file("/file") == b"x"
                with volume.open("/file") as file:
                    assert file.read() == b"x"
                with pytest.raises(ReadOnlyVolumeError, match="database"):
                    volume.write_file("/file", b"y")
                with pytest.raises(ReadOnlyVolumeError, match="database"):
                    volume.unlink("/file")
            return 7

        assert in_child(act) == 7
        Path(folder).chmod(0o700)


def test_a_locked_database_is_an_error_that_names_it(site, monkeypatch):
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr("juicecache.meta.engine.DEADLINE_S", 0.05)
    volume = site.open()
    volume.write_file("/file", b"x")
    other = sqlite3.connect(site.folder / "meta.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(EngineUnavailableError, match=r"meta\.db"):
        volume.write_file("/new", b"x")
    assert volume.read_file("/file") == b"x"
    other.execute("ROLLBACK")
    other.close()
    assert len(site.block_names()) == 1
    volume.write_file("/new", b"x")


def test_a_closed_volume_refuses(site):
    volume = site.open()
    volume.close()
    volume.close()
    for act in (
        lambda: volume.read_file("/x"),
        lambda: volume.write_file("/x", b""),
        lambda: volume.open("/x", "wb"),
        lambda: volume.peek("/x"),
        volume.stats,
        volume.usage,
    ):
        with pytest.raises(ClosedError):
            act()


def test_an_engine_of_the_caller_stays_open(tmp_path):
    engine = MemoryEngine()
    format_volume(engine, "mine", bucket=str(tmp_path / "objects"))
    Volume(engine, VolumeOptions.from_options({"cache_size": 0})).close()
    assert engine.setting() is not None


# ---------------------------------------------------------------------- secrets and pickles


def test_secrets_are_in_nothing_that_people_see(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    engine = MemoryEngine()
    format_volume(
        engine, "hidden", bucket=str(tmp_path / "objects"),
        access_key="ACCESS", secret_key="tell-nobody", session_token="nor-this",
    )  # fmt: skip
    options = VolumeOptions.from_options({"cache_size": 0, "secret_key": "mine-alone"})
    with Volume(engine, options) as volume:
        shown = [repr(volume), repr(options), repr(volume.setting), repr(volume.stats())]
        shown += [volume.setting.to_json(), repr(volume.parts()), str(volume.parts().store)]
        with pytest.raises(FileNotFoundError) as failed:
            volume.read_file("/none")
        shown += [str(failed.value), caplog.text]
    for secret in ("tell-nobody", "nor-this", "mine-alone"):
        assert not any(secret in text for text in shown)
    assert b"tell-nobody" not in pickle.dumps(options)


def test_a_volume_pickles_as_address_and_options(site):
    volume = site.open()
    volume.write_file("/file", b"x")
    with pickle.loads(pickle.dumps(volume)) as twin:
        assert twin.options == volume.options
        assert twin.read_file("/file") == b"x"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(site.open(meta=volume.parts().engine))


# ---------------------------------------------------------------------- processes


def test_a_forked_child_opens_its_own_parts(site, content):
    volume = site.open(looped=True)
    volume.write_file("/file", content(site.block))
    parts = volume.parts()

    def act() -> int:
        assert volume.read_file("/file") == content(site.block)
        volume.write_file("/child", b"child")
        assert volume.parts() is not parts
        volume.close()
        return 7

    assert in_child(act) == 7
    assert volume.parts() is parts
    assert volume.read_file("/child") == b"child"
    volume.write_file("/after", b"x")
    names = {entry.attr.inode for entry in volume.list_directory("/")}
    assert len(names) == 3


@pytest.mark.parametrize("tier", ["memory", "folder"])
def test_a_forked_child_begins_with_the_cache_of_its_parent(site, content, tier):
    place = tier if tier == "memory" else str(site.folder / tier)
    volume = site.open(cache_dir=place, memory_size="16MiB")
    volume.write_file("/file", content(3 * site.block))
    assert volume.read_file("/file") == content(3 * site.block)

    def act() -> int:
        assert volume.read_file("/file") == content(3 * site.block)
        (stats,) = volume.stats().tiers
        assert (stats.hits, stats.misses, stats.stored) == (3, 0, 0)
        volume.write_file("/child", content(site.block, 9))
        volume.close()
        return 7

    assert in_child(act) == 7
    assert volume.read_file("/child") == content(site.block, 9)
    assert volume.read_file("/file", 5, 9) == content(site.block)[5:9]


@pytest.mark.parametrize("looped", [False, True])
def test_open_sees_what_was_closed_before(site, looped):
    one, other = site.open(looped=looped), site.open(looped=looped)
    for number in range(5):
        text = b"%d" % number * (number + 1)
        one.write_file("/file", text)
        assert other.read_file("/file") == text
        assert other.stat("/file").length == number + 1
        with other.open("/file") as file:
            assert file.read() == text
        assert other.peek("/file") in (None, text)
        with other.open("/file", "ab") as file:
            file.write(b"!")
        assert one.read_file("/file") == text + b"!"


def test_a_cached_attribute_may_be_as_old_as_was_allowed(site):
    writer = site.open()
    reader = site.open(attr_cache="1h", open_cache="1h")
    writer.write_file("/file", b"one")
    assert reader.read_file("/file") == b"one"
    writer.write_file("/file", b"three")
    assert reader.stat("/file").length == 3
    reader.forget()
    assert reader.read_file("/file") == b"three"


# ---------------------------------------------------------------------- sessions


def test_a_session_is_made_when_an_open_file_may_lose_its_name(site):
    volume = site.open()
    volume.write_file("/file", b"x")
    volume.write_file("/other", b"x")
    with volume.open("/file") as file:
        assert rows(volume, Session) == []
        volume.unlink("/file")
        (session,) = rows(volume, Session)
        assert json.loads(session.info)["ProcessID"] == os.getpid()
        assert len(rows(volume, Sustained)) == 1
        assert file.read() == b"x"
    assert rows(volume, Sustained) == []
    with volume.open("/other"):
        volume.unlink("/other")
        reader = site.open(read_only=True)
        assert len(rows(reader, Session)) == 1
        volume.close()
    assert rows(reader, Session) == rows(reader, Sustained) == []
    assert site.block_names() == []


def test_the_trash_can_be_emptied_and_works_on(tmp_path):
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, "site", bucket=f"{tmp_path}/objects", trash_days=1, remember=False)
    with open_volume(meta, cache_size="0") as volume:
        with pytest.raises(FileNotFoundError):
            volume.unlink("/none")
        assert volume.list_directory("/.trash") == []
        for path in ("/a/one", "/a/two", "/three"):
            volume.write_file(path, b"content")
        volume.remove_tree("/a")
        (hour,) = volume.list_directory("/.trash")
        assert volume.remove_tree(f"/.trash/{hour.name}") == 3
        assert volume.remove_tree("/.trash") == 0
        volume.unlink("/three")
        (hour,) = volume.list_directory("/.trash")
        (kept,) = volume.list_directory(f"/.trash/{hour.name}")
        assert volume.read_file(f"/.trash/{hour.name}/{kept.name}") == b"content"
        assert volume.remove_tree("/.trash") == 1
        assert volume.fsck(sync_dir_stat=True).ok


def test_work_without_open_files_needs_no_session(site):
    volume = site.open()
    volume.write_file("/file", b"x")
    volume.rename("/file", "/other")
    volume.copy_file("/other", "/copy")
    volume.unlink("/other")
    assert volume.remove_tree("/") == 1
    assert rows(volume, Session) == []


# ---------------------------------------------------------------------- the rest of the tree


def test_copies_move_no_byte_and_share_blocks(site, content):
    volume = site.open()
    volume.write_file("/file", content(2 * site.block))
    puts = site.store(volume).calls["put"]
    volume.copy_file("/file", "/d/e/copy")
    volume.unlink("/file")
    assert volume.read_file("/d/e/copy") == content(2 * site.block)
    assert site.store(volume).calls["put"] == puts
    volume.unlink("/d/e/copy")
    volume.close()
    assert site.block_names() == []


def test_usage_and_summary_count(site, content):
    volume = site.open()
    volume.write_file("/d/file", content(5000))
    usage = volume.usage()
    assert (usage.used_bytes, usage.used_inodes) == (8192 + 4096, 2)
    summary = volume.summary("/")
    assert (summary.files, summary.directories, summary.length) == (1, 2, 5000)


def test_explain_tells_where_the_blocks_are(site, content):
    volume = site.open()
    volume.write_file("/file", content(3 * site.block))
    volume.warmup(["/file"], evict=True)
    volume.read_file("/file", 0, 10)
    volume.truncate("/file", 3 * site.block + 1000)
    layout = volume.explain("/file")
    assert [block.tier is not None for block in layout.blocks] == [True, False, False]
    assert (layout.requests, layout.request_bytes) == (2, 2 * site.block)
    assert (layout.hole_bytes, layout.cached_bytes) == (1000, site.block)
    assert json.dumps(layout.to_dict())


def test_warming_loads_checks_and_evicts(site, content):
    site.open(cache_size=0).write_files(
        [(f"/d/{number}", content(2 * site.block, number)) for number in range(5)]
    )
    volume = site.open(looped=True, max_downloads=2)
    seen: list[int] = []
    report = volume.warmup(["/d"], progress=lambda report: seen.append(report.files))
    assert (report.files, report.blocks, report.loaded_blocks) == (5, 10, 10)
    assert seen == [1, 2, 3, 4, 5, 5]
    assert volume.warmup(["/d", "/d/1"], check=True).cached_blocks == 10  # each once
    asked = site.store(volume).calls["get"]
    assert volume.read_file("/d/3") == content(2 * site.block, 3)
    assert site.store(volume).calls["get"] == asked
    assert volume.warmup(["/d"], evict=True).evicted_blocks == 10
    assert volume.warmup(["/d"], check=True).cached_blocks == 0


def test_an_interrupted_or_failed_warm_up_leaves_nothing_on_its_way(site, content):
    site.open(cache_size=0).write_file("/d/file", content(4 * site.block))
    volume = site.open()
    with pytest.raises(FileNotFoundError):
        volume.warmup(["/d", "/none"])
    assert volume.parts().blocks.loading_bytes == 0
    volume.warmup(["/d"], evict=True)
    site.store(volume).fail("get", [site.store(volume).calls["get"] + 2])
    report = volume.warmup(["/d"])
    assert (report.loaded_blocks, len(report.errors)) == (3, 1)
    assert volume.parts().blocks.loading_bytes == 0


def test_a_range_is_copied_by_its_records(site):
    volume = site.open()
    content = bytes(range(256)) * 1024
    volume.write_file("/from", content)
    volume.write_file("/to", b"x" * 1000)
    stored = sorted(site.objects.rglob("*_*_*"))
    assert volume.copy_range("/from", 70_000, "/to", 500, 100_000) == 100_000
    assert volume.read_file("/to") == b"x" * 500 + content[70_000:170_000]
    assert volume.copy_range("/from", len(content) - 7, "/to", 0, 100) == 7
    assert sorted(site.objects.rglob("*_*_*")) == stored
    assert volume.fsck(sync_dir_stat=True).ok
