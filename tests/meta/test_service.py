"""The door to the metadata: paths, errors that name them, what is asked of the database."""

from __future__ import annotations

import json
import random
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
    if engine.stamp() is None:
        pytest.skip("this engine has no stamp")
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
    assert meta.totals() == usage.recount(meta.engine)


def test_slice_lists_are_read_once_a_version(meta, engine):
    attr = write(meta, "/file")
    _, ((extent,),) = meta.extents("/file", attr, [0])
    assert extent.length == 100
    engine.close()  # whoever asks the database now fails
    assert meta.extents("/file", attr, [0]) == (attr, [[extent]])


def test_slice_lists_are_read_again_when_they_must_be(meta):
    attr = write(meta, "/file")
    assert [e.length for e in meta.extents("/file", attr, [0, 1])[1][0]] == [100]
    write(meta, "/file", 7)
    assert [e.length for e in meta.extents("/file", attr, [0], again=True)[1][0]] == [7]


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


@pytest.mark.parametrize("target", [b"/file", b"../../file", b"up/../../../file", b"../a/b/file"])
def test_no_link_leads_out_of_a_subdirectory(meta, make, target):
    write(meta, "/file", 3)
    write(meta, "/a/b/file", 5)
    meta.make_node("/a/b/up", NodeType.SYMLINK, 0o777, target=b"..")
    meta.make_node("/a/b/link", NodeType.SYMLINK, 0o777, target=target)
    meta.make_node("/short", NodeType.SYMLINK, 0o777, target=b"/a/b")
    assert meta.resolve("/short/up/b/file").length == 5
    for subdir in ("/a/b", "short"):
        below = make(subdir=subdir)
        if target.startswith(b"../a"):
            with pytest.raises(EntryNotFoundError):
                below.resolve("/link")
        else:
            assert below.resolve("/link").length == 5
        assert below.resolve("/up").inode == below.resolve("/").inode
        assert below.resolve_many(["/file", "/up/file"]) == [below.resolve("/file")] * 2
    write(make(subdir="a"), "/b/up/new")
    assert meta.resolve("/a/new").is_file


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
    sealed = {"EncryptKey": "pem", "EncryptAlgo": "sm4gcm", "KeyEncrypted": False}
    engine.put_setting(json.dumps(record | sealed))
    with pytest.raises(ReadOnlyVolumeError, match="sm4gcm"):
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


def counting(meta: Meta, monkeypatch) -> list[int]:
    """Return a list that grows by one with every transaction that only reads."""
    asked: list[int] = []
    read = meta.engine.read
    monkeypatch.setattr(meta.engine, "read", lambda body: (asked.append(1), read(body))[1])
    return asked


def test_many_paths_are_one_transaction(meta, engine, monkeypatch):
    for number in range(20):
        write(meta, f"/{number % 3}/{number}", 10 + number)
    meta.make_node("/link", NodeType.SYMLINK, 0o777, target=b"0/0")
    meta.resolve("/0/3")
    paths = [f"/{number % 3}/{number}" for number in range(20)]
    asked = counting(meta, monkeypatch)
    found = meta.resolve_many([*paths, "/none", "/link", "/0/0/below", "/a/../b", *paths])
    assert len(asked) == 1
    assert [attr.length for attr in found[:20]] == list(range(10, 30))
    assert found[24:] == found[:20]
    assert isinstance(found[20], EntryNotFoundError)
    assert found[20].filename == "/none"
    assert found[21] == found[0]
    assert isinstance(found[22], NotDirectoryError)
    assert isinstance(found[23], InvalidNameError)
    engine.close()  # the slice lists came along
    assert [meta.extents("", attr, [0])[1][0][0].length for attr in found[:20]] == list(
        range(10, 30)
    )


@pytest.mark.parametrize("head", ["/d/", "/", "/link/", "d/", "/d//"])
def test_who_looks_for_one_file_after_another_soon_knows_all(meta, monkeypatch, head):
    if meta.engine.stamp() is None:
        pytest.skip("this engine has no stamp")
    names = [f"{number:04d}" for number in range(500)]
    meta.make_node("/d", NodeType.DIRECTORY, 0o777)
    meta.make_node("/link", NodeType.SYMLINK, 0o777, target=b"d")
    for name in names:
        write(meta, f"/d/{name}" if "d" in head or "l" in head else f"/{name}", int(name) + 1)
    asked = counting(meta, monkeypatch)
    for name in random.Random(1).sample(names, 500):
        attr = meta.resolve(head + name)
        assert meta.extents(head + name, attr, [0])[1][0][0].length == attr.length == int(name) + 1
    assert len(asked) <= 12


def test_where_everything_changes_all_the_time_nothing_is_read_in_pages(meta, engine, monkeypatch):
    for number in range(50):
        write(meta, f"/d/{number}")
    listed = []
    original = Meta._look_up
    monkeypatch.setattr(
        Meta, "_look_up", lambda self, snapshot, path: (
            original(self, snapshot, path), listed.append(len(snapshot.attrs))
        )[0],
    )  # fmt: skip
    for number in range(50):
        meta.resolve(f"/d/{number}")
        engine.write(lambda tx: tx.add(Counter, "nextInode", value=1))
    assert listed == [1] * 50


def test_pages_of_a_directory_are_only_valid_until_something_changes(meta):
    for number in range(100):
        write(meta, f"/d/{number:03d}", 10)
    for number in range(50):
        meta.resolve(f"/d/{number:03d}")
    write(meta, "/d/060", 11)
    meta.remove("/d/061")
    assert meta.resolve("/d/060").length == 11
    with pytest.raises(EntryNotFoundError):
        meta.resolve("/d/061")


def test_links_in_a_page_still_lead_somewhere(meta):
    for number in range(50):
        write(meta, f"/d/{number:03d}", 10)
        meta.make_node(f"/d/{number:03d}-link", NodeType.SYMLINK, 0o777, target=b"%03d" % number)
    for number in range(50):
        assert meta.resolve(f"/d/{number:03d}").is_file
        assert meta.resolve(f"/d/{number:03d}-link").is_file
        assert meta.resolve(f"/d/{number:03d}-link", follow=False).type == NodeType.SYMLINK
