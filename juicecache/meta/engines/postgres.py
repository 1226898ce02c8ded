"""PostgreSQL behind the SQL engine; the only file with its driver.

Law: what was sent together is one pipeline, so that it costs one round trip; the server stops at
the first error, and a COMMIT behind it never runs.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from juicecache.addresses import MetaAddress
from juicecache.errors import (
    ConfigError,
    ConflictError,
    EngineUnavailableError,
    FileError,
    JuicecacheError,
    ReadOnlyVolumeError,
)
from juicecache.meta.engines.sql_server import Answer, Connection, LostError, SqlServer, Statement
from juicecache.meta.engines.sql_statements import Dialect
from juicecache.meta.engines.tls import check_files

_CONNECT_TIMEOUT_S = 5
_PREPARED_MAX = 1000
"""More than the distinct statements of an engine with all types of their parameters."""
_LOCK_TIMEOUT_MS = 20_000
"""Less than the retry loop waits, so that a lock that never frees is told in its words."""
_CONFLICTS = frozenset(["40001", "40P01", "55P03", "23505", "22012"])
"""Serialization, deadlock, lock timeout, unique violation; and a division by zero, which is how
a statement says that its row is gone."""
_TOO_LARGE = frozenset(["22003", "22001", "54000"])
_REFUSED = frozenset(["42501", "25006"])
_NO_TABLE = frozenset(["42P01", "42703", "3F000"])
_NO_TLS = re.compile(r"certificate|private key|SSL error: (?!.*eof)|SSL was required|no encryption")
"""In what the driver says of TLS, which has no codes; a connection that breaks is none of it."""
_WRONG = re.compile(r"invalid \w+ value")
"""In what it says of an option."""
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

DIALECT = Dialect(
    quote='"',
    types={
        "AUTO": "BIGSERIAL NOT NULL",
        "AUTO4": "SERIAL NOT NULL",
        "KEY": "BIGINT NOT NULL",
        "NAME": "VARCHAR(255) NOT NULL",
        "INT": "BIGINT NOT NULL",
        "INT4": "INTEGER NOT NULL",
        "INT?": "BIGINT NULL",
        "INT4?": "INTEGER NULL",
        "ZERO4": "INTEGER DEFAULT 0 NOT NULL",
        "BIN255": "BYTEA NOT NULL",
        "BIN4096": "BYTEA NOT NULL",
        "BLOB": "BYTEA NOT NULL",
        "BLOB?": "BYTEA NULL",
        "STR": "VARCHAR(255) NOT NULL",
        "TEXT": "TEXT NOT NULL",
    },
    bytewise='{} COLLATE "C"',
    empty="''::bytea",
    on_conflict=" ON CONFLICT ({keys}) DO UPDATE SET {changes}",
    given="excluded.{}",
    joined="{old} || {new}",
    keys_inside=False,
    arrays={
        "AUTO": "bigint",
        "AUTO4": "integer",
        "KEY": "bigint",
        "NAME": "text",
        "INT": "bigint",
        "INT4": "integer",
        "INT?": "bigint",
        "INT4?": "integer",
        "ZERO4": "integer",
        "BIN255": "bytea",
        "BIN4096": "bytea",
        "BLOB": "bytea",
        "BLOB?": "bytea",
        "STR": "text",
        "TEXT": "text",
    },
    required="WITH changed AS ({} RETURNING 1) SELECT 1 / count(*) FROM changed",
)


class Postgres(SqlServer):
    """A database of PostgreSQL.

    Raises
    ------
    ConfigError
        The driver is missing.
    """

    dialect = DIALECT
    begin_write = "BEGIN ISOLATION LEVEL READ COMMITTED"
    begin_read = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    columns = (
        "SELECT column_name::text FROM information_schema.columns"
        " WHERE table_schema = ANY (current_schemas(false)) AND table_name = %s"
    )
    next_number = "SELECT nextval(pg_get_serial_sequence(%s, 'id'))"

    def __init__(self, address: MetaAddress) -> None:
        super().__init__(address)
        try:
            import psycopg
        except ImportError as error:
            raise ConfigError(
                f"{address}: the driver of PostgreSQL is missing; "
                "pip install 'juicecache[postgres]'"
            ) from error
        self._driver: Any = psycopg
        self._options = _options(address)

    def connect(self) -> Connection:
        """Open a connection; see `SqlServer.connect`."""
        driver = self._driver
        try:
            connection = driver.connect(
                password=self.address.password or None, autocommit=True, **self._options
            )
            connection.prepared_max = _PREPARED_MAX
            connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
        except driver.ProgrammingError as error:
            raise ConfigError(f"{self.describe()}: {_what(error)}") from error
        except driver.OperationalError as error:
            if _WRONG.search(str(error)):
                raise ConfigError(f"{self.describe()}: {_what(error)}") from error
            if _NO_TLS.search(str(error)):
                raise self.untrusted(
                    _what(error), "sslrootcert names whom to trust, sslmode what is checked"
                ) from error
            if "password" in str(error) or "authentication" in str(error):
                raise EngineUnavailableError(
                    f"{self.describe()}: PostgreSQL lets nobody in with this user and password; "
                    "the password stands in the URL or in META_PASSWORD"
                ) from error
            raise LostError(str(error)) from error
        except driver.Error as error:
            raise self.other(error) from error
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Close a connection."""
        connection.close()

    def run(self, connection: Connection, statements: Sequence[Statement]) -> list[Answer]:
        """Send statements in one pipeline; see `SqlServer.run`."""
        driver = self._driver
        cursors = []
        try:
            if len(statements) == 1:
                cursor = connection.cursor(binary=True)
                cursors.append(cursor.execute(*statements[0]))
            else:
                with connection.pipeline():
                    for statement in statements:
                        cursor = connection.cursor(binary=True)
                        cursors.append(cursor.execute(*statement))
            return [
                Answer(cursor.fetchall() if cursor.rownumber is not None else [], cursor.rowcount)
                for cursor in cursors
            ]
        except driver.Error as error:
            if connection.closed or connection.broken:
                raise LostError(str(error)) from error
            raise self._translated(error) from error

    def in_transaction(self, connection: Connection) -> bool:
        """Return whether a transaction was begun and not ended."""
        idle = self._driver.pq.TransactionStatus.IDLE
        return bool(connection.info.transaction_status != idle)

    def _translated(self, error: Any) -> JuicecacheError:
        state = error.sqlstate or ""
        if state in _CONFLICTS:
            return ConflictError(f"{self.describe()}: {_what(error)}")
        if state in _REFUSED:
            return ReadOnlyVolumeError(self.describe(), f"the metadata database: {_what(error)}")
        if state in _NO_TABLE:
            return self.no_table(error)
        if state in _TOO_LARGE or isinstance(error, self._driver.DataError):
            return FileError(
                "", f"PostgreSQL's tables cannot hold it: {_what(error)}", errno=errno.EINVAL
            )
        return self.other(error)


