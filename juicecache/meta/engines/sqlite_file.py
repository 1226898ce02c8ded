"""The file of a SQLite volume and this process's connections to it.

Laws:

* A connection serves one transaction at a time, belongs to this process, and is closed
  before the process forks (see ``forks``).
* A connection without locks is used only while the file is the one that it was opened on,
  and what it read counts only if the file is still the same afterwards.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

from juicecache.errors import ClosedError, EngineUnavailableError, VolumeFormatError
from juicecache.meta.engines import wal_index
from juicecache.mounts import network_file_system

BUSY_TIMEOUT_S = 5.0
"""Wait for another client's lock: what the official client waits before it starts over."""
_STATEMENTS_MAX = 512
"""More than the distinct statements of an engine, so that none is ever compiled twice."""
_CACHE_KIB = 16 * 1024
"""Pages kept by a connection: the edges and nodes of a listing of 100,000 entries."""
_TICK_S = 0.02
"""The clock of file times stands still for up to 10 ms: a file younger than this may change
once more without showing it."""
_LOOKS_MAX = 10
"""Waits for a file to become older than that: no client can close and reopen it for longer."""

_VERSION = "PRAGMA data_version"


class FrozenFile(NamedTuple):
    """A database that nobody has open for writing, told from itself after any change."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class DatabaseFile:
    """Where the database is and how it may be opened.

    Attributes
    ----------
    read_only
        Asked for, or the file or its directory cannot be written. Settled when made.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool) -> None:
        self.path = Path(os.fspath(path)).absolute()
        writable = os.access(self.path.parent, os.W_OK) and (
            os.access(self.path, os.W_OK) or not self.path.exists()
        )
        self.read_only = read_only or not writable
        self._lockless = self.read_only and not os.access(self.path.parent, os.W_OK)
        self._log = self.path.with_name(self.path.name + "-wal")

    def frozen(self) -> FrozenFile | None:
        """Return what the file is where it must be read without locks; None where locks work.

        In a directory where no index of the log can be made, SQLite opens a database only on
        the promise that nobody changes it. A log that is there proves the contrary, and its
        index lets us take locks. Waits until the file is old enough that every change shows.
        """
        if not self._lockless:
            return None
        for _ in range(_LOOKS_MAX):
            try:
                found = self.path.stat()
            except OSError:
                return None  # opening it says what is wrong
            if self._log.exists():
                return None
            age_s = time.time() - found.st_ctime_ns / 1e9
            if not 0 <= age_s < _TICK_S:
                break
            time.sleep(_TICK_S - age_s)
        return FrozenFile(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )

    def create(self) -> None:
        """Make an empty file that only its owner may open; one that is there stays as it is.

        SQLite gives its log and index the mode of the file.

        Raises
        ------
        EngineUnavailableError
            It cannot be made.
        """
        try:
            # Never opened when it exists: closing a descriptor of the file would drop the
            # locks that SQLite holds on it in this process.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise EngineUnavailableError(f"cannot make {self.path}: {error.strerror}") from error

    def connect(self, *, frozen: bool) -> sqlite3.Connection:
        """Open a connection in autocommit mode, usable on any thread, one at a time.

        ``frozen`` reads without locks: see `frozen`.

        Raises
        ------
        VolumeFormatError
            There is no such file.
        EngineUnavailableError
            The file is on a network file system, or cannot be opened.
        """
        if network := network_file_system(self.path.parent):
            raise EngineUnavailableError(
                f"{self.path} is on a network file system ({network}), where SQLite's locks and "
                "shared memory do not work between machines; keep the database on a local disk"
            )
        if not self.path.exists():
            raise VolumeFormatError(f"there is no metadata database at {self.path}")
        uri = f"{self.path.as_uri()}?{self._mode(frozen)}"
        try:
            connection = sqlite3.connect(
                uri,
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_STATEMENTS_MAX,
            )
        except sqlite3.Error as error:
            raise EngineUnavailableError(f"cannot open {self.path}: {error}") from error
        # A name in another client's encoding must not make its whole row unreadable.
        connection.text_factory = _text
        try:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        except BaseException:
            connection.close()
            raise
        return connection

    def _mode(self, frozen: bool) -> str:
        if not self.read_only:
            return "mode=rw"
        return "mode=ro&immutable=1" if frozen else "mode=ro"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class _Opened(NamedTuple):
    """A connection, and the file that it reads without locks, if it does."""

    connection: sqlite3.Connection
    frozen: FrozenFile | None


