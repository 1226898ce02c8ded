"""Blocks in files for tests of what peers say to each other, with loads that a test can hold."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from juicecache.model.segments import bounds, pack_sums, segment_sums, touched
from juicecache.peers.source import Held, Warmed
from juicecache.peers.wire import Name

_WAIT_S = 20.0
"""For what a test expects; much more than anything here takes."""
_NAME_CHARS_MAX = 100


class FilesSource:
    """The `Source` of a member whose object storage is a dictionary.

    Attributes
    ----------
    stored
        What object storage has.
    cached
        The names that are here; their bytes stand in files.
    in_memory
        Names whose bytes are sent from memory instead.
    failing
        Names whose load fails.
    is_busy
        Nothing is loaded, warmed or kept.
    is_held
        Loads, warm-ups and what is to be kept wait for `release`.
    calls
        How often each method was called.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stored: dict[str, bytes] = {}
        self.cached: set[str] = set()
        self.in_memory: set[str] = set()
        self.failing: set[str] = set()
        self.bad: set[str] = set()
        self.is_busy = self.is_held = False
        self.calls: Counter[str] = Counter()
        self.facts: dict[str, Any] = {"blocks": 0}
        self._changed = threading.Condition()
        self._waiting: list[tuple[str, Callable[[], None]]] = []

    def add(self, name: str, content: bytes, *, cached: bool = True) -> Name:
        """Store a block, and cache it."""
        self.stored[name] = content
        if cached:
            self._cache(name, content)
        return Name(name, len(content))

    def wait_for(self, count: int) -> None:
        """Wait until so many loads, warm-ups or blocks to keep are held."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._waiting) >= count, _WAIT_S)

    def release(self, *names: str) -> None:
        """Let what is held for these blocks go on; without names, everything."""
        with self._changed:
            going = [one for one in self._waiting if not names or one[0] in names]
            self._waiting = [one for one in self._waiting if one not in going]
        for _, step in going:
            step()

    # ------------------------------------------------------------------ the Source

    def find(self, block: Name, start: int, stop: int) -> Held | None:
        """Return the segments around bytes ``[start, stop)`` of a cached block."""
        self.calls["find"] += 1
        if block.name not in self.cached or len(self.stored[block.name]) != block.length:
            return None  # only names that `_cache` took are paths
        first, last = bounds(touched(start, stop), block.length)
        content = memoryview(self.stored[block.name])[first:last]
        sums = pack_sums(segment_sums(content))
        if block.name in self.in_memory:
            return Held(-1, 0, last - first, content, sums)
        fd = os.open(self._folder / block.name, os.O_RDONLY | os.O_CLOEXEC)
        return Held(fd, first, last - first, None, sums)

    def load(self, block: Name, start: int, stop: int, done: Callable[[Held | None], None]) -> bool:
        """Cache a stored block."""

        def step() -> None:
            done(self.find(block, start, stop) if self._fetch(block) else None)

        return self._begin("load", block, step)

    def warm(self, block: Name, done: Callable[[Warmed], None]) -> bool:
        """Cache a stored block, unless it is."""

        def step() -> None:
            if block.name in self.cached:
                done(Warmed.CACHED)
            else:
                done(Warmed.LOADED if self._fetch(block) else Warmed.FAILED)

        return self._begin("warm", block, step)

    def keep(self, block: Name, content: bytearray, done: Callable[[bool], None]) -> bool:
        """Cache a block that somebody brings."""

        def step() -> None:
            if block.name in self.failing or not _is_name(block.name):
                done(False)
                return
            self.stored[block.name] = bytes(content)
            self._cache(block.name, self.stored[block.name])
            done(True)

        return self._begin("keep", block, step)

    def has(self, block: Name) -> bool:
        """Return whether a block is cached."""
        self.calls["has"] += 1
        return block.name in self.cached

    def drop(self, block: Name) -> bool:
        """Forget a block."""
        was_here = block.name in self.cached
        self.cached.discard(block.name)
        return was_here

    def examine(self, block: Name) -> bool:
        """Drop a block that a test calls bad."""
        return block.name in self.bad and self.drop(block)

    def stats(self) -> dict[str, Any]:
        """Return what a test put there."""
        return self.facts

    # ------------------------------------------------------------------

    def _begin(self, call: str, block: Name, step: Callable[[], None]) -> bool:
        self.calls[call] += 1
        if self.is_busy:
            return False
        if not self.is_held:
            step()
            return True
        with self._changed:
            self._waiting.append((block.name, step))
            self._changed.notify_all()
        return True

    def _fetch(self, block: Name) -> bool:
        content = self.stored.get(block.name)
        if content is None or len(content) != block.length or block.name in self.failing:
            return False
        self._cache(block.name, content)
        return True

    def _cache(self, name: str, content: bytes) -> None:
        # Another thread may be sending what has the name now.
        written = self._folder / f"{name}-{threading.get_ident()}"
        written.write_bytes(content)
        written.replace(self._folder / name)
        self.cached.add(name)


def _is_name(name: str) -> bool:
    return name.isascii() and name.isalnum() and len(name) < _NAME_CHARS_MAX
