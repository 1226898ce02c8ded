"""Files under random operations and crashes, against a dictionary of their bytes.

Blocks are 64 KiB, so that a few hundred kilobytes cross their borders. A crash comes between
the upload of blocks and their commit: the process is gone, its objects stay behind. At the
end of every example a collection leaves exactly the files, and all sums add up.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from juicecache.config import VolumeOptions
from juicecache.meta import usage
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume

EXAMPLES, STEPS = 200, 30
BLOCK = 64 << 10
NAMES = ("/a", "/d/b", "/d/e/c")

names = st.sampled_from(NAMES)
# Around the borders of blocks, where content is cut.
offsets = st.builds(
    lambda block, shift: max(0, block * BLOCK + shift),
    st.sampled_from([0, 0, 1, 2, 3]),
    st.integers(-9, 30),
)
seeds = st.integers(0, 255)


class Crash(BaseException):
    """The process ends here."""


def text(size: int, seed: int) -> bytes:
    """Return bytes that differ from one place, and one seed, to the next."""
    unit = bytes((seed + 7 * at) % 251 for at in range(251))
    return (unit * (size // 251 + 1))[:size]


class Files(RuleBasedStateMachine):
    """One volume on SQLite and a local directory, with both kinds of tier."""

    examples = 0
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).examples += 1
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.meta = f"sqlite3://{self.root}/meta.db"
        format_volume(
            self.meta,
            "model",
            bucket=str(self.root / "store"),
            block_size_kib=BLOCK >> 10,
            trash_days=0,
            remember=False,
        )
        self.model: dict[str, bytes] = {}
        self.volume = self._open()

    def _open(self) -> Volume:
        options = {
            "cache_dir": f"memory:{self.root}/cache",
            "memory_size": "256KiB",
            "cache_size": "1MiB",
            "free_space_ratio": 0,
        }
        return Volume(self.meta, VolumeOptions.from_options(options))

    def teardown(self) -> None:
        assert not self.volume.gc(delete=True, min_age_s=0).errors
        left = self.volume.gc(min_age_s=0)
        assert (left.leaked_objects, left.skipped_objects) == (0, 0)
        report = self.volume.fsck(sync_dir_stat=True)
        assert report.ok, report
        engine = self.volume.parts().engine
        assert engine.read(usage.totals) == engine.read(usage.recount)
        self.files_are_those_of_the_model()
        self.volume.close()
        self.folder.cleanup()

    @rule(name=names, size=offsets, seed=seeds)
    def write_whole(self, name, size, seed):
        self.model[name] = text(size, seed)
        self.volume.write_file(name, self.model[name])

    @rule(name=names, sizes=st.lists(offsets, max_size=3), seed=seeds, flush=st.booleans())
    def write_in_pieces(self, name, sizes, seed, flush):
        with self.volume.open(name, "wb") as file:
            for size in sizes:
                file.write(text(size, seed))
                if flush:
                    file.flush()
        self.model[name] = b"".join(text(size, seed) for size in sizes)

    @rule(name=names, size=offsets, seed=seeds)
    def append(self, name, size, seed):
        with self.volume.open(name, "ab") as file:
            file.write(text(size, seed))
        self.model[name] = self.model.get(name, b"") + text(size, seed)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), start=offsets, size=offsets, seed=seeds)
    def overwrite_in_place(self, data, start, size, seed):
        name = data.draw(st.sampled_from(sorted(self.model)))
        with self.volume.open(name, "r+b") as file:
            file.seek(start)
            file.write(text(size, seed))
        old = self.model[name]
        if size:
            old = old.ljust(start, b"\0")
            self.model[name] = old[:start] + text(size, seed) + old[start + size :]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), length=offsets)
    def truncate(self, data, length):
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.volume.truncate(name, length)
        self.model[name] = self.model[name][:length].ljust(length, b"\0")

    @precondition(lambda self: self.model)
    @rule(data=st.data(), onto=names)
    def rename(self, data, onto):
        source = data.draw(st.sampled_from(sorted(self.model)))
        self.volume.make_directory("/d/e", parents=True, exist_ok=True)
        self.volume.rename(source, onto)
        self.model[onto] = self.model.pop(source)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), onto=names)
    def copy(self, data, onto):
        source = data.draw(st.sampled_from(sorted(self.model)))
        if source != onto:
            self.volume.copy_file(source, onto)
            self.model[onto] = self.model[source]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def unlink(self, data):
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.volume.unlink(name)
        del self.model[name]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), start=offsets, size=offsets)
    def read_range(self, data, start, size):
        name = data.draw(st.sampled_from(sorted(self.model)))
        wanted = self.model[name][start : start + size]
        assert self.volume.read_file(name, start, start + size) == wanted
        with self.volume.open(name) as file:
            file.seek(start)
            assert file.read(size) == wanted

    @rule(name=names, size=offsets, seed=seeds, append=st.booleans())
    def crash_before_the_commit(self, name, size, seed, append):
        def crash(*args, **kwargs):
            raise Crash

        meta = self.volume.parts().meta
        meta.commit = meta.commit_file = crash
        with pytest.raises(Crash):
            with self.volume.open(name, "ab" if append else "wb") as file:
                file.write(text(size + 1, seed))
        self.volume = self._open()

    @rule()
    def open_again(self):
        self.volume.close()
        self.volume = self._open()

    @rule(evict=st.booleans())
    def disturb_the_cache(self, evict):
        """Evict everything, or flip a byte in every cached file."""
        if evict:
            self.volume.warmup(["/"], evict=True)
            return
        for path in (self.root / "cache").rglob("b*_*_*"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)

    @rule()
    def compact(self):
        self.volume.compact("/")

    @rule()
    def collect(self):
        self.volume.gc(delete=True, min_age_s=0)

    @invariant()
    def files_are_those_of_the_model(self):
        type(self).steps += 1
        found = {}
        for directory, entries in self.volume.walk():
            for entry in entries:
                if entry.attr.is_file:
                    found[os.path.join(directory, entry.name)] = entry.attr.length
        assert found == {name: len(content) for name, content in self.model.items()}
        outcomes = self.volume.read_files([(name, None, None) for name in self.model])
        assert outcomes == list(self.model.values())


def test_files_survive_operations_and_crashes(capsys):
    run_state_machine_as_test(
        Files,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(
            f"\nfile state machine: {Files.examples} examples of {STEPS} steps, {Files.steps} in all"
        )
    assert Files.examples >= EXAMPLES
