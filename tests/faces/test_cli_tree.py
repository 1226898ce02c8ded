"""The commands ``compact`` and ``rmr``: by places and by paths behind a metadata URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from juicecache import open_volume
from juicecache.faces.cli.main import main
from juicecache.testing.official import SharedVolume
from juicecache.volume.compacting import fragmented_chunks
from juicecache.volume.volume import Volume

PARTS = [bytes([number]) * 1000 for number in range(5)]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedVolume:
    """A volume with ``/a/parts`` and ``/b/parts``, of five slices each, and ``/b/whole``."""
    monkeypatch.setenv("JUICECACHE_CONFIG", str(tmp_path / "volumes.toml"))
    shared = SharedVolume(tmp_path)
    shared.format_ours(trash_days=1)
    with shared.open() as volume:
        volume.write_file("/b/whole", b"whole")
        for path in ("/a/parts", "/b/parts"):
            volume.write_file(path, PARTS[0])
            for part in PARTS[1:]:
                with volume.open(path, "ab") as file:
                    file.write(part)
    return shared


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[Any, str]:
    found = main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert (found, "Traceback" in err) == (code, False), out + err
    return json.loads(out) if out else None, err


def fragments(volume: Volume, path: str) -> int:
    return len(fragmented_chunks(volume.parts(), volume.stat(path).inode))


def test_compact_merges_what_is_at_and_below_the_paths(
    shared: SharedVolume, capsys: pytest.CaptureFixture[str]
) -> None:
    done, _ = run(capsys, "compact", shared.meta, "/a/parts", "/b/whole", "-p", 2)
    assert done == {"compacted_chunks": 1}
    with shared.open() as volume:
        assert (fragments(volume, "/a/parts"), fragments(volume, "/b/parts")) == (0, 1)
    meta = ("--meta", shared.meta)
    place = f"juicecache://{shared.name}/"
    assert run(capsys, "compact", place, *meta)[0] == {"compacted_chunks": 1}
    assert run(capsys, "compact", place, *meta)[0] == {"compacted_chunks": 0}
    with shared.open() as volume:
        for path in ("/a/parts", "/b/parts"):
            assert fragments(volume, path) == 0
            assert volume.read_file(path) == b"".join(PARTS)
    assert "/nothing" in run(capsys, "compact", shared.meta, "/nothing", code=1)[1]


def test_rmr_removes_trees_and_files(
    shared: SharedVolume, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "rmr", shared.meta, "/a", "-p", 8)[0] == {"removed": 2}
    with open_volume(shared.meta, cache_size="0") as volume:
        assert volume.list_directory("/.trash"), "what was removed is kept"
        kept = volume.usage().used_inodes
    place = f"juicecache://{shared.name}/b"
    meta = ("--meta", shared.meta)
    assert run(capsys, "rmr", f"{place}/whole", place, *meta, "--skip-trash")[0] == {"removed": 3}
    with open_volume(shared.meta, cache_size="0") as volume:
        assert volume.list_directory("/") == []
        assert volume.usage().used_inodes == kept - 3
    assert shared.run("fsck", shared.meta)
    assert "/b" in run(capsys, "rmr", shared.meta, "/b", code=1)[1]


@pytest.mark.parametrize("command", ["compact", "rmr"])
def test_what_names_no_path_is_refused(
    shared: SharedVolume, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert "name the paths" in run(capsys, command, shared.meta, code=1)[1]
    assert "begin with '/'" in run(capsys, command, shared.meta, "relative", code=1)[1]


def test_rmr_leaves_the_root_alone(
    shared: SharedVolume, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ((shared.meta, "/"), (f"juicecache://{shared.name}/", "--meta", shared.meta)):
        assert "the whole volume" in run(capsys, "rmr", *words, code=1)[1]
    with shared.open() as volume:
        assert [entry.name for entry in volume.list_directory("/")] == ["a", "b"]
