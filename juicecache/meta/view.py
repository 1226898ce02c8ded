"""What this process remembers of the tree: attributes by path, slice lists by chunk.

Laws: attributes are answered from memory only while the engine's stamp has not moved (or
within an age that the caller allows); a slice list is valid for one (mtime, ctime) of its
file, because every change of content changes them. Nothing here asks the database for more
than its stamp.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from contextlib import suppress

from juicecache.meta.engine import Engine
from juicecache.model.attr import Attr
from juicecache.model.slices import Extent

_ATTRS_MAX = 200_000
"""Paths kept while nothing changes: about 100 MB, a listing of a large data set."""
_CHUNKS_MAX = 65_536
"""Slice lists kept: the windows of 4 TiB of large files, or as many small files."""


class Snapshot:
    """Attributes by path, all read while the engine's stamp had one value.

    A path whose last symbolic link was not followed is kept under a tuple of itself.
    """

    __slots__ = ("attrs", "born_s", "stamp")

    def __init__(self, stamp: Hashable | None) -> None:
        self.stamp = stamp
        self.born_s = time.monotonic()
        self.attrs: dict[str | tuple[str], Attr] = {}

    def keep(self, key: str | tuple[str], attr: Attr) -> None:
        """Remember one answer."""
        if len(self.attrs) >= _ATTRS_MAX:
            self.attrs.clear()
        self.attrs[key] = attr


class View:
    """Attributes and slice lists known to be fresh. Thread-safe without a lock.

    Each change replaces one reference or one dictionary item; what a slow thread adds to a
    snapshot that was replaced meanwhile is lost with it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._snapshot = Snapshot(None)
        self._extents: dict[tuple[int, int], tuple[int, int, list[Extent]]] = {}

    def fresh(self, max_age_s: float) -> Snapshot:
        """Return the last snapshot while it is valid or young enough, else a new one."""
        snapshot = self._snapshot
        if max_age_s and time.monotonic() - snapshot.born_s < max_age_s:
            return snapshot
        stamp = self._engine.stamp()
        if stamp is None or stamp != snapshot.stamp:
            snapshot = self._snapshot = Snapshot(stamp)
        return snapshot

    def forget(self) -> None:
        """Drop every remembered attribute: something changed."""
        self._snapshot = Snapshot(None)

    def extents(self, attr: Attr, index: int) -> list[Extent] | None:
        """Return what is visible in a chunk of this version of a file, if known."""
        known = self._extents.get((attr.inode, index))
        if known is not None and known[0] == attr.mtime_ns and known[1] == attr.ctime_ns:
            return known[2]
        return None

    def drop_extents(self, inode: int, index: int) -> None:
        """Forget what is visible in a chunk: the same bytes are now elsewhere."""
        self._extents.pop((inode, index), None)

    def keep_extents(
        self, attr: Attr, indices: Sequence[int], lists: Sequence[list[Extent]]
    ) -> None:
        """Remember slice lists, read together with ``attr``."""
        while len(self._extents) + len(lists) > _CHUNKS_MAX and self._extents:
            # The oldest insertion goes; two threads may drop one more than needed, or meet.
            with suppress(RuntimeError, StopIteration):
                self._extents.pop(next(iter(self._extents)), None)
        for index, extents in zip(indices, lists, strict=True):
            self._extents[attr.inode, index] = (attr.mtime_ns, attr.ctime_ns, extents)
