"""A file of a volume for coroutines: each call runs on one of a few threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from juicecache.runtime import BoundedExecutor

T = TypeVar("T")


class AsyncFile:
    """A binary file; one call at a time, as with any stream that has a position.

    Parameters
    ----------
    file
        The open file; closed with this one.
    executor
        Where blocking calls run.
    """

    def __init__(self, file: Any, executor: BoundedExecutor) -> None:
        self._file = file
        self._executor = executor

    async def read(self, length: int = -1) -> bytes:
        """Return up to ``length`` bytes from the position on; all the rest by default."""
        return await self._run(self._file.read, length)

    async def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``, which nobody else may touch meanwhile; return the number of bytes."""
        return await self._run(self._file.readinto, buffer)

    async def write(self, content: Any) -> int:
        """Write all of ``content``, which must not change meanwhile."""
        return await self._run(self._file.write, content)

    async def flush(self) -> None:
        """Store and commit what was written."""
        await self._run(self._file.flush)

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        return await self._run(self._file.seek, offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    async def close(self) -> None:
        """Commit and close."""
        await self._run(self._file.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor.pool, call, *args)
