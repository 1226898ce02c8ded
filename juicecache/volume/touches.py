"""When a block is loaded whole for a small part of it: what reads of parts have cost so far."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeVar

from juicecache.model.layout import BlockKey

T = TypeVar("T")

_REMEMBERED_MAX = 65_536
"""Blocks remembered as read once by a range, and as loaded whole for a part of them: 256 GiB of
each, some 10 MB of memory."""
_REFUSED_LENGTHS = 8
"""A block that no tier could keep is loaded whole for a part of it again when ranges of it have
cost so many times its length: what is lost then is an eighth."""


class Touches:
    """What small reads have cost of each block; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._touched: OrderedDict[BlockKey, None] = OrderedDict()
        self._owed: OrderedDict[BlockKey, int] = OrderedDict()

    def fetched(self, key: BlockKey, size_bytes: int) -> None:
        """Take note of a range that was fetched alone."""
        with self._lock:
            if key in self._owed:
                self._owed[key] -= size_bytes
            else:
                _remember(self._touched, key, None)

    def pays_whole(self, key: BlockKey, *, likely: bool) -> bool:
        """Return whether to load all of a block, which no tier has, for a small part of it.

        The first time it is loaded when more of it is ``likely`` to be read, or was touched by
        a range before. If it is missing again the tiers could not keep it for long: then not
        before ranges of it have cost as much as that load, so that a set of blocks which does
        not fit costs at most twice what is read of it. With True the caller loads it now.
        """
        with self._lock:
            first = key not in self._owed
            pays = likely or key in self._touched if first else self._owed[key] <= 0
            if pays:
                _remember(self._owed, key, key.length)
        return pays

    def refused(self, key: BlockKey) -> None:
        """Take note that no tier could keep a block."""
        with self._lock:
            _remember(self._owed, key, _REFUSED_LENGTHS * key.length)

    def landed(self, key: BlockKey) -> None:
        """Take note that all of a block has come."""
        with self._lock:
            self._touched.pop(key, None)

    def forget(self, key: BlockKey) -> None:
        """Begin anew with a block: it was evicted on request."""
        with self._lock:
            self._owed.pop(key, None)
            self._touched.pop(key, None)


def _remember(blocks: OrderedDict[BlockKey, T], key: BlockKey, value: T) -> None:
    blocks[key] = value
    blocks.move_to_end(key)
    if len(blocks) > _REMEMBERED_MAX:
        blocks.popitem(last=False)
