"""Counts of slices, whatever their number: what does not fit into memory goes to a temporary file.

A volume has a slice for each file and more, so that a plain dictionary of them would need
gigabytes where there are tens of millions.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Self, TypeAlias

SliceKey: TypeAlias = tuple[int, int]
_HELD_MAX = 100_000
"""Counts held in memory: some 20 MB, and few enough writes to the file."""


class SliceTally:
    """Counts by (slice id, size). One thread at a time.

    The file has no name: it is gone with the process, however that ends. Use as a context
    manager, or `close` it.
    """

    def __init__(self) -> None:
        self._held: Counter[SliceKey] = Counter()
        # The empty name is a database of SQLite in a temporary file that nobody else can open.
        self._spilled = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._spilled.execute("PRAGMA synchronous = OFF")
        self._spilled.execute("PRAGMA journal_mode = OFF")
        self._spilled.execute(
            "CREATE TABLE counts (id INTEGER, size INTEGER, count INTEGER, PRIMARY KEY (id, size)) "
            "WITHOUT ROWID"
        )

    def add(self, counts: Mapping[SliceKey, int]) -> None:
        """Add to the counts of some slices."""
        self._held.update(counts)
        if len(self._held) >= _HELD_MAX:
            self._spill()

    def counts(self) -> Iterator[tuple[SliceKey, int]]:
        """Iterate over the slices with their counts, in ascending order; nothing may be added."""
        self._spill()
        rows = self._spilled.execute("SELECT id, size, count FROM counts ORDER BY id, size")
        for slice_id, size, count in rows:
            yield (slice_id, size), count

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
            "INSERT INTO counts VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            rows,
        )
        self._spilled.execute("COMMIT")
        self._held.clear()
