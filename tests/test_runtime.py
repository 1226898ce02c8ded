"""What the process has once: here the collector of cycles, off while many objects are made."""

from __future__ import annotations

import gc
import threading

import pytest

from juicecache.runtime import collector_paused
from juicecache.testing.processes import in_child


def test_the_collector_goes_on_when_nobody_has_a_reason_any_more() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with collector_paused():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with collector_paused():
        thread.start()
        inside.wait(30)
        assert not gc.isenabled()
    assert not gc.isenabled()
    # The child has no such thread, and its own pauses end as well.
    assert in_child(lambda: not gc.isenabled()) == 0
    assert in_child(lambda: _pause_and_raise() or not gc.isenabled()) == 0
    leave.set()
    thread.join(30)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        _pause_and_raise()
        assert not gc.isenabled()
    finally:
        gc.enable()


def _pause_and_raise() -> None:
    with pytest.raises(ZeroDivisionError), collector_paused():
        raise ZeroDivisionError
