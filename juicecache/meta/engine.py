"""The contract of metadata engines: typed rows, transactions, the one retry loop.

An engine keeps the tables of ``rows`` in a database and knows no file-system rule. The
rules (``tree``, ``chunks``, ``usage``, ...) are plain functions of a `Transaction`, so
they are written, and tested, once for every engine.

Laws:

* The writes of a transaction are buffered and reach the database together at commit, in
  the order they were made. Reads see the state before the transaction's own writes, on
  every engine.
* What a transaction iterates over (``scan``, ``children``) ends with its body.
* The body of a transaction may run many times: no I/O, no clock, nothing changed outside.
* A lost race is a `ConflictError` and is tried again here and nowhere else; a lost commit
  reply is a `CommitUnknownError` and is never tried again.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from juicecache.errors import ConflictError, ReadOnlyVolumeError
from juicecache.meta.rows import Chunk, Flock, Plock, Row, key_of
from juicecache.model.attr import ROOT_INODE, Attr

T = TypeVar("T")
RowT = TypeVar("RowT", bound=Row)
Key: TypeAlias = tuple[int | str | bytes, ...]

ATTEMPTS_MAX = 50
"""Tries of one transaction: the bound of the official client, so that both give way alike."""
DEADLINE_S = 30.0
"""A caller that waited this long is better served by an error than by another try."""
_PAUSE_S = 0.001
_PAUSE_S_MAX = 0.2


BULK_RECORDS_BYTES = 16 * 24
"""Longest slice list of a chunk that comes with a listing: longer ones, of files written in
many pieces, would make a page of thousands of entries as large as it likes."""


class Found(NamedTuple):
    """An inode, and the slice records of its first chunk: empty where there are none."""

    attr: Attr
    records: bytes


class Listed(NamedTuple):
    """An entry of a directory; ``records`` is None where they exceed `BULK_RECORDS_BYTES`."""

    name: bytes
    attr: Attr
    records: bytes | None


class Want(NamedTuple):
    """A row that a transaction will ask for; see `Transaction.expect`."""

    table: type[Row]
    key: Key
    lock: bool = False


class Put(NamedTuple):
    """Insert ``row``, or replace the one with its key; ``new`` refuses to replace."""

    row: Row
    new: bool


class Delete(NamedTuple):
    """Remove the row with ``key``; a missing one is not an error."""

    table: type[Row]
    key: Key


class Clear(NamedTuple):
    """Remove all rows of a partition; none is not an error."""

    table: type[Row]
    partition: Key


class Set(NamedTuple):
    """Change ``fields`` of the row with ``key``, which must exist."""

    table: type[Row]
    key: Key
    fields: dict[str, Any]


class Add(NamedTuple):
    """Add ``deltas`` to integer fields of the row with ``key``; see `Transaction.add`."""

    table: type[Row]
    key: Key
    deltas: dict[str, int]


class Append(NamedTuple):
    """Append slice records to a chunk; the row is made where it is missing."""

    inode: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    records: bytes


class AddRefs(NamedTuple):
    """Add to a slice's reference count, matched by id **and** size.

    With ``alive`` the slice must have a reference (a dead one is never revived): a conflict
    otherwise. Without it, a row that the caller has not found is not to be counted on.
    """

    slice_id: int
    size: int
    delta: int
    alive: bool


class Log(NamedTuple):
    """Append a line to the volume's change log; the database numbers it."""

    text: str


class Origin(NamedTuple):
    """What each line of a change log says about the transaction that wrote it.

    Attributes
    ----------
    now_ns
        When it began.
    sid
        The session of the client, 0 without one.
    number
        Of the transaction, counted by the client.
    """

    now_ns: int
    sid: int
    number: int


Write: TypeAlias = Put | Delete | Clear | Set | Add | Append | AddRefs | Log


