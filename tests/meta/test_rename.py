"""Names that move: replaced, refused, exchanged, restored."""

from __future__ import annotations

import errno

import pytest

from juicecache.errors import (
    AccessDeniedError,
    DirectoryNotEmptyError,
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.meta import tree, usage
from juicecache.meta.chunks import truncate
from juicecache.meta.context import Context
from juicecache.meta.remove import rmdir, unlink
from juicecache.meta.rename import RenameMode, rename
from juicecache.meta.rows import DeletedFile, DirStats, Edge, Sustained
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeFlag, NodeType

NOW = 10**18
CTX = Context(NOW, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
LATER = CTX._replace(now_ns=NOW + 10**9)
ONE, TWO, SUB, FILE, OTHER = 2, 3, 4, 5, 6


@pytest.fixture
def volume(engine):
    """/one/sub/, /one/file (5000 bytes), /two/other."""
    for parent, name, inode, kind in (
        (ROOT_INODE, b"one", ONE, NodeType.DIRECTORY),
        (ROOT_INODE, b"two", TWO, NodeType.DIRECTORY),
        (ONE, b"sub", SUB, NodeType.DIRECTORY),
        (ONE, b"file", FILE, NodeType.FILE),
        (TWO, b"other", OTHER, NodeType.FILE),
    ):
        new = NewNode(inode, kind, 0o777)
        engine.write(lambda tx, p=parent, n=name, new=new: tree.create(tx, CTX, p, n, new))
    engine.write(lambda tx: truncate(tx, CTX, FILE, 5000))
    yield engine
    assert engine.read(usage.totals) == usage.recount(engine)
    for row in engine.read(lambda tx: list(tx.scan(DirStats))):
        assert row == engine.read(lambda tx, row=row: usage.count_entries(tx, row.inode))


def move(engine, source, target, mode=RenameMode.REPLACE, ctx=LATER):
    return engine.write(lambda tx: rename(tx, ctx, source, target, mode=mode))


def attr_of(engine, inode) -> Attr:
    return engine.read(lambda tx: tree.getattr(tx, inode))


def names(engine, inode) -> dict[bytes, int]:
    return engine.read(lambda tx: {name: attr.inode for name, attr in tx.children(inode)})


def nlinks(engine) -> tuple[int, ...]:
    return tuple(attr_of(engine, inode).nlink for inode in (ROOT_INODE, ONE, TWO))


def test_a_new_name_in_the_same_directory(volume):
    assert move(volume, (ONE, b"file"), (ONE, b"new")) is None
    assert names(volume, ONE) == {b"sub": SUB, b"new": FILE}
    file, directory = attr_of(volume, FILE), attr_of(volume, ONE)
    assert (file.parent, file.ctime_ns, file.mtime_ns) == (ONE, LATER.now_ns, NOW + 1)
    assert (directory.mtime_ns, directory.ctime_ns) == (LATER.now_ns,) * 2
    assert nlinks(volume) == (4, 3, 2)


def test_a_file_moves_to_another_directory(volume):
    move(volume, (ONE, b"file"), (TWO, b"file"))
    assert names(volume, TWO) == {b"file": FILE, b"other": OTHER}
    assert attr_of(volume, FILE).parent == TWO
    assert volume.read(lambda tx: tx.get(DirStats, TWO)) == DirStats(TWO, 5000, 12288, 2)


def test_a_directory_moves_with_its_links(volume):
    move(volume, (ONE, b"sub"), (TWO, b"sub"))
    assert nlinks(volume) == (4, 2, 3)
    assert attr_of(volume, SUB).parent == TWO
    assert volume.read(lambda tx: tree.lookup(tx, SUB, b"..")).inode == TWO


def test_a_file_is_replaced(volume):
    removed = move(volume, (ONE, b"file"), (TWO, b"other"))
    assert (removed.inode, removed.doomed, removed.attr.nlink) == (OTHER, True, 0)
    assert names(volume, TWO) == {b"other": FILE}
    assert volume.read(lambda tx: tx.get(DeletedFile, OTHER)) is not None


def test_an_empty_directory_is_replaced(volume):
    volume.write(lambda tx: unlink(tx, CTX, TWO, b"other"))
    removed = move(volume, (ONE, b"sub"), (ROOT_INODE, b"two"))
    assert (removed.inode, removed.doomed) == (TWO, False)
    assert (attr_of(volume, ROOT_INODE).nlink, attr_of(volume, ONE).nlink) == (4, 2)
    assert volume.read(lambda tx: tx.get(DirStats, TWO)) is None


def test_a_replaced_file_that_is_open_is_kept(volume):
    ctx = LATER._replace(sid=1, opened={OTHER})
    removed = move(volume, (ONE, b"file"), (TWO, b"other"), ctx=ctx)
    assert not removed.doomed
    assert attr_of(volume, OTHER).nlink == 0
    assert volume.read(lambda tx: tx.get(Sustained, 1, OTHER)) is not None


def test_a_replaced_file_goes_to_the_trash(volume):
    trash = volume.write(lambda tx: hourly_directory(tx, CTX))
    removed = move(volume, (ONE, b"file"), (TWO, b"other"), ctx=LATER._replace(trash=trash))
    assert removed.attr.parent == trash
    assert names(volume, trash) == {b"%d-%d-other" % (TWO, OTHER): OTHER}


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ((ONE, b"none"), (TWO, b"x"), EntryNotFoundError),
        ((99, b"none"), (TWO, b"x"), EntryNotFoundError),
        ((ONE, b"file"), (99, b"x"), EntryNotFoundError),
        ((FILE, b"x"), (TWO, b"x"), NotDirectoryError),
        ((ONE, b"sub"), (TWO, b"other"), NotDirectoryError),
        ((ONE, b"file"), (ROOT_INODE, b"two"), IsDirectoryError),
        ((ONE, b"sub"), (ROOT_INODE, b"two"), DirectoryNotEmptyError),
        ((ONE, b"file"), (ROOT_INODE, b".config"), AccessDeniedError),
        ((ROOT_INODE, b".trash"), (TWO, b"x"), AccessDeniedError),
        ((ONE, b"file"), (TRASH_INODE, b"x"), AccessDeniedError),
    ],
)
def test_what_cannot_move(volume, source, target, error):
    before = names(volume, ONE), names(volume, TWO)
    with pytest.raises(error):
        move(volume, source, target)
    assert (names(volume, ONE), names(volume, TWO)) == before


