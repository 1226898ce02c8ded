"""Statements on the tables of a volume, as PostgreSQL and MySQL understand them.

Law: everything in which the two differ is a field of `Dialect`; nothing else here, or in ``sql``,
asks which one it is. Units are converted in Python: a row is stored as `TableStatements.stored`
says and read as the tuple of its row class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from juicecache.meta.rows import (
    ALL_TABLES,
    ChangeLine,
    Chunk,
    Counter,
    Edge,
    Row,
    SliceRef,
)
from juicecache.model.attr import Attr, NodeType


@dataclass(frozen=True)
class Dialect:
    """How one database spells things.

    Attributes
    ----------
    quote
        What stands around the name of a table or column.
    types
        The definition of each kind of column in ``schema``.
    bytewise
        Makes text compare by its bytes; ``{}`` is the column.
    empty
        A literal of no bytes.
    on_conflict
        What replaces a row; ``{keys}`` its unique columns, ``{changes}`` the assignments.
    given
        The value that was to be inserted; ``{}`` is the column.
    joined
        One byte string behind another, ``{old}`` and ``{new}``.
    keys_inside
        Indexes are defined with their table, where an index cannot be made if it is missing.
    arrays
        The array type of each kind of column, where a statement takes many rows as one array for
        each column; empty where it takes a list of rows.
    required
        Wraps an update in what fails when no row was changed; empty where the count tells in time.
    """

    quote: str
    types: dict[str, str]
    bytewise: str
    empty: str
    on_conflict: str
    given: str
    joined: str
    keys_inside: bool
    required: str
    arrays: Mapping[str, str]

    def name(self, name: str) -> str:
        """Return a name between quotes."""
        return f"{self.quote}{name}{self.quote}"


class TableStatements:
    """The statements on the table of one row class.

    Attributes
    ----------
    make
        Makes a row of what is read.
    """

    def __init__(self, row_class: type[Row], prefix: str, dialect: Dialect) -> None:
        mapping = MAPPINGS[row_class]
        fields: tuple[str, ...] = row_class._fields
        self.make: Callable[[Sequence[Any]], Any] = {Attr: _attr, Edge: _edge}.get(
            row_class, row_class._make
        )
        self._dialect = dialect
        self.name = dialect.name(prefix + mapping.table)
        self._columns = dict(zip(fields, mapping.columns, strict=True))
        self._keys = [self._quoted(field) for field in ALL_TABLES[row_class].key]
        kinds = {c.split()[0]: c.split()[1] for c in _definitions(mapping.table)}
        # What text is ordered by must not depend on the collation of the database.
        self._order = [
            dialect.bytewise.format(self._quoted(field))
            if kinds[self._columns[field].partition(":")[0]] in ("STR", "NAME")
            else self._quoted(field)
            for field in ALL_TABLES[row_class].key
        ]
        self._match = " AND ".join(f"{key} = %s" for key in self._keys)
        self._key_arrays = [
            f"%s::{dialect.arrays[kinds[self._columns[field].partition(':')[0]]]}[]"
            for field in ALL_TABLES[row_class].key
            if dialect.arrays
        ]
        matched = " AND ".join(f"t.{key} = k.{key}" for key in self._keys)
        self._joined_order = ", ".join(
            order.replace(key, f"t.{key}")
            for key, order in zip(self._keys, self._order, strict=True)
        )
        self._by_arrays = (
            f"SELECT {self.select('t.')} FROM unnest({', '.join(self._key_arrays)})"
            f" AS k({', '.join(self._keys)}) JOIN {self.name} t ON {matched}"
        )
        self._select = f"SELECT {self.select()} FROM {self.name}"
        self.get = f"{self._select} WHERE {self._match}"
        self.remove = f"DELETE FROM {self.name} WHERE {self._match}"
        count = ALL_TABLES[row_class].partition
        partition = " AND ".join(f"{key} = %s" for key in self._keys[:count])
        self.clear = f"DELETE FROM {self.name} WHERE {partition or '1 = 0'}"
        stored = [part for column in mapping.columns for part in _stored_names(column)]
        names = ", ".join(map(dialect.name, stored))
        self.insert = f"INSERT INTO {self.name} ({names}) VALUES "
        self.many = ""
        if dialect.arrays:
            # One parameter a column: reading thousands in a text takes longer than running it.
            types = [dialect.arrays[kinds[column]] for column in stored]
            rows = ", ".join(f"%s::{kind}[]" for kind in types)
            self.many = f"INSERT INTO {self.name} ({names}) SELECT * FROM unnest({rows})"
        self.values = f"({', '.join(['%s'] * len(stored))})"
        self._is_plain = all(":us" not in column for column in mapping.columns)
        unique = [dialect.name(c) for c in mapping.unique] or self._keys
        changed = [name for name in map(dialect.name, stored) if name not in unique]
        changes = ", ".join(f"{n} = {dialect.given.format(n)}" for n in changed or unique[:1])
        self.replace = dialect.on_conflict.format(keys=", ".join(unique), changes=changes)

    def _quoted(self, field: str) -> str:
        return self._dialect.name(self._columns[field].partition(":")[0])

    def stored(self, row: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a row as its columns hold them."""
        if self._is_plain:
            return row
        return [
            value
            for column, field in zip(self._columns.values(), row, strict=True)
            for value in (divmod(field, 1000) if column.endswith(":us") else (field,))
        ]

    def select(self, alias: str = "") -> str:
        """Return the expressions that read one row, in the order of its fields."""
        return ", ".join(self._read(column, alias) for column in self._columns.values())

    def column(self, field: str, alias: str = "") -> str:
        """Return the expression that reads one field."""
        return self._read(self._columns[field], alias)

    def _read(self, column: str, alias: str) -> str:
        name, _, kind = column.partition(":")
        quoted = alias + self._dialect.name(name)
        if kind == "us":
            return f"{quoted} * 1000 + {alias}{self._dialect.name(name + 'nsec')}"
        if kind == "blob":
            return f"coalesce({quoted}, {self._dialect.empty})"
        return f"coalesce({quoted}, 0)" if kind == "null" else quoted

    def get_many(self, keys: Sequence[Sequence[Any]], *, lock: bool) -> tuple[str, list[Any]]:
        """Return the query of rows by keys, in ascending order of their keys, and its values."""
        if self._key_arrays:
            # A join: a list of keys of several columns would make the planner read the whole table.
            tail = f" ORDER BY {self._joined_order} FOR UPDATE OF t" if lock else ""
            return self._by_arrays + tail, [list(column) for column in zip(*keys, strict=True)]
        one = f"({', '.join(['%s'] * len(self._keys))})"
        places = ", ".join([one if len(self._keys) > 1 else "%s"] * len(keys))
        names = ", ".join(self._keys)
        match = f"({names}) IN ({places})" if len(self._keys) > 1 else f"{names} IN ({places})"
        tail = f" ORDER BY {', '.join(self._order)} FOR UPDATE" if lock else ""
        return f"{self._select} WHERE {match}{tail}", [part for key in keys for part in key]

    def scan_each(self, partitions: Sequence[int]) -> tuple[str, list[Any]]:
        """Return the scan of partitions that the first key column names, and its values."""
        order = f" ORDER BY {', '.join(self._order)}"
        if self._key_arrays:
            return f"{self._select} WHERE {self._keys[0]} = ANY(%s){order}", [list(partitions)]
        places = ", ".join(["%s"] * len(partitions))
        return f"{self._select} WHERE {self._keys[0]} IN ({places}){order}", list(partitions)

    def by_session(self, sid: int) -> tuple[str, list[Any]]:
        """Return the query of the rows of a session in a table of locks, and its values."""
        return f"{self._select} WHERE sid = %s ORDER BY {', '.join(self._order)}", [sid]

    def scan(self, partition: int, *, behind: bool) -> str:
        """Return the scan of a partition named by so many key columns, behind the rest of a key.

        Parameters are the partition, the key parts of `behind_values`, and the limit.
        """
        rest = self._order[partition:]
        conditions = [f"{key} = %s" for key in self._keys[:partition]]
        if behind:
            conditions.append(_behind(rest))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"{self._select}{where} ORDER BY {', '.join(rest)} LIMIT %s"

    def change(self, fields: Sequence[str], *, add: bool) -> str:
        """Return the update of fields; parameters are their values, then the key."""
        stored = (name for field in fields for name in _stored_names(self._columns[field]))
        names = map(self._dialect.name, stored)
        changes = [f"{name} = {name} + %s" if add else f"{name} = %s" for name in names]
        return f"UPDATE {self.name} SET {', '.join(changes)} WHERE {self._match}"

    def changed(self, fields: dict[str, Any], *, add: bool) -> list[Any]:
        """Return the values of `change`."""
        values: list[Any] = []
        for field, value in fields.items():
            values += divmod(value, 1000) if self._columns[field].endswith(":us") else (value,)
        assert not add or len(values) == len(fields), fields
        return values


