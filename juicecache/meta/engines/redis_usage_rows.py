"""Usage, rules and log in Redis: sums of directories, quotas, access control lists, change log.

Facts of the format: ``docs/format.md``. A row with several numbers is a field in several hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, cast

from juicecache.meta.engine import Key
from juicecache.meta.engines.redis_codec import Codec, Command, pairs
from juicecache.meta.rows import (
    Acl,
    ChangeLine,
    DetachedNode,
    DirQuota,
    DirStats,
    Row,
    UserGroupQuota,
    key_of,
)

_LIMITS = Struct(">qq")
"""Space in bytes and inodes."""
_ACL = Struct(">HHHHI")
"""Bits of owner, group, mask and others, and how many named users follow."""
_COUNT = Struct(">I")
_ENTRY_BYTES = 6
"""Of a named user or group."""


class _DirStatsCodec(Codec):
    """``dirUsedInodes`` and two more hashes, by inode."""

    _HASHES = (
        ("used_inodes", "dirUsedInodes"),
        ("used_space", "dirUsedSpace"),
        ("data_length", "dirDataLength"),
    )

    def reads(self, key: Key) -> list[Command]:
        inode = str(key[0]).encode()
        return [(b"HGET", self.name(name), inode) for _, name in self._HASHES]

    def decode(self, key: Key, replies: Sequence[Any]) -> DirStats | None:
        (inode,) = key
        assert isinstance(inode, int)
        if replies[0] is None:
            return None
        inodes, space, length = (int(reply or 0) for reply in replies)
        return DirStats(inode, length, space, inodes)

    def puts(self, row: DirStats) -> list[Command]:
        return [
            (b"HSET", self.name(name), row.inode, getattr(row, field))
            for field, name in self._HASHES
        ]

    def deletes(self, key: Key) -> list[Command]:
        inode = str(key[0]).encode()
        return [(b"HDEL", self.name(name), inode) for _, name in self._HASHES]

    def adds(self, key: Key, deltas: dict[str, int]) -> list[Command]:
        inode = str(key[0]).encode()
        return [
            (b"HINCRBY", self.name(name), inode, deltas[field])
            for field, name in self._HASHES
            if field in deltas
        ]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.name(name)) for _, name in self._HASHES]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[DirStats]:
        inodes, space, length = (dict(pairs(reply)) for reply in replies)
        for inode, count in inodes.items():
            yield DirStats(
                int(inode), int(length.get(inode, 0)), int(space.get(inode, 0)), int(count)
            )


class _Quota(Codec):
    """A hash of limits, and two of what is used, of which all have the same fields."""

    def names(self, kind: object) -> tuple[bytes, bytes, bytes]:
        """Return the keys of the three hashes."""
        text = {1: "user", 2: "group"}.get(cast("int", kind), "dir")
        return (
            self.name(f"{text}Quota"),
            self.name(f"{text}QuotaUsedSpace"),
            self.name(f"{text}QuotaUsedInodes"),
        )

    def place(self, key: Key) -> tuple[tuple[bytes, bytes, bytes], bytes]:
        """Return the hashes of a row and its field there."""
        raise NotImplementedError

    def row(self, key: Key, limits: bytes, space: int, inodes: int) -> Any:
        """Return the row of a key."""
        raise NotImplementedError

    def reads(self, key: Key) -> list[Command]:
        names, field = self.place(key)
        return [(b"HGET", name, field) for name in names]

    def decode(self, key: Key, replies: Sequence[Any]) -> Any:
        limits, space, inodes = replies
        return None if limits is None else self.row(key, limits, int(space or 0), int(inodes or 0))

    def puts(self, row: DirQuota | UserGroupQuota) -> list[Command]:
        (quota, space, inodes), field = self.place(key_of(row))
        return [
            (b"HSET", quota, field, _LIMITS.pack(row.max_space, row.max_inodes)),
            (b"HSET", space, field, row.used_space),
            (b"HSET", inodes, field, row.used_inodes),
        ]

    def deletes(self, key: Key) -> list[Command]:
        names, field = self.place(key)
        return [(b"HDEL", name, field) for name in names]

    def adds(self, key: Key, deltas: dict[str, int]) -> list[Command]:
        (_, space, inodes), field = self.place(key)
        used = {"used_space": space, "used_inodes": inodes}
        return [(b"HINCRBY", used[name], field, delta) for name, delta in deltas.items()]

    def decode_hashes(self, kind: Key, replies: Sequence[Any]) -> Iterable[Any]:
        """Return the rows in the three hashes."""
        limits, space, inodes = (dict(pairs(reply)) for reply in replies)
        for field, value in limits.items():
            used = int(space.get(field, 0)), int(inodes.get(field, 0))
            yield self.row((*kind, int(field)), value, *used)


class _DirQuotaCodec(_Quota):
    """``dirQuota`` by inode."""

    def place(self, key: Key) -> tuple[tuple[bytes, bytes, bytes], bytes]:
        return self.names(0), str(key[0]).encode()

    def row(self, key: Key, limits: bytes, space: int, inodes: int) -> DirQuota:
        max_space, max_inodes = _LIMITS.unpack(limits)
        return DirQuota(cast("int", key[0]), max_space, max_inodes, space, inodes)

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", name) for name in self.names(0)]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[DirQuota]:
        return self.decode_hashes((), replies)


class _UserGroupQuotaCodec(_Quota):
    """``userQuota`` by uid, ``groupQuota`` by gid."""

    _KINDS = (1, 2)

    def place(self, key: Key) -> tuple[tuple[bytes, bytes, bytes], bytes]:
        return self.names(key[0]), str(key[1]).encode()

    def row(self, key: Key, limits: bytes, space: int, inodes: int) -> UserGroupQuota:
        kind, number = cast("tuple[int, int]", key)
        max_space, max_inodes = _LIMITS.unpack(limits)
        return UserGroupQuota(kind, number, max_space, max_inodes, space, inodes)

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", name) for kind in self._KINDS for name in self.names(kind)]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[UserGroupQuota]:
        for at, kind in enumerate(self._KINDS):
            yield from self.decode_hashes((kind,), replies[3 * at : 3 * at + 3])


class _AclCodec(Codec):
    """``acl``: a hash of rules by number."""

    def reads(self, key: Key) -> list[Command]:
        return [(b"HGET", self.name("acl"), str(key[0]).encode())]

    def decode(self, key: Key, replies: Sequence[Any]) -> Acl | None:
        return None if replies[0] is None else self._row(cast("int", key[0]), replies[0])

    def _row(self, number: int, value: bytes) -> Acl:
        owner, group, mask, other, users = _ACL.unpack_from(value)
        at = _ACL.size + _ENTRY_BYTES * users
        (groups,) = _COUNT.unpack_from(value, at)
        first = at + _COUNT.size
        named_groups = value[first : first + _ENTRY_BYTES * groups]
        return Acl(number, owner, group, mask, other, value[_ACL.size : at], named_groups)

    def puts(self, row: Acl) -> list[Command]:
        users, groups = (
            len(names) // _ENTRY_BYTES for names in (row.named_users, row.named_groups)
        )
        value = (
            _ACL.pack(row.owner, row.group, row.mask, row.other, users)
            + row.named_users
            + _COUNT.pack(groups)
            + row.named_groups
        )
        return [(b"HSET", self.name("acl"), row.id, value)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"HDEL", self.name("acl"), str(key[0]).encode())]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"HGETALL", self.name("acl"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[Acl]:
        for number, value in pairs(replies[0]):
            yield self._row(int(number), value)


class _ChangeLineCodec(Codec):
    """``txnLog``: a list of lines; ``txnLastLog``: the number of the last one."""

    def reads(self, key: Key) -> list[Command]:
        return self.all_reads(())

    def decode(self, key: Key, replies: Sequence[Any]) -> ChangeLine | None:
        return next((row for row in self.decode_all((), replies) if row.number == key[0]), None)

    def puts(self, row: ChangeLine) -> list[Command]:
        raise NotImplementedError("lines are logged")

    def deletes(self, key: Key) -> list[Command]:
        # Lines go in their order, the oldest first.
        return [(b"LPOP", self.name("txnLog"))]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"LRANGE", self.name("txnLog"), 0, -1), (b"GET", self.name("txnLastLog"))]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[ChangeLine]:
        lines, last = replies
        first = int(last or 0) - len(lines) + 1
        for number, line in enumerate(lines, first):
            yield ChangeLine(number, line.decode("utf-8", "surrogateescape"))


class _DetachedNodeCodec(Codec):
    """``detachedNodes``: a sorted set of inodes by the time at which they were begun."""

    def reads(self, key: Key) -> list[Command]:
        return [(b"ZSCORE", self.name("detachedNodes"), str(key[0]).encode())]

    def decode(self, key: Key, replies: Sequence[Any]) -> DetachedNode | None:
        (inode,) = key
        assert isinstance(inode, int)
        return None if replies[0] is None else DetachedNode(inode, int(float(replies[0])))

    def puts(self, row: DetachedNode) -> list[Command]:
        return [(b"ZADD", self.name("detachedNodes"), row.added_s, row.inode)]

    def deletes(self, key: Key) -> list[Command]:
        return [(b"ZREM", self.name("detachedNodes"), str(key[0]).encode())]

    def all_reads(self, partition: Key) -> list[Command]:
        return [(b"ZRANGE", self.name("detachedNodes"), 0, -1, b"WITHSCORES")]

    def decode_all(self, partition: Key, replies: Sequence[Any]) -> Iterable[DetachedNode]:
        for inode, score in pairs(replies[0]):
            yield DetachedNode(int(inode), int(float(score)))


CODECS: dict[type[Row], type[Codec]] = {
    DirStats: _DirStatsCodec,
    DirQuota: _DirQuotaCodec,
    UserGroupQuota: _UserGroupQuotaCodec,
    Acl: _AclCodec,
    ChangeLine: _ChangeLineCodec,
    DetachedNode: _DetachedNodeCodec,
}
"""What the row classes of this file are kept by."""
