"""How much memory this process, or its container, may still take: the limits of its cgroups.

Pages of a tmpfs are charged to the cgroup of whoever writes them and cannot be taken back, so a
tier in memory that trusts its quota alone may have the container killed.

Both versions of cgroups are read. Every cgroup from this process's own up to the root may have a
limit. In a container the path of one's own may lead nowhere below what is mounted there: then the
mounted root is the container's.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

_TREE = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60
"""Version 1 writes no limit as the largest multiple of a page; nothing has an exbibyte."""


class _Names(NamedTuple):
    limit: str
    used: str
    reclaimable: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def memory_left(
    free_ratio: float, tree: Path = _TREE, membership: Path = _MEMBERSHIP
) -> int | None:
    """Return how many bytes may still be taken; negative when it is too much already.

    Parameters
    ----------
    free_ratio
        Part of every limit that must stay free.
    tree
        Where cgroups are mounted.
    membership
        Text in the form of ``/proc/self/cgroup``.

    Returns
    -------
    int or None
        None when nothing limits the memory, or the machine does not tell.
    """
    try:
        lines = membership.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += _left(tree, path, _V2, free_ratio)
        elif "memory" in controllers.split(","):
            found += _left(tree / "memory", path, _V1, free_ratio)
    return min(found, default=None)


def _left(mounted: Path, path: str, names: _Names, free_ratio: float) -> list[int]:
    """Return what is left in a cgroup and in all above it that have a limit."""
    own = PurePosixPath(path.lstrip("/"))
    groups = [mounted / own, *(mounted / above for above in own.parents)]
    found = []
    for group in dict.fromkeys(groups):
        try:
            limit = _number(group / names.limit)
            if limit is None or limit >= _UNLIMITED:
                continue
            used = _number(group / names.used) or 0
            reclaimable = _member(group / "memory.stat", names.reclaimable)
        except (OSError, ValueError):
            continue  # not here, or gone
        found.append(int(limit * (1 - free_ratio)) - used + reclaimable)
    return found


def _number(path: Path) -> int | None:
    text = path.read_text("utf-8").strip()
    return None if text == "max" else int(text)


def _member(path: Path, name: str) -> int:
    for line in path.read_text("utf-8").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
