"""One other member as this process sees it: its connections, whether it is up, what it gave.

Laws: whatever a peer does wrong is a miss for the reader and is counted; a peer that fails is
out of use at once, for every thread, and only a probe, on no reader's time, brings it back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from juicecache.errors import (
    CorruptBlockError,
    PeerBusyError,
    PeerError,
    PeerUnavailableError,
)
from juicecache.peers import wire
from juicecache.peers.link import Address, Dialing, Link, dial
from juicecache.peers.wire import Kind, Name

T = TypeVar("T")

logger = logging.getLogger("juicecache")

_IDLE_MAX = 16
"""Connections kept for the next request: as many threads read at once without dialing anew."""
_PROBE_PAUSE_S = 0.5
"""First pause before a peer that is down is asked again: it doubles up to the longest."""
_PROBE_PAUSE_S_MAX = 8.0


@dataclass(frozen=True, slots=True)
class PeerStats:
    """What one member gave this process, and why it did not.

    Threads count without a lock, so that under contention one may be lost.

    Attributes
    ----------
    gets, hits, bytes
        Blocks and ranges that were asked for, those that came, and their size.
    misses, busy, errors, corrupt
        Why the others did not: it has nothing, it had no time, the connection failed, the bytes
        did not fit their checksum.
    puts
        Blocks that it took from us.
    seconds
        Time that all this took.
    state, reason, since_s
        ``up``, or ``down`` and why, since a Unix time; 0 if it never changed.
    """

    name: str
    address: str
    state: str
    reason: str
    since_s: float
    gets: int
    hits: int
    bytes: int
    misses: int
    busy: int
    errors: int
    corrupt: int
    puts: int
    seconds: float


class Peer:
    """A member of the group other than this process; may be used from any thread.

    Attributes
    ----------
    is_up
        Whether to ask it for anything.
    probe_at_s
        While it is not: when to see whether it is well again; monotonic.
    """

    def __init__(self, name: str, address: Address, dialing: Dialing) -> None:
        self.name = name
        self.address = address
        self.is_up = True
        self._dialing = dialing
        self._reason = ""
        self._since_s = 0.0
        self.probe_at_s = 0.0
        self._probe_pause_s = _PROBE_PAUSE_S
        self._well_at_s = -inf
        self._gets = self._hits = self._bytes = self._misses = 0
        self._busy = self._errors = self._corrupt = self._puts = 0
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._links: set[Link] = set()
        self._closed = False

    # ------------------------------------------------------------------ blocks

    def fetch(
        self, block: Name, start: int, stop: int, *, cached: bool = False
    ) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block, checked; None whatever went wrong.

        Parameters
        ----------
        cached
            Ask for no load: what the member does not have is a miss.
        """
        began_s = time.perf_counter()
        content = None
        try:
            content = self._with_link(lambda link: link.fetch(block, start, stop, cached=cached))
        except CorruptBlockError:
            self._found_corrupt(block)
        except PeerError as error:
            self._failed(error)
        else:
            if content is None:
                self._misses += 1
            else:
                self._hits += 1
                self._bytes += content.nbytes
        self._gets += 1
        self._seconds += time.perf_counter() - began_s
        return content

    def fetch_many(self, blocks: Sequence[Name]) -> Iterator[tuple[int, bytes | None]]:
        """Iterate over (number, whole block, or None) in the order in which they come.

        Every number comes once, whatever goes wrong; the iterator must be read to its end.
        """
        if not blocks:
            return
        began_s = time.perf_counter()
        missing = dict.fromkeys(range(len(blocks)))
        bad = []
        try:
            for number, content in self._stream(blocks):
                if content is Kind.REPORT:
                    bad.append(number)  # the member hears of it before the reader goes on
                    continue
                del missing[number]
                if isinstance(content, bytes):
                    self._hits += 1
                    self._bytes += len(content)
                    yield number, content
                    continue
                self._misses += content is Kind.MISS
                self._busy += content is Kind.BUSY
                yield number, None
        except PeerError as error:
            self._failed(error)
        finally:
            self._gets += len(blocks)
            self._seconds += time.perf_counter() - began_s
        for number in bad:
            self._found_corrupt(blocks[number])
        for number in missing:
            yield number, None

    def _stream(self, blocks: Sequence[Name]) -> Iterator[tuple[int, bytes | Kind]]:
        """Iterate as `Link.fetch_many` does, on a new connection if an idle one was dead."""
        link = self._take()
        if link is not None:
            try:
                yield from self._stream_on(link, blocks)
            except PeerUnavailableError:
                if not link.is_stale:
                    raise
            else:
                return
        yield from self._stream_on(self._dial(), blocks)

    def _stream_on(self, link: Link, blocks: Sequence[Name]) -> Iterator[tuple[int, bytes | Kind]]:
        try:
            yield from link.fetch_many(blocks)
        except BaseException:  # also when nobody reads on
            self._drop(link)
            raise
        self._give_back(link)

    def put(self, block: Name, content: bytes | memoryview) -> bool:
        """Give the member a block that it owns; True when it kept it."""
        try:
            kept = self._with_link(lambda link: link.put(block, content))
        except PeerError as error:
            self._failed(error)
            return False
        self._puts += kept
        return kept

    def _found_corrupt(self, block: Name) -> None:
        """Count a bad copy, and let the member look at it if it is there."""
        self._corrupt += 1
        if self.is_up:
            with contextlib.suppress(PeerError):
                self.ask(wire.frame(Kind.REPORT, block))

    # ------------------------------------------------------------------ everything else

    def ask(self, request: bytes) -> Any:
        """Return the answer to a request that ends with a DONE.

        Raises
        ------
        PeerError
            Named after this peer.
        """
        return self._asked(lambda link: link.ask(request))

    def warm(self, blocks: Sequence[Name], note: Callable[[int, int], None]) -> None:
        """Have the member load blocks; ``note`` gets number and `Warmed` of each as it ends.

        Raises
        ------
        PeerError
            Named after this peer; what was noted holds, the rest was not done.
        """

        def act(link: Link) -> None:
            for number, outcome in link.warm(blocks):
                note(number, outcome)

        self._asked(act)

    def _asked(self, act: Callable[[Link], T]) -> T:
        try:
            return self._with_link(act)
        except PeerError as error:
            self._failed(error)
            raise type(error)(error.detail, f"{self.name} ({self.where})") from error

    # ------------------------------------------------------------------ up and down

    def _failed(self, error: PeerError) -> None:
        """Count a failure, and take the peer out of use; one that is busy stays in."""
        if isinstance(error, PeerBusyError):
            self._busy += 1
            return
        self._errors += 1
        now_s = time.monotonic()
        with self._lock:
            stale, self._idle = self._idle, []
            if self.is_up:
                self.is_up, self._since_s = False, time.time()
                if not isinstance(error, PeerUnavailableError):  # it will not end by itself
                    logger.warning("cache group: member %s is no help: %s", self.where, error)
                # One that answers probes and nothing else must not cost a reader its time limit
                # again and again.
                came_just_now = now_s - self._well_at_s < _PROBE_PAUSE_S_MAX
                self._put_off_probe(
                    self._longer_pause_s() if came_just_now else _PROBE_PAUSE_S, now_s
                )
            elif now_s >= self.probe_at_s:
                # Once for the many threads that find it dead at the same time.
                self._put_off_probe(self._longer_pause_s(), now_s)
            self._reason = error.detail
        for link in stale:
            self._drop(link)

    def _longer_pause_s(self) -> float:
        return min(2 * self._probe_pause_s, _PROBE_PAUSE_S_MAX)

    def _put_off_probe(self, pause_s: float, now_s: float) -> None:
        self._probe_pause_s, self.probe_at_s = pause_s, now_s + pause_s

    def look(self) -> dict[str, Any]:
        """Return what the member says of itself; one that was down is in use again.

        These are plain values by names, and arrays and maps of plain values; what else is in
        there is left out, so that whoever shows it need not look how deep it is.

        Raises
        ------
        PeerError
            Named after this peer.
        """
        about = self.ask(wire.frame(Kind.STATS))
        self._is_well()
        if not isinstance(about, dict):
            return {}
        return {name: value for name, value in about.items() if _is_flat(value)}

    def probe(self) -> None:
        """See whether a peer that is down is well again, unless it was asked just now."""
        if not self.is_up and time.monotonic() >= self.probe_at_s:
            with contextlib.suppress(PeerError):
                self.ask(wire.frame(Kind.PING))
                self._is_well()

    def _is_well(self) -> None:
        if not self.is_up:
            with self._lock:
                self.is_up, self._reason, self._since_s = True, "", time.time()
                self._well_at_s = time.monotonic()

    # ------------------------------------------------------------------ connections

    def _with_link(self, act: Callable[[Link], T]) -> T:
        """Return what ``act`` does with a connection; a second time if an idle one was dead."""
        link = self._take()
        if link is not None:
            try:
                return self._act(link, act)
            except PeerBusyError:
                raise
            except PeerUnavailableError:
                if not link.is_stale:
                    raise
        return self._act(self._dial(), act)

    def _act(self, link: Link, act: Callable[[Link], T]) -> T:
        try:
            result = act(link)
        except (CorruptBlockError, PeerBusyError):
            self._give_back(link)  # the stream is where it should be
            raise
        except BaseException:
            self._drop(link)
            raise
        self._give_back(link)
        return result

    def _dial(self) -> Link:
        link = dial(self.address, self._dialing)
        self._links.add(link)
        return link

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        link.close()

    def _take(self) -> Link | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, link: Link) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(link)
                return
        self._drop(link)

    def after_fork_in_child(self) -> None:
        """Begin without connections, and with a lock that no thread of the parent holds.

        Those that the parent's threads were using are closed here, too: the member would else
        wait for this process when the parent is gone.
        """
        self._lock = threading.Lock()
        inherited, self._links, self._idle = self._links, set(), []
        for link in inherited:
            link.close()  # our copy of the descriptor: the parent's connection goes on

    def close(self) -> None:
        """Close the connections that nobody uses, the others as they end. Safe to call twice."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            self._drop(link)

    @property
    def where(self) -> str:
        """The address as people write it."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def stats(self) -> PeerStats:
        """Return the counters."""
        return PeerStats(
            self.name,
            self.where,
            "up" if self.is_up else "down",
            self._reason,
            self._since_s,
            self._gets,
            self._hits,
            self._bytes,
            self._misses,
            self._busy,
            self._errors,
            self._corrupt,
            self._puts,
            self._seconds,
        )


def _is_flat(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else _is_plain(value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
