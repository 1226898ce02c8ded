"""What must hold of a volume that nobody writes to: the official client's view, and the sums.

The sums are computed from rows that the databases' own drivers read, so that they do not share a
mistake with the code under test.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections import Counter
from pathlib import Path

from juicecache.testing.raw_metadata import RawMetadata, read_raw
from juicecache.testing.servers import run_juicefs

_RECORD = struct.Struct(">IQIII")
_DELAYED = struct.Struct(">QI")
_ROOT_INODE = 1
_TRASH_INODE = 0x7FFF_FFFF_1000_0000
_FILE, _DIRECTORY = 1, 2
_SUMS_TIMEOUT_S = 4.0
"""Several times as late as any client adds to sums."""


def assert_clean(meta: str, env: dict[str, str] | None = None) -> None:
    """Assert that a volume is whole: no lost and no leaked object, and all sums right.

    Parameters
    ----------
    meta
        The metadata URL of a volume that nobody changes. Sums may come a second late, of official
        clients always and of ours on some engines.
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
    deadline = time.monotonic() + _SUMS_TIMEOUT_S
    while (wrong := sums_wrong(meta)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not wrong, "\n".join(wrong)


def leaked(meta: str, env: dict[str, str] | None = None) -> int:
    """Return how many objects the official collector calls leaked, of whatever age."""
    environment = {**os.environ, **(env or {}), "JFS_GC_SKIPPEDTIME": "0"}
    done = run_juicefs("gc", meta, env=environment)
    (count,) = re.findall(r"(\d+) leaked", done.stdout + done.stderr)
    return int(count)


def sums_wrong(meta: str | Path) -> list[str]:
    """Return every sum of a volume that differs from what its rows add up to.

    Parameters
    ----------
    meta
        The metadata URL, or the file of a SQLite database.
    """
    raw = read_raw(meta)
    return [
        *(*_totals(raw), *_directories(raw), *_links(raw), *_references(raw)),
        *(*_quotas(raw), *_owners(raw)),
    ]


def _space(kind: int, length: int) -> int:
    return max(4096, -(-length // 4096) * 4096) if kind == _FILE else 4096


def _totals(raw: RawMetadata) -> list[str]:
    nodes = [node for inode, node in raw.nodes.items() if inode not in (1, _TRASH_INODE)]
    wanted = {
        "usedSpace": sum(_space(node.type, node.length) for node in nodes),
        "totalInodes": len(nodes),
    }
    return [
        f"{name} is {raw.counters[name]}, the rows say {value}"
        for name, value in wanted.items()
        if raw.counters[name] != value
    ]


def _directories(raw: RawMetadata) -> list[str]:
    """Rows of directories against their entries; a missing row is allowed.

    Nobody counts the hourly directories in the trash: only ``load`` makes a row for it.
    """
    sums: dict[int, list[int]] = {}
    subdirectories: Counter[int] = Counter()
    wrong = []
    for parent, name, inode, kind in raw.entries:
        node = raw.nodes.get(inode)
        if node is None or kind != node.type:
            found = None if node is None else node.type
            wrong.append(f"entry {name!r} of {parent} has type {kind}, inode {inode} {found}")
            continue
        row = sums.setdefault(parent, [0, 0, 0])
        row[0] += node.length if kind == _FILE else 0
        row[1] += _space(kind, node.length)
        row[2] += 1
        subdirectories[parent] += kind == _DIRECTORY
    for inode, stored in raw.dir_stats.items():
        if inode != _TRASH_INODE and stored != sums.get(inode, [0, 0, 0]):
            wrong.append(f"sums of directory {inode} are {stored}, not {sums.get(inode)}")
    for inode, node in raw.nodes.items():
        if node.type != _DIRECTORY or inode >= _TRASH_INODE:
            continue
        if node.nlink != 2 + subdirectories[inode]:
            links = 2 + subdirectories[inode]
            wrong.append(f"directory {inode} has {node.nlink} links, not {links}")
    return wrong


def _quotas(raw: RawMetadata) -> list[str]:
    """Quotas of directories against all that is below them."""
    children: dict[int, list[int]] = {}
    for entry in raw.entries:
        children.setdefault(entry.parent, []).append(entry.inode)
    wrong = []
    for top, stored in raw.dir_quotas.items():
        sums, pending = [0, 0], [top]
        while pending:
            for inode in children.get(pending.pop(), ()):
                node = raw.nodes[inode]
                sums[0] += _space(node.type, node.length)
                sums[1] += 1
                if node.type == _DIRECTORY:
                    pending.append(inode)
        if stored != sums:
            wrong.append(f"the quota of directory {top} counts {stored}, not {sums}")
    return wrong


def _owners(raw: RawMetadata) -> list[str]:
    """What users and groups own, where the volume counts it; nobody counts hours of the trash."""
    if not raw.setting.get("UserGroupQuota"):
        return []
    sums: dict[tuple[int, int], list[int]] = {}
    for inode, node in raw.nodes.items():
        if inode == _ROOT_INODE or inode >= _TRASH_INODE:
            continue
        for key in ((1, node.uid), (2, node.gid)):
            owned = sums.setdefault(key, [0, 0])
            owned[0] += _space(node.type, node.length)
            owned[1] += 1
    return [
        f"owner {key} counts {raw.owners.get(key)}, not {sums.get(key)}"
        for key in sorted(sums.keys() | raw.owners.keys())
        if raw.owners.get(key, [0, 0]) != sums.get(key, [0, 0])
    ]


def _links(raw: RawMetadata) -> list[str]:
    """Link counts of everything but directories; sustained inodes have none."""
    counts = Counter(entry.inode for entry in raw.entries)
    return [
        f"inode {inode} has {node.nlink} links, {counts[inode]} entries and "
        f"{raw.sustained[inode]} users"
        for inode, node in raw.nodes.items()
        if node.type != _DIRECTORY
        if node.nlink != counts[inode] or not (counts[inode] or raw.sustained[inode])
    ]


def _references(raw: RawMetadata) -> list[str]:
    counts: Counter[tuple[int, int]] = Counter()
    for records in raw.chunks:
        for _, slice_id, size, _, _ in _RECORD.iter_unpack(records):
            counts[slice_id, size] += slice_id > 0
    for entries in raw.delayed:
        counts.update((slice_id, size) for slice_id, size in _DELAYED.iter_unpack(entries))
    wanted = {key: count for key, count in counts.items() if count}
    stored = dict.fromkeys(wanted, 1) | raw.references if raw.implies else raw.references
    return [
        f"slice {key} has {stored.get(key)} references and {wanted.get(key)} records"
        for key in sorted(wanted.keys() | stored.keys())
        if stored.get(key) != wanted.get(key)
    ]
