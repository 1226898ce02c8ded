"""Access control lists of inodes: set, inherited, changed with the mode."""

from __future__ import annotations

import errno

import pytest

from juicecache.errors import (
    EntryExistsError,
    FileError,
    NoAttributeError,
    UnsupportedError,
)
from juicecache.meta import tree
from juicecache.meta.acl import ACCESS, DEFAULT
from juicecache.meta.chunks import NewSlice
from juicecache.meta.context import Context
from juicecache.meta.copying import clone_file
from juicecache.meta.files import WholeFile, commit_files
from juicecache.meta.rows import Acl
from juicecache.meta.tree import AttrChange, NewNode
from juicecache.meta.xattr import XattrMode, get_xattr, list_xattr, remove_xattr, set_xattr
from juicecache.model.acl import UNSET, Rule
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.model.slices import SliceRecord

NOW = 10**18
CTX = Context(
    NOW, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0, acl=True
)  # fmt: skip
LATER = CTX._replace(now_ns=NOW + 1)
RULE = Rule(7, 5, 7, 4, ((1000, 6),), ((50, 1),))
MINIMAL = Rule(7, 5, UNSET, 0)
DIR, FILE = 2, 3


@pytest.fixture
def volume(engine):
    """A directory and a file beside it."""
    for inode, name, kind in ((DIR, b"d", NodeType.DIRECTORY), (FILE, b"f", NodeType.FILE)):
        make(engine, ROOT_INODE, name, inode, kind)
    return engine


def make(engine, parent, name, inode, kind=NodeType.FILE, mode=0o666) -> Attr:
    target = b"target" if kind == NodeType.SYMLINK else b""
    return engine.write(
        lambda tx: tree.create(tx, CTX, parent, name, NewNode(inode, kind, mode, target))
    )


def put(engine, inode, name, rule, *, ctx=LATER, mode=XattrMode.ANY) -> Attr:
    value = rule.to_xattr() if isinstance(rule, Rule) else rule
    engine.write(lambda tx: set_xattr(tx, ctx, inode, name, value, mode=mode))
    return attr(engine, inode)


def attr(engine, inode) -> Attr:
    return engine.read(lambda tx: tree.getattr(tx, inode))


def get(engine, inode, name) -> Rule | None:
    return Rule.from_xattr(engine.read(lambda tx: get_xattr(tx, inode, name)))


def rows(engine) -> list[Acl]:
    return engine.read(lambda tx: list(tx.scan(Acl)))


def test_a_list_is_set_with_the_mode_and_read_back(volume):
    changed = put(volume, FILE, ACCESS, RULE)
    assert (changed.mode, changed.ctime_ns, changed.mtime_ns) == (0o774, NOW + 1, NOW)
    assert get(volume, FILE, ACCESS) == RULE
    assert volume.read(lambda tx: list_xattr(tx, FILE)) == [ACCESS]
    put(volume, DIR, DEFAULT, RULE)
    assert (get(volume, DIR, DEFAULT), attr(volume, DIR).mode) == (RULE, 0o644)
    assert volume.read(lambda tx: list_xattr(tx, DIR)) == [DEFAULT]
    assert [row.id for row in rows(volume)] == [1]  # one row for equal lists


def test_a_list_that_says_no_more_than_a_mode_is_the_mode(volume):
    put(volume, FILE, ACCESS, RULE)
    changed = put(volume, FILE, ACCESS, MINIMAL)
    assert (changed.mode, changed.access_acl) == (0o750, 0)
    for act in (get, lambda *at: volume.write(lambda tx: remove_xattr(tx, CTX, *at[1:]))):
        with pytest.raises(NoAttributeError):
            act(volume, FILE, ACCESS)


@pytest.mark.parametrize("value", [None, b"", Rule().to_xattr()[:4]])
def test_a_list_is_taken_away(volume, value):
    put(volume, FILE, ACCESS, RULE)
    put(volume, DIR, DEFAULT, RULE)
    for inode, name in ((FILE, ACCESS), (DIR, DEFAULT)):
        if value is None:
            volume.write(lambda tx, at=(inode, name): remove_xattr(tx, LATER, *at))
        else:
            put(volume, inode, name, value)
        assert volume.read(lambda tx, inode=inode: list_xattr(tx, inode)) == []
    assert attr(volume, FILE).mode == 0o774  # stays what the list made of it


