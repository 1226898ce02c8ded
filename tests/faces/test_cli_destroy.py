"""The command ``destroy``: what it removes, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from juicecache import format_volume, open_volume
from juicecache.config import list_volumes
from juicecache.faces.cli.main import main
from juicecache.objects.build import StoreConfig, open_store
from juicecache.runtime import start
from juicecache.testing.engines import SHARED_KINDS
from juicecache.testing.faults import FaultyStore
from juicecache.testing.official import SharedVolume
from juicecache.volume import destroying
from juicecache.volume.gc import list_page
from juicecache.volume.parts import store_config
from juicecache.volume.status import stored_setting


class Runner:
    """Runs ``destroy`` in this process, where nobody can be asked."""

    def __init__(self, shared: SharedVolume, capsys: pytest.CaptureFixture[str]) -> None:
        self.shared = shared
        self._capsys = capsys

    @property
    def uuid(self) -> str:
        setting = stored_setting(self.shared.meta)
        assert setting is not None
        return setting.uuid

    def __call__(self, uuid: str, *words: str, code: int = 0) -> tuple[str, str]:
        found = main(["destroy", self.shared.meta, uuid, *words])
        out, err = self._capsys.readouterr()
        assert (found, "Traceback" in err) == (code, False), out + err
        return out, err

    def json(self, uuid: str, *words: str) -> Any:
        return json.loads(self(uuid, *words, "--json")[0])


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture
def destroy(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Runner:
    """A volume of three files, of which one was removed into the trash."""
    monkeypatch.setenv("JUICECACHE_CONFIG", str(tmp_path / "volumes.toml"))
    shared = SharedVolume(tmp_path, engine=kind)
    shared.format_ours()
    with shared.open() as volume:
        for name in ("one", "two", "three"):
            volume.write_file(f"/d/{name}", name.encode() * 1000)
        volume.unlink("/d/two")
    return Runner(shared, capsys)


def objects(destroy: Runner) -> list[str]:
    bucket = destroy.shared.folder / "bucket"
    return [str(path) for path in bucket.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_a_destroyed_volume_leaves_nothing(destroy: Runner, tmp_path: Path) -> None:
    other = tmp_path / "bucket" / "shared-with-others" / "file"
    other.parent.mkdir()
    other.write_text("theirs")
    uuid = destroy.uuid
    done = destroy.json(uuid, "--yes")
    assert (done["name"], done["objects"], done["bytes"]) == ("shared", 3, 11_000)
    assert objects(destroy) == [str(other)]
    assert os.listdir(tmp_path / "bucket") == ["shared-with-others"]
    assert stored_setting(destroy.shared.meta) is None
    assert "holds no volume" in destroy(uuid, "--yes", code=1)[1]
    destroy.shared.format_theirs()
    with destroy.shared.open() as volume:
        assert volume.list_directory("/") == []
        assert volume.usage().used_inodes == 0


def test_what_was_not_meant_is_refused(destroy: Runner) -> None:
    before = objects(destroy)
    assert "has another UUID" in destroy("0" * 36, "--yes", code=1)[1]
    error = destroy(destroy.uuid, code=1)[1]
    assert "will be gone for ever" in error
    assert "--yes goes on all the same" in error
    assert objects(destroy) == before
    with destroy.shared.open() as volume:
        assert volume.read_file("/d/one") == b"one" * 1000


def test_a_volume_in_use_is_refused(destroy: Runner) -> None:
    with destroy.shared.open() as volume:
        volume.parts().meta.presence.ensure_session()
        assert "1 clients use the volume" in destroy(destroy.uuid, "--yes", code=1)[1]
        assert volume.read_file("/d/one") == b"one" * 1000
    destroy(destroy.uuid, "--yes")


def test_a_volume_that_the_official_client_mounts_is_refused(destroy: Runner) -> None:
    with destroy.shared.mounted():
        assert "1 clients use the volume" in destroy(destroy.uuid, "--yes", code=1)[1]
    assert objects(destroy)


def test_objects_of_another_volume_stay(destroy: Runner, tmp_path: Path) -> None:
    identity = tmp_path / "bucket" / "shared" / "juicefs_uuid"
    identity.write_text("another")
    assert "objects of another volume" in destroy(destroy.uuid, "--yes", code=1)[1]
    assert len(objects(destroy)) == 4


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("when", ["objects", "metadata"])
def test_what_was_interrupted_goes_on(
    destroy: Runner, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def interrupt(report: destroying.DestroyReport) -> None:
        if when == "objects" or report.entries:
            raise KeyboardInterrupt

    uuid = destroy.uuid
    with pytest.raises(KeyboardInterrupt):
        destroying.destroy_volume(
            destroy.shared.meta, uuid, confirm=lambda _: True, progress=interrupt
        )
    assert destroy.uuid == uuid
    destroy(uuid, "--yes")
    assert objects(destroy) == []
    assert stored_setting(destroy.shared.meta) is None


def test_metadata_stays_as_long_as_objects_do(
    destroy: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_faulty(config: StoreConfig) -> FaultyStore:
        store = FaultyStore(open_store(config))
        store.fail("delete", [2])
        return store

    uuid = destroy.uuid
    with monkeypatch.context() as patched:
        patched.setattr(destroying, "open_store", open_faulty)
        assert "1 objects could not be removed" in destroy(uuid, "--yes", code=1)[1]
    assert len(objects(destroy)) == 2  # and the volume's identity
    assert destroy.json(uuid, "--yes")["objects"] == 1
    assert objects(destroy) == []


def test_objects_on_s3(
    s3_place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUICECACHE_CONFIG", str(s3_place.folder / "volumes.toml"))
    with open_volume(s3_place.meta, cache_size="0") as volume:
        for number in range(30):
            volume.write_file(f"/{number}", b"x")
        uuid, config = volume.setting.uuid, store_config(volume.setting, volume.options)
        prefix = f"{volume.setting.name}/"
    assert main(["destroy", s3_place.meta, uuid, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 30
    store = open_store(config)
    assert start(list_page(store, prefix, ""), inline=False).result() == []
    start(store.aclose(), inline=False).result()


def test_a_bucket_that_is_gone_wants_force(destroy: Runner, tmp_path: Path) -> None:
    os.rename(tmp_path / "bucket", tmp_path / "elsewhere")
    assert "does not exist" in destroy(destroy.uuid, "--yes", code=1)[1]
    destroy(destroy.uuid, "--force")
    assert stored_setting(destroy.shared.meta) is None


def test_the_name_goes_off_the_list(destroy: Runner, tmp_path: Path) -> None:
    meta = f"sqlite3://{tmp_path}/listed.db"
    uuid = format_volume(meta, "listed", bucket=f"{tmp_path}/bucket").uuid
    assert "listed" in list_volumes()
    assert main(["destroy", "listed", uuid, "--yes"]) == 0
    assert "listed" not in list_volumes()
