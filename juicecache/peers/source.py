"""What a member's server needs of the floors above it: blocks by their names, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from juicecache.model.segments import Held
from juicecache.peers.wire import Name

__all__ = ["Held", "Source", "Warmed"]


class Warmed(IntEnum):
    """What became of a block that was to be warmed."""

    FAILED = 0
    CACHED = 1
    """It was here before."""
    LOADED = 2
    DROPPED = 3
    """It was loaded, and no tier kept it."""


class Source(Protocol):
    """The blocks of one volume, as one member has them.

    Every method may be called from any thread, and none waits for a network. Names come from
    peers: whoever implements this checks that they are names of blocks. A ``done`` is called
    once, from any thread, and must not wait either.
    """

    def find(self, block: Name, start: int, stop: int) -> Held | None:
        """Return the segments around bytes ``[start, stop)`` if they are cached here."""

    def load(self, block: Name, start: int, stop: int, done: Callable[[Held | None], None]) -> bool:
        """Have a block loaded and kept; ``done`` gets what `find` would, or None on a failure.

        False when too much is under way already: then nothing happens.
        """

    def warm(self, block: Name, done: Callable[[Warmed], None]) -> bool:
        """Have a block loaded and kept, unless it is; False as for `load`."""

    def keep(self, block: Name, content: bytearray, done: Callable[[bool], None]) -> bool:
        """Put a block into the tiers; ``content``, whose checksums hold, is given away."""

    def has(self, block: Name) -> bool:
        """Return whether a block is cached here."""

    def drop(self, block: Name) -> bool:
        """Forget a block; True when it was here."""

    def examine(self, block: Name) -> bool:
        """Read a block whose copy somebody found bad; True when it was bad, and is dropped."""

    def stats(self) -> dict[str, Any]:
        """Return plain numbers and texts about this member, for people and programs."""
