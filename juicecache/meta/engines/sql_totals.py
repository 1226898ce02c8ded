"""Totals of the volume that wait in memory, and are added to the database once a second.

All writers of a volume add to the same two rows: inside their transactions they would wait for
each other. So the deltas of committed transactions are added by transactions of their own, as the
official client does it. Law: a delta is added once or, where nobody knows whether it was, never.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from juicecache.errors import JuicecacheError

_log = logging.getLogger("juicecache")

PERIOD_S = 1.0
"""What the official client waits: others see totals that are at most so old."""


class Totals:
    """Deltas of counters that were committed and are not in the database yet.

    Parameters
    ----------
    flush
        Adds deltas to the database. An error says that they were not added, or that nobody knows.
    """

    def __init__(self, flush: Callable[[Mapping[str, int]], None]) -> None:
        self._flush = flush
        self.reset()

    def reset(self) -> None:
        """Forget everything: in a forked child it belongs to the parent."""
        self._pending: dict[str, int] = {}
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pending(self, name: str) -> int:
        """Return what is still to be added to a counter."""
        return self._pending.get(name, 0)

    def add(self, deltas: Mapping[str, int]) -> None:
        """Note what a transaction that is committed adds."""
        with self._lock:
            for name, delta in deltas.items():
                self._pending[name] = self._pending.get(name, 0) + delta
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="juicecache-totals", daemon=True
                )
                self._thread.start()

    def flush(self) -> None:
        """Add to the database what is pending."""
        with self._flushing:
            with self._lock:
                deltas = {name: delta for name, delta in self._pending.items() if delta}
            if not deltas:
                return
            try:
                self._flush(deltas)
            finally:
                # After an error it may be there: what was added twice nobody could ever tell.
                with self._lock:
                    for name, delta in deltas.items():
                        self._pending[name] -= delta

    def close(self) -> None:
        """Add what is pending and end."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._flush_or_say()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._flush_or_say()

    def _flush_or_say(self) -> None:
        try:
            self.flush()
        except JuicecacheError as error:
            _log.warning(
                "the totals of the volume may be wrong by what this process did within a second; "
                "'juicecache fsck --repair --sync-dir-stat' counts them again: %s",
                error,
            )
