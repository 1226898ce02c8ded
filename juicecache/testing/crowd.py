"""One of many clients in one tree: started as ``python -m juicecache.testing.crowd``; see `main`.

All work in the same few directories, some of which come and go. Every name of a file is
used by one thread once, so the operations that succeeded tell which entries there must be at the
end, whoever else did what: nothing lost, nothing doubled. An error that the other clients explain
(a directory is gone, or not empty, or there already) is counted; any other ends the process.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from juicecache.volume.volume import Volume, open_volume

_KEPT = ("/a", "/b", "/a/e")
_REMOVED = ("/c", "/d", "/a/f")
"""Directories that are removed, and made again, and that no mount puts anything into: on PostgreSQL
and MySQL the official client makes entries without a look at what happens to the directory
meanwhile, so that whoever removes it takes them with it."""
DIRECTORIES = _KEPT + _REMOVED
_EXPLAINED = frozenset([errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY])
_PAUSE_S_MAX = 0.01
"""Between two operations. On Redis an official client that loses 50 races in a row answers EIO; on
SQLite, whoever asks all the time has the lock."""
_FILES_MAX = 30
"""Of one thread; behind that it removes more than it makes."""


class Client(Protocol):
    """The operations that both kinds of client do."""

    places: tuple[str, ...]
    """The directories that it puts entries into."""

    def write(self, path: str, content: bytes) -> object:
        """Make a file, or replace its content."""

    def append(self, path: str, content: bytes) -> object:
        """Append to a file."""

    def rename(self, source: str, target: str) -> object:
        """Move a file to a name that nobody has."""

    def link(self, source: str, target: str) -> object:
        """Give a file a second name."""

    def unlink(self, path: str) -> object:
        """Remove a name."""

    def make(self, path: str) -> object:
        """Make a directory."""

    def remove(self, path: str) -> object:
        """Remove an empty directory."""

    def read(self, path: str) -> bytes:
        """Return the content of a file."""


class OurClient:
    """Files through this library."""

    places: tuple[str, ...] = DIRECTORIES

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        # Makes a directory that somebody removed, which a mount does not.
        self.write: Callable[[str, bytes], object] = volume.write_file
        self.rename: Callable[[str, str], object] = volume.rename
        self.link: Callable[[str, str], object] = volume.link
        self.unlink: Callable[[str], object] = volume.unlink
        self.make: Callable[[str], object] = volume.make_directory
        self.remove: Callable[[str], object] = volume.remove_directory
        self.read: Callable[[str], bytes] = volume.read_file

    def append(self, path: str, content: bytes) -> None:
        """Append to a file."""
        with self._volume.open(path, "ab") as file:
            file.write(content)


class MountClient:
    """Files below a mount point."""

    places: tuple[str, ...] = _KEPT

    def __init__(self, point: str) -> None:
        self._point = point

    def write(self, path: str, content: bytes) -> None:
        """Make a file, or replace its content."""
        with open(self._point + path, "wb") as file:
            file.write(content)

    def append(self, path: str, content: bytes) -> None:
        """Append to a file."""
        with open(self._point + path, "ab") as file:
            file.write(content)

    def rename(self, source: str, target: str) -> None:
        """Move a file."""
        os.rename(self._point + source, self._point + target)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        os.link(self._point + source, self._point + target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(self._point + path)

    def make(self, path: str) -> None:
        """Make a directory."""
        os.mkdir(self._point + path)

    def remove(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(self._point + path)

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        with open(self._point + path, "rb") as file:
            return file.read()


class Member(threading.Thread):
    """One thread of a client.

    Attributes
    ----------
    log
        Every operation that ended, with what came of it.
    failure
        The error that no other client explains.
    """

    def __init__(self, client: Client, tag: str, stop_s: float) -> None:
        super().__init__(name=tag)
        self._client = client
        self._stop_s = stop_s
        self._random = random.Random(tag)
        self._number = 0
        self._files: dict[str, bytes] = {}
        self._alias: dict[str, str] = {}
        self.log: list[tuple[str, str, str]] = []
        self.failure = ""

    def run(self) -> None:
        """Do operations until the time is over."""
        steps = [self._write] * 4 + [self._append, self._rename, self._link, self._read] * 2
        steps += [self._unlink] * 3 + [self._make]
        if isinstance(self._client, OurClient):
            # Not through a mount: there the official client looks into a directory as it was before
            # its transaction, and removes it with what others put there meanwhile.
            steps.append(self._remove)
        try:
            while time.time() < self._stop_s and not self.failure:
                time.sleep(self._random.uniform(0, _PAUSE_S_MAX))
                if len(self._files) > _FILES_MAX:
                    self._unlink()
                self._random.choice(steps)()
        except Exception as error:  # shown by the test
            where = getattr(error, "filename", "")
            self.failure = f"{self.log[-3:]}: {error!r} {where}, {time.time():.3f}"

    def expected(self) -> dict[str, int]:
        """Return the checksum of the content that each path must have."""
        return {path: zlib.crc32(content) for path, content in self._files.items()}

    def _try(self, act: Callable[[], object], *what: str) -> bool:
        try:
            act()
        except OSError as error:
            self.log.append((what[0], " ".join(what[1:]), errno.errorcode[error.errno or 0]))
            if error.errno not in _EXPLAINED:
                raise
            return False
        self.log.append((what[0], " ".join(what[1:]), "ok"))
        return True

    def _new_path(self) -> str:
        self._number += 1
        return f"{self._random.choice(self._client.places)}/{self.name}-{self._number}"

    def _content(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 10, 5000, 70_000]))

    def _own(self) -> str | None:
        return self._random.choice(list(self._files)) if self._files else None

    def _write(self) -> None:
        path, content = self._new_path(), self._content()
        if self._try(lambda: self._client.write(path, content), "write", path):
            self._files[path] = content

    def _append(self) -> None:
        path, content = self._own(), self._content()
        if path and self._must(lambda: self._client.append(path, content), "append", path):
            names = {name for name in self._files if self._first(name) == self._first(path)}
            changed = self._files[path] + content
            self._files |= dict.fromkeys(names, changed)

    def _rename(self) -> None:
        path, target = self._own(), self._new_path()
        if path and self._try(lambda: self._client.rename(path, target), "rename", path, target):
            self._alias[target] = self._first(path)
            self._files[target] = self._files.pop(path)

    def _link(self) -> None:
        path, target = self._own(), self._new_path()
        if path and self._try(lambda: self._client.link(path, target), "link", path, target):
            self._alias[target] = self._first(path)
            self._files[target] = self._files[path]

    def _unlink(self) -> None:
        path = self._own()
        if path and self._must(lambda: self._client.unlink(path), "unlink", path):
            del self._files[path]

    def _read(self) -> None:
        path = self._own()
        if path is not None:
            found = self._client.read(path)
            if found != self._files[path]:
                self.failure = f"{path} has {len(found)} bytes, not {len(self._files[path])}"

    def _make(self) -> None:
        path = self._random.choice(DIRECTORIES)
        self._try(lambda: self._client.make(path), "mkdir", path)

    def _remove(self) -> None:
        path = self._random.choice(_REMOVED)
        self._try(lambda: self._client.remove(path), "rmdir", path)

    def _first(self, path: str) -> str:
        """Return the first name of the file: its names share the content."""
        return self._alias.get(path, path)

    def _must(self, act: Callable[[], object], *what: str) -> bool:
        """Do what nobody else can have made impossible."""
        if not self._try(act, *what):
            self.failure = f"{what} failed: {self.log[-1]}"
            return False
        return True


def main(argv: Sequence[str] | None = None) -> None:
    """Run the threads of one client and print what must be there, and what happened, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("place", help="a metadata URL, or a mount point")
    parser.add_argument("tag")
    parser.add_argument("threads", type=int)
    parser.add_argument("stop_s", type=float)
    given = parser.parse_args(argv)
    volume = open_volume(given.place, cache_size="0") if "://" in given.place else None
    client: Client = OurClient(volume) if volume else MountClient(given.place)
    members = [
        Member(client, f"{given.tag}{number}", given.stop_s) for number in range(given.threads)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
    if volume is not None:
        volume.close()
    expected: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for member in members:
        expected |= member.expected()
        counts.update(f"{what} {outcome}" for what, _, outcome in member.log)
    failures = [member.failure for member in members if member.failure]
    print(json.dumps({"expected": expected, "counts": counts, "failures": failures}))


if __name__ == "__main__":
    main()
