"""Two files under random changes, on every engine, against dictionaries of their bytes.

After each step the visible bytes are those of the model, and every reference count equals
the records that point at the slice.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from juicecache.meta import dropping, tree, usage
from juicecache.meta.chunks import NewSlice, commit_slices, read_chunk, truncate
from juicecache.meta.compaction import commit_compaction, drop_delayed, expired_delayed
from juicecache.meta.context import Context
from juicecache.meta.copying import clone_file, copy_range, replace_with_copy
from juicecache.meta.engine import Engine
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.remove import unlink
from juicecache.meta.rows import Chunk, DelayedSlices, DeletedFile, DirStats
from juicecache.meta.tree import NewNode
from juicecache.model.attr import ROOT_INODE, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord, plan_compaction, visible
from juicecache.testing.machines import OnEngine, assert_references_counted

CTX = Context(10**15, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
NAMES = (b"one", b"two")
names = st.sampled_from(NAMES)
# Around the borders of the first chunks: where records are cut and split.
offsets = st.builds(
    lambda chunk, shift: max(0, chunk * CHUNK_BYTES + shift),
    st.sampled_from([0, 0, 1, 2, 3]),
    st.integers(-12, 40),
)
texts = st.binary(min_size=1, max_size=40)
sizes = st.sampled_from([1, 7, 40, 40, 2 << 20])

Sparse = dict[int, int]
"""Bytes by offset; absent ones are zero."""


class SparseFile:
    """What a file must contain."""

    def __init__(self) -> None:
        self.length = 0
        self.content: Sparse = {}

    def write(self, start: int, text: Sparse, size: int) -> None:
        kept = {at: b for at, b in self.content.items() if not start <= at < start + size}
        self.content = kept | {start + at: byte for at, byte in text.items() if byte}
        self.length = max(self.length, start + size)

    def truncate(self, length: int) -> None:
        self.content = {at: byte for at, byte in self.content.items() if at < length}
        self.length = length

    def cut(self, start: int, size: int) -> Sparse:
        return {at - start: b for at, b in self.content.items() if start <= at < start + size}

    def copy(self) -> SparseFile:
        twin = SparseFile()
        twin.length, twin.content = self.length, dict(self.content)
        return twin


class Contents(RuleBasedStateMachine):
    """Random writes, cuts, copies, removals and compactions of two files."""

    def make_engine(self) -> Engine:
        return MemoryEngine()

    def __init__(self) -> None:
        super().__init__()
        self.engine = self.make_engine()
        self.engine.prepare()
        self.engine.write(lambda tx: tree.plant_root(tx, 0, trash=False))
        self.slices: dict[int, Sparse] = {}
        self.files: dict[bytes, SparseFile] = {}
        self.inodes: dict[bytes, int] = {}
        self.last_id = 1
        for name in NAMES:
            self._create(name)

    def teardown(self) -> None:
        self.engine.close()

    def _new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def _create(self, name: bytes) -> None:
        new = NewNode(self._new_id(), NodeType.FILE, 0o666)
        self.engine.write(lambda tx: tree.create(tx, CTX, ROOT_INODE, name, new))
        self.inodes[name], self.files[name] = new.inode, SparseFile()

    def _store(self, start: int, text: bytes, size: int) -> list[NewSlice]:
        """Return the records of a write that may cross chunks, all pieces of one slice."""
        slice_id, new, off = self._new_id(), [], 0
        self.slices[slice_id] = dict(enumerate(text))
        while off < size:
            index, pos = divmod(start + off, CHUNK_BYTES)
            length = min(size - off, CHUNK_BYTES - pos)
            new.append(NewSlice(index, SliceRecord(pos, slice_id, size, off, length)))
            off += length
        return new

    @rule(name=names, start=offsets, text=texts, size=sizes)
    def write(self, name, start, text, size):
        new = self._store(start, text[:size], size)
        inode = self.inodes[name]
        self.engine.write(lambda tx: commit_slices(tx, CTX, inode, new, CTX.now_ns))
        self.files[name].write(start, dict(enumerate(text[:size])), size)

    @rule(name=names, length=offsets, start=offsets, text=texts)
    def replace(self, name, length, start, text):
        new = self._store(start, text, len(text))
        inode = self.inodes[name]
        self.engine.write(
            lambda tx: commit_slices(tx, CTX, inode, new, CTX.now_ns, truncate_to=length)
        )
        self.files[name].truncate(length)
        self.files[name].write(start, dict(enumerate(text)), len(text))

    @rule(name=names, length=offsets)
    def truncate(self, name, length):
        inode = self.inodes[name]
        self.engine.write(lambda tx: truncate(tx, CTX, inode, length))
        self.files[name].truncate(length)

    @rule(source=names, onto=names, start=offsets, to=offsets, size=st.integers(0, 60))
    def copy_range(self, source, onto, start, to, size):
        if source == onto and abs(start - to) < size:
            return
        ends = (self.inodes[source], start), (self.inodes[onto], to)
        done = self.engine.write(lambda tx: copy_range(tx, CTX, *ends[0], *ends[1], size))
        assert done == max(0, min(size, self.files[source].length - start))
        if done:
            self.files[onto].write(to, self.files[source].cut(start, done), done)

    @rule()
    def copy_over(self):
        source = self.engine.read(lambda tx: tree.getattr(tx, self.inodes[NAMES[0]]))
        self.engine.write(
            lambda tx: replace_with_copy(tx, CTX, source, ROOT_INODE, NAMES[1], self.last_id + 1)
        )
        self.files[NAMES[1]] = self.files[NAMES[0]].copy()

    @rule()
    def clone_in_place(self):
        self._remove(NAMES[1])
        source = self.engine.read(lambda tx: tree.getattr(tx, self.inodes[NAMES[0]]))
        inode = self._new_id()
        self.engine.write(lambda tx: clone_file(tx, CTX, source, ROOT_INODE, NAMES[1], inode))
        self.inodes[NAMES[1]], self.files[NAMES[1]] = inode, self.files[NAMES[0]].copy()

    @rule(name=names)
    def remove(self, name):
        self._remove(name)
        self._create(name)

    def _remove(self, name: bytes) -> None:
        inode = self.inodes[name]
        assert self.engine.write(lambda tx: unlink(tx, CTX, ROOT_INODE, name)).doomed
        left = [inode]
        while left:
            dead, left = self.engine.write(
                lambda tx, left=left: dropping.drop_chunks(tx, left, limit=2)
            )
            self._delete(dead)
        assert self.engine.read(lambda tx: tx.get(DeletedFile, inode)) is None

    def _delete(self, dead: list[tuple[int, int]]) -> None:
        for slice_id, _ in dead:
            del self.slices[slice_id]
        self.engine.write(lambda tx: dropping.forget_slices(tx, dead))

    @rule(name=names, index=st.integers(0, 3), trash_days=st.integers(0, 1))
    def compact(self, name, index, trash_days):
        inode = self.inodes[name]
        before = self.engine.read(lambda tx: read_chunk(tx, inode, index))
        plan = plan_compaction(before)
        if plan is None:
            return
        new_id = self._new_id()
        merged: Sparse = {}
        for extent in plan.extents:
            shift = extent.pos - plan.pos - extent.off
            for off, byte in self.slices[extent.slice_id].items():
                if extent.off <= off < extent.off + extent.length:
                    merged[off + shift] = byte
        self.slices[new_id] = merged
        dead = self.engine.write(
            lambda tx: commit_compaction(
                tx, CTX, inode, index, before, plan, new_id, trash_days=trash_days
            )
        )
        assert dead is not None
        self._delete(dead)

    @precondition(lambda self: self.engine.read(lambda tx: tx.exists(DelayedSlices)))
    @rule()
    def expire(self):
        later_s = CTX.now_ns // 10**9 + 1
        rows = self.engine.read(lambda tx: list(tx.scan(DelayedSlices)))
        for row_id in expired_delayed(rows, later_s):
            self._delete(self.engine.write(lambda tx, row=row_id: drop_delayed(tx, row)))

    @invariant()
    def bytes_are_those_of_the_model(self):
        for name, file in self.files.items():
            attr = self.engine.read(lambda tx, name=name: tree.getattr(tx, self.inodes[name]))
            assert attr.length == file.length
            assert self._visible(attr.inode, attr.length) == file.content

    def _visible(self, inode: int, length: int) -> Sparse:
        content: Sparse = {}
        for row in self.engine.read(lambda tx: list(tx.scan(Chunk, inode))):
            for extent in visible(row.slices):
                text = self.slices[extent.slice_id]
                start = row.index * CHUNK_BYTES + extent.pos - extent.off
                for off, byte in text.items():
                    inside = extent.off <= off < extent.off + extent.length
                    if inside and byte and start + off < length:
                        content[start + off] = byte
        return content

    @invariant()
    def references_are_the_records(self):
        assert_references_counted(self.engine)

    @invariant()
    def usage_is_the_sum_over_the_files(self):
        assert self.engine.read(usage.totals) == usage.recount(self.engine)
        stored = self.engine.read(lambda tx: tx.get(DirStats, ROOT_INODE))
        assert stored == self.engine.read(lambda tx: usage.count_entries(tx, ROOT_INODE))


class SqliteContents(OnEngine, Contents):
    """The same on SQLite."""


class RedisContents(OnEngine, Contents):
    """The same on Redis."""

    kind = "redis"


class PostgresContents(OnEngine, Contents):
    """The same on PostgreSQL."""

    kind = "postgres"


class MysqlContents(OnEngine, Contents):
    """The same on MariaDB."""

    kind = "mysql"


TestMemory = Contents.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSqlite = SqliteContents.TestCase
TestSqlite.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestRedis = RedisContents.TestCase
TestRedis.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestPostgres = PostgresContents.TestCase
TestPostgres.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
TestMysql = MysqlContents.TestCase
TestMysql.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
