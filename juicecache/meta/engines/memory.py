"""Metadata in the memory of this process: the reference engine, and a volume for tests.

Law: one lock around each transaction, so every transaction is serial; a commit that meets
a conflict half-way is undone before the lock is released. A forked child has its own copy.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar, cast

from juicecache.errors import ClosedError, ConflictError
from juicecache.forks import survive_fork
from juicecache.meta.engine import (
    Add,
    AddRefs,
    Append,
    Clear,
    Delete,
    Engine,
    Key,
    Log,
    Put,
    RowT,
    Set,
    Transaction,
    Write,
)
from juicecache.meta.rows import (
    ALL_TABLES,
    SETTING,
    ChangeLine,
    Chunk,
    Counter,
    Edge,
    Record,
    Row,
    SliceRef,
    key_of,
)
from juicecache.model.attr import Attr

T = TypeVar("T")


class MemoryEngine(Engine):
    """The tables of one volume in dictionaries; passed as an object, it has no address."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rows = _Rows()
        self._commits = 0
        self._closed = False
        survive_fork(self)

    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        """Run ``body`` under the lock and apply its writes, all or none."""
        with self._lock:
            if self._closed:
                raise ClosedError("the metadata engine in memory is closed")
            tx = _MemoryTransaction(self._rows)
            result = body(tx)
            if tx.writes and not writable:
                raise RuntimeError("a read transaction made writes: use Engine.write")
            if tx.writes:
                self._rows.apply(tx.writes)
                self._commits += 1
            return result

    def stamp(self) -> int:
        """Return the number of commits so far."""
        return self._commits

    def prepare(self) -> None:
        """Do nothing: the tables are always there."""

    def prepare_own(self) -> None:
        """Let our own tables be there."""
        self._rows.has_own_tables = True

    def setting(self) -> str | None:
        """Return the text of the setting record; None before `put_setting`."""
        row = self.read(lambda tx: tx.get(Record, SETTING))
        return None if row is None else row.text

    def put_setting(self, text: str) -> None:
        """Replace the setting record."""
        self.write(lambda tx: tx.put(Record(SETTING, text)))

    def erase(self, progress: Callable[[int], None] | None = None) -> None:
        """Drop all rows; see `Engine.erase`."""
        with self._lock:
            left = _Rows()
            left.tables[Record] = self._rows.tables[Record]
            self._rows = left
            if progress is not None:
                progress(len(left.tables) - 1)
            self._rows = _Rows()
            self._commits += 1

    def describe(self) -> str:
        """Return ``memory``."""
        return "memory"

    def close(self) -> None:
        """Refuse further transactions; the rows go away with the object."""
        with self._lock:
            self._closed = True

    def before_fork(self) -> None:
        """Wait for the transaction under way."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Let transactions run again; the child goes on with its own copy."""
        self._lock.release()


class _Partition:
    """The rows of one partition, and their keys in order while nobody inserts or deletes."""

    __slots__ = ("order", "rows")

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.order: list[Key] | None = None

    def behind(self, after: Key | None) -> Iterator[Row]:
        if self.order is None:
            self.order = sorted(self.rows)
        first = 0 if after is None else bisect_right(self.order, after)
        return (self.rows[self.order[at]] for at in range(first, len(self.order)))


