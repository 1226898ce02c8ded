"""Files of a volume under random operations, crashes and damaged caches, against bytearrays.

After each step every file has the model's bytes, the totals are those of a recount, and the
objects of every slice that something points at are there. A batch may stay open meanwhile: what
it waits to commit is modelled, too.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from juicecache.config import VolumeOptions
from juicecache.errors import (
    CommitUnknownError,
    EntryExistsError,
    JuicecacheError,
    MetaError,
    ObjectError,
    UnsupportedError,
)
from juicecache.meta import engine as engine_module
from juicecache.meta import usage
from juicecache.meta.engine import Engine
from juicecache.meta.rows import Chunk, SliceRef
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import refs_of
from juicecache.testing.engine_faults import FaultyMemory, FaultySqlite
from juicecache.testing.faults import FaultyStore
from juicecache.testing.file_model import FileModel
from juicecache.volume import pack as pack_module
from juicecache.volume.batch import Batch
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume

BLOCK = 64 * 1024
PACK_FILES = 2
"""Files of one pack: a batch has several, and commits some of them early."""
PATHS = ("/one", "/two", "/d/three", "/d/e/four")
SPARSE = "/sparse"
WINDOW = 2 * BLOCK
"""Bytes on each side of the first chunk border of the sparse file that steps touch."""

paths = st.sampled_from(PATHS)
offsets = st.builds(
    lambda block, shift: max(0, block * BLOCK + shift), st.integers(0, 3), st.integers(-3, 3)
)
small_sizes = st.one_of(st.integers(0, 40), st.sampled_from([BLOCK // 4 - 1, BLOCK // 4]))
large_sizes = st.sampled_from([BLOCK // 4 + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9])


def texts(sizes: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda seed, size: (seed * (size // len(seed) + 1))[:size],
        st.binary(min_size=1, max_size=7),
        sizes,
    )


contents = texts(st.one_of(small_sizes, large_sizes))
small_contents = texts(small_sizes)
batch_files = st.lists(
    st.tuples(
        paths,
        st.one_of(small_contents, small_contents, contents),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=5,
)
batch_faults = st.sampled_from(["", "", "", "", "refuse", "lose_reply", "put"])
near = st.integers(-WINDOW, WINDOW - 40)
examples = {"memory": 0, "sqlite": 0}
steps = {"memory": 0, "sqlite": 0}


class Pending(NamedTuple):
    """What a batch is to commit for a path.

    Attributes
    ----------
    body, start
        The model of an existing file that is appended to, and where.
    """

    content: bytes
    exclusive: bool = False
    body: bytearray | None = None
    start: int = 0

    def apply(self, before: bytes) -> bytes:
        """Return the content of a file that had the content ``before``."""
        if self.body is None:
            return self.content
        if not self.content:
            return before
        head = before[: self.start]
        return b"".join(
            (
                head,
                bytes(self.start - len(head)),
                self.content,
                before[self.start + len(self.content) :],
            )
        )


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
        self.batches: list[Batch] = []
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(pack_module, "FILES_MAX", PACK_FILES)
        # Nobody else is here to lose a race to: what conflicts once conflicts always.
        self.patch.setattr(engine_module, "ATTEMPTS_MAX", 2)
        self._start()
        self.sparse = bytearray(2 * WINDOW)
        self.volume.write_file(SPARSE, b"")
        self.volume.truncate(SPARSE, CHUNK_BYTES + WINDOW)

    def teardown(self) -> None:
        self.patch.undo()
        for batch in self.batches:
            batch.discard()
        for volume in self.volumes:
            volume.close()
        self.engine.close()
        shutil.rmtree(self.folder)

    def _start(self) -> None:
        self.batch: Batch | None = None
        self.deferred = False
        self.batch_faults: set[str] = set()
        self.pending: dict[str, list[Pending]] = {}
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
        self._happen({path: Pending(content) for path, content in several})

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

    def _write(self, path: str, content: bytes, *, whole: bool) -> None:
        """Write a file at once, or through a handle."""
        if whole:
            self.volume.write_file(path, content)
        else:
            with self.volume.open(path, "wb") as file:
                file.write(content)

    @rule(path=paths, content=contents, number=st.integers(1, 3), whole=st.booleans())
    def upload_fails(self, path, content, number, whole):
        self.store.fail("put", [self.store.calls["put"] + number])
        try:
            self._write(path, content, whole=whole)
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
            self._write(path, content, whole=whole)
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
        if self.batch is not None:
            self.batch.discard()
        self.volume.close()
        self._start()

    # ------------------------------------------------------------------ batches

    has_batch = precondition(lambda self: self.batch is not None)

    @precondition(lambda self: self.batch is None)
    @rule(deferred=st.booleans())
    def begin_batch(self, deferred):
        self.batch, self.deferred = self.volume.batch(deferred=deferred), deferred
        self.batches.append(self.batch)
        self.pending, self.batch_faults = {}, set()

    @has_batch
    @rule(
        several=st.lists(
            st.tuples(paths, small_contents, st.sampled_from([False, False, True])), max_size=5
        )
    )
    def write_in_batch(self, several):
        for path, content, exclusive in several:
            try:
                self.batch.write(path, content, exclusive=exclusive)
            except FileExistsError:  # the batch has it already
                assert exclusive
                assert path in self.pending
                continue
            self.pending.setdefault(path, []).append(Pending(content, exclusive))
            self._look_for_early_commits()

    @has_batch
    @rule(path=paths, pieces=st.lists(contents, max_size=3), mode=st.sampled_from(["wb", "xb"]))
    def write_handle_in_batch(self, path, pieces, mode):
        if mode == "xb" and path in self.model.files:
            with pytest.raises(FileExistsError):
                self.volume.open(path, mode, batch=self.batch)
            return
        try:
            file = self.volume.open(path, mode, batch=self.batch)
        except FileExistsError:
            assert mode == "xb"
            assert path in self.pending
            return
        with file:
            for piece in pieces:
                file.write(piece)
        one = Pending(b"".join(pieces), mode == "xb")
        self.pending.setdefault(path, []).append(one)
        self._look_for_early_commits()

    @has_batch
    @rule(path=paths, content=contents)
    def append_in_batch(self, path, content):
        body = self.model.files.get(path)
        try:
            file = self.volume.open(path, "ab", batch=self.batch)
        except UnsupportedError:
            assert path in self.pending
            return
        file.write(content)
        file.close()
        one = Pending(content, body=body, start=len(body or b""))
        self.pending.setdefault(path, []).append(one)
        self._look_for_early_commits()

    @has_batch
    @rule(fault=st.sampled_from(["", "", "refuse", "lose_reply"]))
    def hold_batch(self, fault):
        with self._fault(fault):
            self.batch.secure()
        self._look_for_early_commits()

    @has_batch
    @rule(fault=batch_faults, number=st.integers(1, 2))
    def commit_batch(self, fault, number):
        batch = self._end_batch()
        with self._fault(fault, number), suppress(JuicecacheError):
            batch.commit()
        committed = {}
        for path, several in self.pending.items():
            failure = batch.outcomes[path]
            if failure is None:
                committed[path] = several[-1]
            elif isinstance(failure, CommitUnknownError):
                assert self.batch_faults
                self._accept_any(path)
            else:
                self._check_failure(failure, path, several[-1])
        self._happen(committed)

    @precondition(lambda self: self.batch is None)
    @rule(
        deferred=st.sampled_from([True, True, False]),
        first=batch_files,
        second=batch_files,
        hold_fault=st.sampled_from([None, "", "", "refuse", "lose_reply"]),
        change=st.sampled_from(["", "gc", "compact", "unlink", "rename", "append"]),
        fault=batch_faults,
    )
    def whole_batch(self, deferred, first, second, hold_fault, change, fault):
        """Do at once what the rules above seldom do in a row."""
        self.begin_batch(deferred=deferred)
        for several in (first, second):
            for path, content, exclusive in several:
                if self.batch.accepts(len(content)):
                    self.write_in_batch(several=[(path, content, exclusive)])
                else:
                    mode = "xb" if exclusive else "wb"
                    self.write_handle_in_batch(path=path, pieces=[content], mode=mode)
            if several is first and hold_fault is not None:
                self.hold_batch(fault=hold_fault)
            if several is first and change:
                self._change_under_a_batch(change, path=first[0][0])
        self.commit_batch(fault=fault, number=1)

    def _change_under_a_batch(self, change: str, path: str) -> None:
        if change == "gc":
            self.collect_garbage(merge=True)
        elif change == "compact":
            self.compact()
        elif change == "append":
            self.append_in_batch(path=path, content=b"behind")
        elif change == "unlink":
            self.unlink(path=path)
        else:
            self.rename(source=path, onto=PATHS[0])

    @has_batch
    @rule()
    def discard_batch(self):
        self._end_batch().discard()

    @has_batch
    @rule()
    def crash_with_a_batch(self):
        self._start()

    def _end_batch(self) -> Batch:
        batch, self.batch = self.batch, None
        assert batch is not None
        return batch

    @contextmanager
    def _fault(self, kind: str, number: int = 1) -> Iterator[None]:
        """Let something go wrong with the batch, if it comes to that."""
        self.batch_faults |= {kind} - {""}
        self.engine.refuse, self.engine.lose_reply = kind == "refuse", kind == "lose_reply"
        if kind == "put":
            self.store.fail("put", [self.store.calls["put"] + number])
        yield
        self.engine.refuse = self.engine.lose_reply = False
        self.store.fail("put", ())

    def _check_failure(self, failure: Exception, path: str, last: Pending) -> None:
        """Check that what was not committed had a reason; the invariants see that it is not."""
        if isinstance(failure, EntryExistsError):
            assert last.exclusive
            assert path in self.model.files
        else:
            assert self.batch_faults, failure

    def _look_for_early_commits(self) -> None:
        """Model what a batch committed before its end; a deferred one must not."""
        if self.deferred:
            return
        for path in list(self.pending):
            self._accept_any(path)
            if path not in self.batch._latest:
                del self.pending[path]

    def _accept_any(self, path: str) -> None:
        """Model a file as it is, if a batch may have made it so, under this name or another."""
        if not self.volume.exists(path):
            return
        found, body = self.volume.read_file(path), self.model.files.get(path)
        names = [name for name, other in self.model.files.items() if other is body]
        waiting = [one for name in {path, *names} for one in self.pending.get(name, ())]
        if body is None or found != body:
            assert found in {one.apply(bytes(body or b"")) for one in waiting}
            self.model.replace(path, found)

    def _happen(self, committed: dict[str, Pending]) -> None:
        """Model what was committed; of one file under several names any may be the last."""
        groups: dict[int, tuple[bytearray, list[Pending]]] = {}
        for path, one in committed.items():
            body = one.body
            if body is None:
                body = self.model.files.setdefault(path, bytearray())
            groups.setdefault(id(body), (body, []))[1].append(one)
        for body, several in groups.values():
            possible = {self._in_order(bytes(body), order) for order in permutations(several)}
            names = [path for path, other in self.model.files.items() if other is body]
            if len(possible) > 1 and names:
                found = self.volume.read_file(names[0])
                assert found in possible
                possible = {found}
            body[:] = possible.pop()

    @staticmethod
    def _in_order(content: bytes, order: tuple[Pending, ...]) -> bytes:
        for one in order:
            content = one.apply(content)
        return content

    # ------------------------------------------------------------------ upkeep

    @rule(merge=st.booleans())
    def collect_garbage(self, merge):
        if self.batch is not None:
            if "lose_reply" in self.batch_faults:
                return  # what it stored may have no reference, and is younger than an hour
            self.batch.secure()  # so that all that is stored is referenced
            self._look_for_early_commits()
        assert self.volume.gc(delete=True, compact=merge, min_age_s=0).errors == ()
        self._settle()
        layout = self.volume.parts().layout
        needed = {
            key.name
            for row in self.engine.read(lambda tx: list(tx.scan(SliceRef)))
            for key in layout.block_keys(row.slice_id, row.size)
        }
        stored = (self.folder / "objects" / "files" / "chunks").rglob("*_*_*")
        assert {file.name for file in stored} == needed

    @rule()
    def compact(self):
        self.volume.compact("/")

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
        assert self.engine.read(usage.totals) == usage.recount(self.engine)

    @invariant()
    def every_block_that_is_pointed_at_is_stored(self):
        self._settle()
        for row in self.engine.read(lambda tx: list(tx.scan(Chunk))):
            for slice_id, size in refs_of(row.slices):
                ref = self.engine.read(lambda tx, key=(slice_id, size): tx.get(SliceRef, *key))
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
