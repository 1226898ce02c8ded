"""What fsspec calls an info: a dictionary about one entry."""

from __future__ import annotations

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
