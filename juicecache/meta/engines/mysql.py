"""MySQL and MariaDB behind the SQL engine; the only file with their driver.

Law: what was sent together is one query of several statements, so that it costs one round trip;
the server stops at the first error. A COMMIT is never among them: only the counts of the writes
tell whether all their rows were there.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

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
from juicecache.meta.engines.tls import tls_failure

_CONNECT_TIMEOUT_S = 5
_REPLY_TIMEOUT_S = 60
"""Longer than InnoDB waits for a lock."""
_LOCK_TIMEOUT_S = 20
_QUERY_BYTES_MAX = 1 << 20
"""Of one query: far below what servers accept, and enough that the round trip does not count."""
_CONFLICTS = frozenset([1213, 1205, 1020, 1062, 1180])
"""Deadlock, lock timeout, changed meanwhile, unique violation, error at commit."""
_TOO_LARGE = frozenset([1264, 1406, 1366])
_REFUSED = frozenset([1290, 1792, 1836, 1142, 1143, 1370, 1044])
_DENIED = frozenset([1045, 1698])
_NO_TABLE = frozenset([1146, 1054])
_NO_TLS = 2026
"""It was asked for, and the server has none."""
_LOST = frozenset([2003, 2006, 2013, 2014, 2055, 1053, 1152, 1927, 0])

DIALECT = Dialect(
    quote="`",
    types={
        "AUTO": "BIGINT NOT NULL AUTO_INCREMENT",
        "AUTO4": "INT NOT NULL AUTO_INCREMENT",
        "KEY": "BIGINT NOT NULL",
        "NAME": "VARCHAR(255) NOT NULL",
        "INT": "BIGINT NOT NULL",
        "INT4": "INT NOT NULL",
        "INT?": "BIGINT NULL",
        "INT4?": "INT NULL",
        "ZERO4": "INT NOT NULL DEFAULT 0",
        "BIN255": "VARBINARY(255) NOT NULL",
        "BIN4096": "VARBINARY(4096) NOT NULL",
        "BLOB": "BLOB NOT NULL",
        "BLOB?": "BLOB NULL",
        "STR": "VARCHAR(255) NOT NULL",
        "TEXT": "TEXT NOT NULL",
    },
    bytewise="cast({} AS binary)",
    empty="x''",
    on_conflict=" ON DUPLICATE KEY UPDATE {changes}",
    given="VALUES({})",
    joined="concat({old}, {new})",
    keys_inside=True,
    required="",
    arrays={},
)


class Mysql(SqlServer):
    """A database of MySQL or MariaDB.

    Raises
    ------
    ConfigError
        The driver is missing, or the address has an unknown option.
    """

    dialect = DIALECT
    begin_write = "START TRANSACTION"
    begin_read = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    columns = (
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = database() AND table_name = %s"
    )

    def __init__(self, address: MetaAddress) -> None:
        super().__init__(address)
        try:
            import pymysql
        except ImportError as error:
            raise ConfigError(
                f"{address}: the driver of MySQL is missing; pip install 'juicecache[mysql]'"
            ) from error
        self._driver: Any = pymysql
        self._options = _options(address)

    def connect(self) -> Connection:
        """Open a connection; see `SqlServer.connect`."""
        driver = self._driver
        flags = driver.constants.CLIENT
        try:
            connection = driver.connect(
                password=self.address.password,
                charset="utf8mb4",
                autocommit=True,
                client_flag=flags.MULTI_STATEMENTS | flags.FOUND_ROWS,
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_REPLY_TIMEOUT_S,
                write_timeout=_REPLY_TIMEOUT_S,
                **self._options,
            )
            # Locks are taken where rows are read for a change; locks of gaps, which the greater
            # isolation adds, would let creations in neighbouring directories wait.
            self.run(
                connection,
                [
                    ("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", ()),
                    (f"SET SESSION innodb_lock_wait_timeout = {_LOCK_TIMEOUT_S}", ()),
                ],
            )
        except driver.Error as error:
            code = error.args[0] if error.args else 0
            if code in _DENIED:
                raise EngineUnavailableError(
                    f"{self.describe()}: MySQL lets nobody in with this user and password; the "
                    "password stands in the URL or in META_PASSWORD"
                ) from error
            what = str(error.args[-1]) if error.args else ""
            if reason := (what if code == _NO_TLS else tls_failure(error)):
                raise self.untrusted(
                    reason,
                    "tls=true trusts whom the system trusts, or the file that SSL_CERT_FILE names",
                ) from error
            raise LostError(what) from error
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Close a connection."""
        with suppress(self._driver.Error, OSError):
            connection.close()

    def run(self, connection: Connection, statements: Sequence[Statement]) -> list[Answer]:
        """Send statements in as few queries as their size allows; see `SqlServer.run`."""
        answers: list[Answer] = []
        cursor = connection.cursor()
        waiting: list[str] = []
        size = 0
        for text, parameters in statements:
            waiting.append(cursor.mogrify(text, tuple(parameters)))
            size += len(waiting[-1])
            if size >= _QUERY_BYTES_MAX:
                answers += self._query(cursor, waiting)
                waiting, size = [], 0
        if waiting:
            answers += self._query(cursor, waiting)
        return answers

    def in_transaction(self, connection: Connection) -> bool:
        """Return whether a transaction was begun and not ended, as of the last good answer."""
        flag = self._driver.constants.SERVER_STATUS.SERVER_STATUS_IN_TRANS
        return bool(connection.server_status & flag)

    def _query(self, cursor: Any, texts: list[str]) -> list[Answer]:
        driver = self._driver
        answers = []
        try:
            cursor.execute(";".join(texts))
            for _ in texts:
                rows = list(cursor.fetchall()) if cursor.description else []
                answers.append(Answer(rows, cursor.rowcount))
                cursor.nextset()
        except driver.Error as error:
            code = error.args[0] if error.args else 0
            if code in _LOST or isinstance(error, driver.InterfaceError):
                raise LostError(str(error.args[-1]) if error.args else "") from error
            raise self._translated(error, code) from error
        except OSError as error:
            raise LostError(str(error)) from error
        return answers

    def _translated(self, error: Any, code: int) -> JuicecacheError:
        # What the server says of a duplicate or an overlong value shows the value.
        what = str(error.args[-1]) if error.args else type(error).__name__
        if code in _CONFLICTS:
            text = "a row exists already" if code == 1062 else what
            return ConflictError(f"{self.describe()}: {text}")
        if code in _REFUSED:
            return ReadOnlyVolumeError(self.describe(), f"the metadata database: {what}")
        if code in _NO_TABLE:
            return self.no_table(error)
        if code in _TOO_LARGE:
            return FileError("", f"MySQL's tables cannot hold it: {what}", errno=errno.EINVAL)
        return self.other(Exception(what))


