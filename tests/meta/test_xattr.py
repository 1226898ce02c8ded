"""Extended attributes."""

from __future__ import annotations

import errno

import pytest

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    EntryNotFoundError,
    FileError,
    InvalidNameError,
    NoAttributeError,
)
from juicecache.meta import tree
from juicecache.meta.context import Context
from juicecache.meta.remove import unlink
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import NewNode
from juicecache.meta.xattr import (
    VALUE_BYTES_MAX,
    XattrMode,
    get_xattr,
    list_xattr,
    remove_xattr,
    set_xattr,
)
from juicecache.model.attr import ROOT_INODE, Attr, NodeFlag, NodeType

CTX = Context(10**18, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
FILE = 2


@pytest.fixture
def volume(engine):
    new = NewNode(FILE, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"f", new))
    return engine


def put(engine, name="user.x", value=b"v", inode=FILE, mode=XattrMode.ANY):
    engine.write(lambda tx: set_xattr(tx, CTX, inode, name, value, mode=mode))


def get(engine, name="user.x", inode=FILE) -> bytes:
    return engine.read(lambda tx: get_xattr(tx, inode, name))


def remove(engine, name="user.x", inode=FILE):
    engine.write(lambda tx: remove_xattr(tx, CTX, inode, name))


def listed(engine, inode=FILE) -> list[str]:
    return engine.read(lambda tx: list_xattr(tx, inode))


@pytest.mark.parametrize("value", [b"", b"v\x00\xff", b"x" * (VALUE_BYTES_MAX - 1)])
def test_values_are_bytes(volume, value):
    put(volume, value=b"before")
    put(volume, value=value)
    assert get(volume) == value


def test_names_are_listed_in_order(volume):
    names = ["user.\u00e9", "user.b", "user.a", "user." + "x" * 250]
    for name in names:
        put(volume, name)
    assert listed(volume) == sorted(names)
    remove(volume, "user.b")
    assert "user.b" not in listed(volume)
    assert listed(volume, ROOT_INODE) == []


def test_attributes_do_not_move_ctime(volume):
    before = volume.read(lambda tx: tx.get(Attr, FILE))
    put(volume)
    remove(volume)
    assert volume.read(lambda tx: tx.get(Attr, FILE)) == before


def test_create_and_replace(volume):
    with pytest.raises(NoAttributeError) as caught:
        put(volume, mode=XattrMode.REPLACE)
    assert caught.value.errno == errno.ENODATA
    put(volume, value=b"1", mode=XattrMode.CREATE)
    with pytest.raises(EntryExistsError):
        put(volume, value=b"2", mode=XattrMode.CREATE)
    put(volume, value=b"3", mode=XattrMode.REPLACE)
    assert get(volume) == b"3"


def test_what_does_not_exist(volume):
    for act in (get, remove):
        with pytest.raises(NoAttributeError):
            act(volume)
    for act in (get, remove, put):
        with pytest.raises(EntryNotFoundError):
            act(volume, inode=99)
    with pytest.raises(EntryNotFoundError):
        listed(volume, 99)


@pytest.mark.parametrize("name", ["", "a\0", "x" * 256, "\u00e9" * 128, "user.\udcff"])
def test_bad_names(volume, name):
    with pytest.raises(InvalidNameError):
        put(volume, name)
    with pytest.raises(NoAttributeError):
        get(volume, name)


def test_limits(volume):
    with pytest.raises(FileError) as caught:
        put(volume, value=bytes(VALUE_BYTES_MAX + 1))
    assert caught.value.errno == errno.E2BIG


def test_what_is_frozen_or_in_the_trash_keeps_its_attributes(volume):
    put(volume)
    volume.write(lambda tx: tx.set(Attr, FILE, flags=int(NodeFlag.IMMUTABLE)))
    for act in (put, remove):
        with pytest.raises(AccessDeniedError):
            act(volume)
    volume.write(lambda tx: tx.set(Attr, FILE, flags=0))
    ctx = CTX._replace(trash=volume.write(lambda tx: hourly_directory(tx, CTX)))
    volume.write(lambda tx: unlink(tx, ctx, ROOT_INODE, b"f"))
    assert get(volume) == b"v"
    for act in (put, remove):
        with pytest.raises(AccessDeniedError):
            act(volume)