def test_a_target_that_exists_can_be_refused(volume):
    with pytest.raises(EntryExistsError):
        move(volume, (ONE, b"file"), (TWO, b"other"), RenameMode.NOREPLACE)
    move(volume, (ONE, b"file"), (TWO, b"new"), RenameMode.NOREPLACE)
    assert names(volume, TWO) == {b"new": FILE, b"other": OTHER}


@pytest.mark.parametrize("mode", RenameMode)
def test_an_entry_onto_itself_changes_nothing(volume, mode):
    before = attr_of(volume, ONE), attr_of(volume, FILE)
    assert move(volume, (ONE, b"file"), (ONE, b"file"), mode) is None
    assert (attr_of(volume, ONE), attr_of(volume, FILE)) == before


@pytest.mark.parametrize("mode", [RenameMode.REPLACE, RenameMode.EXCHANGE])
def test_two_names_of_one_inode_both_stay(volume, mode):
    volume.write(lambda tx: tree.link(tx, CTX, FILE, TWO, b"second"))
    assert move(volume, (ONE, b"file"), (TWO, b"second"), mode) is None
    assert b"file" in names(volume, ONE)
    assert b"second" in names(volume, TWO)


def test_a_hard_link_moves_and_its_parent_stays_zero(volume):
    volume.write(lambda tx: tree.link(tx, CTX, FILE, TWO, b"second"))
    move(volume, (TWO, b"second"), (ROOT_INODE, b"second"))
    assert attr_of(volume, FILE).parent == 0
    assert volume.read(lambda tx: tx.links(FILE)) == {ONE: 1, ROOT_INODE: 1}


