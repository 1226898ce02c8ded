"""Blocks: from the tiers of this machine, else from object storage; and up into it.

Laws: one load of a block at a time in this process, shared by all who wait; a hit takes
no lock of ours, no event loop and no other thread; whoever waits for a load first also
keeps it in the tiers, so the loop never touches a disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from juicecache.cache.stack import TierStack
from juicecache.errors import ObjectError, ObjectUnavailableError
from juicecache.model.layout import BlockKey, Layout
from juicecache.objects.store import Buffer, ObjectStore
from juicecache.runtime import finish, loop_thread, start

T = TypeVar("T")

_TOUCHED_MAX = 65_536
"""Blocks remembered as read once by a range: 256 GiB of them, some 10 MB of memory."""


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What this process asked of object storage; ``shared`` loads were already under way."""

    loads: int
    loaded_bytes: int
    range_gets: int
    range_bytes: int
    shared: int
    uploads: int
    uploaded_bytes: int
    deleted: int


class Flight:
    """One whole block on its way; ``future`` holds its bytes."""

    __slots__ = ("future", "key", "settled")

    def __init__(self, key: BlockKey) -> None:
        self.key = key
        self.future: Future[bytes] = Future()
        self.settled = False


class Blocks:
    """The blocks of one volume, for one process.

    Parameters
    ----------
    layout
        How block keys become object names.
    store
        Object storage, with all its wrappers.
    tiers
        The caches of this machine.

    Attributes
    ----------
    loading_bytes
        Size of the blocks that are on their way or wait to be collected.
    """

    def __init__(self, layout: Layout, store: ObjectStore, tiers: TierStack) -> None:
        self.layout = layout
        self.tiers = tiers
        self._store = store
        self._lock = threading.Lock()
        self._flights: dict[BlockKey, Flight] = {}
        self._touched: OrderedDict[BlockKey, None] = OrderedDict()
        self.loading_bytes = 0
        self._loads = self._loaded_bytes = self._shared = 0
        self._range_gets = self._range_bytes = 0
        self._uploads = self._uploaded_bytes = self._deleted = 0

    @property
    def inline(self) -> bool:
        """Whether object storage answers on the caller's thread (a local directory)."""
        return self._store.inline

    @property
    def ranged(self) -> bool:
        """Whether a part of a block can be fetched alone."""
        return self._store.ranged

    # ------------------------------------------------------------------ loading

    def begin(self, keys: Iterable[BlockKey]) -> list[Flight]:
        """Start loading whole blocks, or join the loads under way; never waits for a network.

        An inline store has loaded them when this returns.
        """
        flights, fresh = [], []
        with self._lock:
            for key in keys:
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = Flight(key)
                    fresh.append(flight)
                    self.loading_bytes += key.length
                    self._loads += 1
                    self._loaded_bytes += key.length
                else:
                    self._shared += 1
                flights.append(flight)
        if self._store.inline:
            self._load_inline(fresh)
        elif fresh:
            loop = loop_thread().loop
            loop.call_soon_threadsafe(lambda: [loop.create_task(self._load(f)) for f in fresh])
        return flights

    def settle(self, flight: Flight) -> bytes:
        """Wait for a block, keep it in the tiers, and return its bytes.

        Raises
        ------
        ObjectError, CorruptBlockError
            The load failed; the next `begin` tries anew.
        """
        body = flight.future.result()
        with self._lock:
            first, flight.settled = not flight.settled, True
        if first:
            try:
                # Another thread may miss the tiers and join this flight until it is kept.
                self.tiers.put(flight.key, body)
            finally:
                self._land(flight)
        return body

    def abandon(self, flights: Iterable[Flight]) -> None:
        """Give up waiting; what arrives is dropped unless somebody else waits for it."""
        for flight in flights:
            flight.future.add_done_callback(lambda _, flight=flight: self._land(flight))  # type: ignore[misc]  # mypy cannot infer a lambda default

    def load(self, key: BlockKey) -> bytes:
        """Return a whole block from object storage, kept in the tiers."""
        return self.settle(self.begin((key,))[0])

    def begin_range(self, key: BlockKey, start: int, stop: int) -> Future[bytes]:
        """Start fetching bytes ``[start, stop)`` of a block; they are not cached."""
        with self._lock:
            self._range_gets += 1
            self._range_bytes += stop - start
            self._touched[key] = None
            if len(self._touched) > _TOUCHED_MAX:
                self._touched.popitem(last=False)
        return self._run(self._store.get(self._name(key), start, stop, length=key.length))

    def touched(self, key: BlockKey) -> bool:
        """Return whether a range of this block was fetched before: now all of it is wanted."""
        return key in self._touched

    def _load_inline(self, flights: list[Flight]) -> None:
        try:
            for flight in flights:
                finish(self._load(flight))
        except BaseException:
            # An interrupt: nobody collects these, and other threads may wait for the rest.
            for flight in flights:
                self._land(flight)
                if not flight.future.done():
                    flight.future.set_exception(
                        ObjectUnavailableError(self._name(flight.key), "the load was interrupted")
                    )
            raise

    async def _load(self, flight: Flight) -> None:
        key = flight.key
        try:
            body = await self._store.get(self._name(key), length=key.length)
        except BaseException as error:
            self._land(flight)
            flight.future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            flight.future.set_result(body)

    def _land(self, flight: Flight) -> None:
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
                self.loading_bytes -= flight.key.length
            self._touched.pop(flight.key, None)

    # ------------------------------------------------------------------ storing

    def upload(self, key: BlockKey, body: Buffer) -> Future[None]:
        """Start storing a block; ``body`` must not change until the future is done.

        An inline store has stored it when this returns.
        """
        with self._lock:
            self._uploads += 1
            self._uploaded_bytes += key.length
        return self._run(self._store.put(self._name(key), body))

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a request to object storage; an inline store has answered when this returns."""
        return start(work, inline=self._store.inline)

    def _name(self, key: BlockKey) -> str:
        return self.layout.object_name(key.name)

    def require(self, keys: Iterable[BlockKey]) -> None:
        """Return when the objects of all blocks are there.

        Raises
        ------
        ObjectNotFoundError
            One is missing.
        """
        for future in [self._run(self._store.head(self._name(key))) for key in keys]:
            future.result()

    def delete(self, keys: Iterable[BlockKey]) -> None:
        """Delete the objects of blocks and forget them in the tiers; missing ones are not errors.

        Raises
        ------
        ObjectError
            At least one could not be deleted; the others were tried all the same.
        """
        failed: ObjectError | None = None
        waiting = []
        for key in keys:
            self.tiers.delete(key)
            waiting.append(self._run(self._store.delete(self._name(key))))
        for future in waiting:
            try:
                future.result()
                self._deleted += 1
            except ObjectError as error:
                failed = error
        if failed is not None:
            raise failed

    def stats(self) -> BlockStats:
        """Return the counters."""
        return BlockStats(
            self._loads,
            self._loaded_bytes,
            self._range_gets,
            self._range_bytes,
            self._shared,
            self._uploads,
            self._uploaded_bytes,
            self._deleted,
        )
