"""Attributes of one inode, and the constants that give its numbers their meaning.

Pure values of the ``model`` floor. Times are integers in nanoseconds since the Unix
epoch everywhere in the package; engines convert to the units of their tables.
"""

from __future__ import annotations

import stat as _stat
from enum import IntEnum, IntFlag
from typing import NamedTuple

ROOT_INODE = 1
TRASH_INODE = 0x7FFF_FFFF_1000_0000
"""Inode of ``/.trash``; hourly trash directories are this plus the counter ``nextTrash``."""
TRASH_NAME = b".trash"
RESERVED_ROOT_NAMES = frozenset([TRASH_NAME, b".accesslog", b".config", b".stats", b".control"])
"""Names that official mounts serve themselves in the root: never created by us."""
NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 4096
DIRECTORY_LENGTH = 4096
"""The ``length`` that every directory row carries in this format."""
SPACE_UNIT = 4096
TIME_NS_MAX = 9_223_372_036 * 10**9 - 1
"""Latest time, in the year 2262: fits into 64 bits, with room for a change of content, which
moves a file's time forward by at least a nanosecond."""
ID_MAX = 2**32 - 1
"""Largest number of a user or group."""


class NodeType(IntEnum):
    """What an inode is; the numbers are those of the volume format, not of ``st_mode``."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    BLOCK_DEVICE = 5
    CHAR_DEVICE = 6
    SOCKET = 7


FLAGS_MAX = 0xFF
"""The format keeps one byte of flags."""


class NodeFlag(IntFlag):
    """Bits of ``Attr.flags``."""

    IMMUTABLE = 1
    APPEND_ONLY = 2
    WIN_HIDDEN = 4
    WIN_SYSTEM = 8
    WIN_ARCHIVE = 16
    SKIP_TRASH = 32


_TYPE_BITS = {
    NodeType.FILE: _stat.S_IFREG,
    NodeType.DIRECTORY: _stat.S_IFDIR,
    NodeType.SYMLINK: _stat.S_IFLNK,
    NodeType.FIFO: _stat.S_IFIFO,
    NodeType.BLOCK_DEVICE: _stat.S_IFBLK,
    NodeType.CHAR_DEVICE: _stat.S_IFCHR,
    NodeType.SOCKET: _stat.S_IFSOCK,
}


class Attr(NamedTuple):
    """The attributes of one inode: the typed row of the node table.

    ``mode`` holds the permission bits 07777 only. ``parent`` is 0 for a non-directory
    that ever had a second link. ``length`` is bytes for a file, 4096 for a directory,
    the target's length for a symlink.
    """

    inode: int
    type: NodeType
    flags: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    nlink: int = 1
    length: int = 0
    rdev: int = 0
    parent: int = 0
    access_acl: int = 0
    default_acl: int = 0
    tier: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether this inode is a directory."""
        return self.type == NodeType.DIRECTORY

    @property
    def is_file(self) -> bool:
        """Whether this inode is a regular file."""
        return self.type == NodeType.FILE

    def is_same_version(self, other: Attr) -> bool:
        """Return whether nobody changed the file between the two; reading it is no change."""
        return self.mtime_ns == other.mtime_ns and self.ctime_ns == other.ctime_ns

    @property
    def st_mode(self) -> int:
        """``mode`` with the POSIX type bits, as in ``os.stat_result``."""
        return _TYPE_BITS[self.type] | self.mode

    @property
    def space(self) -> int:
        """Bytes that this inode counts in usage: whole 4 KiB units of a file, else 4096."""
        return space_of(self.length) if self.type == NodeType.FILE else SPACE_UNIT


def space_of(length: int) -> int:
    """Return what a file of ``length`` bytes counts in usage: whole 4 KiB units, at least one."""
    return SPACE_UNIT if length <= 0 else -(-length // SPACE_UNIT) * SPACE_UNIT


def in_trash(inode: int) -> bool:
    """Return whether ``inode`` is the trash root or one of its hourly directories."""
    return inode >= TRASH_INODE
