"""What a transaction reads of a volume in Redis, and what its commit will check.

Law: attributes are read before slice lists, so that a list is never older than the attributes it
is kept under. Nothing is sent that writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Any, Generic, NamedTuple, cast

from juicecache.meta.engine import (
    BULK_RECORDS_BYTES,
    Found,
    Key,
    Listed,
    RowT,
    Transaction,
    Want,
)
from juicecache.meta.engines import redis_rows
from juicecache.meta.engines.redis_codec import (
    EDGE,
    NEVER,
    WHO,
    Codec,
    Command,
    pairs,
    run_of,
    unpack_attr,
    unpack_edge,
)
from juicecache.meta.engines.redis_commit import Commit
from juicecache.meta.engines.redis_rows import deleted_member
from juicecache.meta.engines.redis_scripts import FIND, script_argument
from juicecache.meta.rows import (
    ALL_TABLES,
    Chunk,
    DeletedFile,
    Edge,
    Flock,
    Plock,
    Record,
    Row,
    key_of,
)
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import RECORD_BYTES

_FIND_SHA = hashlib.sha1(FIND.encode(), usedforsecurity=False).hexdigest().encode()
_KEYS_BATCH = 5000
"""Rows asked for at once: some megabytes, and no long pause of the server for others."""
_PATHS_BATCH = 500
"""Paths that one script follows: a few milliseconds in which the server does nothing else."""
_CHUNKS_BATCH = 256
_CHUNKS_BEYOND = 16
"""Chunks looked for behind the end of a file: one that was cut keeps those it had."""
_LENGTHS_MAX = 200_000
"""Some 20 MB; who removes more at once asks for all rows again."""
_OWN = "juicecacheTables"


class Page(NamedTuple, Generic[RowT]):
    """A step of a scan: of which run of which server, where it goes on, keys, and their rows."""

    run: bytes
    cursor: bytes
    keys: list[bytes]
    rows: list[RowT]


class RedisTransaction(Transaction):
    """Reads of one transaction, and what its commit must check."""

    implies_references = True

    def __init__(
        self,
        codecs: dict[type, Codec],
        ask: Callable[[Sequence[Command]], list[Any]],
        ask_ahead: Callable[[Iterable[Command]], Generator[Any]],
        lengths: dict[int, int],
    ) -> None:
        super().__init__()
        self.ask = ask
        self._ask_ahead = ask_ahead
        self._codecs = codecs
        self._lengths = lengths
        self._ready: dict[Command, Any] = {}
        """Replies to commands that will be asked."""
        self._followed: dict[tuple[bytes, ...], tuple[Attr | None, int, int]] = {}
        """Where paths from the root lead that are not whole: who looked for them will ask."""
        self._checks: list[tuple[str, Any, str, Command]] = []
        self._seen: dict[tuple[type, Key], Row | None] = {}
        self.route = codecs[Record].name("setting")

    def payload(self) -> tuple[list[bytes], bytes]:
        """Return the keys that the commit script touches, and its checks and writes."""
        commit = Commit(self._codecs, self._seen, self._locate)
        for check in self._checks:
            commit.expect(*check)
        commit.add(self.writes)
        for write in self.writes:
            self._remember(getattr(write, "row", None))
        return commit.keys(), script_argument([commit.checks, commit.writes])

    # Rows by key.

    def expect(self, *wanted: Want) -> None:
        commands: list[Command] = []
        for want in wanted:
            if want.table not in redis_rows.FOUND_BY_ALL:
                commands += self._codecs[want.table].reads(want.key)
        unknown = [command for command in commands if command not in self._ready]
        if unknown:
            self._ready |= zip(unknown, self.ask(unknown), strict=True)

    def _replies(self, commands: list[Command]) -> list[Any]:
        if self._ready and all(command in self._ready for command in commands):
            return [self._ready[command] for command in commands]
        return self.ask(commands)

    def get(self, table: type[RowT], *key: int | str | bytes, lock: bool = False) -> RowT | None:
        codec = self._codecs[table]
        if table in redis_rows.FOUND_BY_ALL:
            return cast("RowT | None", self._locate(table, key))
        commands = codec.reads(key)
        replies = self._replies(commands)
        row = codec.decode(key, replies)
        if lock or table is Edge:
            self._rely(table, key, row, commands, replies)
        return cast("RowT | None", row)

    def _rely(
        self, table: type, key: Key, row: Row | None, commands: list[Command], replies: list[Any]
    ) -> None:
        """Note that the commit depends on a row being as it was read."""
        self._seen[table, key] = row
        mode = "directory" if isinstance(row, Attr) and row.is_directory else "="
        what = f"{table.__name__} {key} has changed"
        for command, reply in zip(commands, replies, strict=True):
            self._checks.append((mode, reply, what, command))

    def _locate(self, table: type, key: Key) -> Row | None:
        """Find a row whose key in Redis holds more than ours."""
        codec = self._codecs[table]
        if table is DeletedFile:
            (inode,) = cast("tuple[int]", key)
            length = self._lengths.get(inode)
            if length is not None:
                member = deleted_member(inode, length)
                (score,) = self.ask([(b"ZSCORE", codec.name("delfiles"), member)])
                if score is not None:
                    return DeletedFile(inode, length, int(float(score)))
        found = None
        for row in codec.decode_all((), self.ask(codec.all_reads(()))):
            self._remember(row)
            if key_of(row) == key:
                found = row
        if found is not None:
            self._remember(found)  # whatever others pushed it out
        return found

    def _remember(self, row: Row | None) -> None:
        """Note the length of a removed file, which is part of its key."""
        if not isinstance(row, DeletedFile):
            return
        while len(self._lengths) >= _LENGTHS_MAX:
            with suppress(RuntimeError):  # another thread adds one
                self._lengths.pop(next(iter(self._lengths), 0), None)
        self._lengths[row.inode] = row.length

    def get_many(self, table: type[RowT], keys: Sequence[Key]) -> list[RowT | None]:
        codec = self._codecs[table]
        rows: list[RowT | None] = []
        for first in range(0, len(keys), _KEYS_BATCH):
            batch = keys[first : first + _KEYS_BATCH]
            reads = [codec.reads(key) for key in batch]
            replies = iter(self._replies([command for commands in reads for command in commands]))
            for key, commands in zip(batch, reads, strict=True):
                row = codec.decode(key, [next(replies) for _ in commands])
                rows.append(cast("RowT | None", row))
        return rows

    # Rows of a partition.

    def scan(
        self,
        table: type[RowT],
        *partition: int | str | bytes,
        after: Key | None = None,
        limit: int | None = None,
    ) -> Iterator[RowT]:
        assert len(partition) in (0, ALL_TABLES[table].partition), partition
        if table is Chunk and partition:
            (inode,) = partition
            start = 0 if after is None else cast("int", after[0]) + 1
            return cast("Iterator[RowT]", islice(self._chunks(cast("int", inode), start), limit))
        rows = sorted(self._all(table, partition), key=key_of)
        if after is not None:
            behind = (*partition, *after)
            rows = [row for row in rows if key_of(row) > behind]
        return cast("Iterator[RowT]", self._relied(islice(rows, limit)))

    def _relied(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield rows; the commit depends on entries of which a transaction knows."""
        codec = self._codecs[Edge]
        for row in rows:
            if isinstance(row, Edge):
                key = key_of(row)
                value = codec.puts(row)[0][3]
                self._rely(Edge, key, row, codec.reads(key), [value])
            else:
                self._remember(row)
            yield row

    def scan_each(self, table: type[RowT], partitions: Sequence[int]) -> list[list[RowT]]:
        if table is Chunk:
            return cast("list[list[RowT]]", self._chunks_each(partitions))
        if table is Edge:  # relied on
            return super().scan_each(table, partitions)
        codec = self._codecs[table]
        reads = [codec.all_reads((number,)) for number in partitions]
        replies = iter(self.ask([command for commands in reads for command in commands]))
        found = []
        for number, commands in zip(partitions, reads, strict=True):
            rows = codec.decode_all((number,), [next(replies) for _ in commands])
            found.append(sorted(cast("Iterable[RowT]", rows), key=key_of))
        return found

    def _all(self, table: type, partition: Key) -> list[Row]:
        codec = self._codecs[table]
        if partition or not codec.pattern:
            reads = codec.all_reads(partition)
            replies = self.ask(reads)
            if table in (Flock, Plock):  # who has no lock there is as important as who has one
                for command, reply in zip(reads, replies, strict=True):
                    what = f"{table.__name__} {partition} has changed"
                    self._checks.append(("=", reply, what, command))
            return list(codec.decode_all(partition, replies))
        rows: list[Row] = []
        cursor = b""
        while cursor != b"0":
            page: Page[Row] = self.page(table, cursor or b"0", _KEYS_BATCH)
            rows += page.rows
            cursor = page.cursor
        return list({key_of(row): row for row in rows}.values())

    def page(
        self,
        table: type[RowT],
        cursor: bytes,
        size: int,
        unmet: Callable[[Iterable[bytes]], list[bytes]] = list,
    ) -> Page[RowT]:
        """Return some rows of a class: of those keys of a scan that ``unmet`` returns.

        The cursor ``0`` begins and ends.
        """
        codec = self._codecs[table]
        if not codec.pattern:
            reads = codec.all_reads(())
            if reads[0][0] == b"HGETALL" and len(reads) == 1:
                scan: Command = (b"HSCAN", reads[0][1], cursor, b"COUNT", size)
                (cursor, reply), who = self.ask([scan, WHO])
                values = dict(pairs(reply))
                fields = unmet(values)
                flat = [part for field in fields for part in (field, values[field])]
                rows = list(codec.decode_all((), [flat]))
                return Page(run_of(who), cursor, fields, rows)
            rows = list(codec.decode_all((), self.ask(reads)))
            for row in rows:
                self._remember(row)
            return Page(b"", b"0", [], rows)
        scan = (b"SCAN", cursor, b"MATCH", codec.name("") + codec.pattern, b"COUNT", size)
        (cursor, reply), who, _ = self.ask([scan, WHO, (b"EXISTS", codec.name(NEVER))])
        names = unmet(reply)
        cut = len(codec.name(""))
        keys = [codec.partition_of(name[cut:]) for name in names]
        if keys and len(keys[0]) == len(ALL_TABLES[table].key):
            rows = [row for row in self.get_many(table, keys) if row is not None]
        else:
            replies = self.ask([command for key in keys for command in codec.all_reads(key)])
            found = zip(keys, replies, strict=True)
            rows = [row for key, reply in found for row in codec.decode_all(key, [reply])]
        return Page(run_of(who), cursor, names, rows)

    def _chunks(self, inode: int, start: int) -> Iterator[Chunk]:
        """Iterate over the chunks of a file; nothing lists them, so they are looked for."""
        attr = self.get(Attr, inode)
        length = self._lengths.get(inode, 0) if attr is None else attr.length
        stop = -(-length // CHUNK_BYTES) + _CHUNKS_BEYOND
        while start < stop:
            indices = range(start, min(stop, start + _CHUNKS_BATCH))
            rows = self.get_many(Chunk, [(inode, index) for index in indices])
            found = [row for row in rows if row is not None]
            yield from found
            start = indices.stop
            if found:
                stop = max(stop, found[-1].index + 1 + _CHUNKS_BEYOND)

    def _chunks_each(self, inodes: Sequence[int]) -> list[list[Chunk]]:
        """Return the chunks of files, those of short ones looked for together."""
        rows = self.get_many(Attr, [(inode,) for inode in inodes])
        lengths = [
            self._lengths.get(inode, 0) if attr is None else attr.length
            for inode, attr in zip(inodes, rows, strict=True)
        ]
        codec = self._codecs[Chunk]
        short = [
            inode for inode, length in zip(inodes, lengths, strict=True) if length <= CHUNK_BYTES
        ]
        commands: list[Command] = []
        for inode in short:
            beyond = [codec.at("c", inode, index) for index in range(1, 1 + _CHUNKS_BEYOND)]
            commands += [codec.reads((inode, 0))[0], (b"EXISTS", *beyond)]
        replies = self.ask(commands)
        found: dict[int, list[Chunk]] = {}
        for inode, records, others in zip(short, replies[::2], replies[1::2], strict=True):
            if not others:
                found[inode] = [Chunk(inode, 0, b"".join(records))] if records else []
        # Of longer ones, and of short ones that have chunks further on, one after the other.
        return [
            found[inode] if inode in found else list(self._chunks(inode, 0)) for inode in inodes
        ]

    def locks_of(self, sid: int) -> list[Flock | Plock]:
        """Return the locks of a session, by the set of keys that it touched."""
        codecs = {b"f": self._codecs[Flock], b"p": self._codecs[Plock]}
        touched = (b"SMEMBERS", self._codecs[Flock].at("locked", sid))
        (names,) = self.ask([touched])
        self._checks.append(("=", names, f"the locks of session {sid} have changed", touched))
        start = len(self._codecs[Flock].name("lock"))
        keys = [
            (codecs[name[start : start + 1]], (int(name[start + 1 :]),))
            for name in sorted(names)
            if name[start : start + 1] in codecs
        ]
        replies = self.ask([command for codec, key in keys for command in codec.all_reads(key)])
        found: list[Flock | Plock] = [
            cast("Flock | Plock", row)
            for (codec, key), reply in zip(keys, replies, strict=True)
            for row in codec.decode_all(key, [reply])
        ]
        return [lock for lock in found if lock.sid == sid]

    def exists(self, table: type[Row], *partition: int | str | bytes) -> bool:
        if table is Edge and partition:
            command = (b"EXISTS", self._codecs[Edge].at("d", *partition))
            (reply,) = self.ask([command])
            what = f"Edge {partition} came or went"
            self._checks.append(("=", reply, what, command))
            return bool(reply)
        return super().exists(table, *partition)

    def new_number(self, table: type[Row]) -> int:
        # Numbers that are taken and not used are lost, as everywhere.
        (number,) = self.ask([(b"INCR", self._codecs[table].name("aclMaxId"))])
        return int(number)

    def has_own_tables(self) -> bool:
        return self.own_tables(make=False)

    def own_tables(self, *, make: bool) -> bool:
        """Return whether our own keys are in use, which ``make`` lets be true from now on."""
        key = self._codecs[Record].name(_OWN)
        (reply,) = self.ask([(b"SET", key, 1) if make else (b"EXISTS", key)])
        return bool(reply)

    # Joins.

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        attr, _, _ = self.follow(parent, [name])
        return attr

    def expect_path(self, names: Sequence[bytes]) -> int | None:
        ((entry, value, _, _, count, holder, holder_value),) = self._run_find(
            [[b"%d" % ROOT_INODE, *names]], b"0"
        )
        if count < len(names) - 1 or holder_value is None:
            return None
        inode = int(holder)
        if not unpack_attr(inode, holder_value).is_directory:
            return None
        self._ready[b"GET", self._codecs[Attr].at("i", inode)] = holder_value
        found = entry if count == len(names) else None
        self._ready[b"HGET", self._codecs[Edge].at("d", inode), names[-1]] = found
        if found is not None:
            child = unpack_edge(found)[1]
            self._ready[b"GET", self._codecs[Attr].at("i", child)] = value
        return inode

    def follow(self, start: int, names: Sequence[bytes]) -> tuple[Attr | None, int, int]:
        if start == ROOT_INODE and (known := self._followed.get(tuple(names))) is not None:
            return known
        ((entry, value, _, directory, count, _, _),) = self._run_find(
            [[b"%d" % start, *names]], b"0"
        )
        attr = None if entry is None else unpack_attr(unpack_edge(entry)[1], value)
        return attr, int(directory), count

    def find(self, names: Sequence[bytes]) -> Found | None:
        return self.find_many([names])[0]

    def find_many(self, paths: Sequence[Sequence[bytes]]) -> list[Found | None]:
        root = b"%d" % ROOT_INODE
        batches = [
            paths[first : first + _PATHS_BATCH] for first in range(0, len(paths), _PATHS_BATCH)
        ]
        commands = [
            self._find_command([[root, *names] for names in batch], b"1") for batch in batches
        ]
        if len(commands) == 1:
            return self._founds(batches[0], self.ask(commands)[0])
        with closing(self._ask_ahead(commands)) as replies:
            return [
                found
                for batch, reply in zip(batches, replies, strict=True)
                for found in self._founds(batch, reply)
            ]

    def _founds(
        self, paths: Sequence[Sequence[bytes]], reply: list[list[Any]]
    ) -> list[Found | None]:
        founds: list[Found | None] = []
        for names, (entry, value, records, directory, count, _, _) in zip(
            paths, reply, strict=True
        ):
            attr = None if entry is None else unpack_attr(unpack_edge(entry)[1], value)
            if attr is None or count < len(names):
                self._followed[tuple(names)] = attr, int(directory), count
                founds.append(None)
            else:
                founds.append(Found(attr, records))
        return founds

    def _find_command(self, paths: list[list[bytes]], records: bytes) -> Command:
        prefix, argument = self._codecs[Attr].name(""), script_argument(paths)
        return (b"EVALSHA", _FIND_SHA, 1, self.route, prefix, argument, records)

    def _run_find(self, paths: list[list[bytes]], records: bytes) -> list[list[Any]]:
        (replies,) = self.ask([self._find_command(paths, records)])
        return cast("list[list[Any]]", replies)

    def children(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, Attr]]:
        joined = (pair for batch in self._joined(parent, after, limit) for pair in batch)
        return islice(joined, limit)

    def _joined(
        self, parent: int, after: bytes, limit: int | None
    ) -> Iterator[list[tuple[bytes, Attr]]]:
        """Iterate over batches of entries with their attributes, in name order."""
        (reply,) = self.ask(self._codecs[Edge].all_reads((parent,)))
        entries = sorted(pairs(reply))
        if after:
            entries = [entry for entry in entries if entry[0] > after]
        head = self._codecs[Attr].name("i")
        size = _KEYS_BATCH if limit is None else min(_KEYS_BATCH, max(limit, 1))
        # Loops over what may be a hundred thousand entries: no call more than needed.
        for first in range(0, len(entries), size):
            batch = entries[first : first + size]
            inodes = [EDGE.unpack(value)[1] for _, value in batch]
            (values,) = self.ask([(b"MGET", *[b"%b%d" % (head, inode) for inode in inodes])])
            yield [
                (name, unpack_attr(inode, value))
                for (name, _), inode, value in zip(batch, inodes, values, strict=True)
                if value is not None
            ]

    def listing(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[Listed]:
        listed = (one for batch in self._joined(parent, after, limit) for one in self._lists(batch))
        return islice(listed, limit)

    def _lists(self, batch: list[tuple[bytes, Attr]]) -> Iterator[Listed]:
        """Iterate over entries with the slice lists of their first chunks."""
        codec = self._codecs[Chunk]
        last = BULK_RECORDS_BYTES // RECORD_BYTES
        files = [attr.inode for _, attr in batch if attr.type == NodeType.FILE and attr.length]
        replies = self.ask([(b"LRANGE", codec.at("c", inode, 0), 0, last) for inode in files])
        lists = {
            inode: None if len(reply) > last else b"".join(reply)
            for inode, reply in zip(files, replies, strict=True)
        }
        for name, attr in batch:
            yield Listed(name, attr, lists.get(attr.inode, b""))

    def links(self, inode: int) -> dict[int, int]:
        attr = self.get(Attr, inode)
        if attr is not None and attr.parent:
            return {attr.parent: 1}
        (reply,) = self.ask([(b"HGETALL", self._codecs[Attr].at("p", inode))])
        return {int(parent): int(count) for parent, count in pairs(reply) if int(count) > 0}
