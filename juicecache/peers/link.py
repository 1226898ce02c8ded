"""One authenticated connection to a member, used by one thread at a time, on that thread.

A connection that failed in any way is of no further use: what comes next on it is unknown.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from juicecache.errors import (
    CorruptBlockError,
    PeerBusyError,
    PeerError,
    PeerProtocolError,
    PeerUnavailableError,
)
from juicecache.model.segments import bounds, segment_count, segment_sums, touched, unpack_sums
from juicecache.peers import wire
from juicecache.peers.handshake import NONCE_BYTES, Caller, Terms
from juicecache.peers.wire import PREFIX_BYTES, Frame, Kind, Name

Address = tuple[str, int]

_TICKS = 25
"""A receive gives up after so many parts of the time that a peer may be silent: it returns early
with what has come, so that only a silence of the whole time, and 4% at most, ends it."""
_TICK_S_MIN = 0.02
_TLS_BYTES = 256 * 1024
"""Asked of TLS at once; it gives a record of 16 KiB a call whatever is asked."""
_TIMEVAL = struct.Struct("ll")
_SILENT = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TRICKLE_TIMEOUTS = 10
"""A frame that comes byte by byte is waited for so long, and a body for the time that it takes at
the slowest pace, too: a member that has gone wrong must not keep a reader for ever."""
_SLOWEST_BYTES_S = 64 << 10
"""Less than a thousand readers of one member have each on 1 Gbit/s."""
_LOADING_S_MAX = 900.0
"""Object storage is asked again for ten minutes and a little more; no load takes longer."""


@dataclass(frozen=True, slots=True)
class Dialing:
    """How members are reached.

    Attributes
    ----------
    terms
        Volume, group and secret.
    timeout_s
        A member that sends nothing for so long, not even that it is loading, counts as dead.
    tls
        Wraps every connection; None sends in clear.
    """

    terms: Terms
    timeout_s: float
    tls: ssl.SSLContext | None = None


class Link:
    """A connection whose other side has proved that it knows the secret; made by `dial`.

    Attributes
    ----------
    about
        What the member said of itself.
    """

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        self._timeout_s = timeout_s
        self._head = bytearray(4096)
        self._is_plain = not isinstance(sock, ssl.SSLSocket)
        self._limit_s = inf
        self._is_answered = False
        self._was_silent = False
        self.about: dict[str, Any] = {}

    @property
    def is_stale(self) -> bool:
        """Whether a request failed by an end of the connection, before any byte of an answer.

        So it ends when the member closed it while it was idle, or was started anew.
        """
        return not (self._is_answered or self._was_silent)

    # ------------------------------------------------------------------ requests

    def fetch(
        self, block: Name, start: int, stop: int, *, cached: bool = False
    ) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block, checked; None when the member has none.

        Its ``obj`` is a `bytes` of exactly the content where whole segments were asked for, as
        a whole block is.

        Parameters
        ----------
        cached
            Take only what is in the member's cache: it loads nothing.

        Raises
        ------
        CorruptBlockError
            The bytes do not fit their checksums; the connection is sound.
        PeerError
            Anything else; close the connection.
        """
        self._send(wire.get(block, start, stop, cached=cached))
        first, last = bounds(touched(start, stop), block.length)
        sums = self._receive_sums(block, start, stop, last - first)
        if sums is None:
            return None
        content = self._receive_part(block, sums, last - first)
        return memoryview(content)[start - first : stop - first]

    def fetch_many(self, blocks: Sequence[Name]) -> Iterator[tuple[int, bytes | Kind]]:
        """Iterate over (number, whole block or why there is none) as they come.

        Every block comes once. Instead of one there is `Kind.MISS`, `Kind.BUSY`, or `Kind.REPORT`
        where the bytes do not fit their checksums. The iterator must be read to its end, or the
        connection closed.

        Raises
        ------
        PeerError
            Close the connection; the blocks that did not come yet will not.
        """
        self._send(wire.get_many(blocks))
        wanted = [(block.length, 0, block.length) for block in blocks]
        missing = set(range(len(blocks)))
        while True:
            kind, header, body_bytes = self._receive_head(PREFIX_BYTES)
            if kind == Kind.DONE:
                break
            content: bytes | Kind = kind
            if kind == Kind.PART:
                part, size = wire.read_part(header, wanted)
                number = part.number
            else:
                _check_miss(kind, single=False)
                number = wire.read_number(kind, header, len(blocks))
            if number not in missing:
                raise PeerProtocolError("it answered twice for one block")
            if kind == Kind.PART:
                _check_size(body_bytes, size)
                try:
                    content = self._receive_part(blocks[number], part.sums, size)
                except CorruptBlockError:
                    content = Kind.REPORT
            missing.remove(number)
            yield number, content
        for number in missing:
            yield number, Kind.MISS

    def put(self, block: Name, content: bytes | memoryview) -> bool:
        """Give a member a block that it owns; True when it kept it."""
        self._send(wire.put(block, segment_sums(memoryview(content))))
        self._send(content)
        return bool(self._answer(busy=[False]))

    def ask(self, request: bytes) -> Any:
        """Send a request that ends with a DONE, and return what that says."""
        self._send(request)
        return self._answer()

    def warm(self, blocks: Sequence[Name]) -> Iterator[tuple[int, int]]:
        """Iterate over (number, `Warmed`) as the member has them; read it to its end.

        What the member has no time for is not in there: a BUSY with a number is about that block
        alone, one without ends the answer as DONE does.

        Raises
        ------
        PeerError
            Close the connection; the blocks that did not come yet will not.
        """
        self._send(wire.frame(Kind.WARM, blocks))
        missing = set(range(len(blocks)))
        while True:
            kind, header, _ = self._receive_head(PREFIX_BYTES)
            if kind == Kind.DONE or (kind == Kind.BUSY and not header):
                return
            outcome = header[1] if kind == Kind.STEP and len(header) == 2 else None
            if kind != Kind.BUSY and type(outcome) is not int:
                raise PeerProtocolError(f"a {kind.name} came where a STEP belongs")
            number = wire.read_number(kind, header, len(blocks))
            if number not in missing:
                raise PeerProtocolError("it answered twice for one block")
            missing.remove(number)
            if outcome is not None:
                yield number, outcome

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._sock.close()

    # ------------------------------------------------------------------ frames

    def _answer(self, busy: Any = None) -> Any:
        kind, header, _ = self._receive_head(PREFIX_BYTES)
        if kind == Kind.BUSY and busy is not None:
            return busy[0]
        if kind == Kind.BUSY:
            raise PeerBusyError("it has too much to do")
        if kind != Kind.DONE:
            raise PeerProtocolError(f"a {kind.name} came where a DONE belongs")
        return header[0] if header else None

    def _receive_sums(
        self, block: Name, start: int, stop: int, size: int
    ) -> tuple[int, ...] | None:
        """Return the checksums in front of the ``size`` bytes that answer a GET; None of a miss."""
        count = segment_count(size)
        head = wire.part_head(count, size)
        expected = len(head) + 4 * count
        have = self._fill_head(0, expected)
        if have == expected and self._head.startswith(head):
            # So it nearly always begins, and then nothing is left to be understood.
            return unpack_sums(self._head[len(head) : have])
        kind, header, body_bytes = self._receive_head(expected, have)
        if kind != Kind.PART:
            _check_miss(kind, single=True)
            return None
        part, size = wire.read_part(header, ((block.length, start, stop),))
        _check_size(body_bytes, size)
        return part.sums

    def _receive_part(self, block: Name, sums: tuple[int, ...], size: int) -> bytes:
        content = self._receive(size)
        found = segment_sums(memoryview(content))
        if found != sums:
            at = next(n for n, (a, b) in enumerate(zip(sums, found, strict=True)) if a != b)
            raise CorruptBlockError(
                block.name, f"CRC-32C {sums[at]:08x}", f"{found[at]:08x}", "a peer's copy"
            )
        return content

    def _receive_head(self, expected: int, have: int = 0) -> tuple[Kind, list[Any], int]:
        """Return kind, header and size of the body of the next frame that is not a LOADING.

        Parameters
        ----------
        expected
            Bytes that may be taken at once: prefix and header of the answer that is likely.
        have
            Bytes of it that were taken already.
        """
        end_s = inf
        while True:
            have = self._fill_head(have, max(expected, PREFIX_BYTES))
            prefix = wire.parse_prefix(self._head)
            size = PREFIX_BYTES + prefix.header_bytes
            if prefix.kind == Kind.LOADING:
                self._head[: have - size] = self._head[size:have]
                have -= size
                now_s = time.monotonic()
                end_s = min(end_s, now_s + _LOADING_S_MAX)
                if now_s > end_s:
                    raise PeerUnavailableError(f"it was loading for {_LOADING_S_MAX:g} s")
                continue
            if have < size:
                have = self._fill_head(have, size)
            if have > size:
                raise PeerProtocolError("it sent more than was asked for")
            header = wire.parse_header(memoryview(self._head)[PREFIX_BYTES:size])
            return prefix.kind, header, prefix.body_bytes

    def _fill_head(self, have: int, wanted: int) -> int:
        """Receive until the head has ``wanted`` bytes, or a short frame is complete."""
        if wanted > len(self._head):
            self._head.extend(bytes(wanted - len(self._head)))
        heard_s = time.monotonic()
        end_s = min(self._limit_s, heard_s + _TRICKLE_TIMEOUTS * self._timeout_s)
        view = memoryview(self._head)
        try:
            while have < wanted:
                if have >= PREFIX_BYTES and _is_short(self._head, have):
                    return have
                try:
                    count = self._sock.recv_into(view[have:wanted])
                except _SILENT:
                    self._check_silence(heard_s)
                    continue
                except OSError as error:
                    raise _gone(error) from error
                if not count:
                    raise PeerUnavailableError("it closed the connection")
                have += count
                self._is_answered = True
                heard_s = time.monotonic()
                if heard_s > end_s:
                    raise PeerUnavailableError("it is too slow")
        finally:
            view.release()  # the head may have to grow
        return have

    def _receive(self, size: int) -> bytes:
        """Return exactly ``size`` bytes."""
        pieces: list[bytes] = []
        heard_s = time.monotonic()
        end_s = heard_s + _TRICKLE_TIMEOUTS * self._timeout_s + size / _SLOWEST_BYTES_S
        while size:
            try:
                # All at once into fresh bytes that nobody had to fill with zeros first.
                piece = (
                    self._sock.recv(size, socket.MSG_WAITALL)
                    if self._is_plain
                    else self._sock.recv(min(size, _TLS_BYTES))
                )
            except _SILENT:
                self._check_silence(heard_s)
                continue
            except OSError as error:
                raise _gone(error) from error
            if not piece:
                raise PeerUnavailableError("it closed the connection")
            if len(piece) == size and not pieces:
                return piece
            size -= len(piece)
            pieces.append(piece)
            heard_s = time.monotonic()
            if heard_s > end_s:
                raise PeerUnavailableError("it is too slow")
        return b"".join(pieces)

    def _check_silence(self, heard_s: float, failing: str = "was silent") -> None:
        now_s = time.monotonic()
        if now_s - heard_s >= self._timeout_s or now_s > self._limit_s:
            self._was_silent = True
            raise PeerUnavailableError(f"it {failing} for {self._timeout_s:g} s")

    def _send(self, content: bytes | memoryview) -> None:
        self._is_answered = False
        moved_s = time.monotonic()
        end_s = moved_s + _TRICKLE_TIMEOUTS * self._timeout_s + len(content) / _SLOWEST_BYTES_S
        while True:
            try:
                sent = self._sock.send(content)
            except _SILENT:
                self._check_silence(moved_s, "took nothing")
                continue
            except OSError as error:
                raise _gone(error) from error
            if sent == len(content):
                return
            content = memoryview(content)[sent:]
            moved_s = time.monotonic()
            if moved_s > end_s:
                raise PeerUnavailableError("it is too slow")

    # ------------------------------------------------------------------ the beginning

    def shake_hands(self, terms: Terms, limit_s: float) -> None:
        """Prove that we know the secret, and see that the member does.

        Parameters
        ----------
        limit_s
            Monotonic time at which this ends, whatever is heard: nobody has proved yet that he
            may keep us waiting.

        Raises
        ------
        PeerError
        """
        self._limit_s = limit_s
        caller = Caller(terms, os.urandom(NONCE_BYTES))
        self._send(caller.hello())
        self._send(caller.prove(self._receive_frame()))
        self.about = caller.accept(self._receive_frame())
        self._limit_s = inf

    def _receive_frame(self) -> Frame:
        kind, header, body_bytes = self._receive_head(PREFIX_BYTES)
        if kind == Kind.BUSY:
            raise PeerBusyError("it has too many connections")
        if body_bytes:
            raise PeerProtocolError("a body came with the handshake")
        return Frame(kind, header, bytearray())


