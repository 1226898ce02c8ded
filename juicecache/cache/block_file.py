"""The form of one block in a directory tier, and where it lies.

::

    <path>/juicecache-v1/<namespace>/<000..3ff>/b<name>      the content, then a footer
    footer    magic "JCB1", CRC-32C of the content (u32), length of the content (u64); little-endian

The version in the path stands for all of this: a later form uses another folder, so that
clients of both can share ``<path>``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib

import crc32c

from juicecache.model.layout import BlockKey

LAYOUT = "juicecache-v1"
FOLDERS = 1024
"""Folders of a namespace. Of 4,000 files each, still quick to list, they hold four million."""

_FOOTER = struct.Struct("<4sIQ")
_MAGIC = b"JCB1"
FOOTER_BYTES = _FOOTER.size
_NAME_BYTES_MAX = 100
"""Longer names are hashed: two of them and some letters must fit into the 255 of a file name."""
_PAGE_BYTES = 4096
"""What tmpfs and nearly every disk file system allocate by."""


def file_bytes(length: int) -> int:
    """Return the size of the file of a block of ``length`` bytes."""
    return length + FOOTER_BYTES


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


def write_block(fd: int, content: bytes | memoryview) -> None:
    """Write a block file from its start.

    Raises
    ------
    OSError
        As the system says; ENOSPC when it wrote only a part.
    """
    view = memoryview(content)
    footer = _FOOTER.pack(_MAGIC, crc32c.crc32c(view), view.nbytes)
    if os.writev(fd, (view, footer)) != view.nbytes + FOOTER_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_checked(fd: int, length: int) -> bytes | None:
    """Return the content of a block file from its start; None when it is damaged.

    Raises
    ------
    OSError
        The medium failed.
    """
    content = os.read(fd, length)
    footer = os.pread(fd, FOOTER_BYTES, length)
    if footer != _FOOTER.pack(_MAGIC, crc32c.crc32c(content), length):
        return None
    return content
