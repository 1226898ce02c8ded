"""Statements on the tables of a SQLite volume: every text that is ever sent.

Law: statements are derived from ``schema`` once per engine, so that SQLite sees few distinct
texts and compiles each of them once. Units are converted in SQL: a database row already is the
tuple of its row class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from juicecache.meta.engine import BULK_RECORDS_BYTES
from juicecache.meta.engines.schema import (
    INDEXES,
    MAPPINGS,
    OWN_TABLE_COLUMNS,
    PRIMARY_KEYS,
    REMOVAL_ORDER,
    TABLE_COLUMNS,
    attr_of,
    edge_of,
)
from juicecache.meta.rows import ALL_TABLES, ChangeLine, Chunk, Counter, Edge, Row, SliceRef
from juicecache.model.attr import ROOT_INODE, Attr, NodeType

_TYPES = {
    "AUTO": "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL",
    "AUTO4": "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL",
    "KEY": "INTEGER PRIMARY KEY NOT NULL",
    "NAME": "TEXT PRIMARY KEY NOT NULL",
    "INT": "INTEGER NOT NULL",
    "INT4": "INTEGER NOT NULL",
    "INT4?": "INTEGER NULL",
    "INT?": "INTEGER NULL",
    "ZERO4": "INTEGER DEFAULT 0 NOT NULL",
    "BIN255": "BLOB NOT NULL",
    "BIN4096": "BLOB NOT NULL",
    "BLOB": "BLOB NOT NULL",
    "BLOB?": "BLOB NULL",
    "STR": "TEXT NOT NULL",
    "TEXT": "TEXT NOT NULL",
}


class TableStatements:
    """The statements on the table of one row class.

    Parameters of ``put`` and ``insert`` are the row; of ``get`` and ``remove`` its key; of
    a scan the partition, the rest of the key to start behind, and the limit (-1: none).
    """

    def __init__(self, row_class: type[Row], prefix: str) -> None:
        mapping = MAPPINGS[row_class]
        fields: tuple[str, ...] = row_class._fields
        self.make: Callable[[tuple[Any, ...]], Any] = {Attr: attr_of, Edge: edge_of}.get(
            row_class, row_class._make
        )
        self.name = prefix + mapping.table
        self._columns = dict(zip(fields, mapping.columns, strict=True))
        self._keys = [_name(self._columns[field]) for field in ALL_TABLES[row_class].key]
        self._changes: dict[tuple[str, tuple[str, ...]], str] = {}
        match = " AND ".join(f"{column} = ?{at}" for at, column in enumerate(self._keys, 1))
        self._match = match
        self._select = f"SELECT {self.select()} FROM {self.name}"
        self.get = f"{self._select} WHERE {match}"
        self.remove = f"DELETE FROM {self.name} WHERE {match}"
        count = ALL_TABLES[row_class].partition
        partition = " AND ".join(f"{column} = ?" for column in self._keys[:count])
        self.clear = f"DELETE FROM {self.name} WHERE {partition or '0'}"
        stored = [part for at, c in enumerate(mapping.columns, 1) for part in _stored(c, f"?{at}")]
        names = ", ".join(name for name, _ in stored)
        values = ", ".join(value for _, value in stored)
        self.insert = f"INSERT INTO {self.name} ({names}) VALUES ({values})"
        changed = ", ".join(f"{n} = excluded.{n}" for n, _ in stored if n not in self._keys)
        action = f"UPDATE SET {changed}" if changed else "NOTHING"
        unique = ", ".join(mapping.unique or self._keys)
        self.put = f"{self.insert} ON CONFLICT ({unique}) DO {action}"
        self._scans = {
            (count, behind): self._scan_text(count, behind=behind)
            for count in (0, ALL_TABLES[row_class].partition)
            for behind in (False, True)
        }

    def select(self, alias: str = "") -> str:
        """Return the expressions that read one row, in the order of its fields."""
        return ", ".join(_read(column, alias) for column in self._columns.values())

    def column(self, field: str, alias: str = "") -> str:
        """Return the expression that reads one field."""
        return _read(self._columns[field], alias)

    def scan(self, partition: int, *, behind: bool) -> str:
        """Return the scan of a partition named by so many key columns."""
        return self._scans[partition, behind]

    def _scan_text(self, partition: int, *, behind: bool) -> str:
        rest = self._keys[partition:]
        conditions = [f"{column} = ?" for column in self._keys[:partition]]
        if behind:
            conditions.append(f"({', '.join(rest)}) > ({', '.join('?' * len(rest))})")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        # The table's name keeps ORDER BY on the stored column, which the index orders.
        order = ", ".join(f"{self.name}.{column}" for column in rest)
        return f"{self._select}{where} ORDER BY {order} LIMIT ?"

    def change(self, fields: tuple[str, ...], *, add: bool) -> str:
        """Return the update of ``fields``, whose values stand behind the key."""
        cache_key = ("+" if add else "=", fields)
        text = self._changes.get(cache_key)
        if text is None:
            first = len(self._keys) + 1
            columns = [self._columns[field] for field in fields]
            if add:
                names = enumerate(map(_name, columns), first)
                changes = [f"{name} = {name} + ?{at}" for at, name in names]
            else:
                changes = [
                    f"{name} = {value}"
                    for at, column in enumerate(columns, first)
                    for name, value in _stored(column, f"?{at}")
                ]
            text = f"UPDATE {self.name} SET {', '.join(changes)} WHERE {self._match}"
            self._changes[cache_key] = text
        return text


def _name(column: str) -> str:
    name = column.partition(":")[0]
    return "`group`" if name == "group" else name  # the one word that SQL reserves


def _read(column: str, alias: str) -> str:
    kind = column.partition(":")[2]
    name = alias + _name(column)
    if kind == "us":
        return f"{name} * 1000 + {name}nsec"
    if kind == "blob":
        return f"coalesce(CAST({name} AS BLOB), x'')"
    return f"coalesce({name}, 0)" if kind == "null" else name


def _stored(column: str, value: str) -> list[tuple[str, str]]:
    name, kind = _name(column), column.partition(":")[2]
    if kind == "us":
        return [(name, f"{value} / 1000"), (f"{name}nsec", f"{value} % 1000")]
    return [(name, value)]


class Statements:
    """Every statement on the tables whose names start with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        tables = {table: TableStatements(table, prefix) for table in MAPPINGS}
        self.tables: dict[type, TableStatements] = tables
        edge, node, chunk = (tables[row].name for row in (Edge, Attr, Chunk))
        counter, reference = tables[Counter].name, tables[SliceRef].name
        # CROSS JOIN fixes the order: the edge first, whatever ANALYZE made SQLite believe.
        joined = f"FROM {edge} AS e CROSS JOIN {node} AS n ON n.inode = e.inode"
        attr = tables[Attr].select("n.")
        self.lookup = f"SELECT {attr} {joined} WHERE e.parent = ? AND e.name = ?"
        self.children = (
            f"SELECT e.name, {attr} {joined} WHERE e.parent = ? AND e.name > ?"
            " ORDER BY e.name LIMIT ?"
        )
        records = tables[Chunk].column("slices", "c.")
        first_chunk = f"LEFT JOIN {chunk} AS c ON c.inode = n.inode AND c.indx = 0"
        self._find = (
            f"SELECT {attr}, {records} FROM {{steps}}"
            f" CROSS JOIN {node} AS n ON n.inode = {{last}}.inode {first_chunk}"
            " WHERE {named}"
        )
        self._finds: dict[int, str] = {}
        # The length of a value stands in the row: a long one is not even read.
        self.listing = (
            f"SELECT e.name, {attr}, CASE WHEN length(c.slices) > {BULK_RECORDS_BYTES} THEN NULL"
            f" ELSE {records} END {joined} {first_chunk} WHERE e.parent = ? AND e.name > ?"
            " ORDER BY e.name LIMIT ?"
        )
        self.links = f"SELECT parent, count(*) FROM {edge} WHERE inode = ? GROUP BY parent"
        # `||` makes TEXT; other clients read both, and a BLOB stays comparable with bytes.
        self.append = (
            f"INSERT INTO {chunk} (inode, indx, slices) VALUES (?, ?, ?) ON CONFLICT (inode, indx)"
            " DO UPDATE SET slices = CAST(slices || excluded.slices AS BLOB)"
        )
        self.count = (
            f"INSERT INTO {counter} (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
        )
        self.add_refs = f"UPDATE {reference} SET refs = refs + ? WHERE chunkid = ? AND size = ?"
        self.add_live_refs = f"{self.add_refs} AND refs > 0"
        self.log = f"INSERT INTO {tables[ChangeLine].name} (entry) VALUES (?)"
        self.creation = [_table_text(prefix, table) for table in TABLE_COLUMNS] + [
            f"CREATE {'UNIQUE ' if kind == 'UQE' else ''}INDEX IF NOT EXISTS"
            f" `{kind}_{prefix}{table}_{name}` ON `{prefix}{table}` ({_quoted(columns)})"
            for (table, kind, name), columns in INDEXES.items()
        ]
        self.own_creation = [_table_text(prefix, table) for table in OWN_TABLE_COLUMNS]
        self.removal = [f"DROP TABLE IF EXISTS `{prefix}{table}`" for table in REMOVAL_ORDER]

    def find(self, depth: int) -> str:
        """Return the look-up of a path of ``depth`` names, whose parameters they are, in order."""
        text = self._finds.get(depth)
        if text is None:
            edge = self.tables[Edge].name
            steps = [f"{edge} AS e0"]
            named = [f"e0.parent = {ROOT_INODE} AND e0.name = ?"]
            for at in range(1, depth):
                # The type keeps a link, or a file, in the middle from leading anywhere.
                directory = f"e{at - 1}.type = {NodeType.DIRECTORY:d}"
                steps.append(f"{edge} AS e{at} ON e{at}.parent = e{at - 1}.inode AND {directory}")
                named.append(f"e{at}.name = ?")
            text = self._find.format(
                steps=" CROSS JOIN ".join(steps), last=f"e{depth - 1}", named=" AND ".join(named)
            )
            self._finds[depth] = text
        return text


def _table_text(prefix: str, table: str) -> str:
    """Return the definition of a table; of the format's, letter by letter the official client's.

    It reads the text of definitions back to decide what an upgrade has to add.
    """
    columns = [column.split() for column in (TABLE_COLUMNS | OWN_TABLE_COLUMNS)[table].split(",")]
    parts = [f"`{name}` {_TYPES[kind]}" for name, kind in columns]
    if table in PRIMARY_KEYS:
        parts.append(f"PRIMARY KEY ( {_quoted(PRIMARY_KEYS[table])} )")
    return f"CREATE TABLE IF NOT EXISTS `{prefix}{table}` ({', '.join(parts)})"


def _quoted(columns: str) -> str:
    return ",".join(f"`{column}`" for column in columns.split(","))
