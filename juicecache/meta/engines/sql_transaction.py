"""What a transaction reads of a volume in PostgreSQL or MySQL, in as few round trips as it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, NamedTuple, cast

from juicecache.meta.engine import Found, Key, Listed, RowT, Transaction, Want
from juicecache.meta.engines.schema import MAPPINGS, attr_of
from juicecache.meta.engines.sql_server import (
    COMMIT,
    Answer,
    Connection,
    SqlServer,
    Statement,
)
from juicecache.meta.engines.sql_statements import SqlStatements, behind_values
from juicecache.meta.engines.sql_totals import Totals
from juicecache.meta.rows import (
    ALL_TABLES,
    OWN_TABLES,
    Counter,
    Edge,
    Flock,
    Plock,
    Row,
    key_of,
)
from juicecache.model.attr import ROOT_INODE, Attr

_KEYS_MAX = 500
"""Rows that one statement asks for by key."""
_PAGE = 5000
"""Rows of a scan that are held at once."""
_NEIGHBOURS = 8
"""Paths in one directory that are found together, and no longer each by a join of its own."""
_JOINS_MAX = 16
"""Names of a path that one statement follows: planning more takes longer than asking twice."""


class StaleError(Exception):
    """What a transaction read first has changed since: it begins again, with a snapshot."""


class _Way(NamedTuple):
    """How far a path leads: the last inode, its first slice list, and all inodes on the way."""

    attr: Attr | None
    records: bytes
    inodes: list[int]


class SqlTransaction(Transaction):
    """Reads of one transaction."""

    def __init__(
        self, server: SqlServer, connection: Connection, sql: SqlStatements, totals: Totals
    ) -> None:
        super().__init__()
        self.began = False
        self._server = server
        self._connection = connection
        self._sql = sql
        self._totals = totals
        self._begin: Sequence[str] = (server.begin_write,)
        self._first: tuple[list[Statement], list[Answer]] | None = None
        self._waits = False
        self._ready: dict[tuple[type, Key], tuple[Row | None, bool]] = {}
        self._traced: dict[tuple[bytes, ...], _Way] = {}
        self._entries_seen: dict[Key, int] = {}
        """Inodes of entries that are expected: who locks an entry will lock its inode."""

    def reads_only(self, *, snapshot: bool) -> None:
        """Read, from a snapshot: from its beginning, or from the second statement on."""
        self._begin = self._server.begin_read
        self._waits = not snapshot

    def _run(self, statements: list[Statement]) -> list[Answer]:
        if self.began:
            return self._server.run(self._connection, statements)
        begin: list[Statement] = [(text, ()) for text in self._begin]
        if self._waits and self._first is None:
            # Several statements are a transaction of their own, which ends with them.
            around, end = (begin, [COMMIT]) if len(statements) > 1 else ([], [])
            answers = self._server.run(self._connection, [*around, *statements, *end])
            answers = answers[len(around) : len(around) + len(statements)]
            self._first = statements, answers
            return answers
        before, known = self._first or ([], [])
        self.began = True
        answers = self._server.run(self._connection, [*begin, *before, *statements])[len(begin) :]
        if [answer.rows for answer in answers[: len(before)]] != [one.rows for one in known]:
            raise StaleError
        return answers[len(before) :]

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        return self._run([(text, parameters)])[0].rows

    # Rows by key.

    def expect(self, *wanted: Want) -> None:
        groups: dict[tuple[type[Row], bool], list[Key]] = {}
        behind = [
            Want(Attr, (self._entries_seen[want.key],), lock=True)
            for want in wanted
            if want.table is Edge and want.lock and want.key in self._entries_seen
        ]
        for want in (*wanted, *behind):
            if self._known(want.table, want.key, lock=want.lock) is None:
                groups.setdefault((want.table, want.lock), []).append(want.key)
        statements: list[Statement] = []
        asked: list[tuple[type, bool, list[Key]]] = []
        for (table, lock), keys in groups.items():
            for some in _cut(keys):
                statements.append(self._by_keys(table, some, lock=lock))
                asked.append((table, lock, some))
        if not statements:
            return
        for (table, lock, keys), answer in zip(asked, self._run(statements), strict=True):
            found = {key_of(row): row for row in self._made(table, answer.rows)}
            for key in keys:
                self._ready[table, key] = found.get(key), lock

    def _known(self, table: type, key: Key, *, lock: bool) -> tuple[Row | None, bool] | None:
        """Return a row that was expected, and is locked if it is to be."""
        known = self._ready.get((table, key))
        return None if known is None or (lock and not known[1]) else known

    def _by_keys(self, table: type, keys: Sequence[Key], *, lock: bool) -> Statement:
        statements = self._sql.tables[table]
        if len(keys) == 1:
            return statements.get + (" FOR UPDATE" if lock else ""), keys[0]
        return statements.get_many(keys, lock=lock)

    def _made(self, table: type, rows: Sequence[Sequence[Any]]) -> list[Any]:
        make = self._sql.tables[table].make
        if table is Counter:
            return [self._counted(make(row)) for row in rows]
        return [make(row) for row in rows]

    def _counted(self, row: Counter) -> Counter:
        """Return a counter with what waits to be added to it."""
        pending = self._totals.pending(row.name)
        return row._replace(value=row.value + pending) if pending else row

    def get(self, table: type[RowT], *key: int | str | bytes, lock: bool = False) -> RowT | None:
        known = self._known(table, key, lock=lock)
        if known is not None:
            return cast("RowT | None", known[0])
        text = self._sql.tables[table].get + (" FOR UPDATE" if lock else "")
        with self._totals.steady if table is Counter else nullcontext():
            rows = self._made(table, self._rows(text, key))
        return cast("RowT", rows[0]) if rows else None

    def get_many(self, table: type[RowT], keys: Sequence[Key]) -> list[RowT | None]:
        known = {key: self._known(table, key, lock=False) for key in keys}
        unknown = [key for key, row in known.items() if row is None]
        found: dict[Key, Any] = {key: row[0] for key, row in known.items() if row is not None}
        if unknown:
            statements = [self._by_keys(table, some, lock=False) for some in _cut(unknown)]
            with self._totals.steady if table is Counter else nullcontext():
                for answer in self._run(statements):
                    found |= {key_of(row): row for row in self._made(table, answer.rows)}
        return [found.get(key) for key in keys]

    # Rows of a partition.

    def scan(
        self,
        table: type[RowT],
        *partition: int | str | bytes,
        after: Key | None = None,
        limit: int | None = None,
    ) -> Iterator[RowT]:
        assert len(partition) in (0, ALL_TABLES[table].partition), partition
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            text = self._sql.tables[table].scan(len(partition), behind=after is not None)
            behind = [] if after is None else behind_values(after)
            rows = self._made(table, self._rows(text, [*partition, *behind, size]))
            yield from rows
            if len(rows) < size:
                return
            after = key_of(rows[-1])[len(partition) :]
            left = None if left is None else left - size

    def scan_each(self, table: type[RowT], partitions: Sequence[int]) -> list[list[RowT]]:
        assert ALL_TABLES[table].partition == 1, table
        found: dict[int, list[RowT]] = {number: [] for number in partitions}
        keys = list(found)
        statements: list[Statement] = [
            self._sql.tables[table].scan_each(keys[first : first + _KEYS_MAX])
            for first in range(0, len(keys), _KEYS_MAX)
        ]
        for answer in self._run(statements) if statements else ():
            for row in self._made(table, answer.rows):
                found[cast("int", key_of(row)[0])].append(row)
        return [found[number] for number in partitions]

    def locks_of(self, sid: int) -> list[Flock | Plock]:
        tables = (Flock, Plock)
        answers = self._run([self._sql.tables[table].by_session(sid) for table in tables])
        return [
            row
            for table, answer in zip(tables, answers, strict=True)
            for row in self._made(table, answer.rows)
        ]

    def has_own_tables(self) -> bool:
        tables = [f"{self._sql.prefix}{MAPPINGS[table].table}" for table in OWN_TABLES]
        answers = self._run([(self._server.columns, (table,)) for table in tables])
        return all(answer.rows for answer in answers)

    def new_number(self, table: type[Row]) -> int:
        if not self._server.next_number:
            return super().new_number(table)
        name = f"{self._sql.prefix}{MAPPINGS[table].table}"
        return int(self._rows(self._server.next_number, (name,))[0][0])

    # Joins.

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        rows = self._rows(self._sql.lookup, (parent, name))
        return attr_of(tuple(rows[0])) if rows else None

    def expect_path(self, names: Sequence[bytes]) -> int | None:
        if not 0 < len(names) <= _JOINS_MAX:
            return None
        way = self._trace(ROOT_INODE, [names])[0]
        if len(way.inodes) == len(names):
            directory = ROOT_INODE if len(names) == 1 else way.inodes[-2]
            self._entries_seen[directory, names[-1]] = way.inodes[-1]
            return directory
        if len(way.inodes) < len(names) - 1 or (way.attr and not way.attr.is_directory):
            return None
        return way.inodes[-1] if way.inodes else ROOT_INODE

    def follow(self, start: int, names: Sequence[bytes]) -> tuple[Attr | None, int, int]:
        if not 0 < len(names) <= _JOINS_MAX:
            return super().follow(start, names)
        known = self._traced.get(tuple(names)) if start == ROOT_INODE else None
        way = known or self._trace(start, [names])[0]
        return way.attr, ([start, start, *way.inodes])[-2], len(way.inodes)

    def find(self, names: Sequence[bytes]) -> Found | None:
        return self.find_many([names])[0]

    def find_many(self, paths: Sequence[Sequence[bytes]]) -> list[Found | None]:
        found: list[Found | None] = [None] * len(paths)
        alone: list[int] = []
        by_directory: dict[tuple[bytes, ...], list[int]] = {}
        for at, names in enumerate(paths):
            by_directory.setdefault(tuple(names[:-1]), []).append(at)
        for place, members in by_directory.items():
            if len(members) < _NEIGHBOURS or len(place) >= _JOINS_MAX:
                alone += members
            elif (directory := self.expect_path((*place, b"."))) is not None:
                self._find_in(directory, [(at, paths[at][-1]) for at in members], found)
        short = [at for at in alone if 0 < len(paths[at]) <= _JOINS_MAX]
        ways = self._trace(ROOT_INODE, [paths[at] for at in short]) if short else []
        for at, way in zip(short, ways, strict=True):
            if way.attr is not None and len(way.inodes) == len(paths[at]):
                found[at] = Found(way.attr, way.records)
            else:
                # Who looked for it will ask how far the path leads.
                self._traced[tuple(paths[at])] = way
        for at, names in enumerate(paths):
            if len(names) > _JOINS_MAX:
                found[at] = super().find(names)
        return found

    def _find_in(
        self, directory: int, wanted: Sequence[tuple[int, bytes]], found: list[Found | None]
    ) -> None:
        """Find names of one directory, each for its place in ``found``; one round trip."""
        names = list(dict.fromkeys(name for _, name in wanted))
        statements: list[Statement] = [
            self._sql.find_names(directory, names[first : first + _KEYS_MAX])
            for first in range(0, len(names), _KEYS_MAX)
        ]
        width = len(Attr._fields)
        known = {
            row[0]: Found(attr_of(tuple(row[1 : width + 1])), bytes(row[width + 1]))
            for answer in self._run(statements)
            for row in answer.rows
        }
        for at, name in wanted:
            found[at] = known.get(name)

    def _trace(self, start: int, paths: Sequence[Sequence[bytes]]) -> list[_Way]:
        """Follow paths from a directory as far as they lead."""
        answers = self._run(
            [(self._sql.follow(len(names)), [*names[1:], start, names[0]]) for names in paths]
        )
        width = len(Attr._fields)
        ways = []
        for answer in answers:
            if not answer.rows:
                ways.append(_Way(None, b"", []))
                continue
            row = answer.rows[0]
            inodes = [inode for inode in row[width + 1 :] if inode is not None]
            ways.append(_Way(attr_of(tuple(row[:width])), bytes(row[width]), inodes))
        return ways

    def children(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, Attr]]:
        for row in self._entries(self._sql.children, parent, after, limit):
            yield row[0], attr_of(tuple(row[1:]))

    def listing(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[Listed]:
        for row in self._entries(self._sql.listing, parent, after, limit):
            yield Listed(row[0], attr_of(tuple(row[1:-1])), row[-1])

    def _entries(
        self, text: str, parent: int, after: bytes, limit: int | None
    ) -> Iterator[Sequence[Any]]:
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            rows = self._rows(text, (parent, after, size))
            yield from rows
            if len(rows) < size:
                return
            after = rows[-1][0]
            left = None if left is None else left - size

    def links(self, inode: int) -> dict[int, int]:
        return {int(parent): int(count) for parent, count in self._rows(self._sql.links, (inode,))}


def _cut(keys: Sequence[Key]) -> Iterator[list[Key]]:
    rest = iter(dict.fromkeys(keys))
    while some := list(islice(rest, _KEYS_MAX)):
        yield some
