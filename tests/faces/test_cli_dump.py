"""The commands ``dump`` and ``load``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from juicecache import format_volume, open_volume
from juicecache.config import list_volumes, remember_volume
from juicecache.faces.cli.main import main


@pytest.fixture
def meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        access_key="access",
        secret_key="hidden-key",
        remember=False,
    )
    with open_volume(meta, cache_size="0") as volume:
        volume.write_file("/deep/f", b"content")
    return meta


def test_a_volume_moves(meta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump, target = tmp_path / "dump.json.gz", f"sqlite3://{tmp_path}/target.db"
    assert main(["dump", meta, str(dump), "--keep-secret-key", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["entries"], told["file_bytes"]) == (2, dump.stat().st_size)
    assert told["text_bytes"] == len(gzip.decompress(dump.read_bytes()))
    remember_volume("volume", meta)
    assert main(["load", target, str(dump)]) == 0
    out, note = capsys.readouterr()
    assert "volume volume: loaded 2 entries" in out
    assert f"leads here now, and no longer to {meta}; nobody may use that" in note
    assert "dump has no" not in out
    assert list_volumes()["volume"] == target
    assert main(["cat", "juicecache://volume/deep/f"]) == 0
    assert capsys.readouterr().out == "content"
    assert main(["load", target, str(dump)]) == 1
    assert "already holds the volume 'volume'" in capsys.readouterr().err


def test_the_output_is_the_dump(
    meta: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["dump", meta, "--subdir", "/deep", "--skip-trash", "--threads", "4"]) == 0
    document = json.loads(capsysbinary.readouterr().out)
    assert list(document["FSTree"]["entries"]) == ["f"]
    assert document["Setting"]["SecretKey"] == "removed"


def test_missing_secrets_are_told(
    meta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", meta, str(tmp_path / "dump.json")]) == 0
    assert main(["load", f"sqlite3://{tmp_path}/target.db", str(tmp_path / "dump.json")]) == 0
    assert (
        "the dump has no secret_key: store it with 'juicecache config'" in capsys.readouterr().out
    )


@pytest.mark.parametrize("content", [b"", b"not JSON", b"{}", b'{"Setting": {}}'])
def test_what_is_no_dump_is_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump.json").write_bytes(content)
    assert main(["load", f"sqlite3://{tmp_path}/target.db", str(tmp_path / "dump.json")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "dump" in err or "setting record" in err


def test_a_missing_file_and_directory_are_named(
    meta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", f"sqlite3://{tmp_path}/target.db", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
    assert main(["dump", meta, str(tmp_path / "dump.json"), "--subdir", "/none"]) == 1
    assert "/none" in capsys.readouterr().err
    assert not list(tmp_path.glob("dump.json*"))
