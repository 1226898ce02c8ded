"""The lines of the change log: the words and values of the official client."""

from __future__ import annotations

import re

import pytest

from juicecache.errors import ConflictError
from juicecache.meta import tree
from juicecache.meta.acl import ACCESS, DEFAULT
from juicecache.meta.change_log import Origins, note
from juicecache.meta.chunks import NewSlice, commit_slices, truncate
from juicecache.meta.compaction import commit_compaction, drop_delayed
from juicecache.meta.context import Context
from juicecache.meta.copying import clone_file, copy_range, replace_with_copy
from juicecache.meta.dropping import drop_chunks, forget_slices
from juicecache.meta.files import WholeFile, commit_files
from juicecache.meta.ids import IdBatch
from juicecache.meta.remove import remove_below, remove_detached, rmdir, unlink
from juicecache.meta.rename import RenameMode, rename
from juicecache.meta.rows import ChangeLine, Chunk, DetachedNode, DirStats
from juicecache.meta.session import close_session, open_session, refresh_session, release
from juicecache.meta.trash import drop_hour, hourly_directory
from juicecache.meta.tree import AttrChange, NewNode
from juicecache.meta.xattr import XattrMode, remove_xattr, set_xattr
from juicecache.model.acl import Rule
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeType
from juicecache.model.slices import CompactionPlan, SliceRecord

NOW = 1_795_596_571_000_000_007
CTX = Context(NOW, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0, acl=True)
HOUR = TRASH_INODE + 1
DIR, FILE = 2, 3
DIRECTORY = NodeType.DIRECTORY


@pytest.fixture
def volume(engine):
    """A volume with a change log, a directory and an empty file in it."""
    make(engine, ROOT_INODE, b"d", DIR, DIRECTORY, 0o777)
    make(engine, DIR, b"f", FILE)
    engine.origin = Origins(lambda: 5, lambda: NOW)
    return engine


def make(engine, parent, name, inode, kind=NodeType.FILE, mode=0o666, **more):
    new = NewNode(inode, kind, mode, **more)
    engine.write(lambda tx: tree.create(tx, CTX, parent, name, new))


def said(engine, body) -> list[str]:
    """Return what the log gets from one transaction: operations, without time and origin."""
    before = len(engine.read(lambda tx: list(tx.scan(ChangeLine))))
    engine.write(body)
    lines = engine.read(lambda tx: [line.text for line in tx.scan(ChangeLine)])[before:]
    for line in lines:
        assert re.fullmatch(r"1795596571\.000000007\|.*\|\(5,\d+\)", line), line
    return [line.split("|", 1)[1].rsplit("|", 1)[0] for line in lines]


def piece(slice_id, size, *, index=0, pos=0):
    return NewSlice(index, SliceRecord(pos, slice_id, size, 0, size))


def write(engine, inode, *pieces):
    engine.write(lambda tx: commit_slices(tx, CTX, inode, pieces, NOW))


