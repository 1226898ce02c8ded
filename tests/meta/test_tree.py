"""Names and inodes: made, found, linked and changed."""

from __future__ import annotations

import errno

import pytest

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    InvalidNameError,
    NoSpaceError,
    NotDirectoryError,
)
from juicecache.meta import tree, usage
from juicecache.meta.context import Context
from juicecache.meta.remove import rmdir, unlink
from juicecache.meta.rows import Counter, DirStats, Edge, Symlink
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import SYMLINKS_MAX, AttrChange, NewNode
from juicecache.model.attr import (
    RESERVED_ROOT_NAMES,
    ROOT_INODE,
    TIME_NS_MAX,
    TRASH_INODE,
    Attr,
    NodeFlag,
    NodeType,
)

NOW = 10**18
CTX = Context(NOW, 1000, 100, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
FILE, DIRECTORY, SYMLINK = NodeType.FILE, NodeType.DIRECTORY, NodeType.SYMLINK


def add(engine, parent, name, inode, kind=FILE, mode=0o666, target=b"", ctx=CTX, rdev=0) -> Attr:
    new = NewNode(inode, kind, mode, target, rdev)
    return engine.write(lambda tx: tree.create(tx, ctx, parent, name, new))


def attr_of(engine, inode) -> Attr:
    return engine.read(lambda tx: tree.getattr(tx, inode))


def find(engine, *names, follow=True) -> Attr:
    return engine.read(lambda tx: tree.resolve(tx, names, follow=follow))


def change(engine, inode, ctx=CTX, **fields) -> Attr:
    return engine.write(lambda tx: tree.set_attr(tx, ctx, inode, AttrChange(**fields)))


# ---------------------------------------------------------------- a new volume


def test_a_new_volume_has_a_root_a_trash_and_its_counters(engine):
    assert attr_of(engine, ROOT_INODE) == Attr(
        1, DIRECTORY, mode=0o777, nlink=2, length=4096, parent=1
    )
    assert attr_of(engine, TRASH_INODE)[1:4] == (DIRECTORY, 0, 0o555)
    counters = engine.read(lambda tx: {row.name: row.value for row in tx.scan(Counter)})
    assert counters == {
        "nextInode": 2,
        "nextChunk": 1,
        "nextSession": 0,
        "usedSpace": 0,
        "totalInodes": 0,
        "nextCleanupSlices": 0,
    }


def test_root_and_trash_exist_without_a_row(engine):
    engine.write(lambda tx: [tx.delete(Attr, ROOT_INODE), tx.delete(Attr, TRASH_INODE)])
    assert attr_of(engine, ROOT_INODE).mode == 0o777
    assert find(engine, b".trash").inode == TRASH_INODE
    with pytest.raises(EntryNotFoundError):
        attr_of(engine, 5)


# ---------------------------------------------------------------- create


def test_a_file_is_what_its_creator_asked_for(engine):
    attr = add(engine, ROOT_INODE, b"f", 2, mode=0o4666)
    assert attr == Attr(
        2, FILE, 0, 0o4644, 1000, 100, NOW, NOW, NOW, nlink=1, length=0, parent=ROOT_INODE
    )
    assert attr_of(engine, 2) == attr == find(engine, b"f")
    assert engine.read(lambda tx: tx.get(Edge, 1, b"f")) == Edge(1, b"f", 2, FILE)
    root = attr_of(engine, ROOT_INODE)
    assert (root.nlink, root.mtime_ns, root.ctime_ns, root.atime_ns) == (2, NOW, NOW, 0)
    assert engine.read(lambda tx: tx.get(DirStats, 1)) == DirStats(1, 0, 4096, 1)
    assert engine.read(usage.totals) == (4096, 1)


def test_a_directory_counts_in_the_links_of_its_parent(engine):
    attr = add(engine, ROOT_INODE, b"d", 2, DIRECTORY, 0o777)
    assert (attr.nlink, attr.length, attr.mode) == (2, 4096, 0o755)
    assert attr_of(engine, ROOT_INODE).nlink == 3
    assert engine.read(lambda tx: tx.get(DirStats, 2)) == DirStats(2, 0, 0, 0)


def test_without_dir_stats_no_usage_rows_are_kept(engine):
    ctx = CTX._replace(dir_stats=False)
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY, ctx=ctx)
    assert engine.read(lambda tx: list(tx.scan(DirStats))) == []
    assert engine.read(usage.totals) == (4096, 1)