def test_a_change_of_the_mode_changes_the_list(volume):
    put(volume, FILE, ACCESS, RULE)
    volume.write(lambda tx: tree.set_attr(tx, LATER, FILE, AttrChange(mode=0o4640)))
    assert attr(volume, FILE).mode == 0o4640
    assert get(volume, FILE, ACCESS) == RULE._replace(owner=6, mask=4, other=0)
    assert get(volume, FILE, ACCESS).mode == 0o640
    volume.write(lambda tx: tree.set_attr(tx, LATER, FILE, AttrChange(mode=0o774)))
    assert attr(volume, FILE).access_acl == 1  # the first row again
    volume.write(lambda tx: tree.set_attr(tx, LATER, FILE, AttrChange(uid=5)))
    assert get(volume, FILE, ACCESS) == RULE


@pytest.mark.parametrize("kind", [NodeType.FILE, NodeType.DIRECTORY, NodeType.FIFO])
def test_a_default_list_is_inherited_instead_of_the_umask(volume, kind):
    put(volume, DIR, DEFAULT, RULE)
    made = make(volume, DIR, b"x", 9, kind)
    assert made == attr(volume, 9)
    assert made.mode == 0o664
    assert get(volume, 9, ACCESS) == RULE._replace(owner=6, mask=6)
    assert made.default_acl == (attr(volume, DIR).default_acl if made.is_directory else 0)
    make(volume, DIR, b"y", 10, kind)
    assert len(rows(volume)) == 2


def test_a_default_list_without_names_gives_a_mode_alone(volume):
    put(volume, DIR, DEFAULT, MINIMAL)
    made = make(volume, DIR, b"x", 9, NodeType.DIRECTORY, 0o2777)
    assert (made.mode, made.access_acl, made.default_acl) == (0o2750, 0, 1)
    assert make(volume, 9, b"link", 10, NodeType.SYMLINK).mode == 0o777


def test_many_files_in_one_transaction_share_what_they_inherit(volume):
    put(volume, DIR, DEFAULT, RULE)
    files = [
        WholeFile((b"d", b"%d" % at), 20 + at, [NewSlice(0, SliceRecord(0, 5, 30, at * 10, 10))])
        for at in range(3)
    ]
    for found in volume.write(lambda tx: commit_files(tx, CTX, files, NOW)):
        assert (found.mode, found.access_acl) == (0o664, 2)
    assert len(rows(volume)) == 2


def test_a_copy_keeps_the_list_and_follows_its_own_mode(volume):
    put(volume, FILE, ACCESS, RULE)
    put(volume, DIR, DEFAULT, RULE)
    source = attr(volume, FILE)
    made = volume.write(lambda tx: clone_file(tx, CTX, source, DIR, b"copy", 9))
    assert made.mode == 0o754
    assert get(volume, 9, ACCESS) == RULE._replace(mask=5)


def test_a_list_whose_row_is_lost_is_none(volume):
    put(volume, DIR, DEFAULT, RULE)
    volume.write(lambda tx: tx.delete(Acl, 1))
    assert make(volume, DIR, b"x", 9).mode == 0o644
    with pytest.raises(NoAttributeError):
        get(volume, DIR, DEFAULT)


def test_setgid_stays_with_members_alone(volume):
    volume.write(lambda tx: tree.set_attr(tx, CTX, FILE, AttrChange(mode=0o2755)))
    assert put(volume, FILE, ACCESS, RULE).mode == 0o2774
    assert put(volume, FILE, ACCESS, RULE, ctx=CTX._replace(uid=5, gid=5)).mode == 0o774


def test_what_is_refused(volume):
    with pytest.raises(UnsupportedError, match="EnableACL"):
        put(volume, FILE, ACCESS, RULE, ctx=CTX._replace(acl=False))
    for inode, name, value, number in (
        (FILE, DEFAULT, RULE, errno.EACCES),
        (FILE, ACCESS, b"\x02\0\0\0x", errno.EINVAL),
    ):
        with pytest.raises(FileError) as refused:
            put(volume, inode, name, value)
        assert refused.value.errno == number
    with pytest.raises(NoAttributeError):
        put(volume, FILE, ACCESS, RULE, mode=XattrMode.REPLACE)
    put(volume, FILE, ACCESS, RULE, mode=XattrMode.CREATE)
    with pytest.raises(EntryExistsError):
        put(volume, FILE, ACCESS, RULE, mode=XattrMode.CREATE)
