"""What stands before a change."""

from __future__ import annotations

import json
import uuid

import pytest

from juicecache.errors import ReadOnlyVolumeError, VolumeFormatError
from juicecache.meta.gate import Gate
from juicecache.meta.presence import Presence
from juicecache.meta.rows import DirQuota, Session
from juicecache.model.setting import Setting

NOW_NS = 1_700_000_000 * 10**9
HOUR_NS = 3600 * 10**9


class Clock:
    """Time that stands until it is moved."""

    now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def record():
    setting = Setting.create(
        "gated", str(uuid.uuid4()), storage="file", bucket="/objects/", trash_days=1
    )
    return json.loads(setting.to_text(lambda: bytes(12)))


@pytest.fixture
def make(engine, record):
    def gate(*, heartbeat_s: float = 0.0, read_only: bool = False) -> Gate:
        clock = Clock()
        engine.put_setting(json.dumps(record))
        made = Gate(
            engine,
            Setting.parse(json.dumps(record)),
            Presence(engine, 12.0, clock, "1"),
            read_only=read_only,
            heartbeat_s=heartbeat_s,
            owner=(1, 2, 0o027),
            clock=clock,
        )
        made.clock = clock
        return made

    return gate


def test_the_record_is_read_again_once_a_heartbeat(engine, make, record):
    now, later = make(), make(heartbeat_s=3600.0)
    now.check_writable("/x")
    later.check_writable("/x")
    engine.put_setting(json.dumps(record | {"EnableACL": True, "TrashDays": 9}))
    with pytest.raises(ReadOnlyVolumeError, match="ACL") as failed:
        now.check_writable("/x")
    assert failed.value.filename == "/x"
    assert now.setting.trash_days == 9
    later.check_writable("/x")
    engine.put_setting(json.dumps(record))
    now.check_writable("/x")


def test_a_record_that_is_gone_newer_or_anothers_stops_everything(engine, make, record):
    gate = make()
    engine.put_setting(json.dumps(record | {"UUID": str(uuid.uuid4())}))
    with pytest.raises(VolumeFormatError, match="another volume"):
        gate.check()
    engine.put_setting(json.dumps(record | {"MetaVersion": 99}))
    with pytest.raises(VolumeFormatError, match="99"):
        gate.check()


def test_a_directory_quota_refuses_changes(engine, make):
    gate = make()
    engine.write(lambda tx: tx.put(DirQuota(1, 0, 100, 0, 0)))
    with pytest.raises(ReadOnlyVolumeError, match="quota"):
        gate.check_writable("/x")
    engine.write(lambda tx: tx.delete(DirQuota, 1))
    gate.check_writable("/x")


def test_read_only_refuses_without_asking(engine, make):
    gate = make(read_only=True)
    assert gate.read_only
    engine.close()
    with pytest.raises(ReadOnlyVolumeError, match="read_only"):
        gate.check_writable("/x")


def test_a_context_has_the_owner_and_the_limits(make):
    ctx = make().context()
    assert (ctx.now_ns, ctx.uid, ctx.gid, ctx.umask) == (NOW_NS, 1, 2, 0o027)
    assert (ctx.trash, ctx.sid) == (0, 0)


def test_removals_get_the_trash_directory_of_the_hour(make):
    gate = make()
    first = gate.removal_context()
    assert first.trash
    assert gate.removal_context().trash == first.trash
    assert gate.removal_context(skip_trash=True).trash == 0
    gate.clock.now_ns += HOUR_NS
    assert gate.removal_context().trash not in (0, first.trash)


def test_removals_get_a_session_only_while_something_is_open(engine, make):
    gate = make()
    assert gate.removal_context().sid == 0
    gate._presence.open(7)
    ctx = gate.removal_context()
    assert ctx.sid == gate._presence.sid != 0
    assert 7 in ctx.opened
    gate._presence.end()
    assert engine.read(lambda tx: list(tx.scan(Session))) == []
