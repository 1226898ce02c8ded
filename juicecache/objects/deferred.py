"""A store that is made at its first request.

A driver may take a quarter of a second to import. A process that finds everything in the
caches of its node, such as a worker that reads for a few seconds, never needs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore


class DeferredStore(ObjectStore):
    """Makes its store when first asked; requests all come on the one loop thread.

    Parameters
    ----------
    make
        Returns the store, which is not ``inline``.
    address
        What `describe` answers meanwhile.
    """

    def __init__(self, make: Callable[[], ObjectStore], address: str) -> None:
        self._make = make
        self._address = address
        self._made: ObjectStore | None = None

    @property
    def _store(self) -> ObjectStore:
        if self._made is None:
            self._made = self._make()
        return self._made

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of an object."""
        return await self._store.get(name, start, stop, length=length)

    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` under ``name``."""
        await self._store.put(name, body)

    async def delete(self, name: str) -> None:
        """Remove an object."""
        await self._store.delete(name)

    async def head(self, name: str) -> ObjectInfo:
        """Return the size and time of an object."""
        return await self._store.head(name)

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate over objects by name."""
        return self._store.list(prefix, after)

    async def create(self) -> None:
        """Make the bucket where it is missing."""
        await self._store.create()

    async def aclose(self) -> None:
        """Release connections, if there ever were any."""
        if self._made is not None:
            await self._made.aclose()

    def describe(self) -> str:
        """Return the address for people."""
        return self._address