def dial(address: Address, dialing: Dialing) -> Link:
    """Connect to a member and shake hands, in ``timeout_s`` in all.

    Raises
    ------
    PeerUnavailableError, PeerDeniedError, PeerProtocolError
    """
    timeout_s = dialing.timeout_s
    limit_s = time.monotonic() + timeout_s
    try:
        sock = socket.create_connection(address, timeout_s)
    except (OSError, ValueError) as error:  # of an address that cannot be one
        raise _gone(error) from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tick_s = max(timeout_s / _TICKS, _TICK_S_MIN)
        if dialing.tls is not None:
            sock.settimeout(max(limit_s - time.monotonic(), tick_s))
            sock = dialing.tls.wrap_socket(sock, server_hostname=address[0])
            sock.settimeout(tick_s)
        else:
            # A time limit of Python's would cost a poll() before every call.
            sock.settimeout(None)
            _set_time(sock, socket.SO_RCVTIMEO, tick_s)
            _set_time(sock, socket.SO_SNDTIMEO, tick_s)
        link = Link(sock, timeout_s)
        link.shake_hands(dialing.terms, limit_s)
    except (OSError, ValueError) as error:
        sock.close()
        raise _gone(error) from error
    except BaseException:
        sock.close()
        raise
    return link


def _set_time(sock: socket.socket, option: int, time_s: float) -> None:
    micros = round(time_s * 1e6)
    sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(micros, 1_000_000)))


def _check_size(body_bytes: int, size: int) -> None:
    if body_bytes != size:
        raise PeerProtocolError(f"a part has {body_bytes} bytes instead of {size}")


def _check_miss(kind: Kind, *, single: bool) -> None:
    """Accept that a part does not come, if that is what the frame means."""
    if kind == Kind.BUSY and single:
        raise PeerBusyError("it has too much to do")
    if kind not in (Kind.MISS, Kind.BUSY):
        raise PeerProtocolError(f"a {kind.name} came where a PART belongs")


def _is_short(head: bytearray, have: int) -> bool:
    """Return whether the frame at the start of ``head`` is complete in ``have`` bytes."""
    return have >= PREFIX_BYTES + wire.parse_prefix(head).header_bytes


def _gone(error: OSError | ValueError) -> PeerError:
    if isinstance(error, TimeoutError):
        return PeerUnavailableError("it does not answer")
    if isinstance(error, ssl.SSLError):
        return PeerUnavailableError(f"TLS: {error.reason or error}")
    if isinstance(error, OSError):
        return PeerUnavailableError(error.strerror or type(error).__name__)
    return PeerUnavailableError("its address cannot be one")
