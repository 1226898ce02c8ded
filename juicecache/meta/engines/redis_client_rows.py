"""What clients hold, in Redis: sessions, open files without a name, locks, cache groups.

Facts of the format: ``docs/format.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from juicecache.meta.engine import Key
from juicecache.meta.engines.redis_codec import Codec, Command, pairs, text
from juicecache.meta.rows import Flock, GroupMember, GroupSecret, Plock, Row, Session, Sustained

_EXPIRY = Struct(">q")


class _SessionCodec(Codec):
    """``allSessions``: when each expires; ``sessionInfos``: what it says of itself."""

    def reads(self, key: Key) -> list[Command]:
        sid = str(key[0]).encode()
        return [
            (b"ZSCORE", self.name("allSessions"), sid),
            (b"HGET", self.name("sessionInfos"), sid),
        ]

    def decode(self, key: Key, replies: Sequence[Any]) -> Session | None:
        score, info = replies
        (sid,) = key
        assert isinstance(sid, int)
        return None if score is None else Session(sid, int(float(score)), info or b"")

    def puts(self, row: Session) -> list[Command]:
        return [
            (b"ZADD", self.name("allSessions"), row.expire_s, row.sid),
            (b"HSET", self.name("sessionInfos"), row.sid, row.info),
        ]

    def deletes(self, key: Key) -> list[Command]:
        sid = str(key[0]).encode()
        return [
            (b"ZREM", self.name("allSessions"), sid),
            (b"HDEL", self.name("sessionInfos"), sid),
            (b"DEL", self.at("locked", key[0])),
        ]

    def all_reads(self, partition: Key) -> list[Command]:
        return [
            (b"ZRANGE", self.name("allSessions"), 0, -1, b"WITHSCORES"),
            (b"HGETALL", self.name("sessionInfos")),
        ]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Session]:
        infos = dict(pairs(replies[1]))
        for sid, score in pairs(replies[0]):
            yield Session(int(sid), int(float(score)), infos.get(sid, b""))


class _SustainedCodec(Codec):
    """``session<sid>``: the set of inodes that a session keeps."""

    pattern = b"session[0-9]*"

    def reads(self, key: Key) -> list[Command]:
        return [(b"SISMEMBER", self.at("session", key[0]), str(key[1]).encode())]

    def decode(self, key: Key, replies: Sequence[Any]) -> Sustained | None:
        sid, inode = key
        assert isinstance(sid, int)
        assert isinstance(inode, int)
        return Sustained(sid, inode) if replies[0] else None

    def puts(self, row: Sustained) -> list[Command]:
        return [(b"SADD", self.at("session", row.sid), row.inode)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"SREM", self.at("session", key[0]), str(key[1]).encode())]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"SMEMBERS", self.at("session", partition[0]))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Sustained]:
        (sid,) = partition
        assert isinstance(sid, int)
        for inode in replies[0]:
            yield Sustained(sid, int(inode))

    def partition_of(self, name: bytes) -> Key:
        return (int(name[len("session") :]),)


def owner_field(sid: int, owner: int) -> bytes:
    """Return the field of a lock: the session and the owner, whose bits are unsigned here."""
    return b"%d_%016X" % (sid, owner % (1 << 64))


def owner_of(field: bytes) -> tuple[int, int]:
    """Return session and owner (signed 64 bits) in the field of a lock."""
    sid, _, owner = field.partition(b"_")
    number = int(owner, 16)
    return int(sid), number - (1 << 64) if number >> 63 else number


class _FlockCodec(Codec):
    """``lockf<inode>``: a hash of owners; ``locked<sid>`` names the keys that a session touched."""

    pattern = b"lockf[0-9]*"

    def _key(self, inode: object) -> bytes:
        return self.at("lockf", inode)

    def reads(self, key: Key) -> list[Command]:
        inode, sid, owner = key
        assert isinstance(sid, int)
        assert isinstance(owner, int)
        return [(b"HGET", self._key(inode), owner_field(sid, owner))]

    def decode(self, key: Key, replies: Sequence[Any]) -> Flock | None:
        inode, sid, owner = key
        assert isinstance(inode, int)
        assert isinstance(sid, int)
        assert isinstance(owner, int)
        return None if replies[0] is None else Flock(inode, sid, owner, replies[0][0])

    def puts(self, row: Flock) -> list[Command]:
        key = self._key(row.inode)
        return [
            (b"HSET", key, owner_field(row.sid, row.owner), bytes([row.kind])),
            (b"SADD", self.at("locked", row.sid), key),
        ]

    def deletes(self, key: Key) -> list[Command]:
        inode, sid, owner = key
        assert isinstance(sid, int)
        assert isinstance(owner, int)
        return [(b"HDEL", self._key(inode), owner_field(sid, owner))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self._key(partition[0]))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Flock]:
        (inode,) = partition
        assert isinstance(inode, int)
        for field, kind in pairs(replies[0]):
            yield Flock(inode, *owner_of(field), kind[0])

    def partition_of(self, name: bytes) -> Key:
        return (int(name[len("lockf") :]),)


class _PlockCodec(Codec):
    """``lockp<inode>``: a hash of owners; ``locked<sid>`` as for `_FlockCodec`."""

    pattern = b"lockp[0-9]*"

    def _key(self, inode: object) -> bytes:
        return self.at("lockp", inode)

    def reads(self, key: Key) -> list[Command]:
        inode, sid, owner = key
        assert isinstance(sid, int)
        assert isinstance(owner, int)
        return [(b"HGET", self._key(inode), owner_field(sid, owner))]

    def decode(self, key: Key, replies: Sequence[Any]) -> Plock | None:
        inode, sid, owner = key
        assert isinstance(inode, int)
        assert isinstance(sid, int)
        assert isinstance(owner, int)
        return None if replies[0] is None else Plock(inode, sid, owner, replies[0])

    def puts(self, row: Plock) -> list[Command]:
        key = self._key(row.inode)
        return [
            (b"HSET", key, owner_field(row.sid, row.owner), row.records),
            (b"SADD", self.at("locked", row.sid), key),
        ]

    def deletes(self, key: Key) -> list[Command]:
        inode, sid, owner = key
        assert isinstance(sid, int)
        assert isinstance(owner, int)
        return [(b"HDEL", self._key(inode), owner_field(sid, owner))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self._key(partition[0]))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Plock]:
        (inode,) = partition
        assert isinstance(inode, int)
        for field, records in pairs(replies[0]):
            yield Plock(inode, *owner_of(field), records)

    def partition_of(self, name: bytes) -> Key:
        return (int(name[len("lockp") :]),)


class _GroupMemberCodec(Codec):
    """``juicecacheMembers``: a hash of group and member, with a zero byte in between; our own."""

    def _field(self, group: object, member: object) -> bytes:
        return text(group) + b"\0" + text(member)

    def reads(self, key: Key) -> list[Command]:
        return [(b"HGET", self.name("juicecacheMembers"), self._field(*key))]

    def decode(self, key: Key, replies: Sequence[Any]) -> GroupMember | None:
        group, member = key
        return None if replies[0] is None else self._row(str(group), str(member), replies[0])

    def _row(self, group: str, member: str, value: bytes) -> GroupMember:
        (expire_s,) = _EXPIRY.unpack_from(value)
        return GroupMember(group, member, expire_s, value[_EXPIRY.size :])

    def puts(self, row: GroupMember) -> list[Command]:
        value = _EXPIRY.pack(row.expire_s) + row.info
        return [
            (b"HSET", self.name("juicecacheMembers"), self._field(row.group, row.member), value)
        ]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"HDEL", self.name("juicecacheMembers"), self._field(*key))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.name("juicecacheMembers"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[GroupMember]:
        for field, value in pairs(replies[0]):
            group, _, member = field.decode("utf-8", "surrogateescape").partition("\0")
            if not partition or partition[0] == group:
                yield self._row(group, member, value)


class _GroupSecretCodec(Codec):
    """``juicecacheGroups``: a hash of secrets; our own."""

    def reads(self, key: Key) -> list[Command]:
        return [(b"HGET", self.name("juicecacheGroups"), text(key[0]))]

    def decode(self, key: Key, replies: Sequence[Any]) -> GroupSecret | None:
        return None if replies[0] is None else GroupSecret(str(key[0]), replies[0])

    def puts(self, row: GroupSecret) -> list[Command]:
        return [(b"HSET", self.name("juicecacheGroups"), text(row.group), row.secret)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"HDEL", self.name("juicecacheGroups"), text(key[0]))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.name("juicecacheGroups"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[GroupSecret]:
        for group, secret in pairs(replies[0]):
            yield GroupSecret(group.decode("utf-8", "surrogateescape"), secret)


CODECS: dict[type[Row], type[Codec]] = {
    Session: _SessionCodec,
    Sustained: _SustainedCodec,
    Flock: _FlockCodec,
    Plock: _PlockCodec,
    GroupMember: _GroupMemberCodec,
    GroupSecret: _GroupSecretCodec,
}
"""What the row classes of this file are kept by."""
