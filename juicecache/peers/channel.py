"""A connected socket that never waits, plain or inside TLS, and what is still to be sent on it."""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections import deque
from typing import Protocol

from juicecache.errors import PeerProtocolError
from juicecache.peers.source import Held

_TLS_PIECE_BYTES = 128 * 1024
"""What TLS encrypts at a time: eight of its records; below 64 KiB the calls begin to count."""


class GoneError(Exception):
    """The connection is of no more use: the other side is gone, or we want to be."""


class Channel(Protocol):
    """A non-blocking connection.

    Attributes
    ----------
    fd
        For epoll.
    receive_on, send_on
        The events of epoll to wait for before the next call of either kind.
    """

    fd: int
    receive_on: int
    send_on: int

    def receive(self, buffer: memoryview) -> int | None:
        """Read what is there; 0 at the end of the stream, None when nothing is there."""

    def pending(self) -> bool:
        """Return whether bytes are here already, of which epoll knows nothing."""

    def send(self, first: memoryview, then: memoryview | None, *, more: bool) -> int:
        """Send some of one or two pieces; 0 when nothing can be sent now."""

    def send_file(self, fd: int, offset: int, size: int) -> int:
        """Send some of a file; 0 when nothing can be sent now."""

    def close(self) -> None:
        """Close the socket; safe twice."""


class PlainChannel:
    """A TCP connection; files go out without passing through this process."""

    receive_on: int = select.EPOLLIN
    send_on: int = select.EPOLLOUT

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.fd = connected.fileno()

    def receive(self, buffer: memoryview) -> int | None:
        """Read what is there."""
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise GoneError from error

    def pending(self) -> bool:
        """Return False: the kernel has all that is here."""
        return False

    def send(self, first: memoryview, then: memoryview | None, *, more: bool) -> int:
        """Send some of one or two pieces; with ``more``, others follow at once."""
        try:
            if then is not None:
                return self._socket.sendmsg((first, then))
            return self._socket.send(first, socket.MSG_MORE if more else 0)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise GoneError from error

    def send_file(self, fd: int, offset: int, size: int) -> int:
        """Send some of a file."""
        try:
            sent = os.sendfile(self.fd, fd, offset, size)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise GoneError from error
        if not sent:
            raise GoneError("a file is shorter than it was")
        return sent

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TlsChannel:
    """A connection inside TLS, whose handshake happens with the first read."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = context.wrap_socket(
            connected, server_side=True, do_handshake_on_connect=False
        )
        self.fd = self._socket.fileno()
        self.receive_on: int = select.EPOLLIN
        self.send_on: int = select.EPOLLOUT
        # What could not be sent must be offered again as it was, so a piece of a file is kept.
        self._piece = memoryview(b"")

    def receive(self, buffer: memoryview) -> int | None:
        """Read what is there; PeerProtocolError where TLS does not come about."""
        try:
            return self._socket.recv_into(buffer)
        except ssl.SSLWantReadError:
            self.receive_on = select.EPOLLIN
        except ssl.SSLWantWriteError:
            self.receive_on = select.EPOLLOUT
        except ssl.SSLEOFError:
            return 0
        except ssl.SSLError as error:
            raise PeerProtocolError(f"TLS failed: {error.reason}") from error
        except OSError as error:
            raise GoneError from error
        return None

    def pending(self) -> bool:
        """Return whether decrypted bytes wait."""
        return self._socket.pending() > 0

    def send(self, first: memoryview, then: memoryview | None, *, more: bool) -> int:
        """Send some of the first piece."""
        try:
            return self._socket.send(first[:_TLS_PIECE_BYTES])
        except ssl.SSLWantReadError:
            self.send_on = select.EPOLLIN
        except ssl.SSLWantWriteError:
            self.send_on = select.EPOLLOUT
        except OSError as error:
            raise GoneError from error
        return 0

    def send_file(self, fd: int, offset: int, size: int) -> int:
        """Send some of a file."""
        if not self._piece:
            try:
                self._piece = memoryview(os.pread(fd, min(size, _TLS_PIECE_BYTES), offset))
            except OSError as error:
                raise GoneError from error
            if not self._piece:
                raise GoneError("a file is shorter than it was")
        sent = self.send(self._piece, None, more=False)
        self._piece = self._piece[sent:]
        return sent

    def close(self) -> None:
        """Close the socket, without a farewell that could wait."""
        self._socket.close()


class _File:
    """Bytes of an open file that are still to be sent."""

    __slots__ = ("fd", "offset", "size")

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size


class Outbox:
    """What one connection still has to send, in order; owns the files in it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pieces: deque[memoryview | _File] = deque()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, head: bytes, held: Held | None = None) -> None:
        """Append a frame and its body; the file of ``held`` is closed here."""
        self._pieces.append(memoryview(head))
        if held is None:
            return
        if held.content is None:
            self._pieces.append(_File(held.fd, held.offset, held.size))
        elif held.size:
            self._pieces.append(held.content)

    def flush(self, bytes_max: int) -> int:
        """Send up to about ``bytes_max`` bytes, or what the connection takes; return how many.

        Raises
        ------
        GoneError
        """
        pieces, channel = self._pieces, self._channel
        total = 0
        while pieces and total < bytes_max:
            piece = pieces[0]
            if isinstance(piece, _File):
                sent = channel.send_file(piece.fd, piece.offset, min(piece.size, bytes_max - total))
                piece.offset += sent
                piece.size -= sent
                if not piece.size:
                    pieces.popleft()
                    os.close(piece.fd)
            else:
                behind = pieces[1] if len(pieces) > 1 else None
                if isinstance(behind, _File):
                    sent = channel.send(piece, None, more=True)
                else:
                    sent = channel.send(piece, behind, more=False)
                self._drop(sent)
            if not sent:
                break
            total += sent
        return total

    def close(self) -> None:
        """Forget what was not sent."""
        while self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, _File):
                os.close(piece.fd)

    def _drop(self, sent: int) -> None:
        """Take ``sent`` bytes from the front."""
        pieces = self._pieces
        while sent:
            piece = pieces[0]
            assert isinstance(piece, memoryview)
            if sent < len(piece):
                pieces[0] = piece[sent:]
                return
            sent -= len(piece)
            pieces.popleft()


def discard(result: object) -> None:
    """Close the file of a block that nobody waits for any more."""
    if isinstance(result, Held) and result.content is None:
        os.close(result.fd)
