"""Quotas of directories, users and groups: kept, enforced, set and counted again."""

from __future__ import annotations

import dataclasses
import errno
import json
import uuid

import pytest

from juicecache.errors import (
    AccessDeniedError,
    ConfigError,
    EntryNotFoundError,
    NotDirectoryError,
    QuotaExceededError,
)
from juicecache.meta import tree, usage
from juicecache.meta.chunks import truncate
from juicecache.meta.context import Context, CountNeededError, Used
from juicecache.meta.copying import clone_file, copy_range
from juicecache.meta.holding import hold_slices, with_room_for
from juicecache.meta.limits import GROUP, USER
from juicecache.meta.quota import (
    Quota,
    QuotaKind,
    check_quota,
    count_owners,
    list_quotas,
    remove_quota,
    set_quota,
)
from juicecache.meta.remove import remove_below, rmdir, unlink
from juicecache.meta.rename import RenameMode, rename
from juicecache.meta.rows import DirQuota, SliceRef, UserGroupQuota
from juicecache.meta.session import release
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import AttrChange, NewNode
from juicecache.model.attr import ROOT_INODE, NodeType
from juicecache.model.setting import Setting
from juicecache.model.slices import SliceRecord

CTX = Context(
    10**18,
    1000,
    100,
    0o022,
    dir_stats=True,
    capacity_bytes=0,
    inodes_max=0,
    user_group=True,
    quotas=frozenset({ROOT_INODE, 2, 3, 5}),
)
KIB4 = 4096
DIRECTORY = NodeType.DIRECTORY


@pytest.fixture
def volume(engine):
    """/a (2) with /a/b (3), and /c (5); quotas on all of them and the root."""
    setting = Setting.create("quotas", str(uuid.uuid4()), storage="file", bucket="/o/")
    engine.put_setting(
        dataclasses.replace(setting, user_group_quota=True).to_text(lambda: bytes(12))
    )
    for inode in sorted(CTX.quotas):
        engine.write(lambda tx, inode=inode: tx.put(DirQuota(inode, -1, -1, 0, 0)))
    make(engine, ROOT_INODE, b"a", 2, DIRECTORY)
    make(engine, 2, b"b", 3, DIRECTORY)
    make(engine, ROOT_INODE, b"c", 5, DIRECTORY)
    return engine


def make(engine, parent, name, inode, kind=NodeType.FILE, *, length=0, ctx=CTX):
    new = NewNode(inode, kind, 0o777, b"target" if kind == NodeType.SYMLINK else b"")
    engine.write(lambda tx: tree.create(tx, ctx, parent, name, new))
    if length:
        engine.write(lambda tx: truncate(tx, ctx, inode, length))


def change(engine, table, *key, **fields):
    """Change a row, which transactions that change it have read."""

    def body(tx):
        tx.put(tx.get(table, *key, lock=True)._replace(**fields))

    engine.write(body)


def used(engine, inode) -> Used:
    row = engine.read(lambda tx: tx.get(DirQuota, inode))
    return Used(row.used_space, row.used_inodes)


def owned(engine, kind, number) -> Used | None:
    row = engine.read(lambda tx: tx.get(UserGroupQuota, kind, number))
    return None if row is None else Used(row.used_space, row.used_inodes)


def assert_counted(engine):
    """Every quota is what a count says."""
    for row in engine.read(lambda tx: list(tx.scan(DirQuota))):
        assert used(engine, row.inode) == usage.count_below(engine.read, row.inode), row
    for row in engine.read(lambda tx: list(tx.scan(UserGroupQuota))):
        stored, counted = check_quota(engine, QuotaKind(row.kind), row.id)
        assert (stored.used_space, stored.used_inodes) == counted, row


