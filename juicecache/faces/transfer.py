"""Files between a volume and this machine's own file system."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Any, cast

from fsspec.callbacks import Callback
from fsspec.utils import isfilelike

from juicecache.errors import ClosedError, IsDirectoryError
from juicecache.volume.batch import Batch, raise_failures
from juicecache.volume.read_handle import FileReader
from juicecache.volume.volume import Volume

_COPY_BYTES = 4 << 20
"""Bytes per step of a transfer: one block of the default size."""


def download(volume: Volume, path: str, target: Any, callback: Callback) -> None:
    """Copy a file to a local path or into an open file; a directory is made there."""
    try:
        source = cast("FileReader", volume.open(path))
    except IsDirectoryError:
        if isfilelike(target):
            raise
        os.makedirs(target, exist_ok=True)
        return
    with source:
        callback.set_size(source.size)
        if isfilelike(target):
            _transfer(source, target, callback)
            return
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        with open(target, "wb") as file:
            _transfer(source, file, callback)


class Uploading:
    """Local files on their way into one batch, and those that could not be read or stored.

    Attributes
    ----------
    failed
        What went wrong before the batch had the file, by path in the volume.
    """

    def __init__(self, volume: Volume, batch: Batch) -> None:
        self._volume = volume
        self.batch = batch
        self.failed: dict[str, Exception] = {}

    def add(self, source: str, path: str, callback: Callback, *, exclusive: bool) -> None:
        """Copy one file; what goes wrong with it does not keep the others back.

        Raises
        ------
        ClosedError
            The batch has ended meanwhile: the whole copy was given up.
        """
        try:
            if not self._add_small(source, path, callback, exclusive=exclusive):
                mode = "xb" if exclusive else "wb"
                upload(source, self._volume.open(path, mode, batch=self.batch), callback)
        except ClosedError:
            raise
        except Exception as error:
            self.failed[path] = error

    def _add_small(self, source: str, path: str, callback: Callback, *, exclusive: bool) -> bool:
        found = os.stat(source)
        size_bytes = found.st_size
        if not stat.S_ISREG(found.st_mode) or not self.batch.accepts(size_bytes):
            return False
        with open(source, "rb") as file:
            content = file.read(size_bytes + 1)
        if len(content) > size_bytes or not self.batch.accepts(len(content)):  # it grew meanwhile
            return False
        callback.set_size(size_bytes)
        self.batch.write(path, content, exclusive=exclusive)
        callback.relative_update(len(content))
        return True

    def finish(self) -> None:
        """Commit the batch.

        Raises
        ------
        BatchError
            Of several files some were not written; of one, its own error.
        """
        with suppress(Exception):  # it is among the outcomes
            self.batch.commit()
        raise_failures(self.batch.outcomes | self.failed)


def upload(source: str, target: Any, callback: Callback) -> None:
    """Copy a local file into an open file of a volume: all of it is committed, or nothing."""
    try:
        with open(source, "rb") as file:
            callback.set_size(os.fstat(file.fileno()).st_size)
            _transfer(file, target, callback)
    except BaseException:
        target.discard()
        raise
    target.close()


def _transfer(source: Any, target: Any, callback: Callback) -> None:
    while piece := source.read(_COPY_BYTES):
        target.write(piece)
        callback.relative_update(len(piece))