class _Rows:
    """All tables: {row class: {partition: rows}}, and the entries of each inode."""

    def __init__(self) -> None:
        self.tables: dict[type, dict[Key, _Partition]] = {table: {} for table in ALL_TABLES}
        self.links: dict[int, dict[int, int]] = {}
        self.has_own_tables = False

    def get(self, table: type, key: Key) -> Row | None:
        partition = self.tables[table].get(key[: ALL_TABLES[table].partition])
        return None if partition is None else partition.rows.get(key)

    def scan(self, table: type, prefix: Key, after: Key | None) -> Iterator[Row]:
        partitions = self.tables[table]
        behind = None if after is None else (*prefix, *after)
        if len(prefix) == ALL_TABLES[table].partition:
            if prefix in partitions:
                yield from partitions[prefix].behind(behind)
            return
        for name in sorted(partitions):
            if behind is None or name >= behind[: len(name)]:
                yield from partitions[name].behind(behind)

    def replace(self, table: type, key: Key, row: Row | None) -> Row | None:
        """Store ``row`` under ``key``, or remove it with None; return what stood there."""
        name = key[: ALL_TABLES[table].partition]
        partition = self.tables[table].get(name)
        old = None if partition is None else partition.rows.get(key)
        if row is not None:
            if partition is None:
                partition = self.tables[table][name] = _Partition()
            partition.rows[key] = row
            if old is None:
                partition.order = None
        elif partition is not None and old is not None:
            del partition.rows[key]
            partition.order = None
            if not partition.rows:
                del self.tables[table][name]
        if table is Edge:
            self._count_link(cast("Edge | None", old), -1)
            self._count_link(cast("Edge | None", row), 1)
        return old

    def _count_link(self, edge: Edge | None, delta: int) -> None:
        if edge is None:
            return
        parents = self.links.setdefault(edge.inode, {})
        parents[edge.parent] = parents.get(edge.parent, 0) + delta
        if parents[edge.parent] == 0:
            del parents[edge.parent]
        if not parents:
            del self.links[edge.inode]

    def apply(self, writes: list[Write]) -> None:
        """Make ``writes`` in order; after a conflict everything is as it was."""
        undo: list[tuple[type, Key, Row | None]] = []
        try:
            for write in writes:
                for table, key, row in self._outcomes(write):
                    undo.append((table, key, self.replace(table, key, row)))
        except BaseException:
            for table, key, row in reversed(undo):
                self.replace(table, key, row)
            raise

    def _outcomes(self, write: Write) -> list[tuple[type, Key, Row | None]]:
        """Return the rows that ``write`` leaves under their keys."""
        if isinstance(write, Clear):
            partition = self.tables[write.table].get(write.partition)
            return [
                (write.table, key, None) for key in ([] if partition is None else partition.rows)
            ]
        return [self._outcome(write)]

    def _outcome(self, write: Write) -> tuple[type, Key, Row | None]:
        """Return the row that ``write`` leaves under its key."""
        if isinstance(write, Put):
            table, key = type(write.row), key_of(write.row)
            if write.new and self.get(table, key) is not None:
                raise ConflictError(f"{table.__name__} {key} exists already")
            return table, key, write.row
        if isinstance(write, Delete):
            return write.table, write.key, None
        if isinstance(write, Append):
            key = (write.inode, write.index)
            chunk = cast("Chunk | None", self.get(Chunk, key))
            before = b"" if chunk is None else chunk.slices
            return Chunk, key, Chunk(write.inode, write.index, before + write.records)
        if isinstance(write, AddRefs):
            return self._with_refs(write)
        if isinstance(write, Log):
            lines = self.tables[ChangeLine].get(())
            number = 1 if lines is None else cast("int", next(reversed(lines.rows))[0]) + 1
            return ChangeLine, (number,), ChangeLine(number, write.text)
        assert not isinstance(write, Clear)
        return self._changed(write)

    def _with_refs(self, write: AddRefs) -> tuple[type, Key, Row | None]:
        key = (write.slice_id, write.size)
        ref = cast("SliceRef | None", self.get(SliceRef, key))
        if write.alive and (ref is None or ref.refs <= 0):
            raise ConflictError(f"slice {write.slice_id} of {write.size} bytes is not alive")
        if ref is not None:
            ref = ref._replace(refs=ref.refs + write.delta)
        return SliceRef, key, ref

    def _changed(self, write: Set | Add) -> tuple[type, Key, Row | None]:
        row = self.get(write.table, write.key)
        if row is None and isinstance(write, Add) and write.table is Counter:
            (name,) = cast("tuple[str]", write.key)
            return Counter, write.key, Counter(name, write.deltas["value"])
        if row is None:
            raise ConflictError(f"{write.table.__name__} {write.key} is gone")
        if isinstance(write, Set):
            return write.table, write.key, row._replace(**write.fields)
        sums = {field: getattr(row, field) + delta for field, delta in write.deltas.items()}
        return write.table, write.key, row._replace(**sums)


class _MemoryTransaction(Transaction):
    """Reads straight from the tables: the engine's lock is held until the body ends."""

    def __init__(self, rows: _Rows) -> None:
        super().__init__()
        self._rows = rows

    def get(self, table: type[RowT], *key: int | str | bytes, lock: bool = False) -> RowT | None:
        return cast("RowT | None", self._rows.get(table, key))

    def get_many(self, table: type[RowT], keys: Sequence[Key]) -> list[RowT | None]:
        return [cast("RowT | None", self._rows.get(table, key)) for key in keys]

    def scan(
        self,
        table: type[RowT],
        *partition: int | str | bytes,
        after: Key | None = None,
        limit: int | None = None,
    ) -> Iterator[RowT]:
        return cast("Iterator[RowT]", islice(self._rows.scan(table, partition, after), limit))

    def has_own_tables(self) -> bool:
        return self._rows.has_own_tables

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        edge = self.get(Edge, parent, name)
        return None if edge is None else self.get(Attr, edge.inode)

    def children(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, Attr]]:
        pairs = (
            (edge.name, attr)
            for edge in self.scan(Edge, parent, after=(after,))
            if (attr := self.get(Attr, edge.inode)) is not None
        )
        return islice(pairs, limit)

    def links(self, inode: int) -> dict[int, int]:
        return dict(self._rows.links.get(inode, {}))
