"""Files of a volume under random operations, crashes and damaged caches, against bytearrays.

After each step every file has the model's bytes, the totals are those of a recount, and the
objects of every slice that something points at are there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from juicecache.config import VolumeOptions
from juicecache.errors import CommitUnknownError, EngineUnavailableError, MetaError, ObjectError
from juicecache.meta import usage
from juicecache.meta.engine import Append, Engine, Put, Transaction
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import Chunk, SliceRef
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import refs_of
from juicecache.testing.faults import FaultyStore
from juicecache.testing.file_model import FileModel
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume

T = TypeVar("T")

BLOCK = 64 * 1024
PATHS = ("/one", "/two", "/d/three", "/d/e/four")
SPARSE = "/sparse"
WINDOW = 2 * BLOCK
"""Bytes on each side of the first chunk border of the sparse file that steps touch."""

paths = st.sampled_from(PATHS)
offsets = st.builds(
    lambda block, shift: max(0, block * BLOCK + shift), st.integers(0, 3), st.integers(-3, 3)
)
sizes = st.one_of(st.integers(0, 40), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9]))
contents = st.builds(
    lambda seed, size: (seed * (size // len(seed) + 1))[:size],
    st.binary(min_size=1, max_size=7),
    sizes,
)
near = st.integers(-WINDOW, WINDOW - 40)
examples = {"memory": 0, "sqlite": 0}
steps = {"memory": 0, "sqlite": 0}


class Faults:
    """What goes wrong with the next commit of content; for a mixin of any engine."""

    refuse = False
    lose_reply = False

    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        seen: list[bool] = []

        def watched(tx: Transaction) -> T:
            result = body(tx)
            commits = any(
                isinstance(write, Append)
                or (isinstance(write, Put) and isinstance(write.row, SliceRef))
                for write in tx.writes
            )
            seen.append(commits)
            if commits and self.refuse:
                self.refuse = False
                raise EngineUnavailableError("refused on purpose")
            return result

        result = super().attempt(watched, writable=writable)  # type: ignore[misc]
        if self.lose_reply and seen[-1]:
            self.lose_reply = False
            raise CommitUnknownError("the reply is lost on purpose")
        return result


class FaultyMemory(Faults, MemoryEngine):
    """The engine in memory, with faults."""


class FaultySqlite(Faults, SqliteEngine):
    """The engine on SQLite, with faults."""


class Files(RuleBasedStateMachine):
    """One client of a volume at a time; a crash leaves it behind and starts the next."""

    kind = "memory"

    def make_engine(self) -> Engine:
        return FaultyMemory()

    def __init__(self) -> None:
        super().__init__()
        examples[self.kind] += 1
        self.folder = Path(tempfile.mkdtemp(prefix="jc-files-"))
        self.engine = self.make_engine()
        bucket = str(self.folder / "objects")
        format_volume(self.engine, "files", bucket=bucket, block_size_kib=64, trash_days=0)
        self.model = FileModel()
        self.volumes: list[Volume] = []
        self._start()
        self.sparse = bytearray(2 * WINDOW)
        self.volume.write_file(SPARSE, b"")
        self.volume.truncate(SPARSE, CHUNK_BYTES + WINDOW)

    def teardown(self) -> None:
        for volume in self.volumes:
            volume.close()
        self.engine.close()
        shutil.rmtree(self.folder)

    def _start(self) -> None:
        options = VolumeOptions.from_options(
            {
                "cache_dir": f"memory:{self.folder}/cache",
                # Room for few blocks: evictions are part of the game.
                "memory_size": 2 * BLOCK / (1 << 20),
                "cache_size": "512KiB",
                "free_space_ratio": 0,
            }
        )
        self.volume = Volume(self.engine, options, wrap_store=FaultyStore)
        self.volumes.append(self.volume)

    @property
    def store(self) -> FaultyStore:
        store = self.volume.parts().store
        assert isinstance(store, FaultyStore)
        return store

    def _both(self, on_volume: Callable[[], object], on_model: Callable[[], object]) -> None:
        """Do it on both; a refusal of the model must be one of the volume, with its errno."""
        expected: OSError | None = None
        try:
            on_model()
        except OSError as error:
            expected = error
        if expected is None:
            on_volume()
            return
        with pytest.raises(type(expected)) as failed:
            on_volume()
        assert failed.value.errno == expected.errno

    # ------------------------------------------------------------------ whole files

    @rule(path=paths, content=contents)
    def write_file(self, path, content):
        self.volume.write_file(path, content)
        self.model.replace(path, content)

    @rule(several=st.lists(st.tuples(paths, contents), max_size=4))
    def write_files(self, several):
        assert self.volume.write_files(several) == [None] * len(several)
        for path, content in several:
            self.model.replace(path, content)

    @rule(path=paths, pieces=st.lists(contents, max_size=3), flushed=st.booleans())
    def write_anew(self, path, pieces, flushed):
        with self.volume.open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
                if flushed:
                    file.flush()
        self.model.replace(path, b"".join(pieces))

    @rule(path=paths, content=contents)
    def write_exclusively(self, path, content):
        if path in self.model.files:
            with pytest.raises(FileExistsError):
                self.volume.open(path, "xb")
            return
        with self.volume.open(path, "xb") as file:
            file.write(content)
        self.model.replace(path, content)

    @rule(path=paths, pieces=st.lists(contents, min_size=1, max_size=3))
    def append(self, path, pieces):
        with self.volume.open(path, "ab") as file:
            for piece in pieces:
                file.write(piece)
        for piece in pieces:
            there = len(self.model.files.setdefault(path, bytearray()))
            self.model.write(path, there, piece)

    @rule(
        path=paths,
        steps=st.lists(
            st.tuples(st.sampled_from(["write", "read", "flush", "truncate"]), offsets, contents),
            max_size=4,
        ),
    )
    def update(self, path, steps):
        if path not in self.model.files:
            with pytest.raises(FileNotFoundError):
                self.volume.open(path, "r+b")
            return
        with self.volume.open(path, "r+b") as file:
            for step, offset, content in steps:
                file.seek(offset)
                if step == "write":
                    assert file.write(content) == len(content)
                    self.model.write(path, offset, content)
                elif step == "read":
                    expected = self.model.content(path)[offset : offset + len(content)]
                    assert file.read(len(content)) == expected
                elif step == "truncate":
                    file.truncate(offset)
                    self.model.truncate(path, offset)
                else:
                    file.flush()

    @rule(path=paths, length=offsets)
    def truncate(self, path, length):
        self._both(
            lambda: self.volume.truncate(path, length), lambda: self.model.truncate(path, length)
        )

    @rule(path=paths, start=offsets, content=contents)
    def read_handle(self, path, start, content):
        if path not in self.model.files:
            return
        body = self.model.files[path]
        with self.volume.open(path) as file:
            file.seek(start)
            assert file.read(len(content)) == body[start : start + len(content)]
            assert file.read() == body[start + len(content) :]

    @rule(ranges=st.lists(st.tuples(paths, offsets, offsets), max_size=4))
    def read_files(self, ranges):
        for (path, start, stop), found in zip(ranges, self.volume.read_files(ranges), strict=True):
            if path in self.model.files:
                assert found == self.model.files[path][start:stop]
            else:
                assert isinstance(found, FileNotFoundError)

    # ------------------------------------------------------------------ the chunk border

    @rule(at=near, content=st.binary(min_size=1, max_size=40))
    def write_at_the_border(self, at, content):
        with self.volume.open(SPARSE, "r+b") as file:
            file.seek(CHUNK_BYTES + at)
            file.write(content)
        self.sparse[WINDOW + at : WINDOW + at + len(content)] = content

    @rule(at=near)
    def cut_at_the_border(self, at):
        self.volume.truncate(SPARSE, CHUNK_BYTES + at)
        self.volume.truncate(SPARSE, CHUNK_BYTES + WINDOW)
        self.sparse[WINDOW + at :] = bytes(WINDOW - at)

    # ------------------------------------------------------------------ names

    @rule(source=paths, onto=paths)
    def rename(self, source, onto):
        self.volume.make_directory("/d/e", parents=True, exist_ok=True)
        self._both(
            lambda: self.volume.rename(source, onto), lambda: self.model.rename(source, onto)
        )

    @rule(source=paths, onto=paths)
    def copy(self, source, onto):
        self._both(
            lambda: self.volume.copy_file(source, onto), lambda: self.model.copy(source, onto)
        )

    @rule(source=paths, onto=paths)
    def link(self, source, onto):
        self.volume.make_directory("/d/e", parents=True, exist_ok=True)
        self._both(lambda: self.volume.link(source, onto), lambda: self.model.link(source, onto))

    @rule(path=paths)
    def unlink(self, path):
        self._both(lambda: self.volume.unlink(path), lambda: self.model.unlink(path))

    @rule(path=paths)
    def unlink_while_open(self, path):
        if path not in self.model.files:
            return
        content = bytes(self.model.files[path])
        with self.volume.open(path) as file:
            self.volume.unlink(path)
            assert file.read() == content
        self.model.unlink(path)

    @rule()
    def remove_tree(self):
        if self.volume.exists("/d"):
            self.volume.remove_tree("/d")
        self.model.remove_tree("/d")

    # ------------------------------------------------------------------ faults

    @rule(path=paths, content=contents, number=st.integers(1, 3), whole=st.booleans())
    def upload_fails(self, path, content, number, whole):
        self.store.fail("put", [self.store.calls["put"] + number])
        try:
            if whole:
                self.volume.write_file(path, content)
            else:
                with self.volume.open(path, "wb") as file:
                    file.write(content)
        except ObjectError:
            pass
        else:
            self.model.replace(path, content)
        self.store.fail("put", ())

    @rule(path=paths, first=contents, second=contents, number=st.integers(1, 3))
    def update_fails(self, path, first, second, number):
        if path not in self.model.files:
            return
        before = bytes(self.model.files[path])
        self.store.fail("put", [self.store.calls["put"] + number])
        file = self.volume.open(path, "r+b")
        try:
            with file:
                file.write(first)
                file.seek(3 * BLOCK)
                file.write(second)
        except ObjectError:
            assert self.volume.read_file(path) == before
        else:
            self.model.write(path, 0, first)
            self.model.write(path, 3 * BLOCK, second)
        self.store.fail("put", ())

    @rule(path=paths, number=st.integers(1, 4))
    def load_fails(self, path, number):
        if path not in self.model.files:
            return
        self.volume.warmup([path], evict=True)
        self.store.fail("get", [self.store.calls["get"] + number])
        with suppress(ObjectError):
            assert self.volume.read_file(path) == self.model.files[path]
        self.store.fail("get", ())
        assert self.volume.parts().blocks.loading_bytes == 0

    @rule(path=paths, content=contents, lost=st.booleans(), whole=st.booleans())
    def commit_fails(self, path, content, lost, whole):
        self.engine.lose_reply, self.engine.refuse = lost, not lost
        try:
            if whole:
                self.volume.write_file(path, content)
            else:
                with self.volume.open(path, "wb") as file:
                    file.write(content)
        except MetaError:
            happened = lost
        else:
            happened = True
        self.engine.lose_reply = self.engine.refuse = False
        if happened:
            self.model.replace(path, content)

    @rule(path=paths, content=contents)
    def crash_between_upload_and_commit(self, path, content):
        self.volume.open(path, "wb", autocommit=False).write(content)
        pending = self.volume.open(path, "wb", autocommit=False)
        pending.write(content)
        pending.close()
        self._start()

    @rule(path=paths)
    def crash_with_an_open_file_without_a_name(self, path):
        if path in self.model.files:
            self.volume.open(path)
            self.volume.unlink(path)
            self.model.unlink(path)
            self._start()

    @rule()
    def reopen(self):
        self.volume.close()
        self._start()

    # ------------------------------------------------------------------ caches

    @rule(path=paths, evict=st.booleans())
    def warm(self, path, evict):
        if path in self.model.files:
            report = self.volume.warmup([path], evict=evict)
            assert (report.files, report.errors) == (1, ())

    @precondition(lambda self: any(self._cached()))
    @rule(data=st.data(), cut=st.booleans())
    def damage_the_cache(self, data, cut):
        file = data.draw(st.sampled_from(self._cached()))
        body = file.read_bytes()
        file.write_bytes(body[: len(body) // 2] if cut else bytes([body[0] ^ 1]) + body[1:])
        self._start()  # what this process has checked once is not checked again

    def _cached(self) -> list[Path]:
        return sorted(file for file in (self.folder / "cache").rglob("b*_*") if file.is_file())

    # ------------------------------------------------------------------ invariants

    @invariant()
    def every_file_has_the_bytes_of_the_model(self):
        there = [path for path in PATHS if self.volume.exists(path)]
        assert there == [path for path in PATHS if path in self.model.files]
        for path in there:
            body = self.model.files[path]
            assert self.volume.stat(path).length == len(body)
            peeked = self.volume.peek(path)
            assert peeked is None or peeked == body
            assert self.volume.read_file(path) == body
        border = self.volume.read_file(SPARSE, CHUNK_BYTES - WINDOW, CHUNK_BYTES + WINDOW)
        assert border == self.sparse

    @invariant()
    def totals_are_those_of_a_recount(self):
        self._settle()
        assert self.engine.read(usage.totals) == self.engine.read(usage.recount)

    @invariant()
    def every_block_that_is_pointed_at_is_stored(self):
        self._settle()
        for row in self.engine.read(lambda tx: list(tx.scan(Chunk))):
            for slice_id, size in refs_of(row.slices):
                ref = self.engine.read(lambda tx, key=slice_id: tx.get(SliceRef, key))
                assert ref is not None
                assert ref.refs > 0
                for key in self.volume.parts().layout.block_keys(slice_id, size):
                    name = self.volume.parts().layout.object_name(key.name)
                    assert (self.folder / "objects" / name).stat().st_size == key.length

    @invariant()
    def nothing_stays_on_its_way(self):
        steps[self.kind] += 1
        assert self.volume.parts().blocks.loading_bytes == 0

    def _settle(self) -> None:
        for volume in self.volumes[-2:]:
            if not volume._closed:
                for future in tuple(volume.parts().cleaning):
                    future.exception()


class SqliteFiles(Files):
    """The same on SQLite."""

    kind = "sqlite"

    def make_engine(self) -> Engine:
        return FaultySqlite(self.folder / "meta.db")


TestMemory = Files.TestCase
TestMemory.settings = settings(
    max_examples=2 * settings.default.max_examples, stateful_step_count=30
)
TestSqlite = SqliteFiles.TestCase
TestSqlite.settings = settings(
    max_examples=settings.default.max_examples // 4, stateful_step_count=30
)


def test_how_many_examples_ran(capsys):
    if not any(examples.values()):
        pytest.skip("counts the examples of the machines above, which were not selected")
    with capsys.disabled():
        print(f"\nexamples: {examples}, steps: {steps}")
    assert examples["memory"] >= 2 * settings.default.max_examples
