"""What every metadata engine must do: inherit `EngineContract` and give it one fixture."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from juicecache.errors import ClosedError, ConflictError
from juicecache.meta.engine import BULK_RECORDS_BYTES, Engine, Origin, Transaction
from juicecache.meta.rows import (
    SETTING,
    Acl,
    ChangeLine,
    Chunk,
    Counter,
    DelayedSlices,
    DeletedFile,
    DetachedNode,
    DirQuota,
    DirStats,
    Edge,
    Flock,
    GroupMember,
    GroupSecret,
    Plock,
    Record,
    Row,
    Session,
    SliceRef,
    Sustained,
    Symlink,
    UserGroupQuota,
    Xattr,
    key_of,
)
from juicecache.model.attr import Attr, NodeFlag, NodeType

NODE = Attr(
    7,
    NodeType.FILE,
    flags=NodeFlag.SKIP_TRASH,
    mode=0o4755,
    uid=65534,
    gid=20,
    atime_ns=1_795_468_004_559_895_394,
    mtime_ns=999,
    ctime_ns=1000,
    nlink=3,
    length=1 << 40,
    rdev=5,
    parent=1,
    access_acl=1,
    default_acl=2,
    tier=3,
)
ROWS: list[Row] = [
    NODE,
    Record("caf\u00e9", '{"a": "\u00e9"}'),
    Counter("usedSpace", -5),
    Edge(1, b"caf\xe9 \xff\x00", 7, NodeType.SYMLINK),
    Chunk(7, 2, bytes(range(24))),
    SliceRef(9, 100, 0),
    DelayedSlices(9, 10**9, b"\xff" * 12),
    Symlink(7, b"../\xfe"),
    Xattr(7, "user.\u00e9", b"\x00\xff"),
    Session(3, 10**9, b"{}"),
    Sustained(3, 7),
    DeletedFile(7, 1 << 40, 10**9),
    DirStats(1, 1, 4096, -1),
    DirQuota(1, 1 << 50, 0, 4096, 1),
    UserGroupQuota(2, 2**31 - 1, -1, 1 << 50, 4096, 1),
    Acl(5, 7, 0o5, 0xFFFF, 0, b"\x00\x00\x03\xe8\x00\x06", b""),
    DetachedNode(7, 10**9),
    Flock(7, 3, -1, ord("W")),
    Plock(7, 3, 1 << 62, b"\x00" * 24),
]
"""One row of every class of the format, with the values that are easily spoiled."""
OWN_ROWS: list[Row] = [
    GroupMember("zone-a.1_x", "caf\u00e9:7070", 1 << 33, b"\x00\xff" * 2048),
    GroupSecret("zone-a.1_x", bytes(range(224, 256))),
]
"""The same of our own tables."""


def put(engine: Engine, *rows: Row) -> None:
    """Store rows in one transaction."""

    def body(tx: Transaction) -> None:
        for row in rows:
            tx.put(row)

    engine.write(body)


def get(engine: Engine, table: type[Any], *key: int | str | bytes) -> Any:
    """Return one row."""
    return engine.read(lambda tx: tx.get(table, *key))


def scan(engine: Engine, table: type[Any], *partition: int, **how: Any) -> list[Any]:
    """Return the rows of a partition."""
    return engine.read(lambda tx: list(tx.scan(table, *partition, **how)))


def attempt(engine: Engine, body: Callable[[Transaction], object]) -> None:
    """Try to commit once."""
    engine.attempt(body, writable=True)


class EngineContract:
    """The contract as tests. Subclasses give the fixture ``engine``: prepared, and empty."""

    @pytest.mark.parametrize("row", ROWS + OWN_ROWS, ids=lambda row: type(row).__name__)
    def test_rows_come_back_as_they_were(self, engine: Engine, row: Row) -> None:
        """Every field of every class, by key and by scan; a second put replaces."""
        engine.prepare_own()
        key = key_of(row)
        assert get(engine, type(row), *key) is None
        put(engine, row)
        put(engine, row)
        found = get(engine, type(row), *key)
        assert found == row
        assert [type(value) for value in found if isinstance(value, bytes | str)] == [
            type(value) for value in row if isinstance(value, bytes | str)
        ]
        assert scan(engine, type(row)) == [row]
        engine.write(lambda tx: tx.delete(type(row), *key))
        assert get(engine, type(row), *key) is None
        engine.write(lambda tx: tx.delete(type(row), *key))

    @pytest.mark.parametrize("row", ROWS + OWN_ROWS, ids=lambda row: type(row).__name__)
    def test_a_new_row_never_replaces(self, engine: Engine, row: Row) -> None:
        """The second insert of a key conflicts."""
        engine.prepare_own()
        attempt(engine, lambda tx: tx.put_new(row))
        with pytest.raises(ConflictError):
            attempt(engine, lambda tx: tx.put_new(row))

    def test_a_conflict_undoes_the_whole_commit(self, engine: Engine) -> None:
        """What stood before in every row stands again."""
        put(engine, NODE, Counter("a", 1), Edge(1, b"x", 7, NodeType.FILE))
        before = engine.stamp()

        def body(tx: Transaction) -> None:
            tx.add(Counter, "a", value=5)
            tx.set(Attr, 7, mode=0)
            tx.delete(Edge, 1, b"x")
            tx.append(7, 0, b"\x01" * 24)
            tx.put_new(NODE)

        with pytest.raises(ConflictError):
            attempt(engine, body)
        assert get(engine, Counter, "a") == Counter("a", 1)
        assert get(engine, Attr, 7) == NODE
        assert engine.read(lambda tx: tx.links(7)) == {1: 1}
        assert get(engine, Chunk, 7, 0) is None
        assert engine.stamp() == before

    def test_an_error_in_the_body_writes_nothing(self, engine: Engine) -> None:
        """The error arrives as it is, and the engine goes on."""

        def body(tx: Transaction) -> None:
            tx.put(NODE)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            engine.write(body)
        assert get(engine, Attr, 7) is None
        put(engine, NODE)

    def test_reads_do_not_see_the_writes_of_their_transaction(self, engine: Engine) -> None:
        """They see the state before it."""

        def body(tx: Transaction) -> list[object]:
            tx.put(NODE)
            tx.put(Edge(1, b"x", 7, NodeType.FILE))
            return [tx.get(Attr, 7), tx.lookup(1, b"x"), *tx.scan(Edge, 1), *tx.children(1)]

        assert engine.write(body) == [None, None]
        assert engine.read(lambda tx: tx.lookup(1, b"x")) == NODE

    def test_writes_are_applied_in_their_order(self, engine: Engine) -> None:
        """A later write of a transaction finds what an earlier one left."""

        def body(tx: Transaction) -> None:
            tx.put_new(Counter("a", 1))
            tx.add(Counter, "a", value=2)
            tx.delete(Counter, "a")
            tx.put_new(Counter("a", 10))
            tx.add(Counter, "a", value=3)

        engine.write(body)
        assert get(engine, Counter, "a") == Counter("a", 13)

    def test_a_read_transaction_refuses_writes(self, engine: Engine) -> None:
        """Nothing is written."""
        with pytest.raises(RuntimeError):
            engine.read(lambda tx: tx.put(NODE))
        assert get(engine, Attr, 7) is None

    def test_deltas_are_added(self, engine: Engine) -> None:
        """A missing counter starts with the delta; any other missing row is a conflict."""
        engine.write(lambda tx: tx.add(Counter, "a", value=4))
        engine.write(lambda tx: tx.add(Counter, "a", value=-6))
        assert get(engine, Counter, "a") == Counter("a", -2)
        put(engine, DirStats(1, 1, 2, 3))
        engine.write(lambda tx: tx.add(DirStats, 1, data_length=10, used_inodes=-1, used_space=0))
        assert get(engine, DirStats, 1) == DirStats(1, 11, 2, 2)
        with pytest.raises(ConflictError):
            attempt(engine, lambda tx: tx.add(DirStats, 2, used_inodes=1))
        engine.write(lambda tx: tx.add(DirStats, 2, used_inodes=0))
        assert get(engine, DirStats, 2) is None

    def test_fields_are_set(self, engine: Engine) -> None:
        """Others stay; times keep their nanoseconds; a missing row is a conflict."""
        put(engine, NODE)
        times = {"mtime_ns": 1_795_468_004_559_895_399, "ctime_ns": 7}
        engine.write(lambda tx: tx.set(Attr, 7, **times, length=3, parent=0))
        assert get(engine, Attr, 7) == NODE._replace(
            mtime_ns=times["mtime_ns"], ctime_ns=7, length=3, parent=0
        )
        with pytest.raises(ConflictError):
            attempt(engine, lambda tx: tx.set(Attr, 8, mode=0))

    def test_a_partition_is_cleared(self, engine: Engine) -> None:
        """As a whole and alone, in the order of the other writes."""
        put(engine, *(Xattr(inode, name, b"1") for inode in (7, 8) for name in ("a", "b")))

        def body(tx: Transaction) -> None:
            tx.clear(Xattr, 7)
            tx.clear(Xattr, 9)
            tx.put(Xattr(7, "c", b"2"))

        engine.write(body)
        assert scan(engine, Xattr, 7) == [Xattr(7, "c", b"2")]
        assert [row.name for row in scan(engine, Xattr, 8)] == ["a", "b"]

    def test_records_are_appended(self, engine: Engine) -> None:
        """Whatever bytes they hold."""
        first, second = bytes(range(232, 256)), b"\x00\xff" * 12
        engine.write(lambda tx: tx.append(7, 0, first))
        engine.write(lambda tx: tx.append(7, 0, second))
        assert get(engine, Chunk, 7, 0) == Chunk(7, 0, first + second)

    def test_references_are_counted_by_id_and_size(self, engine: Engine) -> None:
        """A dead slice is never revived."""
        put(engine, SliceRef(9, 100, 1))
        engine.write(lambda tx: tx.add_refs(9, 100, 2, alive=True))
        assert get(engine, SliceRef, 9, 99) is None
        assert scan(engine, SliceRef) == [SliceRef(9, 100, 3)]
        engine.write(lambda tx: tx.add_refs(9, 100, -3, alive=False))
        with pytest.raises(ConflictError):
            attempt(engine, lambda tx: tx.add_refs(9, 100, 1, alive=True))
        assert scan(engine, SliceRef) == [SliceRef(9, 100, 0)]

    def test_a_slice_with_one_reference_dies_with_it(self, engine: Engine) -> None:
        """Whether the engine keeps a row for it or not."""
        put(engine, SliceRef(9, 100, 1))
        engine.write(lambda tx: tx.add_refs(9, 100, -1, alive=False))
        assert scan(engine, SliceRef) == [SliceRef(9, 100, 0)]
        with pytest.raises(ConflictError):
            attempt(engine, lambda tx: tx.put_new(SliceRef(9, 100, 2)))

    def test_lines_are_logged_in_order(self, engine: Engine) -> None:
        """With the transaction that they tell of, and numbered by the database."""

        def logging(tx: Transaction) -> None:
            tx.log("2|caf\u00e9%(2)")
            tx.log("1|caf\u00e9%(1)")

        engine.write(logging)
        engine.write(lambda tx: tx.log("last"))
        lines = scan(engine, ChangeLine)
        assert [line.text for line in lines] == ["2|caf\u00e9%(2)", "1|caf\u00e9%(1)", "last"]
        numbers = [line.number for line in lines]
        assert numbers == sorted(set(numbers))

        def conflicting(tx: Transaction) -> None:
            tx.log("never")
            tx.set(Attr, 99, mode=0)

        with pytest.raises(ConflictError):
            attempt(engine, conflicting)
        assert scan(engine, ChangeLine) == lines

    def test_a_writer_says_where_its_lines_come_from(self, engine: Engine) -> None:
        """Once a write, whatever the number of its runs; nothing without a change log."""
        assert engine.write(lambda tx: tx.origin) is None
        engine.origin = lambda: Origin(7, 3, 1)
        assert engine.write(lambda tx: tx.origin) == Origin(7, 3, 1)

    def test_new_numbers_are_not_those_of_rows(self, engine: Engine) -> None:
        """Whoever wrote them."""
        for _ in range(3):

            def body(tx: Transaction) -> int:
                number = tx.new_number(Acl)
                tx.put_new(Acl(number, 7, 5, 5, 0, b"", b""))
                return number

            number = engine.write(body)
            assert get(engine, Acl, number) is not None
        assert len(scan(engine, Acl)) == 3

    def test_a_sweep_sees_every_row_once(self, engine: Engine) -> None:
        """Page by page, whatever the order; rows that go meanwhile do no harm."""
        edges = {Edge(at % 7, b"%d" % at, at, NodeType.FILE) for at in range(500)}
        put(engine, *edges, *(Chunk(at, at % 3, bytes(24)) for at in range(300)))
        assert {edge for page in engine.sweep(Edge, page=32) for edge in page} == edges
        seen: set[int] = set()
        for page in engine.sweep(Chunk, page=32):
            seen.update(chunk.inode for chunk in page)
            for chunk in page:
                engine.write(lambda tx, c=chunk: tx.delete(Chunk, c.inode, c.index))  # type: ignore[misc]  # mypy cannot infer a lambda default
        assert seen == set(range(300))
        assert list(engine.sweep(Chunk, page=32)) == []

    def test_scans_are_in_bytewise_key_order(self, engine: Engine) -> None:
        """Of one partition, or of a whole table; behind a key, and limited."""
        names = [b"", b"\x00", b"A", b"a", b"a\x00", b"aa", b"b", b"\xc3\xa9", b"\xff"]
        edges = [Edge(1, name, at, NodeType.FILE) for at, name in enumerate(names)]
        put(engine, *reversed(edges), Edge(0, b"z", 70, NodeType.FILE))
        assert scan(engine, Edge, 1) == edges
        assert scan(engine, Edge, 1, after=(b"a",)) == edges[4:]
        assert scan(engine, Edge, 1, after=(b"a",), limit=2) == edges[4:6]
        assert scan(engine, Edge, 1, limit=0) == []
        assert scan(engine, Edge, 2) == []
        assert scan(engine, Edge)[1:] == edges
        assert scan(engine, Edge, after=(1, b"b")) == edges[7:]

    def test_children_join_entries_and_nodes(self, engine: Engine) -> None:
        """An entry whose node is lost is left out, as in a look-up, and no limit counts it."""
        nodes = [NODE._replace(inode=inode) for inode in (3, 4, 5)]
        put(engine, *nodes)
        put(engine, *(Edge(1, b"%d" % (9 - inode), inode, NodeType.FILE) for inode in (2, 3, 4, 5)))
        pairs = [(b"4", nodes[2]), (b"5", nodes[1]), (b"6", nodes[0])]
        assert engine.read(lambda tx: list(tx.children(1))) == pairs
        assert engine.read(lambda tx: list(tx.children(1, after=b"4", limit=1))) == pairs[1:2]
        assert engine.read(lambda tx: tx.lookup(1, b"7")) is None
        assert engine.read(lambda tx: tx.lookup(1, b"6")) == nodes[0]

    def test_a_path_is_found_through_directories(self, engine: Engine) -> None:
        """With the first slice list; everything else is left to the rules of the tree."""
        directory = NODE._replace(type=NodeType.DIRECTORY)
        put(
            engine,
            *(directory._replace(inode=inode) for inode in (3, 4)),
            NODE._replace(inode=5, length=10),
            NODE._replace(inode=6, type=NodeType.SYMLINK),
            Edge(1, b"a", 3, NodeType.DIRECTORY),
            Edge(3, b"b", 4, NodeType.DIRECTORY),
            Edge(4, b"file", 5, NodeType.FILE),
            Edge(4, b"link", 6, NodeType.SYMLINK),
            Edge(5, b"below", 4, NodeType.DIRECTORY),
            Edge(6, b"below", 4, NodeType.DIRECTORY),
            Edge(1, b"lost", 99, NodeType.FILE),
            Chunk(5, 0, bytes(range(48))),
            Chunk(5, 1, bytes(24)),
        )
        paths = [
            [b"a", b"b", b"file"], [b"a", b"b"], [b"a", b"b", b"link"], [b"a", b"none", b"file"],
            [b"a", b"b", b"file", b"below"], [b"a", b"b", b"link", b"below"], [b"lost"], [],
        ]  # fmt: skip
        found = engine.read(lambda tx: tx.find_many(paths))
        assert [None if one is None else (one.attr.inode, one.records) for one in found] == [
            (5, bytes(range(48))), (4, b""), (6, b""), None, None, None, None, None,
        ]  # fmt: skip
        assert found[0] is not None
        assert found[0].attr == NODE._replace(inode=5, length=10)

    def test_a_very_deep_path_is_found(self, engine: Engine) -> None:
        """Deeper than any statement joins."""
        directory = NODE._replace(type=NodeType.DIRECTORY)
        depth = 100
        put(
            engine,
            *(Edge(1 + at, b"d", 2 + at, NodeType.DIRECTORY) for at in range(depth)),
            *(directory._replace(inode=2 + at) for at in range(depth)),
        )
        found = engine.read(lambda tx: tx.find([b"d"] * depth))
        assert found is not None
        assert found.attr.inode == 1 + depth

    def test_a_listing_has_the_slice_lists(self, engine: Engine) -> None:
        """Of the first chunks; not those that are very long."""
        long = bytes(BULK_RECORDS_BYTES + 24)
        put(
            engine,
            *(NODE._replace(inode=inode) for inode in (3, 4, 5)),
            *(Edge(1, b"%d" % inode, inode, NodeType.FILE) for inode in (3, 4, 5, 6)),
            Chunk(3, 0, b"\xff" * 24),
            Chunk(4, 0, long),
            Chunk(4, 1, bytes(24)),
        )
        listed = engine.read(lambda tx: list(tx.listing(1)))
        nodes = [NODE._replace(inode=inode) for inode in (3, 4, 5)]
        assert listed == [
            (b"3", nodes[0], b"\xff" * 24), (b"4", nodes[1], None), (b"5", nodes[2], b""),
        ]  # fmt: skip
        assert engine.read(lambda tx: list(tx.listing(1, after=b"3", limit=1))) == listed[1:2]
        assert engine.read(lambda tx: list(tx.listing(9))) == []

    def test_links_are_counted_by_directory(self, engine: Engine) -> None:
        """Also after some are gone or moved to another inode."""
        put(
            engine,
            *(NODE._replace(inode=inode, parent=0) for inode in (7, 8)),
            *(Edge(parent, name, 7, NodeType.FILE) for parent in (1, 2) for name in (b"a", b"b")),
        )
        assert engine.read(lambda tx: tx.links(7)) == {1: 2, 2: 2}
        put(engine, Edge(1, b"a", 8, NodeType.FILE))
        engine.write(lambda tx: tx.delete(Edge, 2, b"a"))
        assert engine.read(lambda tx: (tx.links(7), tx.links(8))) == ({1: 1, 2: 1}, {1: 1})

    def test_a_link_counts_the_first_name_too(self, engine: Engine) -> None:
        """A file with one name has one directory; from its second name on, each counts."""
        put(engine, NODE, Edge(1, b"a", 7, NodeType.FILE))
        assert engine.read(lambda tx: tx.links(7)) == {1: 1}

        def link(tx: Transaction) -> None:
            tx.put_new(Edge(2, b"b", 7, NodeType.FILE))
            tx.set(Attr, 7, parent=0)

        engine.write(link)
        assert engine.read(lambda tx: tx.links(7)) == {1: 1, 2: 1}
        engine.write(lambda tx: tx.delete(Edge, 1, b"a"))
        assert engine.read(lambda tx: tx.links(7)) == {2: 1}

    def test_many_rows_are_read_in_the_order_asked(self, engine: Engine) -> None:
        """None stands for those that do not exist."""
        put(engine, Counter("a", 1), Counter("b", 2))
        keys = [("b",), ("c",), ("a",)]
        assert engine.read(lambda tx: tx.get_many(Counter, keys)) == [
            Counter("b", 2), None, Counter("a", 1),
        ]  # fmt: skip
        assert engine.read(lambda tx: tx.get_many(Counter, [])) == []

    def test_a_scan_that_is_left_half_way_does_no_harm(self, engine: Engine) -> None:
        """The next transaction sees what was written since, although the scan is still held."""
        put(engine, *(Edge(1, b"%d" % at, at, NodeType.FILE) for at in range(10)))

        def body(tx: Transaction) -> object:
            rows = tx.scan(Edge, 1)
            next(rows)
            return rows

        held = engine.read(body)
        put(engine, Edge(1, b"x", 99, NodeType.FILE))
        assert len(scan(engine, Edge, 1)) == 11
        assert engine.read(lambda tx: tx.exists(Edge, 1))
        assert not engine.read(lambda tx: tx.exists(Edge, 2))
        del held

    def test_the_stamp_moves_with_every_commit_and_only_then(self, engine: Engine) -> None:
        """Our own commits included; an engine that cannot tell says None."""
        if engine.stamp() is None:
            pytest.skip("this engine has no stamp")
        seen = {engine.stamp()}
        for value in range(3):
            put(engine, Counter("a", value))
            get(engine, Counter, "a")
            assert engine.stamp() not in seen
            assert engine.stamp() == engine.stamp()
            seen.add(engine.stamp())
        engine.put_setting("{}")
        assert engine.stamp() not in seen

    def test_the_setting_is_kept(self, engine: Engine) -> None:
        """None at first; replaced as a whole."""
        assert engine.setting() is None
        for text in ('{"Name": "v\u00e9"}', "{}"):
            engine.put_setting(text)
            assert engine.setting() == text

    def test_a_conflict_names_the_row_and_no_content(self, engine: Engine) -> None:
        """Slice lists and secrets stay out of errors."""
        secret = b"0123456789" * 10
        put(engine, SliceRef(77, 99, 0))
        writes: list[tuple[Callable[[Transaction], None], str]] = [
            (lambda tx: tx.set(Symlink, 5, target=secret), "Symlink"),
            (lambda tx: tx.add_refs(77, 99, 1, alive=True), "slice 77 of 99 bytes"),
        ]
        for body, words in writes:
            with pytest.raises(ConflictError, match=words) as caught:
                engine.attempt(body, writable=True)
            assert "0123456789" not in str(caught.value)

    def test_the_setting_is_a_row_that_commits_with_others(self, engine: Engine) -> None:
        """So that a volume is made, or changed, as a whole."""

        def body(tx: Transaction) -> str:
            found = tx.get(Record, SETTING, lock=True)
            tx.put(Record(SETTING, "new"))
            tx.put_new(Counter("a", 1))
            return "" if found is None else found.text

        engine.put_setting("old")
        assert engine.write(body) == "old"
        assert engine.setting() == "new"
        engine.put_setting("newer")
        with pytest.raises(ConflictError):
            engine.attempt(body, writable=True)  # the counter is there
        assert engine.setting() == "newer"

    def test_preparing_again_changes_nothing(self, engine: Engine) -> None:
        """Rows stay."""
        put(engine, *ROWS)
        engine.prepare()
        assert [scan(engine, type(row)) for row in ROWS] == [[row] for row in ROWS]

    def test_our_own_tables_are_there_once_they_were_asked_for(self, engine: Engine) -> None:
        """Not before; asking again, and preparing the format's, keeps all rows."""
        engine.prepare()
        put(engine, *ROWS)
        assert not engine.read(lambda tx: tx.has_own_tables())
        engine.prepare_own()
        assert engine.read(lambda tx: tx.has_own_tables())
        assert [scan(engine, type(row)) for row in OWN_ROWS] == [[], []]
        put(engine, *OWN_ROWS)
        engine.prepare_own()
        engine.prepare()
        assert engine.write(lambda tx: tx.has_own_tables())
        assert [scan(engine, type(row)) for row in ROWS] == [[row] for row in ROWS]
        assert [scan(engine, type(row)) for row in OWN_ROWS] == [[row] for row in OWN_ROWS]

    def test_our_own_rows_are_scanned_by_group(self, engine: Engine) -> None:
        """In the order of members' names, apart from those of groups that sort around it."""
        engine.prepare_own()
        rows = [
            GroupMember(group, member, 1, b"x")
            for group in ("g", "g.", "ga")
            for member in ("A", "a", "b", "\u00e9")
        ]
        put(engine, *reversed(rows))
        assert engine.read(lambda tx: list(tx.scan(GroupMember, "g"))) == rows[:4]
        assert engine.read(lambda tx: list(tx.scan(GroupMember, "g", after=("a",)))) == rows[2:4]
        assert scan(engine, GroupMember) == rows
        engine.write(lambda tx: tx.delete(GroupMember, "g.", "a"))
        assert scan(engine, GroupMember) == rows[:5] + rows[6:]

    def test_threads_lose_no_update(self, engine: Engine) -> None:
        """Read-modify-write of one row by several threads is serial."""
        put(engine, Counter("a", 0))

        def body(tx: Transaction) -> None:
            row = tx.get(Counter, "a", lock=True)
            assert row is not None
            tx.set(Counter, "a", value=row.value + 1)

        def work() -> None:
            for _ in range(25):
                engine.write(body)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert get(engine, Counter, "a") == Counter("a", 100)

    def test_a_forked_child_reads_and_writes(self, engine: Engine) -> None:
        """And so does the parent afterwards."""
        put(engine, Counter("a", 1))
        child = os.fork()
        if child == 0:
            try:
                engine.write(lambda tx: tx.add(Counter, "a", value=1))
                os._exit(0 if get(engine, Counter, "a") == Counter("a", 2) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        engine.write(lambda tx: tx.add(Counter, "a", value=1))
        assert get(engine, Counter, "a").value in (2, 3)

    def test_a_closed_engine_refuses_everything(self, engine: Engine) -> None:
        """Closing twice is fine."""
        engine.close()
        engine.close()
        with pytest.raises(ClosedError):
            get(engine, Counter, "a")
        with pytest.raises(ClosedError):
            put(engine, NODE)

    def test_an_erased_volume_leaves_nothing(self, engine: Engine) -> None:
        """Also when it is erased again; the database then takes a new volume."""
        engine.prepare_own()
        put(engine, *ROWS, *OWN_ROWS)
        engine.put_setting("{}")
        engine.erase()
        assert engine.setting() is None
        engine.erase()
        engine.prepare()
        engine.prepare_own()
        for row in (*ROWS, *OWN_ROWS):
            assert scan(engine, type(row)) == []
        put(engine, NODE)
        engine.put_setting("{}")
        assert (get(engine, Attr, NODE.inode), engine.setting()) == (NODE, "{}")

    def test_an_erasure_that_was_interrupted_goes_on(self, engine: Engine) -> None:
        """What says whose volume it is stays to the end."""
        put(engine, *ROWS)
        engine.put_setting("{}")
        seen = []

        def interrupt(count: int) -> None:
            seen.append(count)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.erase(interrupt)
        assert (engine.setting(), len(seen)) == ("{}", 1)
        engine.prepare()
        engine.erase(seen.append)
        assert engine.setting() is None
        assert seen[1:] == sorted(seen[1:])

    def test_the_address_is_for_people(self, engine: Engine) -> None:
        """It is not empty and has no secret place to show one."""
        assert engine.describe()
        assert "@" not in engine.describe()