def test_every_directory_above_counts_what_changes_below(volume):
    make(volume, 3, b"f", 10, length=5000)
    make(volume, 3, b"s", 11, NodeType.SYMLINK)
    assert [used(volume, inode) for inode in (1, 2, 3, 5)] == [
        Used(6 * KIB4, 5), Used(4 * KIB4, 3), Used(3 * KIB4, 2), Used(),
    ]  # fmt: skip
    volume.write(lambda tx: truncate(tx, CTX, 10, 1))
    assert used(volume, 2) == Used(3 * KIB4, 3)
    volume.write(lambda tx: tree.link(tx, CTX, 10, 5, b"l"))
    volume.write(lambda tx: truncate(tx, CTX, 10, 9000))  # in each directory that has a name of it
    assert (used(volume, 3), used(volume, 5)) == (Used(4 * KIB4, 2), Used(3 * KIB4, 1))
    assert_counted(volume)
    volume.write(lambda tx: unlink(tx, CTX, 3, b"f"))
    volume.write(lambda tx: unlink(tx, CTX, 3, b"s"))
    assert used(volume, 3) == Used()
    assert_counted(volume)


def test_a_subtree_moves_between_quotas(volume):
    make(volume, 3, b"f", 10, length=5000)
    volume.write(lambda tx: rename(tx, CTX, (2, b"b"), (5, b"b")))
    assert (used(volume, 2), used(volume, 5)) == (Used(), Used(3 * KIB4, 2))
    assert used(volume, 3) == Used(2 * KIB4, 1)
    make(volume, 2, b"x", 11, DIRECTORY)
    make(volume, 11, b"deep", 12, length=1)
    volume.write(lambda tx: rename(tx, CTX, (2, b"x"), (5, b"b"), mode=RenameMode.EXCHANGE))
    assert (used(volume, 2), used(volume, 5)) == (Used(3 * KIB4, 2), Used(2 * KIB4, 2))
    assert_counted(volume)
    plain = CTX._replace(quotas=CTX.quotas - {3})  # one that is not known yet
    volume.write(lambda tx: rename(tx, plain, (2, b"x"), (ROOT_INODE, b"x")))
    assert used(volume, 2) == Used()
    assert_counted(volume)


def test_a_large_subtree_is_counted_before_it_moves(volume, monkeypatch):
    monkeypatch.setattr(usage, "_COUNTED_INSIDE", 1)
    make(volume, 2, b"x", 11, DIRECTORY)
    for inode in (12, 13):
        make(volume, 11, b"%d" % inode, inode)
    with pytest.raises(CountNeededError) as needed:
        volume.write(lambda tx: rename(tx, CTX, (2, b"x"), (5, b"x")))
    assert needed.value.inode == 11
    known = CTX._replace(counted={11: usage.count_below(volume.read, 11)})
    volume.write(lambda tx: rename(tx, known, (2, b"x"), (5, b"x")))
    assert used(volume, 5) == Used(3 * KIB4, 3)
    assert_counted(volume)


def test_what_moves_to_the_trash_leaves_the_quota_and_comes_back(volume):
    hour = volume.write(lambda tx: hourly_directory(tx, CTX))
    trash = CTX._replace(trash=hour)
    make(volume, 3, b"f", 10, length=5000)
    volume.write(lambda tx: unlink(tx, trash, 3, b"f"))
    assert (used(volume, 1), used(volume, 3)) == (Used(3 * KIB4, 3), Used())
    assert owned(volume, USER, 1000) == Used(5 * KIB4, 4)  # an owner still has it
    volume.write(lambda tx: rename(tx, CTX, (hour, b"3-10-f"), (5, b"f")))
    assert used(volume, 5) == Used(2 * KIB4, 1)
    assert_counted(volume)


def test_a_tree_that_is_removed_takes_its_quotas_along(volume):
    make(volume, 3, b"f", 10)
    while volume.write(lambda tx: remove_below(tx, CTX, 2, limit=10)):
        pass
    volume.write(lambda tx: rmdir(tx, CTX, ROOT_INODE, b"a"))
    assert used(volume, 1) == Used(KIB4, 1)
    assert [row.inode for row in volume.read(lambda tx: list(tx.scan(DirQuota)))] == [1, 5]
    assert_counted(volume)


