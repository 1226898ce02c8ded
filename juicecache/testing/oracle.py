"""What must hold of a volume that nobody writes to: the official client's view, and the sums.

The sums are computed from the tables with plain SQL, so that they do not share a mistake with
the code under test.
"""

from __future__ import annotations

import os
import re
import sqlite3
import struct
from collections import Counter
from contextlib import closing
from pathlib import Path

from juicecache.testing.servers import run_juicefs

_RECORD = struct.Struct(">IQIII")
_DELAYED = struct.Struct(">QI")
_TRASH_INODE = 0x7FFF_FFFF_1000_0000
_FILE, _DIRECTORY = 1, 2


def assert_clean(meta: str, env: dict[str, str] | None = None) -> None:
    """Assert that a volume is whole: no lost and no leaked object, and all sums right.

    Parameters
    ----------
    meta
        The ``sqlite3://`` URL of a volume that no mount or process has open: the official
        client writes its sums a second late.
    env
        Further environment of the official client.

    Raises
    ------
    AssertionError
    """
    environment = {**os.environ, **(env or {}), "JFS_GC_SKIPPEDTIME": "0"}
    run_juicefs("fsck", meta, env=environment)
    count = leaked(meta, env)
    assert count == 0, f"{count} objects are leaked"
    wrong = sums_wrong(Path(meta.removeprefix("sqlite3://")))
    assert not wrong, "\n".join(wrong)


def leaked(meta: str, env: dict[str, str] | None = None) -> int:
    """Return how many objects the official collector calls leaked, of whatever age."""
    environment = {**os.environ, **(env or {}), "JFS_GC_SKIPPEDTIME": "0"}
    done = run_juicefs("gc", meta, env=environment)
    (count,) = re.findall(r"(\d+) leaked", done.stdout + done.stderr)
    return int(count)


def sums_wrong(database: Path) -> list[str]:
    """Return every sum of a SQLite volume that differs from what its rows add up to."""
    with closing(sqlite3.connect(database)) as raw:
        return [
            *_totals(raw),
            *_directories(raw),
            *_links(raw),
            *_references(raw),
        ]


def _space(kind: int, length: int) -> int:
    return max(4096, -(-length // 4096) * 4096) if kind == _FILE else 4096


def _totals(raw: sqlite3.Connection) -> list[str]:
    nodes = raw.execute(
        "SELECT type, length FROM jfs_node WHERE inode NOT IN (1, ?)", (_TRASH_INODE,)
    ).fetchall()
    wanted = {
        "usedSpace": sum(_space(*node) for node in nodes),
        "totalInodes": len(nodes),
    }
    stored = dict(raw.execute("SELECT name, value FROM jfs_counter"))
    return [
        f"{name} is {stored[name]}, the rows say {value}"
        for name, value in wanted.items()
        if stored[name] != value
    ]


def _directories(raw: sqlite3.Connection) -> list[str]:
    """Rows of directories against their entries; a missing row is allowed.

    Nobody counts the hourly directories in the trash: only ``load`` makes a row for it.
    """
    sums: dict[int, list[int]] = {}
    subdirectories: Counter[int] = Counter()
    wrong = []
    for parent, inode, kind, length, name, found in raw.execute(
        "SELECT e.parent, e.inode, e.type, n.length, e.name, n.type "
        "FROM jfs_edge e LEFT JOIN jfs_node n ON n.inode = e.inode"
    ):
        if kind != found:
            wrong.append(f"entry {name!r} of {parent} has type {kind}, inode {inode} {found}")
            continue
        row = sums.setdefault(parent, [0, 0, 0])
        row[0] += length if kind == _FILE else 0
        row[1] += _space(kind, length)
        row[2] += 1
        subdirectories[parent] += kind == _DIRECTORY
    for inode, *stored in raw.execute(
        "SELECT inode, data_length, used_space, used_inodes FROM jfs_dir_stats WHERE inode != ?",
        (_TRASH_INODE,),
    ):
        if stored != sums.get(inode, [0, 0, 0]):
            wrong.append(f"sums of directory {inode} are {stored}, not {sums.get(inode)}")
    for inode, nlink in raw.execute(
        "SELECT inode, nlink FROM jfs_node WHERE type = ? AND inode < ?",
        (_DIRECTORY, _TRASH_INODE),
    ):
        if nlink != 2 + subdirectories[inode]:
            wrong.append(f"directory {inode} has {nlink} links, not {2 + subdirectories[inode]}")
    return wrong


def _links(raw: sqlite3.Connection) -> list[str]:
    """Link counts of everything but directories; sustained inodes have none."""
    return [
        f"inode {inode} has {nlink} links, {count} entries and {users} users"
        for inode, nlink, count, users in raw.execute(
            "SELECT n.inode, n.nlink, "
            "(SELECT count(*) FROM jfs_edge e WHERE e.inode = n.inode), "
            "(SELECT count(*) FROM jfs_sustained s WHERE s.inode = n.inode) "
            "FROM jfs_node n WHERE n.type != ?",
            (_DIRECTORY,),
        )
        if nlink != count or (count == 0 and users == 0)
    ]


def _references(raw: sqlite3.Connection) -> list[str]:
    counts: Counter[tuple[int, int]] = Counter()
    for (records,) in raw.execute("SELECT CAST(slices AS BLOB) FROM jfs_chunk"):
        for _, slice_id, size, _, _ in _RECORD.iter_unpack(records):
            counts[slice_id, size] += slice_id > 0
    for (entries,) in raw.execute("SELECT slices FROM jfs_delslices"):
        counts.update((slice_id, size) for slice_id, size in _DELAYED.iter_unpack(entries))
    wanted = {key: count for key, count in counts.items() if count}
    stored = {
        (slice_id, size): refs
        for slice_id, size, refs in raw.execute("SELECT chunkid, size, refs FROM jfs_chunk_ref")
    }
    return [
        f"slice {key} has {stored.get(key)} references and {wanted.get(key)} records"
        for key in sorted(wanted.keys() | stored.keys())
        if stored.get(key) != wanted.get(key)
    ]
