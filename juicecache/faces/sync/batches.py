"""Small files that are stored many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from juicecache.faces.sync.item import End, Item

_BYTES = 64 << 20
"""Content held while a batch comes together."""
_FILES = 1000
"""Files of one batch: a transaction, and what a run that is killed may have to do again."""


class Batches:
    """Files for one target. May be used from several threads.

    Parameters
    ----------
    finish
        Called with each file that was stored, and its size.
    fail
        Called with each file that was not, and why.
    """

    def __init__(
        self,
        target: End,
        finish: Callable[[Item, int], None],
        fail: Callable[[Item, Exception], None],
    ) -> None:
        self._target = target
        self._finish = finish
        self._fail = fail
        self._lock = threading.Lock()
        self._waiting: list[tuple[Item, bytes]] = []
        self._held_bytes = 0

    def add(self, item: Item, content: bytes) -> None:
        """Take a file; store a batch where it is full now."""
        with self._lock:
            self._waiting.append((item, content))
            self._held_bytes += len(content)
            if len(self._waiting) < _FILES and self._held_bytes < _BYTES:
                return
            batch = self._take()
        self._store(batch)

    def flush(self) -> None:
        """Store what waits."""
        with self._lock:
            batch = self._take()
        self._store(batch)

    def _take(self) -> list[tuple[Item, bytes]]:
        batch, self._waiting, self._held_bytes = self._waiting, [], 0
        return batch

    def _store(self, batch: list[tuple[Item, bytes]]) -> None:
        if not batch:
            return
        try:
            outcomes = self._target.store_many([(item.path, content) for item, content in batch])
        except Exception as error:
            outcomes = [error] * len(batch)
        for (item, content), outcome in zip(batch, outcomes, strict=True):
            try:
                if outcome is not None:
                    raise outcome
                self._finish(item, len(content))
            except Exception as error:
                self._fail(item, error)
