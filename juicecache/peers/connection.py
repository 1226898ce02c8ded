"""One caller of a member's server: the handshake, then one request after the other.

The next request is begun when the answer to the one before it is out, and until then nothing
more is read: what a connection holds is bounded by one read, one body and one answer. All calls
come from one I/O thread and none waits; what cannot go on is gone on with when epoll says so.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from juicecache.errors import PeerError, PeerProtocolError
from juicecache.peers.answers import Answer, Desk, begin, is_request
from juicecache.peers.channel import Channel, GoneError, Outbox, discard
from juicecache.peers.handshake import NONCE_BYTES, Doorkeeper, Terms, refusal
from juicecache.peers.limits import Counts, Room, ServerLimits
from juicecache.peers.source import Source
from juicecache.peers.wire import Decoder, Frame, Kind, Prefix, frame

_TURN_BYTES = 512 << 10
"""Sent to one caller before the others have their turn: 0.1 ms on loopback. It makes large blocks
faster, too: what the caller copies out is still in the cache of the processor. Blocks of 4 MiB
went at 6.5 GB/s, in turns of 2 MiB at 2 to 4, of 128 KiB at 2."""
_AHEAD_MAX = 64
"""Requests that came before the answer to the first was out; a caller of ours sends one."""
_LOADING = frame(Kind.LOADING)


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of a server share."""

    terms: Terms
    source: Source
    about: Callable[[], dict[str, Any]]
    limits: ServerLimits
    room: Room


