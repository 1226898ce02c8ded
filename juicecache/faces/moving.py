"""Where ``mv`` puts what, by the rules of fsspec's ``cp``, and how: by renaming."""

from __future__ import annotations

import errno
from glob import has_magic
from typing import Any

from fsspec.utils import stringify_path

from juicecache.errors import DirectoryNotEmptyError, EntryNotFoundError, FileError
from juicecache.volume.volume import Volume


def move_pairs(fs: Any, path1: Any, path2: Any) -> list[tuple[str, str]]:
    """Return (source, target) of every entry that is moved.

    Two lists are moved one by one. Else everything that ``path1`` matches goes into
    ``path2`` when that is a directory or ends with ``/``; a single source that ends with
    ``/`` takes the place of ``path2`` instead.
    """
    if isinstance(path1, list) and isinstance(path2, list):
        pairs = zip(path1, path2, strict=True)
        return [(fs._strip_protocol(one), fs._strip_protocol(other)) for one, other in pairs]
    sources = topmost(fs.expand_path(path1))
    given, place = stringify_path(path1), stringify_path(path2)
    target = fs._strip_protocol(place)
    single = isinstance(given, str) and not has_magic(given)
    if single and (given.endswith("/") or not (place.endswith("/") or fs.isdir(target))):
        return [(sources[0], target)]
    if len(sources) == 1 and not (place.endswith("/") or fs.isdir(target)):
        return [(sources[0], target)]
    return [(source, f"{target.rstrip('/')}/{source.rpartition('/')[2]}") for source in sources]


def topmost(paths: list[str]) -> list[str]:
    """Return the paths without those below another one of them, in order."""
    if "/" in paths:
        return ["/"]
    chosen: set[str] = set()
    for path in sorted(paths):
        parents = path.split("/")
        if not any("/".join(parents[:depth]) in chosen for depth in range(2, len(parents))):
            chosen.add(path)
    return sorted(chosen)


def move(volume: Volume, source: str, target: str) -> None:
    """Rename an entry; missing directories are made, a directory in the way is joined with it."""
    there = volume.stat(source, follow=False)
    if source == target:
        return
    if there.is_directory and source != "/" and target.startswith(source + "/"):
        # Said before any directory is made for it.
        error = FileError(source, "a directory cannot move below itself", errno=errno.EINVAL)
        error.locate(source, target)
        raise error
    # Trees that are joined may be deeper than Python's calls.
    pending = [(source, target, False)]
    while pending:
        one, other, emptied = pending.pop()
        if emptied:
            volume.remove_directory(one)
            continue
        try:
            _rename(volume, one, other)
        except DirectoryNotEmptyError:
            pending.append((one, other, True))
            names = [entry.name for entry in volume.list_directory(one)]
            pending += [(f"{one}/{name}", f"{other}/{name}", False) for name in reversed(names)]


def _rename(volume: Volume, source: str, target: str) -> None:
    try:
        volume.rename(source, target)
    except EntryNotFoundError:
        volume.stat(source, follow=False)
        volume.make_directory(target.rpartition("/")[0], parents=True, exist_ok=True)
        volume.rename(source, target)
