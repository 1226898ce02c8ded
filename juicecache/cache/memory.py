"""A tier in the memory of this process.

Law: the lock guards dictionary operations only; no byte is copied while it is held.
"""

from __future__ import annotations

import threading

from cachetools import LRUCache

from juicecache.cache.claims import FREE, Claim
from juicecache.cache.tier import TierStats, as_bytes
from juicecache.forks import survive_fork
from juicecache.model.layout import BlockKey
from juicecache.model.segments import Held, held_content

_ENTRY_BYTES = 512
"""Charged for a block besides its bytes: key, name, list and dictionary entries, rounded up, so
that very many very small blocks cannot outgrow the capacity."""


class _CountingLru(LRUCache[BlockKey, bytes]):
    """Blocks by age of use; counts those that it pushed out."""

    evicted = 0

    def popitem(self) -> tuple[BlockKey, bytes]:
        self.evicted += 1
        return super().popitem()


class MemoryTier:
    """Blocks in this process, the longest unused evicted first.

    A forked child starts with the blocks that its parent had and shares their pages until
    either evicts them.

    Parameters
    ----------
    capacity_bytes
        Bound of the blocks and what keeping them costs; 0 keeps nothing.
    """

    shared = False

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._blocks = self._empty()
        self._closed = False
        self._hits = self._misses = self._stored = 0
        survive_fork(self)

    def _empty(self) -> _CountingLru:
        return _CountingLru(self.capacity_bytes, lambda content: len(content) + _ENTRY_BYTES)

    def before_fork(self) -> None:
        """Keep other threads from leaving the order half changed in the child's copy."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Let threads in again; a child gets a lock of its own."""
        if in_child:
            self._lock = threading.Lock()
            self._hits = self._misses = self._stored = self._blocks.evicted = 0
        else:
            self._lock.release()

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes ``[start, stop)`` of a block, not copied: a view keeps the block alive."""
        with self._lock:
            content = self._blocks.get(key)
        if content is None:
            self._misses += 1
            return None
        self._hits += 1
        view = memoryview(content)
        return view if stop is None and not start else view[start:stop]

    def get_into(self, key: BlockKey, start: int, stop: int, buffer: memoryview) -> bool:
        """Copy bytes ``[start, stop)`` of a block into ``buffer``; False on a miss."""
        view = self.get(key, start, stop)
        if view is None:
            return False
        buffer[:] = view
        return True

    def hold(self, key: BlockKey, start: int, stop: int) -> Held | None:
        """Return the segments around bytes ``[start, stop)`` of a block, not copied."""
        content = self.get(key)
        return None if content is None else held_content(content, start, stop)

    def examine(self, key: BlockKey) -> bool:
        """Return False: what is in our memory is as sound as the program."""
        return False

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a block; False when it alone is larger than the capacity, or after `close`."""
        assert memoryview(content).nbytes == key.length, key
        if key.length + _ENTRY_BYTES > self.capacity_bytes:
            return False
        kept = as_bytes(content)
        with self._lock:
            if self._closed:
                return False
            if key not in self._blocks:
                self._stored += 1
            self._blocks[key] = kept
        return True

    def claim(self, key: BlockKey) -> Claim:
        """Return a claim that means nothing: no other process would find the block here."""
        return FREE

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; True when it was here."""
        with self._lock:
            return self._blocks.pop(key, None) is not None

    def contains(self, key: BlockKey) -> bool:
        """Return whether the block is here, without touching its age."""
        with self._lock:
            return key in self._blocks

    def where(self, key: BlockKey) -> str | None:
        """Return ``memory`` when the block is here."""
        return "memory" if self.contains(key) else None

    def stats(self) -> TierStats:
        """Return the counters."""
        with self._lock:
            return TierStats(
                medium="memory",
                where="memory",
                capacity_bytes=self.capacity_bytes,
                used_bytes=int(self._blocks.currsize),
                items=len(self._blocks),
                hits=self._hits,
                misses=self._misses,
                stored=self._stored,
                evicted=self._blocks.evicted,
                corrupt=0,
                errors=0,
            )

    def close(self) -> None:
        """Forget all blocks; the counters stay. Safe to call twice."""
        emptied = self._empty()
        with self._lock:
            self._closed = True
            emptied.evicted = self._blocks.evicted
            self._blocks = emptied
