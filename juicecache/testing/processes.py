"""Other processes for tests: forked children that never return into the test."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(act: Callable[[], object]) -> int:
    """Return what ``act`` returns in a forked child, as its exit code; 99 after an error."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = int(act() or 0)  # type: ignore[call-overload]  # a test returns a number or nothing
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