def _what(error: Any) -> str:
    """Return what an error says without the values that it shows in its details."""
    if error.sqlstate == "22012":
        return "the row to change is gone"
    return str(error).strip().splitlines()[0]


def _options(address: MetaAddress) -> dict[str, Any]:
    """Return what the driver is told: the official client's URL has the driver's own options."""
    user, _, rest = address.location.rpartition("@")
    place, _, query = rest.partition("?")
    hosts, _, database = place.partition("/")
    options: dict[str, Any] = dict(parse_qsl(query))
    options.pop("table_prefix", None)
    # Instead of a file, the driver takes the word "system" for the authorities that it trusts.
    files = {name: options[name] for name in _FILES if options.get(name, "system") != "system"}
    check_files(address, files)
    schema = options.pop("search_path", "")
    if schema:
        options["options"] = f"-c search_path={schema}"
    # A replica set is a list of hosts with a port each, as the driver takes it.
    named = [host.rpartition(":") if ":" in host else (host, "", "") for host in hosts.split(",")]
    options.setdefault("connect_timeout", _CONNECT_TIMEOUT_S)
    return options | {
        "host": ",".join(host.strip("[]") for host, _, _ in named),
        "port": ",".join(port or "5432" for _, _, port in named),
        "user": unquote(user) or None,
        "dbname": unquote(database) or None,
    }
