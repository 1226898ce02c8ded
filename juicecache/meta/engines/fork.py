"""Quiet points for engines around ``os.fork``.

Law: no engine is in the middle of anything while the process forks, and no database handle
crosses a fork. SQLite keeps its file locks per process in memory that a fork copies: a
child that merely has the parent's handle open believes in locks that it does not hold.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What an engine does around a fork; each call must not raise."""

    def before_fork(self) -> None:
        """Wait until nothing runs, let go of handles, and keep others from starting."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on, in the parent or as the only thread of the child."""


# fork() knows no engine, so someone must: weakly, like the locks of ``logging``.
_live: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []
_forking = threading.RLock()


def quiesce_on_fork(engine: Forkable) -> None:
    """Call the two methods of ``engine`` around every fork for as long as it lives."""
    with _forking:  # an engine that appears half-way through a fork would be missed
        _live.add(engine)


def _before() -> None:
    _forking.acquire()
    for engine in list(_live):
        engine.before_fork()
        _held.append(engine)


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
