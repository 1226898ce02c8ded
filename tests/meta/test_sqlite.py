"""What only the SQLite engine has: a file that others use, lock, damage and protect."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from juicecache.errors import (
    ClosedError,
    CommitUnknownError,
    ConfigError,
    EngineUnavailableError,
    ReadOnlyVolumeError,
    VolumeFormatError,
)
from juicecache.meta import tree
from juicecache.meta.engines import sqlite as sqlite_module
from juicecache.meta.engines import sqlite_file
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.engines.sqlite_file import DatabaseFile, network_file_system
from juicecache.meta.rows import Chunk, Counter, Edge, Flock, Session, Xattr
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.model.slices import SliceRecord


@pytest.fixture
def engine(tmp_path):
    engine = SqliteEngine(tmp_path / "meta.db")
    engine.prepare()
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    yield engine
    engine.close()


@pytest.fixture
def raw(engine, tmp_path):
    """A foreign client's connection."""
    connection = sqlite3.connect(tmp_path / "meta.db", isolation_level=None, timeout=5)
    yield connection
    connection.close()


@pytest.fixture
def impatient(monkeypatch):
    """No waiting for locks: a lock that is held is held for ever."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.001)
    monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_S", 0.001)
    monkeypatch.setattr("juicecache.meta.engine.ATTEMPTS_MAX", 3)


def count(engine: SqliteEngine, value: int = 1) -> None:
    engine.write(lambda tx: tx.add(Counter, "a", value=value))


def counted(engine: SqliteEngine) -> int:
    row = engine.read(lambda tx: tx.get(Counter, "a"))
    return row.value if row else 0


def open_files(folder: Path) -> list[str]:
    """Return the open files of this process in a folder."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [name for name in names if name.startswith(str(folder))]


# ---------------------------------------------------------------- the file


