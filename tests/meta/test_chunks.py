"""Commits and truncations, against rows that the official client wrote for the same steps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.errors import (
    AccessDeniedError,
    ConflictError,
    FileError,
    IsDirectoryError,
    NoSpaceError,
    StaleHandleError,
)
from juicecache.meta import tree, usage
from juicecache.meta.chunks import NewSlice, commit_slices, read_chunk, truncate
from juicecache.meta.context import Context
from juicecache.meta.engine import Engine
from juicecache.meta.remove import unlink
from juicecache.meta.rows import Chunk, DirStats, SliceRef
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, Attr, NodeFlag, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import FILE_BYTES_MAX, SliceRecord
from juicecache.testing.engines import KINDS, fresh_engine
from juicecache.testing.machines import references

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
FILE = 2


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = fresh_engine(request.param, tmp_path)
    engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
    new = NewNode(FILE, NodeType.FILE, 0o666)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"file", new))
    yield engine
    engine.close()


def whole(slice_id: int, size: int, *, pos: int = 0, index: int = 0) -> NewSlice:
    return NewSlice(index, SliceRecord(pos, slice_id, size, 0, size))


def commit(engine: Engine, *slices: NewSlice, ctx: Context = CTX, to: int | None = None) -> Attr:
    return engine.write(lambda tx: commit_slices(tx, ctx, FILE, slices, ctx.now_ns, truncate_to=to))


def cut(engine: Engine, length: int) -> Attr:
    return engine.write(lambda tx: truncate(tx, CTX, FILE, length))


def set_file(engine: Engine, **fields: int) -> None:
    engine.write(lambda tx: tx.set(Attr, FILE, **fields))


def attr_of(engine: Engine, inode: int = FILE) -> Attr:
    return engine.read(lambda tx: tree.getattr(tx, inode))


def rows(engine: Engine, inode: int = FILE) -> dict[int, list[str]]:
    found = engine.read(lambda tx: list(tx.scan(Chunk, inode)))
    return {row.index: [row.slices[at : at + 24].hex() for at in range(0, len(row.slices), 24)]
            for row in found}  # fmt: skip


def check_usage(engine: Engine) -> None:
    assert engine.read(usage.totals) == usage.recount(engine)
    stored = engine.read(lambda tx: tx.get(DirStats, ROOT_INODE))
    assert stored == engine.read(lambda tx: usage.count_entries(tx, ROOT_INODE))


def hex_of(text: str) -> str:
    return text.replace(" ", "").lower()


def test_a_written_cut_and_extended_file_has_the_rows_of_the_official_client(engine):
    commit(engine, whole(4099, 10_000))
    commit(engine, whole(4100, 100, pos=4000))
    cut(engine, 9000)
    assert cut(engine, 9500).length == 9500
    assert rows(engine) == {
        0: [
            hex_of("00000000 0000000000001003 00002710 00000000 00002710"),
            hex_of("00000FA0 0000000000001004 00000064 00000000 00000064"),
            hex_of("00002328 0000000000000000 00000000 00000000 000003E8"),
            hex_of("00002328 0000000000000000 00000000 00000000 000001F4"),
        ]
    }
    assert references(engine) == {(4099, 10_000): 1, (4100, 100): 1}
    check_usage(engine)


def test_extending_far_writes_holes_at_both_ends_only(engine):
    commit(engine, whole(7, 5000))
    cut(engine, 0)
    cut(engine, 200 << 20)
    data = SliceRecord(0, 7, 5000, 0, 5000)
    assert rows(engine) == {
        0: [
            data.pack().hex(),
            SliceRecord(0, 0, 0, 0, 5000).pack().hex(),
            SliceRecord(0, 0, 0, 0, CHUNK_BYTES).pack().hex(),
        ],
        3: [SliceRecord(0, 0, 0, 0, 8 << 20).pack().hex()],
    }
    assert attr_of(engine).length == 200 << 20
    check_usage(engine)


def test_a_cut_covers_existing_chunks_in_between_and_makes_no_others(engine):
    commit(engine, *(whole(10 + index, 8, index=index) for index in (0, 1, 3, 4)))
    cut(engine, 4)
    full = SliceRecord(0, 0, 0, 0, CHUNK_BYTES).pack().hex()
    found = rows(engine)
    assert sorted(found) == [0, 1, 3, 4]
    assert found[0][1:] == [SliceRecord(4, 0, 0, 0, CHUNK_BYTES - 4).pack().hex()]
    assert found[1][1:] == [full]
    assert found[3][1:] == [full]
    assert found[4][1:] == [SliceRecord(0, 0, 0, 0, 8).pack().hex()]
    check_usage(engine)


def test_a_commit_sets_length_times_and_usage(engine):
    attr = commit(engine, whole(5, 5000, pos=100), ctx=CTX._replace(now_ns=10**15 + 7))
    assert attr == attr_of(engine)
    assert (attr.length, attr.mtime_ns, attr.ctime_ns) == (5100, 10**15 + 7, 10**15 + 7)
    assert engine.read(usage.totals) == (8192, 1)
    check_usage(engine)


def test_slices_of_one_commit_are_appended_in_order(engine):
    commit(engine, whole(5, 10), whole(6, 10, index=1), whole(7, 4, pos=2))
    assert rows(engine) == {
        0: [SliceRecord(0, 5, 10, 0, 10).pack().hex(), SliceRecord(2, 7, 4, 0, 4).pack().hex()],
        1: [SliceRecord(0, 6, 10, 0, 10).pack().hex()],
    }
    assert attr_of(engine).length == CHUNK_BYTES + 10


def test_an_overwrite_does_not_shorten_a_file(engine):
    commit(engine, whole(5, 100))
    assert commit(engine, whole(6, 10)).length == 100


def test_every_commit_changes_mtime_even_with_a_clock_behind(engine):
    first = commit(engine, whole(5, 1))
    second = commit(engine, whole(6, 1))
    third = commit(engine, whole(7, 1), ctx=CTX._replace(now_ns=5))
    assert first.mtime_ns < second.mtime_ns < third.mtime_ns
    assert attr_of(engine).mtime_ns == third.mtime_ns


def test_truncating_to_the_present_length_changes_nothing(engine):
    before = commit(engine, whole(5, 100))
    assert cut(engine, 100) == before
    assert attr_of(engine) == before


def test_a_replacement_is_one_commit_that_hides_all_old_bytes(engine):
    commit(engine, whole(5, 100))
    attr = commit(engine, whole(6, 30), to=0)
    assert attr.length == 30
    assert rows(engine) == {
        0: [
            SliceRecord(0, 5, 100, 0, 100).pack().hex(),
            SliceRecord(0, 0, 0, 0, 100).pack().hex(),
            SliceRecord(0, 6, 30, 0, 30).pack().hex(),
        ]
    }
    check_usage(engine)


def test_a_length_set_with_a_commit_may_exceed_its_slices(engine):
    assert commit(engine, whole(5, 10), to=5000).length == 5000
    check_usage(engine)


def test_a_doubled_commit_conflicts_and_appends_nothing(engine):
    commit(engine, whole(5, 10))
    before = rows(engine)
    with pytest.raises(ConflictError):
        engine.attempt(lambda tx: commit_slices(tx, CTX, FILE, [whole(5, 10)], 1), writable=True)
    assert rows(engine) == before


def test_a_slice_counts_once_a_record(engine):
    commit(
        engine,
        NewSlice(0, SliceRecord(0, 5, 100, 0, 40)),
        NewSlice(1, SliceRecord(0, 5, 100, 40, 60)),
    )
    commit(engine, NewSlice(2, SliceRecord(0, 5, 100, 10, 20), fresh=False))
    assert references(engine) == {(5, 100): 3}


def test_a_dead_slice_gets_no_new_record(engine):
    engine.write(lambda tx: tx.put(SliceRef(5, 100, 0)))
    again = NewSlice(0, SliceRecord(0, 5, 100, 0, 100), fresh=False)
    with pytest.raises(ConflictError):
        engine.attempt(lambda tx: commit_slices(tx, CTX, FILE, [again], 1), writable=True)
    assert rows(engine) == {}


def test_a_hole_is_committed_without_reference(engine):
    commit(engine, whole(5, 100))
    commit(engine, NewSlice(0, SliceRecord(10, 0, 0, 0, 20)))
    assert references(engine) == {(5, 100): 1}
    assert len(rows(engine)[0]) == 2


def test_a_chunk_without_row_reads_as_nothing(engine):
    assert engine.read(lambda tx: read_chunk(tx, FILE, 9)) == b""


def test_growth_past_the_capacity_is_refused_and_leaves_no_trace(engine):
    small = CTX._replace(capacity_bytes=8192)
    commit(engine, whole(5, 8192), ctx=small)
    before = (rows(engine), references(engine), attr_of(engine))
    with pytest.raises(NoSpaceError):
        commit(engine, whole(6, 1, pos=8192), ctx=small)
    assert (rows(engine), references(engine), attr_of(engine)) == before


def test_an_immutable_file_keeps_its_bytes(engine):
    set_file(engine, flags=NodeFlag.IMMUTABLE)
    with pytest.raises(AccessDeniedError):
        commit(engine, whole(5, 1))
    with pytest.raises(AccessDeniedError):
        cut(engine, 1)


def test_an_append_only_file_is_only_appended_to(engine):
    commit(engine, whole(5, 10))
    set_file(engine, flags=NodeFlag.APPEND_ONLY)
    assert commit(engine, whole(6, 10, pos=10)).length == 20
    with pytest.raises(AccessDeniedError):
        commit(engine, whole(7, 10, pos=19))
    with pytest.raises(AccessDeniedError):
        cut(engine, 0)


def test_a_removed_file_is_stale(engine):
    engine.write(lambda tx: unlink(tx, CTX, ROOT_INODE, b"file"))
    with pytest.raises(StaleHandleError):
        commit(engine, whole(5, 1))
    assert references(engine) == {}


def test_a_length_is_not_negative(engine):
    with pytest.raises(FileError) as caught:
        cut(engine, -1)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("length", [FILE_BYTES_MAX + 1, 2**63 - 1, 2**63, 2**70])
def test_a_file_is_not_longer_than_other_clients_allow(engine, length):
    with pytest.raises(FileError) as caught:
        cut(engine, length)
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(FileError) as caught:
        commit(engine, NewSlice(2**31, SliceRecord(0, 5, 1, 0, 1)))
    assert caught.value.errno == errno.EFBIG
    assert (rows(engine), references(engine), attr_of(engine).length) == ({}, {}, 0)


def test_the_longest_files_add_up_to_a_number_that_a_row_can_hold(engine):
    for inode in range(100, 163):
        new = NewNode(inode, NodeType.FILE, 0o600)
        name = b"%d" % inode
        engine.write(lambda tx, n=name, new=new: tree.create(tx, CTX, ROOT_INODE, n, new))
        engine.write(lambda tx, inode=inode: truncate(tx, CTX, inode, FILE_BYTES_MAX))
    assert engine.read(usage.totals).used_space == 63 * FILE_BYTES_MAX + 4096
    with pytest.raises(NoSpaceError, match="more than the format can count"):
        cut(engine, FILE_BYTES_MAX)


def test_a_directory_has_no_content(engine):
    with pytest.raises(IsDirectoryError):
        engine.write(lambda tx: truncate(tx, CTX, ROOT_INODE, 0))


def test_an_unlinked_open_file_grows_without_its_directory(engine):
    holding = CTX._replace(sid=1, opened={FILE})
    engine.write(lambda tx: unlink(tx, holding, ROOT_INODE, b"file"))
    commit(engine, whole(5, 10_000))
    assert engine.read(usage.totals) == (12288, 1)
    check_usage(engine)


def test_growth_of_a_hard_linked_file_counts_once_a_link(engine):
    make = NewNode(3, NodeType.DIRECTORY, 0o777)
    engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, b"dir", make))
    for name in (b"one", b"two"):
        engine.write(lambda tx, name=name: tree.link(tx, CTX, FILE, 3, name))
    commit(engine, whole(5, 10_000))
    assert engine.read(lambda tx: tx.get(DirStats, 3)) == DirStats(3, 20_000, 2 * 12288, 2)
    check_usage(engine)
