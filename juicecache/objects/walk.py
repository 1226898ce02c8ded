"""The order of names, where storage is made of directories.

Object storage lists names as strings, so ``a.b`` comes before ``a/b`` although ``a`` comes
before ``a.b``. Directories are read one at a time; nothing but the one being read is held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from juicecache.objects.store import ObjectInfo

TEMPORARY_PREFIX = ".tmp."
"""What names of unfinished files begin with. They have no three parts joined by ``_``, so
the official collector leaves them alone, and a listing of ours does not show them."""


class Item(NamedTuple):
    """One entry of one directory; ``name`` without its path."""

    name: str
    is_directory: bool
    size_bytes: int
    modified_ns: int


async def walk(
    entries: Callable[[str], Awaitable[Sequence[Item]]], prefix: str, after: str
) -> AsyncIterator[ObjectInfo]:
    """Iterate over objects below ``prefix`` and behind ``after``, in the order of their names.

    Parameters
    ----------
    entries
        Reads one directory, given as ``""`` or a path that ends in ``/``; an absent one is
        empty. Suspends only if this does.
    """
    top = prefix[: prefix.rfind("/") + 1]
    pending = [_wanted(await entries(top), top, prefix, after)]
    while pending:
        if not pending[-1]:
            pending.pop()
            continue
        path, item = pending[-1].pop()
        if item.is_directory:
            pending.append(_wanted(await entries(path), path, prefix, after))
        else:
            yield ObjectInfo(path, item.size_bytes, item.modified_ns)


def _wanted(items: Sequence[Item], parent: str, prefix: str, after: str) -> list[tuple[str, Item]]:
    """Return (path, item) of what can hold wanted names, last name first, to be popped."""
    wanted = []
    for item in items:
        if item.name.startswith(TEMPORARY_PREFIX):
            continue
        path = f"{parent}{item.name}/" if item.is_directory else parent + item.name
        below = item.is_directory and prefix.startswith(path)
        reaches = path > after or (item.is_directory and after.startswith(path))
        if (below or path.startswith(prefix)) and reaches:
            wanted.append((path, item))
    wanted.sort(reverse=True)
    return wanted
