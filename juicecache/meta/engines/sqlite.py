"""Metadata in a SQLite file, shared with the official client on the same machine.

Laws:

* A writing transaction holds SQLite's write lock from its first read (``BEGIN IMMEDIATE``),
  so what it read is still true when it commits. It is short: no I/O in its body.
* The threads of one process queue for that lock in memory; SQLite itself would let them
  poll, and the unlucky ones starve.
* Every error of the driver is translated here.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar, cast

from juicecache.errors import (
    CommitUnknownError,
    ConfigError,
    ConflictError,
    EngineUnavailableError,
    JuicecacheError,
    ReadOnlyVolumeError,
    VolumeFormatError,
)
from juicecache.forks import survive_fork
from juicecache.meta.engine import (
    Add,
    AddRefs,
    Append,
    Clear,
    Delete,
    Engine,
    Found,
    Key,
    Listed,
    Log,
    Put,
    RowT,
    Set,
    Transaction,
    Write,
)
from juicecache.meta.engines.schema import ADDED_COLUMNS, attr_of
from juicecache.meta.engines.sqlite_file import BUSY_TIMEOUT_S, Connections, DatabaseFile
from juicecache.meta.engines.sqlite_schema import Statements
from juicecache.meta.rows import ALL_TABLES, OWN_TABLES, SETTING, Counter, Record
from juicecache.model.attr import Attr

T = TypeVar("T")

_TAKEN = frozenset([sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY])
_BUSY = frozenset([sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED])
_DAMAGED = frozenset([sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])

_JOINS_MAX = 32
"""Names of a path that one statement follows: SQLite joins at most 64 tables."""
_RUNS_MAX = 10
"""Runs of a reader that cannot lock: a writer that stays leaves a log, which ends them."""


class _BusyError(ConflictError):
    """Another client held a lock for longer than `BUSY_TIMEOUT_S`."""


class SqliteEngine(Engine):
    """The tables of one volume in a SQLite file in WAL mode.

    Parameters
    ----------
    path
        The file; opened on first use, made by `prepare` with mode 0600.
    read_only
        Refuse writes; also settled by a file or directory that cannot be written, where
        the file is read as it stands.
    table_prefix
        Further prefix of the tables' names behind ``jfs_``, as in the official client.

    Raises
    ------
    ConfigError
        ``table_prefix`` has other characters than letters, digits and ``_``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        table_prefix: str = "",
    ) -> None:
        if not re.fullmatch(r"\w*", table_prefix, re.ASCII):
            raise ConfigError(f"table_prefix {table_prefix!r} is not made of A-Z a-z 0-9 _")
        self._file = DatabaseFile(path, read_only=read_only)
        self._sql = Statements(f"jfs_{table_prefix}_" if table_prefix else "jfs_")
        self._connections = Connections(self._file, self.describe())
        self.read_only = self._file.read_only
        survive_fork(self)

    # The engine's own contract.

    def read(self, body: Callable[[Transaction], T]) -> T:
        """Run ``body`` on one consistent snapshot; see `Engine.read`.

        Raises
        ------
        EngineUnavailableError
            Another client keeps the database locked even against readers.
        """
        try:
            return self.attempt(body, writable=False)
        except _BusyError as error:
            raise EngineUnavailableError(str(error)) from error

    def retried(self, attempt: Callable[[], T]) -> T:
        """Repeat ``attempt`` after a lost race; a lock that never frees is no race."""
        try:
            return super().retried(attempt)
        except _BusyError as error:
            raise EngineUnavailableError(str(error)) from error

    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        """Run ``body`` once, under the write lock when ``writable``, and commit its writes."""
        if writable:
            return self._exclusively(lambda connection: self._write(connection, body))
        return self._with_connection(lambda connection: self._read(connection, body))

    def stamp(self) -> Hashable | None:
        """Return what changes with every commit of any process, ours included; 1 us."""
        return self._connections.version()

    def prepare(self) -> None:
        """Create the file and its missing tables and columns; see `Engine.prepare`."""
        if not self._file.path.parent.is_dir():
            raise EngineUnavailableError(f"there is no directory {self._file.path.parent}")
        self._refuse_read_only()
        self._file.create()
        self.retried(lambda: self._exclusively(self._create_tables))

    def prepare_own(self) -> None:
        """Create our own tables in a volume that is there; see `Engine.prepare_own`."""
        self._refuse_read_only()
        self.retried(lambda: self._exclusively(self._create_own_tables))

    def setting(self) -> str | None:
        """Return the text of the setting record; None where the tables or the record are missing.

        Raises
        ------
        VolumeFormatError
            There is no such file, or it is no SQLite database.
        """

        def body(tx: Transaction) -> str | None:
            connection = cast("_SqliteTransaction", tx).connection
            if not _columns(connection, f"{self._sql.prefix}setting"):
                return None
            row = tx.get(Record, SETTING)
            return None if row is None else row.text

        return self.read(body)

    def put_setting(self, text: str) -> None:
        """Write the setting record."""
        self.write(lambda tx: tx.put(Record(SETTING, text)))

    def erase(self, progress: Callable[[int], None] | None = None) -> None:
        """Drop the tables, each in its own transaction; see `Engine.erase`."""
        self._refuse_read_only()
        for count, text in enumerate(self._sql.removal):
            if count and progress is not None:
                progress(count)
            self.retried(lambda text=text: self._exclusively(lambda one: self._drop(one, text)))  # type: ignore[misc]  # mypy cannot infer a lambda default

    def _drop(self, connection: sqlite3.Connection, text: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(text)
        self._commit(connection)

    def describe(self) -> str:
        """Return the address, ``sqlite3://`` and the absolute path."""
        return f"sqlite3://{self._file.path}"

    def close(self) -> None:
        """Close this process's connections; a transaction under way finishes first."""
        self._connections.close()

    def before_fork(self) -> None:
        """Wait until no other thread is in a transaction; close all connections."""
        self._connections.before_fork()

    def after_fork(self, *, in_child: bool) -> None:
        """Let transactions begin again, on new connections."""
        self._connections.after_fork(in_child=in_child)

    # One attempt.

    def _exclusively(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``action`` as the only writer of this process."""
        writer = self._connections.writer
        if not writer.acquire(timeout=BUSY_TIMEOUT_S):
            raise self._busy()
        try:
            return self._with_connection(action)
        finally:
            writer.release()

    def _with_connection(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``action``; again where the file changed under a connection without locks."""
        try:
            for _ in range(_RUNS_MAX):
                connection = self._connections.take()
                try:
                    result = action(connection)
                except BaseException as error:
                    sound = _rolled_back(connection)
                    counts = self._connections.give_back(connection, sound=sound)
                    if counts or not isinstance(error, Exception):
                        raise
                    continue
                if self._connections.give_back(connection, sound=True):
                    return result
        except sqlite3.Error as error:
            raise self._translated(error) from error
        raise EngineUnavailableError(
            f"{self.describe()}: changes all the time, and its directory cannot be written: "
            "nothing can be locked there"
        )

    def _read(self, connection: sqlite3.Connection, body: Callable[[Transaction], T]) -> T:
        connection.execute("BEGIN")
        with _SqliteTransaction(connection, self._sql) as tx:
            result = body(tx)
        connection.execute("COMMIT")
        if tx.writes:
            raise RuntimeError("a read transaction made writes: use Engine.write")
        return result

    def _write(self, connection: sqlite3.Connection, body: Callable[[Transaction], T]) -> T:
        connection.execute("BEGIN IMMEDIATE")
        with _SqliteTransaction(connection, self._sql) as tx:
            result = body(tx)
        for write in tx.writes:
            self._apply(connection, write)
        self._commit(connection)
        return result

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # A lock, or a full disk, stops a commit before its last page is in the log; after
            # any other failure the log may hold all of it.
            if _code(error) & 0xFF in {*_BUSY, sqlite3.SQLITE_FULL}:
                raise
            raise CommitUnknownError(f"{self.describe()}: the commit failed: {error}") from error

    def _apply(self, connection: sqlite3.Connection, write: Write) -> None:
        text, parameters, is_required = self._statement(write)
        try:
            cursor = connection.execute(text, parameters)
        except sqlite3.IntegrityError as error:
            if _code(error) in _TAKEN:
                raise ConflictError(f"{type(write).__name__}: {error}") from error
            raise
        if is_required and cursor.rowcount != 1:
            raise ConflictError(f"the row to change is gone: {_key_text(write)}")

    def _statement(self, write: Write) -> tuple[str, Sequence[Any], bool]:
        """Return the text and parameters of a write, and whether it must find its row."""
        sql = self._sql
        if isinstance(write, Put):
            table = sql.tables[type(write.row)]
            return (table.insert if write.new else table.put), write.row, False
        if isinstance(write, Delete):
            return sql.tables[write.table].remove, write.key, False
        if isinstance(write, Clear):
            return sql.tables[write.table].clear, write.partition, False
        if isinstance(write, Append):
            return sql.append, (write.inode, write.index, write.records), False
        if isinstance(write, AddRefs):
            text = sql.add_live_refs if write.alive else sql.add_refs
            return text, (write.delta, write.slice_id, write.size), write.alive
        if isinstance(write, Log):
            return sql.log, (write.text,), False
        is_add = isinstance(write, Add)
        changes = write.deltas if isinstance(write, Add) else write.fields
        if is_add and write.table is Counter:
            return sql.count, (*write.key, changes["value"]), False
        text = sql.tables[write.table].change(tuple(changes), add=is_add)
        return text, (*write.key, *changes.values()), True

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise EngineUnavailableError(
                f"{self._file.path}: SQLite's write-ahead log cannot be used here (mode {mode})"
            )
        connection.execute("BEGIN IMMEDIATE")
        for text in self._sql.creation:
            connection.execute(text)
        node = self._sql.tables[Attr].name
        for column in sorted(ADDED_COLUMNS - _columns(connection, node)):
            connection.execute(f"ALTER TABLE `{node}` ADD `{column}` INTEGER NULL")
        self._commit(connection)

    def _create_own_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for text in self._sql.own_creation:
            connection.execute(text)
        self._commit(connection)

    # Errors.

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise ReadOnlyVolumeError(self.describe(), "the metadata database is read-only")

    def _busy(self) -> _BusyError:
        return _BusyError(
            f"{self.describe()}: the database is locked by another client or thread "
            f"for more than {BUSY_TIMEOUT_S:.0f} s"
        )

    def _translated(self, error: sqlite3.Error) -> JuicecacheError:
        primary = _code(error) & 0xFF
        if primary in _BUSY:
            return self._busy()
        if primary in _DAMAGED:
            return VolumeFormatError(f"{self.describe()} is no sound SQLite database: {error}")
        if primary == sqlite3.SQLITE_READONLY:
            return ReadOnlyVolumeError(self.describe(), f"the metadata database: {error}")
        if primary == sqlite3.SQLITE_ERROR and "no such" in str(error):
            return VolumeFormatError(
                f"{self.describe()} holds no volume, or one of an older version of the format, "
                f"which any mount of a newer official client upgrades ({error})"
            )
        return EngineUnavailableError(f"{self.describe()}: {error}")


class _SqliteTransaction(Transaction):
    """Reads of one transaction. Scans that were not read to their end are stopped with it."""

    def __init__(self, connection: sqlite3.Connection, sql: Statements) -> None:
        super().__init__()
        self.connection = connection
        self._sql = sql
        self._scans: list[sqlite3.Cursor] = []

    def __enter__(self) -> _SqliteTransaction:
        return self

    def __exit__(self, *_: object) -> None:
        # A cursor that somebody still holds would keep the snapshot of this transaction
        # alive in the next one of the connection.
        for cursor in self._scans:
            cursor.close()

    def _scan(self, text: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        cursor = self.connection.execute(text, parameters)
        self._scans.append(cursor)
        return cursor

    def get(self, table: type[RowT], *key: int | str | bytes, lock: bool = False) -> RowT | None:
        statements = self._sql.tables[table]
        row = self.connection.execute(statements.get, key).fetchone()
        return None if row is None else cast("RowT", statements.make(row))

    def get_many(self, table: type[RowT], keys: Sequence[Key]) -> list[RowT | None]:
        return [self.get(table, *key) for key in keys]

    def scan(
        self,
        table: type[RowT],
        *partition: int | str | bytes,
        after: Key | None = None,
        limit: int | None = None,
    ) -> Iterator[RowT]:
        statements = self._sql.tables[table]
        assert len(partition) in (0, ALL_TABLES[table].partition), partition
        text = statements.scan(len(partition), behind=after is not None)
        rows = self._scan(text, (*partition, *(after or ()), -1 if limit is None else limit))
        return cast("Iterator[RowT]", map(statements.make, rows))

    def has_own_tables(self) -> bool:
        return all(_columns(self.connection, self._sql.tables[table].name) for table in OWN_TABLES)

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        row = self.connection.execute(self._sql.lookup, (parent, name)).fetchone()
        return None if row is None else attr_of(row)

    def children(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, Attr]]:
        parameters = (parent, after, -1 if limit is None else limit)
        return ((row[0], attr_of(row[1:])) for row in self._scan(self._sql.children, parameters))

    def find(self, names: Sequence[bytes]) -> Found | None:
        if not 0 < len(names) <= _JOINS_MAX:
            return super().find(names)
        row = self.connection.execute(self._sql.find(len(names)), names).fetchone()
        return None if row is None else Found(attr_of(row[:-1]), row[-1])

    def listing(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[Listed]:
        parameters = (parent, after, -1 if limit is None else limit)
        rows = self._scan(self._sql.listing, parameters)
        return (Listed(row[0], attr_of(row[1:-1]), row[-1]) for row in rows)

    def links(self, inode: int) -> dict[int, int]:
        return dict(self.connection.execute(self._sql.links, (inode,)).fetchall())


def _key_text(write: Write) -> str:
    """Return table and key of a write that must find its row, without its values."""
    if isinstance(write, AddRefs):
        return f"live slice {write.slice_id} of {write.size} bytes"
    assert isinstance(write, Set | Add), write
    return f"{write.table.__name__} {write.key}"


def _columns(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """Return the names of the columns of ``table``; none where it does not exist."""
    return frozenset(name for _, name, *_ in connection.execute(f"PRAGMA table_info(`{table}`)"))


def _rolled_back(connection: sqlite3.Connection) -> bool:
    """Undo the transaction under way; False when the connection is of no more use."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


def _code(error: sqlite3.Error) -> int:
    # Errors of the driver's own, such as a closed database, carry no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
