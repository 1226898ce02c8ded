"""The official client and the SQLite engine on one file, in both directions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.meta import tree, usage
from juicecache.meta.chunks import NewSlice, commit_slices, read_chunk, truncate
from juicecache.meta.context import Context
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.remove import rmdir, unlink
from juicecache.meta.rename import RenameMode, rename
from juicecache.meta.rows import TABLES, Counter
from juicecache.meta.session import open_session
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import NewNode
from juicecache.meta.xattr import list_xattr, set_xattr
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeType
from juicecache.model.layout import Layout
from juicecache.model.slices import SliceRecord
from juicecache.testing.servers import run_juicefs

pytestmark = pytest.mark.service

NOW_NS = 1_795_468_004_559_895_394
CTX = Context(NOW_NS, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
BODY = b"hello juicefs"


def format_volume(folder: Path, name: str, *, trash_days: int) -> SqliteEngine:
    """Let the official client make a volume, and open it."""
    path = folder / f"{name}.db"
    bucket = f"{folder}/{name}/"
    options = ["--storage", "file", "--bucket", bucket, "--trash-days", str(trash_days)]
    run_juicefs("format", *options, f"sqlite3://{path}", name)
    return SqliteEngine(path)


@pytest.fixture(params=[0, 1], ids=["no trash", "trash"])
def official(request, tmp_path) -> Iterator[SqliteEngine]:
    engine = format_volume(tmp_path, "theirs", trash_days=request.param)
    yield engine
    engine.close()


@pytest.fixture
def ours(official, tmp_path) -> Iterator[SqliteEngine]:
    """A volume with their setting, whose tables and rows are ours."""
    engine = SqliteEngine(tmp_path / "ours.db")
    engine.prepare()
    trash = json.loads(official.setting())["TrashDays"] > 0
    engine.write(lambda tx: tree.plant_root(tx, NOW_NS, trash=trash))
    engine.put_setting(official.setting())
    yield engine
    engine.close()


def definitions(engine: SqliteEngine) -> dict[str, str]:
    raw = sqlite3.connect(engine._file.path)
    found = dict(raw.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    raw.close()
    return found


def everything(engine: SqliteEngine) -> dict[type, list]:
    return {table: engine.read(lambda tx, table=table: list(tx.scan(table))) for table in TABLES}


def timeless(rows: dict[type, list]) -> dict[type, list]:
    times = {"atime_ns": 0, "mtime_ns": 0, "ctime_ns": 0}
    return rows | {Attr: [attr._replace(**times) for attr in rows[Attr]]}


def add(engine, parent, name, inode, kind=NodeType.FILE, target=b"", mode=0o666):
    new = NewNode(inode, kind, mode, target)
    return engine.write(lambda tx: tree.create(tx, CTX, parent, name, new))


def grow_tree(engine: SqliteEngine, layout: Layout, bucket: Path) -> None:
    """Make, change, move, link and remove what a volume can hold."""
    engine.write(lambda tx: tx.add(Counter, "nextInode", value=100))
    engine.write(lambda tx: tx.add(Counter, "nextChunk", value=100))
    for inode, name in ((2, b"a"), (3, b"b")):
        add(engine, ROOT_INODE, name, inode, NodeType.DIRECTORY, mode=0o777)
    add(engine, 2, b"deep", 4, NodeType.DIRECTORY, mode=0o777)
    for inode, name in ((5, b"caf\xc3\xa9"), (6, b"one"), (7, b"gone"), (8, b"linked")):
        add(engine, 2, name, inode)
    add(engine, 4, b"symlink", 9, NodeType.SYMLINK, b"../one")
    add(engine, 4, b"fifo", 10, NodeType.FIFO)
    add(engine, 3, b"empty", 11, NodeType.DIRECTORY, mode=0o777)
    for inode in (5, 6):
        store(engine, layout, bucket, inode, slice_id=inode)
    engine.write(lambda tx: truncate(tx, CTX, 6, 5000))
    engine.write(lambda tx: truncate(tx, CTX, 6, 5))
    engine.write(lambda tx: set_xattr(tx, CTX, 5, "user.k", b"v\xff"))
    engine.write(lambda tx: tree.link(tx, CTX, 8, 3, b"second"))
    engine.write(lambda tx: rename(tx, CTX, (2, b"deep"), (3, b"deep")))
    exchange = RenameMode.EXCHANGE
    engine.write(lambda tx: rename(tx, CTX, (2, b"one"), (3, b"empty"), mode=exchange))
    ctx = CTX
    if json.loads(engine.setting())["TrashDays"]:
        ctx = CTX._replace(trash=engine.write(lambda tx: hourly_directory(tx, CTX)))
    engine.write(lambda tx: unlink(tx, ctx, 2, b"gone"))
    engine.write(lambda tx: rmdir(tx, ctx, 2, b"one"))


def store(engine, layout, bucket, inode, *, slice_id):
    (key,) = layout.block_keys(slice_id, len(BODY))
    path = bucket / layout.object_name(key.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BODY)
    new = NewSlice(0, SliceRecord(0, slice_id, len(BODY), 0, len(BODY)))
    engine.write(lambda tx: commit_slices(tx, CTX, inode, [new], NOW_NS))


def test_a_new_volume_of_theirs_is_what_we_would_make(official, ours):
    theirs = timeless(everything(official))
    assert timeless(everything(ours)) == theirs
    assert official.read(lambda tx: tree.getattr(tx, TRASH_INODE)).mode == 0o555
    assert official.read(lambda tx: list(tree.children(tx, ROOT_INODE))) == []


def test_our_tables_are_theirs_letter_by_letter(official, ours):
    assert definitions(ours) == definitions(official)
    official.prepare()
    assert definitions(ours) == definitions(official)


def test_tables_with_a_prefix_are_theirs_too(tmp_path):
    ours = SqliteEngine(tmp_path / "ours.db", table_prefix="abc")
    ours.prepare()
    url = f"sqlite3://{tmp_path}/theirs.db?table_prefix=abc"
    run_juicefs("format", "--storage", "file", "--bucket", f"{tmp_path}/x/", url, "prefixed")
    theirs = SqliteEngine(tmp_path / "theirs.db", table_prefix="abc")
    assert json.loads(theirs.setting())["Name"] == "prefixed"
    assert definitions(ours) == definitions(theirs)
    for engine in (ours, theirs):
        engine.close()


def test_our_volume_passes_their_checks(ours, tmp_path):
    address = ours.describe()
    grow_tree(ours, Layout("theirs", ""), tmp_path / "theirs")
    sid = ours.write(
        lambda tx: open_session(tx, NOW_NS // 10**9, 12.0, b'{"Version":"1.4.1","ProcessID":77}')
    )
    tables = definitions(ours)
    status = json.loads(run_juicefs("status", address).stdout)
    assert [(one["Sid"], one["ProcessID"]) for one in status["Sessions"]] == [(sid, 77)]
    assert status["Stat"]["UsedInodes"] == usage.recount(ours).used_inodes
    assert status["Stat"]["UsedSpace"] == usage.recount(ours).used_space
    run_juicefs("fsck", address)
    before = everything(ours)
    run_juicefs("fsck", address, "--path", "/", "--recursive", "--sync-dir-stat")
    assert everything(ours) == before
    assert definitions(ours) == tables


def test_a_tree_survives_their_dump_and_load(ours, tmp_path):
    grow_tree(ours, Layout("theirs", ""), tmp_path / "theirs")
    run_juicefs("dump", ours.describe(), str(tmp_path / "dump.json"))
    run_juicefs("load", f"sqlite3://{tmp_path}/loaded.db", str(tmp_path / "dump.json"))
    loaded = SqliteEngine(tmp_path / "loaded.db")
    assert shape(loaded) == shape(ours)
    assert loaded.read(usage.totals) == usage.recount(loaded) == ours.read(usage.totals)
    loaded.close()


def shape(engine: SqliteEngine) -> dict[bytes, tuple]:
    """Return every path with all that its inode holds."""

    def body(tx):
        found, pending = {}, [(b"", tree.getattr(tx, ROOT_INODE))]
        while pending:
            path, attr = pending.pop()
            link = tree.readlink(tx, attr.inode) if attr.type == NodeType.SYMLINK else b""
            content = read_chunk(tx, attr.inode, 0)
            found[path] = attr, link, content, list_xattr(tx, attr.inode), tx.links(attr.inode)
            if attr.is_directory:
                pending += [(path + b"/" + name, child) for name, child in tx.children(attr.inode)]
        return found

    return engine.read(body)
