"""What this process remembers of the tree: attributes by path, slice lists by chunk.

Laws: attributes are answered from memory only while the engine's stamp has not moved (or
within an age that the caller allows); a slice list is valid for one (mtime, ctime) of its
file, because every change of content changes them. Nothing here asks the database for more
than its stamp.

Who looks for one file of a directory after another will look for most of them. So from the
third look on that the database must answer, pages of the directory are read along with it,
each twice as long as the one before: a reader of few files pays for few entries, a reader of
all asks a handful of times, and where something changes between all looks there is no third.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress

from juicecache.meta.engine import Engine, Listed
from juicecache.model.attr import Attr, NodeType
from juicecache.model.slices import Extent, visible

_ATTRS_MAX = 200_000
"""Paths kept while nothing changes: about 100 MB, a listing of a large data set."""
_CHUNKS_MAX = 200_000
"""Slice lists kept: about 100 MB, one for each path, or the windows of 12 TiB of large files."""
_LONE_LOOKS = 2
"""Looks into a directory that each go alone."""
_PAGE_ENTRIES, _PAGE_ENTRIES_MAX = 64, 8192
"""First and longest page of a directory: as long in the database as some six looks, and as
30 ms, which nobody should wait for more than once in a while."""
_PAGED_MAX = 1024
"""Directories of which looks are counted at the same time."""


class Paging:
    """How far the entries of one directory have been read in name order."""

    __slots__ = ("_limit", "_looks", "after", "done")

    def __init__(self) -> None:
        self.after = b""
        self.done = False
        self._looks = 0
        self._limit = _PAGE_ENTRIES

    def look(self) -> int:
        """Count one look of the database into the directory; return how many entries to add."""
        self._looks += 1
        return 0 if self.done or self._looks <= _LONE_LOOKS else self._limit

    def advance(self, listed: Sequence[Listed], limit: int) -> None:
        """Note the page that was read."""
        self.done = len(listed) < limit
        if listed:
            self.after = listed[-1].name
        self._limit = min(2 * limit, _PAGE_ENTRIES_MAX)


class Snapshot:
    """Attributes by path, all read while the engine's stamp had one value.

    A path whose last symbolic link was not followed is kept under a tuple of itself.
    """

    __slots__ = ("_paging", "attrs", "born_s", "stamp")

    def __init__(self, stamp: Hashable | None) -> None:
        self.stamp = stamp
        self.born_s = time.monotonic()
        self.attrs: dict[str | tuple[str], Attr] = {}
        self._paging: dict[str, Paging] = {}

    def keep(self, key: str | tuple[str], attr: Attr) -> None:
        """Remember one answer."""
        if len(self.attrs) >= _ATTRS_MAX:
            self.attrs.clear()
        self.attrs[key] = attr

    def paging(self, head: str) -> Paging:
        """Return how far the directory whose entries begin with ``head`` has been read."""
        if len(self._paging) >= _PAGED_MAX:
            self._paging.clear()
        return self._paging.setdefault(head, Paging())

    def keep_page(self, head: str, page: Sequence[Listed]) -> None:
        """Remember a page of a directory, unless there are too many paths already."""
        if len(self.attrs) + len(page) > _ATTRS_MAX:
            return
        link = NodeType.SYMLINK
        self.attrs.update(
            (head + os.fsdecode(name), attr) for name, attr, _ in page if attr.type != link
        )


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

    def forget_all(self) -> None:
        """Drop the slice lists as well: nothing is known any more."""
        self.forget()
        self._extents = {}

    def inherit(self, parents: View) -> None:
        """Take over the slice lists that the parent of a forked process knew.

        Not the attributes: the stamps of its connections mean nothing for ours.
        """
        self._extents = parents._extents

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
        self._make_room(len(lists))
        for index, extents in zip(indices, lists, strict=True):
            self._extents[attr.inode, index] = (attr.mtime_ns, attr.ctime_ns, extents)

    def keep_records(self, attr: Attr, records: bytes) -> None:
        """Remember the slice list of the first chunk of a file, read together with ``attr``."""
        if attr.type == NodeType.FILE and self.extents(attr, 0) is None:
            self.keep_extents(attr, (0,), (visible(records),))

    def _make_room(self, count: int) -> None:
        while len(self._extents) + count > _CHUNKS_MAX and self._extents:
            # The oldest insertion goes; two threads may drop one more than needed, or meet.
            with suppress(RuntimeError, StopIteration):
                self._extents.pop(next(iter(self._extents)), None)
