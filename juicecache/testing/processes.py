"""Other processes and threads for tests: forked children that never return, and waiting."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import juicecache

_PATIENCE_S = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds; AssertionError after a minute."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.01)


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


@contextmanager
def forking_runner(code: str) -> Iterator[Callable[..., int]]:
    """Start ``code`` in a new interpreter, which ends with `serve_forks`.

    Yields a function that hands a child of it arguments without spaces, and returns the exit
    code of that child, negative for a signal. What all children need is so imported once.
    """
    root = str(Path(juicecache.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as runner:
        asking, answering = runner.stdin, runner.stdout
        assert asking is not None
        assert answering is not None

        def run(*arguments: object) -> int:
            asking.write(" ".join(map(str, arguments)) + "\n")
            asking.flush()
            return int(answering.readline())

        yield run


def serve_forks(work: Callable[..., object]) -> None:
    """Call ``work`` with the words of each line of the input, in a child; print its exit code."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                work(*line.split())
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
