"""Tables of a SQLite volume: their definitions, and every statement that is ever sent.

Law: one `Mapping` says how a row class stands in its table; statements are derived from it
once per engine, so that SQLite sees few distinct texts and compiles each of them once.
Units are converted in SQL: a database row already is the tuple of its row class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from juicecache.errors import VolumeFormatError
from juicecache.meta.engine import BULK_RECORDS_BYTES
from juicecache.meta.rows import (
    ALL_TABLES,
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
)
from juicecache.model.attr import ROOT_INODE, Attr, NodeType

_TYPES = {
    "AUTO": "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL",
    "KEY": "INTEGER PRIMARY KEY NOT NULL",
    "NAME": "TEXT PRIMARY KEY NOT NULL",
    "INT": "INTEGER NOT NULL",
    "INT0": "INTEGER DEFAULT 0 NOT NULL",
    "INT?": "INTEGER NULL",
    "BLOB": "BLOB NOT NULL",
    "BLOB?": "BLOB NULL",
    "TEXT": "TEXT NOT NULL",
}

TABLE_COLUMNS = {
    "setting": "name NAME, value TEXT",
    "counter": "name NAME, value INT",
    "edge": "id AUTO, parent INT, name BLOB, inode INT, type INT",
    "node": "inode KEY, type INT, flags INT, mode INT, uid INT, gid INT,"
    " atime INT, mtime INT, ctime INT, atimensec INT0, mtimensec INT0, ctimensec INT0,"
    " nlink INT, length INT, rdev INT?, parent INT?,"
    " access_acl_id INT?, default_acl_id INT?, tier_id INT?",
    "symlink": "inode KEY, target BLOB",
    "xattr": "id AUTO, inode INT, name TEXT, value BLOB",
    "chunk": "id AUTO, inode INT, indx INT, slices BLOB",
    "chunk_ref": "chunkid KEY, size INT, refs INT",
    "delslices": "chunkid KEY, deleted INT, slices BLOB",
    "session2": "sid KEY, expire INT, info BLOB?",
    "sustained": "id AUTO, sid INT, inode INT",
    "delfile": "inode KEY, length INT, expire INT",
    "flock": "id AUTO, inode INT, sid INT, owner INT, ltype INT",
    "plock": "id AUTO, inode INT, sid INT, owner INT, records BLOB",
    "dir_quota": "inode KEY, max_space INT, max_inodes INT, used_space INT, used_inodes INT",
    "user_group_quota": "qtype INT, qkey INT, max_space INT, max_inodes INT,"
    " used_space INT, used_inodes INT",
    "dir_stats": "inode KEY, data_length INT, used_space INT, used_inodes INT",
    "detached_node": "inode KEY, added INT",
    "acl": "id AUTO, owner INT?, group INT?, mask INT?, other INT?,"
    " named_users BLOB?, named_groups BLOB?",
    "delegation_token": "id AUTO, token BLOB?",
    "change_log": "id AUTO, entry TEXT",
}
"""Columns of each table of the format; tables are named without their prefix."""

OWN_TABLE_COLUMNS = {
    "juicecache_member": "name TEXT, member TEXT, expire INT, info BLOB",
    "juicecache_group": "name NAME, secret BLOB",
}
"""Columns of the tables that are not the format's: see ``rows.OWN_TABLES``."""

_PRIMARY_KEYS = {
    "user_group_quota": "`qtype`,`qkey`",
    "juicecache_member": "`name`,`member`",
}

INDEXES = {
    ("edge", "UQE", "edge"): "`parent`,`name`",
    ("edge", "IDX", "inode"): "`inode`",
    ("xattr", "UQE", "name"): "`inode`,`name`",
    ("chunk", "UQE", "chunk"): "`inode`,`indx`",
    ("chunk_ref", "IDX", "refs"): "`refs`",
    ("sustained", "UQE", "sustained"): "`sid`,`inode`",
    ("flock", "UQE", "flock"): "`inode`,`sid`,`owner`",
    ("plock", "UQE", "plock"): "`inode`,`sid`,`owner`",
}
"""{(table, unique or plain, name): columns}; the official client looks for these names."""

ADDED_COLUMNS = frozenset(["rdev", "access_acl_id", "default_acl_id", "tier_id"])
"""Columns that ``node`` got in later versions of the format; all may be NULL."""


class Mapping(NamedTuple):
    """Where the rows of one class stand.

    ``columns`` are in the order of the fields. A suffix says how a value is stored:
    ``:us`` microseconds, with the rest of nanoseconds in a column ``<name>nsec``;
    ``:blob`` bytes that other clients may have stored as TEXT or NULL; ``:null`` an
    integer that may be NULL, which is read as 0. ``unique`` are the columns of which the
    database allows each value once, where they are not the key's.
    """

    table: str
    columns: tuple[str, ...]
    unique: tuple[str, ...] = ()


