"""The asynchronous half of the fsspec face.

Law: a coroutine answers inline when memory and tiers have everything, and else runs the
synchronous method on one of a few threads. Nothing is written twice, so both halves agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem

from juicecache.faces.async_file import AsyncFile
from juicecache.faces.transfer import Uploading
from juicecache.runtime import BoundedExecutor
from juicecache.volume.batch import raise_failures
from juicecache.volume.volume import Volume

T = TypeVar("T")

Range = tuple[str, int | None, int | None]
"""A path and the ``[start, end)`` that is wanted of it."""


def range_requests(
    paths: Sequence[str],
    starts: int | Sequence[int | None] | None,
    ends: int | Sequence[int | None] | None,
) -> list[Range]:
    """Return what ``cat_ranges`` is asked for; one start or end is meant for all paths.

    Raises
    ------
    TypeError
        ``paths`` is a single path.
    ValueError
        The lists differ in length.
    """
    if isinstance(paths, str | bytes):
        raise TypeError("paths must be a list")
    count = len(paths)
    firsts = [starts] * count if isinstance(starts, int | None) else list(starts)
    lasts = [ends] * count if isinstance(ends, int | None) else list(ends)
    if not len(firsts) == len(lasts) == count:
        raise ValueError("paths, starts and ends must have the same length")
    return list(zip(paths, firsts, lasts, strict=True))


class VolumeCoroutines(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What fsspec expects of an asynchronous file system, on top of the synchronous methods.

    Attributes
    ----------
    volume
        The volume.
    executor
        Threads for what must wait.
    """

    volume: Volume
    executor: BoundedExecutor

    async def _offload(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor.pool, partial(call, *args, **kwargs))

    # ------------------------------------------------------------------ looking

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return await self._offload(self.info, path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return await self._offload(self.ls, path, detail=detail)

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return await self._offload(self.exists, path)

    async def _isfile(self, path: str) -> bool:
        return await self._offload(self.isfile, path)

    async def _isdir(self, path: str) -> bool:
        return await self._offload(self.isdir, path)

    async def _walk(self, path: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        steps = self.walk(path, *args, **kwargs)
        while (step := await self._offload(next, steps, None)) is not None:
            yield step

    async def _find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return await self._offload(self.find, path, *args, **kwargs)

    async def _glob(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return await self._offload(self.glob, path, *args, **kwargs)

    async def _du(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return await self._offload(self.du, path, *args, **kwargs)

    async def _expand_path(self, path: Any, *args: Any, **kwargs: Any) -> list[str]:
        return await self._offload(self.expand_path, path, *args, **kwargs)

    # ------------------------------------------------------------------ reading

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        warm = self.volume.peek(self._strip_protocol(path), start, end)
        if warm is not None:
            return warm
        return await self._offload(self.cat_file, path, start, end)

    async def _cat_view(
        self, path: str, start: int | None = None, end: int | None = None
    ) -> memoryview:
        return await self._offload(self.cat_view, path, start, end)

    async def _cat_into(self, path: str, buffer: Any, start: int = 0) -> int:
        return await self._offload(self.cat_into, path, buffer, start)

    async def _map_file(self, path: str) -> memoryview:
        return await self._offload(self.map_file, path)

    async def _cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        kwargs.pop("batch_size", None)
        return await self._offload(self.cat, path, recursive, on_error, **kwargs)

    async def _cat_ranges(
        self,
        paths: Sequence[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        requests = range_requests(paths, starts, ends)
        found: list[bytes | Exception | None] = [
            self.volume.peek(self._strip_protocol(path), first, last)
            for path, first, last in requests
        ]
        cold = [place for place, content in enumerate(found) if content is None]
        if cold:
            loaded: list[bytes | Exception] = await self._offload(
                self.cat_ranges,
                [requests[place][0] for place in cold],
                [requests[place][1] for place in cold],
                [requests[place][2] for place in cold],
                on_error=on_error,
            )
            for place, content in zip(cold, loaded, strict=True):
                found[place] = content
        return [content for content in found if content is not None]

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> AsyncFile:
        """Open a file whose ``read``, ``write`` and ``close`` are coroutines.

        Raises
        ------
        ValueError
            Text or compression is asked for: decode the bytes yourself.
        """
        if "b" not in mode or kwargs.get("compression"):
            raise ValueError("open_async opens plain binary files; decode the bytes yourself")
        file = await self._offload(self.open, path, mode, **kwargs)
        return AsyncFile(file, self.executor)

    # ------------------------------------------------------------------ writing

    async def _pipe_file(
        self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        await self._offload(self.pipe_file, path, value, mode=mode)

    async def _pipe(
        self, path: Any, value: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> None:
        await self._offload(self.pipe, path, value, **kwargs)

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        await self._offload(self.mkdir, path, create_parents=create_parents)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        await self._offload(self.makedirs, path, exist_ok=exist_ok)

    async def _rmdir(self, path: str) -> None:
        await self._offload(self.rmdir, path)

    async def _touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        await self._offload(self.touch, path, truncate=truncate)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._offload(self.rm_file, path)

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        await self._offload(self.rm, path, recursive=recursive, maxdepth=maxdepth)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        await self._offload(self.cp_file, path1, path2)

    async def _copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("batch_size", None)
        await self._offload(self.copy, path1, path2, *args, **kwargs)

    async def _mv_file(self, path1: str, path2: str) -> None:
        await self._offload(self.mv_file, path1, path2)

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        await self._offload(self.get_file, rpath, lpath, **kwargs)

    async def _put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        into: Uploading | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy local files; with ``into`` the caller ends the copy."""
        if into is not None:
            await super()._put(lpath, rpath, recursive=recursive, into=into, **kwargs)
            return
        # Settled once: a transaction may begin, or end, while the files are copied.
        if self._intrans:
            into = Uploading(self.volume, self.transaction.batch)
            await super()._put(lpath, rpath, recursive=recursive, into=into, **kwargs)
            raise_failures(into.failed)
            return
        into = Uploading(self.volume, self.volume.batch())
        try:
            await super()._put(lpath, rpath, recursive=recursive, into=into, **kwargs)
        except BaseException:
            await self._offload(into.batch.discard)
            raise
        await self._offload(into.finish)

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        await self._offload(self.put_file, lpath, rpath, **kwargs)
