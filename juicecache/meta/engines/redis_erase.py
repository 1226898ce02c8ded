"""Removing a volume from Redis: its keys, among those of others in the same database.

Law: only keys that the format names, and our own, are removed; a database may be shared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from juicecache.meta.engines.redis_codec import NEVER, WHO, Command, run_of

_PAGE = 1000
"""Keys that the server looks at, and at most about so many that it removes, at a time: 1 ms."""
_NAMES = re.compile(
    rb"[idpsx]\d+|[ck]\d+_\d+|session\d+|locked\d+|lock[fp]\d+"
    rb"|sliceRef|delSlices|delfiles|detachedNodes|allSessions|sessionInfos|sessions"
    rb"|dir(DataLength|UsedSpace|UsedInodes)|(dir|user|group)Quota(UsedSpace|UsedInodes)?"
    rb"|acl|aclMaxId|krbToken\w*|usedSpace|totalInodes|txnLog|txnLastLog"
    rb"|next(inode|chunk|session|Trash|CleanupSlices)|lastCleanup\w+"
    rb"|juicecache(Tables|Members|Groups|Records|Repack|Epoch|Loading)"
)
"""Of the keys of a volume, behind its prefix: ``docs/format.md``, "The metadata in Redis"."""


def erase_page(
    ask: Callable[[Sequence[Command]], list[Any]], prefix: bytes, cursor: bytes
) -> tuple[bytes, bytes, int]:
    """Remove some keys of a volume, the setting record excepted; safe to repeat.

    Returns
    -------
    tuple
        Which run of which server did it, where it goes on, ``0`` at the end, and how many keys
        were removed.
    """
    scan: Command = (b"SCAN", cursor, b"MATCH", prefix + b"*", b"COUNT", _PAGE)
    (following, names), who, _ = ask([scan, WHO, (b"EXISTS", prefix + NEVER.encode())])
    keys = [name for name in names if _NAMES.fullmatch(name[len(prefix) :])]
    # Freed behind the reply: a directory may be a key of a million fields.
    removed = ask([(b"UNLINK", *keys)])[0] if keys else 0
    return run_of(who), following, int(removed)
