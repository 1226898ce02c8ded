"""The command ``quota``: each action, what the official client makes of it, and wrong usage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from juicecache import open_volume
from juicecache.errors import QuotaExceededError
from juicecache.faces.cli.main import main
from juicecache.meta.rows import DirQuota
from juicecache.testing.official import SharedVolume
from juicecache.volume.quotas import QuotaOwner

KIB4 = 4096


@pytest.fixture(params=["sqlite", "redis"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> SharedVolume:
    """A volume with ``/team/a/data`` of 8 KiB; ``/team`` is to be limited."""
    shared = SharedVolume(tmp_path, engine=request.param)
    shared.format_ours(trash_days=0)
    with shared.open() as volume:
        volume.write_file("/team/a/data", b"x" * 5000)
    return shared


class Runner:
    """Runs ``quota`` in this process."""

    def __init__(self, meta: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.meta = meta
        self._capsys = capsys

    def __call__(self, action: str, *words: object, code: int = 0) -> tuple[str, str]:
        found = main(["quota", action, self.meta, *map(str, words)])
        out, err = self._capsys.readouterr()
        assert (found, "Traceback" in err) == (code, False), out + err
        return out, err

    def json(self, action: str, *words: object, code: int = 0) -> Any:
        return json.loads(self(action, *words, "--json", code=code)[0])


@pytest.fixture
def quota(shared: SharedVolume, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(shared.meta, capsys)


def official_rows(shown: str) -> dict[str, tuple[str, ...]]:
    """Return the cells of the official client's table by the first one."""
    rows = [line.split("|")[1:-1] for line in shown.splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    return {row[0]: row[1:] for row in cells[1:]}


def test_a_quota_from_its_beginning_to_its_end(quota: Runner, shared: SharedVolume) -> None:
    made = quota.json("set", "--path", "/team", "--capacity", 1, "--inodes", 5)
    assert (made["path"], made["capacity_bytes"], made["inodes_max"]) == ("/team", 1 << 30, 5)
    assert (made["used_bytes"], made["used_inodes"]) == (3 * KIB4, 2)
    assert quota.json("get", "--path", "/team") == made
    with shared.open() as volume:
        for number in range(3):
            volume.write_file(f"/team/{number}", b"")
        with pytest.raises(QuotaExceededError):
            volume.write_file("/team/too-many", b"")
    assert quota.json("set", "--path", "/team", "--inodes", 0)["inodes_max"] == 0
    (listed,) = quota.json("list")
    assert (listed["capacity_bytes"], listed["used_inodes"]) == (1 << 30, 5)
    assert quota.json("delete", "--path", "/team") == {"removed": True}
    assert quota.json("delete", "--path", "/team") == {"removed": False}
    assert quota.json("ls") == []
    assert "has no quota" in quota("get", "--path", "/team", code=1)[1]


def test_the_official_client_agrees(quota: Runner, shared: SharedVolume) -> None:
    quota("set", "--path", "/new/deep", "--create", "--capacity", "2G")
    quota("set", "--path", "/team", "--capacity", 1, "--inodes", 10)
    quota("set", "--uid", 1000, "--inodes", 7)
    quota("set", "--gid", 100, "--capacity", 3)
    rows = official_rows(shared.run("quota", "list", shared.meta))
    ours = {line.split()[0] for line in quota("list")[0].splitlines()[1:]}
    assert set(rows) == ours == {"/new/deep", "/team", "uid:1000", "gid:100"}
    assert rows["/team"] == ("1.0 GiB", "12 KiB", "0%", "10", "2", "20%")
    assert rows["/new/deep"][0] == "2.0 GiB"
    assert rows["uid:1000"][3] == "7"
    assert rows["gid:100"][0] == "3.0 GiB"
    got = official_rows(shared.run("quota", "get", shared.meta, "--path", "/team"))
    assert got == {"/team": rows["/team"]}
    assert "is consistent" in shared.run("quota", "check", shared.meta, "--path", "/team")
    shared.run("quota", "set", shared.meta, "--path", "/team", "--inodes", "99")
    assert quota.json("get", "--path", "/team")["inodes_max"] == 99
    quota("delete", "--uid", 1000)
    assert "uid:1000" not in official_rows(shared.run("quota", "list", shared.meta))


def test_check_finds_and_repairs_what_is_counted_wrong(quota: Runner, shared: SharedVolume) -> None:
    quota("set", "--path", "/team", "--inodes", 10)
    quota("set", "--gid", 5, "--inodes", 10)
    assert quota.json("check")["ok"]
    with shared.open() as volume:
        inode = volume.stat("/team").inode
        volume.parts().engine.write(lambda tx: tx.add(DirQuota, inode, used_inodes=3))
    found = quota.json("check", "--path", "/team", code=1)
    (one,) = found["quotas"]
    assert (one["ok"], one["used_inodes"], one["counted_inodes"]) == (False, 5, 2)
    assert "--repair sets them right" in quota("check", code=1)[0]
    assert quota.json("check", "--repair")["repaired"] == 1
    assert quota.json("check") | {"quotas": []} == {"ok": True, "repaired": 0, "quotas": []}
    assert quota.json("check", "--gid", 5)["quotas"][0]["kind"] == "group"
    assert "is consistent" in shared.run("quota", "check", shared.meta, "--path", "/team")
    assert "there is no quota" in quota("check", "--uid", 77, code=1)[1]


def test_a_client_that_sets_a_quota_obeys_it_at_once(quota: Runner, shared: SharedVolume) -> None:
    with open_volume(shared.meta, cache_size="0") as volume:
        volume.write_file("/team/one", b"")
        volume.set_quota(QuotaOwner("/team"), inodes_max=4)
        volume.write_file("/team/two", b"")
        with pytest.raises(QuotaExceededError):
            volume.write_file("/team/three", b"")


def test_a_quota_is_found_after_its_directory_was_renamed(
    quota: Runner, shared: SharedVolume
) -> None:
    quota("set", "--path", "/team/a", "--inodes", 10)
    with shared.open() as volume:
        volume.rename("/team/a", "/b")
    assert [one["path"] for one in quota.json("list")] == ["/b"]
    assert re.search(r"^/b +no limit +8.0 KiB ", quota("list")[0], re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("set", "--path", "/team"), "needs --capacity or --inodes"),
        (("set", "--inodes", "1"), "needs --path, --uid or --gid"),
        (("get",), "needs --path, --uid or --gid"),
        (("delete",), "needs --path, --uid or --gid"),
        (("list", "--repair"), "--repair is for quota check"),
        (("get", "--path", "/team", "--inodes", "1"), "--inodes is for quota set"),
        (("set", "--uid", "1", "--inodes", "1", "--create"), "--create needs --path"),
        (("set", "--path", "/none", "--inodes", "1"), "/none"),
        (("set", "--path", "/team/a/data", "--inodes", "1"), "only directories have a quota"),
    ],
)
def test_wrong_usage(quota: Runner, words: tuple[str, ...], complaint: str) -> None:
    assert complaint in quota(*words, code=1)[1]
