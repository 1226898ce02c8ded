"""The typed rows of a volume's metadata: what stands in each table, and what it means.

An engine maps these rows to the tables or keys of the format and knows no file-system
rule; ``tree``, ``chunks`` and ``usage`` know the rules and no engine. ``Attr`` (the node
row) lives in ``model.attr``. Column-for-column facts: ``docs/format.md``.

Rows are named tuples: a listing builds a hundred thousand of them, and a tuple is made
from a database row in a fifth of the time of a frozen dataclass. ``row._replace`` changes.

Law: one row class, one table. ``TABLES`` and ``OWN_TABLES`` are the only places that say which
fields are the key and which the partition (what ``scan`` iterates over).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from juicecache.model.attr import Attr, NodeType

SETTING = "format"
"""Name of the record that makes a database a volume; see ``model.setting``."""


class Record(NamedTuple):
    """A document about the volume as a whole: the setting record is the one named `SETTING`."""

    name: str
    text: str


class Counter(NamedTuple):
    """A named integer: id allocation, volume totals, leases of background jobs."""

    name: str
    value: int


class Edge(NamedTuple):
    """One name in one directory. ``type`` always equals the node's type."""

    parent: int
    name: bytes
    inode: int
    type: NodeType


class Chunk(NamedTuple):
    """The slice records of one 64 MiB window of a file, in order of application.

    No row means a hole. ``slices`` is a concatenation of 24-byte records.
    """

    inode: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    slices: bytes


class SliceRef(NamedTuple):
    """How many records point at one slice. ``refs <= 0`` is dead: never revived.

    Some engines keep no row for a slice with one reference: `Transaction.implies_references`.
    """

    slice_id: int
    size: int
    refs: int


class DelayedSlices(NamedTuple):
    """Slices replaced by a compaction while the trash is on: 12-byte (id, size) entries."""

    slice_id: int
    deleted_s: int
    slices: bytes


class Symlink(NamedTuple):
    """The target of a symbolic link, 1..4096 bytes."""

    inode: int
    target: bytes


class Xattr(NamedTuple):
    """One extended attribute."""

    inode: int
    name: str
    value: bytes


class Session(NamedTuple):
    """One live client; others clean up after it once ``expire_s`` (Unix seconds) is past."""

    sid: int
    expire_s: int
    info: bytes


class Sustained(NamedTuple):
    """An inode without a name that session ``sid`` still has open."""

    sid: int
    inode: int


class DeletedFile(NamedTuple):
    """A file whose node is gone and whose chunks are still to be dropped."""

    inode: int
    length: int
    expire_s: int


class DirStats(NamedTuple):
    """Usage of the direct entries of one directory (not of the subtree)."""

    inode: int
    data_length: int
    used_space: int
    used_inodes: int


class DirQuota(NamedTuple):
    """A quota on what is below a directory, itself excluded; a limit of 0 or less is none."""

    inode: int
    max_space: int
    max_inodes: int
    used_space: int
    used_inodes: int


class UserGroupQuota(NamedTuple):
    """What one user (``kind`` 1) or group (``kind`` 2) owns; a limit of 0 or less is none."""

    kind: int
    id: int
    max_space: int
    max_inodes: int
    used_space: int
    used_inodes: int


class Acl(NamedTuple):
    """One access control list. Rows never change and are shared by any number of inodes.

    The four fields are permission bits, or ``model.acl.UNSET``; the names are 6-byte entries
    (u32 id, u16 bits), ascending by id. Numbers start at 1.
    """

    id: int
    owner: int
    group: int
    mask: int
    other: int
    named_users: bytes
    named_groups: bytes


class ChangeLine(NamedTuple):
    """One line of the change log, written by `Transaction.log` alone; numbers ascend."""

    number: int
    text: str


class DetachedNode(NamedTuple):
    """The root of a directory clone that is not attached to the tree yet."""

    inode: int
    added_s: int


class Flock(NamedTuple):
    """A BSD lock: ``kind`` is ``ord('R')`` or ``ord('W')``."""

    inode: int
    sid: int
    owner: int
    kind: int


class Plock(NamedTuple):
    """POSIX record locks of one owner on one inode, as 24-byte entries."""

    inode: int
    sid: int
    owner: int
    records: bytes


class GroupMember(NamedTuple):
    """One member of a cache group; not one any more once ``expire_s`` (Unix seconds) is past.

    ``info`` is what it says of itself: its form is the floor's above.
    """

    group: str
    member: str
    expire_s: int
    info: bytes


class GroupSecret(NamedTuple):
    """What the members of a cache group and its clients all know. Never shown."""

    group: str
    secret: bytes

    def __repr__(self) -> str:
        return f"GroupSecret(group={self.group!r}, secret=***)"


Row: TypeAlias = (
    Attr
    | Record
    | Counter
    | Edge
    | Chunk
    | SliceRef
    | DelayedSlices
    | Symlink
    | Xattr
    | Session
    | Sustained
    | DeletedFile
    | DirStats
    | DirQuota
    | UserGroupQuota
    | Acl
    | ChangeLine
    | DetachedNode
    | Flock
    | Plock
    | GroupMember
    | GroupSecret
)


@dataclass(frozen=True, slots=True)
class Table:
    """How rows of one class are found.

    Parameters
    ----------
    key
        The fields that identify a row.
    partition
        How many leading key fields name the group that ``scan`` iterates over; 0 scans
        the whole table.
    """

    key: tuple[str, ...]
    partition: int = 0


TABLES: dict[type, Table] = {
    Attr: Table(("inode",)),
    Record: Table(("name",)),
    Counter: Table(("name",)),
    Edge: Table(("parent", "name"), 1),
    Chunk: Table(("inode", "index"), 1),
    SliceRef: Table(("slice_id", "size")),
    DelayedSlices: Table(("slice_id",)),
    Symlink: Table(("inode",)),
    Xattr: Table(("inode", "name"), 1),
    Session: Table(("sid",)),
    Sustained: Table(("sid", "inode"), 1),
    DeletedFile: Table(("inode",)),
    DirStats: Table(("inode",)),
    DirQuota: Table(("inode",)),
    UserGroupQuota: Table(("kind", "id")),
    Acl: Table(("id",)),
    ChangeLine: Table(("number",)),
    DetachedNode: Table(("inode",)),
    Flock: Table(("inode", "sid", "owner"), 1),
    Plock: Table(("inode", "sid", "owner"), 1),
}
"""The tables of the format, which every volume has."""

OWN_TABLES: dict[type, Table] = {
    GroupMember: Table(("group", "member"), 1),
    GroupSecret: Table(("group",)),
}
"""Our own tables, which the official client ignores and a volume may lack. Nothing of the file
system may depend on them; see `Engine.prepare_own`."""

TOTALS = frozenset(["usedSpace", "totalInodes"])
"""Counters that every change of the volume adds to: engines may add what is committed later."""

ALL_TABLES: dict[type, Table] = TABLES | OWN_TABLES


def key_of(row: Row) -> tuple[int | str | bytes, ...]:
    """Return the key of ``row`` in the order of its table."""
    return tuple(getattr(row, field) for field in ALL_TABLES[type(row)].key)