def test_the_file_is_private_and_in_wal_mode(engine, tmp_path, raw):
    for name in os.listdir(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert engine.describe() == f"sqlite3://{tmp_path}/meta.db"


def test_preparing_keeps_the_mode_of_a_file_that_is_there(tmp_path):
    path = tmp_path / "meta.db"
    path.touch(mode=0o640)
    path.chmod(0o640)
    engine = SqliteEngine(path)
    engine.prepare()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    engine.close()


def test_a_missing_file_is_not_made_by_looking(tmp_path):
    engine = SqliteEngine(tmp_path / "none.db")
    with pytest.raises(VolumeFormatError, match="no metadata database"):
        engine.setting()
    assert os.listdir(tmp_path) == []
    with pytest.raises(EngineUnavailableError, match="no directory"):
        SqliteEngine(tmp_path / "none" / "meta.db").prepare()


def test_an_empty_or_foreign_database_holds_no_volume(tmp_path):
    path = tmp_path / "other.db"
    path.touch()
    engine = SqliteEngine(path)
    assert engine.setting() is None
    with pytest.raises(VolumeFormatError, match="holds no volume"):
        engine.read(lambda tx: tree.lookup(tx, ROOT_INODE, b"x"))
    engine.close()


@pytest.mark.parametrize("text", [b"not a database, " * 400, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_named(tmp_path, text):
    path = tmp_path / "meta.db"
    path.write_bytes(text)
    engine = SqliteEngine(path)
    with pytest.raises(VolumeFormatError, match=str(path)):
        engine.setting()
    with pytest.raises(VolumeFormatError, match=str(path)):
        engine.write(lambda tx: tx.put(Counter("a", 1)))
    assert engine.stamp() is None
    assert path.read_bytes() == text
    engine.close()


def test_a_table_that_is_damaged_is_reported(engine, tmp_path):
    engine.write(
        lambda tx: [tx.put(Edge(1, b"%05d" % at * 20, at, NodeType.FILE)) for at in range(2000)]
    )
    engine.close()
    path = tmp_path / "meta.db"
    body = bytearray(path.read_bytes())
    page = int.from_bytes(body[16:18], "big")
    body[10 * page :] = b"\xa5" * (len(body) - 10 * page)
    path.write_bytes(body)
    damaged = SqliteEngine(path)
    with pytest.raises(VolumeFormatError, match="no sound SQLite database"):
        damaged.read(lambda tx: list(tx.scan(Edge, 1)))
    damaged.close()


def test_columns_of_an_older_version_are_added(tmp_path):
    path = tmp_path / "meta.db"
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE jfs_node (inode INTEGER PRIMARY KEY NOT NULL, type INTEGER, flags INTEGER,"
        " mode INTEGER, uid INTEGER, gid INTEGER, atime INTEGER, mtime INTEGER, ctime INTEGER,"
        " atimensec INTEGER DEFAULT 0, mtimensec INTEGER DEFAULT 0, ctimensec INTEGER DEFAULT 0,"
        " nlink INTEGER, length INTEGER, rdev INTEGER, parent INTEGER)"
    )
    old.execute(f"INSERT INTO jfs_node VALUES ({', '.join(['2', '1', *['0'] * 14])})")
    old.commit()
    old.close()
    engine = SqliteEngine(path)
    with pytest.raises(VolumeFormatError, match="older version"):
        engine.read(lambda tx: tx.get(Attr, 2))
    engine.prepare()
    assert engine.read(lambda tx: tx.get(Attr, 2)) == Attr(2, NodeType.FILE, mode=0, nlink=0)
    engine.close()


@pytest.mark.parametrize("prefix", ["a b", "x;", "a-b", "\u00e9"])
def test_a_prefix_is_a_plain_word(tmp_path, prefix):
    with pytest.raises(ConfigError):
        SqliteEngine(tmp_path / "meta.db", table_prefix=prefix)


def test_volumes_with_prefixes_share_a_file(tmp_path, engine):
    other = SqliteEngine(tmp_path / "meta.db", table_prefix="abc")
    other.prepare()
    count(other)
    assert (counted(engine), counted(other)) == (0, 1)
    raw = sqlite3.connect(tmp_path / "meta.db")
    tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
    raw.close()
    assert {"jfs_node", "jfs_abc_node", "UQE_jfs_abc_edge_edge"} <= tables
    other.close()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("1 0 0:1 / /data rw - nfs4 server:/x rw", "nfs4"),
        ("1 0 0:1 / /data rw shared:1 - fuse.sshfs host:/ rw", "sshfs"),
        ("1 0 0:1 / /data rw - ext4 /dev/a rw", None),
        ("1 0 0:1 / /data rw - fuse.bindfs x rw", None),
        ("1 0 0:1 / /datastore rw - nfs x rw", None),
        (r"1 0 0:1 / /data/a\040b rw - nfs x rw", None),
        ("1 0 0:1 / / rw - nfs x rw", "nfs"),
    ],
)
def test_a_network_file_system_is_recognised(line, kind):
    assert network_file_system(Path("/data/volume"), line) == kind


def test_a_local_mount_hides_the_network_below_it():
    mounts = "1 0 0:1 / / rw - nfs x rw\n2 1 0:2 / /data rw - xfs /dev/b rw"
    assert network_file_system(Path("/data/volume"), mounts) is None
    spaced = r"2 1 0:2 / /my\040data rw - cifs x rw"
    assert network_file_system(Path("/my data/v"), spaced) == "cifs"


def test_a_database_on_a_network_file_system_is_refused(engine, monkeypatch):
    engine.close()
    monkeypatch.setattr(sqlite_file, "network_file_system", lambda folder: "nfs")
    with pytest.raises(EngineUnavailableError, match=r"network file system \(nfs\)"):
        SqliteEngine(engine._file.path).setting()


# ---------------------------------------------------------------- rows of other clients


def test_appended_slices_are_text_and_read_as_bytes(engine, raw):
    first, second = SliceRecord(0, 7, 255, 0, 255).pack(), SliceRecord(9, 8, 200, 0, 200).pack()
    raw.execute("INSERT INTO jfs_chunk (inode, indx, slices) VALUES (2, 0, ?)", (first,))
    raw.execute("UPDATE jfs_chunk SET slices = slices || ? WHERE inode = 2", (second,))
    assert raw.execute("SELECT typeof(slices) FROM jfs_chunk").fetchone() == ("text",)
    assert engine.read(lambda tx: tx.get(Chunk, 2, 0)) == Chunk(2, 0, first + second)
    engine.write(lambda tx: tx.append(2, 0, first))
    found = engine.read(lambda tx: list(tx.scan(Chunk, 2)))
    assert found == [Chunk(2, 0, first + second + first)]
    assert raw.execute("SELECT typeof(slices) FROM jfs_chunk").fetchone() == ("blob",)


def test_null_columns_read_as_nothing(engine, raw):
    raw.execute(
        "UPDATE jfs_node SET rdev = NULL, parent = NULL, access_acl_id = NULL,"
        " default_acl_id = NULL, tier_id = NULL"
    )
    raw.execute("INSERT INTO jfs_session2 (sid, expire, info) VALUES (1, 5, NULL)")
    attr = engine.read(lambda tx: tx.get(Attr, ROOT_INODE))
    assert (attr.rdev, attr.parent, attr.access_acl, attr.default_acl, attr.tier) == (0,) * 5
    assert engine.read(lambda tx: tx.get(Session, 1)) == Session(1, 5, b"")


def test_times_are_microseconds_and_a_rest(engine, raw):
    ns = 1_795_468_004_559_895_394
    engine.write(lambda tx: tx.set(Attr, ROOT_INODE, mtime_ns=ns))
    row = raw.execute("SELECT mtime, mtimensec FROM jfs_node WHERE inode = 1").fetchone()
    assert row == (1_795_468_004_559_895, 394)


def test_types_are_stored_as_the_official_client_reads_them(engine, raw):
    engine.write(lambda tx: tx.put(Edge(1, b"name", 5, NodeType.SYMLINK)))
    engine.write(lambda tx: tx.put(Xattr(5, "user.x", b"v")))
    engine.write(lambda tx: tx.put(Flock(5, 1, -2, ord("R"))))
    assert raw.execute("SELECT typeof(name), type FROM jfs_edge").fetchone() == ("blob", 3)
    assert raw.execute("SELECT typeof(name), typeof(value) FROM jfs_xattr").fetchone() == (
        "text",
        "blob",
    )
    assert raw.execute("SELECT owner, ltype FROM jfs_flock").fetchone() == (-2, 82)


def test_a_text_name_in_another_encoding_does_not_stop_a_scan(engine, raw):
    raw.execute("INSERT INTO jfs_xattr (inode, name, value) VALUES (1, CAST(x'75ff' AS TEXT), 'v')")
    (row,) = engine.read(lambda tx: list(tx.scan(Xattr, 1)))
    assert row == Xattr(1, "u\udcff", b"v")


def test_a_node_of_an_unknown_type_is_reported(engine, raw):
    raw.execute("UPDATE jfs_node SET type = 9")
    with pytest.raises(VolumeFormatError, match="type 9"):
        engine.read(lambda tx: tx.get(Attr, ROOT_INODE))


def test_a_foreign_commit_moves_the_stamp(engine, raw):
    before = engine.stamp()
    raw.execute("UPDATE jfs_counter SET value = value + 1")
    assert engine.stamp() != before


def test_an_open_transaction_of_another_client_is_not_seen(engine, raw):
    before = engine.stamp()
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO jfs_counter VALUES ('a', 1)")
    assert counted(engine) == 0
    assert engine.stamp() == before
    raw.execute("COMMIT")
    assert counted(engine) == 1


def test_a_read_sees_one_state(engine, raw):
    def body(tx):
        first = tx.get(Counter, "a")
        raw.execute("INSERT INTO jfs_counter VALUES ('a', 1)")
        return first, tx.get(Counter, "a")

    assert engine.read(body) == (None, None)
    assert counted(engine) == 1


def test_a_scan_that_somebody_still_holds_does_not_hold_its_snapshot(engine, raw):
    def body(tx):
        rows = tx.scan(Counter)
        next(rows)
        return rows

    held = engine.read(body)
    raw.execute("INSERT INTO jfs_counter VALUES ('a', 1)")
    assert counted(engine) == 1
    del held


# ---------------------------------------------------------------- locks


def test_a_lock_that_never_frees_is_unavailable_not_a_conflict(impatient, engine, raw):
    count(engine)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(EngineUnavailableError, match="locked by another client"):
        count(engine)
    with pytest.raises(EngineUnavailableError, match="locked by another client"):
        engine.put_setting("{}")
    assert counted(engine) == 1
    raw.execute("ROLLBACK")
    count(engine)
    assert counted(engine) == 2


def test_a_file_that_is_locked_against_readers_is_unavailable(impatient, tmp_path, engine):
    engine.close()
    raw = sqlite3.connect(tmp_path / "meta.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode = DELETE")
    raw.execute("BEGIN EXCLUSIVE")
    other = SqliteEngine(tmp_path / "meta.db")
    with pytest.raises(EngineUnavailableError, match="locked by another client"):
        other.setting()
    raw.close()
    assert other.setting() is None
    other.close()


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO jfs_counter VALUES ('half', 1)")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@pytest.fixture
def holder(engine, tmp_path):
    """A process in the middle of a transaction; a line of input makes it commit."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "meta.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_writer_waits_for_another_process(engine, holder):
    waiting = threading.Thread(target=count, args=(engine,))
    waiting.start()
    assert counted(engine) == 0
    holder.communicate("\n")
    waiting.join()
    assert counted(engine) == 1
    assert engine.read(lambda tx: tx.get(Counter, "half")) == Counter("half", 1)


def test_a_writer_that_is_killed_leaves_nothing_behind(engine, holder):
    holder.kill()
    holder.wait()
    count(engine)
    assert engine.read(lambda tx: tx.get(Counter, "half")) is None


def test_processes_that_prepare_at_once_all_succeed(tmp_path):
    path = tmp_path / "meta.db"
    text = (
        "import sys; from juicecache.meta.engines.sqlite import SqliteEngine as E;"
        "e = E(sys.argv[1]); sys.stdin.readline(); e.prepare(); e.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", text, path], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    engine = SqliteEngine(path)
    assert engine.setting() is None
    count(engine)
    engine.close()


# ---------------------------------------------------------------- commits


def denying(monkeypatch, engine, operation: str):
    """Make ``COMMIT`` fail with an error that says nothing about its outcome."""
    connect = DatabaseFile.connect

    def refuse(action, name, *_):
        is_commit = action == sqlite3.SQLITE_TRANSACTION and name == operation
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    def connect_denied(self, *, frozen):
        connection = connect(self, frozen=frozen)
        connection.set_authorizer(refuse)
        return connection

    monkeypatch.setattr(DatabaseFile, "connect", connect_denied)
    return SqliteEngine(engine._file.path)


def test_a_commit_without_a_clear_answer_is_not_repeated(engine, monkeypatch):
    broken = denying(monkeypatch, engine, "COMMIT")
    runs = []

    def body(tx):
        runs.append(tx)
        tx.add(Counter, "a", value=1)

    with pytest.raises(CommitUnknownError, match="commit failed"):
        broken.write(body)
    assert len(runs) == 1
    with pytest.raises(CommitUnknownError):
        broken.put_setting("{}")
    broken.close()
    assert counted(engine) == 0


def test_a_full_disk_is_reported_and_nothing_is_written(engine, monkeypatch):
    connect = DatabaseFile.connect

    def small(self, *, frozen):
        connection = connect(self, frozen=frozen)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(DatabaseFile, "connect", small)
    full = SqliteEngine(engine._file.path)
    with pytest.raises(EngineUnavailableError, match="full"):
        full.write(lambda tx: tx.put(Xattr(1, "user.x", bytes(1 << 20))))
    count(full)
    assert engine.read(lambda tx: list(tx.scan(Xattr, 1))) == []
    full.close()


def test_errors_leave_no_connection_or_lock_behind(engine, raw):
    with pytest.raises(ZeroDivisionError):
        engine.write(lambda tx: 1 // 0)
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("ROLLBACK")
    with pytest.raises(ZeroDivisionError):
        engine.read(lambda tx: [next(tx.scan(Counter)), 1 // 0])
    count(engine)
    assert counted(engine) == 1


# ---------------------------------------------------------------- processes and threads


def test_a_reader_by_choice_sees_what_others_write(engine):
    reader = SqliteEngine(engine._file.path, read_only=True)
    assert reader.read_only
    before = reader.stamp()
    count(engine)
    assert reader.stamp() != before
    assert counted(reader) == 1
    with pytest.raises(ReadOnlyVolumeError):
        count(reader)
    reader.close()


def test_a_forked_child_inherits_no_open_file(engine, tmp_path):
    counted(engine)
    engine.stamp()
    assert open_files(tmp_path)
    child = os.fork()
    if child == 0:
        os._exit(len(open_files(tmp_path)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_waits_for_the_transaction_of_another_thread(engine):
    entered, leave, forked = threading.Event(), threading.Event(), threading.Event()

    def body(tx):
        entered.set()
        leave.wait()
        tx.add(Counter, "a", value=1)

    writing = threading.Thread(target=lambda: engine.write(body))
    writing.start()
    entered.wait()

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0 if counted(engine) == 1 else 1)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        forked.set()

    statuses: list[int] = []
    forking = threading.Thread(target=fork)
    forking.start()
    assert not forked.is_set()
    leave.set()
    writing.join()
    forking.join()
    assert statuses == [0]
    count(engine)
    assert counted(engine) == 2


def test_children_and_parent_write_together(engine):
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(20):
                    count(engine)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    for _ in range(20):
        count(engine)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert counted(engine) == 80


def test_readers_are_not_held_up_by_a_writer(engine):
    def body(tx):
        results = []
        reading = threading.Thread(target=lambda: results.append(counted(engine)))
        reading.start()
        reading.join()
        tx.add(Counter, "a", value=1)
        return results

    assert engine.write(body) == [0]
    assert counted(engine) == 1


def test_closing_lets_the_transaction_under_way_finish(engine, tmp_path):
    def body(tx):
        engine.close()
        tx.add(Counter, "a", value=1)

    engine.write(body)
    assert engine.stamp() is None
    with pytest.raises(ClosedError):
        count(engine)
    gc.collect()
    assert open_files(tmp_path) == []
    again = SqliteEngine(tmp_path / "meta.db")
    assert counted(again) == 1
    again.close()
