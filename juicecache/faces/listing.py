"""What fsspec calls an info: a dictionary about one entry; and the walk over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from juicecache.model.attr import Attr, NodeType

_TYPES = {NodeType.FILE: "file", NodeType.DIRECTORY: "directory"}


def info_of(path: str, attr: Attr, destination: str | None = None) -> dict[str, Any]:
    """Return the info of an entry, with the keys of fsspec's local file system.

    Parameters
    ----------
    attr
        Of what the path leads to; of a link itself when it leads nowhere.
    destination
        Where the entry leads, if it is a symbolic link.
    """
    info = {
        "name": path,
        "size": 0 if attr.is_directory else attr.length,
        "type": _TYPES.get(attr.type, "other"),
        "created": attr.ctime_ns / 1e9,
        "islink": destination is not None,
        "mode": attr.st_mode,
        "uid": attr.uid,
        "gid": attr.gid,
        "mtime": attr.mtime_ns / 1e9,
        "ino": attr.inode,
        "nlink": attr.nlink,
    }
    if destination is not None:
        info["destination"] = destination
    return info


def walk_entries(
    ls: Callable[[str], list[dict[str, Any]]],
    path: str,
    maxdepth: int | None,
    on_error: str | Callable[[OSError], None],
    *,
    topdown: bool,
    detail: bool,
) -> Iterator[tuple[str, Any, Any]]:
    """Iterate over (directory, directories, files), as lists of names or {name: info}.

    Parameters
    ----------
    ls
        Returns the infos of a directory.
    on_error
        For a directory that cannot be listed: ``omit`` and ``raise``, or what is called with
        the error.
    """
    # A tree may be deeper than Python's calls. Bottom up, a step waits for those below it.
    pending: list[tuple[str, int | None, tuple[str, Any, Any] | None]] = [(path, maxdepth, None)]
    while pending:
        directory, depth, step = pending.pop()
        if step is not None:
            yield step
            continue
        try:
            directories, files = _sorted_out(directory, ls(directory))
        except OSError as error:
            if on_error == "raise":
                raise
            if callable(on_error):
                on_error(error)
            continue
        shown: Any = directories if detail else list(directories)
        step = directory, shown, files if detail else list(files)
        if topdown:
            yield step
        else:
            pending.append((directory, depth, step))
        if depth is None or depth > 1:
            below = [
                f"{directory.rstrip('/')}/{name}"
                for name in (shown if topdown else directories)
                # The caller may have added a name.
                if name not in directories or not directories[name]["islink"]
            ]
            deeper = None if depth is None else depth - 1
            pending.extend((child, deeper, None) for child in reversed(below))


def _sorted_out(
    path: str, infos: list[dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return directories and all else in ``path``, by name."""
    directories: dict[str, dict[str, Any]] = {}
    files: dict[str, dict[str, Any]] = {}
    for info in infos:
        # A file that is walked lists itself; its name below itself is empty.
        name = "" if info["name"] == path else info["name"].rpartition("/")[2]
        kind = directories if info["type"] == "directory" else files
        kind[name] = info
    return directories, files
