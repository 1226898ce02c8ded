"""Locks against a plain model, on every engine; and races for one lock."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from juicecache.errors import EntryNotFoundError
from juicecache.meta import session, tree
from juicecache.meta.change_log import Origins
from juicecache.meta.context import Context
from juicecache.meta.engine import Engine
from juicecache.meta.locks import (
    END_MAX,
    LockKind,
    RangeLock,
    flock,
    get_plock,
    merged,
    pack_locks,
    set_plock,
    unpack_locks,
)
from juicecache.meta.rows import ChangeLine, Flock, Plock
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, NodeType
from juicecache.testing.engines import SHARED_KINDS, fresh_engine
from juicecache.testing.machines import OnEngine

SHARED, EXCLUSIVE, UNLOCK = LockKind
CTX = Context(10**18, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
INODES = (5, 6)
OWNERS = [(sid, owner) for sid in (1, 2) for owner in (7, -1 % (1 << 64))]
BYTES = 12


def add_files(engine: Engine) -> None:
    for inode in INODES:
        new = NewNode(inode, NodeType.FILE, 0o644)
        engine.write(lambda tx, new=new: tree.create(tx, CTX, ROOT_INODE, b"%d" % new.inode, new))


kinds = st.sampled_from(list(LockKind))
owners = st.sampled_from(OWNERS)
inodes = st.sampled_from(INODES)
ranges = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)).map(
    lambda ends: (min(ends), max(ends))
)


class Locking:
    """The rules of a machine; the model has a kind for each owner, and for each byte of it."""

    engine: Engine

    @initialize()
    def begin(self) -> None:
        self.engine = self.make_engine()
        self.engine.write(lambda tx: tree.plant_root(tx, 0, trash=True))
        add_files(self.engine)
        self.whole: dict[tuple[int, tuple[int, int]], LockKind] = {}
        self.bytes: dict[tuple[int, tuple[int, int]], dict[int, LockKind]] = {}
        self.sessions = {
            sid: self.engine.write(lambda tx: session.open_session(tx, 10**9, 12, b"{}"))
            for sid in (1, 2)
        }
        assert self.sessions == {1: 1, 2: 2}

    @rule(inode=inodes, who=owners, kind=kinds)
    def lock_whole(self, inode, who, kind) -> None:
        others = [held for (at, other), held in self.whole.items() if at == inode and other != who]
        free = kind is UNLOCK or not others
        free = free or (kind is SHARED and EXCLUSIVE not in others)
        assert self.engine.write(lambda tx: flock(tx, who[0], inode, who[1], kind)) == free
        if kind is UNLOCK:
            self.whole.pop((inode, who), None)
        elif free:
            self.whole[inode, who] = kind

    @rule(inode=inodes, who=owners, kind=kinds, ends=ranges)
    def lock_range(self, inode, who, kind, ends) -> None:
        lock = RangeLock(kind, 100 + who[0], *ends)
        covered = range(ends[0], ends[1] + 1)
        against = [
            (held[at], at)
            for (where, other), held in self.bytes.items()
            if where == inode and other != who
            for at in covered
            if at in held and EXCLUSIVE in (held[at], kind)
        ]
        free = kind is UNLOCK or not against
        if kind is not UNLOCK:
            told = self.engine.read(lambda tx: get_plock(tx, who[0], inode, who[1], lock))
            assert (told is None) == free
            assert told is None or (told[1].overlaps(lock) and told[1].pid == 100 + told[0])
        assert self.engine.write(lambda tx: set_plock(tx, who[0], inode, who[1], lock)) == free
        held = self.bytes.setdefault((inode, who), {})
        for at in covered if free else ():
            held.pop(at, None)
            if kind is not UNLOCK:
                held[at] = kind

    @rule(sid=st.sampled_from([1, 2]))
    def end_session(self, sid) -> None:
        assert self.engine.write(lambda tx: session.close_session(tx, sid, 10**9)) == ([], True)
        self.whole = {key: held for key, held in self.whole.items() if key[1][0] != sid}
        self.bytes = {key: held for key, held in self.bytes.items() if key[1][0] != sid}

    @invariant()
    def rows_are_the_model(self) -> None:
        for inode in INODES:
            rows = self.engine.read(lambda tx, inode=inode: list(tx.scan(Flock, inode)))
            whole = {(row.sid, row.owner % (1 << 64)): chr(row.kind) for row in rows}
            assert whole == {
                who: "W" if held is EXCLUSIVE else "R"
                for (at, who), held in self.whole.items()
                if at == inode
            }
            ranges = self.engine.read(lambda tx, inode=inode: list(tx.scan(Plock, inode)))
            found = {}
            for row in ranges:
                locks = unpack_locks(row.records)
                assert locks == sorted(locks, key=lambda lock: lock.start)
                found[row.sid, row.owner % (1 << 64)] = {
                    at: lock.kind for lock in locks for at in range(lock.start, lock.end + 1)
                }
                assert sum(lock.end - lock.start + 1 for lock in locks) == len(
                    found[row.sid, row.owner % (1 << 64)]
                )
            assert found == {
                who: held for (at, who), held in self.bytes.items() if at == inode and held
            }


def machine(kind: str, examples: int):
    found = type(f"Locking_{kind}", (Locking, OnEngine), {"kind": kind})
    case = found.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=20, deadline=None)
    return case


TestMemory = machine("memory", 60)
TestSqlite = machine("sqlite", 15)
TestRedis = machine("redis", 15)
TestPostgres = machine("postgres", 8)
TestMysql = machine("mysql", 6)


@pytest.fixture
def files(engine: Engine) -> Engine:
    add_files(engine)
    return engine


def test_a_missing_inode_cannot_be_locked(engine: Engine) -> None:
    with pytest.raises(EntryNotFoundError):
        engine.write(lambda tx: flock(tx, 1, 77, 7, SHARED))
    with pytest.raises(EntryNotFoundError):
        engine.write(lambda tx: set_plock(tx, 1, 77, 7, RangeLock(SHARED, 1, 0, 5)))
    assert engine.write(lambda tx: flock(tx, 1, 77, 7, UNLOCK))


@pytest.mark.parametrize("ends", [(5, 4), (-1, 4)])
def test_a_range_must_be_one(files: Engine, ends: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range"):
        files.write(lambda tx: set_plock(tx, 1, 5, 7, RangeLock(SHARED, 1, *ends)))


def test_locks_of_a_session_are_found(files: Engine) -> None:
    for sid in (1, 2):
        for inode in INODES:
            files.write(lambda tx, sid=sid, inode=inode: flock(tx, sid, inode, 7, SHARED))
            lock = RangeLock(EXCLUSIVE, 1, sid, sid)
            files.write(
                lambda tx, sid=sid, inode=inode, lock=lock: set_plock(tx, sid, inode, 7, lock)
            )
    found = files.read(lambda tx: tx.locks_of(2))
    assert sorted((type(one).__name__, one.inode) for one in found) == [
        *(("Flock", 5), ("Flock", 6), ("Plock", 5), ("Plock", 6)),
    ]
    assert {one.sid for one in found} == {2}
    files.write(lambda tx: session.close_session(tx, 2, 10**9))
    assert files.read(lambda tx: tx.locks_of(2)) == []
    assert len(files.read(lambda tx: tx.locks_of(1))) == 4


def test_lines_of_the_change_log_are_the_official_ones(files: Engine) -> None:
    files.origin = Origins(lambda: 1, lambda: 10**18)
    owner = -363564495204855700 % (1 << 64)
    files.write(lambda tx: flock(tx, 1, 5, owner, EXCLUSIVE))
    files.write(lambda tx: flock(tx, 1, 5, owner, UNLOCK))
    files.write(lambda tx: set_plock(tx, 1, 5, owner, RangeLock(SHARED, 9234, 50, END_MAX)))
    files.write(lambda tx: set_plock(tx, 1, 5, owner, RangeLock(UNLOCK, 9234, 55, 59)))
    lines = files.read(lambda tx: [row.text.split("|")[1] for row in tx.scan(ChangeLine)])
    assert lines == [
        "FLOCK(5,18083179578504695916,W)",
        "FLOCK(5,18083179578504695916,U)",
        "SETLK(5,18083179578504695916,R,50,9223372036854775807,9234)",
        "SETLK(5,18083179578504695916,U,55,59,0)",
    ]


@given(
    st.lists(st.tuples(kinds, st.integers(1, 2), ranges), max_size=12),
)
def test_merging_is_painting(changes) -> None:
    locks: list[RangeLock] = []
    painted: dict[int, tuple[LockKind, int]] = {}
    for kind, pid, (start, end) in changes:
        locks = merged(locks, RangeLock(kind, pid, start, end))
        for at in range(start, end + 1):
            painted.pop(at, None)
            if kind is not UNLOCK:
                painted[at] = kind, pid
    assert painted == {
        at: (lock.kind, lock.pid) for lock in locks for at in range(lock.start, lock.end + 1)
    }
    assert unpack_locks(pack_locks(locks)) == locks
    for one, other in pairwise(locks):
        assert one.end < other.start
        assert one.end + 1 < other.start or one[:2] != other[:2]


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_of_two_clients_one_gets_the_lock(kind: str, tmp_path) -> None:
    with closing(fresh_engine(kind, tmp_path)) as engine:
        engine.write(lambda tx: tree.plant_root(tx, 0, trash=True))
        add_files(engine)
        held: list[int] = []
        most: list[int] = []

        def work(sid: int) -> None:
            for number in range(25):
                lock = RangeLock(EXCLUSIVE, sid, 0, number)
                whole = number % 2 == 0
                ask = (
                    (lambda tx: flock(tx, sid, 5, sid, EXCLUSIVE))
                    if whole
                    else (lambda tx, lock=lock: set_plock(tx, sid, 6, sid, lock))
                )
                give = (
                    (lambda tx: flock(tx, sid, 5, sid, UNLOCK))
                    if whole
                    else (lambda tx: set_plock(tx, sid, 6, sid, RangeLock(UNLOCK, sid, 0, END_MAX)))
                )
                while not engine.write(ask):
                    pass
                held.append(5 if whole else 6)
                most.append(held.count(5 if whole else 6))
                held.remove(5 if whole else 6)
                engine.write(give)

        threads = [threading.Thread(target=work, args=(sid,)) for sid in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most.count(1) == len(most) == 75
        assert engine.read(lambda tx: [*tx.scan(Flock), *tx.scan(Plock)]) == []