def _attr(row: Sequence[Any]) -> Attr:
    return attr_of(tuple(row))


def _edge(row: Sequence[Any]) -> Edge:
    return edge_of(tuple(row))


def _behind(keys: Sequence[str]) -> str:
    """Return the condition of rows behind a key, in a form that indexes serve everywhere."""
    if len(keys) == 1:
        return f"{keys[0]} > %s"
    return f"{keys[0]} >= %s AND ({keys[0]} > %s OR ({_behind(keys[1:])}))"


def behind_values(key: Sequence[Any]) -> list[Any]:
    """Return the parameters of the condition of rows behind a key."""
    return [*key[:1]] if len(key) == 1 else [key[0], key[0], *behind_values(key[1:])]


def _stored_names(column: str) -> list[str]:
    name, _, kind = column.partition(":")
    return [name, f"{name}nsec"] if kind == "us" else [name]


class SqlStatements:
    """Every statement on the tables whose names start with ``prefix``."""

    def __init__(self, prefix: str, dialect: Dialect) -> None:
        self.prefix = prefix
        self.dialect = dialect
        tables = {row: TableStatements(row, prefix, dialect) for row in MAPPINGS}
        self.tables: dict[type, TableStatements] = tables
        self._edge, self._node, self._chunk = (tables[row].name for row in (Edge, Attr, Chunk))
        attr = tables[Attr].select("n.")
        joined = f"FROM {self._edge} e JOIN {self._node} n ON n.inode = e.inode"
        self.lookup = f"SELECT {attr} {joined} WHERE e.parent = %s AND e.name = %s"
        tail = "WHERE e.parent = %s AND e.name > %s ORDER BY e.name LIMIT %s"
        self.children = f"SELECT e.name, {attr} {joined} {tail}"
        self._records = tables[Chunk].column("slices", "c.")
        self._first = f"LEFT JOIN {self._chunk} c ON c.inode = n.inode AND c.indx = 0"
        self.listing = (
            f"SELECT e.name, {attr}, CASE WHEN octet_length(c.slices) > {BULK_RECORDS_BYTES}"
            f" THEN NULL ELSE {self._records} END {joined} {self._first} {tail}"
        )
        self._names = (
            f"SELECT e.name, {attr}, {self._records} {joined} {self._first}"
            " WHERE e.parent = %s AND "
        )
        self._array_of_names = dialect.arrays and dialect.arrays["BIN255"]
        self.links = f"SELECT parent, count(*) FROM {self._edge} WHERE inode = %s GROUP BY parent"
        slices = f"{self._chunk}.slices"
        joined_records = dialect.joined.format(old=slices, new=dialect.given.format("slices"))
        self.append = f"INSERT INTO {self._chunk} (inode, indx, slices) VALUES "
        self.append_values = "(%s, %s, %s)"
        self.append_many = ""
        if dialect.arrays:
            types = [dialect.arrays[kind] for kind in ("INT", "INT4", "BLOB")]
            rows = ", ".join(f"%s::{kind}[]" for kind in types)
            self.append_many = (
                f"INSERT INTO {self._chunk} (inode, indx, slices) SELECT * FROM unnest({rows})"
            )
        self.append_tail = dialect.on_conflict.format(
            keys="inode, indx", changes=f"slices = {joined_records}"
        )
        counter, reference = tables[Counter].name, tables[SliceRef].name
        value = dialect.name("value")
        counted = f"{value} = {counter}.{value} + {dialect.given.format(value)}"
        self.count = f"INSERT INTO {counter} (name, {value}) VALUES (%s, %s)" + (
            dialect.on_conflict.format(keys="name", changes=counted)
        )
        self.add_refs = f"UPDATE {reference} SET refs = refs + %s WHERE chunkid = %s AND size = %s"
        self.add_live_refs = f"{self.add_refs} AND refs > 0"
        self.log = f"INSERT INTO {tables[ChangeLine].name} (entry) VALUES (%s)"
        self.removal = [
            f"DROP TABLE IF EXISTS {dialect.name(prefix + table)}" for table in REMOVAL_ORDER
        ]
        self._texts: dict[tuple[str, int], str] = {}

    def find_names(self, parent: int, names: Sequence[bytes]) -> tuple[str, list[Any]]:
        """Return the query of some entries of a directory with their first slice lists."""
        if self._array_of_names:
            # One parameter: reading hundreds in a text takes longer than finding them.
            text = f"{self._names}e.name = ANY(%s::{self._array_of_names}[])"
            return text, [parent, list(names)]
        places = ", ".join(["%s"] * len(names))
        return f"{self._names}e.name IN ({places})", [parent, *names]

    def follow(self, depth: int) -> str:
        """Return the look-up of as much of a path as there is; see `Transaction.follow`.

        Comes with the first slice list of the last one, and the inodes of all on the way.
        """
        key = "follow", depth
        if key not in self._texts:
            attr = self.tables[Attr].select("n.")
            steps = [f"{self._edge} e0"]
            for at in range(1, depth):
                above = f"e{at - 1}"
                steps.append(
                    f"LEFT JOIN {self._edge} e{at} ON e{at}.parent = {above}.inode"
                    f" AND {above}.type = {NodeType.DIRECTORY:d} AND e{at}.name = %s"
                )
            inodes = [f"e{at}.inode" for at in range(depth)]
            last = f"coalesce({', '.join(reversed(inodes))})" if depth > 1 else inodes[0]
            self._texts[key] = (
                f"SELECT {attr}, {self._records}, {', '.join(inodes)} FROM {' '.join(steps)}"
                f" JOIN {self._node} n ON n.inode = {last} {self._first}"
                " WHERE e0.parent = %s AND e0.name = %s"
            )
        return self._texts[key]

    def creation(self, *, own: bool) -> list[str]:
        """Return the statements that make the tables of the format, or our own."""
        tables = OWN_TABLE_COLUMNS if own else TABLE_COLUMNS
        texts = [self._table(table) for table in tables]
        if not self.dialect.keys_inside and not own:
            for (table, kind, name), columns in INDEXES.items():
                unique = "UNIQUE " if kind == "UQE" else ""
                index = self.dialect.name(f"{kind}_{self.prefix}{table}_{name}")
                place = self.dialect.name(self.prefix + table)
                texts.append(
                    f"CREATE {unique}INDEX IF NOT EXISTS {index} ON {place} ({self._list(columns)})"
                )
        return texts

    def _table(self, table: str) -> str:
        parts = []
        for definition in _definitions(table):
            name, kind = definition.split()
            parts.append(f"{self.dialect.name(name)} {self.dialect.types[kind]}")
            if kind in ("AUTO", "AUTO4", "KEY", "NAME"):
                parts.append(f"PRIMARY KEY ({self.dialect.name(name)})")
        if table in PRIMARY_KEYS:
            parts.append(f"PRIMARY KEY ({self._list(PRIMARY_KEYS[table])})")
        if self.dialect.keys_inside:
            for (owner, kind, name), columns in INDEXES.items():
                if owner == table:
                    unique = "UNIQUE " if kind == "UQE" else ""
                    index = self.dialect.name(f"{kind}_{self.prefix}{table}_{name}")
                    parts.append(f"{unique}KEY {index} ({self._list(columns)})")
        place = self.dialect.name(self.prefix + table)
        return f"CREATE TABLE IF NOT EXISTS {place} ({', '.join(parts)})"

    def added_column(self, column: str) -> str:
        """Return the statement that adds a column of a later version to the nodes."""
        kind = next(c.split()[1] for c in _definitions("node") if c.split()[0] == column)
        return (
            f"ALTER TABLE {self._node} ADD {self.dialect.name(column)} {self.dialect.types[kind]}"
        )

    def _list(self, columns: str) -> str:
        return ", ".join(self.dialect.name(column) for column in columns.split(","))


def _definitions(table: str) -> list[str]:
    return [text.strip() for text in (TABLE_COLUMNS | OWN_TABLE_COLUMNS)[table].split(",")]