def _options(address: MetaAddress) -> dict[str, Any]:
    """Return what the driver is told, of a URL such as ``mysql://user@(host:3306)/database``."""
    user, _, rest = address.location.rpartition("@")
    place, _, query = rest.partition("?")
    hosts, _, database = place.rpartition("/")
    options = dict(parse_qsl(query))
    options.pop("table_prefix", None)
    tls = options.pop("tls", "preferred")
    if options:
        raise ConfigError(
            f"{address}: unknown option {next(iter(options))!r}; MySQL takes tls and table_prefix"
        )
    protocol, _, inside = hosts.partition("(")
    where = (inside or protocol).rstrip(")")
    found: dict[str, Any] = {"user": user or None, "database": database}
    if protocol == "unix":
        found["unix_socket"] = where
    else:
        host, _, port = where.rpartition(":") if ":" in where else (where, "", "")
        found |= {"host": host.strip("[]"), "port": int(port or 3306)}
    return found | _tls(address, tls)


def _tls(address: MetaAddress, tls: str) -> dict[str, Any]:
    if tls == "false":
        return {"ssl_disabled": True}
    if tls == "preferred":
        return {}  # as the driver does by itself
    if tls not in ("true", "skip-verify"):
        raise ConfigError(f"{address}: tls is true, false, skip-verify or preferred")
    context = ssl.create_default_context()
    if tls == "skip-verify":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}
