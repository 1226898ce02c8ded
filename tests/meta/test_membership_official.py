"""The official client on a volume with a cache group: it neither sees our tables nor harms them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from juicecache.meta.engines.schema import OWN_TABLE_COLUMNS
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.membership import Membership, group_names
from juicecache.testing.official import SharedVolume, assert_same
from juicecache.testing.oracle import assert_clean
from juicecache.testing.servers import run_juicefs

pytestmark = pytest.mark.service

HEARTBEAT_S = 3600.0


class Group:
    """A group of two members in a volume, and a way to see that it is as it was."""

    def __init__(self, volume: SharedVolume) -> None:
        self.engine = SqliteEngine(volume.database)
        self._membership = Membership(self.engine, "training", HEARTBEAT_S)
        for member in ("a", "b"):
            self._membership.renew(member, b"\xff\x00" + member.encode())
        self._made = self.rows()

    def rows(self) -> tuple:
        found = self._membership
        return found.members(), found.secret(create=True), group_names(self.engine)

    def assert_kept(self) -> None:
        assert self.rows() == self._made


@pytest.fixture(params=["ours", "theirs"])
def volume(request, tmp_path) -> SharedVolume:
    volume = SharedVolume(tmp_path)
    make = volume.format_ours if request.param == "ours" else volume.format_theirs
    make(trash_days=1)
    with volume.open() as ours:
        ours.write_file("/kept", os.urandom(5_000_000))
        ours.write_file("/gone", b"x" * 100_000)
        ours.unlink("/gone")
    return volume


@pytest.fixture
def group(volume):
    group = Group(volume)
    yield group
    group.engine.close()


def test_their_commands_work_as_before_and_keep_our_rows(volume, group, tmp_path):
    status = json.loads(run_juicefs("status", volume.meta).stdout)
    assert status["Setting"]["Name"] == volume.name
    assert status["Sessions"] == []  # a member is no session
    assert_clean(volume.meta)
    volume.run("fsck", volume.meta, "--path", "/", "--recursive", "--repair", "--sync-dir-stat")
    environment = {**os.environ, "JFS_GC_SKIPPEDTIME": "0"}
    run_juicefs("gc", volume.meta, "--compact", "--delete", env=environment)
    volume.run("config", volume.meta, "--trash-days", "2", "--yes")
    volume.run("format", "--storage=file", f"--bucket={tmp_path}/bucket/", volume.meta, volume.name)
    assert_clean(volume.meta)
    group.assert_kept()


def test_their_mount_works_as_before_and_keeps_our_rows(volume, group):
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    with volume.mounted() as point, volume.open() as ours:
        (point / "made").write_bytes(b"by them")
        shutil.copy(point / "kept", point / "copied")
        (point / "kept").unlink()
        ours.write_file("/ours", b"by us")
        assert_same(ours, point)
        group.assert_kept()
    group.assert_kept()
    assert_clean(volume.meta)


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
def test_a_dump_leaves_the_group_out(volume, group, tmp_path, binary):
    """So a volume that is restored makes a new group, with a new secret."""
    switches = ["--binary"] if binary else []
    _, secret, _ = group.rows()
    dump, restored = tmp_path / "dump", SharedVolume(tmp_path / "restored", volume.name)
    restored.folder.mkdir()
    volume.run("dump", volume.meta, str(dump), *switches)
    assert secret not in dump.read_bytes()
    assert b"training" not in dump.read_bytes()
    volume.run("load", restored.meta, str(dump), *switches)
    engine = SqliteEngine(restored.database)
    assert group_names(engine) == []
    assert Membership(engine, "training", HEARTBEAT_S).secret(create=True) != secret
    engine.close()
    group.assert_kept()


def test_a_destroyed_volume_leaves_our_tables_which_are_in_the_way_of_a_load(
    volume, group, tmp_path
):
    volume.run("dump", volume.meta, str(tmp_path / "dump"))
    uuid = json.loads(run_juicefs("status", volume.meta).stdout)["Setting"]["UUID"]
    volume.run("destroy", volume.meta, uuid, "--force")
    group.assert_kept()
    with pytest.raises(AssertionError, match="is not empty"):
        volume.run("load", volume.meta, str(tmp_path / "dump"))
    with closing(sqlite3.connect(volume.database)) as raw:
        for table in OWN_TABLE_COLUMNS:
            raw.execute(f"DROP TABLE jfs_{table}")
    volume.run("load", volume.meta, str(tmp_path / "dump"))
    assert group_names(group.engine) == []
