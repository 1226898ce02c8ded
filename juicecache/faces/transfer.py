"""One file between a volume and this machine's own file system."""

from __future__ import annotations

import os
from typing import Any, cast

from fsspec.callbacks import Callback
from fsspec.utils import isfilelike

from juicecache.errors import IsDirectoryError
from juicecache.volume.batch import Batch
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


def upload_packed(source: str, path: str, batch: Batch, callback: Callback) -> bool:
    """Leave a small local file to a batch; False, and nothing done, when it is too large."""
    with open(source, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if not batch.accepts(size_bytes):
            return False
        content = file.read()
    if not batch.accepts(len(content)):  # it grew meanwhile
        return False
    callback.set_size(size_bytes)
    batch.write(path, content)
    callback.relative_update(len(content))
    return True


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
