"""Metadata in Redis, in the keys of the format, shared with official clients anywhere.

Laws:

* A transaction reads with plain commands and remembers what it relied on; one script checks that
  nothing of it has changed and applies all writes. Nobody is locked, nobody waits.
* What is checked is what SQL engines lock: rows read with ``lock``, entries, and whether something
  is empty. What others change all the time, as a directory's times, is no conflict.
* A transaction that reads in several round trips sees each of them as it was then.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar, cast

from juicecache.addresses import MetaAddress
from juicecache.errors import ConflictError, EngineUnavailableError, ReadOnlyVolumeError
from juicecache.forks import survive_fork
from juicecache.meta.engine import (
    Engine,
    RowT,
    Transaction,
)
from juicecache.meta.engines import redis_client_rows, redis_rows, redis_usage_rows
from juicecache.meta.engines.redis_codec import (
    Codec,
    Command,
)
from juicecache.meta.engines.redis_erase import erase_page
from juicecache.meta.engines.redis_link import MovedError, RedisLink
from juicecache.meta.engines.redis_scripts import COMMIT, FIND
from juicecache.meta.engines.redis_transaction import Page, RedisTransaction
from juicecache.meta.rows import (
    SETTING,
    Record,
)
from juicecache.meta.tally import Seen

T = TypeVar("T")

_CODECS = redis_rows.CODECS | redis_client_rows.CODECS | redis_usage_rows.CODECS
_COMMIT_SHA = hashlib.sha1(COMMIT.encode(), usedforsecurity=False).hexdigest().encode()
_OUTAGE_S = 15.0
"""A server that was there is waited for: a restart, or a failover, takes some seconds."""


class RedisEngine(Engine):
    """The keys of one volume in a database of Redis.

    Parameters
    ----------
    address
        ``redis`` or ``rediss``: a server, servers of a cluster, or a master's name and sentinels.
    read_only
        Refuse writes.

    Raises
    ------
    ConfigError
        The driver is missing, or the address has an unknown option.
    """

    def __init__(self, address: MetaAddress, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self._link = RedisLink(address, (FIND.encode(), COMMIT.encode()))
        self._known_codecs: dict[type, Codec] | None = None
        self._lengths: dict[int, int] = {}
        """Lengths of removed files, which are part of their key."""
        survive_fork(self)

    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        """Run ``body`` once, with an outage waited for, and commit its writes."""
        deadline = time.monotonic() + _OUTAGE_S
        while True:
            try:
                return self._once(body, writable=writable)
            except (ConnectionError, MovedError) as error:
                self._link.pool.drop_idle()
                if not self._link.was_up or time.monotonic() >= deadline:
                    raise self._link.lost(error) from error
            time.sleep(random.uniform(0.02, 0.2))

    def _once(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        connection = self._link.pool.take()
        sound = False
        try:
            tx = RedisTransaction(
                self._codecs(),
                lambda commands: self._link.ask(connection, commands),
                lambda commands: self._link.ask_ahead(connection, commands),
                self._lengths,
            )
            result = body(tx)
            if tx.writes and not writable:
                raise RuntimeError("a read transaction made writes: use Engine.write")
            if tx.writes:
                self._commit(connection, tx)
            sound = True
        except ConnectionError:
            raise
        except Exception:
            sound = True
            raise
        finally:
            self._link.pool.give_back(connection, sound=sound)
        return result

    def _codecs(self) -> dict[type, Codec]:
        """Return what keeps each row class; called once the prefix of keys is known."""
        if self._known_codecs is None:
            self._known_codecs = {
                table: codec(self._link.prefix) for table, codec in _CODECS.items()
            }
        return self._known_codecs

    def _commit(self, connection: Any, tx: RedisTransaction) -> None:
        keys, payload = tx.payload()
        names = [tx.route, *keys] if self._link.prefix else [tx.route]
        command: Command = (b"EVALSHA", _COMMIT_SHA, len(names), *names, self._link.prefix, payload)
        try:
            (differs,) = self._link.ask(connection, [command])
        except ConnectionError as error:
            raise self._link.unknown(error) from error
        if differs is not None:
            raise ConflictError(differs.decode("utf-8", "replace"))

    def stamp(self) -> None:
        """Return None: nothing tells without a round trip whether something changed."""

    def sweep(self, table: type[RowT], *, page: int) -> Iterator[list[RowT]]:
        """Iterate over all rows by a cursor of the server; see `Engine.sweep`.

        Raises
        ------
        EngineUnavailableError
            Another server answers than at the beginning, or the same one after a restart: rows
            would be missed.
        """
        cursor, run = b"0", b""
        # A scan tells some keys again when the server makes its table larger or smaller meanwhile.
        with closing(Seen()) as seen:
            while True:

                def body(tx: Transaction, cursor: bytes = cursor) -> Page[RowT]:
                    return cast("RedisTransaction", tx).page(table, cursor, page, seen.unmet)

                found = self.read(body)
                # Not before: what is read again, since a connection broke, was not met.
                seen.add(found.keys)
                cursor, run = found.cursor, run or found.run
                if found.run != run:
                    raise EngineUnavailableError(
                        f"{self.describe()}: another Redis answers, or it was restarted, and how "
                        "far its keys were read is not known any more; begin again"
                    )
                if found.rows:
                    yield found.rows
                if cursor == b"0":
                    return

    def prepare(self) -> None:
        """Check that the database may be written; it needs no tables."""
        if self.read_only:
            raise ReadOnlyVolumeError(self.describe(), "the metadata database is read-only")

    def prepare_own(self) -> None:
        """Note that our own keys are in use."""
        self.prepare()
        self.attempt(lambda tx: cast("RedisTransaction", tx).own_tables(make=True), writable=False)

    def setting(self) -> str | None:
        """Return the text of the setting record; None where the database holds no volume."""
        row = self.read(lambda tx: tx.get(Record, SETTING))
        return None if row is None else row.text

    def put_setting(self, text: str) -> None:
        """Write the setting record."""
        self.write(lambda tx: tx.put(Record(SETTING, text)))

    def erase(self, progress: Callable[[int], None] | None = None) -> None:
        """Remove the keys of the volume, a page at a time; see `Engine.erase`."""
        self.prepare()
        cursor, run, gone = b"0", b"", 0
        while True:

            def page(tx: Transaction, cursor: bytes = cursor) -> tuple[bytes, bytes, int]:
                return erase_page(cast("RedisTransaction", tx).ask, self._link.prefix, cursor)

            now, cursor, count = self.attempt(page, writable=False)
            gone += count
            if progress is not None:
                progress(gone)
            if run not in (b"", now):
                cursor = b"0"  # that was the cursor of another server
            elif cursor == b"0":
                break
            run = now
        self.write(lambda tx: tx.delete(Record, SETTING))

    def describe(self) -> str:
        """Return the address without user and password."""
        return self._link.describe()

    def close(self) -> None:
        """Close this process's connections; a transaction under way finishes first."""
        self._link.pool.close()

    def before_fork(self) -> None:
        """Do nothing: a transaction of another thread goes on in the parent alone."""

    def after_fork(self, *, in_child: bool) -> None:
        """Open new connections in the child."""
        if in_child:
            self._link.pool.forget()
