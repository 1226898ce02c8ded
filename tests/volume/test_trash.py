"""The trash: listed, and put back where it was."""

from __future__ import annotations

import json

import pytest

from juicecache.errors import FileError
from juicecache.faces.cli.main import main
from juicecache.meta.restoring import parse_trash_name
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.oracle import sums_wrong
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import open_volume


@pytest.fixture(params=SHARED_KINDS)
def volume(request, tmp_path):
    meta = fresh_url(request.param, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=1, remember=False)
    with open_volume(meta, cache_size="0") as volume:
        yield volume
    assert sums_wrong(meta) == []


def test_names_say_where_an_entry_was():
    assert parse_trash_name(b"12-34-a-b") == (12, 34, b"a-b", False)
    assert parse_trash_name(b"1-2-" + b"x" * 251) == (1, 2, b"x" * 251, True)
    assert [parse_trash_name(name) for name in (b"", b"1-2-", b"a-b-c", b"1-2")] == [None] * 4


def test_a_removed_tree_comes_back_as_it_was(volume):
    volume.write_file("/a/b/file", b"one")
    volume.write_file("/a/b/other", b"two")
    volume.make_directory("/a/empty")
    volume.link("/a/b/file", "/kept")
    volume.remove_tree("/a")
    listed = {entry.name: entry for entry in volume.trash()}
    assert sorted(listed) == ["a", "b", "empty", "file", "other"]
    assert (listed["other"].attr.length, listed["b"].attr.is_directory) == (3, True)
    report = volume.restore_trash()
    assert (report.restored, report.failed) == (5, 0)
    assert volume.read_file("/a/b/file") == b"one"
    assert volume.read_file("/a/b/other") == b"two"
    assert volume.stat("/a/empty").is_directory
    assert list(volume.trash()) == []


def test_nothing_is_replaced_and_what_cannot_go_back_is_told(volume):
    volume.write_file("/file", b"old")
    volume.unlink("/file")
    volume.write_file("/file", b"new")
    volume.write_file("/d/lost", b"x")
    volume.unlink("/d/lost")
    volume.parts().meta.remove("/d", directory=True, skip_trash=True)
    report = volume.restore_trash()
    assert (report.restored, report.failed) == (0, 2)
    assert "lost" in " ".join(report.failures)
    assert volume.read_file("/file") == b"new"
    volume.unlink("/file")
    assert volume.restore_trash().restored == 1  # of two of that name the first


def test_hours_are_chosen(volume):
    volume.write_file("/file", b"x")
    volume.unlink("/file")
    (entry,) = volume.trash()
    assert list(volume.trash(["2000-01-01-00"])) == []
    assert volume.restore_trash(["2000-01-01-00"]).restored == 0
    assert volume.restore_trash([entry.hour]).restored == 1
    with pytest.raises(FileError):
        volume.parts().meta.restore(entry.hour, entry.entry)


def run(capsys, *words: str, code: int = 0):
    assert main(["trash", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_command(tmp_path, capsys):
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=1, remember=False)
    with open_volume(meta, cache_size="0") as volume:
        for name in ("a", "b"):
            volume.write_file(f"/{name}", b"x")
            volume.unlink(f"/{name}")
        assert [one["name"] for one in run(capsys, "list", meta)] == ["a", "b"]
        volume.write_file("/a", b"in the way")
        report = run(capsys, "restore", meta, code=1)
        assert (report["restored"], report["failed"]) == (1, 1)
        volume.forget()
        assert volume.read_file("/b") == b"x"
        assert run(capsys, "empty", meta) == {"removed": 1}
        assert run(capsys, "list", meta) == []
    assert main(["trash", "list", meta]) == 0
    assert "empty" in capsys.readouterr().out