def test_copies_count(volume):
    make(volume, 3, b"f", 10)
    volume.write(lambda tx: tx.put(SliceRef(1, 5000, 1)))
    volume.write(lambda tx: tx.append(10, 0, SliceRecord(0, 1, 5000, 0, 5000).pack()))
    volume.write(lambda tx: truncate(tx, CTX, 10, 5000))
    source = volume.read(lambda tx: tree.getattr(tx, 10))
    volume.write(lambda tx: clone_file(tx, CTX, source, 5, b"clone", 11))
    make(volume, 5, b"part", 12)
    volume.write(lambda tx: copy_range(tx, CTX, 10, 0, 12, 0, 5000))
    assert used(volume, 5) == Used(4 * KIB4, 2)
    assert_counted(volume)


LIMITS = [
    ({"max_inodes": 1}, lambda tx: tree.create(tx, CTX, 3, b"n", NewNode(20, DIRECTORY, 0))),
    ({"max_inodes": 1}, lambda tx: tree.link(tx, CTX, 11, 3, b"n")),
    ({"max_inodes": 1}, lambda tx: rename(tx, CTX, (5, b"g"), (3, b"g"))),
    ({"max_space": 2 * KIB4}, lambda tx: truncate(tx, CTX, 10, 9000)),
    ({"max_space": 3 * KIB4}, lambda tx: rename(tx, CTX, (5, b"d"), (3, b"d"))),
]


@pytest.mark.parametrize(("limit", "body"), LIMITS)
@pytest.mark.parametrize("holder", [2, 3])
def test_growth_stops_at_a_directorys_quota(volume, limit, body, holder):
    make(volume, 3, b"f", 10, length=5000)
    make(volume, 5, b"g", 11, length=1)
    make(volume, 5, b"d", 12, DIRECTORY)
    make(volume, 12, b"deep", 13, length=5000)
    extra = {2: {"max_inodes": 1, "max_space": KIB4}, 3: {}}[holder]  # that of /a/b itself
    wanted = {name: value + extra.get(name, 0) for name, value in limit.items()}
    change(volume, DirQuota, holder, **wanted)
    with pytest.raises(QuotaExceededError, match=f"directory inode {holder}, ") as refused:
        volume.write(body)
    assert refused.value.errno == errno.EDQUOT
    assert_counted(volume)
    volume.write(lambda tx: unlink(tx, CTX, 3, b"f"))  # what shrinks is never refused
    assert_counted(volume)


def test_a_quota_taken_away_meanwhile_does_no_harm(volume):
    volume.write(lambda tx: tx.delete(DirQuota, 3))
    make(volume, 3, b"f", 10)
    assert used(volume, 2) == Used(2 * KIB4, 2)


def test_owners_count_what_they_own_once(volume):
    make(volume, 3, b"f", 10, length=5000)
    assert owned(volume, USER, 1000) == owned(volume, GROUP, 100) == Used(5 * KIB4, 4)
    volume.write(lambda tx: tree.link(tx, CTX, 10, 5, b"l"))
    assert owned(volume, USER, 1000) == Used(5 * KIB4, 4)
    volume.write(lambda tx: tree.set_attr(tx, CTX, 10, AttrChange(uid=7)))
    assert (owned(volume, USER, 1000), owned(volume, USER, 7)) == (Used(3 * KIB4, 3), Used(8192, 1))
    assert owned(volume, GROUP, 100) == Used(5 * KIB4, 4)
    row = volume.read(lambda tx: tx.get(UserGroupQuota, USER, 7))
    assert (row.max_space, row.max_inodes) == (-1, -1)
    assert_counted(volume)
    for name in (b"f", b"l"):
        parent = 3 if name == b"f" else 5
        volume.write(lambda tx, at=(parent, name): unlink(tx, CTX, *at))
    assert owned(volume, USER, 7) == Used()
    assert_counted(volume)


