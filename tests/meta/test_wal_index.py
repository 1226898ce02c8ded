"""The change stamp that is read past SQLite."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys

import pytest

from juicecache.meta.engines import wal_index
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import Counter

WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("UPDATE jfs_counter SET value = value + 1")
connection.commit()
{more}
connection.close()
"""


@pytest.fixture
def engine(tmp_path):
    engine = SqliteEngine(tmp_path / "meta.db")
    engine.prepare()
    engine.write(lambda tx: tx.put(Counter("a", 1)))
    yield engine
    engine.close()


def elsewhere(engine: SqliteEngine, more: str = "") -> None:
    path = engine.describe().removeprefix("sqlite3://")
    subprocess.run([sys.executable, "-c", WRITE.format(more=more), path], check=True)


@pytest.mark.parametrize("how", ["", "connection.execute('PRAGMA wal_checkpoint(TRUNCATE)')"])
def test_every_commit_of_another_process_moves_it(engine, how):
    seen = {engine.stamp()}
    for _ in range(5):
        elsewhere(engine, how)
        assert engine.stamp() not in seen
        assert engine.stamp() == engine.stamp()
        seen.add(engine.stamp())


def test_it_says_what_sqlite_says(engine, tmp_path):
    """Commits, refused ones, checkpoints and a log that begins anew, against SQLite itself."""
    watch = sqlite3.connect(tmp_path / "meta.db", isolation_level=None)
    other = sqlite3.connect(tmp_path / "meta.db", isolation_level=None)

    def number() -> int:
        return watch.execute("PRAGMA data_version").fetchone()[0]

    for round_ in range(300):
        before, stamp = number(), engine.stamp()
        if round_ % 3 == 0:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE jfs_counter SET value = value + 1")
            other.execute("ROLLBACK" if round_ % 2 else "COMMIT")
        elif round_ % 50 == 1:
            other.execute("PRAGMA wal_checkpoint(RESTART)")
        else:
            engine.write(lambda tx: tx.add(Counter, "a", value=1))
        if number() != before:
            assert engine.stamp() != stamp
    watch.close()
    other.close()


def test_locks_of_sqlite_are_not_lost(engine, tmp_path):
    """Engines come and go while another connection of this process is inside a transaction."""
    writer = sqlite3.connect(tmp_path / "meta.db", isolation_level=None)
    engine.stamp()
    writer.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        other = SqliteEngine(tmp_path / "meta.db")
        assert other.stamp() is not None
        other.close()
    failed = subprocess.run(
        [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0)"
         ".execute('BEGIN IMMEDIATE')", str(tmp_path / "meta.db")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "database is locked" in failed.stderr
    writer.execute("ROLLBACK")
    writer.close()


def test_another_form_of_the_index_is_left_to_sqlite(engine, monkeypatch):
    monkeypatch.setattr(wal_index, "_VERSION", b"none")
    first = engine.stamp()
    assert first == engine.stamp()
    assert isinstance(first[1], int)
    engine.write(lambda tx: tx.add(Counter, "a", value=1))
    assert engine.stamp() != first


def test_descriptors_go_with_the_databases(tmp_path):
    for number in range(5):
        engine = SqliteEngine(tmp_path / f"{number}.db")
        engine.prepare()
        assert isinstance(engine.stamp()[1], bytes)
        engine.close()
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
             if os.path.islink(f"/proc/self/fd/{fd}")]  # fmt: skip
    assert [name for name in names if name.startswith(f"{tmp_path}/")] == []


def test_descriptors_go_with_databases_that_were_dropped(tmp_path):
    for number in range(5):
        engine = SqliteEngine(tmp_path / f"{number}.db")
        engine.prepare()
        assert isinstance(engine.stamp()[1], bytes)
        (index,) = [one for one in wal_index._indexes.values() if one.users]
        del engine
        gc.collect()
        assert index.users == 0
