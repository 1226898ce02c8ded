"""The tables of a volume in SQL: their columns, their indexes, and where each row class stands.

What every SQL engine shares; how a database spells it is for the engine. Facts of the format:
``docs/format.md``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from juicecache.errors import VolumeFormatError
from juicecache.meta.rows import (
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
    Session,
    SliceRef,
    Sustained,
    Symlink,
    UserGroupQuota,
    Xattr,
)
from juicecache.model.attr import Attr, NodeType

TABLE_COLUMNS = {
    "setting": "name NAME, value TEXT",
    "counter": "name NAME, value INT",
    "edge": "id AUTO, parent INT, name BIN255, inode INT, type INT4",
    "node": "inode KEY, type INT4, flags INT4, mode INT4, uid INT4, gid INT4,"
    " atime INT, mtime INT, ctime INT, atimensec ZERO4, mtimensec ZERO4, ctimensec ZERO4,"
    " nlink INT4, length INT, rdev INT4?, parent INT?,"
    " access_acl_id INT4?, default_acl_id INT4?, tier_id INT4?",
    "symlink": "inode KEY, target BIN4096",
    "xattr": "id AUTO, inode INT, name STR, value BLOB",
    "chunk": "id AUTO, inode INT, indx INT4, slices BLOB",
    "chunk_ref": "chunkid KEY, size INT4, refs INT4",
    "delslices": "chunkid KEY, deleted INT, slices BLOB",
    "session2": "sid KEY, expire INT, info BLOB?",
    "sustained": "id AUTO, sid INT, inode INT",
    "delfile": "inode KEY, length INT, expire INT",
    "flock": "id AUTO, inode INT, sid INT, owner INT, ltype INT4",
    "plock": "id AUTO, inode INT, sid INT, owner INT, records BLOB",
    "dir_quota": "inode KEY, max_space INT, max_inodes INT, used_space INT, used_inodes INT",
    "user_group_quota": "qtype INT4, qkey INT, max_space INT, max_inodes INT,"
    " used_space INT, used_inodes INT",
    "dir_stats": "inode KEY, data_length INT, used_space INT, used_inodes INT",
    "detached_node": "inode KEY, added INT",
    "acl": "id AUTO4, owner INT4?, group INT4?, mask INT4?, other INT4?,"
    " named_users BLOB?, named_groups BLOB?",
    "delegation_token": "id AUTO4, token BLOB?",
    "change_log": "id AUTO, entry TEXT",
}
"""Columns of each table of the format; tables are named without their prefix.

Kinds are those of the official client's definitions: ``INT`` and ``AUTO`` have 64 bits where the
database has several sizes, with a ``4`` they have 32; ``BIN`` and ``STR`` have a greatest length;
``?`` may be NULL.
"""

OWN_TABLE_COLUMNS = {
    "juicecache_member": "name STR, member STR, expire INT, info BLOB",
    "juicecache_group": "name NAME, secret BLOB",
}
"""Columns of the tables that are not the format's: see ``rows.OWN_TABLES``."""

REMOVAL_ORDER = (*OWN_TABLE_COLUMNS, *reversed(TABLE_COLUMNS))
"""All tables: that of the setting record last, which makes a database a volume."""

PRIMARY_KEYS = {
    "user_group_quota": "qtype,qkey",
    "juicecache_member": "name,member",
}

INDEXES = {
    ("edge", "UQE", "edge"): "parent,name",
    ("edge", "IDX", "inode"): "inode",
    ("xattr", "UQE", "name"): "inode,name",
    ("chunk", "UQE", "chunk"): "inode,indx",
    ("chunk_ref", "IDX", "refs"): "refs",
    ("sustained", "UQE", "sustained"): "sid,inode",
    ("flock", "UQE", "flock"): "inode,sid,owner",
    ("plock", "UQE", "plock"): "inode,sid,owner",
}
"""{(table, unique or plain, name): columns}; the official client looks for these names."""

ADDED_COLUMNS = frozenset(["rdev", "access_acl_id", "default_acl_id", "tier_id"])
"""Columns that ``node`` got in later versions of the format; all may be NULL."""


class Mapping(NamedTuple):
    """Where the rows of one class stand.

    ``columns`` are in the order of the fields. A suffix says how a value is stored:
    ``:us`` microseconds, with the rest of nanoseconds in a column ``<name>nsec``;
    ``:blob`` bytes that may be NULL, or TEXT in SQLite; ``:null`` an
    integer that may be NULL, which is read as 0. ``unique`` are the columns of which the
    database allows each value once, where they are not the key's.
    """

    table: str
    columns: tuple[str, ...]
    unique: tuple[str, ...] = ()


MAPPINGS: dict[type, Mapping] = {
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
            *("id", "owner:null", "group:null", "mask:null", "other:null"),
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


def edge_of(row: tuple[Any, ...]) -> Edge:
    """Return the entry in a row of the edge columns."""
    return Edge(row[0], row[1], row[2], NODE_TYPES[row[3]])