def test_a_file_that_is_open_counts_for_its_owner_until_the_last_close(volume):
    make(volume, 3, b"f", 10)
    volume.write(lambda tx: unlink(tx, CTX._replace(sid=9, opened={10}), 3, b"f"))
    assert owned(volume, USER, 1000) == Used(4 * KIB4, 4)
    volume.write(lambda tx: release(tx, 9, 10, 0))
    assert owned(volume, USER, 1000) == Used(3 * KIB4, 3)


@pytest.mark.parametrize("key", [(USER, 1000), (GROUP, 100)])
def test_growth_stops_at_an_owners_quota(volume, key):
    change(volume, UserGroupQuota, *key, max_inodes=4, max_space=8 * KIB4)
    make(volume, 3, b"f", 10, length=5000)
    who = "user 1000" if key[0] == USER else "group 100"
    with pytest.raises(QuotaExceededError, match=f"{who}, 4 inodes"):
        make(volume, 5, b"g", 11)
    with pytest.raises(QuotaExceededError, match=f"{who}, {8 * KIB4} bytes"):
        volume.write(lambda tx: truncate(tx, CTX, 10, 1 << 20))
    make(volume, 5, b"g", 11, ctx=CTX._replace(uid=1, gid=1))
    volume.write(lambda tx: tree.set_attr(tx, CTX, 11, AttrChange(uid=1000, gid=100)))
    assert_counted(volume)


def test_what_a_batch_holds_is_not_counted_twice(volume):
    change(volume, UserGroupQuota, USER, 1000, max_space=5 * KIB4)
    held = volume.write(lambda tx: hold_slices(tx, CTX, 4, 30, [SliceRecord(0, 1, 8192, 0, 8192)]))
    assert owned(volume, USER, 1000) == Used(5 * KIB4, 4)
    ctx = with_room_for(CTX, [held])
    make(volume, 5, b"g", 11, length=8192, ctx=ctx)
    with pytest.raises(QuotaExceededError):
        make(volume, 5, b"h", 12, ctx=ctx)


def test_a_volume_without_these_features_writes_no_row(volume):
    ctx = CTX._replace(user_group=False, quotas=frozenset())
    before = volume.read(lambda tx: [*tx.scan(DirQuota), *tx.scan(UserGroupQuota)])
    make(volume, 3, b"f", 10, length=5000, ctx=ctx)
    assert volume.read(lambda tx: [*tx.scan(DirQuota), *tx.scan(UserGroupQuota)]) == before


