"""The writes of a transaction as statements for a SQL server, as few as it takes.

Law: the order of writes matters only between those of one row. So rows that are new, or appended
to, and that nothing else in the transaction touches go first, many in one statement.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Sequence
from typing import Any, NamedTuple

from juicecache.meta.engine import (
    Add,
    AddRefs,
    Append,
    Clear,
    Delete,
    Key,
    Log,
    Put,
    Set,
    Write,
)
from juicecache.meta.engines.sql_server import Statement
from juicecache.meta.engines.sql_statements import SqlStatements, TableStatements
from juicecache.meta.rows import TOTALS, Chunk, Counter, key_of

_ROWS_MAX = 500
"""Of one statement: more no longer pays, and a driver binds at most some 65,000 parameters."""


class Prepared(NamedTuple):
    """A statement, and what to say when the row that it must find is not there."""

    statement: Statement
    required: str = ""


class _Place(NamedTuple):
    """How rows of one table are inserted: one, several in a list, or many as arrays of columns."""

    head: str
    values: str
    many: str
    tail: str


class SqlCommit:
    """Collects one commit.

    Attributes
    ----------
    statements
        What to send, in order.
    totals
        What is added to counters that wait for a transaction of their own.
    """

    def __init__(self, sql: SqlStatements, writes: Sequence[Write]) -> None:
        self._sql = sql
        self.statements: list[Prepared] = []
        self.totals: dict[str, int] = {}
        touched = Counts(_row_of(write) for write in writes)
        bulk: dict[_Place, list[Sequence[Any]]] = {}
        later: list[Write] = []
        for write in writes:
            alone = touched[_row_of(write)] == 1
            if alone and isinstance(write, Put) and write.new:
                table = sql.tables[type(write.row)]
                place = _Place(table.insert, table.values, table.many, "")
                bulk.setdefault(place, []).append(table.stored(write.row))
            elif alone and isinstance(write, Append):
                place = _Place(sql.append, sql.append_values, sql.append_many, sql.append_tail)
                bulk.setdefault(place, []).append(write)
            else:
                later.append(write)
        for place, rows in bulk.items():
            self._insert_many(place, rows)
        for write in later:
            self._one(write)

    def _insert_many(self, place: _Place, rows: Sequence[Sequence[Any]]) -> None:
        if place.many and len(rows) > 1:
            self._send(
                place.many + place.tail, [list(column) for column in zip(*rows, strict=True)]
            )
            return
        for first in range(0, len(rows), _ROWS_MAX):
            some = rows[first : first + _ROWS_MAX]
            text = place.head + ", ".join([place.values] * len(some)) + place.tail
            self._send(text, [value for row in some for value in row])

    def _send(self, text: str, parameters: Sequence[Any], required: str = "") -> None:
        wrapper = self._sql.dialect.required
        if required and wrapper:
            text = wrapper.format(text)
        self.statements.append(Prepared((text, parameters), required))

    def _one(self, write: Write) -> None:
        sql = self._sql
        if isinstance(write, Put):
            table = sql.tables[type(write.row)]
            tail = "" if write.new else table.replace
            self._send(table.insert + table.values + tail, table.stored(write.row))
        elif isinstance(write, Delete):
            self._send(sql.tables[write.table].remove, write.key)
        elif isinstance(write, Clear):
            self._send(sql.tables[write.table].clear, write.partition)
        elif isinstance(write, Append):
            self._send(sql.append + sql.append_values + sql.append_tail, write)
        elif isinstance(write, AddRefs):
            what = f"slice {write.slice_id} of {write.size} bytes is not alive"
            text = sql.add_live_refs if write.alive else sql.add_refs
            parameters = write.delta, write.slice_id, write.size
            self._send(text, parameters, what if write.alive else "")
        elif isinstance(write, Log):
            self._send(sql.log, (write.text,))
        else:
            self._change(sql.tables[write.table], write)

    def _change(self, table: TableStatements, write: Set | Add) -> None:
        fields, is_add = (write.deltas, True) if isinstance(write, Add) else (write.fields, False)
        if is_add and write.table is Counter:
            (name,) = write.key
            delta = fields["value"]
            if name in TOTALS:
                self.totals[str(name)] = self.totals.get(str(name), 0) + delta
            else:
                self._send(self._sql.count, (name, delta))
            return
        text = table.change(tuple(fields), add=is_add)
        parameters = [*table.changed(fields, add=is_add), *write.key]
        what = f"{write.table.__name__} {write.key} is gone"
        self._send(text, parameters, what)


def _row_of(write: Write) -> tuple[type, Key]:
    """Return which row a write touches; writes of a whole partition, and lines, stand alone."""
    if isinstance(write, Put):
        return type(write.row), key_of(write.row)
    if isinstance(write, Append):
        return Chunk, (write.inode, write.index)
    if isinstance(write, AddRefs):
        return AddRefs, (write.slice_id, write.size)
    if isinstance(write, Log):
        return Log, ()
    if isinstance(write, Clear):
        return Clear, write.partition
    return write.table, write.key
