"""What becomes of an inode that loses a name."""

from __future__ import annotations

import pytest

from juicecache.errors import (
    AccessDeniedError,
    DirectoryNotEmptyError,
    EntryNotFoundError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.meta import tree, usage
from juicecache.meta.chunks import truncate
from juicecache.meta.context import (
    TRASH_WANTED,
    Context,
    SessionNeededError,
    TrashNeededError,
)
from juicecache.meta.remove import remove_below, rmdir, unlink
from juicecache.meta.rows import (
    Counter,
    DeletedFile,
    DirQuota,
    DirStats,
    Edge,
    Sustained,
    Symlink,
    Xattr,
)
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import NewNode
from juicecache.meta.xattr import set_xattr
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeFlag, NodeType

NOW = 10**18
CTX = Context(NOW, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
LATER = CTX._replace(now_ns=NOW + 10**9)


@pytest.fixture
def volume(engine):
    """/file (5000 bytes), /link, /dir/, /full/below."""
    for parent, name, inode, kind in (
        (ROOT_INODE, b"file", 2, NodeType.FILE),
        (ROOT_INODE, b"link", 3, NodeType.SYMLINK),
        (ROOT_INODE, b"dir", 4, NodeType.DIRECTORY),
        (ROOT_INODE, b"full", 5, NodeType.DIRECTORY),
        (5, b"below", 6, NodeType.FILE),
    ):
        new = NewNode(inode, kind, 0o777, b"target" if kind == NodeType.SYMLINK else b"")
        engine.write(lambda tx, p=parent, n=name, new=new: tree.create(tx, CTX, p, n, new))
    engine.write(lambda tx: truncate(tx, CTX, 2, 5000))
    yield engine
    assert engine.read(usage.totals) == usage.recount(engine)
    for row in engine.read(lambda tx: list(tx.scan(DirStats))):
        assert row == engine.read(lambda tx, row=row: usage.count_entries(tx, row.inode))


@pytest.fixture
def trash(volume) -> int:
    return volume.write(lambda tx: hourly_directory(tx, CTX))


def take(engine, name, parent=ROOT_INODE, ctx=LATER, act=unlink):
    return engine.write(lambda tx: act(tx, ctx, parent, name))


def row(engine, table, *key):
    return engine.read(lambda tx: tx.get(table, *key))


def test_the_last_name_of_a_file(volume):
    volume.write(lambda tx: set_xattr(tx, CTX, 2, "user.x", b"v"))
    removed = take(volume, b"file")
    assert (removed.inode, removed.doomed, removed.attr.nlink) == (2, True, 0)
    assert row(volume, Attr, 2) is None
    assert row(volume, Xattr, 2, "user.x") is None
    assert row(volume, DeletedFile, 2) == DeletedFile(2, 5000, LATER.now_ns // 10**9)
    assert row(volume, DirStats, ROOT_INODE).used_inodes == 3
    assert row(volume, Attr, ROOT_INODE).mtime_ns == LATER.now_ns


def test_the_last_name_of_a_symbolic_link(volume):
    assert not take(volume, b"link").doomed
    assert row(volume, Symlink, 3) is None
    assert row(volume, Attr, 3) is None
    assert row(volume, DeletedFile, 3) is None


def test_one_name_of_two(volume):
    volume.write(lambda tx: tree.link(tx, CTX, 2, 4, b"second"))
    removed = take(volume, b"file")
    assert (removed.doomed, removed.attr.nlink) == (False, 1)
    attr = row(volume, Attr, 2)
    assert (attr.nlink, attr.parent, attr.ctime_ns) == (1, 0, LATER.now_ns)
    assert take(volume, b"second", 4).doomed


def test_a_file_that_we_have_open_is_sustained(volume):
    volume.write(lambda tx: set_xattr(tx, CTX, 2, "user.x", b"v"))
    removed = take(volume, b"file", ctx=LATER._replace(sid=7, opened={2}))
    assert (removed.doomed, removed.attr.nlink) == (False, 0)
    assert row(volume, Sustained, 7, 2) == Sustained(7, 2)
    assert row(volume, Attr, 2).nlink == 0
    assert row(volume, Xattr, 2, "user.x") is None
    assert row(volume, DeletedFile, 2) is None
    assert volume.read(usage.totals).used_inodes == 5


def test_an_empty_directory(volume):
    volume.write(lambda tx: tx.put(DirQuota(4, 1, 1, 0, 0)))
    assert not take(volume, b"dir", act=rmdir).doomed
    for table in (Attr, DirStats, DirQuota):
        assert row(volume, table, 4) is None
    assert row(volume, Attr, ROOT_INODE).nlink == 3


@pytest.mark.parametrize(
    ("act", "name", "parent", "error"),
    [
        (unlink, b"none", ROOT_INODE, EntryNotFoundError),
        (rmdir, b"none", ROOT_INODE, EntryNotFoundError),
        (unlink, b"x", 99, EntryNotFoundError),
        (unlink, b"x", 2, NotDirectoryError),
        (unlink, b"dir", ROOT_INODE, IsDirectoryError),
        (rmdir, b"file", ROOT_INODE, NotDirectoryError),
        (rmdir, b"full", ROOT_INODE, DirectoryNotEmptyError),
        (rmdir, b".trash", ROOT_INODE, AccessDeniedError),
        (rmdir, b"2026-01-01-00", TRASH_INODE, AccessDeniedError),
    ],
)
def test_what_cannot_be_removed(volume, act, name, parent, error):
    before = volume.read(lambda tx: list(tx.scan(Edge)))
    with pytest.raises(error):
        take(volume, name, parent, act=act)
    assert volume.read(lambda tx: list(tx.scan(Edge))) == before


@pytest.mark.parametrize("flag", [NodeFlag.IMMUTABLE, NodeFlag.APPEND_ONLY])
@pytest.mark.parametrize("frozen", [ROOT_INODE, 2])
def test_flags_hold_names(volume, flag, frozen):
    volume.write(lambda tx: tx.set(Attr, frozen, flags=int(flag)))
    with pytest.raises(AccessDeniedError):
        take(volume, b"file")


def test_an_entry_of_a_lost_node_can_be_removed(volume):
    volume.write(lambda tx: tx.put(Edge(4, b"lost", 99, NodeType.SYMLINK)))
    volume.write(lambda tx: tx.add(DirStats, 4, used_space=4096, used_inodes=1))
    volume.write(lambda tx: usage.charge(tx, 4096, 1))
    assert not take(volume, b"lost", 4).doomed
    assert row(volume, Edge, 4, b"lost") is None


# ---------------------------------------------------------------- into the trash and out of it


def test_a_file_moves_into_the_trash(volume, trash):
    removed = take(volume, b"file", ctx=LATER._replace(trash=trash))
    assert (removed.doomed, removed.attr.parent, removed.attr.nlink) == (False, trash, 1)
    assert row(volume, Edge, trash, b"1-2-file") == Edge(trash, b"1-2-file", 2, NodeType.FILE)
    attr = row(volume, Attr, 2)
    assert (attr.parent, attr.ctime_ns, attr.length) == (trash, LATER.now_ns, 5000)
    assert row(volume, DirStats, trash) == DirStats(trash, 5000, 8192, 1)
    assert volume.read(usage.totals).used_inodes == 6


def test_a_directory_moves_into_the_trash(volume, trash):
    take(volume, b"dir", ctx=LATER._replace(trash=trash), act=rmdir)
    assert row(volume, Attr, 4).parent == trash
    assert row(volume, Attr, trash).nlink == 2
    assert row(volume, Attr, ROOT_INODE).nlink == 3
    assert row(volume, DirStats, 4) is None


def test_what_skips_the_trash(volume, trash):
    ctx = LATER._replace(trash=trash)
    volume.write(lambda tx: tx.set(Attr, 2, flags=int(NodeFlag.SKIP_TRASH)))
    assert take(volume, b"file", ctx=ctx).doomed
    take(volume, b"below", 5, ctx=ctx)
    assert take(volume, b"5-6-below", trash, ctx=ctx).doomed


def test_each_hard_link_gets_a_place_in_the_trash(volume, trash):
    ctx = LATER._replace(trash=trash)
    volume.write(lambda tx: tree.link(tx, CTX, 2, 4, b"second"))
    take(volume, b"file", ctx=ctx)
    take(volume, b"second", 4, ctx=ctx)
    assert volume.read(lambda tx: tx.links(2)) == {trash: 2}
    attr = row(volume, Attr, 2)
    assert (attr.nlink, attr.parent) == (2, 0)


def test_a_hard_link_whose_place_in_the_trash_is_taken_goes_for_good(volume, trash):
    ctx = LATER._replace(trash=trash)
    volume.write(lambda tx: tree.link(tx, CTX, 2, 4, b"second"))
    take(volume, b"file", ctx=ctx)
    volume.write(lambda tx: tree.link(tx, CTX, 2, ROOT_INODE, b"file"))
    removed = take(volume, b"file", ctx=ctx)
    assert (removed.doomed, removed.attr.nlink) == (False, 2)


def test_a_long_name_is_cut_in_the_trash(volume, trash):
    name = b"x" * 255
    new = NewNode(9, NodeType.FILE, 0)
    volume.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, name, new))
    take(volume, name, ctx=LATER._replace(trash=trash))
    assert row(volume, Edge, trash, (b"1-9-" + name)[:255]).inode == 9


# ---------------------------------------------------------------- whole trees


def grow(engine, parent, depth, width, inodes) -> None:
    for at in range(width):
        kind = NodeType.DIRECTORY if depth else NodeType.FILE
        new = NewNode(next(inodes), kind, 0o777)
        engine.write(lambda tx, at=at, new=new: tree.create(tx, CTX, parent, b"%d" % at, new))
        if depth:
            grow(engine, new.inode, depth - 1, width, inodes)


@pytest.mark.parametrize("limit", [1, 4, 1000])
def test_a_tree_is_removed_in_bounded_steps(volume, limit):
    grow(volume, 4, 2, 3, iter(range(100, 1000)))
    steps = []
    while removed := volume.write(lambda tx: remove_below(tx, CTX, 4, limit=limit)):
        steps.append(len(removed))
    assert max(steps) <= limit
    assert sum(steps) == 3 + 9 + 27
    assert volume.read(lambda tx: list(tx.scan(Edge, 4))) == []
    assert row(volume, Attr, 4).nlink == 2
    take(volume, b"dir", act=rmdir)


def chain(engine, depth: int, inode: int = 1000) -> list[int]:
    """Make directories 1000, 1001, ... one in the other, below /dir."""
    for at in range(depth):
        parent = inode + at - 1 if at else 4
        new = NewNode(inode + at, NodeType.DIRECTORY, 0o777)
        engine.write(lambda tx, p=parent, new=new: tree.create(tx, CTX, p, b"d", new))
    return list(range(inode, inode + depth))


def test_a_deep_tree_goes_in_as_few_steps_as_a_wide_one(volume):
    inodes = chain(volume, 50)
    removed = volume.write(lambda tx: remove_below(tx, CTX, 4, limit=30))
    assert [one.inode for one in removed] == inodes[:19:-1]
    removed = volume.write(lambda tx: remove_below(tx, CTX, 4, limit=30))
    assert [one.inode for one in removed] == inodes[19::-1]
    assert volume.write(lambda tx: remove_below(tx, CTX, 4, limit=30)) == []
    assert row(volume, Attr, 4).nlink == 2
    assert volume.read(lambda tx: [one.inode for one in tx.scan(DirStats)]) == [1, 4, 5]


def test_a_deep_tree_goes_flat_into_the_trash_at_once(volume, trash):
    inodes = chain(volume, 5)
    ctx = LATER._replace(trash=trash)
    assert len(volume.write(lambda tx: remove_below(tx, ctx, 4, limit=100))) == 5
    kept = volume.read(lambda tx: list(tx.scan(Edge, trash)))
    assert sorted(edge.inode for edge in kept) == inodes
    assert {row(volume, Attr, inode)[9:] for inode in inodes} == {
        (2, 4096, 0, trash, 0, 0, 0)  # two links each: nothing is in them any more
    }


def test_a_directory_with_a_second_link_waits_for_the_next_step(volume):
    chain(volume, 2)
    for parent, name in ((4, b"one"), (1001, b"two")):
        volume.write(lambda tx, p=parent, n=name: tree.link(tx, CTX, 2, p, n))
    steps = []
    while removed := volume.write(lambda tx: remove_below(tx, CTX, 4, limit=100)):
        steps.append([one.inode for one in removed])
    assert steps == [[2], [2, 1001, 1000]]
    assert row(volume, Attr, 2).nlink == 1


def test_the_trash_is_emptied_and_its_hours_stay(volume, trash):
    other = volume.write(lambda tx: hourly_directory(tx, CTX._replace(now_ns=NOW + 3600 * 10**9)))
    take(volume, b"file", ctx=LATER._replace(trash=trash))
    take(volume, b"dir", act=rmdir, ctx=LATER._replace(trash=other))
    removed = volume.write(lambda tx: remove_below(tx, LATER, TRASH_INODE, limit=1))
    removed += volume.write(lambda tx: remove_below(tx, LATER, TRASH_INODE, limit=10))
    assert sorted(one.inode for one in removed) == [2, 4]
    assert volume.write(lambda tx: remove_below(tx, LATER, TRASH_INODE, limit=10)) == []
    for hour in (trash, other):
        assert row(volume, Attr, hour) is not None
        assert volume.read(lambda tx, hour=hour: list(tx.scan(Edge, hour))) == []
    take(volume, b"link", ctx=LATER._replace(trash=trash))
    assert row(volume, Edge, trash, b"1-3-link").inode == 3


@pytest.mark.parametrize("known", [False, True], ids=["not made", "dropped"])
def test_an_entry_never_moves_into_a_directory_that_is_not_there(volume, trash, known):
    if known:
        volume.write(lambda tx: tx.delete(Attr, trash))
    ctx = LATER._replace(trash=trash if known else TRASH_WANTED)
    with pytest.raises(EntryNotFoundError):
        take(volume, b"none", ctx=ctx)
    with pytest.raises(TrashNeededError):
        take(volume, b"file", ctx=ctx)
    assert row(volume, Edge, ROOT_INODE, b"file").inode == 2
    if known:
        volume.write(lambda tx: hourly_directory(tx, CTX))
        volume.write(lambda tx: tx.add(Counter, "usedSpace", value=-4096))
        volume.write(lambda tx: tx.add(Counter, "totalInodes", value=-1))


def test_a_file_that_was_opened_meanwhile_asks_for_a_session(volume):
    with pytest.raises(SessionNeededError):
        take(volume, b"file", ctx=LATER._replace(opened={2}))
    assert row(volume, Attr, 2).nlink == 1


def test_all_names_of_one_inode_below_a_directory_go(volume):
    for name in (b"a", b"b", b"c"):
        volume.write(lambda tx, name=name: tree.link(tx, CTX, 2, 4, name))
    while volume.write(lambda tx: remove_below(tx, CTX, 4, limit=10)):
        pass
    assert row(volume, Attr, 2).nlink == 1


def test_a_tree_goes_flat_into_the_trash_which_is_emptied_alike(volume, trash):
    grow(volume, 4, 1, 2, iter(range(100, 1000)))
    ctx = LATER._replace(trash=trash)
    while volume.write(lambda tx: remove_below(tx, ctx, 4, limit=3)):
        pass
    assert len(volume.read(lambda tx: list(tx.scan(Edge, trash)))) == 6
    while volume.write(lambda tx: remove_below(tx, LATER, trash, limit=4)):
        pass
    assert volume.read(lambda tx: list(tx.scan(Edge, trash))) == []
    assert len(volume.read(lambda tx: list(tx.scan(DeletedFile)))) == 4
