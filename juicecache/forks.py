"""Quiet points around ``os.fork`` for what a fork would break: tiers, metadata engines.

Laws: a child never waits for a lock that a thread of its parent held, never uses a file
descriptor whose lock belongs to its parent, and inherits nothing half-way through. SQLite
above all keeps its file locks per process in memory that a fork copies: a child that merely
has the parent's handle open believes in locks that it does not hold.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What a part does around a fork; neither call may raise."""

    def before_fork(self) -> None:
        """Come to a state that can be copied, and keep other threads from leaving it."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on, in the parent or as the only thread of the child."""


# fork() knows no part, so someone must: weakly, like the locks of ``logging``.
_live: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []
_forking = threading.RLock()


def survive_fork(part: Forkable) -> None:
    """Call the two methods of ``part`` around every fork for as long as it lives."""
    with _forking:  # a part that appears half-way through a fork would be missed
        _live.add(part)


def _before() -> None:
    _forking.acquire()
    for part in list(_live):
        part.before_fork()
        _held.append(part)


def _after_in_parent() -> None:
    while _held:
        _held.pop().after_fork(in_child=False)
    _forking.release()


def _after_in_child() -> None:
    while _held:
        _held.pop().after_fork(in_child=True)
    _forking.release()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
