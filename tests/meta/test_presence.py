"""Open inodes of a process, and the session that protects them."""

from __future__ import annotations

import json
import threading

import pytest

from juicecache.meta import session
from juicecache.meta.presence import Presence
from juicecache.meta.rows import Session, Sustained

NOW_NS = 10**15
SECOND_NS = 10**9


class Clock:
    """Time that stands until it is moved."""

    now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def presence(engine, clock):
    presence = Presence(engine, 12.0, clock, "1.4.1+juicecache")
    yield presence
    presence.end()


def rows(engine, table) -> list:
    return engine.read(lambda tx: list(tx.scan(table)))


def test_handles_are_counted_and_only_the_last_close_of_a_nameless_file_releases(presence):
    presence.open(5)
    presence.open(5)
    assert presence.sustain(5)
    assert not presence.close(5)
    assert presence.close(5)
    assert not presence.close(5)
    assert presence.opened == {}


def test_a_file_that_was_closed_meanwhile_is_not_sustained(presence):
    presence.open(5)
    assert not presence.close(5)
    assert not presence.sustain(5)


def test_there_is_one_session_and_only_when_it_is_asked_for(engine, presence):
    assert (presence.sid, rows(engine, Session)) == (0, [])
    start = threading.Barrier(4)
    found: set[int] = set()

    def ask() -> None:
        start.wait(30)
        found.add(presence.ensure_session())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {presence.sid}
    (row,) = rows(engine, Session)
    assert row.expire_s == NOW_NS // SECOND_NS + 60
    info = json.loads(row.info)
    assert info["Version"] == "1.4.1+juicecache"
    assert {"HostName", "MountPoint", "MountTime", "ProcessID"} <= info.keys()


def test_ending_takes_the_session_and_what_it_held(engine, presence):
    sid = presence.ensure_session()
    engine.write(lambda tx: tx.put(Sustained(sid, 5)))
    assert presence.end() == []
    assert presence.end() == []
    assert (rows(engine, Session), rows(engine, Sustained), presence.sid) == ([], [], 0)


def test_the_heartbeat_renews_and_reports_a_session_that_was_lost(engine, clock, caplog):
    renewed = threading.Event()
    lost = threading.Event()

    class Watched(Presence):
        def _renew(self, sid: int, info: bytes) -> None:
            super()._renew(sid, info)
            (renewed if not caplog.records else lost).set()

    presence = Watched(engine, 0.01, clock, "1.4.1")
    sid = presence.ensure_session()
    clock.now_ns += 100 * SECOND_NS
    assert renewed.wait(30)
    engine.write(lambda tx: session.close_session(tx, sid, 0))
    assert lost.wait(30)
    assert f"session {sid} was removed by another client" in caplog.text
    presence.end()
    assert rows(engine, Session) == []
    assert not any(thread.name == "juicecache-heartbeat" for thread in threading.enumerate())


def test_the_heartbeat_survives_what_nobody_expects(engine, clock, caplog):
    again = threading.Event()

    class Broken(Presence):
        beats = 0

        def _renew(self, sid: int, info: bytes) -> None:
            self.beats += 1
            if self.beats == 1:
                raise ValueError("a clock that stands on its head")
            again.set()

    presence = Broken(engine, 0.01, clock, "1.4.1")
    presence.ensure_session()
    assert again.wait(30)
    presence.end()
    assert "was not renewed: ValueError('a clock that stands on its head')" in caplog.text
