"""Totals of the volume that wait in memory, and are added to the database once a second.

All writers of a volume add to the same two rows: inside their transactions they would wait for
each other. So only one transaction of a process in a second adds to them, and with it what earlier
ones left; the last deltas are added by a transaction of their own. The official client always
does the latter. Law: a delta is added once or, where nobody knows whether it was, never.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import multiprocessing.util
import threading
import time
import weakref
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

    Attributes
    ----------
    steady
        Held by who reads a counter and what is pending: nothing moves from here to there meanwhile.
    """

    def __init__(self, flush: Callable[[Mapping[str, int]], None]) -> None:
        self._flush = flush
        self.reset()

    def reset(self) -> None:
        """Forget everything: in a forked child it belongs to the parent."""
        self._pending: dict[str, int] = {}
        self._lock = threading.Lock()
        self.steady = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._due_s = 0.0

    def pending(self, name: str) -> int:
        """Return what is still to be added to a counter."""
        return self._pending.get(name, 0)

    def take(self) -> dict[str, int] | None:
        """Return what is pending, for a transaction that adds it; None unless that is due.

        The caller hands back with `add` what was not committed.
        """
        now_s = time.monotonic()
        with self._lock:
            if now_s < self._due_s:
                return None
            self._due_s = now_s + PERIOD_S
            taken, self._pending = self._pending, {}
        return taken

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
                # The thread ends with the interpreter, wherever it is.
                _at_end(weakref.ref(self))

    def flush(self) -> None:
        """Add to the database what is pending; after an error it may be there, so it is dropped."""
        with self.steady:
            with self._lock:
                taken, self._pending = self._pending, {}
            deltas = {name: delta for name, delta in taken.items() if delta}
            if deltas:
                self._flush(deltas)

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


def _at_end(totals: weakref.ref[Totals]) -> None:
    """Close totals when this process ends by itself."""
    atexit.register(_close, totals)
    # Processes of multiprocessing end without the above, and do what is noted here instead.
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, _close, (totals,), exitpriority=0)


def _close(totals: weakref.ref[Totals]) -> None:
    found = totals()
    if found is not None:
        found.close()