def test_links_devices_and_pipes(engine):
    link = add(engine, ROOT_INODE, b"l", 2, SYMLINK, 0, b"../x\xff")
    assert (link.mode, link.length, link.space) == (0o777, 5, 4096)
    assert engine.read(lambda tx: tree.readlink(tx, 2)) == b"../x\xff"
    device = add(engine, ROOT_INODE, b"v", 3, NodeType.CHAR_DEVICE, rdev=0x103)
    assert attr_of(engine, 3) == device
    assert device.rdev == 0x103
    with pytest.raises(FileError) as caught:
        engine.read(lambda tx: tree.readlink(tx, 3))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("target", "number"),
    [(b"", errno.EINVAL), (b"a\0", errno.EINVAL), (b"x" * 4097, errno.ENAMETOOLONG)],
)
def test_bad_targets(engine, target, number):
    with pytest.raises(InvalidNameError) as caught:
        add(engine, ROOT_INODE, b"l", 2, SYMLINK, 0, target)
    assert caught.value.errno == number
    assert engine.read(lambda tx: list(tx.scan(Symlink))) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [(b"", errno.EINVAL), (b".", errno.EINVAL), (b"..", errno.EINVAL), (b"a/b", errno.EINVAL),
     (b"a\0", errno.EINVAL), (b"x" * 256, errno.ENAMETOOLONG)],
)  # fmt: skip
def test_bad_names(engine, name, number):
    with pytest.raises(InvalidNameError) as caught:
        add(engine, ROOT_INODE, name, 2)
    assert caught.value.errno == number


def test_names_are_bytes_up_to_255(engine):
    for inode, name in enumerate((b"\xff\xfe", b" ", b"x" * 255, b"...", "\u00e9".encode()), 2):
        add(engine, ROOT_INODE, name, inode)
        assert find(engine, name).inode == inode


@pytest.mark.parametrize("name", sorted(RESERVED_ROOT_NAMES))
def test_reserved_names_are_refused_in_the_root_only(engine, name):
    with pytest.raises(AccessDeniedError):
        add(engine, ROOT_INODE, name, 2)
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY)
    assert add(engine, 2, name, 3).inode == 3


def test_what_a_new_inode_inherits(engine):
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY)
    inherited = {"mode": 0o2775, "gid": 50, "tier": 2}
    flags = NodeFlag.SKIP_TRASH | NodeFlag.WIN_HIDDEN
    engine.write(lambda tx: tx.set(Attr, 2, flags=int(flags), **inherited))
    below = add(engine, 2, b"d", 3, DIRECTORY, 0o755)
    assert (below.gid, below.mode, below.flags, below.tier) == (50, 0o2755, 32, 2)
    foreign = add(engine, 2, b"f", 4, mode=0o2755)
    assert (foreign.gid, foreign.mode) == (50, 0o755)
    member = add(engine, 2, b"m", 5, mode=0o2755, ctx=CTX._replace(gid=50))
    assert member.mode == 0o2755


def test_where_nothing_can_be_created(engine):
    add(engine, ROOT_INODE, b"f", 2)
    with pytest.raises(EntryExistsError):
        add(engine, ROOT_INODE, b"f", 3)
    with pytest.raises(NotDirectoryError):
        add(engine, 2, b"x", 3)
    with pytest.raises(EntryNotFoundError):
        add(engine, 99, b"x", 3)
    with pytest.raises(AccessDeniedError):
        add(engine, TRASH_INODE, b"x", 3)
    engine.write(lambda tx: tx.set(Attr, ROOT_INODE, flags=int(NodeFlag.IMMUTABLE)))
    with pytest.raises(AccessDeniedError):
        add(engine, ROOT_INODE, b"x", 3)
    engine.write(lambda tx: tx.set(Attr, ROOT_INODE, flags=int(NodeFlag.APPEND_ONLY)))
    add(engine, ROOT_INODE, b"x", 3)


def test_nothing_is_created_in_a_directory_that_is_in_the_trash(engine):
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY)
    ctx = CTX._replace(trash=engine.write(lambda tx: hourly_directory(tx, CTX)))
    engine.write(lambda tx: rmdir(tx, ctx, ROOT_INODE, b"d"))
    with pytest.raises(EntryNotFoundError):
        add(engine, 2, b"x", 3)
    with pytest.raises(AccessDeniedError):
        add(engine, ctx.trash, b"x", 3)


@pytest.mark.parametrize("limit", [{"capacity_bytes": 8191}, {"inodes_max": 1}])
def test_a_full_volume_creates_nothing(engine, limit):
    ctx = CTX._replace(**limit)
    add(engine, ROOT_INODE, b"a", 2, ctx=ctx)
    with pytest.raises(NoSpaceError):
        add(engine, ROOT_INODE, b"b", 3, ctx=ctx)
    assert engine.read(lambda tx: tx.get(Edge, 1, b"b")) is None
    engine.write(lambda tx: unlink(tx, ctx, ROOT_INODE, b"a"))
    add(engine, ROOT_INODE, b"b", 3, ctx=ctx)