class Connections:
    """The connections of one process: handed out to one transaction at a time, kept for the next.

    There are as many as transactions ever ran at once. Around a fork everything waits until
    no transaction runs, and all connections are closed; both processes open new ones.
    """

    def __init__(self, file: DatabaseFile, name: str) -> None:
        self._file = file
        self._name = name
        self._idle: list[_Opened] = []
        self._watch: sqlite3.Connection | None = None
        self._index: wal_index.WalIndex | None = None
        self._leave: weakref.finalize[[wal_index.WalIndex], Connections] | None = None
        self._watches = 0
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._free = threading.Condition()
        self._watching = threading.Lock()
        self._users: dict[sqlite3.Connection, tuple[int, FrozenFile | None]] = {}
        self.writer = threading.Lock()
        """Held by the one thread of this process that writes: SQLite would let them poll."""

    def take(self) -> sqlite3.Connection:
        """Return a connection that no one else uses until it is handed back."""
        frozen = self._file.frozen()
        with self._free:
            if self._closed:
                raise ClosedError(f"{self._name} is closed")
            connection = None
            while self._idle and connection is None:
                idle = self._idle.pop()
                if idle.frozen == frozen:
                    connection = idle.connection
                else:
                    idle.connection.close()
            if connection is None:
                connection = self._file.connect(frozen=frozen is not None)
            self._users[connection] = threading.get_ident(), frozen
        return connection

    def give_back(self, connection: sqlite3.Connection, *, sound: bool) -> bool:
        """Keep ``connection`` for the next transaction; close it unless ``sound``.

        Returns whether what was read counts. If not, the file changed under a connection
        without locks, and the transaction must run again.
        """
        now = self._file.frozen()
        with self._free:
            _, frozen = self._users.pop(connection)
            if sound and now == frozen and not self._closed:
                self._idle.append(_Opened(connection, frozen))
            else:
                connection.close()
            self._free.notify_all()
        return now == frozen

    def version(self) -> tuple[Hashable, ...] | None:
        """Return a value that changes with every commit of any other connection of any process.

        It is only comparable while one connection holds the log in place, hence their count.
        """
        frozen = self._file.frozen()
        with self._watching:
            if self._closed:
                return None
            if frozen is not None:
                return frozen
            try:
                if self._watch is None:
                    self._watch = self._file.connect(frozen=False)
                    self._watches += 1
                    self._watch.execute(_VERSION).fetchone()  # it now holds the log in place
                    # An index that a killed client left beside a database without a log is dead.
                    (mode,) = self._watch.execute("PRAGMA journal_mode").fetchone()
                    self._index = wal_index.watch(self._file.path) if mode == "wal" else None
                    if self._index is not None:
                        self._leave = weakref.finalize(self, wal_index.forsake, self._index)
                        self._leave.atexit = False
                if self._index is not None:
                    return self._watches, self._index.header()
                (number,) = self._watch.execute(_VERSION).fetchone()
            except (sqlite3.Error, OSError):
                return None
        return self._watches, number

    def close(self) -> None:
        """Close what is idle now and the rest as it is handed back."""
        with self._free, self._watching:
            self._closed = True
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().connection.close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._index is not None:
            if self._leave is not None:
                self._leave.detach()
            wal_index.leave(self._index)
            self._index = None

    def before_fork(self) -> None:
        """Wait for the transactions of other threads, close, and let none begin."""
        self._free.acquire()
        me = threading.get_ident()
        while any(user != me for user, _ in self._users.values()):
            self._free.wait()
        self._watching.acquire()
        self._close_idle()

    def after_fork(self, *, in_child: bool) -> None:
        """Let transactions begin again."""
        if in_child:
            self._reset()
        else:
            self._watching.release()
            self._free.release()
