"""What the state machines of the metadata share: SQLite under them, and the count of references."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from struct import iter_unpack

from hypothesis.stateful import RuleBasedStateMachine

from juicecache.meta.engine import Engine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import Chunk, DelayedSlices, SliceRef
from juicecache.model.slices import refs_of


class OnSqlite(RuleBasedStateMachine):
    """A mixin, in front of a machine: makes its engine a SQLite file that goes at the end."""

    def make_engine(self) -> Engine:
        """Return an engine on a new file."""
        self.folder = tempfile.TemporaryDirectory()
        return SqliteEngine(Path(self.folder.name) / "meta.db")

    def teardown(self) -> None:
        """End the machine, then remove the file."""
        super().teardown()
        self.folder.cleanup()


def assert_references_counted(engine: Engine) -> None:
    """Assert that each slice has as many references as records and delayed entries name it."""
    counts: Counter[tuple[int, int]] = Counter()
    for row in engine.read(lambda tx: list(tx.scan(Chunk))):
        counts.update(refs_of(row.slices))
    for delayed in engine.read(lambda tx: list(tx.scan(DelayedSlices))):
        counts.update((entry[0], entry[1]) for entry in iter_unpack(">QI", delayed.slices))
    found = engine.read(lambda tx: list(tx.scan(SliceRef)))
    assert {(row.slice_id, row.size): row.refs for row in found} == counts
