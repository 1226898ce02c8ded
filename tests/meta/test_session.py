"""Sessions, what they sustain, and leases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.meta import session, tree, usage
from juicecache.meta.context import Context
from juicecache.meta.engine import Engine
from juicecache.meta.remove import unlink
from juicecache.meta.rows import Counter, DeletedFile, Flock, Plock, Session, Sustained
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.testing.engines import KINDS, fresh_engine

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
NOW_S = 10**6
INFO = b'{"Version":"1.4.1","ProcessID":1}'


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = fresh_engine(request.param, tmp_path)
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    yield engine
    engine.close()


def start(engine: Engine, now_s: int = NOW_S) -> int:
    return engine.write(lambda tx: session.open_session(tx, now_s, 12.0, INFO))


def refresh(engine: Engine, sid: int, now_s: int) -> bool:
    return engine.write(lambda tx: session.refresh_session(tx, sid, now_s, 12.0, INFO))


def sustain_file(engine: Engine, sid: int, inode: int) -> None:
    name = b"file%d" % inode
    new = NewNode(inode, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, name, new))
    ctx = CTX._replace(sid=sid, opened={inode})
    assert not engine.write(lambda tx: unlink(tx, ctx, ROOT_INODE, name)).doomed


def everything(engine: Engine, table: type) -> list:
    return engine.read(lambda tx: list(tx.scan(table)))


def test_sessions_are_numbered_from_one_and_live_five_heartbeats(engine):
    assert (start(engine), start(engine, NOW_S + 5)) == (1, 2)
    assert everything(engine, Session) == [
        Session(1, NOW_S + 60, INFO),
        Session(2, NOW_S + 65, INFO),
    ]
    assert engine.read(lambda tx: tx.get(Counter, "nextSession")) == Counter("nextSession", 2)


def test_a_heartbeat_renews_and_tells_when_the_session_was_lost(engine):
    sid = start(engine)
    assert refresh(engine, sid, NOW_S + 12)
    assert everything(engine, Session) == [Session(sid, NOW_S + 72, INFO)]
    engine.write(lambda tx: session.close_session(tx, sid, NOW_S + 13))
    assert not refresh(engine, sid, NOW_S + 24)
    assert everything(engine, Session) == [Session(sid, NOW_S + 84, INFO)]


def test_the_last_close_of_an_unlinked_file_removes_it(engine):
    sid = start(engine)
    sustain_file(engine, sid, 2)
    engine.write(lambda tx: tx.set(Attr, 2, length=5000))
    engine.write(lambda tx: usage.charge(tx, 4096, 0))
    assert engine.write(lambda tx: session.release(tx, sid, 2, NOW_S + 3))
    assert engine.read(lambda tx: tx.get(Attr, 2)) is None
    assert everything(engine, Sustained) == []
    assert everything(engine, DeletedFile) == [DeletedFile(2, 5000, NOW_S + 3)]
    assert engine.read(usage.totals) == (0, 0)


def test_releasing_what_is_not_sustained_changes_nothing(engine):
    sid = start(engine)
    new = NewNode(2, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"file", new))
    assert not engine.write(lambda tx: session.release(tx, sid, 2, NOW_S))
    assert engine.read(lambda tx: tx.get(Attr, 2)) is not None


def test_a_sustained_inode_that_has_a_name_is_kept(engine):
    sid = start(engine)
    new = NewNode(2, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"file", new))
    engine.write(lambda tx: tx.put(Sustained(sid, 2)))
    assert not engine.write(lambda tx: session.release(tx, sid, 2, NOW_S))
    assert engine.read(lambda tx: tx.get(Attr, 2)) is not None
    assert everything(engine, Sustained) == []


def test_closing_releases_locks_and_files_of_this_session_only(engine):
    mine, other = start(engine), start(engine)
    sustain_file(engine, mine, 2)
    sustain_file(engine, mine, 3)
    sustain_file(engine, other, 4)
    locks = [Flock(9, mine, 1, ord("W")), Flock(9, other, 1, ord("R"))]
    ranges = [Plock(8, mine, -1, bytes(24)), Plock(8, other, 1, bytes(24))]
    engine.write(lambda tx: [tx.put(row) for row in (*locks, *ranges)])
    assert engine.write(lambda tx: session.close_session(tx, mine, NOW_S)) == ([2, 3], True)
    assert [row.sid for row in everything(engine, Session)] == [other]
    assert everything(engine, Flock) == [locks[1]]
    assert everything(engine, Plock) == [ranges[1]]
    assert everything(engine, Sustained) == [Sustained(other, 4)]
    assert [row.inode for row in everything(engine, DeletedFile)] == [2, 3]
    assert engine.read(usage.totals) == usage.recount(engine) == (4096, 1)


def test_a_session_with_many_files_is_closed_in_bounded_steps(engine, monkeypatch):
    monkeypatch.setattr(session, "_SUSTAINED_PER_COMMIT", 2)
    sid = start(engine)
    for inode in (2, 3, 4):
        sustain_file(engine, sid, inode)
    assert engine.write(lambda tx: session.close_session(tx, sid, NOW_S)) == ([2, 3], False)
    assert [row.sid for row in everything(engine, Session)] == [sid]
    assert engine.write(lambda tx: session.close_session(tx, sid, NOW_S)) == ([4], True)
    assert everything(engine, Session) == []


def test_a_stale_session_is_cleaned_up_unless_it_came_back(engine):
    sid = start(engine)
    sustain_file(engine, sid, 2)

    def close_stale(now_s: int) -> tuple[list[int], bool]:
        return engine.write(lambda tx: session.close_stale_session(tx, sid, now_s))

    assert engine.read(lambda tx: session.stale_sessions(tx, NOW_S + 60, limit=9)) == []
    assert engine.read(lambda tx: session.stale_sessions(tx, NOW_S + 61, limit=9)) == [sid]
    refresh(engine, sid, NOW_S + 61)
    assert close_stale(NOW_S + 61) == ([], True)
    assert engine.read(lambda tx: tx.get(Attr, 2)) is not None
    assert close_stale(NOW_S + 200) == ([2], True)
    assert everything(engine, Session) == []
    assert close_stale(NOW_S + 200) == ([], True)
