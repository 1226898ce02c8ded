"""How many requests and how many bytes a second at once.

An inline store gets no limits: it must not suspend, and a local disk needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from juicecache.objects.store import Buffer, ObjectStore
from juicecache.objects.wrap import StoreWrapper

BURST_S = 0.1
"""How much unused time may be made up for: enough to even out the loop's timers."""

_BYTES_PER_MEGABIT = 125_000


class Pace:
    """Bytes at a rate: who takes some waits until all that was taken before has passed."""

    def __init__(
        self,
        megabits_per_s: float,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = megabits_per_s * _BYTES_PER_MEGABIT
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    async def take(self, size_bytes: int) -> None:
        """Wait for the turn of ``size_bytes``. A rate of 0 never waits."""
        if not self._bytes_per_s:
            return
        now = self._clock() if self._clock else asyncio.get_running_loop().time()
        begins = max(self._free_at, now - BURST_S)
        self._free_at = begins + size_bytes / self._bytes_per_s
        if begins > now:
            await self._sleep(begins - now)


@dataclass(slots=True)
class _Turns:
    """The semaphores of one loop: a forked child's loop must not inherit taken ones."""

    loop: asyncio.AbstractEventLoop
    downloads: asyncio.Semaphore
    uploads: asyncio.Semaphore
    download_pace: Pace = field(repr=False)
    upload_pace: Pace = field(repr=False)


class LimitedStore(StoreWrapper):
    """Bounds requests and bandwidth; waiting requests take turns in the order of arrival.

    Parameters
    ----------
    max_downloads, max_uploads
        GETs and PUTs under way at once.
    download_limit_mbps, upload_limit_mbps
        Megabits a second; 0 is no limit.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        max_downloads: int,
        max_uploads: int,
        download_limit_mbps: float = 0,
        upload_limit_mbps: float = 0,
    ) -> None:
        if inner.inline:
            raise ValueError("an inline store must not suspend, so it takes no limits")
        super().__init__(inner)
        self._max_downloads = max_downloads
        self._max_uploads = max_uploads
        self._download_limit_mbps = download_limit_mbps
        self._upload_limit_mbps = upload_limit_mbps
        self._turns: _Turns | None = None

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of an object's content."""
        turns = self._turns_here()
        end = length if stop is None else stop
        async with turns.downloads:
            if end is not None:
                await turns.download_pace.take(max(0, end - start))
            content = await self._inner.get(name, start, stop, length=length)
            if end is None:  # the size was unknown, so the next one waits for it
                await turns.download_pace.take(len(content))
            return content

    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` under ``name``."""
        turns = self._turns_here()
        async with turns.uploads:
            await turns.upload_pace.take(memoryview(body).nbytes)
            await self._inner.put(name, body)

    def _turns_here(self) -> _Turns:
        loop = asyncio.get_running_loop()
        turns = self._turns
        if turns is None or turns.loop is not loop:
            turns = self._turns = _Turns(
                loop,
                asyncio.Semaphore(self._max_downloads),
                asyncio.Semaphore(self._max_uploads),
                Pace(self._download_limit_mbps),
                Pace(self._upload_limit_mbps),
            )
        return turns
