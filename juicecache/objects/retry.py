"""Another try after what may pass: `ObjectUnavailableError`, and nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from juicecache.errors import ObjectUnavailableError
from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore
from juicecache.objects.wrap import StoreWrapper

T = TypeVar("T")

PAUSE_S = 0.1
"""Before the first repeat: longer than a lost packet, shorter than a reader notices."""

PAUSE_S_MAX = 10.0
"""A service that asks to slow down recovers in seconds; longer pauses only add to the wait."""

DEADLINE_S = 300.0
"""No new try begins later: a reader that hangs for longer is worse than an error."""


class RetryStore(StoreWrapper):
    """Repeats requests, with pauses that double and are drawn at random below that.

    Every operation of a store may be repeated safely: objects are written whole, and
    removing an absent one is no error.

    Parameters
    ----------
    retries
        Tries after the first.
    sleep, clock
        What tests replace.
    """

    def __init__(
        self,
        inner: ObjectStore,
        retries: int,
        *,
        deadline_s: float = DEADLINE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._retries = retries
        self._deadline_s = deadline_s
        self._sleep = sleep
        self._clock = clock

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of an object's content."""
        return await self._repeat(lambda: self._inner.get(name, start, stop, length=length))

    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` under ``name``."""
        await self._repeat(lambda: self._inner.put(name, body))

    async def delete(self, name: str) -> None:
        """Remove an object."""
        await self._repeat(lambda: self._inner.delete(name))

    async def head(self, name: str) -> ObjectInfo:
        """Return the stored size and time of an object."""
        return await self._repeat(lambda: self._inner.head(name))

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate by name; after a failure the listing goes on behind the last name given."""
        failures, began = 0, self._clock()
        while True:
            try:
                async for info in self._inner.list(prefix, after):
                    after = info.name
                    failures, began = 0, self._clock()
                    yield info
                return
            except ObjectUnavailableError as error:
                failures += 1
                await self._pause(error, failures, began)

    async def create(self) -> None:
        """Make the bucket or directory where it is missing."""
        await self._repeat(self._inner.create)

    async def _repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        failures, began = 0, self._clock()
        while True:
            try:
                return await call()
            except ObjectUnavailableError as error:
                failures += 1
                await self._pause(error, failures, began)

    async def _pause(self, error: ObjectUnavailableError, failures: int, began: float) -> None:
        """Sleep before the next try, or raise ``error`` when there is none."""
        # min() first: two to the power of many failures is no float.
        pause_s = random.uniform(0, min(PAUSE_S_MAX, PAUSE_S * 2 ** min(failures, 16)))
        if failures > self._retries or self._clock() + pause_s > began + self._deadline_s:
            raise error
        await self._sleep(pause_s)