_MAPPINGS: dict[type, Mapping] = {
    Attr: Mapping(
        "node",
        (
            *("inode", "type", "flags", "mode", "uid", "gid"),
            *("atime:us", "mtime:us", "ctime:us", "nlink", "length"),
            *("rdev:null", "parent:null", "access_acl_id:null", "default_acl_id:null"),
            "tier_id:null",
        ),
    ),
    Record: Mapping("setting", ("name", "value")),
    Counter: Mapping("counter", ("name", "value")),
    Edge: Mapping("edge", ("parent", "name:blob", "inode", "type")),
    Chunk: Mapping("chunk", ("inode", "indx", "slices:blob")),
    SliceRef: Mapping("chunk_ref", ("chunkid", "size", "refs"), unique=("chunkid",)),
    DelayedSlices: Mapping("delslices", ("chunkid", "deleted", "slices:blob")),
    Symlink: Mapping("symlink", ("inode", "target:blob")),
    Xattr: Mapping("xattr", ("inode", "name", "value:blob")),
    Session: Mapping("session2", ("sid", "expire", "info:blob")),
    Sustained: Mapping("sustained", ("sid", "inode")),
    DeletedFile: Mapping("delfile", ("inode", "length", "expire")),
    DirStats: Mapping("dir_stats", ("inode", "data_length", "used_space", "used_inodes")),
    DirQuota: Mapping(
        "dir_quota", ("inode", "max_space", "max_inodes", "used_space", "used_inodes")
    ),
    UserGroupQuota: Mapping(
        "user_group_quota",
        ("qtype", "qkey", "max_space", "max_inodes", "used_space", "used_inodes"),
    ),
    Acl: Mapping(
        "acl",
        (
            *("id", "owner:null", "`group`:null", "mask:null", "other:null"),
            *("named_users:blob", "named_groups:blob"),
        ),
    ),
    ChangeLine: Mapping("change_log", ("id", "entry")),
    DetachedNode: Mapping("detached_node", ("inode", "added")),
    Flock: Mapping("flock", ("inode", "sid", "owner", "ltype")),
    Plock: Mapping("plock", ("inode", "sid", "owner", "records:blob")),
    GroupMember: Mapping("juicecache_member", ("name", "member", "expire", "info")),
    GroupSecret: Mapping("juicecache_group", ("name", "secret")),
}


class _NodeTypes(dict[int, NodeType]):
    def __missing__(self, number: int) -> NodeType:
        raise VolumeFormatError(f"the metadata holds a node of the unknown type {number}")


NODE_TYPES = _NodeTypes({int(kind): kind for kind in NodeType})
"""Numbers to `NodeType`: a look-up costs a fifth of calling the enumeration."""


def attr_of(row: tuple[Any, ...]) -> Attr:
    """Return the attributes in a row of the node columns."""
    # What the class's own constructor does, in half of its time: a listing makes 100,000.
    return tuple.__new__(Attr, (row[0], NODE_TYPES[row[1]], *row[2:]))


def _edge_of(row: tuple[Any, ...]) -> Edge:
    return Edge(row[0], row[1], row[2], NODE_TYPES[row[3]])


class TableStatements:
    """The statements on the table of one row class.

    Parameters of ``put`` and ``insert`` are the row; of ``get`` and ``remove`` its key; of
    a scan the partition, the rest of the key to start behind, and the limit (-1: none).
    """

    def __init__(self, row_class: type[Row], prefix: str) -> None:
        mapping = _MAPPINGS[row_class]
        fields: tuple[str, ...] = row_class._fields
        self.make: Callable[[tuple[Any, ...]], Any] = {Attr: attr_of, Edge: _edge_of}.get(
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
    return column.partition(":")[0]


def _read(column: str, alias: str) -> str:
    name, _, kind = column.partition(":")
    name = alias + name
    if kind == "us":
        return f"{name} * 1000 + {name}nsec"
    if kind == "blob":
        return f"coalesce(CAST({name} AS BLOB), x'')"
    return f"coalesce({name}, 0)" if kind == "null" else name


def _stored(column: str, value: str) -> list[tuple[str, str]]:
    name, _, kind = column.partition(":")
    if kind == "us":
        return [(name, f"{value} / 1000"), (f"{name}nsec", f"{value} % 1000")]
    return [(name, value)]


class Statements:
    """Every statement on the tables whose names start with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        tables = {table: TableStatements(table, prefix) for table in _MAPPINGS}
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
            f" `{kind}_{prefix}{table}_{name}` ON `{prefix}{table}` ({columns})"
            for (table, kind, name), columns in INDEXES.items()
        ]
        self.own_creation = [_table_text(prefix, table) for table in OWN_TABLE_COLUMNS]

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
    if table in _PRIMARY_KEYS:
        parts.append(f"PRIMARY KEY ( {_PRIMARY_KEYS[table]} )")
    return f"CREATE TABLE IF NOT EXISTS `{prefix}{table}` ({', '.join(parts)})"
