"""A SQLite file for those who may not write to it, or to its folder."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import traceback
from pathlib import Path

import pytest

from juicecache.errors import EngineUnavailableError, ReadOnlyVolumeError
from juicecache.meta import tree
from juicecache.meta.engine import Transaction
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.engines.sqlite_file import DatabaseFile
from juicecache.meta.rows import Counter, Edge


def add(tx: Transaction) -> None:
    tx.add(Counter, "a", value=1)


def look_around(path: Path) -> list:
    """What a client without rights finds, and what is refused to it."""
    engine = SqliteEngine(path)
    names = engine.read(lambda tx: [name.decode() for name, _ in tree.children(tx, 1)])
    found = [engine.read_only, engine.setting(), names, engine.stamp() == engine.stamp()]
    for write in (lambda: engine.write(add), engine.prepare, lambda: engine.put_setting("")):
        with pytest.raises(ReadOnlyVolumeError):
            write()
    engine.close()
    return found


def in_another_user(call, *args):
    """Return the result of a call in a process that owns no file of ours."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writing, json.dumps(call(*args)).encode())
            os._exit(0)
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
    return json.loads(text)


@pytest.fixture
def shared():
    """A folder that every user can enter, with a volume of one entry."""
    folder = Path(tempfile.mkdtemp())
    engine = SqliteEngine(folder / "meta.db")
    engine.prepare()
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    engine.put_setting("{}")
    engine.close()
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


MODES = [(0o555, 0o444), (0o555, 0o644), (0o777, 0o444)]


@pytest.mark.parametrize("in_use", [False, True], ids=["idle", "in use"])
@pytest.mark.parametrize(("folder_mode", "file_mode"), MODES)
def test_a_file_or_folder_without_write_permission_is_read(shared, in_use, folder_mode, file_mode):
    raw = sqlite3.connect(shared / "meta.db", isolation_level=None)
    raw.execute("INSERT INTO jfs_edge (parent, name, inode, type) VALUES (1, x'78', 1, 2)")
    if not in_use:
        raw.close()
    for path in shared.iterdir():
        path.chmod(file_mode)
    shared.chmod(folder_mode)
    found = in_another_user(look_around, shared / "meta.db")
    raw.close()
    assert found == [True, "{}", ["x"], True]


def read_when_told(path, commands, answers) -> None:
    """Read at every line; say when the read has begun, and wait for a line in its middle."""
    engine, stamps = SqliteEngine(path), []

    def body(tx):
        before = tx.get(Counter, "n")
        print("inside", file=answers, flush=True)
        commands.readline()
        return before and before.value, sum(1 for _ in tx.scan(Edge, 7))

    while commands.readline():
        value, entries = engine.read(body)
        stamps.append(engine.stamp())
        held = engine.stamp() == stamps[-1]
        print(json.dumps([value, entries, len(set(stamps)), held]), file=answers, flush=True)


@pytest.fixture
def reader(shared):
    """A process of another user, who can write neither file nor folder.

    Called with what happens in the middle of its read, it returns what it read (a counter
    and the number of entries), how many stamps it saw so far, and if the last one held.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of another user")
    shared.chmod(0o755)
    (shared / "meta.db").chmod(0o644)
    (input_, told), (answered, output) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(told)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with open(input_) as commands, open(output, "w", closefd=False) as answers:
                read_when_told(shared / "meta.db", commands, answers)
        except BaseException:
            os.write(output, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(input_)
    os.close(output)

    def look(meanwhile=lambda: None):
        os.write(told, b"\n")
        while (line := answers.readline()) == "inside\n":
            meanwhile()
            meanwhile = bool  # once
            os.write(told, b"\n")
        return json.loads(line)

    with open(answered) as answers:
        yield look
        os.close(told)
    os.waitpid(child, 0)


def add_entries(path: Path, value: int, entries: int) -> None:
    """Commit as a client that comes and goes; the last to go moves the log into the file."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN")
    raw.execute("INSERT OR REPLACE INTO jfs_counter VALUES ('n', ?)", (value,))
    raw.executemany(
        "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (7, ?, 1, 1)",
        [(b"%d-%d" % (value, at),) for at in range(entries)],
    )
    raw.execute("COMMIT")
    raw.close()


def test_a_reader_who_cannot_lock_sees_what_comes_later(reader, shared):
    path = shared / "meta.db"
    assert reader() == [None, 0, 1, True]
    assert reader() == [None, 0, 1, True]
    add_entries(path, 1, 5000)
    assert reader() == [1, 5000, 2, True]
    writer = SqliteEngine(path)  # one that stays: its log lets others lock
    writer.write(lambda tx: tx.put(Counter("n", 2)))
    assert reader() == [2, 5000, 3, True]
    writer.write(lambda tx: tx.put(Counter("n", 3)))
    assert reader() == [3, 5000, 4, True]
    writer.close()


def test_a_change_below_a_reader_who_cannot_lock_makes_it_read_again(reader, shared):
    path = shared / "meta.db"
    assert reader(lambda: add_entries(path, 1, 5000)) == [1, 5000, 1, True]
    assert not path.with_name("meta.db-wal").exists()
    writers = []

    def write_and_stay():
        writers.append(SqliteEngine(path))
        writers[0].write(lambda tx: tx.put(Counter("n", 2)))

    assert reader(write_and_stay)[:2] == [2, 5000]
    writers[0].close()
    add_entries(path, 3, 1)
    assert reader()[:2] == [3, 5001]


def test_a_reader_who_cannot_lock_gives_up_on_a_file_that_never_rests(shared):
    busy = DatabaseFile(shared / "meta.db", read_only=True)
    busy._lockless = True
    engine = SqliteEngine(shared / "meta.db", read_only=True)
    engine._connections._file = busy
    runs = []

    def body(tx):
        runs.append(os.utime(shared / "meta.db"))

    with pytest.raises(EngineUnavailableError, match="changes all the time"):
        engine.read(body)
    assert len(runs) == 10
    engine.close()
