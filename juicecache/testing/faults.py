"""Object stores that fail on purpose, for tests of what stands above them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Container

from juicecache.errors import ObjectNotFoundError, ObjectUnavailableError
from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore
from juicecache.objects.wrap import StoreWrapper


class FaultyStore(StoreWrapper):
    """Passes everything on, except where it was told to fail. Counts what it was asked.

    Attributes
    ----------
    calls
        How often each of ``get``, ``put``, ``delete``, ``head`` was called.
    asked
        (operation, name) of each call, in order.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []
        self._failures: dict[str, tuple[Container[int], Callable[[str], Exception]]] = {}
        self._pauses: dict[str, Callable[[], Awaitable[None]]] = {}
        self._corrupt: set[str] = set()
        self._lost: set[str] = set()

    def fail(
        self,
        operation: str,
        numbers: Container[int],
        error: Callable[[str], Exception] = lambda name: ObjectUnavailableError(name, "a fault"),
    ) -> None:
        """Raise ``error(name)`` in the calls of an operation with these numbers, from 1."""
        self._failures[operation] = numbers, error

    def hold(self, operation: str, event: asyncio.Event) -> None:
        """Let calls of an operation wait for ``event`` (of a store that is not inline)."""

        async def wait() -> None:
            await event.wait()

        self._pauses[operation] = wait

    def delay(self, operation: str, seconds: float) -> None:
        """Let calls of an operation take ``seconds`` longer (of a store that is not inline)."""
        self._pauses[operation] = lambda: asyncio.sleep(seconds)

    def corrupt(self, name: str) -> None:
        """Return this object with its first byte changed."""
        self._corrupt.add(name)

    def lose(self, name: str) -> None:
        """Act as if this object did not exist, until it is put again."""
        self._lost.add(name)

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes of an object, or fail."""
        await self._enter("get", name)
        content = await self._inner.get(name, start, stop, length=length)
        if name in self._corrupt and start == 0 and content:
            return bytes([content[0] ^ 0xFF]) + content[1:]
        return content

    async def put(self, name: str, body: Buffer) -> None:
        """Store an object, or fail before that."""
        await self._enter("put", name)
        await self._inner.put(name, body)
        self._lost.discard(name)

    async def delete(self, name: str) -> None:
        """Remove an object, or fail before that."""
        await self._enter("delete", name)
        await self._inner.delete(name)

    async def head(self, name: str) -> ObjectInfo:
        """Return the size of an object, or fail."""
        await self._enter("head", name)
        return await self._inner.head(name)

    async def _enter(self, operation: str, name: str) -> None:
        self.calls[operation] += 1
        self.asked.append((operation, name))
        number = self.calls[operation]
        if operation in self._pauses:
            await self._pauses[operation]()
        numbers, error = self._failures.get(operation, ((), ObjectUnavailableError))
        if number in numbers:
            raise error(name)
        if name in self._lost and operation in ("get", "head"):
            raise ObjectNotFoundError(name, "lost")
