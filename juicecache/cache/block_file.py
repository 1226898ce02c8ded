"""The form of one block in a directory tier, and where it lies.

::

    <path>/<layout>/<namespace>/<000..3ff>/b<name>      the content, then a footer
    footer    CRC-32C of each 64 KiB of the content (u32 each), magic "JCB2", length of the
              content (u64), CRC-32C of key and footer up to here (u32); little-endian

The layout is the version and, unless users share the tier, the user: see ``access``. The version
stands for all of this: a later form uses another folder, so that clients of both can share
``<path>``.

The key is part of the footer's checksum: a file that got into another one's place is damage like
any other. What a checksum covers is said in ``model.segments``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib

import crc32c

from juicecache.model.layout import BlockKey
from juicecache.model.segments import (
    bounds,
    pack_sums,
    segment_count,
    segment_sums,
    sums_around,
    touched,
    unpack_sums,
)

LAYOUT = "juicecache-v2"
FOLDERS = 1024
"""Folders of a namespace. Of 4,000 files each, still quick to list, they hold four million."""

_END = struct.Struct("<4sQI")
_MAGIC = b"JCB2"
_NAME_BYTES_MAX = 100
"""Longer names are hashed: two of them and some letters must fit into the 255 of a file name."""
_PAGE_BYTES = 4096
"""What tmpfs and nearly every disk file system allocate by."""


def file_bytes(length: int) -> int:
    """Return the size of the file of a block of ``length`` bytes."""
    return length + 4 * segment_count(length) + _END.size


def charge(size_bytes: int) -> int:
    """Return what a file of ``size_bytes`` takes of the medium: whole pages."""
    return -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES


def _file_name(name: str) -> bytes:
    """Return a name of a file for any text, distinct for distinct texts.

    Plain names stay readable; the others are hashed. ``b`` in front makes "", "." and ".."
    ordinary and keeps hashes (``h``) apart from plain names.
    """
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) <= _NAME_BYTES_MAX and raw.translate(None, b"_-").isalnum():
        return b"b" + raw
    return b"h" + hashlib.sha256(raw).hexdigest().encode()


class BlockPaths:
    """Where the files of blocks lie below one root; remembers the folders of each namespace."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._folders: dict[str, tuple[bytes, ...]] = {}

    def path(self, key: BlockKey) -> bytes:
        """Return the path of the file of a block."""
        name = _file_name(key.name)
        folders = self._folders.get(key.namespace)
        if folders is None:
            # As many entries as volumes that this process opened.
            folders = self._folders[key.namespace] = self._list_folders(key.namespace)
        return folders[zlib.crc32(name) % FOLDERS] + name

    def _list_folders(self, namespace: str) -> tuple[bytes, ...]:
        top = self._root + b"/" + _file_name(namespace)
        return tuple(b"%b/%03x/" % (top, number) for number in range(FOLDERS))


def write_block(fd: int, key: BlockKey, content: bytes | memoryview) -> None:
    """Write a block file from its start.

    Raises
    ------
    OSError
        As the system says; ENOSPC when it wrote only a part.
    """
    view = memoryview(content)
    sums = segment_sums(view)
    head = pack_sums(sums) + _END.pack(_MAGIC, view.nbytes, 0)[:-4]
    footer = head + crc32c.crc32c(head, _key_sum(key)).to_bytes(4, "little")
    if os.writev(fd, (view, footer)) != view.nbytes + len(footer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_checked(fd: int, key: BlockKey) -> bytes | None:
    """Return the content of a block file from its start; None when it is damaged.

    Raises
    ------
    OSError
        The medium failed.
    """
    content = os.pread(fd, key.length, 0)
    sums = _read_sums(fd, key)
    if sums is None or len(content) != key.length:
        return None
    return content if segment_sums(memoryview(content)) == sums else None


def read_part(
    fd: int, key: BlockKey, start: int, stop: int, buffer: memoryview | None
) -> memoryview | None:
    """Return bytes ``[start, stop)`` of a block file, their segments checked; None if damaged.

    Parameters
    ----------
    buffer
        Gets the bytes, if not None, and is returned: the rest of the segments is read beside it.

    Raises
    ------
    OSError
        The medium failed.
    """
    segments = touched(start, stop)
    first, last = bounds(segments, key.length)
    all_sums = _read_sums(fd, key)
    if all_sums is None:
        return None
    sums = all_sums[segments.start : segments.stop]
    if buffer is None:
        content = memoryview(os.pread(fd, last - first, first))
        # Of a file that was cut meanwhile there may be nothing, which no sum contradicts.
        if content.nbytes != last - first or segment_sums(content) != sums:
            return None
        return content[start - first : stop - first]
    before, after = bytearray(start - first), bytearray(last - stop)
    if os.preadv(fd, (before, buffer, after), first) != last - first:
        return None
    return buffer if sums_around(before, buffer, after) == sums else None


def read_raw_sums(fd: int, key: BlockKey) -> bytes | None:
    """Return the checksums of all segments as they stand there; None if the footer is damaged.

    Raises
    ------
    OSError
        The medium failed.
    """
    size = 4 * segment_count(key.length)
    footer = os.pread(fd, size + _END.size, key.length)
    if len(footer) != size + _END.size:
        return None
    magic, length, checksum = _END.unpack_from(footer, size)
    right = crc32c.crc32c(footer[:-4], _key_sum(key))
    if (magic, length, checksum) != (_MAGIC, key.length, right):
        return None
    return footer[:size]


def _read_sums(fd: int, key: BlockKey) -> tuple[int, ...] | None:
    """Return the checksums of all segments; None where the footer is damaged."""
    raw = read_raw_sums(fd, key)
    return None if raw is None else unpack_sums(raw)


def _key_sum(key: BlockKey) -> int:
    return crc32c.crc32c(key.raw)
