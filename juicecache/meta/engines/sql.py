"""Metadata in PostgreSQL or MySQL, in the tables of the format, shared with official clients.

Laws:

* A row that is read with ``lock`` stays as it is until the commit (``FOR UPDATE``); what is read
  without is as it was then (READ COMMITTED). Unique keys find the races of insertions.
* What a transaction only reads comes from one snapshot. What a body asks first is answered alone,
  and for most bodies that is all; the snapshot begins with what it asks next, and with the
  question whether the first answer still holds.
* Statements travel together: BEGIN with the first of them, the commit's all at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from juicecache.errors import (
    CommitUnknownError,
    ConflictError,
    EngineUnavailableError,
    JuicecacheError,
    ReadOnlyVolumeError,
)
from juicecache.forks import survive_fork
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.engines.pool import Pool
from juicecache.meta.engines.schema import ADDED_COLUMNS
from juicecache.meta.engines.sql_commit import Prepared, SqlCommit
from juicecache.meta.engines.sql_server import (
    COMMIT,
    Connection,
    LostError,
    NoTableError,
    SqlServer,
    Statement,
)
from juicecache.meta.engines.sql_statements import SqlStatements
from juicecache.meta.engines.sql_totals import Totals
from juicecache.meta.engines.sql_transaction import SqlTransaction, StaleError
from juicecache.meta.rows import (
    SETTING,
    Record,
)

T = TypeVar("T")

_OUTAGE_S = 15.0
"""A server that was there is waited for: a restart, or a failover, takes some seconds."""


class SqlEngine(Engine):
    """The tables of one volume in a database on a server.

    Parameters
    ----------
    server
        The database.
    read_only
        Refuse writes.
    table_prefix
        Further prefix of the tables' names behind ``jfs_``, as in the official client.
    """

    def __init__(
        self, server: SqlServer, *, read_only: bool = False, table_prefix: str = ""
    ) -> None:
        self.read_only = read_only
        self._server = server
        prefix = f"jfs_{table_prefix}_" if table_prefix else "jfs_"
        self._sql = SqlStatements(prefix, server.dialect)
        self._pool: Pool[Connection] = Pool(server.describe(), self._connect, server.disconnect)
        self._was_up = False
        self._totals = Totals(self._add_totals)
        survive_fork(self)

    # Attempts.

    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        """Run ``body`` once, with an outage waited for, and commit its writes."""
        run = self._write if writable else self._read
        return self._steadily(lambda connection: run(connection, body))

    def _steadily(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` on a connection, and again on another one where it broke."""
        deadline = time.monotonic() + _OUTAGE_S
        while True:
            connection = None
            sound = False
            try:
                connection = self._pool.take()
                result = action(connection)
                sound = True
                return result
            except LostError as error:
                self._pool.drop_idle()
                if not self._was_up or time.monotonic() >= deadline:
                    raise self._server.lost(error) from error
            except Exception:
                sound = connection is not None and self._rolled_back(connection)
                raise
            finally:
                if connection is not None:
                    self._pool.give_back(connection, sound=sound)
            time.sleep(random.uniform(0.02, 0.2))

    def _connect(self) -> Connection:
        connection = self._server.connect()
        self._was_up = True
        return connection

    def _rolled_back(self, connection: Connection) -> bool:
        try:
            if self._server.in_transaction(connection):
                self._server.run(connection, [("ROLLBACK", ())])
        except (LostError, JuicecacheError):
            return False
        return True

    def _read(self, connection: Connection, body: Callable[[Transaction], T]) -> T:
        for snapshot in (False, True):
            tx = SqlTransaction(self._server, connection, self._sql, self._totals)
            tx.reads_only(snapshot=snapshot)
            try:
                result = body(tx)
            except StaleError:
                self._server.run(connection, [("ROLLBACK", ())])
                continue
            if tx.began:
                self._server.run(connection, [COMMIT])
            if tx.writes:
                raise RuntimeError("a read transaction made writes: use Engine.write")
            return result
        raise AssertionError("unreachable: a snapshot is never stale")

    def _write(self, connection: Connection, body: Callable[[Transaction], T]) -> T:
        tx = SqlTransaction(self._server, connection, self._sql, self._totals)
        result = body(tx)
        commit = SqlCommit(self._sql, tx.writes)
        taken = self._totals.take() if commit.totals else None
        if taken is not None:
            for name, delta in taken.items():
                commit.totals[name] = commit.totals.get(name, 0) + delta
            # Last, so that others wait for these rows no longer than for the commit itself.
            commit.statements += [Prepared(one) for one in self._counting(commit.totals)]
        try:
            if commit.statements:
                self._commit(connection, commit.statements, began=tx.began)
            elif tx.began:
                self._server.run(connection, [COMMIT])
        except CommitUnknownError:
            raise
        except BaseException:
            if taken:
                self._totals.add(taken)
            raise
        if taken is None and commit.totals:
            self._totals.add(commit.totals)
        return result

    def _counting(self, deltas: Mapping[str, int]) -> list[Statement]:
        return [(self._sql.count, (name, deltas[name])) for name in sorted(deltas)]

    def _commit(self, connection: Connection, prepared: Sequence[Prepared], *, began: bool) -> None:
        begin: list[Statement] = [] if began else [(self._server.begin_write, ())]
        statements = [*begin, *(one.statement for one in prepared)]
        is_whole = bool(self._sql.dialect.required)
        try:
            # A COMMIT may travel along only where a missing row stops the server before it.
            answers = self._server.run(
                connection, [*statements, COMMIT] if is_whole else statements
            )
        except LostError as error:
            if is_whole:
                raise self._unknown(error) from error
            raise
        except ConflictError as error:
            raise ConflictError(self._which(error, prepared)) from error
        if is_whole:
            return
        for one, answer in zip(prepared, answers[len(begin) :], strict=True):
            if one.required and answer.count == 0:
                raise ConflictError(one.required)
        try:
            self._server.run(connection, [COMMIT])
        except (LostError, EngineUnavailableError) as error:
            raise self._unknown(error) from error

    def _which(self, error: ConflictError, prepared: Sequence[Prepared]) -> str:
        """Return what a conflict says, with the rows that were required: one of them is gone."""
        required = [one.required for one in prepared if one.required]
        return f"{error}; of: {'; '.join(required[:5])}" if required else str(error)

    def _unknown(self, error: Exception) -> CommitUnknownError:
        return CommitUnknownError(
            f"{self.describe()}: the connection broke before the answer to a commit ({error}); it "
            "may have happened or not"
        )

    def _add_totals(self, deltas: Mapping[str, int]) -> None:
        statements = self._counting(deltas)

        def action(connection: Connection) -> None:
            try:
                self._server.run(connection, [(self._server.begin_write, ()), *statements, COMMIT])
            except LostError as error:
                raise self._unknown(error) from error

        self.retried(lambda: self._steadily(action))

    # The rest of the contract.

    def stamp(self) -> None:
        """Return None: nothing tells without a round trip whether something changed."""

    def prepare(self) -> None:
        """Create the missing tables and columns; see `Engine.prepare`."""
        self._refuse_read_only()

        def action(connection: Connection) -> None:
            self._server.run(connection, [(text, ()) for text in self._sql.creation(own=False)])
            there = self._columns(connection, f"{self._sql.prefix}node")
            missing = sorted(ADDED_COLUMNS - there)
            if missing:
                texts = [self._sql.added_column(column) for column in missing]
                self._server.run(connection, [(text, ()) for text in texts])

        self.retried(lambda: self._steadily(action))

    def prepare_own(self) -> None:
        """Create our own tables; see `Engine.prepare_own`."""
        self._refuse_read_only()
        statements = [(text, ()) for text in self._sql.creation(own=True)]
        self.retried(lambda: self._steadily(lambda one: self._server.run(one, statements)))

    def _columns(self, connection: Connection, table: str) -> set[str]:
        (answer,) = self._server.run(connection, [(self._server.columns, (table,))])
        return {str(row[0]) for row in answer.rows}

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise ReadOnlyVolumeError(self.describe(), "the metadata database is read-only")

    def setting(self) -> str | None:
        """Return the text of the setting record; None where a table or the record is missing."""
        try:
            row = self.read(lambda tx: tx.get(Record, SETTING))
        except NoTableError:
            return None
        return None if row is None else row.text

    def put_setting(self, text: str) -> None:
        """Write the setting record."""
        self.write(lambda tx: tx.put(Record(SETTING, text)))

    def erase(self, progress: Callable[[int], None] | None = None) -> None:
        """Drop the tables, one at a time; see `Engine.erase`."""
        self._refuse_read_only()
        self._totals.flush()
        for count, text in enumerate(self._sql.removal):
            if count and progress is not None:
                progress(count)
            self._steadily(lambda one, text=text: self._server.run(one, [(text, ())]))  # type: ignore[misc]  # mypy cannot infer a lambda default

    def describe(self) -> str:
        """Return the address without user and password."""
        return self._server.describe()

    def close(self) -> None:
        """Add the totals that wait, then close this process's connections."""
        self._totals.close()
        self._pool.close()

    def before_fork(self) -> None:
        """Do nothing: a transaction of another thread goes on in the parent alone."""

    def after_fork(self, *, in_child: bool) -> None:
        """Open new connections in the child; totals that wait are the parent's."""
        if in_child:
            self._pool.forget()
            self._totals.reset()