@pytest.mark.parametrize("mode", RenameMode)
@pytest.mark.parametrize("target", [(ONE, b"loop"), (SUB, b"loop")])
def test_a_directory_never_moves_below_itself(volume, mode, target):
    if mode is RenameMode.EXCHANGE:
        new = NewNode(9, NodeType.DIRECTORY, 0o777)
        volume.write(lambda tx: tree.create(tx, CTX, *target, new))
    with pytest.raises(FileError) as caught:
        move(volume, (ROOT_INODE, b"one"), target, mode)
    assert caught.value.errno == errno.EINVAL
    if mode is RenameMode.EXCHANGE:
        with pytest.raises(FileError) as caught:
            move(volume, target, (ROOT_INODE, b"one"), mode)
        assert caught.value.errno == errno.EINVAL


def test_a_directory_moves_up_over_nothing(volume):
    new = NewNode(9, NodeType.DIRECTORY, 0o777)
    volume.write(lambda tx: tree.create(tx, CTX, SUB, b"deep", new))
    move(volume, (SUB, b"deep"), (ROOT_INODE, b"deep"))
    assert attr_of(volume, ROOT_INODE).nlink == 5
    assert attr_of(volume, SUB).nlink == 2


def test_a_directory_and_a_file_are_exchanged(volume):
    assert move(volume, (ONE, b"sub"), (TWO, b"other"), RenameMode.EXCHANGE) is None
    assert names(volume, ONE) == {b"sub": OTHER, b"file": FILE}
    assert names(volume, TWO) == {b"other": SUB}
    assert nlinks(volume) == (4, 2, 3)
    assert (attr_of(volume, SUB).parent, attr_of(volume, OTHER).parent) == (TWO, ONE)
    assert volume.read(lambda tx: tx.get(Edge, ONE, b"sub")).type == NodeType.FILE
    for inode in (SUB, OTHER, ONE, TWO):
        assert attr_of(volume, inode).ctime_ns == LATER.now_ns


def test_directories_with_entries_are_exchanged(volume):
    move(volume, (ROOT_INODE, b"one"), (ROOT_INODE, b"two"), RenameMode.EXCHANGE)
    assert names(volume, ROOT_INODE) == {b"one": TWO, b"two": ONE}
    assert nlinks(volume) == (4, 3, 2)
    with pytest.raises(EntryNotFoundError):
        move(volume, (ONE, b"file"), (TWO, b"none"), RenameMode.EXCHANGE)


@pytest.mark.parametrize("flag", [NodeFlag.IMMUTABLE, NodeFlag.APPEND_ONLY])
@pytest.mark.parametrize("frozen", [ONE, FILE, OTHER])
def test_flags_hold_names_where_they_are(volume, flag, frozen):
    volume.write(lambda tx: tx.set(Attr, frozen, flags=int(flag)))
    for mode in (RenameMode.REPLACE, RenameMode.EXCHANGE):
        with pytest.raises(AccessDeniedError):
            move(volume, (ONE, b"file"), (TWO, b"other"), mode)


def test_an_append_only_directory_takes_new_names_only(volume):
    volume.write(lambda tx: tx.set(Attr, TWO, flags=int(NodeFlag.APPEND_ONLY)))
    with pytest.raises(AccessDeniedError):
        move(volume, (ONE, b"file"), (TWO, b"other"))
    move(volume, (ONE, b"file"), (TWO, b"new"))


def test_entries_are_restored_from_the_trash(volume):
    trash = volume.write(lambda tx: hourly_directory(tx, CTX))
    ctx = CTX._replace(trash=trash)
    volume.write(lambda tx: unlink(tx, ctx, ONE, b"file"))
    volume.write(lambda tx: rmdir(tx, ctx, ONE, b"sub"))
    with pytest.raises(AccessDeniedError):
        move(volume, (trash, b"2-5-file"), (TWO, b"other"), RenameMode.EXCHANGE)
    move(volume, (trash, b"2-5-file"), (ONE, b"file"), RenameMode.NOREPLACE)
    move(volume, (trash, b"2-4-sub"), (ONE, b"sub"), RenameMode.NOREPLACE)
    assert names(volume, ONE) == {b"file": FILE, b"sub": SUB}
    assert nlinks(volume) == (4, 3, 2)
    assert attr_of(volume, trash).nlink == 2
    assert attr_of(volume, FILE).parent == attr_of(volume, SUB).parent == ONE
