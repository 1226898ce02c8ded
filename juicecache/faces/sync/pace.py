"""A limit of bytes in a second, for all threads of a run together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_BURST_S = 0.25
"""What may be sent at once after a pause, in seconds of the limit."""


class Pace:
    """Lets bytes pass.

    Parameters
    ----------
    bytes_per_s
        0 is no limit.
    clock, sleep
        Seconds, and how to wait for some; for tests.
    """

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_s = clock()
        """When what was let pass so far will have passed at the limit."""

    def take(self, count: int) -> None:
        """Wait until ``count`` bytes more may pass."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            begins = max(self._free_s, now - _BURST_S)
            self._free_s = begins + count / self._rate
            wait_s = self._free_s - now
        if wait_s > 0:
            self._sleep(wait_s)
