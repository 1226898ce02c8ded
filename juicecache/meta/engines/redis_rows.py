"""The tree and the slices in Redis: nodes, entries, chunks, references, and what was removed.

Facts of the format: ``docs/format.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from juicecache.meta.engine import Key
from juicecache.meta.engines.redis_codec import (
    EDGE,
    Codec,
    Command,
    joined,
    pack_attr,
    pairs,
    text,
    unpack_attr,
    unpack_edge,
)
from juicecache.meta.rows import (
    SETTING,
    Chunk,
    Counter,
    DelayedSlices,
    DeletedFile,
    Edge,
    Record,
    Row,
    SliceRef,
    Symlink,
    Xattr,
)
from juicecache.model.attr import Attr
from juicecache.model.slices import RECORD_BYTES

_PUSHED_MAX = 1000
"""Elements of one command: a script cannot pass many thousand arguments."""


def append_commands(key: bytes, records: bytes) -> list[Command]:
    """Return the commands that append slice records to the list ``key``."""
    cut = [records[at : at + RECORD_BYTES] for at in range(0, len(records), RECORD_BYTES)]
    return [
        (b"RPUSH", key, *cut[first : first + _PUSHED_MAX])
        for first in range(0, len(cut), _PUSHED_MAX)
    ]


def reference_field(slice_id: object, size: object) -> bytes:
    """Return the field of a slice in the hash of references."""
    return b"k" + joined(slice_id, size)


def deleted_member(inode: int, length: int) -> bytes:
    """Return the member that stands for a removed file."""
    return joined(inode, length, mark=":")


class _AttrCodec(Codec):
    """``i<inode>``: the packed attributes."""

    pattern = b"i[0-9]*"

    def reads(self, key: Key) -> list[Command]:
        return [(b"GET", self.at("i", key[0]))]

    def decode(self, key: Key, replies: Sequence[Any]) -> Attr | None:
        (inode,) = key
        assert isinstance(inode, int)
        return None if replies[0] is None else unpack_attr(inode, replies[0])

    def puts(self, row: Attr) -> list[Command]:
        return [(b"SET", self.at("i", row.inode), pack_attr(row))]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"DEL", self.at("i", key[0]))]

    def partition_of(self, name: bytes) -> Key:
        return (int(name[1:]),)


class _RecordCodec(Codec):
    """``setting``: the record of the volume; others, which are our own, in a hash."""

    def reads(self, key: Key) -> list[Command]:
        if key[0] == SETTING:
            return [(b"GET", self.name("setting"))]
        return [(b"HGET", self.name("juicecacheRecords"), str(key[0]).encode())]

    def decode(self, key: Key, replies: Sequence[Any]) -> Record | None:
        return None if replies[0] is None else Record(str(key[0]), replies[0].decode())

    def puts(self, row: Record) -> list[Command]:
        if row.name == SETTING:
            return [(b"SET", self.name("setting"), row.text.encode())]
        return [(b"HSET", self.name("juicecacheRecords"), row.name.encode(), row.text.encode())]

    def deletes(self, key: Key) -> list[Command]:
        if key[0] == SETTING:
            return [(b"DEL", self.name("setting"))]
        return [(b"HDEL", self.name("juicecacheRecords"), str(key[0]).encode())]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"GET", self.name("setting")), (b"HGETALL", self.name("juicecacheRecords"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Record]:
        if replies[0] is not None:
            yield Record(SETTING, replies[0].decode())
        for name, value in pairs(replies[1]):
            yield Record(name.decode(), value.decode())


class _CounterCodec(Codec):
    """One key a counter. Those of ids hold the last number used, our rows the next one free."""

    _KEYS: ClassVar[dict[str, str]] = {
        "nextInode": "nextinode",
        "nextChunk": "nextchunk",
        "nextSession": "nextsession",
    }
    _LAST_USED: ClassVar = frozenset(["nextInode", "nextChunk"])
    _KNOWN = (
        *("nextInode", "nextChunk", "nextSession", "nextTrash", "usedSpace", "totalInodes"),
        *("nextCleanupSlices", "lastCleanupSessions", "lastCleanupFiles", "lastCleanupTrash"),
        *("lastCleanupChangelog", "aclMaxId", "krbTokenMaxId"),
    )

    def _key(self, name: object) -> bytes:
        return self.name(self._KEYS.get(str(name), str(name)))

    def _row(self, name: str, reply: bytes | None) -> Counter | None:
        if name in self._LAST_USED:
            # A volume that was just formatted has no counter of ids yet.
            return Counter(name, int(reply or 0) + 1)
        return None if reply is None else Counter(name, int(reply))

    def reads(self, key: Key) -> list[Command]:
        return [(b"GET", self._key(key[0]))]

    def decode(self, key: Key, replies: Sequence[Any]) -> Counter | None:
        return self._row(str(key[0]), replies[0])

    def puts(self, row: Counter) -> list[Command]:
        return [(b"SET", self._key(row.name), row.value - (row.name in self._LAST_USED))]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"DEL", self._key(key[0]))]

    def adds(self, key: Key, deltas: dict[str, int]) -> list[Command]:
        return [(b"INCRBY", self._key(key[0]), deltas["value"])]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"MGET", *(self._key(name) for name in self._KNOWN))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Counter]:
        for name, reply in zip(self._KNOWN, replies[0], strict=True):
            row = None if reply is None else self._row(name, reply)
            if row is not None:
                yield row


class _EdgeCodec(Codec):
    """``d<inode>``: a hash of names; the commit script writes it, and the links with it."""

    pattern = b"d[0-9]*"

    def reads(self, key: Key) -> list[Command]:
        assert isinstance(key[1], bytes)
        return [(b"HGET", self.at("d", key[0]), key[1])]

    def decode(self, key: Key, replies: Sequence[Any]) -> Edge | None:
        parent, name = key
        assert isinstance(parent, int)
        assert isinstance(name, bytes)
        if replies[0] is None:
            return None
        kind, inode = unpack_edge(replies[0])
        return Edge(parent, name, inode, kind)

    def puts(self, row: Edge) -> list[Command]:
        key, value = self.at("d", row.parent), EDGE.pack(row.type, row.inode)
        return [(b"+edge", key, row.name, value, row.parent)]

    def deletes(self, key: Key) -> list[Command]:
        assert isinstance(key[0], int)
        assert isinstance(key[1], bytes)
        return [(b"-edge", self.at("d", key[0]), key[1], key[0])]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.at("d", partition[0]))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Edge]:
        (parent,) = partition
        assert isinstance(parent, int)
        for name, value in pairs(replies[0]):
            kind, inode = unpack_edge(value)
            yield Edge(parent, name, inode, kind)

    def partition_of(self, name: bytes) -> Key:
        return (int(name[1:]),)


class _ChunkCodec(Codec):
    """``c<inode>_<index>``: a list of 24-byte records."""

    pattern = b"c[0-9]*_[0-9]*"

    def reads(self, key: Key) -> list[Command]:
        return [(b"LRANGE", self.at("c", key[0], key[1]), 0, -1)]

    def decode(self, key: Key, replies: Sequence[Any]) -> Chunk | None:
        inode, index = key
        assert isinstance(inode, int)
        assert isinstance(index, int)
        return Chunk(inode, index, b"".join(replies[0])) if replies[0] else None

    def puts(self, row: Chunk) -> list[Command]:
        key = self.at("c", row.inode, row.index)
        return [(b"DEL", key), *append_commands(key, row.slices)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"DEL", self.at("c", key[0], key[1]))]

    def partition_of(self, name: bytes) -> Key:
        inode, _, index = name[1:].partition(b"_")
        return int(inode), int(index)


class _SliceRefCodec(Codec):
    """``sliceRef``: a hash of references minus one; a slice with one reference has no field."""

    def reads(self, key: Key) -> list[Command]:
        return [(b"HGET", self.name("sliceRef"), reference_field(*key))]

    def decode(self, key: Key, replies: Sequence[Any]) -> SliceRef | None:
        slice_id, size = key
        assert isinstance(slice_id, int)
        assert isinstance(size, int)
        # "0" means the same as no field.
        count = int(replies[0] or 0)
        return SliceRef(slice_id, size, count + 1) if count else None

    def puts(self, row: SliceRef) -> list[Command]:
        if row.refs == 1:
            return self.deletes((row.slice_id, row.size))
        field = reference_field(row.slice_id, row.size)
        return [(b"HSET", self.name("sliceRef"), field, row.refs - 1)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"HDEL", self.name("sliceRef"), reference_field(*key))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.name("sliceRef"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[SliceRef]:
        for field, value in pairs(replies[0]):
            slice_id, _, size = field[1:].partition(b"_")
            if int(value):
                yield SliceRef(int(slice_id), int(size), int(value) + 1)


class _DelayedSlicesCodec(Codec):
    """``delSlices``: a hash with the id and the time in the field; found by its id."""

    def reads(self, key: Key) -> list[Command]:
        raise NotImplementedError("found by reading all")

    def decode(self, key: Key, replies: Sequence[Any]) -> DelayedSlices | None:
        raise NotImplementedError("found by reading all")

    def puts(self, row: DelayedSlices) -> list[Command]:
        field = joined(row.slice_id, row.deleted_s)
        return [(b"HSET", self.name("delSlices"), field, row.slices)]

    def deletes(self, key: Key) -> list[Command]:
        field = joined(*key)
        return [(b"HDEL", self.name("delSlices"), field)]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.name("delSlices"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[DelayedSlices]:
        for field, slices in pairs(replies[0]):
            slice_id, _, deleted_s = field.partition(b"_")
            yield DelayedSlices(int(slice_id), int(deleted_s), slices)


class _DeletedFileCodec(Codec):
    """``delfiles``: a sorted set with inode and length in the member; found by the inode."""

    def reads(self, key: Key) -> list[Command]:
        raise NotImplementedError("found by reading all")

    def decode(self, key: Key, replies: Sequence[Any]) -> DeletedFile | None:
        raise NotImplementedError("found by reading all")

    def puts(self, row: DeletedFile) -> list[Command]:
        member = deleted_member(row.inode, row.length)
        return [(b"ZADD", self.name("delfiles"), row.expire_s, member)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"ZREM", self.name("delfiles"), joined(*key, mark=":"))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"ZRANGE", self.name("delfiles"), 0, -1, b"WITHSCORES")]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[DeletedFile]:
        for member, score in pairs(replies[0]):
            inode, _, length = member.partition(b":")
            yield DeletedFile(int(inode), int(length), int(float(score)))


class _SymlinkCodec(Codec):
    """``s<inode>``: the target."""

    pattern = b"s[0-9]*"

    def reads(self, key: Key) -> list[Command]:
        return [(b"GET", self.at("s", key[0]))]

    def decode(self, key: Key, replies: Sequence[Any]) -> Symlink | None:
        (inode,) = key
        assert isinstance(inode, int)
        return None if replies[0] is None else Symlink(inode, replies[0])

    def puts(self, row: Symlink) -> list[Command]:
        return [(b"SET", self.at("s", row.inode), row.target)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"DEL", self.at("s", key[0]))]

    def partition_of(self, name: bytes) -> Key:
        return (int(name[1:]),)


class _XattrCodec(Codec):
    """``x<inode>``: a hash of names."""

    pattern = b"x[0-9]*"

    def reads(self, key: Key) -> list[Command]:
        return [(b"HGET", self.at("x", key[0]), text(key[1]))]

    def decode(self, key: Key, replies: Sequence[Any]) -> Xattr | None:
        inode, name = key
        assert isinstance(inode, int)
        return None if replies[0] is None else Xattr(inode, str(name), replies[0])

    def puts(self, row: Xattr) -> list[Command]:
        return [(b"HSET", self.at("x", row.inode), text(row.name), row.value)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"HDEL", self.at("x", key[0]), text(key[1]))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.at("x", partition[0]))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Xattr]:
        (inode,) = partition
        assert isinstance(inode, int)
        for name, value in pairs(replies[0]):
            yield Xattr(inode, name.decode("utf-8", "surrogateescape"), value)

    def partition_of(self, name: bytes) -> Key:
        return (int(name[1:]),)


CODECS: dict[type[Row], type[Codec]] = {
    Attr: _AttrCodec,
    Record: _RecordCodec,
    Counter: _CounterCodec,
    Edge: _EdgeCodec,
    Chunk: _ChunkCodec,
    SliceRef: _SliceRefCodec,
    DelayedSlices: _DelayedSlicesCodec,
    DeletedFile: _DeletedFileCodec,
    Symlink: _SymlinkCodec,
    Xattr: _XattrCodec,
}
"""What the row classes of this file are kept by."""

FOUND_BY_ALL = frozenset([DelayedSlices, DeletedFile])
"""Classes whose keys in Redis hold more than the keys of their rows."""
