"""The command ``config``: what it shows and changes, and what it asks before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from juicecache.errors import NoSpaceError, VolumeFormatError
from juicecache.faces.cli.main import main
from juicecache.meta.rows import DirStats
from juicecache.model.setting import Setting
from juicecache.testing.official import SharedVolume
from juicecache.volume.quotas import QuotaOwner
from juicecache.volume.status import stored_setting

SECRET = "hunter2-hunter2"


@pytest.fixture(params=["sqlite", "redis"])
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SharedVolume:
    for name in ("ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    shared = SharedVolume(tmp_path, engine=request.param)
    shared.format_ours()
    return shared


class Runner:
    """Runs ``config`` in this process, where nobody can be asked."""

    def __init__(self, meta: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.meta = meta
        self._capsys = capsys

    def __call__(self, *words: object, code: int = 0) -> tuple[str, str]:
        found = main(["config", self.meta, *map(str, words)])
        out, err = self._capsys.readouterr()
        assert SECRET not in out + err
        assert (found, "Traceback" in err) == (code, False), out + err
        return out, err

    def json(self, *words: object) -> Any:
        return json.loads(self(*words, "--json")[0])


@pytest.fixture
def config(shared: SharedVolume, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(shared.meta, capsys)


def stored(shared: SharedVolume) -> Setting:
    setting = stored_setting(shared.meta)
    assert setting is not None
    return setting


CHANGES = (
    *("--trash-days", 7, "--capacity", 3, "--inodes", 1000, "--upload-limit", 50),
    *("--download-limit", 60, "--enable-acl", "--changelog", "--changelog-max-age", "30m"),
    *("--changelog-max-lines", 100, "--min-client-version", "1.2.0", "--user-group-quota"),
)


def test_every_flag_sets_what_the_official_client_shows(
    config: Runner, shared: SharedVolume
) -> None:
    assert config.json()["TrashDays"] == 1
    changed = config.json(*CHANGES)["changed"]
    assert changed["trash_days"] == [1, 7]
    assert changed["min_client_version"] == ["1.1.0-A", "1.2.0"]
    assert len(changed) == 11
    shown = shared.run("config", shared.meta)
    official = json.loads(shown[shown.index("{") : shown.rindex("}") + 1])
    wanted = {
        "TrashDays": 7,
        "Capacity": 3 << 30,
        "Inodes": 1000,
        "UploadLimit": 50,
        "DownloadLimit": 60,
        "EnableACL": True,
        "ChangeLog": True,
        "ChangeLogMaxAge": 1800,
        "ChangeLogMaxLines": 100,
        "MinClientVersion": "1.2.0",
        "UserGroupQuota": True,
    }
    assert {name: official[name] for name in wanted} == wanted
    assert config.json() == official
    assert "nothing to change" in config(*CHANGES)[0]
    shared.run("config", shared.meta, "--trash-days", "9")
    assert "trash-days: 9 -> 3" in config("--trash-days", 3)[0]


def test_a_running_client_takes_a_change_over_at_its_heartbeat(
    config: Runner, shared: SharedVolume
) -> None:
    with shared.open() as volume:
        volume.write_file("/one", b"")
        config("--inodes", 1, "--yes")
        volume.parts().meta.gate.refresh()  # as when a heartbeat has passed
        with pytest.raises(NoSpaceError):
            volume.write_file("/two", b"")
        config("--inodes", 0)
        volume.parts().meta.gate.refresh()
        volume.write_file("/two", b"")


def test_a_running_client_follows_its_objects(
    config: Runner, shared: SharedVolume, tmp_path: Path
) -> None:
    with shared.open() as volume:
        volume.write_file("/old", b"old")
        os.rename(tmp_path / "bucket", tmp_path / "moved")
        config("--bucket", tmp_path / "moved")
        volume.parts().meta.gate.refresh()
        assert volume.read_file("/old") == b"old"
        volume.write_file("/new", b"new")
        assert volume.fsck().ok
    assert not (tmp_path / "bucket").exists()


def test_what_takes_something_away_wants_a_yes(config: Runner, shared: SharedVolume) -> None:
    with shared.open() as volume:
        volume.write_file("/d/file", b"x")
        volume.set_quota(QuotaOwner("/d"), inodes_max=5)
    before = stored(shared)
    assert "the trash will be emptied" in config("--trash-days", 0, code=1)[1]
    assert "nothing can be written" in config("--inodes", 1, code=1)[1]
    assert "1 quotas of directories" in config("--dir-stats=false", code=1)[1]
    assert "as this one, will be rejected" in config("--max-client-version", "1.3", code=1)[1]
    assert stored(shared) == before
    assert "the trash will be emptied" in config("--trash-days", 0, "-y")[1]
    assert stored(shared).trash_days == 0


def test_directory_usage_is_counted_again_after_it_was_off(
    config: Runner, shared: SharedVolume
) -> None:
    with shared.open() as volume:
        volume.write_file("/d/file", b"x")
        volume.set_quota(QuotaOwner("/d"), inodes_max=5)
    config("--dir-stats=false", "--yes")
    with shared.open() as volume:
        assert volume.quotas() == []
        volume.write_file("/d/other", b"x")
    config("--dir-stats")
    with shared.open() as volume:
        assert volume.parts().engine.read(lambda tx: list(tx.scan(DirStats))) == []
        volume.write_file("/d/third", b"x")
        assert volume.fsck().ok
        inode = volume.stat("/d").inode
        row = volume.parts().engine.read(lambda tx: tx.get(DirStats, inode))
        assert row is not None
        assert row.used_inodes == 3
    shared.run("fsck", shared.meta)


def test_a_volume_that_locks_us_out_can_be_opened_again(
    config: Runner, shared: SharedVolume
) -> None:
    config("--max-client-version", "1.3", "--yes")
    with pytest.raises(VolumeFormatError, match="or older"):
        shared.open()
    config("--max-client-version", "")
    shared.open().close()


def test_keys_come_from_the_environment_alone(
    config: Runner, shared: SharedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESS_KEY", "somebody")
    assert "access-key:  -> somebody" in config("--access-key", "--secret-key")[0]
    assert (stored(shared).access_key, stored(shared).secret_key) == ("somebody", SECRET)
    assert config.json()["SecretKey"] == "removed"
    monkeypatch.delenv("SECRET_KEY")
    assert "secret-key" in config("--secret-key")[0]
    assert stored(shared).secret_key == ""


def test_a_bucket_is_tried_before_it_is_used(
    config: Runner, shared: SharedVolume, tmp_path: Path
) -> None:
    with shared.open() as volume:
        volume.write_file("/file", b"content")
    os.rename(tmp_path / "bucket", tmp_path / "moved")
    config("--bucket", tmp_path / "moved")
    with shared.open() as volume:
        assert volume.read_file("/file") == b"content"
    other = tmp_path / "other" / shared.name
    other.mkdir(parents=True)
    (other / "juicefs_uuid").write_text("another")
    assert "objects of another volume" in config("--bucket", other.parent, code=1)[1]
    assert stored(shared).bucket == f"{tmp_path}/moved/"
    (tmp_path / "plain").write_text("")
    config("--bucket", tmp_path / "plain", code=1)
    config("--bucket", tmp_path / "plain", "--force")
    assert stored(shared).bucket == f"{tmp_path}/plain/"


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("--min-client-version", "new"), 1, "not versions like 1.2.0"),
        (("--min-client-version", "1.4", "--max-client-version", "1.3"), 1, "no client is of"),
        (("--changelog-max-age", "old"), 2, "is not a time"),
        (("--storage", "s3"), 1, ""),
        (("--secret-key", SECRET), 2, "too many arguments"),
        (("--block-size", "1M"), 2, "unknown option --block-size"),
    ],
)
def test_wrong_usage(
    config: Runner, shared: SharedVolume, words: tuple[str, ...], code: int, complaint: str
) -> None:
    before = stored(shared)
    assert complaint in config(*words, code=code)[1]
    assert stored(shared) == before


def test_access_control_stays_on(config: Runner) -> None:
    config("--enable-acl")
    assert "cannot be switched off" in config("--enable-acl=false", code=1)[1]
