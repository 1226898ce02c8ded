"""What the SQL engine asks of a database server: connections, statements, and what errors mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from juicecache.addresses import MetaAddress
from juicecache.errors import EngineUnavailableError, JuicecacheError, VolumeFormatError
from juicecache.meta.engines.sql_statements import Dialect

Connection: TypeAlias = Any
"""A connection of a driver, which this floor hands around and never looks into."""

Statement: TypeAlias = tuple[str, Sequence[Any]]
"""A text with ``%s`` for each of its parameters."""

COMMIT: Statement = ("COMMIT", ())


class Answer(NamedTuple):
    """What a statement brought: its rows, and how many rows it found."""

    rows: list[Sequence[Any]]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs


class LostError(Exception):
    """The connection broke: nothing is known of what was sent last.

    Never leaves this package.
    """


class NoTableError(VolumeFormatError):
    """A table is missing: nobody formatted the database, or with another prefix."""


class SqlServer(ABC):
    """One database on a server.

    Attributes
    ----------
    begin_write, begin_read
        Begin a transaction that writes, and one that reads a snapshot.
    columns
        Which columns a table has; its name is the parameter.
    next_number
        Takes a number for a new row of a numbered table; empty where the greatest one tells.
    """

    dialect: Dialect
    begin_write: str
    begin_read: Sequence[str]
    columns: str
    next_number: str = ""

    def __init__(self, address: MetaAddress) -> None:
        self.address = address

    @abstractmethod
    def connect(self) -> Connection:
        """Open a connection in which each statement commits unless a transaction was begun.

        Raises
        ------
        LostError
            No server answers.
        EngineUnavailableError
            It lets nobody in, or is not the one that it should be.
        """

    @abstractmethod
    def disconnect(self, connection: Connection) -> None:
        """Close a connection, whatever its state."""

    @abstractmethod
    def run(self, connection: Connection, statements: Sequence[Statement]) -> list[Answer]:
        """Send statements together and return what they brought; one round trip where possible.

        None runs behind one that fails.

        Raises
        ------
        LostError
        ConflictError
            A lost race: the server has rolled back, or will.
        JuicecacheError
            Whatever else the server says.
        """

    @abstractmethod
    def in_transaction(self, connection: Connection) -> bool:
        """Return whether a transaction was begun and not ended; no round trip."""

    def describe(self) -> str:
        """Return the address without user and password."""
        location = self.address.location.rpartition("@")[2]
        return f"{self.address.scheme}://{location}"

    def lost(self, error: Exception) -> EngineUnavailableError:
        """Return what a broken connection is to people."""
        return EngineUnavailableError(
            f"{self.describe()}: the database does not answer ({_first_line(error)}); is the "
            "server running, and the address right?"
        )

    def untrusted(self, reason: str, options: str) -> EngineUnavailableError:
        """Return what it is to people that there is no TLS with the server."""
        return EngineUnavailableError(
            f"{self.describe()}: no TLS with the database ({reason}); {options}"
        )

    def other(self, error: Exception) -> JuicecacheError:
        """Return what an error is that has no better translation."""
        return EngineUnavailableError(f"{self.describe()}: {_first_line(error)}")

    def no_table(self, error: Exception) -> NoTableError:
        """Return what a missing table is."""
        return NoTableError(
            f"{self.describe()} holds no volume, or one of an older version of the format, which "
            f"any mount of a newer official client upgrades ({_first_line(error)})"
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
