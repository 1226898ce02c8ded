"""Members of a cache group and its secret, as rows of the metadata."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from juicecache.errors import ConfigError, ReadOnlyVolumeError, VolumeFormatError
from juicecache.meta import tree
from juicecache.meta.engine import Put
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.membership import Membership, group_names
from juicecache.meta.rows import TABLES, GroupMember, GroupSecret
from juicecache.testing.processes import in_child

HEARTBEAT_S = 12.0
START_NS = 1_795_468_004_559_895_394


class Clock:
    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def group(engine, clock) -> Membership:
    return Membership(engine, "training", HEARTBEAT_S, clock)


@pytest.fixture
def volume(tmp_path) -> SqliteEngine:
    engine = SqliteEngine(tmp_path / "meta.db")
    engine.prepare()
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=True))
    engine.put_setting("{}")
    yield engine
    engine.close()


def names(group: Membership) -> list[str]:
    return [row.member for row in group.members()]


def all_rows(engine) -> list[GroupMember]:
    return engine.read(lambda tx: list(tx.scan(GroupMember)))


def tables(path) -> set[str]:
    with closing(sqlite3.connect(path)) as raw:
        return {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}


def test_a_member_joins_changes_and_leaves(group, engine):
    group.renew("b", b"old")
    group.renew("a", b"other")
    group.renew("b", b"new")
    assert [(row.member, row.info) for row in group.members()] == [("a", b"other"), ("b", b"new")]
    group.leave("b")
    group.leave("b")
    group.leave("never here")
    assert names(group) == ["a"]
    assert group_names(engine) == ["training"]


def test_groups_of_a_volume_do_not_see_each_other(group, engine, clock):
    other = Membership(engine, "training.2", HEARTBEAT_S, clock)
    group.renew("a", b"1")
    other.renew("a", b"2")
    other.renew("b", b"3")
    assert [row.info for row in group.members()] == [b"1"]
    assert [row.info for row in other.members()] == [b"2", b"3"]
    assert group.secret(create=True) != other.secret(create=True)
    Membership(engine, "quiet", HEARTBEAT_S).secret(create=True)
    assert group_names(engine) == ["quiet", "training", "training.2"]


def test_a_member_that_stops_renewing_is_out_after_one_and_a_half_heartbeats(group, clock):
    group.renew("alive", b"x")
    group.renew("dead", b"x")
    clock.pass_(HEARTBEAT_S / 2)
    group.renew("alive", b"x")
    clock.pass_(0.9 * HEARTBEAT_S)  # its second renewal is late, and that is forgiven
    assert names(group) == ["alive", "dead"]
    clock.pass_(0.1 * HEARTBEAT_S + 1)
    assert names(group) == ["alive"]
    clock.pass_(HEARTBEAT_S / 2)
    assert names(group) == []
    group.renew("dead", b"x")
    assert names(group) == ["dead"]


@pytest.mark.parametrize("heartbeat_s", [0.1, 1.0, 12.0, 60.0])
def test_a_renewal_holds_for_no_less_and_a_second_more_at_most(engine, clock, heartbeat_s):
    group = Membership(engine, "g", heartbeat_s, clock)
    group.renew("a", b"x")
    clock.pass_(1.5 * heartbeat_s - 0.001)
    assert names(group) == ["a"]
    clock.pass_(1.001)
    assert names(group) == []


def test_the_long_dead_are_removed_by_who_renews(group, engine, clock):
    other = Membership(engine, "other", HEARTBEAT_S, clock)
    other.renew("of another group", b"x")
    for number in range(150):
        group.renew(f"dead {number:03}", b"x")
    clock.pass_(10 * HEARTBEAT_S)
    group.renew("alive", b"x")
    assert len(all_rows(engine)) == 152  # not at once
    for left in (53, 2, 2):  # a hundred in one transaction; the one that renews is long dead too
        clock.pass_(60 * HEARTBEAT_S)
        group.renew("alive", b"x")
        assert len(all_rows(engine)) == left
    assert names(group) == ["alive"]


def test_one_that_comes_back_meanwhile_is_not_removed(group, engine, clock):
    group.renew("slow", b"x")
    clock.pass_(100 * HEARTBEAT_S)
    sweeper = Membership(engine, "training", HEARTBEAT_S, clock)
    dead = sweeper._long_dead
    seen = []

    def come_back_after(since_s):
        seen.extend(dead(since_s))
        group.renew("slow", b"back")
        return seen

    sweeper._long_dead = come_back_after
    sweeper.renew("alive", b"x")
    assert seen == ["slow"]
    assert names(group) == ["alive", "slow"]


def test_what_a_member_says_of_itself_is_bounded(group):
    group.renew("a" * 255, bytes(4096))
    for member, info in (("a", b""), ("a", bytes(4097)), ("", b"x"), ("a" * 256, b"x")):
        with pytest.raises(ConfigError):
            group.renew(member, info)
    assert names(group) == ["a" * 255]


def test_the_secret_is_made_once(group, engine, clock):
    assert group.secret(create=False) is None
    secret = group.secret(create=True)
    assert len(secret) == 32
    assert len(set(secret)) > 10
    assert group.secret(create=True) == group.secret(create=False) == secret
    assert Membership(engine, "training", 1.0).secret(create=True) == secret


def test_processes_that_race_for_the_secret_all_get_the_same(volume):
    children = []
    starting, started = os.pipe()
    for _ in range(4):
        answer, answering = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(started)
                group = Membership(volume, "g", HEARTBEAT_S)
                os.read(starting, 1)
                os.write(answering, group.secret(create=True))
                os._exit(0)
            finally:
                os._exit(1)
        os.close(answering)
        children.append((child, answer))
    os.close(starting)
    os.close(started)  # all of them go on at the end of the pipe
    found = set()
    for child, answer in children:
        with open(answer, "rb") as pipe:
            found.add(pipe.read())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found == {Membership(volume, "g", HEARTBEAT_S).secret(create=False)}


def test_a_damaged_secret_lets_nobody_in(group, engine):
    group.secret(create=True)
    engine.write(lambda tx: tx.put(GroupSecret("training", b"short")))
    with pytest.raises(VolumeFormatError, match="training") as caught:
        group.secret(create=True)
    assert "short" not in str(caught.value)


def test_the_secret_is_in_no_text():
    secret = b"0123456789" * 3
    row = GroupSecret("g", secret)
    for shown in (repr(row), str(row), f"{row}", repr([row]), repr(Put(row, new=True))):
        assert "0123" not in shown
        assert "g" in shown
    assert pickle.loads(pickle.dumps(row)) == ("g", secret)
    assert "0123" not in repr(row._replace(group="h"))


def test_a_volume_without_the_tables_has_no_members(volume, tmp_path):
    before = tables(tmp_path / "meta.db")
    group = Membership(volume, "g", HEARTBEAT_S)
    assert group.members() == []
    assert group.secret(create=False) is None
    assert group_names(volume) == []
    group.leave("a")
    assert tables(tmp_path / "meta.db") == before  # who only looks makes nothing
    rows = {table: volume.read(lambda tx, t=table: list(tx.scan(t))) for table in TABLES}
    group.renew("a", b"x")
    added = tables(tmp_path / "meta.db") - before
    assert {name for name in added if not name.startswith("sqlite_autoindex")} == {
        "jfs_juicecache_member",
        "jfs_juicecache_group",
    }
    assert rows == {table: volume.read(lambda tx, t=table: list(tx.scan(t))) for table in TABLES}


def test_tables_have_the_prefix_of_the_volume(tmp_path):
    engine = SqliteEngine(tmp_path / "meta.db", table_prefix="abc")
    engine.prepare()
    Membership(engine, "g", HEARTBEAT_S).renew("a", b"x")
    assert "jfs_abc_juicecache_member" in tables(tmp_path / "meta.db")
    engine.close()


@pytest.mark.parametrize("exists", [False, True], ids=["no group yet", "a group"])
def test_who_may_only_read_sees_the_group_and_changes_nothing(volume, tmp_path, clock, exists):
    path = tmp_path / "meta.db"
    secret = None
    if exists:
        member = Membership(volume, "g", HEARTBEAT_S, clock)
        member.renew("a", b"x")
        secret = member.secret(create=True)
    before = tables(path)
    engine = SqliteEngine(path, read_only=True)
    reader = Membership(engine, "g", HEARTBEAT_S, clock)
    assert names(reader) == (["a"] if exists else [])
    assert reader.secret(create=False) == secret
    assert group_names(engine) == (["g"] if exists else [])
    with pytest.raises(ReadOnlyVolumeError):
        reader.renew("b", b"x")
    with pytest.raises(ReadOnlyVolumeError):
        reader.leave("a")
    if exists:
        assert reader.secret(create=True) == secret
    else:
        with pytest.raises(ReadOnlyVolumeError):
            reader.secret(create=True)
    assert tables(path) == before
    engine.close()


@pytest.fixture
def open_folder():
    """A folder that other users can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_user_without_rights_reads_the_group(open_folder):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    path = open_folder / "meta.db"
    engine = SqliteEngine(path)
    engine.prepare()
    member = Membership(engine, "g", HEARTBEAT_S)
    member.renew("a", b"x")
    secret = member.secret(create=True)
    engine.close()
    path.chmod(0o444)
    open_folder.chmod(0o555)
    answer, answering = os.pipe()

    def look():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        engine = SqliteEngine(path)
        group = Membership(engine, "g", HEARTBEAT_S)
        found = [engine.read_only, names(group), group.secret(create=False).hex()]
        os.write(answering, json.dumps(found).encode())

    assert in_child(look) == 0
    os.close(answering)
    with open(answer) as pipe:
        assert json.load(pipe) == [True, ["a"], secret.hex()]


def test_a_group_in_memory_is_one_of_this_process(clock):
    engine = MemoryEngine()
    group = Membership(engine, "g", HEARTBEAT_S, clock)
    assert group.members() == []
    group.renew("a", b"x")
    assert all_rows(engine) == [GroupMember("g", "a", START_NS // 10**9 + 19, b"x")]
    engine.close()
