"""The content of files through fsspec: reading, writing, and to and from local files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, BinaryIO

from fsspec.asyn import get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from juicecache.faces.coroutines import VolumeCoroutines, range_requests
from juicecache.faces.transaction import VolumeTransaction, refuse_nesting
from juicecache.faces.transfer import Uploading, download, upload
from juicecache.volume.batch import raise_failures


class VolumeContents(VolumeCoroutines):
    """The synchronous methods of an fsspec file system that move bytes."""

    transaction_type = VolumeTransaction

    # ------------------------------------------------------------------ reading

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return bytes ``[start, end)`` of a file; negative offsets count from its end."""
        return self.volume.read_file(self._strip_protocol(path), start, end)

    def cat_view(self, path: str, start: int | None = None, end: int | None = None) -> memoryview:
        """Return what `cat_file` returns as a read-only view, not copied where that can be.

        See `Volume.read_view`.
        """
        return self.volume.read_view(self._strip_protocol(path), start, end)

    def cat_into(self, path: str, buffer: Any, start: int = 0) -> int:
        """Fill ``buffer`` from offset ``start`` of a file; return the number of bytes.

        See `Volume.read_into`.
        """
        return self.volume.read_into(self._strip_protocol(path), buffer, start)

    def map_file(self, path: str) -> memoryview:
        """Return a whole file as read-only memory that forked processes share.

        See `Volume.map_file`.
        """
        return self.volume.map_file(self._strip_protocol(path))

    def cat(
        self,
        path: Any,
        recursive: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> Any:
        """Return the content of one file, or of several by name, all loaded at the same time."""
        start, end = kwargs.pop("start", None), kwargs.pop("end", None)
        paths = self.expand_path(path, recursive=recursive, **kwargs)
        if isinstance(path, str | os.PathLike) and paths == [self._strip_protocol(path)]:
            return self.cat_file(paths[0], start, end)
        if recursive:
            paths = [one for one in paths if not self.isdir(one)]
        outcomes = self.volume.read_files([(one, start, end) for one in paths])
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
        """Return one range of each path, all loaded at the same time.

        ``max_gap`` is of no use here: ranges of one block share its load in any case.
        """
        requests = [
            (self._strip_protocol(path), first, last)
            for path, first, last in range_requests(paths, starts, ends)
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
        if not autocommit and "r" in mode and "+" in mode:
            raise ValueError(f"{path}: {mode!r} changes a file in place, no transaction can wait")
        batch = self.transaction.batch if self._intrans and "r" not in mode else None
        return self.volume.open(
            self._strip_protocol(path), mode, autocommit=autocommit, batch=batch
        )

    # ------------------------------------------------------------------ writing

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Make a file with exactly this content; ``mode="create"`` refuses an existing one."""
        path = self._strip_protocol(path)
        exclusive = mode == "create"
        if not self._intrans:
            self.volume.write_file(path, value, exclusive=exclusive)
        elif exclusive or not self.transaction.batch.accepts(memoryview(value).nbytes):
            with self.open(path, "xb" if exclusive else "wb") as file:
                file.write(value)
        else:
            self.transaction.batch.write(path, value)

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Write one file, or a dictionary of them, small ones packed.

        Raises
        ------
        BatchError
            Some of several files were not written; says which. The others are.
        """
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
        raise_failures(
            dict(
                zip([name for name, _ in contents], self.volume.write_files(contents), strict=True)
            )
        )

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file; with ``truncate=False`` an existing one only gets the time of now."""
        path = self._strip_protocol(path)
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
        else:
            now_ns = time.time_ns()
            self.volume.set_attr(path, atime_ns=now_ns, mtime_ns=now_ns)

    # ------------------------------------------------------------------ transfers

    def get(self, rpath: Any, lpath: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Copy to local files, many at once; see fsspec for patterns and callbacks."""
        sync(self.loop or get_loop(), self._get, rpath, lpath, recursive=recursive, **kwargs)

    def put(self, lpath: Any, rpath: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Copy from local files, many at once and small ones packed; see fsspec for patterns.

        Raises
        ------
        BatchError
            Some of several files were not written; says which. The others are.
        """
        loop = self.loop or get_loop()
        if self._intrans:
            sync(loop, self._put, lpath, rpath, recursive=recursive, **kwargs)
            return
        into = Uploading(self.volume, self.volume.batch())
        try:
            sync(loop, self._put, lpath, rpath, recursive=recursive, into=into, **kwargs)
        except BaseException:
            # An interrupt ends the batch, and so whatever the loop still does for it.
            into.batch.discard()
            raise
        into.finish()

    def start_transaction(self) -> Any:
        """Begin a transaction that `end_transaction` commits.

        Raises
        ------
        UnsupportedError
            One is under way.
        """
        refuse_nesting(self)
        return super().start_transaction()

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: BinaryIO | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy one file to a local path or open file; a directory is made there."""
        download(
            self.volume,
            self._strip_protocol(rpath),
            lpath if outfile is None else outfile,
            callback,
        )

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        into: Uploading | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy one local file; a directory is made here. Others see it whole or not at all.

        ``into`` is for `put`: it collects the files of one copy.
        """
        rpath = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        if into is not None:
            into.add(lpath, rpath, callback, exclusive=mode == "create")
            return
        upload(lpath, self.open(rpath, "xb" if mode == "create" else "wb"), callback)
