"""One volume over several buckets. Facts: ``docs/format.md``, "Shards"."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Sequence

from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore

_FNV_OFFSET = 2166136261
_FNV_PRIME = 16777619


def shard_of(name: str, shards: int) -> int:
    """Return which of ``shards`` buckets holds an object: FNV-1a (32 bits) of its full name."""
    value = _FNV_OFFSET
    for byte in name.encode():
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return value % shards


class ShardedStore(ObjectStore):
    """Objects spread over stores by their names.

    Parameters
    ----------
    stores
        In the order of their numbers; at least one.
    address
        The common address, with ``%d`` for the number.
    """

    def __init__(self, stores: Sequence[ObjectStore], address: str) -> None:
        self._stores = list(stores)
        self._address = address
        self.inline = all(store.inline for store in stores)
        self.ranged = all(store.ranged for store in stores)

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` from the bucket of this name."""
        return await self._of(name).get(name, start, stop, length=length)

    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` in the bucket of this name."""
        await self._of(name).put(name, body)

    async def delete(self, name: str) -> None:
        """Remove an object."""
        await self._of(name).delete(name)

    async def head(self, name: str) -> ObjectInfo:
        """Return the stored size and time of an object."""
        return await self._of(name).head(name)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate over the objects of all buckets, merged by name."""
        listings = [store.list(prefix, after) for store in self._stores]
        heads: list[tuple[str, int, ObjectInfo]] = []
        for number, listing in enumerate(listings):
            async for info in listing:
                heads.append((info.name, number, info))
                break
        heapq.heapify(heads)
        while heads:
            _, number, info = heads[0]
            yield info
            async for following in listings[number]:
                heapq.heapreplace(heads, (following.name, number, following))
                break
            else:
                heapq.heappop(heads)

    async def create(self) -> None:
        """Make every bucket."""
        for store in self._stores:
            await store.create()

    async def aclose(self) -> None:
        """Release the connections of every bucket."""
        for store in self._stores:
            await store.aclose()

    def describe(self) -> str:
        """Return the common address."""
        return self._address

    def _of(self, name: str) -> ObjectStore:
        return self._stores[shard_of(name, len(self._stores))]
