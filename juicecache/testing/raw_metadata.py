"""The rows of a volume, read with the databases' own drivers and nothing of the code under test."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from juicecache.addresses import MetaAddress, parse_meta


class Node(NamedTuple):
    """What counts of a node."""

    type: int
    length: int
    nlink: int
    uid: int
    gid: int


class Entry(NamedTuple):
    """A name in a directory."""

    parent: int
    name: bytes
    inode: int
    type: int


@dataclass
class RawMetadata:
    """All rows of a volume that sums are made of.

    Attributes
    ----------
    dir_stats
        Length, space and inodes of the entries of each directory.
    dir_quotas
        Space and inodes that each quota of a directory counts.
    owners
        The same of each user (1, uid) and group (2, gid).
    setting
        The volume's record.
    references
        By slice id and size, those that have a row.
    implies
        Whether a slice without a row has one reference.
    """

    counters: dict[str, int] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    dir_stats: dict[int, list[int]] = field(default_factory=dict)
    dir_quotas: dict[int, list[int]] = field(default_factory=dict)
    owners: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    delayed: list[bytes] = field(default_factory=list)
    references: dict[tuple[int, int], int] = field(default_factory=dict)
    sustained: Counter[int] = field(default_factory=Counter)
    sessions: list[bytes] = field(default_factory=list)
    implies: bool = False


def read_raw(meta: str | Path) -> RawMetadata:
    """Return the rows of a volume: a metadata URL, or the file of a SQLite database."""
    address = parse_meta(meta if isinstance(meta, str) else f"sqlite3://{meta}")
    if address.scheme in ("redis", "rediss"):
        return _from_redis(address)
    with closing(connect_sql(address)) as connection:
        return _from_sql(connection, address)


def connect_sql(address: MetaAddress) -> Any:
    """Open a connection of the driver to a SQL database."""
    if address.scheme == "sqlite3":
        return sqlite3.connect(address.location)
    user, _, place = address.location.partition("?")[0].rpartition("@")
    hosts, _, database = place.partition("/")
    host, _, port = hosts.strip("()").rpartition(":")
    if address.scheme == "postgres":
        import psycopg

        return psycopg.connect(
            host=host, port=port, user=user, password=address.password, dbname=database
        )
    import pymysql

    return pymysql.connect(
        host=host, port=int(port), user=user, password=address.password, database=database
    )


def _from_sql(connection: Any, address: MetaAddress) -> RawMetadata:
    prefix = f"jfs_{address.table_prefix}_" if address.table_prefix else "jfs_"
    slices = "CAST(slices AS BLOB)" if address.scheme == "sqlite3" else "slices"

    def rows(columns: str, table: str) -> list[Any]:
        cursor = connection.cursor()
        cursor.execute(f"SELECT {columns} FROM {prefix}{table}")
        return [
            tuple(bytes(one) if isinstance(one, memoryview) else one for one in row)
            for row in cursor.fetchall()
        ]

    nodes = rows("inode, type, length, nlink, uid, gid", "node")
    quotas = rows("inode, used_space, used_inodes", "dir_quota")
    owners = rows("qtype, qkey, used_space, used_inodes", "user_group_quota")
    settings = rows("value", "setting")
    stats = rows("inode, data_length, used_space, used_inodes", "dir_stats")
    references = rows("chunkid, size, refs", "chunk_ref")
    return RawMetadata(
        counters=dict(rows("name, value", "counter")),
        nodes={inode: Node(*rest) for inode, *rest in nodes},
        entries=[Entry(*row) for row in rows("parent, name, inode, type", "edge")],
        dir_stats={inode: list(sums) for inode, *sums in stats},
        dir_quotas={inode: list(sums) for inode, *sums in quotas},
        owners={(kind, number): list(sums) for kind, number, *sums in owners},
        setting=json.loads(settings[0][0]) if settings else {},
        chunks=[row[0] for row in rows(slices, "chunk")],
        delayed=[row[0] for row in rows(slices, "delslices")],
        references={(slice_id, size): refs for slice_id, size, refs in references},
        sustained=Counter(row[0] for row in rows("inode", "sustained")),
        sessions=[row[0] or b"" for row in rows("info", "session2")],
    )


def _from_redis(address: MetaAddress) -> RawMetadata:
    import redis

    with closing(redis.Redis.from_url(address.text, password=address.password or None)) as client:
        return _read_keys(client)


def _read_keys(client: Any) -> RawMetadata:
    found = RawMetadata(implies=True)
    for name in ("usedSpace", "totalInodes"):
        found.counters[name] = int(client.get(name) or 0)
    for key in client.scan_iter(b"i[0-9]*", 1000):
        value = client.get(key)
        (kind,) = struct.unpack_from(">H", value, 1)
        owner = struct.unpack_from(">II", value, 3)
        nlink, length = struct.unpack_from(">IQ", value, 47)
        found.nodes[int(key[1:])] = Node(kind >> 12, length, nlink, *owner)
    for key in client.scan_iter(b"d[0-9]*", 1000):
        for name, value in client.hgetall(key).items():
            kind, inode = struct.unpack(">BQ", value)
            found.entries.append(Entry(int(key[1:]), name, inode, kind))
    for key in client.scan_iter(b"c[0-9]*_[0-9]*", 1000):
        found.chunks.append(b"".join(client.lrange(key, 0, -1)))
    for at, name in enumerate(("dirDataLength", "dirUsedSpace", "dirUsedInodes")):
        for inode, value in client.hgetall(name).items():
            found.dir_stats.setdefault(int(inode), [0, 0, 0])[at] = int(value)
    for at, name in enumerate(("UsedSpace", "UsedInodes")):
        for inode, value in client.hgetall(f"dirQuota{name}").items():
            found.dir_quotas.setdefault(int(inode), [0, 0])[at] = int(value)
        for kind, owner_key in ((1, f"userQuota{name}"), (2, f"groupQuota{name}")):
            for number, value in client.hgetall(owner_key).items():
                found.owners.setdefault((kind, int(number)), [0, 0])[at] = int(value)
    found.setting = json.loads(client.get("setting") or "{}")
    for slice_field, count in client.hgetall("sliceRef").items():
        slice_id, _, size = slice_field[1:].partition(b"_")
        found.references[int(slice_id), int(size)] = int(count) + 1
    found.delayed = list(client.hgetall("delSlices").values())
    for key in client.scan_iter(b"session[0-9]*", 1000):
        found.sustained.update(int(inode) for inode in client.smembers(key))
    found.sessions = list(client.hgetall("sessionInfos").values())
    return found