def test_names(volume):
    """Made, linked, moved."""
    for parent, name, new, line in (
        (1, b"e", NewNode(8, DIRECTORY, 0o755), "CREATE(1,e,0,0,2,493,18,,linux,true):8"),
        (2, b"s", NewNode(9, NodeType.SYMLINK, 0, b"tar get"),
         "CREATE(2,s,0,0,3,511,0,tar get,linux,true):9"),
        (2, b"dev", NewNode(10, NodeType.CHAR_DEVICE, 0o644, rdev=259),
         "CREATE(2,dev,0,0,6,420,18,,linux,true):10"),
        (2, b'a,b%(c)"\\ \xc3\xa9\n x', NewNode(11, NodeType.FILE, 0o666),
         "CREATE(2,a%2Cb%25%28c%29%22%5C %C3%A9%0A x,0,0,1,438,18,,linux,true):11"),
    ):  # fmt: skip
        found = said(volume, lambda tx, at=(parent, name), new=new: tree.create(tx, CTX, *at, new))
        assert found == [line]
    assert said(volume, lambda tx: tree.link(tx, CTX, FILE, DIR, b"f2")) == ["LINK(3,2,f2,true):2"]
    for source, target, mode, line in (
        ((2, b"f2"), (2, b"f3"), RenameMode.REPLACE, "MOVE(2,f2,2,f3,0,0,0):3"),
        ((2, b"dev"), (8, b"x"), RenameMode.NOREPLACE, "MOVE(2,dev,8,x,1,0,0):10"),
        ((2, b"f3"), (8, b"x"), RenameMode.EXCHANGE, "MOVE(2,f3,8,x,2,10,0):3"),
        ((2, b"s"), (8, b"x"), RenameMode.REPLACE, "MOVE(2,s,8,x,0,3,0):9"),
    ):
        ends = source, target
        found = said(volume, lambda tx, e=ends, mode=mode: rename(tx, CTX, *e, mode=mode))
        assert found == [line]
    assert said(volume, lambda tx: rename(tx, CTX, (2, b"f"), (2, b"f"))) == []


def test_removals(volume):
    make(volume, ROOT_INODE, b"e", 8, DIRECTORY)
    assert said(volume, lambda tx: rmdir(tx, CTX, 1, b"e")) == ["RMDIR(1,e,0):8"]
    held = CTX._replace(sid=5, opened={FILE})
    assert said(volume, lambda tx: unlink(tx, held, 2, b"f")) == ["UNLINK(2,f,0,true,true):3"]
    assert said(volume, lambda tx: release(tx, 5, FILE, 0)) == ["DELSUSTAINED(5,3)"]
    make(volume, DIR, b"g", 9)
    make(volume, DIR, b"sub", 10, DIRECTORY)
    assert said(volume, lambda tx: remove_below(tx, CTX, DIR, limit=9)) == [
        "UNLINK(2,g,0,false,true):9", "RMDIR(2,sub,0):10",
    ]  # fmt: skip


def test_the_trash(volume):
    assert said(volume, lambda tx: hourly_directory(tx, CTX)) == [
        f"CREATE({TRASH_INODE},2026-11-25-08,0,0,2,365,0,,linux,false):{HOUR}"
    ]
    trash = CTX._replace(trash=HOUR)
    make(volume, DIR, b"g", 9)
    assert said(volume, lambda tx: rename(tx, trash, (2, b"f"), (2, b"g"))) == [
        f"MOVE(2,f,2,g,0,9,{HOUR}):3"
    ]
    assert said(volume, lambda tx: unlink(tx, trash, 2, b"g")) == [
        f"UNLINK(2,g,{HOUR},false,true):3"
    ]
    found = said(volume, lambda tx: remove_below(tx, CTX, HOUR, limit=9))
    assert found == [f"UNLINK({HOUR},2-{inode}-g,0,false,false):{inode}" for inode in (3, 9)]
    late = CTX._replace(now_ns=NOW + 10**14)
    volume.write(lambda tx: drop_hour(tx, late, b"2026-11-25-08"))
    lines = volume.read(lambda tx: [line.text for line in tx.scan(ChangeLine)])
    assert lines[-1].startswith("1795696571.000000007|")  # the time that the operation gives
    assert f"|RMDIR({TRASH_INODE},2026-11-25-08,0):{HOUR}|" in lines[-1]


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (AttrChange(mode=0o600), "1,0,0,0,384,0,1795596571,1795596571,7,7"),
        (AttrChange(uid=1000, gid=1001), "6,0,1000,1001,420,0,1795596571,1795596571,7,7"),
        (AttrChange(flags=1), "8192,0,0,0,420,1,1795596571,1795596571,7,7"),
        (AttrChange(atime_ns=10**9 + 1, mtime_ns=2 * 10**9 + 2), "48,0,0,0,420,0,1,2,1,2"),
    ],
)
def test_attributes(volume, change, values):
    assert said(volume, lambda tx: tree.set_attr(tx, CTX, FILE, change)) == [
        f"SETATTR(3,{values},1795596571,7,0)"
    ]
    assert said(volume, lambda tx: tree.set_attr(tx, CTX, FILE, change)) == []


