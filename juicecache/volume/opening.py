"""Handles of files: which kind a mode asks for, and what keeps the file alive meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from juicecache.errors import EntryExistsError, EntryNotFoundError, IsDirectoryError
from juicecache.meta.paths import join_path, split_path
from juicecache.model.attr import Attr
from juicecache.volume.batch import Batch
from juicecache.volume.parts import Parts
from juicecache.volume.read_handle import FileReader
from juicecache.volume.reader import file_attr
from juicecache.volume.write_handle import FileUpdater, FileWriter


def open_file(
    parts_of: Callable[[], Parts],
    path: str,
    mode: str,
    *,
    autocommit: bool,
    batch: Batch | None,
    on_close: Callable[[Parts, int], None],
) -> FileReader | FileWriter:
    """Open a file as `Volume.open` says.

    Parameters
    ----------
    parts_of
        Returns the parts of the volume in the process that calls it.
    on_close
        Called with the parts that opened a file, and its inode, when its handle ends.
    """
    kind = mode.replace("b", "")
    if kind not in ("r", "w", "x", "a", "r+"):
        raise ValueError(f"{path}: mode {mode!r} is none of rb, wb, xb, ab, r+b")
    parts = parts_of()
    hold = parts.meta.presence.open

    def end_hold(inode: int) -> None:
        on_close(parts, inode)

    if kind == "r":
        attr = file_attr(parts, path)
        hold(attr.inode)
        return FileReader(parts_of, path, attr, end_hold)
    parts.meta.gate.check_writable(path)
    path = join_path(split_path(path))
    if kind == "a" and batch is not None:
        batch.check_append(path)
    if kind == "x" and batch is not None:
        batch.check_new(path)
    there = _find_file(parts, path)
    if there is not None and kind == "x":
        raise EntryExistsError(path)
    if there is None and kind == "r+":
        raise EntryNotFoundError(path)
    if there is not None and kind == "r+":
        hold(there.inode)
        return FileUpdater(parts_of, path, there, on_open=hold, on_close=end_hold)
    inode, offset = 0, 0
    if there is not None and kind == "a":
        inode, offset = there.inode, there.length
        hold(inode)
    return FileWriter(
        parts_of,
        path,
        inode=inode,
        offset=offset,
        exclusive=kind == "x",
        autocommit=autocommit and batch is None,
        batch=batch,
        mode=mode,
        on_open=hold,
        on_close=end_hold,
    )


def _find_file(parts: Parts, path: str) -> Attr | None:
    try:
        attr = parts.meta.resolve(path)
    except EntryNotFoundError:
        return None
    if attr.is_directory:
        raise IsDirectoryError(path)
    return attr