# ---------------------------------------------------------------- paths


@pytest.fixture
def forest(engine):
    """/a/b/f, and links: /abs -> /a, /a/rel -> b/f, /a/b/up -> .., /loop -> loop, /dangling."""
    add(engine, ROOT_INODE, b"a", 2, DIRECTORY)
    add(engine, 2, b"b", 3, DIRECTORY)
    add(engine, 3, b"f", 4)
    links = [
        (1, b"abs", b"/a"), (2, b"rel", b"b/f"), (3, b"up", b".."), (1, b"loop", b"loop"),
        (1, b"dangling", b"none"), (1, b"slash", b"a/b/f/"), (1, b"dots", b"/../a/./b/../b/f"),
    ]  # fmt: skip
    for inode, (parent, name, target) in enumerate(links, 10):
        add(engine, parent, name, inode, SYMLINK, 0, target)
    return engine


@pytest.mark.parametrize(
    ("path", "inode"),
    [("", 1), ("a/b/f", 4), ("abs/b/f", 4), ("a/rel", 4), ("abs/rel", 4), ("a/b/up", 2),
     ("a/b/up/b/up/rel", 4), ("dots", 4), ("a/../a/./b", 3), ("..", 1)],
)  # fmt: skip
def test_paths_are_followed(forest, path, inode):
    names = [part.encode() for part in path.split("/") if part]
    assert find(forest, *names).inode == inode


def test_the_last_link_is_followed_only_when_asked(forest):
    assert find(forest, b"abs", follow=False).inode == 10
    assert find(forest, b"abs", b"rel", follow=False).inode == 11
    assert find(forest, b"dangling", follow=False).type == SYMLINK


@pytest.mark.parametrize(
    ("path", "number"),
    [("none", errno.ENOENT), ("a/none/x", errno.ENOENT), ("a/b/f/x", errno.ENOTDIR),
     ("dangling", errno.ENOENT), ("loop", errno.ELOOP), ("loop/x", errno.ELOOP),
     ("slash", errno.ENOTDIR)],
)  # fmt: skip
def test_paths_to_nowhere(forest, path, number):
    with pytest.raises(FileError) as caught:
        find(forest, *(part.encode() for part in path.split("/")))
    assert caught.value.errno == number
    assert caught.value.filename == path


def test_as_many_links_as_linux_follows(engine):
    add(engine, ROOT_INODE, b"0", 2)
    for step in range(1, SYMLINKS_MAX + 2):
        add(engine, ROOT_INODE, b"%d" % step, step + 2, SYMLINK, 0, b"%d" % (step - 1))
    assert find(engine, b"%d" % SYMLINKS_MAX).inode == 2
    with pytest.raises(FileError) as caught:
        find(engine, b"%d" % (SYMLINKS_MAX + 1))
    assert caught.value.errno == errno.ELOOP


def test_entries_are_listed_in_order_and_in_pages(forest):
    def page(**how):
        return forest.read(lambda tx: [name for name, _ in tree.children(tx, 1, **how)])

    assert page() == [b"a", b"abs", b"dangling", b"dots", b"loop", b"slash"]
    assert page(after=b"abs", limit=2) == [b"dangling", b"dots"]
    with pytest.raises(NotDirectoryError):
        forest.read(lambda tx: tree.children(tx, 4))


# ---------------------------------------------------------------- link


def test_a_second_name_takes_the_parent_away_for_ever(engine):
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY)
    add(engine, ROOT_INODE, b"f", 3)
    later = CTX._replace(now_ns=NOW + 5)
    attr = engine.write(lambda tx: tree.link(tx, later, 3, 2, b"g"))
    assert attr == attr_of(engine, 3)
    assert (attr.nlink, attr.parent, attr.ctime_ns, attr.mtime_ns) == (2, 0, NOW + 5, NOW)
    assert attr_of(engine, 2).mtime_ns == NOW + 5
    assert engine.read(usage.totals) == (8192, 2)
    assert engine.read(lambda tx: tx.get(DirStats, 2)) == DirStats(2, 0, 4096, 1)
    engine.write(lambda tx: unlink(tx, CTX, 2, b"g"))
    assert attr_of(engine, 3)[9:13] == (1, 0, 0, 0)
    assert engine.read(lambda tx: tx.get(DirStats, 2)) == DirStats(2, 0, 0, 0)


