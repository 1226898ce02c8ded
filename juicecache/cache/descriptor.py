"""A descriptor that its owner opens and closes as it likes, and that does not outlive him."""

from __future__ import annotations

import os
import weakref


class Descriptor:
    """A file descriptor, or -1; closed when ``owner`` is dropped without closing it.

    Its owner guards it with a lock of his own.
    """

    __slots__ = ("fd",)

    def __init__(self, owner: object) -> None:
        self.fd = -1
        # Not at the end of the interpreter: threads may still use it, and the system closes it.
        weakref.finalize(owner, self.close).atexit = False

    def close(self) -> None:
        """Close it, if it is open."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
