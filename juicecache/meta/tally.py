"""Counts of slices, and what was seen, of any number: in a temporary file, not in memory.

A volume has a slice for each file and more, so that a plain dictionary of them would need
gigabytes where there are tens of millions.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Self, TypeAlias

SliceKey: TypeAlias = tuple[int, int]
"""(slice id, size)."""
_HELD_MAX = 100_000
"""Counts held in memory: some 20 MB, and few enough writes to the file."""
_ASKED_MAX = 500
"""Keys in one query: no build of SQLite takes fewer parameters."""


def scratch_table(columns: str, key: str) -> sqlite3.Connection:
    """Return a database in a temporary file without a name, with the table ``scratch``."""
    # The empty name is a database of SQLite in a temporary file that nobody else can open.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute(f"CREATE TABLE scratch ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID")
    return connection


class SliceTally:
    """Counts by (slice id, size). One thread at a time.

    The file has no name: it is gone with the process, however that ends. Use as a context
    manager, or `close` it.
    """

    def __init__(self) -> None:
        self._held: Counter[SliceKey] = Counter()
        self._spilled = scratch_table("id INTEGER, size INTEGER, count INTEGER", "id, size")

    def add(self, counts: Mapping[SliceKey, int]) -> None:
        """Add to the counts of some slices."""
        self._held.update(counts)
        if len(self._held) >= _HELD_MAX:
            self._spill()

    def counts(self) -> Iterator[tuple[SliceKey, int]]:
        """Iterate over the slices with their counts, in ascending order; nothing may be added."""
        self._spill()
        rows = self._spilled.execute("SELECT id, size, count FROM scratch ORDER BY id, size")
        for slice_id, size, count in rows:
            yield (slice_id, size), count

    def count(self, slice_id: int, size: int) -> int:
        """Return the count of one slice; nothing may be added any more."""
        if self._held:
            self._spill()
        row = self._spilled.execute(
            "SELECT count FROM scratch WHERE id = ? AND size = ?", (slice_id, size)
        ).fetchone()
        return row[0] if row else 0

    def close(self) -> None:
        """Forget everything. Safe to call twice."""
        self._spilled.close()
        self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spill(self) -> None:
        """Move what is held to the file; in the order of its key, which is several times faster."""
        rows = sorted((*key, count) for key, count in self._held.items())
        self._spilled.execute("BEGIN")
        self._spilled.executemany(
            "INSERT INTO scratch VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            rows,
        )
        self._spilled.execute("COMMIT")
        self._held.clear()


class Seen:
    """Which keys have been met before. One thread at a time; `close` it."""

    def __init__(self) -> None:
        self._keys = scratch_table("key BLOB", "key")

    def add(self, keys: Iterable[bytes]) -> None:
        """Remember keys."""
        self._keys.execute("BEGIN")
        rows = ((key,) for key in sorted(keys))
        self._keys.executemany("INSERT OR IGNORE INTO scratch VALUES (?)", rows)
        self._keys.execute("COMMIT")

    def unmet(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return, once each, the keys that were not added yet."""
        rest = iter(dict.fromkeys(keys))
        unmet: list[bytes] = []
        while some := list(islice(rest, _ASKED_MAX)):
            places = ", ".join("?" * len(some))
            found = self._keys.execute(f"SELECT key FROM scratch WHERE key IN ({places})", some)
            known = {key for (key,) in found}
            unmet += [key for key in some if key not in known]
        return unmet

    def close(self) -> None:
        """Forget everything. Safe to call twice."""
        self._keys.close()


def joined(
    one: SliceTally, other: SliceTally, *, missing: int
) -> Iterator[tuple[SliceKey, int, int]]:
    """Iterate over the slices of two tallies with both counts, in ascending order.

    Parameters
    ----------
    missing
        Stands for the count in ``other`` of a slice that it does not have; in ``one`` it is 0.
    """
    pairs = groupby(
        merge(
            ((key, 0, count) for key, count in one.counts()),
            ((key, 1, count) for key, count in other.counts()),
        ),
        key=itemgetter(0),
    )
    for key, found in pairs:
        counts = {which: count for _, which, count in found}
        yield key, counts.get(0, 0), counts.get(1, missing)