def test_links_of_a_symlink_count_no_length(engine):
    add(engine, ROOT_INODE, b"l", 2, SYMLINK, 0, b"target!")
    engine.write(lambda tx: tree.link(tx, CTX, 2, ROOT_INODE, b"m"))
    assert engine.read(lambda tx: tx.get(DirStats, 1)) == DirStats(1, 0, 8192, 2)


def test_what_cannot_be_linked(engine):
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY)
    add(engine, ROOT_INODE, b"f", 3)

    def link(inode, name=b"new", parent=ROOT_INODE):
        return engine.write(lambda tx: tree.link(tx, CTX, inode, parent, name))

    with pytest.raises(AccessDeniedError):
        link(2)
    with pytest.raises(EntryExistsError):
        link(3, b"d")
    with pytest.raises(EntryNotFoundError):
        link(99)
    with pytest.raises(AccessDeniedError):
        link(3, parent=TRASH_INODE)
    engine.write(lambda tx: tx.set(Attr, 3, flags=int(NodeFlag.APPEND_ONLY)))
    with pytest.raises(AccessDeniedError):
        link(3)


# ---------------------------------------------------------------- attributes


def test_attributes_are_changed_and_ctime_moves(engine):
    add(engine, ROOT_INODE, b"f", 2)
    later = CTX._replace(now_ns=NOW + 9)
    wanted = {"mode": 0o7777, "uid": 5, "gid": 6, "atime_ns": 1, "mtime_ns": 2, "flags": 32}
    attr = change(engine, 2, later, **wanted)
    assert attr == attr_of(engine, 2)
    assert {name: getattr(attr, name) for name in wanted} == wanted
    assert attr.ctime_ns == NOW + 9
    assert change(engine, 2, CTX._replace(now_ns=NOW + 20), **wanted) == attr


@pytest.mark.parametrize(
    "wanted",
    [
        {"mtime_ns": 2**70},
        {"mtime_ns": 2**63 - 1},
        {"atime_ns": -(2**70)},
        {"uid": 2**32},
        {"gid": -1},
        {"mode": -1},
        {"flags": 256},
    ],
)
def test_attributes_that_the_format_cannot_hold_are_refused(engine, wanted):
    attr = add(engine, ROOT_INODE, b"f", 2)
    with pytest.raises(FileError) as caught:
        change(engine, 2, **wanted)
    assert caught.value.errno == errno.EINVAL
    assert attr_of(engine, 2) == attr
    assert change(engine, 2, mtime_ns=TIME_NS_MAX).mtime_ns == TIME_NS_MAX
    assert attr_of(engine, 2).mtime_ns == TIME_NS_MAX


def test_only_permission_bits_are_kept(engine):
    add(engine, ROOT_INODE, b"f", 2)
    assert change(engine, 2, mode=0o100644).mode == 0o644
    assert change(engine, 2, mtime_ns=-5).mtime_ns == 0


@pytest.mark.parametrize(
    ("mode", "uid", "left"),
    [(0o6755, 1000, 0o755), (0o6745, 1000, 0o745), (0o6755, 0, 0o755), (0o6745, 0, 0o2745)],
)
def test_a_new_owner_loses_the_set_id_bits(engine, mode, uid, left):
    add(engine, ROOT_INODE, b"f", 2)
    change(engine, 2, mode=mode)
    assert change(engine, 2, CTX._replace(uid=uid), uid=7).mode == left
    assert change(engine, 2, uid=8, mode=0o4755).mode == 0o4755


def test_a_directory_keeps_its_set_id_bits(engine):
    add(engine, ROOT_INODE, b"d", 2, DIRECTORY)
    change(engine, 2, mode=0o2755)
    assert change(engine, 2, gid=7).mode == 0o2755


@pytest.mark.parametrize("flag", [NodeFlag.IMMUTABLE, NodeFlag.APPEND_ONLY])
def test_what_is_frozen_takes_new_flags_only(engine, flag):
    add(engine, ROOT_INODE, b"f", 2)
    change(engine, 2, flags=int(flag))
    with pytest.raises(AccessDeniedError):
        change(engine, 2, mode=0)
    change(engine, 2, flags=0)
    assert change(engine, 2, mode=0).mode == 0


def test_the_trash_is_read_only(engine):
    add(engine, ROOT_INODE, b"f", 2)
    ctx = CTX._replace(trash=engine.write(lambda tx: hourly_directory(tx, CTX)))
    engine.write(lambda tx: unlink(tx, ctx, ROOT_INODE, b"f"))
    for inode in (2, ctx.trash, TRASH_INODE):
        with pytest.raises(AccessDeniedError):
            change(engine, inode, mode=0)
    with pytest.raises(EntryNotFoundError):
        change(engine, 99, mode=0)
