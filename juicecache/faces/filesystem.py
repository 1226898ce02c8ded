"""The fsspec face: ``juicecache://VOLUME/path`` for pandas, pyarrow, dask, torch and others.

The synchronous methods (here and in ``contents``) run on the caller's thread and touch no
event loop, but for ``get`` and ``put``, which transfer many files at once. The coroutines
(``coroutines``) stand on the synchronous methods.

No rule of the file system lives here, only fsspec's rules of names and paths.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from fsspec.asyn import get_loop
from fsspec.utils import stringify_path

from juicecache.addresses import VOLUME_SCHEMES
from juicecache.config import OPTIONS, VolumeOptions, find_volume, mask_url, parse_volume_url
from juicecache.errors import (
    ConfigError,
    DirectoryNotEmptyError,
    FileError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.faces.contents import VolumeContents
from juicecache.faces.listing import info_of, walk_entries
from juicecache.faces.moving import move, move_pairs, topmost
from juicecache.model.attr import Attr, NodeType
from juicecache.runtime import BoundedExecutor, collector_paused
from juicecache.volume.insight import FileLayout, VolumeStats
from juicecache.volume.volume import Volume, check_name
from juicecache.volume.warm import WarmReport

_THREADS = 16
"""Threads for coroutines that must wait: cold reads overlap; more would fight for the GIL."""
_SECRET_OPTIONS = tuple(option.name for option in OPTIONS if option.kind == "secret")
_CACHING_OPTIONS = ("use_listings_cache", "listings_expiry_time", "max_paths")
"""fsspec's own options of a cache that would only add staleness to ours."""


def _path_of(volume: str, path: Any) -> Any:
    """Return the path that a path or a URL means, of a list the list of them.

    A URL of another volume is refused, unless ``volume`` is empty.
    """
    if isinstance(path, list):
        return [_path_of(volume, one) for one in path]
    text = stringify_path(path)
    if "://" in text and text.partition("://")[0] in VOLUME_SCHEMES:
        named, _, below = text.partition("://")[2].partition("/")
        if volume and named and named != volume:
            raise ConfigError(
                f"{text!r} is in volume {named!r}, and this file system is volume {volume!r}"
            )
        text = "/" + below
    elif not text.startswith("/"):
        text = "/" + text
    if "//" in text:
        text = "/" + "/".join(filter(None, text.split("/")))
    return text.rstrip("/") or "/"


class JuiceCacheFileSystem(VolumeContents):
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

    protocol: ClassVar[tuple[str, ...]] = VOLUME_SCHEMES
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
        # "asynchronous" here keeps fsspec from starting its loop thread: most processes need
        # none, and one that forks should have none. See `loop`.
        super().__init__(asynchronous=True, batch_size=batch_size, use_listings_cache=False)
        self.asynchronous = asynchronous
        self._loop = loop
        parsed = VolumeOptions.from_options(options)  # first: a misspelt "volume" is named
        self.volume = check_name(Volume(find_volume(volume, meta), parsed), volume)
        self.executor = BoundedExecutor(_THREADS, "juicecache-fsspec")
        # fsspec wants a class method, which cannot know whose URL it is given.
        self._strip_protocol = partial(_path_of, self.volume.setting.name)  # type: ignore[method-assign]  # the same with one thing more known

    def __reduce__(self) -> tuple[Any, ...]:
        """Carry the arguments to another process, which reads from a cache group and is no member.

        To be one is for who was told so, not for every process that is given work.
        """
        make, (kind, args, options) = super().__reduce__()
        if self.volume.options.cache_group:
            options = {**options, "no_sharing": True}
        return make, (kind, args, options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.volume.setting.name} {self.volume!r}>"

    # ------------------------------------------------------------------ addresses

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return _path_of("", path)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        # juicecache:///path is a path of the volume that the options name.
        if "://" not in path or path.partition("://")[2].startswith("/"):
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
        """The loop that was given, else that of fsspec in this process; a fork gets its own."""
        if self._pid == os.getpid() and (self.asynchronous or self._loop is not None):
            return self._loop
        return get_loop()

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
        with suppress(FileError):  # a link to nowhere, or in a circle, is described as itself
            attr = self.volume.stat(path)
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
        with collector_paused():
            return [self._info_of(f"{head}/{name}", attr) for name, attr in entries]

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether the path leads to something; False for a name that cannot exist."""
        try:
            self.volume.stat(self._strip_protocol(path))
        except FileError:
            return False
        return True

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """Return whether there is an entry, be it a link to nowhere."""
        try:
            self.volume.stat(self._strip_protocol(path), follow=False)
        except FileError:
            return False
        return True

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: str | Callable[[OSError], None] = "omit",
        detail: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """Iterate over (directory, directories in it, files in it) at and below ``path``.

        Top down, names removed from the directories are not visited. Links to directories
        are named among them and not followed, so that no tree is infinite.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        top = self._strip_protocol(path)
        return walk_entries(self.ls, top, maxdepth, on_error, topdown=topdown, detail=detail)

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the bytes of the files below ``path``, or with ``total=False`` of each."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True)
        sizes = {name: info["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what ``attr_cache`` and ``open_cache`` keep: the next look is at the volume."""
        self.volume.forget()

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

    # ------------------------------------------------------------------ changing

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
        """Remove files; with ``recursive`` also directories with what is below them.

        With ``maxdepth`` deeper entries stay, and the directories that lead to them.
        """
        if recursive and maxdepth is None:
            for one in topmost(self.expand_path(path)):
                self.volume.remove_tree(one)
            return
        for one in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            if not self.volume.stat(one, follow=False).is_directory:
                self.volume.unlink(one)
            elif recursive:
                with suppress(DirectoryNotEmptyError):
                    self.volume.remove_directory(one)
            else:
                raise IsDirectoryError(one, "a directory needs recursive=True")

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file by its records, moving no byte; a directory is made, not its entries."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.volume.stat(source).is_directory:
            self.volume.make_directory(target, parents=True, exist_ok=True)
        else:
            self.volume.copy_file(source, target)

    def mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Rename a file, replacing what is there."""
        move(self.volume, self._strip_protocol(path1), self._strip_protocol(path2))

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Rename entries, a directory with all below it, ``recursive`` or not.

        Where they go is as for ``cp``: into ``path2`` if that is a directory or ends with
        ``/``. Directories in the way are joined, files are replaced.

        Raises
        ------
        NotImplementedError
            With ``maxdepth``: what is below a directory goes with it.
        """
        if maxdepth is not None:
            raise NotImplementedError("maxdepth: a directory is renamed with all below it")
        if path1 == path2:
            self.info(path1)
            return
        for source, target in move_pairs(self, path1, path2):
            move(self.volume, source, target)

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


_ARROW_S = 0.002
"""Any pause lets go of the interpreter; Arrow's threads then need microseconds."""


@atexit.register
def _let_arrow_go() -> None:
    """Let threads of pyarrow let go of what they read with, before the interpreter ends.

    One that still wants the interpreter then aborts the process ("terminate called without an
    active exception"): one run in ten of a script that ends right behind `pandas.read_parquet`.
    """
    if "pyarrow" in sys.modules:
        time.sleep(_ARROW_S)
