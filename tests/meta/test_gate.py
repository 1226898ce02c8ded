"""What stands before a change."""

from __future__ import annotations

import json
import uuid

import pytest

from juicecache.errors import ConflictError, ReadOnlyVolumeError, VolumeFormatError
from juicecache.meta import tree, usage
from juicecache.meta.context import CountNeededError, SessionNeededError, TrashNeededError
from juicecache.meta.engine import Origin
from juicecache.meta.gate import Gate
from juicecache.meta.presence import Presence
from juicecache.meta.rows import DirQuota, DirStats, Edge, Session
from juicecache.meta.tree import NewNode
from juicecache.model.attr import TRASH_INODE, Attr, NodeType
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
    sealed = {"EncryptKey": "pem", "EncryptAlgo": "sm4gcm", "KeyEncrypted": False}
    engine.put_setting(json.dumps(record | sealed | {"TrashDays": 9}))
    with pytest.raises(ReadOnlyVolumeError, match="sm4gcm") as failed:
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


def test_a_context_has_the_features_of_the_volume(engine, make, record):
    gate = make()
    gate.check()
    assert engine.origin is None
    assert gate.context()[-5:] == (False, False, frozenset(), {}, (0, 0))
    features = {"EnableACL": True, "UserGroupQuota": True, "ChangeLog": True}
    engine.put_setting(json.dumps(record | features))
    engine.write(lambda tx: tx.put(DirQuota(1, 0, 100, 0, 0)))
    gate.check_writable("/x")
    ctx = gate.context()
    assert (ctx.acl, ctx.user_group, ctx.quotas) == (True, True, {1})
    assert engine.write(lambda tx: tx.origin) == Origin(NOW_NS, 0, 1)
    engine.put_setting(json.dumps(record | {"DirStats": False}))
    gate.check_writable("/x")
    assert gate.context().quotas == frozenset()
    assert engine.write(lambda tx: tx.origin) is None


def test_a_quota_that_this_process_sets_is_known_at_once(engine, make):
    gate = make(heartbeat_s=3600.0)
    gate.check()
    engine.write(lambda tx: tx.put(DirQuota(1, 0, 100, 0, 0)))
    gate.check()
    assert gate.context().quotas == frozenset()
    gate.refresh()
    gate.check()
    assert gate.context().quotas == {1}


def test_what_a_move_between_quotas_takes_along_is_counted_before_where_it_is_large(engine, make):
    def body(_, ctx):
        if 1 not in ctx.counted:
            raise CountNeededError(1)
        return ctx.counted[1]

    gate = make()
    engine.write(lambda tx: tree.create(tx, gate.context(), 1, b"d", NewNode(2, NodeType.FILE, 0)))
    assert gate.remove(body) == (4096, 1)


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


def wanting_trash(tx, ctx):
    """A body that moves something into the trash."""
    if ctx.trash < 0 or tx.get(Attr, ctx.trash) is None:
        raise TrashNeededError
    return ctx.trash


def hours(engine):
    return engine.read(lambda tx: list(tx.scan(Edge, TRASH_INODE)))


def test_removals_get_the_trash_directory_of_the_hour_once_one_needs_it(engine, make):
    gate = make()
    assert gate.remove(lambda _, ctx: ctx.trash) < 0
    assert hours(engine) == []
    first = gate.remove(wanting_trash)
    assert first > TRASH_INODE
    assert gate.remove(lambda _, ctx: ctx.trash) == first
    assert gate.remove(lambda _, ctx: ctx.trash, skip_trash=True) == 0
    gate.clock.now_ns += HOUR_NS
    assert gate.remove(wanting_trash) not in (0, first)
    assert len(hours(engine)) == 2


def test_an_hour_that_another_client_dropped_is_made_again(engine, make):
    gate = make()
    first = gate.remove(wanting_trash)
    (edge,) = hours(engine)
    engine.write(lambda tx: tx.delete(Attr, first))  # as clients did that took it for a directory
    assert gate.remove(wanting_trash) == first
    assert engine.read(usage.totals) == (8192, 2)  # one of them was never counted down
    for table, key in ((Attr, (first,)), (Edge, (TRASH_INODE, edge.name)), (DirStats, (first,))):
        engine.write(lambda tx, table=table, key=key: tx.delete(table, *key))
    second = gate.remove(wanting_trash)
    assert second > first
    assert engine.read(lambda tx: tx.get(Attr, second)) is not None


def test_what_is_taken_away_again_and_again_is_a_conflict(make):
    def never(_, ctx):
        raise TrashNeededError

    with pytest.raises(ConflictError, match="as soon as it is made"):
        make().remove(never)


def test_removals_get_a_session_once_an_open_file_loses_its_last_name(engine, make):
    gate = make()
    gate._presence.open(8)

    def body(_, ctx):
        gate._presence.open(7)  # another thread's, after the transaction began
        if 7 in ctx.opened and not ctx.sid:
            raise SessionNeededError
        return ctx.sid

    assert gate.remove(lambda _, ctx: ctx.sid) == 0
    assert engine.read(lambda tx: list(tx.scan(Session))) == []
    assert gate.remove(body) == gate._presence.sid != 0
    gate._presence.end()
    assert engine.read(lambda tx: list(tx.scan(Session))) == []
