"""The door to the metadata: paths, errors that name them, what is asked of the database."""

from __future__ import annotations

import json
import uuid

import pytest

from juicecache.errors import (
    AccessDeniedError,
    EntryExistsError,
    EntryNotFoundError,
    InvalidNameError,
    NotDirectoryError,
    ReadOnlyVolumeError,
)
from juicecache.meta import usage
from juicecache.meta.chunks import NewSlice
from juicecache.meta.rename import RenameMode
from juicecache.meta.rows import Counter
from juicecache.meta.service import Meta
from juicecache.meta.tree import AttrChange
from juicecache.model.attr import NodeType
from juicecache.model.setting import Setting
from juicecache.model.slices import SliceRecord


@pytest.fixture
def make(engine):
    setting = Setting.create(
        "served", str(uuid.uuid4()), storage="file", bucket="/objects/", trash_days=0
    )
    engine.put_setting(setting.to_text(lambda: bytes(12)))

    def meta(**given) -> Meta:
        return Meta(engine, setting, **given)

    return meta


@pytest.fixture
def meta(make):
    meta = make()
    yield meta
    meta.presence.end()


def write(meta: Meta, path: str, size: int = 100):
    slices = [NewSlice(0, SliceRecord(0, meta.new_slice_id(), size, 0, size))]
    return meta.commit_file(path, slices, 5, exclusive=False)


@pytest.mark.parametrize(
    "act",
    [
        lambda meta: meta.resolve("/a/none"),
        lambda meta: meta.children("/a/none"),
        lambda meta: meta.remove("/a/none"),
        lambda meta: meta.truncate("/a/none", 0),
        lambda meta: meta.set_attr("/a/none", AttrChange(mode=0o600)),
        lambda meta: meta.rename("/a/none", "/a/other", RenameMode.REPLACE),
        lambda meta: meta.link("/a/none", "/a/other"),
        lambda meta: meta.copy("/a/none", "/a/other"),
        lambda meta: meta.get_xattr("/a/none", "user.x"),
        lambda meta: meta.attr_of("/a/none", 99),
    ],
)
def test_an_error_names_the_path_of_the_caller(meta, act):
    meta.make_node("/a", NodeType.DIRECTORY, 0o777)
    with pytest.raises(EntryNotFoundError) as failed:
        act(meta)
    assert failed.value.filename == "/a/none"


def test_paths_are_answered_from_memory_until_something_changes(engine, meta):
    write(meta, "/file")
    assert meta.cached("/file") is None
    attr = meta.resolve("/file")
    assert meta.cached("/file") == attr
    engine.write(lambda tx: tx.add(Counter, "nextInode", value=1))
    assert meta.cached("/file") is None


def test_a_link_and_what_it_leads_to_are_kept_apart(meta):
    write(meta, "/file")
    meta.make_node("/link", NodeType.SYMLINK, 0o777, target=b"file")
    assert meta.resolve("/link").type == NodeType.FILE
    assert meta.resolve("/link", follow=False).type == NodeType.SYMLINK
    assert meta.resolve("/link").type == NodeType.FILE
    assert meta.readlink("/link") == b"file"


def test_missing_directories_are_made_for_a_file(meta):
    write(meta, "/a/b/c/file")
    assert [path for path, _ in meta.walk("/")] == ["/", "/a", "/a/b", "/a/b/c"]
    write(meta, "/x/file")
    with pytest.raises(NotDirectoryError):
        write(meta, "/x/file/below/file")
    assert meta.totals() == meta.engine.read(usage.recount)


def test_slice_lists_are_read_once_a_version(meta, engine):
    attr = write(meta, "/file")
    ((extent,),) = meta.extents("/file", attr, [0])
    assert extent.length == 100
    engine.close()  # whoever asks the database now fails
    assert meta.extents("/file", attr, [0]) == [[extent]]


def test_slice_lists_are_read_again_when_they_must_be(meta):
    attr = write(meta, "/file")
    assert [e.length for e in meta.extents("/file", attr, [0, 1])[0]] == [100]
    write(meta, "/file", 7)
    assert [e.length for e in meta.extents("/file", attr, [0], again=True)[0]] == [7]


def test_the_root_and_impossible_names_are_refused(meta):
    for act in (
        lambda: meta.remove("/"),
        lambda: write(meta, ""),
        lambda: meta.rename("/", "/x", RenameMode.REPLACE),
    ):
        with pytest.raises(AccessDeniedError):
            act()
    with pytest.raises(InvalidNameError):
        meta.resolve("/a/../b")
    with pytest.raises(InvalidNameError):
        write(meta, "/" + "x" * 256)


def test_a_subdirectory_is_the_root_for_who_asked_for_it(meta, make):
    write(meta, "/a/b/file")
    below = make(subdir="/a/b")
    assert [name for name, _ in below.children("/")] == [b"file"]
    write(below, "/second")
    assert meta.resolve("/a/b/second").is_file
    with pytest.raises(AccessDeniedError):
        below.remove("/")


def test_a_refused_change_takes_no_number_from_the_database(meta, make, engine):
    write(meta, "/file")
    before = engine.read(lambda tx: list(tx.scan(Counter)))
    closed = make(read_only=True)
    record = json.loads(engine.setting() or "")
    for act in (
        lambda: closed.copy("/file", "/copy"),
        lambda: closed.commit_file("/new", [], 5, exclusive=False),
        lambda: closed.make_node("/new", NodeType.DIRECTORY, 0o777),
    ):
        with pytest.raises(ReadOnlyVolumeError) as failed:
            act()
        assert failed.value.filename in ("/copy", "/new")
    engine.put_setting(json.dumps(record | {"EnableACL": True}))
    with pytest.raises(ReadOnlyVolumeError, match="ACL"):
        make().copy("/file", "/copy")
    assert engine.read(lambda tx: list(tx.scan(Counter))) == before


def test_walking_goes_down_in_order_and_leaves_out_what_vanishes(meta):
    for path in ("/b/x", "/a/y", "/a/c/z"):
        write(meta, path)
    seen = []
    for directory, entries in meta.walk("/"):
        seen.append((directory, [name for name, _ in entries]))
        if directory == "/a":
            meta.remove("/b/x")
            meta.remove("/b", directory=True)
    assert seen == [("/", ["a", "b"]), ("/a", ["c", "y"]), ("/a/c", ["z"])]
    with pytest.raises(EntryNotFoundError):
        list(meta.walk("/none"))


def test_removing_below_goes_on_until_nothing_is_left(meta):
    for number in range(5):
        write(meta, f"/d/{number}/file")
    removed = 0
    while batch := meta.remove_below("/d"):
        removed += len(batch)
    assert removed == 10
    assert meta.children("/d") == []
    with pytest.raises(EntryExistsError):
        meta.make_node("/d", NodeType.DIRECTORY, 0o777)
