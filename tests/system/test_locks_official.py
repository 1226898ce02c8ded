"""Locks that this library and official mounts hold against each other."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable

import pytest

from juicecache.meta.locks import END_MAX, LockKind, RangeLock
from juicecache.meta.rows import Session
from juicecache.testing.official import SharedVolume
from juicecache.testing.oracle import assert_clean
from juicecache.testing.processes import in_child
from juicecache.volume.locking import Locks
from juicecache.volume.upkeep import Upkeep
from juicecache.volume.volume import Volume

pytestmark = pytest.mark.service

SHARED, EXCLUSIVE, UNLOCK = LockKind
OURS = 0xFFFF_0000_0000_0001
_FLOCK = struct.Struct("hhqqi4x")


def whole(kind: LockKind) -> RangeLock:
    return RangeLock(kind, os.getpid(), 10, 109)


def refused(take: Callable[[], object]) -> bool:
    try:
        take()
    except (BlockingIOError, PermissionError):
        return True
    return False


def test_each_respects_the_other(shared: SharedVolume) -> None:
    shared.format_ours(trash_days=0)
    with shared.mounted() as point, shared.open() as volume:
        (point / "f").write_bytes(bytes(200))
        inode = volume.stat("/f").inode
        locks = Locks(volume.parts)
        with open(point / "f", "r+b") as theirs:
            check_whole(locks, inode, theirs.fileno())
            check_ranges(locks, inode, theirs.fileno())
    assert_clean(shared.meta)


def check_whole(locks: Locks, inode: int, theirs: int) -> None:
    at_once = fcntl.LOCK_NB
    assert locks.flock(inode, OURS, EXCLUSIVE)
    assert refused(lambda: fcntl.flock(theirs, fcntl.LOCK_SH | at_once))
    assert locks.flock(inode, OURS, SHARED)  # downgraded
    assert not refused(lambda: fcntl.flock(theirs, fcntl.LOCK_SH | at_once))
    assert not locks.flock(inode, OURS, EXCLUSIVE)
    assert locks.flock(inode, OURS, UNLOCK)
    assert not refused(lambda: fcntl.flock(theirs, fcntl.LOCK_EX | at_once))
    assert not locks.flock(inode, OURS, SHARED)
    stop = threading.Event()
    waiting = threading.Thread(
        target=locks.flock, args=(inode, OURS, EXCLUSIVE), kwargs={"stop": stop}
    )
    waiting.start()
    fcntl.flock(theirs, fcntl.LOCK_UN)
    waiting.join(10)
    assert not waiting.is_alive()
    assert refused(lambda: fcntl.flock(theirs, fcntl.LOCK_SH | at_once))
    locks.flock(inode, OURS, UNLOCK)


def check_ranges(locks: Locks, inode: int, theirs: int) -> None:
    at_once = fcntl.LOCK_NB
    assert locks.set_range(inode, OURS, whole(EXCLUSIVE))
    assert refused(lambda: fcntl.lockf(theirs, fcntl.LOCK_SH | at_once, 1, 109))
    assert not refused(lambda: fcntl.lockf(theirs, fcntl.LOCK_EX | at_once, 10, 0))
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 50, 10, 0)
    kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(theirs, fcntl.F_GETLK, asked))
    assert (kind, start, length) == (fcntl.F_WRLCK, 10, 100)
    found = locks.find_range(inode, OURS, RangeLock(SHARED, 1, 0, 5))
    assert found is not None
    assert (found.kind, found.pid, found.start, found.end) == (EXCLUSIVE, 0, 0, 9)
    assert not locks.set_range(inode, OURS, RangeLock(SHARED, 1, 9, END_MAX))
    assert locks.set_range(inode, OURS, RangeLock(UNLOCK, 1, 20, 29))
    assert not refused(lambda: fcntl.lockf(theirs, fcntl.LOCK_EX | at_once, 10, 20))
    assert refused(lambda: fcntl.lockf(theirs, fcntl.LOCK_EX | at_once, 1, 30))
    fcntl.lockf(theirs, fcntl.LOCK_UN)
    assert locks.set_range(inode, OURS, RangeLock(EXCLUSIVE, 1, 0, END_MAX))
    assert refused(lambda: fcntl.lockf(theirs, fcntl.LOCK_SH | at_once, 1, 1 << 40))
    assert locks.set_range(inode, OURS, RangeLock(UNLOCK, 1, 0, END_MAX))


def sessions(volume: Volume) -> list[Session]:
    return volume.parts().engine.read(lambda tx: list(tx.scan(Session)))


def test_a_process_that_dies_gives_its_locks_back(shared: SharedVolume) -> None:
    shared.format_ours(trash_days=0)
    with shared.open(no_bgjob=True) as volume:
        volume.write_file("/f", b"x")
        inode = volume.stat("/f").inode

        def die() -> None:
            other = shared.open(no_bgjob=True)
            theirs = Locks(other.parts)
            assert theirs.flock(inode, OURS, EXCLUSIVE)
            assert theirs.set_range(inode, OURS, whole(EXCLUSIVE))
            os._exit(0)

        assert in_child(die) == 0
        with shared.open(no_bgjob=True) as another:
            assert not Locks(another.parts).flock(inode, OURS, SHARED)
        locks = Locks(volume.parts)
        gate = volume.parts().meta.gate
        clock = gate._clock
        gate._clock = lambda: clock() + 120 * 10**9
        Upkeep(volume.parts()).run_due()
        assert locks.flock(inode, OURS, SHARED)
        assert locks.set_range(inode, OURS, whole(SHARED))
        (mine,) = sessions(volume)
        assert b'"IPAddrs"' in mine.info
        assert "IPAddrs" in shared.run("status", shared.meta)
    with shared.open() as volume:
        assert sessions(volume) == []
        assert Locks(volume.parts).flock(inode, OURS, EXCLUSIVE)


@pytest.mark.parametrize("engine_kind", ["sqlite"])
def test_waiting_ends_when_it_is_told_to(shared: SharedVolume) -> None:
    shared.format_ours(trash_days=0)
    with shared.open() as volume, shared.open() as other:
        volume.write_file("/f", b"x")
        inode = volume.stat("/f").inode
        assert Locks(volume.parts).flock(inode, OURS, EXCLUSIVE)
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        assert not Locks(other.parts).flock(inode, OURS, EXCLUSIVE, stop=stop)
        assert not Locks(other.parts).flock(inode, OURS, SHARED, stop=None)
