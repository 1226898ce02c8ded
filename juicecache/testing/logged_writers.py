"""Threads that write until they are told to stop, and keep a log of what became of each write."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from juicecache.errors import CommitUnknownError, JuicecacheError
from juicecache.testing.processes import wait_for
from juicecache.volume.volume import Volume


class LoggedWriter(threading.Thread):
    """Makes one file after another in a directory of its own.

    Attributes
    ----------
    folder
        Where it makes them.
    done, unknown
        Paths, in order: of files that were made, and of those of which no answer came.
    failures
        Every other error.
    """

    def __init__(self, volume: Volume, folder: str) -> None:
        super().__init__(name=f"writer of {folder}")
        self.volume = volume
        self.folder = folder
        self.done: list[str] = []
        self.unknown: list[str] = []
        self.failures: list[JuicecacheError] = []
        self._end = threading.Event()
        volume.make_directory(folder)

    def run(self) -> None:
        """Write until the end is near."""
        while not self._end.is_set():
            path = f"{self.folder}/{len(self.done) + len(self.unknown) + len(self.failures)}"
            try:
                self.volume.write_file(path, path.encode(), exclusive=True)
                self.done.append(path)
            except CommitUnknownError:
                self.unknown.append(path)
            except JuicecacheError as error:
                self.failures.append(error)

    def stop(self) -> None:
        """Let it finish what it does, and wait for that."""
        self._end.set()
        self.join()

    def check(self, *, lost: Sequence[str] = ()) -> None:
        """Assert that the volume holds what the log says, each file once and whole.

        Parameters
        ----------
        lost
            Files that may be missing even though they were made.
        """
        assert self.failures == []
        found = {f"{self.folder}/{one.name}" for one in self.volume.list_directory(self.folder)}
        assert found <= {*self.done, *self.unknown}
        assert set(self.done) - found <= set(lost)
        for path in found:
            assert self.volume.read_file(path) == path.encode()


@contextmanager
def logged_writers(volume: Volume, count: int) -> Iterator[list[LoggedWriter]]:
    """Run writers, each with a few files made already; they have stopped behind the block."""
    writers = [LoggedWriter(volume, f"/{number}") for number in range(count)]
    for writer in writers:
        writer.start()
    try:
        wait_for_more(writers)
        yield writers
        wait_for_more(writers)
    finally:
        for writer in writers:
            writer.stop()


def wait_for_more(writers: Sequence[LoggedWriter], more: int = 20) -> None:
    """Wait until each writer has made some more files."""
    goals = [len(writer.done) + more for writer in writers]
    wait_for(lambda: all(len(one.done) >= goal for one, goal in zip(writers, goals, strict=True)))
