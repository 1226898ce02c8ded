"""``juicecache demo`` end to end, with small numbers."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from juicecache import Volume, format_volume
from juicecache.config import VolumeOptions
from juicecache.faces.cli import demo
from juicecache.faces.cli.main import main
from juicecache.volume.latency import Latency

SMALL = ["demo", "--files", "12", "--size", "3"]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary folders inside the test's, so that what is left behind is seen."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(demo, "_SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(demo, "_ROWS", 1000)
    monkeypatch.setenv("JUICECACHE_CONFIG", str(tmp_path / "volumes.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def left(folder: Path) -> list[Path]:
    return [
        *folder.glob("tmp/*"),
        *folder.glob("shm/*"),
        *folder.glob("cache/*"),
        *folder.glob("*.toml"),
    ]


def test_demo_measures_every_tier_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report["verified"] is True
    rows = {row["step"]: row for row in report["rows"]}
    assert rows["write, many at once"]["files"] == 12
    assert rows["cold, one at a time"]["object_requests"] > 0
    assert sum(rows[f"cold, {m}"]["files"] for m in ("one at a time", "many at once")) == 12
    for tier in ("directory", "memory"):
        for mode in ("one at a time", "many at once"):
            row = rows[f"{tier} tier, {mode}"]
            assert (row["files"], row["bytes"]) == (12, 12 * 3 << 10)
            assert row["object_requests"] == 0
    bare = rows["no cache, one at a time"]
    assert (bare["files"], bare["object_requests"]) == (12, 12)
    for step in ("peers, one at a time", "peers, many at once"):
        assert (rows[step]["files"], rows[step]["object_requests"]) == (12, 0)
    # The workers loaded each block once: as many requests as one client with a cache makes.
    cold = sum(rows[f"cold, {m}"]["object_requests"] for m in ("one at a time", "many at once"))
    assert rows["peers, which load, many at once"]["object_requests"] == cold
    times_ms = report["one_at_a_time_ms"]
    assert list(times_ms) == ["no cache", "peers", "directory tier", "memory tier"]
    assert times_ms["peers"] == rows["peers, one at a time"]["seconds"] / 12 * 1e3
    assert rows["pandas.read_parquet, cold"]["object_requests"] > 0
    assert rows["pandas.read_parquet, memory tier"]["object_requests"] == 0
    assert left(tmp_path) == []


def test_demo_for_people_says_what_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--latency", "5"]) == 0
    out = capsys.readouterr().out
    assert "directory tier, one at a time" in out
    assert "SIMULATED" in out
    assert "all equal" in out
    assert "one file at a time, from" in out
    assert main(SMALL) == 0
    assert "SIMULATED" not in capsys.readouterr().out


def test_latency_is_in_every_cold_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--latency", "30", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["simulated_latency_ms"] == 30
    cold = next(row for row in report["rows"] if row["step"] == "cold, one at a time")
    assert cold["seconds"] >= cold["object_requests"] * 0.03


def test_a_late_volume_stays_late_in_another_process(tmp_path: Path) -> None:
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, "late", bucket=str(tmp_path / "objects"), remember=False)
    options = VolumeOptions.from_options({"cache_size": 0})
    with Volume(meta, options, Latency(0.001)) as volume:
        volume.write_file("/x", b"content")
        with pickle.loads(pickle.dumps(volume)) as other:
            assert other.read_file("/x") == b"content"
            assert "simulated latency of 1 ms" in other.stats().storage


def test_demo_without_pandas_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert main(SMALL) == 0
    out = capsys.readouterr().out
    assert "pip install 'juicecache[pandas]'" in out
    assert "read_parquet" not in out


def test_workers_are_as_far_from_object_storage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--latency", "100", "--json"]) == 0
    rows = {row["step"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    loading = rows["peers, which load, many at once"]
    assert loading["object_requests"] > 0
    assert loading["seconds"] >= 0.1
    assert rows["peers, many at once"]["seconds"] < 0.1


def test_demo_without_members_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(demo.select, "epoll")
    assert main(SMALL) == 0
    out = capsys.readouterr().out
    assert "need Linux" in out
    assert "peers, one" not in out


def test_demo_keeps_the_volume_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--keep", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert main(["ls", "juicecache://demo/photos/000", "--meta", f"sqlite3://{kept}/meta.db"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_demo_tells_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))
    monkeypatch.setattr(demo, "_digest", lambda content: next(calls))  # never twice the same
    assert main(SMALL) == 1
    assert "expected what was written" in capsys.readouterr().err
    assert left(tmp_path) == []


@pytest.mark.parametrize("words", [("--files", "0"), ("--size", "2G"), ("--latency", "long")])
def test_demo_refuses_numbers_without_sense(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *words]) in (1, 2)
    assert capsys.readouterr().err.startswith("juicecache: error: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    program = (
        "import pathlib, signal, sys, tempfile; from juicecache.faces.cli import demo, main; "
        # A shell lets what it starts in the background ignore this one.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"tempfile.tempdir = {str(tmp_path / 'tmp')!r}; "
        f"demo._SHARED_MEMORY = pathlib.Path({str(tmp_path / 'shm')!r}); "
        "sys.exit(main.main(['demo', '--files', '200', '--latency', '1000']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith(b"content: 200 files")
        assert left(tmp_path) != []
        running.send_signal(number)
        assert running.wait(60) == code
    assert left(tmp_path) == []
