"""What lies in the folder of a directory tier: blocks, and files that are being written.

::

    <root>/.writing/<name>              a file that a writer has reserved room for, and locks
    <root>/<namespace>/<000..3ff>/...   blocks

Nothing here removes or changes a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from juicecache.cache.block_file import charge
from juicecache.cache.policy import Candidate

WRITING = b"/.writing"
_WRITE_S_MAX = 600.0
"""No write of a block takes as long. An older file is dead even when its lock is held, as it is
by a child that was forked in the middle of its parent's write."""


class Writers(NamedTuple):
    """The files that are being written, and those that dead writers left."""

    living: list[os.stat_result]
    dead: list[bytes]


def find_writers(root: bytes) -> Writers:
    """Return who writes. Who asks holds the books, so that nobody begins meanwhile."""
    found = Writers([], [])
    for entry in entries(root + WRITING):
        with contextlib.suppress(FileNotFoundError):
            stat = living(entry.path)
            if stat is None:
                found.dead.append(entry.path)
            else:
                found.living.append(stat)
    return found


def living(path: bytes) -> os.stat_result | None:
    """Return what is known of a file that is being written; None when its writer is dead.

    Only the holder of the books creates such files, so none can be taken for dead between its
    creation and its lock.

    Raises
    ------
    FileNotFoundError
        It is not there, or not any more: it was finished.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except PermissionError:
        return None  # another user died before he gave it its mode
    try:
        stat = os.fstat(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.time() - stat.st_ctime < _WRITE_S_MAX:
                return stat
        os.lstat(path)  # raises when it was finished while we looked, which freed its lock
        return None
    finally:
        os.close(fd)


def blocks(root: bytes, skipped: frozenset[int] = frozenset()) -> Iterator[Candidate]:
    """Iterate over all blocks, but for the inodes ``skipped``."""
    for folder in block_folders(root):
        yield from blocks_in(folder, skipped)


def block_folders(root: bytes) -> list[bytes]:
    """Return all folders that hold blocks, of every namespace."""
    return [
        folder.path
        for top in entries(root)
        if not top.name.startswith(b".") and top.is_dir(follow_symlinks=False)
        for folder in entries(top.path)
        if folder.is_dir(follow_symlinks=False)
    ]


def blocks_in(folder: bytes, skipped: frozenset[int] = frozenset()) -> Iterator[Candidate]:
    """Iterate over the blocks of one folder, but for the inodes ``skipped``."""
    for entry in entries(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file(follow_symlinks=False) and entry.inode() not in skipped:
                stat = entry.stat(follow_symlinks=False)
                yield Candidate(stat.st_atime_ns, charge(stat.st_size), entry.path)


def entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    """List a folder; one that is gone or no folder is empty."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
