"""Making and changing a volume: as a whole or not at all, and never over another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from juicecache.config import VolumeOptions
from juicecache.errors import ConfigError, EngineUnavailableError, VolumeFormatError
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import SETTING, Record
from juicecache.model.setting import Setting
from juicecache.volume import formatting
from juicecache.volume.formatting import change_volume, format_volume
from juicecache.volume.volume import Volume


def change(site, **members) -> None:
    """Change members of the stored record, as another client may."""
    engine = SqliteEngine(site.folder / "meta.db")
    engine.put_setting(json.dumps(json.loads(engine.setting() or "") | members))
    engine.close()


class Refusing(MemoryEngine):
    """An engine that does something else just before the first transaction that writes."""

    def __init__(self, first) -> None:
        super().__init__()
        self.first = [first]

    def attempt(self, body, *, writable):
        if writable and self.first:
            self.first.pop()(self)
        return super().attempt(body, writable=writable)


def refuse(_engine) -> None:
    raise EngineUnavailableError("not now")


def test_a_failed_format_may_be_repeated(tmp_path):
    engine = Refusing(refuse)
    with pytest.raises(EngineUnavailableError):
        format_volume(engine, "again", bucket=str(tmp_path / "objects"))
    format_volume(engine, "again", bucket=str(tmp_path / "objects"))
    with Volume(engine, VolumeOptions.from_options({"cache_size": 0})) as volume:
        volume.write_file("/file", b"x")


def test_storage_that_fails_behind_a_failed_format_does_not_hide_why(tmp_path, caplog):
    def break_all(engine):
        shutil.rmtree(tmp_path / "objects")
        (tmp_path / "objects").write_bytes(b"no folder")
        refuse(engine)

    with pytest.raises(EngineUnavailableError, match="not now"):
        format_volume(Refusing(break_all), "again", bucket=str(tmp_path / "objects"))
    assert "again/juicefs_uuid is left behind" in caplog.text


def identity(folder: Path, name: str) -> str:
    return (folder / name / "juicefs_uuid").read_text()


@pytest.mark.parametrize("same_place", [False, True])
def test_of_two_formats_at_once_the_later_changes_nothing(tmp_path, same_place):
    """The other one finishes when all checks of this one are done."""
    place, other = tmp_path / "objects", tmp_path / ("objects" if same_place else "other")

    def overtake(engine):
        claimed = (other / "first" / "juicefs_uuid") if same_place else None
        if claimed is not None:
            claimed.unlink()  # as if both had looked before either stored it
        made.append(format_volume(engine, "first", bucket=str(other)))
        with Volume(engine, VolumeOptions.from_options({"cache_size": 0})) as volume:
            volume.write_file("/file", b"x")
        if claimed is not None:
            claimed.write_text(mine[0])

    mine, made = [], []
    claim = formatting._claim_storage
    engine = Refusing(overtake)

    def claiming(setting):
        mine.append(setting.uuid)
        claim(setting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formatting, "_claim_storage", claiming)
        with pytest.raises(ConfigError, match="already holds the volume 'first'"):
            format_volume(engine, "first" if same_place else "second", bucket=str(place))
    (setting,) = made
    assert Setting.parse(engine.setting()).uuid == setting.uuid == identity(other, "first")
    if not same_place:
        assert not (place / "second" / "juicefs_uuid").exists()
    with Volume(engine, VolumeOptions.from_options({"cache_size": 0})) as volume:
        assert volume.read_file("/file") == b"x"


def test_rows_without_a_record_are_not_planted_over(site):
    site.open().write_file("/file", b"x")
    engine = SqliteEngine(site.folder / "meta.db")
    text = engine.setting()
    engine.write(lambda tx: tx.delete(Record, SETTING))
    with pytest.raises(ConfigError, match="whose record is gone"):
        format_volume(engine, "other", bucket=str(site.folder / "elsewhere"))
    engine.put_setting(text)
    engine.close()
    assert site.open().read_file("/file") == b"x"


def test_a_folder_for_objects_is_kept_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meta = f"sqlite3://{tmp_path}/meta.db"
    setting = format_volume(meta, "placed", bucket="objects", remember=False)
    assert setting.bucket == f"{tmp_path}/objects/"
    assert change_volume(meta, bucket="other/../moved").bucket == f"{tmp_path}/moved/"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trash_days": -5}, "out of range"),
        ({"trash_days": 10**17}, "more than 36500"),
        ({"trash_days": True}, "trash_days is a int, not a bool"),
        ({"capacity_bytes": "10"}, "capacity_bytes is a int, not a str"),
        ({"capacity_bytes": 2**64}, "out of range"),
        ({"bucket": ""}, "needs a storage and a bucket"),
        ({"name": "other"}, "name cannot be changed"),
    ],
)
def test_a_change_that_no_client_would_accept_is_refused(site, fields, words):
    engine = SqliteEngine(site.folder / "meta.db")
    before = engine.setting()
    with pytest.raises(ConfigError, match=words):
        change_volume(engine, **fields)
    assert engine.setting() == before
    engine.close()


def test_a_newer_volume_is_not_changed(site):
    change(site, MetaVersion=2)
    with pytest.raises(VolumeFormatError, match="version 2"):
        change_volume(site.meta, trash_days=3)


def test_secrets_are_not_sealed_in_a_form_that_the_volume_does_not_use(site):
    change(site, EncryptAlgo="sm4gcm")
    assert change_volume(site.meta, trash_days=3).trash_days == 3
    with pytest.raises(ConfigError, match="SM4"):
        change_volume(site.meta, secret_key="secret")