class Transaction(ABC):
    """One attempt at a consistent set of reads and, at its end, writes.

    Read verbs are the engine's; write verbs only fill ``writes``, in order.
    """

    implies_references: bool = False
    """Whether a slice without a row has one reference, and is not unknown."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.origin: Origin | None = None
        """None while the volume keeps no change log: nothing is noted then."""

    def expect(self, *wanted: Want) -> None:
        """Announce rows that will be asked for next: a hint, which changes no answer.

        An engine with a network in between fetches them together. They are locked, where they
        are to be locked, in the order given.
        """
        return

    def expect_path(self, names: Sequence[bytes]) -> int | None:
        """Announce that the directory of a path from the root, and its last name, come next.

        A hint as `expect`. Returns the inode of the directory where plain entries lead to it and
        that is known; everything else is for the rules of ``tree``.
        """
        return None

    @abstractmethod
    def get(self, table: type[RowT], *key: int | str | bytes, lock: bool = False) -> RowT | None:
        """Return the row with ``key``, or None.

        ``lock`` announces that this transaction will change the row as a result of what it
        read; engines with row locks take one, the others detect the race at commit.
        """

    @abstractmethod
    def get_many(self, table: type[RowT], keys: Sequence[Key]) -> list[RowT | None]:
        """Return the rows of ``keys`` in their order, None where absent; one round trip."""

    @abstractmethod
    def scan(
        self,
        table: type[RowT],
        *partition: int | str | bytes,
        after: Key | None = None,
        limit: int | None = None,
    ) -> Iterator[RowT]:
        """Iterate over the rows of one partition in key order.

        Parameters
        ----------
        partition
            The leading key fields that ``ALL_TABLES[table].partition`` counts; none for a table
            without partitions.
        after
            Start behind this key, given without its partition fields.
        limit
            At most so many rows.
        """

    def scan_each(self, table: type[RowT], partitions: Sequence[int]) -> list[list[RowT]]:
        """Return the rows of partitions that a number names, in the order of ``partitions``.

        One round trip where that is possible.
        """
        return [list(self.scan(table, number)) for number in partitions]

    @abstractmethod
    def has_own_tables(self) -> bool:
        """Return whether the tables of ``rows.OWN_TABLES`` are there; else leave them alone."""

    @abstractmethod
    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """Return the attributes of entry ``name`` of directory ``parent``: edge and node joined.

        An edge whose node is missing counts as absent.
        """

    @abstractmethod
    def children(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, Attr]]:
        """Iterate over the entries of a directory behind name ``after``, in bytewise name order."""

    def follow(self, start: int, names: Sequence[bytes]) -> tuple[Attr | None, int, int]:
        """Go down from directory ``start`` as far as entries that are directories lead.

        Returns
        -------
        tuple
            The last inode that was reached, None where not even the first name is there; the
            directory that it is in; and how many names led there: fewer than all where the next
            entry is missing, or where it is no directory.
        """
        attr: Attr | None = None
        directory, here = start, start
        for count, name in enumerate(names):
            found = self.lookup(here, name) if attr is None or attr.is_directory else None
            if found is None:
                return attr, directory, count
            attr, directory, here = found, here, found.inode
        return attr, directory, len(names)

    def find(self, names: Sequence[bytes]) -> Found | None:
        """Return what a path of names leads to, from the root through directories alone.

        None also where a name in the middle is no directory, and where a name has a meaning
        without an entry: the rules of ``tree`` decide then. A link at the end is not followed.
        """
        attr: Attr | None = None
        parent = ROOT_INODE
        for name in names:
            if attr is not None and not attr.is_directory:
                return None
            attr = self.lookup(parent, name)
            if attr is None:
                return None
            parent = attr.inode
        if attr is None:
            return None
        chunk = self.get(Chunk, attr.inode, 0) if attr.is_file else None
        return Found(attr, b"" if chunk is None else chunk.slices)

    def find_many(self, paths: Sequence[Sequence[bytes]]) -> list[Found | None]:
        """Return what `find` returns for each path; one round trip where that is possible."""
        return [self.find(names) for names in paths]

    def listing(
        self, parent: int, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[Listed]:
        """Iterate over `children`, each with the slice records of its first chunk."""
        for name, attr in self.children(parent, after=after, limit=limit):
            chunk = self.get(Chunk, attr.inode, 0) if attr.is_file else None
            records = b"" if chunk is None else chunk.slices
            yield Listed(name, attr, records if len(records) <= BULK_RECORDS_BYTES else None)

    @abstractmethod
    def links(self, inode: int) -> dict[int, int]:
        """Return how many entries each directory has for ``inode``: {parent: count}."""

    def locks_of(self, sid: int) -> list[Flock | Plock]:
        """Return the locks of a session, of all inodes."""
        found: list[Flock | Plock] = [*self.scan(Flock), *self.scan(Plock)]
        return [lock for lock in found if lock.sid == sid]

    def exists(self, table: type[Row], *partition: int | str | bytes) -> bool:
        """Return whether a partition has any row."""
        return next(iter(self.scan(table, *partition, limit=1)), None) is not None

    def put(self, row: Row) -> None:
        """Insert ``row``, or replace the row with the same key."""
        self.writes.append(Put(row, new=False))

    def put_new(self, row: Row) -> None:
        """Insert ``row``; when its key is taken at commit the transaction runs again."""
        self.writes.append(Put(row, new=True))

    def delete(self, table: type[Row], *key: int | str | bytes) -> None:
        """Remove the row with ``key``; a missing one is not an error."""
        self.writes.append(Delete(table, key))

    def clear(self, table: type[Row], *partition: int | str | bytes) -> None:
        """Remove all rows of a partition."""
        self.writes.append(Clear(table, partition))

    def set(self, table: type[Row], *key: int | str | bytes, **fields: Any) -> None:
        """Change fields of an existing row; when it is gone the transaction runs again."""
        self.writes.append(Set(table, key, fields))

    def add(self, table: type[Row], *key: int | str | bytes, **deltas: int) -> None:
        """Add to integer fields of a row; never a read-modify-write.

        A missing ``Counter`` is made with the delta as its value; any other missing row makes
        the transaction run again. Deltas of zero are dropped.
        """
        changed = {field: delta for field, delta in deltas.items() if delta}
        if changed:
            self.writes.append(Add(table, key, changed))

    def append(self, inode: int, index: int, records: bytes) -> None:
        """Append 24-byte slice records to chunk ``index`` of ``inode``."""
        self.writes.append(Append(inode, index, records))

    def add_refs(self, slice_id: int, size: int, delta: int, *, alive: bool) -> None:
        """Add ``delta`` to the reference count of a slice; see `AddRefs`."""
        self.writes.append(AddRefs(slice_id, size, delta, alive))

    def new_number(self, table: type[Row]) -> int:
        """Return the number for a new row of a table whose rows the database numbers (``Acl``).

        The row is to be written with `put_new`: a number that two transactions got makes one
        of them run again. Engines that have a sequence or a counter for it take that.
        """
        return max((int(key_of(row)[0]) for row in self.scan(table)), default=0) + 1

    def log(self, text: str) -> None:
        """Append a line to the volume's change log; see ``meta.change_log``."""
        self.writes.append(Log(text))


