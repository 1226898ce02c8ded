"""How much a member's server takes on, and what it has done."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The bounds of a member's server."""

    connections_max: int = 1024
    """Of known callers and strangers, about 10 KiB each while they are idle. The server takes no
    more than half of the files that the process may open: each answer can have one open, too."""
    strangers_max: int = 64
    """Callers that have not proved yet that they know the secret: whoever reaches the port can be
    one, and must not take the places of the others."""
    handshake_s: float = 5.0
    """Two round trips and two checksums; more is a stranger who holds a place."""
    idle_s: float = 600.0
    """A caller that is between two epochs keeps its connection; one that is gone does not."""
    stalled_s: float = 30.0
    """Without a byte taken of an answer, or added to a request, while it holds a file or memory
    here. Readers give up after seconds of silence, so whoever waits that long is gone."""
    beat_s: float = 0.5
    """How often a caller hears that its block is being loaded: several times within the two
    seconds of silence after which it takes another way. Deadlines are looked at as often."""
    put_bytes_max: int = 64 << 20
    """Content of PUTs that arrives or waits to be kept: sixteen blocks of the usual 4 MiB."""


@dataclass(frozen=True, slots=True)
class ServerStats:
    """What a server did since it started; ``connections`` are those of now.

    Attributes
    ----------
    connections
        Open now.
    accepted
        Connections taken.
    requests
        Whole requests of known callers.
    hits, loads, misses
        Requested blocks that were cached; that were waited for; that nobody got from here.
    busy
        Blocks and callers turned away because too much was under way.
    parts, kept
        Blocks or pieces of them that were sent; blocks that a PUT brought and a tier took.
    sent_bytes, received_bytes
        On the wire, without what TLS adds.
    reports
        Copies that a caller found bad, rightly or not.
    refused
        Strangers not let in.
    stalled
        Connections closed because nothing moved.
    protocol_errors
        Connections closed because of what they sent.
    failures
        Connections closed because of an error of ours.
    """

    connections: int = 0
    accepted: int = 0
    requests: int = 0
    hits: int = 0
    loads: int = 0
    misses: int = 0
    busy: int = 0
    parts: int = 0
    kept: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    reports: int = 0
    refused: int = 0
    stalled: int = 0
    protocol_errors: int = 0
    failures: int = 0


@dataclass(slots=True)
class Counts:
    """The counters of one I/O thread, which alone writes them."""

    accepted: int = 0
    requests: int = 0
    hits: int = 0
    loads: int = 0
    misses: int = 0
    busy: int = 0
    parts: int = 0
    kept: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    reports: int = 0
    refused: int = 0
    stalled: int = 0
    protocol_errors: int = 0
    failures: int = 0


def add_up(connections: int, counts: list[Counts]) -> ServerStats:
    """Return the sum of what several threads counted."""
    names = [field.name for field in fields(Counts)]
    sums = {name: sum(getattr(one, name) for one in counts) for name in names}
    return ServerStats(connections, **sums)


class Room:
    """The places of a server: for connections, and for bytes that PUTs bring."""

    def __init__(self, connections_max: int, strangers_max: int, put_bytes_max: int) -> None:
        self._lock = threading.Lock()
        self._connections_max = connections_max
        self._strangers_max = strangers_max
        self._put_bytes_max = put_bytes_max
        self.connections = 0
        self._strangers = 0
        self._put_bytes = 0

    def admit(self) -> bool:
        """Take a place for a stranger; False when there is none."""
        with self._lock:
            if self.connections >= self._connections_max or self._strangers >= self._strangers_max:
                return False
            self.connections += 1
            self._strangers += 1
            return True

    def acquaint(self) -> None:
        """Count a stranger among the known callers."""
        with self._lock:
            self._strangers -= 1

    def leave(self, *, stranger: bool) -> None:
        """Give a place back."""
        with self._lock:
            self.connections -= 1
            self._strangers -= stranger

    def reserve(self, size: int) -> bool:
        """Take room for the content of a PUT; False when there is not as much."""
        with self._lock:
            if self._put_bytes + size > self._put_bytes_max:
                return False
            self._put_bytes += size
            return True

    def release(self, size: int) -> None:
        """Give such room back."""
        with self._lock:
            self._put_bytes -= size
