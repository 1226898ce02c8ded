"""Our blocks for other members of the cache group: what their requests come down to here.

Laws: names come from outside and are looked at before anything else; nothing that is loaded for
others is asked of a further member, except of the former owner's cache; what is under way for
them is bounded like our own reads, the rest waits in line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from juicecache.cache.stack import TierStack
from juicecache.errors import ClosedError, JuicecacheError
from juicecache.model.layout import BlockKey, parse_block_name
from juicecache.model.segments import Held, held_content
from juicecache.peers.group import Group
from juicecache.peers.source import Warmed
from juicecache.peers.wire import Name
from juicecache.runtime import BoundedExecutor
from juicecache.volume.blocks import Blocks
from juicecache.volume.flight import Flight

_KEEPERS = 4
"""Threads that put what was loaded into the tiers: they wait for a disk, not for a network."""
_WAITING_MAX = 8192
"""Loads that wait in line, some kilobytes each; beyond, callers are told that we are busy."""
BACKUP_S = 600.0
"""How long a new member asks the former owners: by then it has seen what is used."""

logger = logging.getLogger("juicecache")

Done = Callable[[Flight | None], None]


class BlockSource:
    """The `juicecache.peers.source.Source` of one volume in this process.

    Parameters
    ----------
    about
        What we are, in plain values; goes in front of `stats`.
    loading_bytes_max
        What may be on its way at once.
    backup_until_s
        Monotonic time until which the former owner of a block is asked first.
    """

    def __init__(
        self,
        blocks: Blocks,
        group: Group,
        about: Callable[[], dict[str, Any]],
        *,
        loading_bytes_max: int,
        backup_until_s: float = 0.0,
    ) -> None:
        self._blocks = blocks
        self._tiers: TierStack = blocks.tiers
        self._group = group
        self._about = about
        self._loading_bytes_max = loading_bytes_max
        self._backup_until_s = backup_until_s
        self._keepers = BoundedExecutor(_KEEPERS, "juicecache-keep")
        self._lock = threading.Lock()
        self._line: deque[tuple[BlockKey, Done]] = deque()
        self._under_way = 0
        self._closed = False
        self._handed_on = 0

    @property
    def is_backed_up(self) -> bool:
        """Whether former owners are asked now."""
        return time.monotonic() < self._backup_until_s

    # ------------------------------------------------------------------ what is here

    def find(self, block: Name, start: int, stop: int) -> Held | None:
        """Return segments from the tiers; see `Source.find`."""
        key = self._key(block)
        return None if key is None else self._tiers.hold(key, start, stop)

    def has(self, block: Name) -> bool:
        """Return whether a tier has a block."""
        key = self._key(block)
        return key is not None and self._tiers.contains(key)

    def drop(self, block: Name) -> bool:
        """Forget a block; True when it was here."""
        key = self._key(block)
        return key is not None and self._blocks.evict(key)

    def examine(self, block: Name) -> bool:
        """Compare our copies of a block; True when one was bad, and is dropped."""
        key = self._key(block)
        return key is not None and self._tiers.examine(key)

    def _key(self, block: Name) -> BlockKey | None:
        """Return the key of a block; None for what is no name of one of this volume."""
        parsed = parse_block_name(block.name)
        layout = self._blocks.layout
        if parsed is None or parsed[2] != block.length or block.length > layout.block_bytes:
            return None
        return BlockKey(layout.namespace, block.name, block.length)

    # ------------------------------------------------------------------ what has to be loaded

    def load(self, block: Name, start: int, stop: int, done: Callable[[Held | None], None]) -> bool:
        """Load a block and hand out segments of it; see `Source.load`."""
        key = self._key(block)
        if key is None:
            done(None)
            return True

        def end(flight: Flight | None) -> None:
            done(None if flight is None else self._cut(flight, start, stop))

        return self._enter(key, end)

    def _cut(self, flight: Flight, start: int, stop: int) -> Held:
        # From the file where it was kept: what waits to be sent then holds no memory.
        held = self._tiers.hold(flight.key, start, stop)
        if held is not None:
            self._handed_on += 1  # without a lock, as the tiers count
        return held or held_content(memoryview(flight.future.result()), start, stop)

    def warm(self, block: Name, done: Callable[[Warmed], None]) -> bool:
        """Load a block unless it is here; see `Source.warm`."""
        key = self._key(block)
        if key is None:
            done(Warmed.FAILED)
            return True
        if self._tiers.contains(key):
            done(Warmed.CACHED)
            return True

        def end(flight: Flight | None) -> None:
            if flight is None:
                done(Warmed.FAILED)
            else:
                done(Warmed.LOADED if self._tiers.contains(key) else Warmed.DROPPED)

        return self._enter(key, end)

    def keep(self, block: Name, content: bytearray, done: Callable[[bool], None]) -> bool:
        """Put a block into the tiers, on another thread; see `Source.keep`."""
        key = self._key(block)
        if key is None:
            done(False)
            return True
        return self._on_keeper(lambda: done(self._tiers.put(key, memoryview(content))))

    def _enter(self, key: BlockKey, done: Done) -> bool:
        """Get in line for a load."""
        with self._lock:
            if self._closed or len(self._line) >= _WAITING_MAX:
                return False
            self._line.append((key, done))
        if self._blocks.inline:
            # Loads end where they begin, and whoever calls this must not wait.
            return self._on_keeper(self._advance)
        self._advance()
        return True

    def _advance(self) -> None:
        """Begin the loads in line, as far as there is room."""
        while True:
            with self._lock:
                is_full = self._under_way and self._blocks.loading_bytes >= self._loading_bytes_max
                if not self._line or is_full:
                    return
                key, done = self._line.popleft()
                self._under_way += 1
            former = self._group.former_owner(key.raw) if self.is_backed_up else None
            try:
                flight = self._blocks.begin_own(key, former)
            except Exception:  # there may be no threads any more: the process ends
                logger.exception("block %s cannot be loaded for another member", key.name)
                with self._lock:
                    self._under_way -= 1
                done(None)
                continue
            flight.future.add_done_callback(
                lambda _, flight=flight, done=done: self._came(flight, done)  # type: ignore[misc]  # mypy cannot infer a lambda default
            )

    def _came(self, flight: Flight, done: Done) -> None:
        """Take the end of a load, on whatever thread it comes."""
        if not self._on_keeper(partial(self._settle, flight, done)):
            self._blocks.abandon((flight,))
            self._end(None, done)

    def _settle(self, flight: Flight, done: Done) -> None:
        ended = None
        try:
            self._blocks.settle(flight)
            ended = flight
        except JuicecacheError:
            pass  # the caller asks object storage himself, and hears what is wrong
        except Exception:
            # Whatever it is: somebody waits for an answer, and others for this to end.
            logger.exception("block %s was not loaded for another member", flight.key.name)
        self._end(ended, done)

    def _end(self, flight: Flight | None, done: Done) -> None:
        with self._lock:
            self._under_way -= 1
        try:
            done(flight)
        finally:
            self._advance()

    def _on_keeper(self, call: Callable[[], None]) -> bool:
        try:
            self._keepers.submit(call)
        except (ClosedError, RuntimeError):  # we are being closed, or the interpreter ends
            return False
        return True

    # ------------------------------------------------------------------ the rest

    def stats(self) -> dict[str, Any]:
        """Return what this member has and did, as plain values.

        A block that was loaded is no hit, although it is sent from a tier; one that no tier
        had is one miss.
        """
        tiers = self._tiers.stats()
        blocks = self._blocks.stats()
        return {
            **self._about(),
            "capacity_bytes": sum(tier.capacity_bytes for tier in tiers),
            "used_bytes": sum(tier.used_bytes for tier in tiers),
            "items": sum(tier.items for tier in tiers),
            "hits": max(0, sum(tier.hits for tier in tiers) - self._handed_on),
            "misses": tiers[-1].misses if tiers else 0,
            "states": [tier.state for tier in tiers],
            "reasons": [tier.reason for tier in tiers if tier.reason],
            "loads": blocks.loads,
            "loaded_bytes": blocks.loaded_bytes,
        }

    def close(self) -> None:
        """Begin nothing more, and stop the threads. Safe to call twice.

        Who waits in line is not answered: the server is closed by now.
        """
        with self._lock:
            self._closed = True
            self._line.clear()
        self._keepers.close()