class Engine(ABC):
    """One database with the metadata of one volume.

    Thread-safe. After a fork the child must not use, nor close, what the parent opened:
    an engine keeps its connections by process id and opens its own on first use.

    Attributes
    ----------
    read_only
        True where the database itself refuses writes; `write` then raises at once.
    origin
        Called once for each `write` while the volume keeps a change log, else None.
    """

    read_only: bool = False
    origin: Callable[[], Origin] | None = None

    def read(self, body: Callable[[Transaction], T]) -> T:
        """Run ``body`` on one consistent snapshot and return its result. Writes are refused."""
        return self.attempt(body, writable=False)

    def write(self, body: Callable[[Transaction], T]) -> T:
        """Run ``body`` and commit its writes; run it again after a lost race.

        Raises
        ------
        ConflictError
            Still losing after `ATTEMPTS_MAX` tries or `DEADLINE_S` seconds.
        CommitUnknownError
            The commit may or may not have happened.
        ReadOnlyVolumeError
            The database refuses writes.
        """
        if self.read_only:
            raise ReadOnlyVolumeError(self.describe(), "the metadata database is read-only")
        traced = body if self.origin is None else _traced(body, self.origin())
        return self.retried(lambda: self.attempt(traced, writable=True))

    def retried(self, attempt: Callable[[], T]) -> T:
        """Call ``attempt`` until it does not lose a race: the one retry loop of all engines.

        Raises
        ------
        ConflictError
            Still losing after `ATTEMPTS_MAX` tries or `DEADLINE_S` seconds.
        """
        deadline = time.monotonic() + DEADLINE_S
        for tries in range(1, ATTEMPTS_MAX + 1):
            try:
                return attempt()
            except ConflictError:
                if tries == ATTEMPTS_MAX or time.monotonic() >= deadline:
                    raise
            time.sleep(random.uniform(0, min(_PAUSE_S_MAX, _PAUSE_S * 2**tries)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def sweep(self, table: type[RowT], *, page: int) -> Iterator[list[RowT]]:
        """Iterate over the rows of a whole table, about ``page`` at a time, each read on its own.

        A row that is there all the while comes once, in no order that is promised; one that
        comes or goes meanwhile may be missed. Memory is bounded by the page.
        """
        after: Key | None = None

        def body(tx: Transaction) -> list[RowT]:
            return list(tx.scan(table, after=after, limit=page))

        while rows := self.read(body):
            yield rows
            after = key_of(rows[-1])

    @abstractmethod
    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        """Run ``body`` once and, when ``writable``, commit its writes.

        Raises
        ------
        ConflictError
            A lost race: nothing was written.
        """

    @abstractmethod
    def stamp(self) -> Hashable | None:
        """Return a value that differs whenever anything may have changed since; None if unknown.

        Cheap enough for every read of a file: no network, no transaction.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Create missing tables and columns of the format. Safe to repeat; keeps what exists.

        Raises ReadOnlyVolumeError where the database refuses writes.
        """

    @abstractmethod
    def prepare_own(self) -> None:
        """Create the missing tables of ``rows.OWN_TABLES``, for who is about to write to them.

        The format's tables stay as they are. Safe to repeat, and in several processes at once.

        Raises ReadOnlyVolumeError where the database refuses writes.
        """

    @abstractmethod
    def setting(self) -> str | None:
        """Return the text of the setting record; None when there is no volume here."""

    @abstractmethod
    def put_setting(self, text: str) -> None:
        """Write the setting record (format, and tests that damage it)."""

    @abstractmethod
    def erase(self, progress: Callable[[int], None] | None = None) -> None:
        """Remove everything of the volume, and nothing else that the database holds.

        The setting record goes last, so that an interrupted call may be repeated, after `prepare`.
        Nobody may use the volume meanwhile.

        Parameters
        ----------
        progress
            Called with the number of tables or keys that are gone, before the record is.

        Raises
        ------
        ReadOnlyVolumeError
            The database refuses writes.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the address for people, without a secret."""

    @abstractmethod
    def close(self) -> None:
        """Close this process's connections. Safe to call twice."""


def _traced(body: Callable[[Transaction], T], origin: Origin) -> Callable[[Transaction], T]:
    """Return ``body`` with its transaction told where its lines in the change log come from."""

    def run(tx: Transaction) -> T:
        tx.origin = origin
        return body(tx)

    return run
