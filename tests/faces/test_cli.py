"""The command line: each command, its JSON, its errors and exit codes; no secret in any output."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from juicecache.faces.cli.main import main

SECRET = "hunter2-hunter2"
BIG = os.urandom(9_000_000)
COMMANDS = (
    *("format", "status", "stats", "info", "summary", "explain", "ls", "cat", "rm", "cp"),
    *("warmup", "gc", "fsck", "bench", "demo"),
)


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's list and cache in the test's folder, and keys that must never be seen."""
    for name in ("JUICECACHE_META", "META_PASSWORD", "ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("JUICECACHE_CONFIG", str(tmp_path / "volumes.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command in this process; whatever it is, it prints no secret."""

    def call(*words: object) -> Ran:
        code = main([str(word) for word in words])
        out, err = capsysbinary.readouterr()
        assert SECRET.encode() not in out + err
        assert b"Traceback" not in err
        return Ran(code, out.decode(), err.decode())

    return call


@pytest.fixture
def meta(tmp_path: Path) -> str:
    return f"sqlite3://{tmp_path}/meta.db"


@pytest.fixture
def volume(run: Run, meta: str, tmp_path: Path) -> str:
    """Format the volume ``photos`` with some files; return its root."""
    done = run("format", meta, "photos", "--bucket", tmp_path / "bucket")
    assert done.code == 0, done.err
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "small.txt").write_bytes(b"one\ntwo\n")
    (source / "a" / "b" / "big.bin").write_bytes(BIG)
    (source / "a" / "link").symlink_to("small.txt")
    assert run("cp", "-r", source, "juicecache://photos/").code == 0
    return "juicecache://photos"


def python(*words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "juicecache", *words],
        capture_output=True,
        env={**os.environ, **variables},
        timeout=60,
        check=False,
    )


# ---------------------------------------------------------------------- format


def test_format_tells_how_to_use_the_volume(run: Run, meta: str, tmp_path: Path) -> None:
    done = run("format", meta, "photos", "--bucket", tmp_path / "b", "--json")
    assert done.code == 0
    assert done.json["outcome"] == "formatted"
    assert done.json["Setting"]["Name"] == "photos"
    assert done.json["Setting"]["SecretKey"] == "removed"
    assert run("ls", "juicecache://photos/").code == 0


def test_format_reads_sizes_as_the_official_client(run: Run, meta: str, tmp_path: Path) -> None:
    words = ("--bucket", tmp_path / "b", "--block-size", 1024, "--capacity", 3, "--inodes", 99)
    setting = run("format", meta, "photos", *words, "--compress", "lz4", "--json").json["Setting"]
    assert setting["BlockSize"] == 1024
    assert setting["Capacity"] == 3 << 30
    assert setting["Inodes"] == 99
    assert setting["Compression"] == "lz4"


def test_format_again_changes_what_may_change(run: Run, volume: str, meta: str) -> None:
    same = run("format", meta, "photos", "--json").json
    assert same["outcome"] == "unchanged"
    kept = run("format", meta, "photos", "--trash-days", 7, "--no-update", "--json").json
    assert (kept["outcome"], kept["Setting"]["TrashDays"]) == ("unchanged", 1)
    changed = run("format", meta, "photos", "--trash-days", 7, "--inodes", 50, "--json").json
    assert changed["outcome"] == "updated"
    setting = run("status", "photos", "--json").json["Setting"]
    assert (setting["TrashDays"], setting["Inodes"]) == (7, 50)


def test_format_with_the_same_folder_changes_nothing(
    run: Run, volume: str, meta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("format", meta, "photos", "--bucket", "bucket", "--json").json["outcome"] == (
        "unchanged"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("photos", "--block-size", "1M"), "--block-size cannot be changed"),
        (("photos", "--compress", "lz4"), "--compress cannot be changed"),
        (("videos",), "already holds the volume 'photos'"),
    ],
)
def test_format_refuses_what_is_fixed(
    run: Run, volume: str, meta: str, words: tuple[str, ...], complaint: str
) -> None:
    done = run("format", meta, *words)
    assert done.code == 1
    assert done.err.startswith("juicecache: error: ")
    assert complaint in done.err
    assert done.err.count("\n") == 1


def test_a_password_in_an_address_is_masked(run: Run) -> None:
    done = run("status", f"postgres://user:{SECRET}@localhost/db")
    assert done.code == 1
    assert "localhost" in done.err
    assert SECRET not in done.err


@pytest.mark.service
def test_the_official_client_accepts_a_formatted_volume(
    run: Run, volume: str, meta: str, tmp_path: Path
) -> None:
    from juicecache.testing.servers import run_juicefs

    status = json.loads(run_juicefs("status", meta).stdout)
    assert status["Setting"]["Name"] == "photos"
    ours = run("status", meta).json
    assert ours["Setting"] == status["Setting"]
    assert ours["Stat"]["UsedSpace"] == status["Stat"]["UsedSpace"]
    assert ours["Stat"]["UsedInodes"] == status["Stat"]["UsedInodes"]
    run_juicefs("fsck", meta)


# ---------------------------------------------------------------------- looking


def test_status_is_json_like_the_official_one(run: Run, volume: str, meta: str) -> None:
    for address in ("photos", meta, "juicecache://photos/"):
        status = run("status", address).json
        assert set(status) == {"Setting", "Sessions", "Stat"}
        assert status["Stat"]["UsedInodes"] == 6
        assert status["Stat"]["AvailableInodes"] is None
        assert run("status", address, "--json").json == status


def test_status_lists_sessions(run: Run, volume: str, meta: str) -> None:
    import juicecache

    opened = juicecache.open_volume(meta, cache_size=0)
    try:
        with opened.open("/source/a/small.txt") as file:
            # Held open without a name: that needs a session.
            opened.remove_tree("/source/a/small.txt", skip_trash=True)
            (session,) = run("status", "photos").json["Sessions"]
            assert file.read() == b"one\ntwo\n"
    finally:
        opened.close()
    assert session["ProcessID"] == os.getpid()
    assert session["Sid"] > 0
    assert run("status", "photos").json["Sessions"] == []


def test_stats(run: Run, volume: str) -> None:
    stats = run("stats", "photos", "--json").json
    assert stats["usage"]["used_inodes"] == 6
    assert stats["tiers"][0]["items"] == 4
    assert "used: 8.6 MiB of no limit, 6 inodes" in run("stats", "photos").out


def test_info(run: Run, volume: str) -> None:
    info = run("info", f"{volume}/source/a/b/big.bin", "--json").json
    assert (info["type"], info["length"]) == ("file", len(BIG))
    assert sum(one["used_bytes"] for one in info["objects"]) == len(BIG)
    assert "photos/chunks/" in run("info", f"{volume}/source/a/b/big.bin").out
    assert run("info", f"{volume}/source", "--json").json["summary"]["files"] == 3


def test_summary_sums_up_below_the_depth(run: Run, volume: str) -> None:
    top = run("summary", f"{volume}/", "--depth", 1, "--json").json
    assert (top["files"], top["directories"]) == (3, 4)
    assert [child["path"] for child in top["children"]] == ["/source"]
    assert top["children"][0]["length"] == len(BIG) + 8 + len("small.txt")
    assert top["children"][0]["children"] == []
    cut = run("summary", f"{volume}/source/a", "--entries", 1, "--json").json
    assert [child["type"] for child in cut["children"]] == ["directory", "others"]
    assert cut["children"][1]["files"] == 2
    assert "/source/a" in run("summary", f"{volume}/").out


def test_explain_and_warmup_see_the_cache(run: Run, volume: str) -> None:
    path = f"{volume}/source/a/b/big.bin"
    assert run("explain", path, "--json").json["requests"] == 0
    assert run("warmup", f"{volume}/", "--evict", "--json").json["evicted_blocks"] == 4
    layout = run("explain", path, "--json").json
    assert (layout["requests"], layout["request_bytes"]) == (3, len(BIG))
    assert "3 requests to object storage" in run("explain", path).out
    assert run("warmup", "--check", path, "--json").json["cached_blocks"] == 0
    assert run("warmup", path, "-p", "2", "--json").json["loaded_blocks"] == 3
    assert "3 blocks (8.6 MiB) in the cache" in run("warmup", "--check", path).out


def test_a_warmup_of_more_than_the_cache_holds_fails(run: Run, volume: str) -> None:
    assert run("warmup", f"{volume}/", "--evict").code == 0
    found = run("warmup", f"{volume}/", "--cache-size", "512KiB")
    assert found.code == 1
    assert "the cache is too small: 3 of these blocks did not stay in it" in found.out
    assert "quota (cache_size) is 0.5 MiB" in found.out


def test_warmup_takes_a_list_and_reports_lost_objects(
    run: Run, volume: str, tmp_path: Path
) -> None:
    listed = tmp_path / "list"
    listed.write_text(f"{volume}/source/a/small.txt\n{volume}/source/a/b\n")
    assert run("warmup", "-f", listed, "--json").json["files"] == 2
    assert run("warmup").code == 1
    run("warmup", "--evict", f"{volume}/")
    for file in (tmp_path / "bucket").rglob("*_8"):
        file.unlink()
    done = run("warmup", "-f", listed, "--json")
    assert done.code == 1
    assert len(done.json["errors"]) == 1


# ---------------------------------------------------------------------- files


def test_ls(run: Run, volume: str) -> None:
    assert run("ls", f"{volume}/source/a").out.split() == ["b", "link", "small.txt"]
    entries = run("ls", f"{volume}/source/a", "--json").json
    assert {e["name"]: e["type"] for e in entries} == {
        "b": "directory",
        "link": "symlink",
        "small.txt": "file",
    }
    assert entries[1]["target"] == "small.txt"
    lines = run("ls", "-l", f"{volume}/source/a").out.splitlines()
    assert lines[0].startswith("drwx")
    assert lines[1].endswith("link -> small.txt")
    assert run("ls", f"{volume}/source/a/small.txt").out == "small.txt\n"


def test_cat(run: Run, volume: str) -> None:
    paths = [f"{volume}/source/a/small.txt", f"{volume}/source/a/link"]
    assert run("cat", *paths).out == "one\ntwo\none\ntwo\n"
    (one,) = run("cat", f"{volume}/source/a/b/big.bin", "--json").json
    assert base64.b64decode(one["base64"]) == BIG


def test_cp_comes_back_the_same(run: Run, volume: str, tmp_path: Path) -> None:
    done = run("cp", "-r", f"{volume}/source", tmp_path / "back", "--json")
    assert done.json == {"files": 3, "directories": 3, "bytes": len(BIG) + 8 + len("small.txt")}
    assert (tmp_path / "back/a/b/big.bin").read_bytes() == BIG
    assert (tmp_path / "back/a/small.txt").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "back/a/link").readlink() == Path("small.txt")


def test_cp_inside_a_volume_moves_no_byte(run: Run, volume: str, tmp_path: Path) -> None:
    objects = sorted((tmp_path / "bucket").rglob("*"))
    assert run("cp", "-r", f"{volume}/source", f"{volume}/copy").code == 0
    assert sorted((tmp_path / "bucket").rglob("*")) == objects
    assert run("cat", f"{volume}/copy/a/link").out == "one\ntwo\n"


def test_cp_into_directories_and_over_files(run: Run, volume: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    assert run("cp", one, two, f"{volume}/source/").code == 0
    assert run("cat", f"{volume}/source/two").out == "22"
    assert run("cp", two, f"{volume}/source/one").code == 0
    assert run("cp", f"{volume}/source/one", tmp_path).code == 0
    assert one.read_bytes() == b"22"
    assert run("cp", one, f"{volume}/new/deep/name").code == 0
    assert run("cat", f"{volume}/new/deep/name").out == "22"
    assert run("cp", f"{volume}/source/a/b/big.bin", f"{volume}/source/one").code == 0
    assert run("info", f"{volume}/source/one", "--json").json["length"] == len(BIG)


def test_cp_between_volumes(run: Run, volume: str, tmp_path: Path) -> None:
    meta = f"sqlite3://{tmp_path}/other.db"
    assert run("format", meta, "other", "--bucket", tmp_path / "bucket2").code == 0
    assert run("cp", "-r", f"{volume}/source", "juicecache://other/").code == 0
    assert run("cat", "juicecache://other/source/a/small.txt").out == "one\ntwo\n"


@pytest.mark.parametrize(
    "words",
    [
        ("{v}/source", "{t}/x"),  # a directory without -r
        ("{t}/nothing", "{v}/x"),
        ("{v}/nothing", "{t}/x"),
        ("{t}/source", "{t}/x"),  # no volume at all
        ("-r", "{v}/source", "{v}/source/a/b"),  # into itself
        ("{v}/source/a/small.txt", "{v}/source/a/small.txt"),
        ("{v}/source/a/small.txt", "{v}/source/a/link", "{v}/nowhere"),
        ("{v}/source",),
    ],
)
def test_cp_refuses(run: Run, volume: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run("cp", *(word.format(v=volume, t=tmp_path) for word in words))
    assert done.code == 1
    assert done.err.startswith("juicecache: error: ")
    assert not (tmp_path / "x").exists()


def test_rm(run: Run, volume: str) -> None:
    refused = run("rm", f"{volume}/source")
    assert (refused.code, refused.out) == (1, "")
    assert "--recursive" in refused.err
    assert run("rm", f"{volume}/source/a/link").code == 0
    assert run("rm", "-r", "--skip-trash", f"{volume}/source", "--json").json == {"removed": 5}
    assert run("ls", f"{volume}/").out == ""
    assert run("rm", f"{volume}/source").code == 1
    assert run("rm", "-f", f"{volume}/source").code == 0
    assert "whole volume" in run("rm", "-r", f"{volume}/").err


def test_a_copy_that_is_run_again_lands_in_the_same_place(
    run: Run, volume: str, tmp_path: Path
) -> None:
    for _ in range(2):
        assert run("cp", "-r", tmp_path / "source", f"{volume}/x/").code == 0
        assert run("ls", f"{volume}/x").out.split() == ["source"]
        assert run("ls", f"{volume}/x/source").out.split() == ["a"]


# ---------------------------------------------------------------------- upkeep


def test_gc_finds_and_removes_leaked_objects(run: Run, volume: str, tmp_path: Path) -> None:
    folder = next((tmp_path / "bucket").rglob("*_8")).parent
    leaked = folder / "99_0_4"
    leaked.write_bytes(b"leak")
    os.utime(leaked, (1, 1))
    done = run("gc", "photos", "--json")
    assert done.code == 0
    assert done.json
    assert leaked.exists()
    assert "--delete" in run("gc", "photos").out
    assert run("gc", "photos", "--delete", "--compact").code == 0
    assert not leaked.exists()
    assert run("fsck", "photos").code == 0


def test_gc_says_why_objects_are_skipped(run: Run, volume: str, tmp_path: Path) -> None:
    folder = next((tmp_path / "bucket").rglob("*_8")).parent
    assert "skipped:" not in run("gc", "photos").out
    (folder / "99_0_4").write_bytes(b"leak")
    assert "skipped: younger than 60 minutes" in run("gc", "photos", "--delete").out
    assert "younger than an hour" in " ".join(run("gc", "--help").out.split())


def test_fsck_tells_damage_by_its_exit_code(run: Run, volume: str, tmp_path: Path) -> None:
    whole = run("fsck", "photos", "--json")
    assert (whole.code, whole.json["ok"]) == (0, True)
    next((tmp_path / "bucket").rglob("*_8")).unlink()
    damaged = run("fsck", "photos", "--json")
    assert (damaged.code, damaged.json["ok"]) == (1, False)
    assert "small.txt" in run("fsck", "photos").out
    assert run("fsck", "photos", "--path", "/source/a/b", "-r").code == 0
    assert run("fsck", "photos", "--path", "/source/a/b", "--repair", "--sync-dir-stat").code == 0


# ---------------------------------------------------------------------- bench


@pytest.mark.parametrize("place", ["volume", "local"])
def test_bench_measures_and_leaves_nothing(
    run: Run, volume: str, tmp_path: Path, place: str
) -> None:
    (tmp_path / "empty").mkdir()
    path = f"{volume}/" if place == "volume" else tmp_path / "empty"
    words = ("--big-file-size", 3, "--small-file-count", 2, "--small-file-size", 5, "-p", 2)
    results = run("bench", path, *words, "--json").json["results"]
    assert [(r["item"], r["files"], r["bytes"]) for r in results] == [
        ("write big file", 2, 6 << 20),
        ("read big file", 2, 6 << 20),
        ("write small file", 4, 4 * 5 << 10),
        ("read small file", 4, 4 * 5 << 10),
        ("stat file", 4, 0),
    ]
    assert "files/s" in run("bench", path, "--big-file-size", 0, "--small-file-count", 1).out
    assert run("ls", f"{volume}/").out == "source\n"
    assert list((tmp_path / "empty").iterdir()) == []


# ---------------------------------------------------------------------- the program


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("ls",),
        ("ls", "/local/path"),
        ("ls", "s3://bucket/x"),
        ("ls", "juicecache://photos/", "--cache-size", "much"),
        ("ls", "juicecache://photos/", "--cache-eviction", "magic"),
        ("ls", "juicecache://photos/", f"--secret-kye={SECRET}"),
        ("ls", "juicecache://photos/", "--secret-kye", SECRET),
        ("ls", "--secret-kye", SECRET, "juicecache://photos/"),
        ("status", "--secret-kye", SECRET, "photos"),
        ("ls", "juicecache://photos/", "--meta", f"oracle://u:{SECRET}@h/db"),
        ("status", f"redis://:{SECRET}@/1"),
        ("status", "no/such.db"),
        ("bench", "/tmp", "--threads", "0"),
        ("format", "sqlite3:///x.db", "photos", "--compress", "gzip"),
        ("warmup", "--check", "--evict", "juicecache://photos/"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("juicecache: error: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("status", "sqlite3:///nowhere/meta.db"),
        ("status", "unknown"),
        ("ls", "juicecache://unknown/"),
        ("cat", "{v}/nothing"),
        ("cat", "{v}/source"),
        ("info", "{v}/nothing"),
        ("summary", "{v}/nothing"),
        ("explain", "{v}/source"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(
    run: Run, volume: str, words: tuple[str, ...]
) -> None:
    done = run(*(word.format(v=volume) for word in words), *(["--json"] if "cat" in words else []))
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("juicecache: error: ")
    assert done.err.count("\n") == 1


def test_an_error_moves_no_cursor(run: Run, volume: str) -> None:
    assert "\x1b" not in run("cat", f"{volume}/\x1b[2J").err


def test_a_name_that_is_no_text_survives(run: Run, volume: str, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / odd).write_bytes(b"x")
    assert run("cp", tmp_path / odd, f"{volume}/source/").code == 0
    assert b"caf\xe9\n" in python("ls", f"{volume}/source").stdout


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_terminals_only(
    run: Run, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("warmup", f"{volume}/").err == ""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["warmup", f"{volume}/", "--json"]) == 0
    assert terminal.getvalue() == ""
    assert main(["warmup", f"{volume}/"]) == 0
    shown = terminal.getvalue()
    assert shown.startswith("\r1 files")
    assert shown.endswith(" \r")  # the line is taken away


def test_help_of_every_command(run: Run) -> None:
    top = run("--help")
    assert top.code == 0
    for name in COMMANDS:
        assert f"\n    {name} " in top.out
        help_of = run(name, "--help")
        assert help_of.code == 0
        assert "--json" in help_of.out


def test_options_of_the_volume_are_flags_and_secrets_are_not(run: Run) -> None:
    shown = run("cat", "--help").out
    for flag in ("--cache-dir", "--buffer-size", "--max-downloads", "--attr-cache", "--meta"):
        assert flag in shown
    for flag in ("--secret-key", "--session-token", "--access-key"):
        assert flag not in shown


def test_the_module_is_the_program(volume: str) -> None:
    import juicecache

    version = python("--version")
    assert version.stdout.decode() == f"juicecache {juicecache.__version__}\n"
    listed = python("ls", f"{volume}/source/a", "--cache-dir", "memory")
    assert (listed.returncode, listed.stdout) == (0, b"b\nlink\nsmall.txt\n")
    failed = python("cat", f"{volume}/nothing")
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr == b"juicecache: error: /nothing: No such file or directory\n"


def test_help_loads_neither_fsspec_nor_a_volume() -> None:
    code = (
        "import sys; from juicecache.faces.cli.main import main; main(['--help']); "
        "print(sorted(m for m in sys.modules if m in "
        "('fsspec', 'asyncio', 'aiobotocore', 'sqlite3', 'juicecache.volume.volume')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"


def test_a_reader_that_leaves_early_is_no_error(volume: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "juicecache", "cat", f"{volume}/source/a/b/big.bin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        assert reading.stdout.read(10) == BIG[:10]
        reading.stdout.close()
        assert reading.stderr.read() == b""
    assert reading.returncode == 141
