"""The contract of one cache tier: block key to bytes, on this machine.

This floor knows no file, inode, object or network. A block is an opaque key and a
length; blocks are immutable, so nothing here is ever invalidated, only evicted.

Laws: a miss is ``None``, never an exception; a damaged copy is dropped, counted and
answered as a miss; a full or sick disk makes ``put`` answer False and reads go on.
``juicecache.testing.tier_contract`` is the suite that every tier passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from juicecache.cache.claims import Claim
from juicecache.model.layout import BlockKey
from juicecache.model.segments import Held


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counters of one tier since this process opened it.

    ``used_bytes`` and ``items`` describe the tier as a whole (all processes); the other
    numbers are this process's own. Threads count without a lock, so that under contention
    a hit or a miss may be lost.

    Attributes
    ----------
    medium
        ``memory`` or ``directory``.
    where
        ``memory``, or the path of the directory as it was given.
    capacity_bytes, used_bytes
        The quota, and what counts towards it: blocks with what keeping them costs.
    items
        Blocks.
    stored, evicted
        Blocks that this process put in, and pushed out to make room.
    corrupt
        Damaged copies that were dropped.
    errors
        Operations that the medium refused (full, read-only or broken disk).
    state
        ``ok``; ``full`` or ``sick`` when the medium refused something last: then nothing is
        written for a while, reads go on, and the next write that succeeds ends it. ``full``
        also when the last block found no room below the limits that the options set.
    reason
        The system's words for that, or which limit it was and how much is free; and where.
    since_s
        Unix time of the change to this state; 0 if it never was another.
    """

    medium: str
    where: str
    capacity_bytes: int
    used_bytes: int
    items: int
    hits: int
    misses: int
    stored: int
    evicted: int
    corrupt: int
    errors: int
    state: str = "ok"
    reason: str = ""
    since_s: float = 0.0


class Tier(Protocol):
    """One level of cache; every method may be called from any thread and after a fork.

    A closed tier has nothing and keeps nothing.

    Attributes
    ----------
    shared
        Whether other processes of the node have the same blocks.
    """

    shared: bool

    @property
    def capacity_bytes(self) -> int:
        """The quota; it does not change."""

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block; None on a miss.

        Parameters
        ----------
        start, stop
            Offsets inside the block, ``0 <= start <= stop <= key.length``; None is its end.

        Returns
        -------
        memoryview
            Read-only and independent of the tier: it stays valid whatever is evicted. For a
            whole block its ``obj`` is a `bytes` of exactly the content.
        """

    def get_into(self, key: BlockKey, start: int, stop: int, buffer: memoryview) -> bool:
        """Copy bytes ``[start, stop)`` of a block into ``buffer``; False on a miss.

        Parameters
        ----------
        buffer
            The caller's: writable, contiguous, of exactly ``stop - start`` bytes. After a miss
            it may hold anything.
        """

    def hold(self, key: BlockKey, start: int, stop: int) -> Held | None:
        """Return the segments around bytes ``[start, stop)``, to be sent to a peer; None on a miss.

        They are not checked: whoever gets them compares them with the sums.
        """

    def examine(self, key: BlockKey) -> bool:
        """Read a block and compare it, whatever was checked before; True if it was bad.

        For a copy that somebody else found bad. A bad one is dropped and counted.
        """

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a whole block of ``key.length`` bytes; True when it is here afterwards.

        ``content`` is copied unless it is immutable; the caller may change it afterwards.
        """

    def claim(self, key: BlockKey) -> Claim | None:
        """Return the right to load a block and put it here; None while another has it.

        Never waits. A tier that no other process shares, or that keeps nothing now, grants it
        to everybody.
        """

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; True when it was here."""

    def contains(self, key: BlockKey) -> bool:
        """Return whether the block is here, without touching its age."""

    def where(self, key: BlockKey) -> str | None:
        """Return what the place is called that has the block; None when it is not here."""

    def stats(self) -> TierStats:
        """Return the counters."""

    def close(self) -> None:
        """Release what is held. Safe to call twice."""


def as_bytes(content: bytes | memoryview) -> bytes:
    """Return a content as bytes that nobody can change: not copied where it is all of a `bytes`.

    So is a whole block that a tier or object storage gave.
    """
    if isinstance(content, bytes):
        return content
    owner = content.obj
    if isinstance(owner, bytes) and len(owner) == content.nbytes and content.c_contiguous:
        return owner
    return bytes(content)
