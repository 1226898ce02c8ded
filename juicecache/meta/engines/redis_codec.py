"""What every row class says of its place in Redis, and the packed values of the format.

Pure: commands are made here and replies are understood here; nothing is sent. Facts of the
format: ``docs/format.md``. Law: the first reply of a row's reads is empty (nothing, zero, an
empty list) exactly when the row is absent, so that any client can tell by one command.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, ClassVar, TypeAlias

from juicecache.errors import VolumeFormatError
from juicecache.meta.engine import Key
from juicecache.meta.rows import Row
from juicecache.model.attr import Attr, NodeType

Command: TypeAlias = tuple[bytes | int, ...]
"""A command of Redis and its arguments."""

WHO = (b"INFO", b"server")
"""Asks which server it is: a cursor of one means nothing to another, or after a restart."""
NEVER = "juicecacheNever"
"""A key that nobody makes. A scan finds what a node of a cluster happens to have; asked for this
one, no node says that it is not there but the one that has all keys of the volume."""
NS = 1_000_000_000
ATTR = Struct(">BHII qI qI qI IQIQ")
"""flags, type and mode, uid, gid, three times, nlink, length, rdev, parent."""
ATTR_BYTES = ATTR.size
_OLD_ATTR_BYTES = 63
"""Of clients that knew no parent."""
_ACLS = Struct(">II")
EDGE = Struct(">BQ")
"""Type and inode of an entry."""

_TYPES = {int(kind): kind for kind in NodeType}


def run_of(reply: bytes) -> bytes:
    """Return what names one run of one server, of its answer to `WHO`."""
    return reply.partition(b"run_id:")[2].partition(b"\r")[0]


def pack_attr(attr: Attr) -> bytes:
    """Return the value of a node's key."""
    value = ATTR.pack(
        attr.flags,
        attr.type << 12 | attr.mode,
        attr.uid,
        attr.gid,
        *divmod(attr.atime_ns, NS),
        *divmod(attr.mtime_ns, NS),
        *divmod(attr.ctime_ns, NS),
        attr.nlink,
        attr.length,
        attr.rdev,
        attr.parent,
    )
    if attr.access_acl or attr.default_acl:
        value += _ACLS.pack(attr.access_acl, attr.default_acl)
    return value + bytes([attr.tier]) if attr.tier else value


def unpack_attr(inode: int, value: bytes) -> Attr:
    """Return the attributes in the value of a node's key.

    Raises
    ------
    VolumeFormatError
        It is no such value.
    """
    size = len(value)
    if size < ATTR_BYTES:
        if size != _OLD_ATTR_BYTES:
            raise VolumeFormatError(f"inode {inode} has attributes of {size} bytes")
        value += bytes(ATTR_BYTES - _OLD_ATTR_BYTES)
    (flags, kind, uid, gid, a_s, a_ns, m_s, m_ns, c_s, c_ns, nlink, length, rdev, parent) = (
        ATTR.unpack_from(value)
    )
    access = default = tier = 0
    if size > ATTR_BYTES:
        if size >= ATTR_BYTES + _ACLS.size:
            access, default = _ACLS.unpack_from(value, ATTR_BYTES)
        if (size - ATTR_BYTES) % _ACLS.size == 1:
            tier = value[-1]
    a_ns += a_s * NS
    m_ns += m_s * NS
    c_ns += c_s * NS
    node = _TYPES.get(kind >> 12) or node_type(kind >> 12)
    mode = kind & 0o7777
    # fmt: off
    return tuple.__new__(Attr, (  # in a third of the time of a call of its class
        inode, node, flags, mode, uid, gid, a_ns, m_ns, c_ns, nlink, length, rdev, parent,
        access, default, tier,
    ))
    # fmt: on


def node_type(number: int) -> NodeType:
    """Return the type of a node; VolumeFormatError for one that is not known."""
    kind = _TYPES.get(number)
    if kind is None:
        raise VolumeFormatError(f"the metadata holds a node of the unknown type {number}")
    return kind


def unpack_edge(value: bytes) -> tuple[NodeType, int]:
    """Return the type and the inode in the value of an entry."""
    number, inode = EDGE.unpack(value)
    return node_type(number), inode


class Codec(ABC):
    """How the rows of one class stand in Redis.

    Attributes
    ----------
    pattern
        Of the keys that hold rows of this class and of no other; empty where one key has all.
    """

    pattern: ClassVar[bytes] = b""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix

    def name(self, text: str) -> bytes:
        """Return a key of this volume."""
        return self._prefix + text.encode("utf-8", "surrogateescape")

    def at(self, kind: str, *parts: object) -> bytes:
        """Return the key of this volume that begins with ``kind`` and ends with numbers."""
        return self._prefix + kind.encode() + joined(*parts)

    @abstractmethod
    def reads(self, key: Key) -> list[Command]:
        """Return the commands whose replies hold a row."""

    @abstractmethod
    def decode(self, key: Key, replies: Sequence[Any]) -> Row | None:
        """Return the row in the replies to `reads`."""

    @abstractmethod
    def puts(self, row: Any) -> list[Command]:
        """Return the commands that write a row."""

    @abstractmethod
    def deletes(self, key: Key) -> list[Command]:
        """Return the commands that remove a row."""

    def adds(self, key: Key, deltas: dict[str, int]) -> list[Command]:
        """Return the commands that add to integer fields."""
        raise NotImplementedError(f"{type(self).__name__} has no field to add to")

    def all_reads(self, partition: Key) -> list[Command]:
        """Return the commands whose replies hold all rows of a partition, or of the class."""
        raise NotImplementedError(f"{type(self).__name__} is scanned by keys")

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Any]:
        """Return the rows in the replies to `all_reads`."""
        raise NotImplementedError(f"{type(self).__name__} is scanned by keys")

    def partition_of(self, name: bytes) -> Key:
        """Return the partition, or the whole key of the row, that a key of `pattern` holds."""
        raise NotImplementedError(f"{type(self).__name__} is no class of many keys")


def pairs(reply: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Return the fields and values of a reply that lists them in turn."""
    return zip(reply[::2], reply[1::2], strict=True)


def text(value: object) -> bytes:
    """Return the bytes of a name in another client's encoding, whatever it is."""
    return str(value).encode("utf-8", "surrogateescape")


def joined(*parts: object, mark: str = "_") -> bytes:
    """Return numbers with a mark in between."""
    return mark.join(map(str, parts)).encode()
