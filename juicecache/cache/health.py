"""What the medium or a limit of a tier refuses: seen, said once, and tried again after a while."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PAUSE_S = (5.0, 60.0)
"""Without writes after the first refusal, and at most: a full or sick disk should not slow down
every read that comes by with a block; each refusal doubles it, as does a short recovery."""


class Health:
    """The state of one medium, as this process knows it.

    Parameters
    ----------
    where
        The place as the user calls it.
    clock
        Monotonic seconds.

    Attributes
    ----------
    state
        ``ok``, ``full`` or ``sick``.
    reason
        The system's words for it, or which limit of ours keeps new blocks out; empty when all
        is well.
    lacks_room
        It is such a limit, not the medium: each write finds out anew, and no other way helps.
    since_s
        Unix time of the change to this state; 0 if there was none.
    """

    def __init__(self, where: str, clock: Callable[[], float]) -> None:
        self.state = "ok"
        self.reason = ""
        self.since_s = 0.0
        self.lacks_room = False
        self._told = False
        self._where = where
        self._clock = clock
        self._pause_s = 0.0
        self._write_again_at_s = self._recovered_at_s = float("-inf")

    @property
    def is_well(self) -> bool:
        """Whether nothing was refused since something last succeeded."""
        return self.state == "ok"

    def may_write(self) -> bool:
        """Return whether a write should be tried now."""
        return self.state == "ok" or self._clock() >= self._write_again_at_s

    def should_probe(self) -> bool:
        """Return whether writing a little now would tell if the medium works again."""
        return self.state != "ok" and not self.lacks_room and self.may_write()

    def refused(self, error: OSError, *, writing: bool = True) -> None:
        """Take note of what the system refused.

        A read that fails in bad times changes nothing: there may be very many of them.
        """
        if not writing and self.state != "ok" and not self.lacks_room:
            return
        now_s = self._clock()
        self.lacks_room = False
        if self.state != "ok" or now_s - self._recovered_at_s < _PAUSE_S[1]:
            self._pause_s = min(max(2 * self._pause_s, _PAUSE_S[0]), _PAUSE_S[1])
        else:
            self._pause_s = _PAUSE_S[0]
        self._write_again_at_s = now_s + self._pause_s
        code = errno.errorcode.get(error.errno or 0, "")
        text = error.strerror or str(error) or type(error).__name__
        self.reason = f"{text} ({code}) at {self._where}" if code else f"{text} at {self._where}"
        state = "full" if error.errno in _FULL else "sick"
        if state != self.state:
            self.state, self.since_s = state, time.time()
            _log.warning("the cache at %s is %s: %s", self._where, state, self.reason)

    def no_room(self, reason: str) -> None:
        """Take note that a limit kept a block out: said once, as the next block may be smaller."""
        self.lacks_room = True
        self.reason = f"{reason}, at {self._where}"
        self._write_again_at_s = float("-inf")
        if self.state != "full":
            self.state, self.since_s = "full", time.time()
        if not self._told:
            self._told = True
            _log.warning("the cache at %s has no room: %s", self._where, self.reason)

    def recovered(self) -> None:
        """Take note that a write succeeded."""
        if self.state == "ok":
            return
        self.state, self.reason, self.since_s = "ok", "", time.time()
        if self.lacks_room:
            self.lacks_room = False
            return
        self._recovered_at_s = self._clock()
        _log.warning("the cache at %s works again", self._where)


def probe(folder: bytes) -> None:
    """Write a little into a folder, under no name.

    Raises
    ------
    OSError
        The medium refuses; EOPNOTSUPP where files have to have names.
    """
    fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    try:
        os.write(fd, bytes(4096))
    finally:
        os.close(fd)


def device_of(path: bytes) -> int:
    """Return the device that ``path`` is on, or would be if it were made."""
    while True:
        try:
            return os.stat(path).st_dev
        except FileNotFoundError:
            path = os.path.dirname(path)
