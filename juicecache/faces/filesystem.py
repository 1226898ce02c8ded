"""The fsspec face: ``juicecache://VOLUME/path`` for pandas, pyarrow, dask, torch and others.

Two towers over one `Volume`. The synchronous methods run on the caller's thread and never
touch an event loop, but for the recursive ``get`` and ``put``, which transfer many files at
once. The coroutines answer inline when everything is warm, else on a few threads.

No rule of the file system lives here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO, ClassVar, TypeVar, cast

from fsspec.asyn import AsyncFileSystem, get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.utils import stringify_path

from juicecache.config import VolumeOptions, find_volume, mask_url, parse_volume_url
from juicecache.errors import (
    EntryNotFoundError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.faces.async_file import AsyncFile
from juicecache.faces.listing import info_of
from juicecache.model.attr import Attr, NodeType
from juicecache.runtime import BoundedExecutor
from juicecache.volume.insight import FileLayout, VolumeStats
from juicecache.volume.volume import Volume
from juicecache.volume.warm import WarmReport

T = TypeVar("T")

_THREADS = 16
"""Threads for coroutines that must wait: cold reads overlap; more would fight for the GIL."""
_COPY_BYTES = 4 << 20
"""Bytes per step of a transfer with a local file: one block of the default size."""
_SECRET_OPTIONS = ("secret_key", "session_token")
_CACHING_OPTIONS = ("use_listings_cache", "listings_expiry_time", "max_paths")


class JuiceCacheFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A volume as an fsspec file system.

    Parameters
    ----------
    volume
        The volume's name, as in ``juicecache://NAME/path``.
    meta
        Its metadata URL; without it the environment (``JUICECACHE_META``) and the user's
        volume list are asked for ``volume``.
    asynchronous, loop, batch_size
        As in fsspec.
    **options
        Options of the volume, see ``docs/options.md``.

    Raises
    ------
    ConfigError
        An option or the address is unknown or malformed.
    VolumeFormatError
        There is no volume at the address.

    Examples
    --------
    >>> import fsspec
    >>> fs = fsspec.filesystem("juicecache", volume="photos")  # doctest: +SKIP
    >>> fs.ls("/")  # doctest: +SKIP
    """

    protocol: ClassVar[tuple[str, ...]] = ("juicecache", "jc")
    root_marker = "/"
    mirror_sync_methods = False

    def __init__(
        self,
        volume: str = "",
        meta: str = "",
        *,
        asynchronous: bool = False,
        loop: Any = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        for name in _CACHING_OPTIONS:
            options.pop(name, None)
        super().__init__(
            asynchronous=asynchronous, loop=loop, batch_size=batch_size, use_listings_cache=False
        )
        self.volume = Volume(find_volume(volume, meta), VolumeOptions.from_options(options))
        self._executor = BoundedExecutor(_THREADS, "juicecache-fsspec")

    # ------------------------------------------------------------------ addresses

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = stringify_path(path)
        if "://" in text and text.partition("://")[0] in cls.protocol:
            text = "/" + text.partition("://")[2].partition("/")[2]
        elif not text.startswith("/"):
            text = "/" + text
        return text.rstrip("/") or cls.root_marker

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        if "://" not in path:
            return {}
        return {"volume": parse_volume_url(path)[0]}

    def unstrip_protocol(self, name: str) -> str:
        """Return the full URL of a path of this file system."""
        return f"juicecache://{self.volume.setting.name}{self._strip_protocol(name)}"

    @property
    def fsid(self) -> str:
        """The volume's identity: the same for every client of it."""
        return f"juicecache-{self.volume.setting.uuid}"

    @property
    def loop(self) -> Any:
        """The event loop of fsspec in this process; a fork gets its own."""
        return self._loop if self.asynchronous else get_loop()

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return the arguments of this instance, without secrets unless asked for."""
        described: dict[str, Any] = super().to_dict(include_password=include_password)
        if not include_password:
            for name in _SECRET_OPTIONS:
                described.pop(name, None)
            for key, value in described.items():
                if isinstance(value, str) and "://" in value:
                    described[key] = mask_url(value)
            described["args"] = [
                mask_url(value) if isinstance(value, str) else value
                for value in described.get("args", ())
            ]
        return described

    # ------------------------------------------------------------------ looking

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return what is known of an entry; links are followed, ``islink`` tells."""
        path = self._strip_protocol(path)
        return self._info_of(path, self.volume.stat(path, follow=False))

    def _info_of(self, path: str, attr: Attr) -> dict[str, Any]:
        if attr.type != NodeType.SYMLINK:
            return info_of(path, attr)
        destination = self.volume.readlink(path)
        try:
            attr = self.volume.stat(path)
        except (EntryNotFoundError, NotDirectoryError):
            pass  # a link to nowhere is described as itself
        return info_of(path, attr, destination)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """Return the entries of a directory, as infos or names; of a file, itself."""
        path = self._strip_protocol(path)
        try:
            entries = self.volume.list_directory(path)
        except NotDirectoryError:
            return [self.info(path)] if detail else [path]
        head = path.rstrip("/")
        if not detail:
            return [f"{head}/{entry.name}" for entry in entries]
        return [self._info_of(f"{head}/{name}", attr) for name, attr in entries]

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether the path leads to something."""
        return self.volume.exists(self._strip_protocol(path))

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """Return whether there is an entry, be it a link to nowhere."""
        try:
            self.volume.stat(self._strip_protocol(path), follow=False)
        except (EntryNotFoundError, NotDirectoryError):
            return False
        return True

    def created(self, path: str) -> datetime:
        """Return when the inode last changed: the format keeps no time of creation."""
        return self._time(self.volume.stat(self._strip_protocol(path)).ctime_ns)

    def modified(self, path: str) -> datetime:
        """Return when the content last changed."""
        return self._time(self.volume.stat(self._strip_protocol(path)).mtime_ns)

    @staticmethod
    def _time(time_ns: int) -> datetime:
        return datetime.fromtimestamp(time_ns / 1e9, UTC)

    def ukey(self, path: str) -> str:
        """Return a text that differs whenever the content does."""
        attr = self.volume.stat(self._strip_protocol(path))
        identity = (self.fsid, attr.inode, attr.length, attr.mtime_ns, attr.ctime_ns)
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    def checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(self.ukey(path), 16)

    # ------------------------------------------------------------------ reading

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return bytes ``[start, end)`` of a file; negative offsets count from its end."""
        return self.volume.read_file(self._strip_protocol(path), start, end)

    def cat(
        self,
        path: Any,
        recursive: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> Any:
        """Return the content of one file, or of several by name, all loaded at the same time."""
        paths = self.expand_path(path, recursive=recursive, **kwargs)
        if recursive:
            paths = [one for one in paths if not self.volume.stat(one).is_directory]
        single = isinstance(path, str | os.PathLike) and paths == [self._strip_protocol(path)]
        if single:
            return self.cat_file(paths[0])
        outcomes = self.volume.read_files([(one, None, None) for one in paths])
        contents: dict[str, bytes | Exception] = {}
        for one, outcome in zip(paths, outcomes, strict=True):
            if isinstance(outcome, Exception):
                if on_error == "raise":
                    raise outcome
                if on_error == "omit":
                    continue
            contents[one] = outcome
        return contents

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Return one range of each path, all loaded at the same time."""
        if max_gap is not None:
            raise NotImplementedError("max_gap: ranges are merged by block anyway")
        count = len(paths)
        firsts = [starts] * count if isinstance(starts, int | None) else list(starts)
        lasts = [ends] * count if isinstance(ends, int | None) else list(ends)
        if not len(firsts) == len(lasts) == count:
            raise ValueError("paths, starts and ends must have the same length")
        requests = [
            (self._strip_protocol(path), first, last)
            for path, first, last in zip(paths, firsts, lasts, strict=True)
        ]
        outcomes = self.volume.read_files(requests)
        if on_error == "raise":
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        return outcomes

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        # The volume reads ahead by itself; fsspec's block size and caches have no use here.
        return self.volume.open(self._strip_protocol(path), mode, autocommit=autocommit)

    # ------------------------------------------------------------------ writing

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Make a file with exactly this content; ``mode="create"`` refuses an existing one."""
        path = self._strip_protocol(path)
        if self._intrans:
            with self.open(path, "xb" if mode == "create" else "wb") as file:
                file.write(value)
            return
        self.volume.write_file(path, value, exclusive=mode == "create")

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Write one file, or a dictionary of them, all stored at the same time."""
        if isinstance(path, str | os.PathLike):
            self.pipe_file(self._strip_protocol(path), value, **kwargs)
            return
        if not isinstance(path, dict):
            raise ValueError("path must be a str or a dict of paths and contents")
        if self._intrans or kwargs:
            for one, content in path.items():
                self.pipe_file(one, content, **kwargs)
            return
        contents = [(self._strip_protocol(one), content) for one, content in path.items()]
        for error in self.volume.write_files(contents):
            if error is not None:
                raise error

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Create a directory, by default with its parents; it must not exist."""
        self.volume.make_directory(self._strip_protocol(path), parents=create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a directory and its parents."""
        self.volume.make_directory(self._strip_protocol(path), parents=True, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self.volume.remove_directory(self._strip_protocol(path))

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        self.volume.unlink(self._strip_protocol(path))

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files; with ``recursive`` also directories with what is below them."""
        if maxdepth is not None:
            super(AsyncFileSystem, self).rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        for one in self.expand_path(path):
            if recursive:
                self.volume.remove_tree(one)
            elif self.volume.stat(one, follow=False).is_directory:
                raise IsDirectoryError(one, "a directory needs recursive=True")
            else:
                self.volume.unlink(one)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file by its records, moving no byte; a directory is made, not its entries."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.volume.stat(source).is_directory:
            self.volume.make_directory(target, parents=True, exist_ok=True)
        else:
            self.volume.copy_file(source, target)

    def mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Rename a file, replacing what is there."""
        self._rename(self._strip_protocol(path1), self._strip_protocol(path2))

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Rename an entry, a directory with all below it; into ``path2`` if that is a directory.

        Several paths, or a pattern, are moved into the directory ``path2``.
        """
        sources = self.expand_path(path1)
        into = str(stringify_path(path2)).endswith("/") if isinstance(path2, str) else False
        target = self._strip_protocol(path2)
        into = into or len(sources) > 1 or self.isdir(target)
        for source in sources:
            if not recursive and self.isdir(source):
                raise IsDirectoryError(source, "a directory needs recursive=True")
            place = f"{target.rstrip('/')}/{source.rpartition('/')[2]}" if into else target
            self._rename(source, place)

    def _rename(self, source: str, target: str) -> None:
        if source == target:
            return
        try:
            self.volume.rename(source, target)
        except EntryNotFoundError:
            self.volume.stat(source, follow=False)
            parent = self._parent(target)
            self.volume.make_directory(parent, parents=True, exist_ok=True)
            self.volume.rename(source, target)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file; with ``truncate=False`` an existing one only gets the time of now."""
        path = self._strip_protocol(path)
        if truncate or not self.volume.exists(path):
            self.volume.write_file(path, b"")
        else:
            now_ns = int(datetime.now(UTC).timestamp() * 1e9)
            self.volume.set_attr(path, atime_ns=now_ns, mtime_ns=now_ns)

    # ------------------------------------------------------------------ transfers

    def get(self, rpath: Any, lpath: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Copy to local files, many at once; see fsspec for patterns and callbacks."""
        sync(self.loop, self._get, rpath, lpath, recursive=recursive, **kwargs)

    def put(self, lpath: Any, rpath: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Copy from local files, many at once; see fsspec for patterns and callbacks."""
        if self._intrans:
            super(AsyncFileSystem, self).put(lpath, rpath, recursive=recursive, **kwargs)
            return
        sync(self.loop, self._put, lpath, rpath, recursive=recursive, **kwargs)

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: BinaryIO | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy one file to a local path or open file; a directory is made there."""
        rpath = self._strip_protocol(rpath)
        if self.volume.stat(rpath).is_directory:
            os.makedirs(lpath, exist_ok=True)
            return
        if not hasattr(lpath, "write") and outfile is None:
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        with self.volume.open(rpath) as source:
            callback.set_size(cast("Any", source).size)
            if outfile is not None or hasattr(lpath, "write"):
                _transfer(source, outfile or lpath, callback)
                return
            with open(lpath, "wb") as target:
                _transfer(source, target, callback)

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Copy one local file; a directory is made here. Others see it whole or not at all."""
        rpath = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        with open(lpath, "rb") as source:
            callback.set_size(os.fstat(source.fileno()).st_size)
            target = self.open(rpath, "xb" if mode == "create" else "wb")
            try:
                _transfer(source, target, callback)
            except BaseException:
                target.discard()
                raise
            target.close()

    # ------------------------------------------------------------------ insight

    def stats(self) -> VolumeStats:
        """Return what this process read, wrote, hit and missed since the volume was opened."""
        return self.volume.stats()

    def explain(self, path: str) -> FileLayout:
        """Return which blocks a file needs, where each is, and what reading it would cost."""
        return self.volume.explain(self._strip_protocol(path))

    def warmup(
        self,
        paths: str | Sequence[str],
        *,
        check: bool = False,
        evict: bool = False,
        progress: Callable[[WarmReport], None] | None = None,
    ) -> WarmReport:
        """Load all blocks of files, or of all files below directories, into the tiers.

        See `Volume.warmup` for ``check``, ``evict`` and ``progress``.
        """
        expanded = self.expand_path([paths] if isinstance(paths, str) else list(paths))
        return self.volume.warmup(expanded, check=check, evict=evict, progress=progress)

    # ------------------------------------------------------------------ coroutines

    async def _offload(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        import asyncio
        from functools import partial

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor.pool, partial(call, *args, **kwargs))

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return await self._offload(self.info, path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return await self._offload(self.ls, path, detail=detail)

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return await self._offload(self.exists, path)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        warm = self.volume.peek(self._strip_protocol(path), start, end)
        if warm is not None:
            return warm
        return await self._offload(self.cat_file, path, start, end)

    async def _cat_ranges(self, paths: Any, starts: Any, ends: Any, **kwargs: Any) -> Any:
        return await self._offload(self.cat_ranges, paths, starts, ends, **kwargs)

    async def _pipe_file(
        self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        await self._offload(self.pipe_file, path, value, mode=mode)

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

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        await self._offload(self.rm, path, recursive=recursive)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        await self._offload(self.cp_file, path1, path2)

    async def _mv_file(self, path1: str, path2: str) -> None:
        await self._offload(self.mv_file, path1, path2)

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        await self._offload(self.get_file, rpath, lpath, **kwargs)

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        await self._offload(self.put_file, lpath, rpath, **kwargs)

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> AsyncFile:
        """Open a file whose ``read``, ``write`` and ``close`` are coroutines."""
        if "b" not in mode:
            raise ValueError("open_async opens binary files; decode the bytes yourself")
        file = await self._offload(self.open, path, mode, **kwargs)
        return AsyncFile(file, self._executor)


def _transfer(source: Any, target: Any, callback: Callback) -> None:
    while piece := source.read(_COPY_BYTES):
        target.write(piece)
        callback.relative_update(len(piece))
