"""Blocks: from the tiers of this machine, a member of the cache group, or object storage; and up.

Laws: one load of a block at a time in this process, shared by all who wait; a hit takes
no lock of ours, no event loop and no other thread; whoever waits for a load first also
keeps it in the tiers, so the loop never writes to a disk.

One load of a block at a time on this node, too, where processes share a tier: who loads it
claims it there, the others wait until it is in the tier. That only saves requests, so whatever
goes wrong with it ends in a load of one's own: a claim ends with its process, a stopped
process is waited for only so long, a block whose reader dawdles is kept without him, and
whoever waited for nothing lets the others go, too.

And one in the cache group: a block that another member owns is asked of him. What we load for
other members comes from object storage, never from a further one, so that no two wait for each
other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from juicecache.cache.claims import FREE
from juicecache.cache.stack import TierStack
from juicecache.errors import ObjectError, ObjectUnavailableError
from juicecache.model.layout import BlockKey, Layout
from juicecache.objects.store import Buffer, ObjectStore
from juicecache.peers.group import Group
from juicecache.peers.peer import Peer
from juicecache.peers.wire import Name
from juicecache.runtime import finish, loop_thread, start
from juicecache.volume.fetching import Fetching
from juicecache.volume.flight import Flight
from juicecache.volume.touches import Touches

T = TypeVar("T")

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
    """What this process asked of object storage and of the cache group.

    ``shared`` loads were already under way in this process; ``node_shared`` blocks were loaded
    by another process of the node at the same time, and taken from the tier that both have.
    ``peer_blocks`` and ``peer_bytes`` came from other members; ``fallbacks`` should have, and
    came from object storage instead.
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
    peer_blocks: int
    peer_bytes: int
    fallbacks: int


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
    group
        The cache group to read from, if any.
    fills_group
        Give uploaded blocks to their owners there.

    Attributes
    ----------
    loading_bytes
        Size of the blocks that are on their way or wait to be collected.
    """

    def __init__(
        self,
        layout: Layout,
        store: ObjectStore,
        tiers: TierStack,
        group: Group | None = None,
        *,
        fills_group: bool = False,
    ) -> None:
        self.layout = layout
        self.tiers = tiers
        self.group = group
        self.touches = Touches()
        self._store = store
        self._fills = fills_group
        self._fetching = None if group is None else Fetching(self._arrived, self._fall_back)
        self._lock = threading.Lock()
        self._flights: dict[BlockKey, Flight] = {}
        self.loading_bytes = 0
        self._loads = self._loaded_bytes = self._shared = self._node_shared = 0
        self._node_shared_at_s = float("-inf")
        self._range_gets = self._range_bytes = 0
        self._uploads = self._uploaded_bytes = self._deleted = 0
        self._peer_blocks = self._peer_bytes = self._fallbacks = 0

    @property
    def inline(self) -> bool:
        """Whether object storage answers on the caller's thread (a local directory)."""
        return self._store.inline

    def is_loading(self, key: BlockKey) -> bool:
        """Return whether all of a block is on its way, so that `begin` joins a load."""
        return key in self._flights

    def is_ranged(self, key: BlockKey) -> bool:
        """Return whether a part of a block can be fetched alone."""
        return self._store.ranged or self._owner(key) is not None

    def _owner(self, key: BlockKey) -> Peer | None:
        """Return the other member to ask for a block; None if it is ours to load."""
        return None if self.group is None else self.group.route(key.raw)

    # ------------------------------------------------------------------ loading

    def begin(self, keys: Iterable[BlockKey], *, ahead: bool = False) -> list[Flight]:
        """Start loading whole blocks, or join the loads under way; never waits for a network.

        An inline store has loaded its own when this returns. The first of the blocks that other
        members own is left to the thread that settles it.

        Parameters
        ----------
        ahead
            Leave none: the caller does not come for it at once.
        """
        return self._begin([(key, self._owner(key)) for key in keys], ahead=ahead)

    def begin_own(self, key: BlockKey, former: Peer | None = None) -> Flight:
        """Start loading a whole block for another member, or join such a load.

        Parameters
        ----------
        former
            Who may have it in his cache.
        """
        return self._begin([(key, former)], ahead=True, serving=True)[0]

    def _begin(
        self, wanted: Sequence[tuple[BlockKey, Peer | None]], *, ahead: bool, serving: bool = False
    ) -> list[Flight]:
        flights: list[Flight] = []
        fresh: list[Flight] = []
        try:
            with self._lock:
                for key, peer in wanted:
                    flight = self._flights.get(key)
                    # Somebody who waits for us must not wait for one who may wait for him.
                    if flight is None or (serving and flight.peer and not flight.cached):
                        flight = Flight(key, peer=peer)
                        fresh.append(flight)
                        flight.cached = serving
                        self._flights[key], flight.counted = flight, True
                        self.loading_bytes += key.length
                    else:
                        self._shared += 1
                        flight.wanted += 1
                        flight.urgent = flight.urgent or serving
                    flights.append(flight)
            if fresh:
                # The caller comes for the first of all at once, not for the first of these.
                self._start(fresh, ahead=ahead or fresh[0] is not flights[0], serving=serving)
        except BaseException:
            # An interrupt: nobody collects these, and other threads may wait for the rest.
            for flight in fresh:
                name = self._name(flight.key)
                self._fail(flight, ObjectUnavailableError(name, "the load was interrupted"))
            raise
        return flights

    def settle(self, flight: Flight) -> bytes:
        """Wait for what `begin` or `begin_range` started; a whole block is kept in the tiers.

        Raises
        ------
        ObjectError, CorruptBlockError
            The load failed; the next `begin` tries anew.
        """
        try:
            if flight.waiting and self._fetching is not None:
                self._fetching.ask(flight)
            body = flight.future.result()
            flight.collected = True
            if flight.is_whole:
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
                    self.touches.refused(flight.key)
            finally:
                flight.kept = True
                flight.release()
        # Until it is collected it counts as loading: its bytes are still held.
        if flight.kept and flight.collected:
            self._land(flight)

    def abandon(self, flights: Iterable[Flight]) -> None:
        """Give up waiting; what arrives is dropped unless somebody else waits for it."""
        for flight in flights:
            with self._lock:
                flight.wanted -= 1
                is_left = flight.wanted <= 0
                if is_left and flight.waiting and self._flights.get(flight.key) is flight:
                    del self._flights[flight.key]  # who comes meanwhile begins anew
            if is_left and self._fetching is not None and self._fetching.give_up(flight):
                self._fail(flight, ObjectUnavailableError(self._name(flight.key), "given up"))
            flight.future.add_done_callback(lambda _, flight=flight: self._land(flight))  # type: ignore[misc]  # mypy cannot infer a lambda default

    def load(self, key: BlockKey) -> bytes:
        """Return a whole block from the group or object storage, kept in the tiers."""
        return self.settle(self.begin((key,))[0])

    def fetch_part(self, key: BlockKey, start: int, stop: int) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block that another member owns, on this thread.

        The short way for who keeps nothing: there is nothing to claim, to keep or to share, as
        the owner loads once for all. None where that is not so.

        Raises
        ------
        ObjectError, CorruptBlockError
            The member did not give it, and object storage failed.
        """
        if self._fetching is None or not self.tiers.is_empty:
            return None
        peer = self._owner(key)
        if peer is None:
            return None
        content = peer.fetch(Name(key.name, key.length), start, stop)
        if content is None:
            with self._lock:
                self._fallbacks += 1
            if stop - start < key.length:
                return memoryview(self._get_range(Flight(key, start, stop)).result())
            # Other threads have been told the same, perhaps: one load for all.
            return memoryview(self.settle(self._begin([(key, None)], ahead=False)[0]))
        with self._lock:
            self._peer_blocks += 1
            self._peer_bytes += content.nbytes
        return content

    def begin_range(self, key: BlockKey, start: int, stop: int, *, ahead: bool = False) -> Flight:
        """Start fetching bytes ``[start, stop)`` of a block; they are not cached.

        ``ahead`` is as for `begin`.
        """
        flight = Flight(key, start, stop, self._owner(key))
        self.touches.fetched(key, stop - start)
        if flight.peer is None:
            flight.future = self._get_range(flight)
        else:
            self._send_off([flight], ahead=ahead)
        return flight

    def _get_range(self, flight: Flight) -> Future[bytes]:
        with self._lock:
            self._range_gets += 1
            self._range_bytes += flight.stop - flight.start
        name, length = self._name(flight.key), flight.key.length
        if self._store.ranged:
            return self._run(self._store.get(name, flight.start, flight.stop, length=length))
        return self._run(self._cut(name, flight))

    async def _cut(self, name: str, flight: Flight) -> bytes:
        whole = await self._store.get(name, length=flight.key.length)
        return whole[flight.start : flight.stop]

    def evict(self, key: BlockKey) -> bool:
        """Forget a block in every tier on request; True when one had it.

        That says nothing of what the tiers can keep: the next read begins anew.
        """
        self.touches.forget(key)
        return self.tiers.delete(key)

    # ------------------------------------------------------------------ on their way

    def _start(self, flights: list[Flight], *, ahead: bool, serving: bool) -> None:
        """Load blocks here, if the store is inline, or let the loop or other members do it."""
        absent = [flight for flight in flights if not self._claim(flight)]
        if serving:
            for flight in absent:
                # Who has the claim may be waiting for us.
                flight.claim = flight.claim or FREE
        # What we claimed comes first: to follow others may take long.
        absent.sort(key=lambda flight: flight.claim is None)
        away = [f for f in absent if f.peer is not None and f.claim is not None]
        # Nor may what we claimed wait for a caller who waits for others first.
        self._send_off(away, ahead=ahead or away[:1] != flights[:1])
        self._load_later([flight for flight in absent if flight not in away])

    def _send_off(self, flights: list[Flight], *, ahead: bool) -> None:
        """Have blocks asked of other members: all but one by threads of their own."""
        if not flights:
            return
        assert self._fetching is not None
        for flight in flights:
            flight.waiting = True
        self._fetching.enqueue(flights if ahead else flights[1:])

    def _load_later(self, flights: list[Flight]) -> None:
        """Load blocks from object storage: now, if the store is inline."""
        if self._store.inline:
            for flight in flights:
                finish(self._load(flight))
                if flight.future.done() and flight.future.exception() is None:
                    self._keep(flight)
        elif flights:
            loop = loop_thread().loop
            loop.call_soon_threadsafe(
                lambda: [loop.create_task(self._load(flight)) for flight in flights]
            )

    async def _load(self, flight: Flight) -> None:
        key = flight.key
        try:
            if flight.claim is None:
                if await self._follow(flight):
                    return
                if flight.peer is not None and self._fetching is not None:
                    self._fetching.ask_aside(flight)
                    return
            with self._lock:
                self._loads += 1
                self._loaded_bytes += key.length
            body = await self._store.get(self._name(key), length=key.length)
        except BaseException as error:
            self._fail(flight, error)
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

    def _arrived(self, flight: Flight, content: bytes, aside: bool) -> None:
        """Take what another member gave."""
        with self._lock:
            self._peer_blocks += 1
            self._peer_bytes += len(content)
        flight.future.set_result(content)
        if aside and flight.is_whole:
            self._keep(flight)

    def _fall_back(self, flight: Flight) -> None:
        """Load from object storage what another member did not give, unless it has ended."""
        if flight.future.done():
            return
        flight.peer = None
        if not flight.cached:
            with self._lock:
                self._fallbacks += 1
        if flight.is_whole:
            flight.claim = flight.claim or FREE
            self._load_later([flight])
        else:
            self._pass_on(self._get_range(flight), flight)

    def _pass_on(self, coming: Future[bytes], flight: Flight) -> None:
        """Let a flight end as a request to object storage does."""

        def end(done: Future[bytes]) -> None:
            error = done.exception()
            if error is None:
                flight.future.set_result(done.result())
            else:
                flight.future.set_exception(error)

        coming.add_done_callback(end)

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
        flight.release()
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
            if flight.urgent:
                return False
            if self._claim(flight):
                return True
            if flight.claim is not None:
                # Its process gave up, died, or could not keep it. Nor could we, perhaps: with
                # the claim those who wait would load one after the other, each for himself.
                flight.release()
                return False
            now_s = time.monotonic()
            if (
                now_s - max(began_s, self._node_shared_at_s) > _SILENCE_S
                or now_s - began_s > _FOLLOW_S
            ):
                return False
            pause_s = min(pause_s * 1.5, pause_max_s)

    def _fail(self, flight: Flight, error: BaseException) -> None:
        self._land(flight)
        if not flight.future.done():
            flight.future.set_exception(error)

    def _land(self, flight: Flight) -> None:
        flight.release()
        if not flight.is_whole:
            return
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            if flight.counted:
                flight.counted = False
                self.loading_bytes -= flight.key.length
        self.touches.landed(flight.key)

    # ------------------------------------------------------------------ storing

    def upload(self, key: BlockKey, body: Buffer) -> Future[None]:
        """Start storing a block; ``body`` must not change until the future is done.

        An inline store has stored it when this returns.
        """
        with self._lock:
            self._uploads += 1
            self._uploaded_bytes += key.length
        return self._run(self._store.put(self._name(key), body))

    def keep_uploaded(self, key: BlockKey, body: Buffer) -> None:
        """Put a block that is stored now into the tiers, and with its owner if that is wished."""
        self.tiers.put(key, memoryview(body))
        if self._fills and self._fetching is not None and (owner := self._owner(key)) is not None:
            self._fetching.share(owner, key, body)

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
            self._peer_blocks,
            self._peer_bytes,
            self._fallbacks,
        )

    def close(self) -> None:
        """Stop our own threads, and leave the group."""
        if self._fetching is not None:
            self._fetching.close()
        if self.group is not None:
            self.group.close()
