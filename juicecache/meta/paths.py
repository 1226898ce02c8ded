"""Paths of a volume as text, and the names they are made of."""

from __future__ import annotations

import os

from juicecache.errors import InvalidNameError

ROOT_HERE = b""
"""Among the names of a path: what they led to so far is the root for the rest of it."""


def split_path(path: str) -> tuple[bytes, ...]:
    """Return the names along ``path``: empty and ``.`` components are dropped.

    ``/``, the empty string and ``.`` are the root. Undecodable bytes travel as
    surrogateescape, as in ``os.fsencode``.

    Raises
    ------
    InvalidNameError
        A component is ``..``: a path of a volume has no current directory to climb from,
        and a URL that leaves its root is a mistake or an attack.
    """
    names = tuple(os.fsencode(part) for part in path.split("/") if part not in ("", "."))
    if b".." in names:
        raise InvalidNameError(path, "'..' is not allowed in a path of a volume")
    return names


def join_path(names: tuple[bytes, ...]) -> str:
    """Return the canonical text of ``names``: ``/`` for the root, else ``/a/b``."""
    return "/" + "/".join(os.fsdecode(name) for name in names)
