"""What the commit script is sent: checks of what a transaction relied on, and its writes.

Law: whatever could fail half-way is turned into a check, since the script checks everything
before it writes anything. A later write of a transaction finds what an earlier one left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any

from juicecache.errors import ConflictError
from juicecache.meta.engine import Add, AddRefs, Append, Clear, Delete, Key, Log, Put, Set, Write
from juicecache.meta.engines.redis_codec import NS, Codec, Command
from juicecache.meta.engines.redis_rows import FOUND_BY_ALL, append_commands, reference_field
from juicecache.meta.rows import (
    ALL_TABLES,
    ChangeLine,
    Chunk,
    Counter,
    Edge,
    Row,
    SliceRef,
    key_of,
)
from juicecache.model.attr import Attr

_U8, _U32, _U64, _TIME = Struct(">B"), Struct(">I"), Struct(">Q"), Struct(">qI")
_PLACES: dict[str, tuple[int, Struct]] = {
    "flags": (0, _U8),
    "uid": (3, _U32),
    "gid": (7, _U32),
    "atime_ns": (11, _TIME),
    "mtime_ns": (23, _TIME),
    "ctime_ns": (35, _TIME),
    "nlink": (47, _U32),
    "length": (51, _U64),
    "rdev": (59, _U32),
    "parent": (63, _U64),
}
"""Where a field stands in the packed attributes; the type, which shares two bytes with the mode,
never changes."""
_SLICE_ID = slice(4, 12)
"""Where the id of the slice stands in a record."""
_NLINK_AT = _PLACES["nlink"][0]
_TAIL = (("access_acl", _U32), ("default_acl", _U32), ("tier", _U8))


class Commit:
    """Collects one commit.

    Parameters
    ----------
    codecs
        Of every row class.
    seen
        Rows that the transaction read, by class and key.
    locate
        Returns the row of a class that is found by reading all of them.
    """

    def __init__(
        self,
        codecs: Mapping[type, Codec],
        seen: Mapping[tuple[type, Key], Row | None],
        locate: Callable[[type, Key], Row | None],
    ) -> None:
        self.checks: list[list[Any]] = []
        self.writes: list[list[Any]] = []
        self._codecs = codecs
        self._seen = seen
        self._locate = locate
        self._there: dict[tuple[type, Key], bool] = {}
        self._counted: set[int] = set()
        """Inodes whose names the script counts."""

    def keys(self) -> list[bytes]:
        """Return every key that the script may touch.

        A cluster looks whether it has all of them, while keys move, before it runs a script that
        names them; else the script would be stopped in the middle of its writes.
        """
        found = {check[4] for check in self.checks} | {write[1] for write in self.writes}
        for inode in self._counted:
            found |= {self._codecs[Attr].at("i", inode), self._codecs[Attr].at("p", inode)}
        return sorted(found)

    def expect(self, mode: str, reply: Any, what: str, command: Command) -> None:
        """Check, before anything is written, that a command is answered as before."""
        if isinstance(reply, list):
            reply = b"".join(reply)
        self.checks.append([mode, False if reply is None else reply, what, *map(_word, command)])

    def add(self, writes: list[Write]) -> None:
        """Add the writes of the transaction, in order.

        Raises
        ------
        ConflictError
            They contradict themselves: a row is new twice, or changed after its removal.
        """
        fresh = {
            write.row.inode
            for write in writes
            if isinstance(write, Put) and write.new and isinstance(write.row, Attr)
            if write.row.parent
        }
        slices = {
            write.row.slice_id
            for write in writes
            if isinstance(write, Put) and write.new and isinstance(write.row, SliceRef)
        }
        for write in writes:
            if isinstance(write, Put):
                self._put(write, fresh)
            elif isinstance(write, Delete):
                self._delete(write)
            elif isinstance(write, Append):
                self._append(write, slices)
            elif isinstance(write, Clear):
                self._clear(write)
            elif isinstance(write, AddRefs):
                self._add_refs(write)
            elif isinstance(write, Log):
                self._log(write)
            else:
                self._change(write)

    def _send(self, commands: list[Command]) -> None:
        self.writes += [list(map(_word, command)) for command in commands]

    def _must_be(self, table: type[Row], key: Key, *, there: bool) -> None:
        """Check that a row is there, or not, unless an earlier write decided that."""
        known = self._there.get((table, key))
        what = f"{table.__name__} {key} {'is gone' if there else 'exists already'}"
        if known is not None:
            if known is not there:
                raise ConflictError(what)
            return
        if table in FOUND_BY_ALL:
            if (self._locate(table, key) is not None) is not there:
                raise ConflictError(what)
            return
        command = self._codecs[table].reads(key)[0]
        self.expect("+" if there else "-", None, what, command)

    def _put(self, write: Put, fresh: set[int]) -> None:
        row = write.row
        table, key = type(row), key_of(row)
        if write.new:
            self._must_be(table, key, there=False)
        commands = self._codecs[table].puts(row)
        if isinstance(row, Edge) and write.new and row.inode in fresh:
            # The first name of a new inode: nobody counts its links.
            ((_, name, field, value, _),) = commands
            commands = [(b"HSET", name, field, value)]
        elif isinstance(row, Edge):
            self._count_names(key, row.inode)
        self._send(commands)
        self._there[table, key] = True

    def _delete(self, write: Delete) -> None:
        table, key = write.table, write.key
        self._there[table, key] = False
        if table in FOUND_BY_ALL:
            row = self._locate(table, key)
            if row is None:
                return
            key = (row[0], row[1])
        if table is Edge:
            self._count_names(key)
        self._send(self._codecs[table].deletes(key))

    def _count_names(self, key: Key, *inodes: int) -> None:
        """Note that an entry gets or loses an inode, and loses the one that it had."""
        had = self._seen.get((Edge, key))
        self._counted.update(inodes)
        if isinstance(had, Edge):
            self._counted.add(had.inode)

    def _clear(self, write: Clear) -> None:
        """Remove the hash that holds a partition."""
        codec = self._codecs[write.table]
        self._send([(b"DEL", read[1]) for read in codec.all_reads(write.partition)])

    def _append(self, write: Append, fresh: set[int]) -> None:
        """Append records; one of a fresh slice that is there already was committed before.

        No row of the slice would tell: one with a single reference has none.
        """
        key = self._codecs[Chunk].at("c", write.inode, write.index)
        commands = append_commands(key, write.records)
        for record in (record for command in commands for record in command[2:]):
            assert isinstance(record, bytes)
            if int.from_bytes(record[_SLICE_ID]) in fresh:
                what = f"chunk {write.index} of inode {write.inode} has the slice already"
                self.expect("-", None, what, (b"LPOS", key, record, b"COUNT", 1))
        self._send(commands)
        self._there[Chunk, (write.inode, write.index)] = True

    def _add_refs(self, write: AddRefs) -> None:
        key = write.slice_id, write.size
        name, field = self._codecs[SliceRef].name("sliceRef"), reference_field(*key)
        if write.alive and (SliceRef, key) not in self._there:
            what = f"slice {write.slice_id} of {write.size} bytes is not alive"
            self.expect("alive", None, what, (b"HGET", name, field))
        self._send([(b"HINCRBY", name, field, write.delta)])

    def _log(self, write: Log) -> None:
        codec = self._codecs[ChangeLine]
        line = write.text.encode("utf-8", "surrogateescape")
        self._send([(b"RPUSH", codec.name("txnLog"), line), (b"INCR", codec.name("txnLastLog"))])

    def _change(self, write: Set | Add) -> None:
        table, key = write.table, write.key
        if isinstance(write, Add) and table is Counter:
            self._send(self._codecs[Counter].adds(key, write.deltas))
            return
        self._must_be(table, key, there=True)
        if table is Attr:
            self._change_attr(key, write)
        elif isinstance(write, Add):
            self._send(self._codecs[table].adds(key, write.deltas))
        else:
            self._send(self._codecs[table].puts(self._whole(table, key, write.fields)))

    def _whole(self, table: type[Row], key: Key, fields: dict[str, Any]) -> Row:
        """Return the row that setting fields makes: of what the transaction read, if need be."""
        names = ALL_TABLES[table].key
        if len(names) + len(fields) == len(table._fields):
            given: dict[str, Any] = dict(zip(names, key, strict=True)) | fields
            return table(**given)
        row = self._seen.get((table, key))
        assert row is not None, f"{table.__name__} {key} is changed in part and was not read"
        return row._replace(**fields)

    def _change_attr(self, key: Key, write: Set | Add) -> None:
        name = self._codecs[Attr].at("i", *key)
        mode, nlink, splices = -1, 0, []
        tail: list[Any] = []
        if isinstance(write, Add):
            assert set(write.deltas) == {"nlink"}, write.deltas
            nlink = write.deltas["nlink"]
        else:
            mode = write.fields.get("mode", -1)
            for field, value in write.fields.items():
                if field in _PLACES:
                    at, form = _PLACES[field]
                    parts = divmod(value, NS) if form is _TIME else (value,)
                    splices += [at, form.pack(*parts)]
            if not write.fields.keys().isdisjoint(field for field, _ in _TAIL):
                tail = [
                    form.pack(write.fields[field]) if field in write.fields else False
                    for field, form in _TAIL
                ]
        last = self.writes[-1] if self.writes else []
        # The script adds before it sets, so the two may share a step in this order only.
        if last[:2] == [b"change", name] and not (nlink and _NLINK_AT in last[5][::2]):
            last[2] = mode if mode >= 0 else last[2]
            last[3] += nlink
            last[4] = tail or last[4]
            last[5] += splices
            return
        self.writes.append([b"change", name, mode, nlink, tail or False, splices])


def _word(word: bytes | int) -> bytes:
    """Return an argument as bytes: numbers of Lua are too short for inodes."""
    return word if isinstance(word, bytes) else b"%d" % word
