"""What the state machines of the metadata share: engines under them, references counted."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from struct import iter_unpack

from hypothesis.stateful import RuleBasedStateMachine

from juicecache.meta.engine import Engine
from juicecache.meta.rows import Chunk, DelayedSlices, SliceRef
from juicecache.model.slices import refs_of
from juicecache.testing.engines import fresh_engine


class OnEngine(RuleBasedStateMachine):
    """A mixin, in front of a machine: makes its engine one of another kind.

    Attributes
    ----------
    kind
        One of ``engines.KINDS``.
    """

    kind = "sqlite"

    def make_engine(self) -> Engine:
        """Return an engine on a new database."""
        self.folder = tempfile.TemporaryDirectory()
        return fresh_engine(self.kind, Path(self.folder.name))

    def teardown(self) -> None:
        """End the machine, then remove the database's file."""
        super().teardown()
        self.folder.cleanup()


def named_slices(engine: Engine) -> Counter[tuple[int, int]]:
    """Return how many records and delayed entries name each slice (id, size)."""
    counts: Counter[tuple[int, int]] = Counter()
    for row in engine.read(lambda tx: list(tx.scan(Chunk))):
        counts.update(refs_of(row.slices))
    for delayed in engine.read(lambda tx: list(tx.scan(DelayedSlices))):
        counts.update((entry[0], entry[1]) for entry in iter_unpack(">QI", delayed.slices))
    return counts


def references(engine: Engine) -> dict[tuple[int, int], int]:
    """Return the reference count of each slice, those that the engine implies included."""
    rows = engine.read(lambda tx: list(tx.scan(SliceRef)))
    found = {(row.slice_id, row.size): row.refs for row in rows}
    if engine.read(lambda tx: tx.implies_references):
        found |= {key: 1 for key in named_slices(engine) if key not in found}
    return found


def assert_references_counted(engine: Engine) -> None:
    """Assert that each slice has as many references as records and delayed entries name it."""
    assert references(engine) == named_slices(engine)
