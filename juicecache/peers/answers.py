"""What a member says to each request of a caller that it knows.

An answer that has to wait is an object; the others are put into the outbox at once. A block's
file is opened when the block before it is sent, so that an answer holds one open file and no
content, apart from blocks that were loaded for it and wait for their turn: those are bounded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from juicecache.errors import PeerProtocolError
from juicecache.model.segments import segment_sums
from juicecache.peers.channel import Outbox, discard
from juicecache.peers.limits import Counts, Room
from juicecache.peers.source import Held, Source, Warmed
from juicecache.peers.wire import (
    HEADER_BYTES_MAX,
    PREFIX_BYTES,
    Frame,
    Get,
    Kind,
    Name,
    frame,
    part,
    read_get,
    read_names,
    read_put,
    read_report,
)

_AHEAD_MAX = 64
"""Blocks that one request has under way: enough to hide 70 ms of object storage behind a
thousand small blocks a second."""
_AHEAD_BYTES_MAX = 64 << 20
"""Their size: what one caller that stops reading can hold here."""

_MISS, _BUSY, _DONE = frame(Kind.MISS), frame(Kind.BUSY), frame(Kind.DONE)

_log = logging.getLogger("juicecache")


class Answer(Protocol):
    """An answer that is under way.

    Attributes
    ----------
    over
        Its last frame is in the outbox.
    """

    over: bool

    def proceed(self) -> bool:
        """Put the next frames into the outbox, which is empty; False when it has to wait."""

    def settle(self, number: int, result: Any) -> None:
        """Take what became of block ``number``; called once for each that is waited for."""

    def abandon(self) -> None:
        """Give up what it holds: nobody is there to hear it."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the answers of one connection are made.

    Attributes
    ----------
    post
        Brings a result of any thread to `Answer.settle` on the connection's own.
    """

    source: Source
    room: Room
    counts: Counts
    outbox: Outbox
    post: Callable[[Answer, int, Any], None]


def begin(desk: Desk, request: Frame, reserved: int | None) -> Answer | None:
    """Begin to answer a request; None when all of the answer is in the outbox.

    Parameters
    ----------
    reserved
        The room that the body of a PUT has; None where it had none and was skipped.

    Raises
    ------
    PeerProtocolError
        The request does not have its form.
    """
    kind, header = request.kind, request.header
    if not is_request(kind):  # it came together with the end of the handshake
        raise PeerProtocolError(f"a {kind.name} is no request")
    desk.counts.requests += 1
    if kind == Kind.GET:
        return _get(desk, read_get(header))
    if kind == Kind.PUT:
        return _put(desk, request, reserved)
    if kind == Kind.GET_MANY:
        wanted = [Get(name, 0, name.length, False) for name in read_names(kind, header)]
        return _Parts(desk, wanted, _DONE)
    if kind == Kind.WARM:
        return _Warming(desk, read_names(kind, header))
    desk.outbox.put(_plain_answer(desk, kind, header))
    return None


def is_request(kind: Kind) -> bool:
    """Return whether a frame asks for something once the handshake is done."""
    return Kind.GET <= kind <= Kind.PING


def _plain_answer(desk: Desk, kind: Kind, header: list[Any]) -> bytes:
    """Return the answer to a request that never waits."""
    source = desk.source
    if kind == Kind.HAS:
        return frame(Kind.DONE, [bytes([source.has(name) for name in read_names(kind, header)])])
    if kind == Kind.EVICT:
        return frame(Kind.DONE, [sum(source.drop(name) for name in read_names(kind, header))])
    if kind == Kind.REPORT:
        name = read_report(header)
        desk.counts.reports += 1
        return frame(Kind.DONE, [source.examine(name)])
    if header:
        raise PeerProtocolError(f"a {kind.name} does not have its form")
    if kind == Kind.PING:
        return _DONE
    assert kind == Kind.STATS, kind
    answer = frame(Kind.DONE, [source.stats()])
    if len(answer) - PREFIX_BYTES > HEADER_BYTES_MAX:
        _log.error("what this member says of itself takes %d bytes and is left out", len(answer))
        answer = frame(Kind.DONE, [{}])
    return answer


def _get(desk: Desk, wanted: Get) -> Answer | None:
    held = desk.source.find(*wanted[:3])
    if held is not None:
        desk.counts.hits += 1
        _put_part(desk, 0, held)
        return None
    if wanted.cached:
        desk.counts.misses += 1
        desk.outbox.put(_MISS)
        return None
    return _Parts(desk, [wanted], b"")


def _put_part(desk: Desk, number: int, held: Held) -> None:
    desk.counts.parts += 1
    desk.outbox.put(part(number, held.sums, held.size), held)


class _Parts:
    """Blocks or pieces of them: cached ones first, the others as they are loaded."""

    def __init__(self, desk: Desk, wanted: Sequence[Get], final: bytes) -> None:
        self._desk = desk
        self._wanted = wanted
        self._final = final
        self._cached: deque[int] = deque()
        self._absent: deque[int] = deque()
        if final:  # of several; the only one of a GET was just looked for
            for number, one in enumerate(wanted):
                (self._cached if desk.source.has(one.block) else self._absent).append(number)
        else:
            self._absent.append(0)
        self._ready: deque[tuple[int, Held | None]] = deque()
        self._kept: deque[int] = deque()
        self._loading = 0
        self._ahead_bytes = 0
        self.over = False

    def proceed(self) -> bool:
        """Put one block, or start what can be started."""
        self._start_loads()
        if self._ready:
            number, held = self._ready.popleft()
            self._ahead_bytes -= self._wanted[number].block.length
            self._put(number, held)
        elif self._kept:
            self._put_kept(self._kept.popleft())
        elif self._cached:
            self._put_cached(self._cached.popleft())
        elif self._loading:
            return False
        waiting = self._ready or self._kept or self._cached or self._absent
        if not (waiting or self._loading):
            if self._final:
                self._desk.outbox.put(self._final)
            self.over = True
        return True

    def settle(self, number: int, result: Held | None) -> None:
        """Queue a block that was loaded.

        Only the first keeps its file open: slow callers must not hold all files that we may open.
        """
        self._loading -= 1
        if self._ready and result is not None and result.content is None:
            discard(result)
            self._kept.append(number)
        else:
            self._ready.append((number, result))

    def abandon(self) -> None:
        """Close the files of blocks that were not sent."""
        while self._ready:
            discard(self._ready.popleft()[1])

    def _start_loads(self) -> None:
        """Load what is not here, as far as this request and the source may go."""
        desk = self._desk
        while self._absent and self._may_load():
            number = self._absent[0]
            block, start, stop, _ = self._wanted[number]
            if desk.source.load(block, start, stop, partial(desk.post, self, number)):
                self._loading += 1
                self._ahead_bytes += block.length
                desk.counts.loads += 1
            elif self._loading or self._cached:
                return  # there may be room again when the next of ours is out
            else:
                desk.counts.busy += 1
                desk.outbox.put(frame(Kind.BUSY, [number]) if self._final else _BUSY)
            self._absent.popleft()

    def _may_load(self) -> bool:
        ahead = self._loading + len(self._ready) + len(self._kept)
        return not ahead or (ahead < _AHEAD_MAX and self._ahead_bytes < _AHEAD_BYTES_MAX)

    def _put_kept(self, number: int) -> None:
        """Put a block that was loaded and kept; load it again if it is gone since."""
        self._ahead_bytes -= self._wanted[number].block.length
        held = self._desk.source.find(*self._wanted[number][:3])
        if held is None:
            self._absent.append(number)
        else:
            self._put(number, held)

    def _put_cached(self, number: int) -> None:
        held = self._desk.source.find(*self._wanted[number][:3])
        if held is None:  # gone since
            self._absent.append(number)
            return
        self._desk.counts.hits += 1
        self._put(number, held)

    def _put(self, number: int, held: Held | None) -> None:
        if held is not None:
            _put_part(self._desk, number, held)
            return
        self._desk.counts.misses += 1
        self._desk.outbox.put(frame(Kind.MISS, [number]) if self._final else _MISS)


class _Warming:
    """Blocks that are loaded and kept, each reported as it ends; a BUSY ends the list early."""

    def __init__(self, desk: Desk, names: Sequence[Name]) -> None:
        self._desk = desk
        self._names = names
        self._next = 0
        self._warming = 0
        self._steps: list[bytes] = []
        self._final = _DONE
        self.over = False

    def proceed(self) -> bool:
        """Put what ended; start others."""
        self._start()
        if not self._steps and self._warming:
            return False
        if self._next == len(self._names) and not self._warming:
            self._steps.append(self._final)
            self.over = True
        self._desk.outbox.put(b"".join(self._steps))
        self._steps.clear()
        return True

    def settle(self, number: int, result: Warmed) -> None:
        """Say what became of a block."""
        self._warming -= 1
        self._steps.append(frame(Kind.STEP, [number, int(result)]))

    def abandon(self) -> None:
        """Hold nothing."""

    def _start(self) -> None:
        while self._next < len(self._names) and self._warming < _AHEAD_MAX:
            number = self._next
            done = partial(self._desk.post, self, number)
            if self._desk.source.warm(self._names[number], done):
                self._warming += 1
            elif self._warming:
                return  # there may be room again when one of ours has ended
            else:
                self._desk.counts.busy += len(self._names) - number
                self._final = _BUSY
                self._next = len(self._names)
                return
            self._next += 1


def _put(desk: Desk, request: Frame, reserved: int | None) -> Answer | None:
    if reserved is None:
        desk.counts.busy += 1
        desk.outbox.put(_BUSY)
        return None
    accepted = False
    try:
        block, sums = read_put(request.header, len(request.body))
        if segment_sums(memoryview(request.body)) != sums:
            raise PeerProtocolError("what was to be kept does not have its checksums")
        answer = _Keeping(desk, reserved)
        accepted = desk.source.keep(block, request.body, answer.done)
    finally:
        if not accepted:
            desk.room.release(reserved)
    if accepted:
        return answer
    desk.counts.busy += 1
    desk.outbox.put(_BUSY)
    return None


class _Keeping:
    """A block that is being put into the tiers."""

    def __init__(self, desk: Desk, reserved: int) -> None:
        self._desk = desk
        self._reserved = reserved
        self._kept: bool | None = None
        self.over = False

    def done(self, kept: bool) -> None:
        """Take the end of it, on any thread; its room is free even if nobody waits."""
        self._desk.room.release(self._reserved)
        self._desk.post(self, 0, kept)

    def proceed(self) -> bool:
        """Say whether it was kept, once that is known."""
        if self._kept is None:
            return False
        self._desk.counts.kept += self._kept
        self._desk.outbox.put(frame(Kind.DONE, [self._kept]))
        self.over = True
        return True

    def settle(self, number: int, result: bool) -> None:
        """Take whether it was kept."""
        self._kept = result

    def abandon(self) -> None:
        """Hold nothing."""