class Connection:
    """The state of one caller; it has a place in the room that `close` gives back.

    Parameters
    ----------
    buffer
        Of the I/O thread; what is read into it is used up before the call returns.
    post
        Brings a result of any thread to `settle` on the I/O thread.
    now_s
        Monotonic.
    """

    def __init__(
        self,
        channel: Channel,
        service: Service,
        counts: Counts,
        buffer: memoryview,
        post: Callable[[Connection, Answer, int, Any], None],
        now_s: float,
    ) -> None:
        self.channel = channel
        self.is_closed = False
        self._service = service
        self._counts = counts
        self._buffer = buffer
        self._outbox = Outbox(channel)
        self._decoder = Decoder(self._accept)
        self._door: Doorkeeper | None = None
        self._is_stranger = True
        self._desk = Desk(service.source, service.room, counts, self._outbox, partial(post, self))
        self._answer: Answer | None = None
        self._ahead: deque[Frame] = deque()
        self._reserved: deque[int | None] = deque()
        self._is_leaving = False
        self._born_s = self._moved_s = now_s

    @property
    def is_idle(self) -> bool:
        """Whether it owes its caller nothing, and no request is half here."""
        return not (self._is_busy or self._ahead or self._decoder.is_midway)

    @property
    def _is_busy(self) -> bool:
        return self._answer is not None or bool(self._outbox) or self._is_leaving

    def events(self) -> int:
        """Return the events of epoll to wait for."""
        if self._outbox:
            return self.channel.send_on | select.EPOLLRDHUP
        if self._answer is not None:
            return select.EPOLLRDHUP
        return self.channel.receive_on

    # ------------------------------------------------------------------ what happens to it

    def turn(self, events: int, now_s: float) -> None:
        """Do what can be done without waiting.

        Raises
        ------
        GoneError
            Close it.
        PeerProtocolError
            It sent what a caller does not send: close it.
        """
        if events & (select.EPOLLHUP | select.EPOLLERR):
            raise GoneError
        if self._is_busy:
            if events & select.EPOLLRDHUP:  # callers close both directions or none
                raise GoneError
            self._advance(now_s)
        else:
            self._receive(now_s)
        while not self._is_busy and self.channel.pending():
            self._receive(now_s)

    def settle(self, answer: Answer, number: int, result: Any, now_s: float) -> None:
        """Take a result that was waited for."""
        if self.is_closed:
            discard(result)
            return
        assert answer is self._answer
        answer.settle(number, result)
        self._advance(now_s)
        while not self._is_busy and self.channel.pending():
            self._receive(now_s)

    def tick(self, now_s: float) -> None:
        """Look at the deadlines; let a caller that waits know that we are alive."""
        limits = self._service.limits
        still_s = now_s - self._moved_s
        if self._is_stranger and now_s - self._born_s > limits.handshake_s:
            self._counts.refused += 1
            raise GoneError
        if self._outbox or self._decoder.is_midway:
            if still_s > limits.stalled_s:
                self._counts.stalled += 1
                raise GoneError
        elif self._answer is not None:
            self._outbox.put(_LOADING)
            self._advance(now_s)
        elif still_s > limits.idle_s:
            raise GoneError

    def close(self) -> None:
        """Close the socket and all files, and give every place back; safe twice."""
        if self.is_closed:
            return
        self.is_closed = True
        self.release()
        room = self._service.room
        room.leave(stranger=self._is_stranger)
        for size in self._reserved:
            room.release(size or 0)
        # What knows this connection may live on for a while; the bodies in it must not.
        self._ahead.clear()
        self._decoder = Decoder()

    def release(self) -> None:
        """Close the socket and all files, and nothing that a parent process shares."""
        self.channel.close()
        self._outbox.close()
        if self._answer is not None:
            self._answer.abandon()

    # ------------------------------------------------------------------ in

    def _receive(self, now_s: float) -> None:
        """Read once, and begin to answer."""
        try:
            count = self.channel.receive(self._buffer)
            if count is None:
                return
            if not count:
                raise GoneError
            self._counts.received_bytes += count
            self._moved_s = now_s
            for received in self._decoder.feed(self._buffer[:count]):
                if len(self._ahead) == _AHEAD_MAX:
                    raise PeerProtocolError("it does not wait for its answers")
                self._ahead.append(received)
        except PeerProtocolError as error:
            if not self._is_stranger:
                raise
            self._ahead.clear()
            self._refuse(error)
        if self._ahead or self._is_leaving:
            self._advance(now_s)

    def _accept(self, prefix: Prefix) -> None:
        """Refuse a frame, or the body of it, before anything is allocated for it."""
        if self._is_stranger:
            if prefix.kind > Kind.REFUSED:
                raise PeerProtocolError(f"a {prefix.kind.name} came before the handshake")
        elif not is_request(prefix.kind):
            raise PeerProtocolError(f"a {prefix.kind.name} is no request")
        if prefix.kind == Kind.PUT:
            if self._service.room.reserve(prefix.body_bytes):
                self._reserved.append(prefix.body_bytes)
            else:
                self._reserved.append(None)
                self._decoder.skip_body()

    def _begin(self, received: Frame) -> None:
        if self._is_stranger:
            self._meet(received)
            return
        reserved = self._reserved.popleft() if received.kind == Kind.PUT else None
        self._answer = begin(self._desk, received, reserved)

    def _meet(self, received: Frame) -> None:
        """Go on with the handshake."""
        if self._door is None:
            service = self._service
            self._door = Doorkeeper(service.terms, os.urandom(NONCE_BYTES), service.about())
        try:
            self._outbox.put(self._door.receive(received))
        except PeerError as error:
            self._refuse(error)
            return
        if self._door.is_open:
            self._is_stranger = False
            self._service.room.acquaint()

    def _refuse(self, error: PeerError) -> None:
        """Say why, and close behind it."""
        self._outbox.put(refusal(error))
        self._counts.refused += 1
        self._is_leaving = True

    # ------------------------------------------------------------------ out

    def _advance(self, now_s: float) -> None:
        """Send, and go on with the answer and with what was asked behind it, until it waits."""
        budget = _TURN_BYTES
        outbox = self._outbox
        while True:
            if outbox:
                sent = outbox.flush(budget)
                if sent:
                    self._moved_s = now_s
                    self._counts.sent_bytes += sent
                    budget -= sent
                if outbox:
                    return
            if self._is_leaving:
                raise GoneError
            answer = self._answer
            if answer is not None:
                if not answer.proceed() and not outbox:
                    return
                if answer.over:
                    self._answer = None
            elif self._ahead:
                self._begin(self._ahead.popleft())
            else:
                return