def test_a_new_owner_takes_setuid_away(volume):
    volume.write(lambda tx: tree.set_attr(tx, CTX, FILE, AttrChange(mode=0o4640)))
    found = said(volume, lambda tx: tree.set_attr(tx, CTX, FILE, AttrChange(uid=9)))
    assert found == ["SETATTR(3,3,0,9,0,416,0,1795596571,1795596571,7,7,1795596571,7,0)"]


def test_extended_attributes_and_lists(volume):
    for mode, number in ((XattrMode.ANY, 0), (XattrMode.REPLACE, 2)):
        found = said(
            volume,
            lambda tx, mode=mode: set_xattr(tx, CTX, FILE, "user.x y", b"v\0,(", mode=mode),
        )
        assert found == [f"SETXATTR(3,user.x y,v%00%2C%28,{number})"]
    assert said(volume, lambda tx: remove_xattr(tx, CTX, FILE, "user.x y")) == [
        "REMOVEXATTR(3,user.x y)"
    ]
    rule = Rule(6, 4, 6, 4, ((1000, 6),), ((7, 4),))
    assert said(volume, lambda tx: set_xattr(tx, CTX, FILE, ACCESS, rule.to_xattr())) == [
        "SETFACL(3,1,%00%06%00%04%00%06%00%04%00%00%00%01%00%00%03%E8%00%06"
        "%00%00%00%01%00%00%00%07%00%04)"
    ]
    volume.write(lambda tx: set_xattr(tx, CTX, DIR, DEFAULT, rule.to_xattr()))
    assert said(volume, lambda tx: remove_xattr(tx, CTX, DIR, DEFAULT)) == [
        "SETFACL(2,2,%FF%FF%FF%FF%FF%FF%FF%FF%00%00%00%00%00%00%00%00)"
    ]


def test_contents(volume):
    def appended(tx):
        commit_slices(tx, CTX, FILE, [piece(1, 5), piece(2, 3, pos=5)], NOW + 69)

    assert said(volume, appended) == [
        "WRITE(3,0,0,1,5,1795596571,76):1", "WRITE(3,0,5,2,3,1795596571,76):2",
    ]  # fmt: skip
    assert said(volume, lambda tx: truncate(tx, CTX, FILE, 3)) == ["TRUNCATE(3,8,3,0)"]
    found = said(
        volume,
        lambda tx: commit_slices(
            tx, CTX, FILE, [piece(3, 4), piece(4, 1, index=1)], NOW + 99, truncate_to=0
        ),
    )
    assert found == [
        "TRUNCATE(3,3,0,0)",
        "WRITE(3,0,0,3,4,1795596571,106):5",  # behind two slices and two holes
        "WRITE(3,1,0,4,1,1795596571,106):1",
    ]
    files = [WholeFile((b"d", b"new"), 9, [piece(5, 3)]), WholeFile((b"d", b"f"), 10, [])]
    assert sorted(said(volume, lambda tx: commit_files(tx, CTX, files, NOW))) == [
        "CREATE(2,new,0,0,1,438,18,,linux,true):9",
        "TRUNCATE(3,67108865,0,0)",
        "WRITE(9,0,0,5,3,1795596571,7):1",
    ]
    (again,) = said(volume, lambda tx: commit_files(tx, CTX, files[1:], NOW))
    assert again.startswith("SETATTR(3,32,0,0,0,420,0,1795596571,1795596571,7,")


