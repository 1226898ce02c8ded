"""Object storage that answers late on purpose: a volume on a local directory acts a far one.

For demonstrations and measurements. What is measured through it is a simulation, and whoever
shows it says so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from juicecache.objects.store import Buffer, ObjectStore
from juicecache.objects.wrap import StoreWrapper


class LateStore(StoreWrapper):
    """Passes every request on after a pause; requests pause at the same time, not in turn."""

    def __init__(self, inner: ObjectStore, pause_s: float) -> None:
        super().__init__(inner)
        self.inline = False  # a pause suspends: the requests must be on the event loop
        self._pause_s = pause_s

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes of an object, late."""
        await asyncio.sleep(self._pause_s)
        return await self._inner.get(name, start, stop, length=length)

    async def put(self, name: str, body: Buffer) -> None:
        """Store an object, late."""
        await asyncio.sleep(self._pause_s)
        await self._inner.put(name, body)

    async def delete(self, name: str) -> None:
        """Remove an object, late."""
        await asyncio.sleep(self._pause_s)
        await self._inner.delete(name)

    def describe(self) -> str:
        """Return the address, and that it is slowed down."""
        return f"{self._inner.describe()} (simulated latency of {self._pause_s * 1000:g} ms)"


@dataclass(frozen=True, slots=True)
class Latency:
    """What makes a store late, for ``Volume(wrap_store=...)``; pickles."""

    pause_s: float

    def __call__(self, store: ObjectStore) -> ObjectStore:
        """Return the store behind a pause."""
        return LateStore(store, self.pause_s)
