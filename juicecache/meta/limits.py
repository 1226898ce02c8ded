"""Quotas that a change counts for, and their limits.

Law: what shrinks is never refused, also where a limit is passed already.
"""

from __future__ import annotations

from juicecache.errors import QuotaExceededError
from juicecache.meta.context import Used
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import DirQuota, UserGroupQuota
from juicecache.model.attr import ROOT_INODE, Attr, in_trash

USER, GROUP = 1, 2
"""Kinds of ``UserGroupQuota`` rows."""


def check_limit(
    row: DirQuota | UserGroupQuota, added: Used, held: Used, path: bytes | str, who: str
) -> None:
    """Raise where a quota that counts ``added`` more would pass a limit.

    Parameters
    ----------
    held
        What the quota counts already of what is added.
    path, who
        What the error names: what was to grow, and whose quota it is.

    Raises
    ------
    QuotaExceededError
    """
    if added.space > 0 and 0 < row.max_space < row.used_space + added.space - held.space:
        raise QuotaExceededError(path, f"the quota of {who}, {row.max_space} bytes, is reached")
    if added.inodes > 0 and 0 < row.max_inodes < row.used_inodes + added.inodes - held.inodes:
        raise QuotaExceededError(path, f"the quota of {who}, {row.max_inodes} inodes, is reached")


def quotas_above(
    tx: Transaction,
    directory: int,
    quotas: frozenset[int],
    known: dict[int, frozenset[int]],
) -> frozenset[int]:
    """Return which of ``quotas`` are at and above a directory; none below the trash.

    Parameters
    ----------
    known
        What is known of directories already, and is completed: a transaction asks about many
        whose ancestors are the same.
    """
    way: list[int] = []
    here, above = directory, frozenset[int]()
    while here not in known:
        if in_trash(here) or here in way:  # a damaged volume may have a loop
            break
        way.append(here)
        if here == ROOT_INODE:
            break
        attr = tx.get(Attr, here)
        if attr is None:
            break
        here = attr.parent
    above = known.get(here, above)
    for inode in reversed(way):
        above = above | {inode} if inode in quotas else above
        known[inode] = above
    return known.get(directory, above)
