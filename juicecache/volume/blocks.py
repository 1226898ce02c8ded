"""Blocks: from the tiers of this machine, else from object storage; and up into it.

Laws: one load of a block at a time in this process, shared by all who wait; a hit takes
no lock of ours, no event loop and no other thread; whoever waits for a load first also
keeps it in the tiers, so the loop never writes to a disk.

One load of a block at a time on this node, too, where processes share a tier: who loads it
claims it there, the others wait until it is in the tier. That only saves requests, so whatever
goes wrong with it ends in a load of one's own: a claim ends with its process, a stopped
process is waited for only so long, a block whose reader dawdles is kept without him, and
whoever waited for nothing lets the others go, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from juicecache.cache.claims import FREE, Claim
from juicecache.cache.stack import TierStack
from juicecache.errors import ObjectError, ObjectUnavailableError
from juicecache.model.layout import BlockKey, Layout
from juicecache.objects.store import Buffer, ObjectStore
from juicecache.runtime import finish, loop_thread, start

T = TypeVar("T")

_TOUCHED_MAX = 65_536
"""Blocks remembered as read once by a range, and as loaded whole for a part of them: 256 GiB of
each, some 10 MB of memory."""
_REFUSED_LENGTHS = 8
"""A block that no tier could keep is loaded whole for a part of it again when ranges of it have
cost so many times its length: what is lost then is an eighth."""
_POLL_S = (0.001, 0.05)
"""First and longest pause between two looks at another process's load; each is longer than the
one before by half, so that what is waited too long is less than half of the load."""
_SILENCE_S = 10.0
"""With no block coming from other processes for so long, theirs are stopped: we load."""
_FOLLOW_S = 60.0
"""Longest wait for one block, as long as others come: a long queue of another process."""
_UNCOLLECTED_S = 0.2
"""A block that its reader has not collected by then, because it was read ahead, is kept by
another thread: the other processes wait for it."""


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What this process asked of object storage.

    ``shared`` loads were already under way in this process; ``node_shared`` blocks were loaded
    by another process of the node at the same time, and taken from the tier that both have.
    """

    loads: int
    loaded_bytes: int
    range_gets: int
    range_bytes: int
    shared: int
    node_shared: int
    uploads: int
    uploaded_bytes: int
    deleted: int