class TestCommands:
    """What sets, lists and checks quotas."""

    def test_a_new_quota_begins_with_what_is_there(self, volume):
        make(volume, 3, b"f", 10, length=5000)
        volume.write(lambda tx: tx.delete(DirQuota, 2))
        made = set_quota(volume, QuotaKind.DIRECTORY, 2, max_space=1 << 30)
        assert made == Quota(QuotaKind.DIRECTORY, 2, 1 << 30, -1, 3 * KIB4, 2)
        changed = set_quota(volume, QuotaKind.DIRECTORY, 2, max_inodes=7)
        assert changed == made._replace(max_inodes=7)
        assert made._replace(max_inodes=7) in list_quotas(volume)
        assert set_quota(volume, QuotaKind.DIRECTORY, 2, max_space=0).max_space == 0
        assert_counted(volume)

    def test_what_is_large_is_counted_in_pages(self, volume, monkeypatch):
        monkeypatch.setattr(usage, "_COUNTED_INSIDE", 2)
        monkeypatch.setattr(usage, "_PAGE", 2)
        for inode in range(10, 15):
            make(volume, 3, b"%d" % inode, inode)
        volume.write(lambda tx: tx.delete(DirQuota, 2))
        assert set_quota(volume, QuotaKind.DIRECTORY, 2)[4:] == (6 * KIB4, 6)
        change(volume, DirQuota, 2, used_space=1, used_inodes=1)
        stored, counted = check_quota(volume, QuotaKind.DIRECTORY, 2)
        assert (stored.used_inodes, counted) == (1, Used(6 * KIB4, 6))
        check_quota(volume, QuotaKind.DIRECTORY, 2, repair=True)
        assert_counted(volume)

    def test_users_and_groups(self, volume):
        made = set_quota(volume, QuotaKind.USER, 1000, max_inodes=5)
        assert made == Quota(QuotaKind.USER, 1000, -1, 5, 3 * KIB4, 3)
        assert set_quota(volume, QuotaKind.GROUP, 9, max_inodes=5)[4:] == (0, 0)
        limited = [quota for quota in list_quotas(volume) if quota.kind is not QuotaKind.DIRECTORY]
        assert [(quota.kind, quota.id) for quota in limited] == [(1, 1000), (2, 9)]
        change(volume, UserGroupQuota, USER, 1000, used_space=1)
        check_quota(volume, QuotaKind.USER, 1000, repair=True)
        assert_counted(volume)
        assert remove_quota(volume, QuotaKind.USER, 1000)
        assert not remove_quota(volume, QuotaKind.USER, 1000)
        assert owned(volume, USER, 1000) == Used(3 * KIB4, 3)

    def test_the_first_limit_of_a_user_lets_the_volume_count(self, engine, volume):
        record = json.loads(volume.setting())
        volume.put_setting(json.dumps(record | {"UserGroupQuota": False, "Unknown": [1]}))
        for kind, number in ((USER, 1000), (GROUP, 100)):
            volume.write(lambda tx, key=(kind, number): tx.delete(UserGroupQuota, *key))
        make(volume, 3, b"f", 10, ctx=CTX._replace(user_group=False))
        assert set_quota(volume, QuotaKind.USER, 1000, max_inodes=9).used_inodes == 4
        assert json.loads(volume.setting()) == record | {"UserGroupQuota": True, "Unknown": [1]}
        assert_counted(volume)

    def test_a_count_of_owners_keeps_limits_and_mends(self, volume):
        set_quota(volume, QuotaKind.USER, 1000, max_inodes=9)
        change(volume, UserGroupQuota, USER, 1000, used_space=1)
        volume.write(lambda tx: tx.put(UserGroupQuota(USER, 8, -1, 3, 5, 5)))
        count_owners(volume)
        assert volume.read(lambda tx: tx.get(UserGroupQuota, USER, 1000)).max_inodes == 9
        assert owned(volume, USER, 8) == Used()
        assert_counted(volume)

    def test_a_directorys_quota_goes(self, volume):
        assert remove_quota(volume, QuotaKind.DIRECTORY, 3)
        assert not remove_quota(volume, QuotaKind.DIRECTORY, 3)
        with pytest.raises(EntryNotFoundError, match="has no quota"):
            check_quota(volume, QuotaKind.DIRECTORY, 3)

    def test_what_cannot_be(self, volume):
        make(volume, 3, b"f", 10)
        hour = volume.write(lambda tx: hourly_directory(tx, CTX))
        directory = QuotaKind.DIRECTORY
        with pytest.raises(EntryNotFoundError):
            set_quota(volume, directory, 99, max_inodes=1)
        with pytest.raises(NotDirectoryError):
            set_quota(volume, directory, 10, max_inodes=1)
        with pytest.raises(AccessDeniedError):
            set_quota(volume, directory, hour, max_inodes=1)
        for limit in (-1, 1 << 63):
            with pytest.raises(ConfigError, match="out of range"):
                set_quota(volume, directory, 2, max_space=limit)
        with pytest.raises(ConfigError, match="no user"):
            set_quota(volume, QuotaKind.USER, 1 << 32, max_space=1)
        record = json.loads(volume.setting())
        volume.put_setting(json.dumps(record | {"DirStats": False}))
        with pytest.raises(ConfigError, match="DirStats"):
            set_quota(volume, directory, 2, max_space=1)
