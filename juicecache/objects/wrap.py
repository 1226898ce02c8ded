"""What all wrappers of object stores share. One wrapper adds one quality.

A wrapper passes on everything that it does not change, and is as inline as the store
that it wraps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore
from juicecache.runtime import BoundedExecutor

T = TypeVar("T")

CODEC_WORKERS = 2
"""Threads for compression and encryption: they keep the loop free, and more of them would
take cores from the readers."""


class StoreWrapper(ObjectStore):
    """A store that passes everything to another one; subclasses change a part."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.inline = inner.inline
        self.ranged = inner.ranged

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of an object's content."""
        return await self._inner.get(name, start, stop, length=length)

    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` under ``name``."""
        await self._inner.put(name, body)

    async def delete(self, name: str) -> None:
        """Remove an object."""
        await self._inner.delete(name)

    async def head(self, name: str) -> ObjectInfo:
        """Return the stored size and time of an object."""
        return await self._inner.head(name)

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate over objects, by name."""
        return self._inner.list(prefix, after)

    async def create(self) -> None:
        """Make the bucket or directory where it is missing."""
        await self._inner.create()

    async def aclose(self) -> None:
        """Release connections."""
        await self._inner.aclose()

    def describe(self) -> str:
        """Return the address for people, without a secret."""
        return self._inner.describe()


class CodecWrapper(StoreWrapper):
    """A wrapper that changes whole bodies, off the event loop where there is one."""

    def __init__(self, inner: ObjectStore, executor_name: str, inline_bytes: int) -> None:
        super().__init__(inner)
        self.ranged = False
        self._inline_bytes = inline_bytes
        self._executor = BoundedExecutor(CODEC_WORKERS, executor_name)

    async def run(self, size_bytes: int, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(*args)``: here if it is short or must be inline, else on a thread."""
        if self.inline or size_bytes < self._inline_bytes:
            return call(*args)
        return await asyncio.get_running_loop().run_in_executor(self._executor.pool, call, *args)

    async def aclose(self) -> None:
        """Stop the threads and release connections."""
        self._executor.close(wait=False)
        await super().aclose()


def part(content: bytes, start: int, stop: int | None) -> bytes:
    """Return ``[start, stop)`` of the whole content, without a copy when that is all."""
    return content if start == 0 and (stop is None or stop >= len(content)) else content[start:stop]
