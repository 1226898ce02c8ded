"""Numbers for new inodes and slices, taken from the volume's counters in batches.

Law: a batch is taken in its own short transaction before it is used; numbers of a process
that ends, or of a transaction that is rolled back, are simply lost.
"""

from __future__ import annotations

import threading

from juicecache.meta.change_log import note
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.rows import Counter

INODE_BATCH = 1024
SLICE_BATCH = 4096
"""The batches of the official client: one counter update per thousand files keeps the
counter row out of every create transaction; 2**63 numbers make the loss irrelevant."""


class IdBatch:
    """Numbers of one counter, handed out one at a time and never twice.

    Parameters
    ----------
    least
        Smaller ones are left out: some clients let the counter of inodes begin below the root.
    """

    def __init__(self, engine: Engine, counter: str, batch: int, *, least: int = 0) -> None:
        self._least = least
        self._engine = engine
        self._counter = counter
        self._batch = batch
        self._lock = threading.Lock()
        self._next = 0
        self._stop = 0

    def take(self, count: int = 1) -> range:
        """Return ``count`` new consecutive numbers."""
        with self._lock:
            while self._next + count > self._stop:
                first, self._stop = self._reserve(max(count, self._batch))
                self._next = max(first, self._least)
            first = self._next
            self._next += count
            return range(first, self._next)

    def _reserve(self, count: int) -> tuple[int, int]:
        def body(tx: Transaction) -> int:
            row = tx.get(Counter, self._counter, lock=True)
            tx.add(Counter, self._counter, value=count)
            note(tx, "INCR_COUNTER", self._counter, count)
            return row.value if row else 0

        first = self._engine.write(body)
        return first, first + count