def test_copies(volume):
    write(volume, FILE, piece(1, 100))
    source = volume.read(lambda tx: tree.getattr(tx, FILE))
    assert said(volume, lambda tx: clone_file(tx, CTX, source, 1, b"c", 14)) == [
        "CLONE(3,1,c,14,0,18,true):14"
    ]
    make(volume, DIR, b"g", 9)
    assert said(volume, lambda tx: copy_range(tx, CTX, FILE, 10, 9, 5, 50)) == [
        "COPYFILERANGE(3,10,9,5,50):55"
    ]
    assert said(volume, lambda tx: replace_with_copy(tx, CTX, source, DIR, b"g", 0)) == [
        "TRUNCATE(9,55,0,0)", "COPYFILERANGE(3,0,9,0,100):100",
    ]  # fmt: skip


def test_upkeep(volume):
    write(volume, FILE, piece(1, 1000), piece(2, 1000, pos=5000))
    before = volume.read(lambda tx: tx.get(Chunk, FILE, 0)).slices
    plan = CompactionPlan(skipped=0, taken=2, pos=0, length=6000, extents=[])
    assert said(
        volume,
        lambda tx: commit_compaction(tx, CTX, FILE, 0, before, plan, 8, trash_days=1),
    ) == ["COMPACTCHUNK(3,0,0,2,0,8,6000)"]
    assert said(volume, lambda tx: drop_delayed(tx, 8)) == ["CLEANUP_DELAYED_SLICES(8,1795596571)"]
    assert said(volume, lambda tx: forget_slices(tx, [(1, 1000)])) == ["DELETESLICE(1,1000)"]
    volume.write(lambda tx: unlink(tx, CTX, DIR, b"f"))
    assert said(volume, lambda tx: drop_chunks(tx, [FILE], limit=9)) == ["DELCHUNK(3,0)"]
    volume.write(lambda tx: tx.put(DetachedNode(9, 0)))
    volume.write(lambda tx: tx.put(Attr(9, NodeType.FILE)))
    assert said(volume, lambda tx: remove_detached(tx, CTX, 9, limit=9)) == ["CLEANUP(9)"]
    volume.write(lambda tx: tx.delete(DirStats, DIR))
    found = said(volume, lambda tx: tree.create(tx, CTX, DIR, b"n", NewNode(11, DIRECTORY, 0)))
    assert "DIRSTAT(2,0,4096,1)" in found


def test_numbers_and_sessions(volume):
    ids = IdBatch(volume, "nextInode", 1024)
    ids.take()
    info = b'{"Version":"1"}'
    assert said(volume, lambda tx: open_session(tx, 1000, 12.0, info)) == [
        "INCR_COUNTER(nextSession,1)", "NEWSESSION(1,1060,{%22Version%22:%221%22})",
    ]  # fmt: skip
    assert said(volume, lambda tx: refresh_session(tx, 1, 1000, 12.0, info)) == []
    assert said(volume, lambda tx: close_session(tx, 1, 1000)) == ["CLEANSESSION(1)"]
    lines = volume.read(lambda tx: [line.text for line in tx.scan(ChangeLine)])
    assert lines[0] == "1795596571.000000007|INCR_COUNTER(nextInode,1024)|(5,1)"


def test_a_line_goes_with_its_transaction(volume):
    """None of one that failed, and one of one that ran twice."""
    runs = []

    def body(tx):
        runs.append(0)
        note(tx, "ACCESS", 1)
        if len(runs) == 1:
            raise ConflictError("again")

    assert said(volume, body) == ["ACCESS(1)"]
    with pytest.raises(FileExistsError):
        make(volume, ROOT_INODE, b"d", 99)
    assert len(volume.read(lambda tx: list(tx.scan(ChangeLine)))) == 1


def test_a_volume_without_a_log_notes_nothing(volume):
    volume.origin = None
    make(volume, ROOT_INODE, b"e", 8)
    write(volume, FILE, piece(1, 5))
    assert volume.read(lambda tx: list(tx.scan(ChangeLine))) == []