class Flight:
    """One whole block on its way; ``future`` holds its bytes.

    Attributes
    ----------
    claim
        Our right to load it; None while another process does, and once it is given up.
    keeping, kept
        Somebody puts it into the tiers; that is done.
    collected
        Somebody has its bytes.
    """

    __slots__ = ("claim", "collected", "future", "keeping", "kept", "key")

    def __init__(self, key: BlockKey) -> None:
        self.key = key
        self.future: Future[bytes] = Future()
        self.claim: Claim | None = None
        self.keeping = self.kept = self.collected = False


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
        self._owed: OrderedDict[BlockKey, int] = OrderedDict()
        self.loading_bytes = 0
        self._loads = self._loaded_bytes = self._shared = self._node_shared = 0
        self._node_shared_at_s = float("-inf")
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
                else:
                    self._shared += 1
                flights.append(flight)
        if fresh:
            self._start(fresh)
        return flights

    def settle(self, flight: Flight) -> bytes:
        """Wait for a block, keep it in the tiers, and return its bytes.

        Raises
        ------
        ObjectError, CorruptBlockError
            The load failed; the next `begin` tries anew.
        """
        try:
            body = flight.future.result()
            flight.collected = True
            self._keep(flight)
        except BaseException:
            # An interrupt: the caller may have nothing left by which to abandon it.
            self.abandon((flight,))
            raise
        return body

    def _keep(self, flight: Flight) -> None:
        """Put a block that has come into the tiers; whoever does it first."""
        with self._lock:
            first, flight.keeping = not flight.keeping, True
        if first:
            try:
                # Another thread may miss the tiers and join this flight until it is kept.
                if not self.tiers.put(flight.key, flight.future.result()):
                    self._owe(flight.key, _REFUSED_LENGTHS * flight.key.length)
            finally:
                flight.kept = True
                _release(flight)
        # Until it is collected it counts as loading: its bytes are still held.
        if flight.kept and flight.collected:
            self._land(flight)

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
            if key in self._owed:
                self._owed[key] -= stop - start
            else:
                _remember(self._touched, key, None)
        return self._run(self._store.get(self._name(key), start, stop, length=key.length))

    def pays_whole(self, key: BlockKey, *, likely: bool) -> bool:
        """Return whether to load all of a block, which no tier has, for a small part of it.

        The first time it is loaded when more of it is ``likely`` to be read, or was touched by
        a range before. If it is missing again the tiers could not keep it for long: then not
        before ranges of it have cost as much as that load, so that a set of blocks which does
        not fit costs at most twice what is read of it. With True the caller loads it now.
        """
        with self._lock:
            if key in self._flights:
                return True
            first = key not in self._owed
            pays = likely or key in self._touched if first else self._owed[key] <= 0
            if pays:
                _remember(self._owed, key, key.length)
        return pays

    def evict(self, key: BlockKey) -> bool:
        """Forget a block in every tier on request; True when one had it.

        That says nothing of what the tiers can keep: the next read begins anew.
        """
        with self._lock:
            self._owed.pop(key, None)
            self._touched.pop(key, None)
        return self.tiers.delete(key)

    def _owe(self, key: BlockKey, size_bytes: int) -> None:
        with self._lock:
            _remember(self._owed, key, size_bytes)

    def _start(self, flights: list[Flight]) -> None:
        """Load blocks here, if the store is inline, or let the loop do it."""
        try:
            if self._store.inline:
                for flight in flights:
                    if not self._claim(flight):
                        finish(self._load(flight))
                        if flight.future.exception() is None:
                            self._keep(flight)
            elif absent := [flight for flight in flights if not self._claim(flight)]:
                loop = loop_thread().loop
                loop.call_soon_threadsafe(
                    lambda: [loop.create_task(self._load(flight)) for flight in absent]
                )
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
            if flight.claim is None and await self._follow(flight):
                return
            with self._lock:
                self._loads += 1
                self._loaded_bytes += key.length
            body = await self._store.get(self._name(key), length=key.length)
        except BaseException as error:
            self._land(flight)
            flight.future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            flight.future.set_result(body)
            if not self._store.inline and flight.claim not in (None, FREE):
                asyncio.get_running_loop().call_later(_UNCOLLECTED_S, self._keep_aside, flight)

    def _keep_aside(self, flight: Flight) -> None:
        """Put a block into the tiers on another thread, if nobody did."""
        if flight.claim is not None and not flight.keeping:
            with contextlib.suppress(RuntimeError):  # the interpreter ends, and our claims with it
                asyncio.get_running_loop().run_in_executor(None, self._keep, flight)

    def _claim(self, flight: Flight) -> bool:
        """Claim a load, if no other process has; True when the block is here by now."""
        flight.claim = self.tiers.claim(flight.key)
        return flight.claim is not None and self._find(flight)

    def _find(self, flight: Flight) -> bool:
        """Let a flight end in the tiers, if another process put the block there.

        On the loop this reads a file, of which the pages are in memory: it was written just now.
        """
        view = self.tiers.get(flight.key) if self.tiers.contains(flight.key) else None
        if view is None:
            return False
        assert isinstance(view.obj, bytes)
        with self._lock:
            self._node_shared += 1
            self._node_shared_at_s = time.monotonic()
        flight.keeping = flight.kept = True
        _release(flight)
        flight.future.set_result(view.obj)
        return True

    async def _follow(self, flight: Flight) -> bool:
        """Wait as long as another process loads the block; True when it is here then."""
        began_s = time.monotonic()
        pause_s, pause_max_s = _POLL_S
        while True:
            if self._store.inline:
                time.sleep(pause_s)  # noqa: ASYNC251  (there is no loop)
            else:
                await asyncio.sleep(pause_s)
            if self._find(flight):
                return True
            if self._claim(flight):
                return True
            if flight.claim is not None:
                # Its process gave up, died, or could not keep it. Nor could we, perhaps: with
                # the claim those who wait would load one after the other, each for himself.
                _release(flight)
                return False
            now_s = time.monotonic()
            if (
                now_s - max(began_s, self._node_shared_at_s) > _SILENCE_S
                or now_s - began_s > _FOLLOW_S
            ):
                return False
            pause_s = min(pause_s * 1.5, pause_max_s)

    def _land(self, flight: Flight) -> None:
        _release(flight)
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
            self._node_shared,
            self._uploads,
            self._uploaded_bytes,
            self._deleted,
        )


def _remember(blocks: OrderedDict[BlockKey, T], key: BlockKey, value: T) -> None:
    blocks[key] = value
    blocks.move_to_end(key)
    if len(blocks) > _TOUCHED_MAX:
        blocks.popitem(last=False)


def _release(flight: Flight) -> None:
    claim, flight.claim = flight.claim, None
    if claim is not None:
        claim.release()
