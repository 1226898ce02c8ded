"""The store of a volume whose address, keys or limits change while it is open.

Laws: a request that is under way ends where it began; a store that was replaced is closed when
nobody can have a request there any more. What cannot be replaced stays, and that is logged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from juicecache.errors import JuicecacheError
from juicecache.objects.build import StoreConfig, open_store
from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore
from juicecache.objects.wrap import StoreWrapper
from juicecache.runtime import start

log = logging.getLogger("juicecache")

_RETIRED_MAX = 2
"""Stores that wait to be closed. A change comes at most once a heartbeat, so that requests have two
of them to end; keys that are renewed again and again leave no more connections behind."""


class ReplaceableStore(StoreWrapper):
    """Passes every request to the store that is current when it is made.

    Parameters
    ----------
    config
        How the first one is reached.
    """

    def __init__(self, config: StoreConfig) -> None:
        super().__init__(open_store(config))
        self._config = config
        self._retired: deque[ObjectStore] = deque()

    def take_over(self, config: StoreConfig) -> bool:
        """Send requests to another store from now on; return whether they go there.

        Not between a local folder and a service: what is above has settled how it waits.
        """
        if config == self._config:
            return True
        try:
            store = open_store(config)
        except JuicecacheError as error:
            log.warning("object storage stays as it was until the volume is opened anew: %s", error)
            return False
        if (store.inline, store.ranged) != (self.inline, self.ranged):
            log.warning(
                "object storage moved to %s: open the volume anew to follow", store.describe()
            )
            start(store.aclose(), inline=store.inline)
            return False
        self._retired.append(self._inner)
        self._inner, self._config = store, config
        while len(self._retired) > _RETIRED_MAX:
            old = self._retired.popleft()
            start(old.aclose(), inline=old.inline)
        return True

    # Plain functions: a request costs no coroutine more.

    def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> Coroutine[Any, Any, bytes]:
        """Return bytes ``[start, stop)`` of an object's content."""
        return self._inner.get(name, start, stop, length=length)

    def put(self, name: str, body: Buffer) -> Coroutine[Any, Any, None]:
        """Store ``body`` under ``name``."""
        return self._inner.put(name, body)

    def delete(self, name: str) -> Coroutine[Any, Any, None]:
        """Remove an object."""
        return self._inner.delete(name)

    def head(self, name: str) -> Coroutine[Any, Any, ObjectInfo]:
        """Return the stored size and time of an object."""
        return self._inner.head(name)

    async def aclose(self) -> None:
        """Release the connections of all stores."""
        while self._retired:
            await self._retired.popleft().aclose()
        await self._inner.aclose()
