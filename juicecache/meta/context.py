"""What an operation on the tree knows besides its rows: the time, the caller, the limits."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import NamedTuple

TRASH_WANTED = -1
"""Stands for the trash directory of this hour while it is not known to exist."""


class UnpreparedError(Exception):
    """A removal needs what only a transaction of its own can make; nothing was written.

    Never leaves this package: `gate.Gate.remove` makes it and runs the body again.
    """


class SessionNeededError(UnpreparedError):
    """A file that we have open lost its last name, and no session protects it."""


class TrashNeededError(UnpreparedError):
    """An entry is to move into the trash, and the directory of this hour is not there."""


class CountNeededError(UnpreparedError):
    """A large subtree moves between quotas, and what it holds is not known.

    Parameters
    ----------
    inode
        Its top.
    """

    def __init__(self, inode: int) -> None:
        super().__init__(inode)
        self.inode = inode


class Used(NamedTuple):
    """What entries count: whole 4 KiB units, and how many they are."""

    space: int = 0
    inodes: int = 0


class Context(NamedTuple):
    """Facts fixed before a transaction starts, so that its body may run many times.

    Attributes
    ----------
    now_ns
        The time of the operation.
    uid, gid, umask
        Who creates; permissions are kept as values, not enforced.
    dir_stats
        Whether the volume keeps a usage row per directory.
    capacity_bytes, inodes_max
        Limits of the volume; 0 is unlimited.
    trash
        Inode of the hourly trash directory to move removed entries into; 0 removes for good,
        `TRASH_WANTED` makes the first entry to move raise `TrashNeededError`.
    sid
        Our session; 0 while we have none, which makes the first removal that needs one raise
        `SessionNeededError`.
    opened
        Inodes that this process has open: their content outlives their last name.
    acl
        Whether the volume keeps access control lists.
    user_group
        Whether the volume keeps what each user and group owns.
    quotas
        Directories that had a quota when the volume's record was last read.
    counted
        What is below directories that move and are too large to be counted in a transaction.
    held
        What slices that are committed count already: no limit counts it twice.
    """

    now_ns: int
    uid: int
    gid: int
    umask: int
    dir_stats: bool
    capacity_bytes: int
    inodes_max: int
    trash: int = 0
    sid: int = 0
    opened: Container[int] = frozenset()
    acl: bool = False
    user_group: bool = False
    quotas: frozenset[int] = frozenset()
    counted: Mapping[int, Used] = MappingProxyType({})
    held: Used = Used()
