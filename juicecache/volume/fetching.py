"""Blocks that other members of the cache group own, on their way from there.

A read of one block asks its owner on its own thread. Further blocks, of a large read or read
ahead, wait in a line for each member, from which a few threads take as many as there are and
ask for them together: the owners then load, and send, at the same time.

Laws: whoever waits for a block that no thread has asked for yet asks himself, so that nothing
depends on a thread that is busy; what a member does not give comes from object storage.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from juicecache.cache.tier import as_bytes
from juicecache.errors import ClosedError
from juicecache.model.layout import BlockKey
from juicecache.objects.store import Buffer
from juicecache.peers.peer import Peer
from juicecache.peers.wire import Name
from juicecache.runtime import BoundedExecutor
from juicecache.volume.flight import Flight

_THREADS = 8
"""Threads that ask members: a few more than cores, since they mostly wait."""
_THREADS_PER_PEER = 2
"""One receives while the owner loads for the other; what waits meanwhile is asked for at once."""
_BATCH = 32
"""Blocks asked for together: 128 MiB, which `buffer_size` allows to be on their way."""
_SHARES_MAX = 16
"""Uploaded blocks that wait to be given to their owners: 64 MiB. Further ones are not given."""


class Fetching:
    """Asks members for blocks.

    Parameters
    ----------
    arrived
        Called with a flight and its bytes, on the thread that received them; ``aside`` when
        that is one of ours, and nobody may ever collect it.
    fall_back
        Called with a flight that the member did not give; loads it from object storage, and
        does nothing where the flight has ended.
    """

    def __init__(
        self,
        arrived: Callable[[Flight, bytes, bool], None],
        fall_back: Callable[[Flight], None],
    ) -> None:
        self._arrived = arrived
        self._fall_back = fall_back
        self._lock = threading.Lock()
        self._lines: dict[Peer, deque[Flight]] = {}
        self._busy: dict[Peer, int] = {}
        self._closed = False
        self._shares = threading.BoundedSemaphore(_SHARES_MAX)
        self._threads = BoundedExecutor(_THREADS, "juicecache-fetch")

    def enqueue(self, flights: Sequence[Flight]) -> None:
        """Let threads of ours ask for blocks, unless somebody asks before."""
        for flight in flights:
            peer = flight.peer
            assert peer is not None
            with self._lock:
                self._lines.setdefault(peer, deque()).append(flight)
                more = self._busy.get(peer, 0) < _THREADS_PER_PEER
                self._busy[peer] = self._busy.get(peer, 0) + more
            if more:
                self._start(peer)

    def _start(self, peer: Peer) -> None:
        try:
            self._threads.submit(self._work, peer)
        except (ClosedError, RuntimeError):
            # The volume is closed, or the interpreter ends: those who wait ask themselves.
            with self._lock:
                self._busy[peer] -= 1

    def ask(self, flight: Flight) -> None:
        """Ask for a block on this thread, if no other has yet."""
        mine = False
        try:
            with self._lock:
                mine, flight.waiting = flight.waiting, False
            if mine:
                self._ask(flight, aside=False)
        except BaseException:  # an interrupt: others may wait for it, too
            if mine:
                self._fall_back(flight)
            raise

    def ask_aside(self, flight: Flight) -> None:
        """Ask for a block on a thread of ours; for one whose reader will not ask himself.

        Without such a thread it comes from object storage.
        """
        try:
            asked = self._threads.submit(self._ask_alone, flight)
        except (ClosedError, RuntimeError):
            self._fall_back(flight)
            return

        def end(asked: Future[None]) -> None:
            if asked.cancelled():
                self._fall_back(flight)

        asked.add_done_callback(end)

    def give_up(self, flight: Flight) -> bool:
        """Take back a block that nobody wants any more; False when it is being asked for."""
        with self._lock:
            mine, flight.waiting = flight.waiting, False
        return mine

    def _work(self, peer: Peer) -> None:
        """Ask a member for what waits in its line until that is empty."""
        try:
            while batch := self._next(peer):
                self._ask_batch(peer, batch)
        except BaseException:
            with self._lock:
                self._busy[peer] -= 1
            raise

    def _ask_alone(self, flight: Flight) -> None:
        try:
            self._ask(flight, aside=True)
        except BaseException:
            self._fall_back(flight)
            raise

    def _ask_batch(self, peer: Peer, batch: Sequence[Flight]) -> None:
        left = dict.fromkeys(batch)
        try:
            whole = [flight for flight in batch if flight.is_whole and not flight.cached]
            if len(whole) > 1 and peer.is_up:
                coming = peer.fetch_many([_name(flight) for flight in whole])
                for number, content in coming:
                    self._deliver(whole[number], content, aside=True)
                    del left[whole[number]]
            for flight in list(left):
                self._ask(flight, aside=True)
                del left[flight]
        finally:
            for flight in left:
                self._fall_back(flight)

    def _next(self, peer: Peer) -> list[Flight]:
        """Return what to ask a member for next; nothing ends this thread's work."""
        batch: list[Flight] = []
        with self._lock:
            line = self._lines[peer]
            while line and not self._closed and len(batch) < _BATCH:
                flight = line.popleft()
                if flight.waiting:
                    flight.waiting = False
                    batch.append(flight)
            if not batch:
                self._busy[peer] -= 1
                if not self._busy[peer]:
                    del self._busy[peer], self._lines[peer]  # a member may never come back
        return batch

    def _ask(self, flight: Flight, *, aside: bool) -> None:
        peer = flight.peer
        assert peer is not None
        content = None
        if peer.is_up:  # it may have failed while this waited in its line
            content = peer.fetch(_name(flight), flight.start, flight.stop, cached=flight.cached)
        self._deliver(flight, None if content is None else as_bytes(content), aside=aside)

    def _deliver(self, flight: Flight, content: bytes | None, *, aside: bool) -> None:
        if content is None:
            self._fall_back(flight)
        else:
            self._arrived(flight, content, aside)

    def share(self, owner: Peer, key: BlockKey, content: Buffer) -> None:
        """Give a block to its owner, when a thread has time; not if many wait for that."""
        if not self._shares.acquire(blocking=False):
            return
        kept = as_bytes(memoryview(content))
        try:
            self._threads.submit(self._share, owner, Name(key.name, key.length), kept)
        except (ClosedError, RuntimeError):
            self._shares.release()

    def _share(self, owner: Peer, name: Name, content: bytes) -> None:
        try:
            if owner.is_up:
                owner.put(name, content)
        finally:
            self._shares.release()

    def close(self) -> None:
        """Stop the threads; what waits is asked for by those who want it."""
        self._closed = True
        self._threads.close()


def _name(flight: Flight) -> Name:
    return Name(flight.key.name, flight.key.length)
