"""Random operations on the tree, on every engine, against dictionaries.

After each step every path is what the model says, and the rows agree among themselves:
totals, usage rows, quotas and owners with a recount, link counts with entries, types of
entries with nodes, references with slice records.
"""

from __future__ import annotations

import errno
import os
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from juicecache.errors import FileError, NotDirectoryError
from juicecache.meta import tree, usage
from juicecache.meta.chunks import NewSlice, truncate
from juicecache.meta.context import Context
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.files import WholeFile, commit_files
from juicecache.meta.quota import count_owned
from juicecache.meta.remove import remove_below, rmdir, unlink
from juicecache.meta.rename import RenameMode, rename
from juicecache.meta.rows import (
    DeletedFile,
    DirQuota,
    DirStats,
    Edge,
    Symlink,
    UserGroupQuota,
    Xattr,
)
from juicecache.meta.trash import hourly_directory
from juicecache.meta.tree import AttrChange, NewNode
from juicecache.meta.xattr import list_xattr, set_xattr
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeType, in_trash
from juicecache.model.slices import SliceRecord
from juicecache.testing.machines import OnEngine, assert_references_counted
from juicecache.testing.tree_model import Names, Node, TreeModel

CTX = Context(10**18, 0, 0, 0o022, dir_stats=True, capacity_bytes=0, inodes_max=0)
CTX = CTX._replace(user_group=True)

NOWHERE = b"nowhere"
"""Target of every symbolic link: there is no such name."""

DEPTH_MAX = 4
names = st.sampled_from([b"a", b"b", b"c\xff"])
picks = st.integers(0, 50)
"""Which of the paths that exist."""
places = st.tuples(st.booleans(), picks, names)
"""A path that exists, or a name in a directory that does (rarely: in a file)."""


class Tree(RuleBasedStateMachine):
    """Random creations, links, moves, changes and removals."""

    def make_engine(self) -> Engine:
        return MemoryEngine()

    def __init__(self) -> None:
        super().__init__()
        self.engine = self.make_engine()
        self.engine.prepare()
        self.model = TreeModel()
        self.last_inode = ROOT_INODE
        self.last_slice = 0
        self.ctx = CTX

    def teardown(self) -> None:
        self.engine.close()

    @initialize(trash=st.booleans())
    def plant(self, trash):
        self.engine.write(lambda tx: tree.plant_root(tx, 0, trash=trash))
        if trash:
            hour = self.engine.write(lambda tx: hourly_directory(tx, CTX))
            self.ctx = CTX._replace(trash=hour)

    def both(self, modelled, body) -> None:
        """Do one operation on both sides; they must agree, also on how it fails."""
        wanted = found = None
        try:
            modelled()
        except OSError as error:
            wanted = error.errno
        try:
            self.engine.write(body)
        except FileError as error:
            found = error.errno
        assert found == wanted

    def path(self, place) -> Names:
        """Return the path of a place; never the root, which has no name."""
        exists, pick, name = place
        found = self.model.paths()
        parents = [path for path, node in found.items() if len(path) < DEPTH_MAX and
                   (node.is_directory or pick % 10 == 0)]  # fmt: skip
        if exists and len(found) > 1:
            return sorted(found)[1 + pick % (len(found) - 1)]
        return (*sorted(parents)[pick % len(parents)], name)

    @staticmethod
    def entry(tx: Transaction, path) -> tuple[int, bytes]:
        directory = tree.resolve(tx, path[:-1])
        if not directory.is_directory:
            raise NotDirectoryError(path[-1])
        return directory.inode, path[-1]

    @rule(
        path=places, kind=st.sampled_from([NodeType.FILE, NodeType.DIRECTORY, NodeType.DIRECTORY])
    )
    def create(self, path, kind):
        path = self.path(path)
        self.last_inode += 1
        inode, is_directory = self.last_inode, kind == NodeType.DIRECTORY
        node = Node(inode, {} if is_directory else None, mode=0o755)
        new = NewNode(inode, kind, 0o777)
        self.both(
            lambda: self.model.create(path, node),
            lambda tx: tree.create(tx, self.ctx, *self.entry(tx, path), new),
        )

    @rule(path=places)
    def symlink(self, path):
        path = self.path(path)
        self.last_inode += 1
        node = Node(self.last_inode, target=NOWHERE, mode=0o777)
        new = NewNode(self.last_inode, NodeType.SYMLINK, 0, NOWHERE)
        self.both(
            lambda: self.model.create(path, node),
            lambda tx: tree.create(tx, self.ctx, *self.entry(tx, path), new),
        )

    @rule(source=places, onto=places)
    def link(self, source, onto):
        source, onto = self.path(source), self.path(onto)

        def body(tx):
            inode = tree.resolve(tx, source, follow=False).inode
            return tree.link(tx, self.ctx, inode, *self.entry(tx, onto))

        self.both(lambda: self.model.link(source, onto), body)

    @rule(path=places)
    def unlink(self, path):
        path = self.path(path)
        self.both(
            lambda: self.model.unlink(path),
            lambda tx: unlink(tx, self.ctx, *self.entry(tx, path)),
        )

    @rule(path=places)
    def rmdir(self, path):
        path = self.path(path)
        self.both(
            lambda: self.model.rmdir(path),
            lambda tx: rmdir(tx, self.ctx, *self.entry(tx, path)),
        )

    @rule(source=places, onto=places, mode=st.sampled_from(RenameMode))
    def rename(self, source, onto, mode):
        source, onto = self.path(source), self.path(onto)

        def modelled():
            if mode is RenameMode.EXCHANGE:
                self.model.exchange(source, onto)
            else:
                self.model.rename(source, onto, replace=mode is RenameMode.REPLACE)

        def body(tx):
            ends = self.entry(tx, source), self.entry(tx, onto)
            return rename(tx, self.ctx, *ends, mode=mode)

        self.both(modelled, body)

    @rule(path=places, length=st.integers(0, 20_000))
    def truncate(self, path, length):
        path = self.path(path)
        node = self.model.paths().get(path)
        if node is not None and not node.is_directory and not node.target:
            self.engine.write(lambda tx: truncate(tx, self.ctx, node.inode, length))
            node.length = length

    @rule(
        files=st.lists(
            st.tuples(places, st.integers(0, 20_000), st.sampled_from([False, False, True])),
            min_size=1,
            max_size=4,
        )
    )
    def commit_files(self, files):
        """Give paths contents that lie end to end in one slice, in one transaction."""
        self.last_slice += 1
        size = sum(length for _, length, _ in files)
        start = 0
        whole = []
        for place, length, exclusive in files:
            self.last_inode += 1
            record = SliceRecord(0, self.last_slice, size, start, length)
            slices = [NewSlice(0, record)] if length else []
            whole.append(WholeFile(self.path(place), self.last_inode, slices, exclusive))
            start += length
        wanted = self._model_commit(whole)
        found = self.engine.write(lambda tx: commit_files(tx, self.ctx, whole, CTX.now_ns))
        assert [one.errno if isinstance(one, FileError) else None for one in found] == wanted

    def _model_commit(self, files: list[WholeFile]) -> list[int | None]:
        """Model them all as of before; of several contents for one file the last one counts."""
        outcomes: list[int | None] = []
        last: dict[Node | Names, WholeFile] = {}
        for file in reversed(files):
            try:
                last.setdefault(self._target(file), file)
                outcomes.append(None)
            except OSError as error:
                outcomes.append(error.errno)
        for target, file in last.items():
            length = file.slices[0].record.length if file.slices else 0
            if isinstance(target, Node):
                target.length = length
            else:
                self.model.create(target, Node(file.inode, length=length, mode=0o644))
        return outcomes[::-1]

    def _target(self, file: WholeFile) -> Node | Names:
        """Return the file that gets new content, or the path where it is new."""
        there = self.model._entries(file.names[:-1]).get(file.names[-1])
        if there is None:
            return file.names
        reason = (
            (file.exclusive and errno.EEXIST)
            or (there.target and errno.ENOENT)
            or (there.is_directory and errno.EISDIR)
        )
        if reason:
            raise OSError(reason, os.strerror(reason))
        return there

    @rule(path=places, mode=st.integers(0, 0o777), text=st.binary(max_size=3))
    def change(self, path, mode, text):
        path = self.path(path)
        node = self.model.paths().get(path)
        if node is not None:
            change = AttrChange(mode=mode)
            self.engine.write(lambda tx: tree.set_attr(tx, self.ctx, node.inode, change))
            self.engine.write(lambda tx: set_xattr(tx, self.ctx, node.inode, "user.x", text))
            node.mode, node.xattrs["user.x"] = mode, text

    @rule(path=places, uid=st.integers(0, 2), gid=st.integers(0, 2))
    def change_owner(self, path, uid, gid):
        node = self.model.paths().get(self.path(path))
        if node is not None:
            change = AttrChange(mode=node.mode, uid=uid, gid=gid)
            self.engine.write(lambda tx: tree.set_attr(tx, self.ctx, node.inode, change))

    @rule(path=places)
    def set_quota(self, path):
        """Let a directory count what is below it, from now on."""
        node = self.model.paths().get(self.path(path))
        if node is None or not node.is_directory:
            return
        counted = usage.count_below(self.engine.read, node.inode)
        self.engine.write(lambda tx: tx.put(DirQuota(node.inode, -1, -1, *counted)))
        self.ctx = self.ctx._replace(quotas=self.ctx.quotas | {node.inode})

    @rule(path=places)
    def remove_tree(self, path):
        path = self.path(path)
        node = self.model.paths().get(path)
        if node is None or node.entries is None:
            return
        while self.engine.write(lambda tx: remove_below(tx, self.ctx, node.inode, limit=2)):
            pass
        node.entries.clear()

    @rule()
    def empty_trash(self):
        if self.ctx.trash:
            emptying = self.ctx._replace(trash=0)
            top = self.ctx.trash
            while self.engine.write(lambda tx: remove_below(tx, emptying, top, limit=3)):
                pass

    @rule()
    def restore(self):
        """Give every file in the trash that has no other name a name in the root."""
        known = {node.inode for node in self.model.paths().values()}
        for edge in self.engine.read(lambda tx: list(tx.scan(Edge, self.ctx.trash))):
            if edge.inode in known or edge.type == NodeType.DIRECTORY:
                continue
            known.add(edge.inode)
            attr = self.engine.read(lambda tx, edge=edge: tree.getattr(tx, edge.inode))
            row = self.engine.read(lambda tx, edge=edge: tx.get(Xattr, edge.inode, "user.x"))
            self._move_to_root(edge)
            is_link = edge.type == NodeType.SYMLINK
            self.model.root.entries[b"%d" % edge.inode] = Node(
                edge.inode,
                target=NOWHERE if is_link else b"",
                length=0 if is_link else attr.length,
                mode=attr.mode,
                xattrs={"user.x": row.value} if row else {},
            )

    def _move_to_root(self, edge: Edge) -> None:
        source, place = (edge.parent, edge.name), (ROOT_INODE, b"%d" % edge.inode)
        self.engine.write(lambda tx: rename(tx, self.ctx, source, place))

    # ------------------------------------------------------------ what must hold

    @invariant()
    def paths_are_those_of_the_model(self):
        wanted = {
            path: (node.inode, node.is_directory, node.mode, node.target, node.xattrs)
            for path, node in self.model.paths().items()
        }
        assert self.engine.read(self._paths) == wanted

    @staticmethod
    def _paths(tx: Transaction) -> dict:
        found, pending = {}, [((), tree.getattr(tx, ROOT_INODE))]
        while pending:
            path, attr = pending.pop()
            target = tree.readlink(tx, attr.inode) if attr.type == NodeType.SYMLINK else b""
            xattrs = {name: tx.get(Xattr, attr.inode, name).value
                      for name in list_xattr(tx, attr.inode)}  # fmt: skip
            found[path] = (attr.inode, attr.is_directory, attr.mode, target, xattrs)
            if attr.is_directory:
                pending += [((*path, name), child) for name, child in tx.children(attr.inode)]
        return found

    @invariant()
    def lengths_are_those_of_the_model(self):
        for node in self.model.paths().values():
            attr = self.engine.read(lambda tx, node=node: tree.getattr(tx, node.inode))
            assert attr.length == (4096 if node.is_directory else node.length or len(node.target))

    @invariant()
    def totals_and_usage_rows_are_a_recount(self):
        assert self.engine.read(usage.totals) == usage.recount(self.engine)
        for row in self.engine.read(lambda tx: list(tx.scan(DirStats))):
            counted = self.engine.read(lambda tx, row=row: usage.count_entries(tx, row.inode))
            assert row == counted

    @invariant()
    def quotas_are_a_recount(self):
        for row in self.engine.read(lambda tx: list(tx.scan(DirQuota))):
            counted = usage.count_below(self.engine.read, row.inode)
            assert (row.used_space, row.used_inodes) == counted
        owned = {
            (row.kind, row.id): (row.used_space, row.used_inodes)
            for row in self.engine.read(lambda tx: list(tx.scan(UserGroupQuota)))
        }
        counted = count_owned(self.engine)
        assert owned == {key: counted.get(key, (0, 0)) for key in owned}
        assert counted.keys() <= owned.keys()

    @invariant()
    def entries_and_nodes_agree(self):
        edges = self.engine.read(lambda tx: list(tx.scan(Edge)))
        attrs = {attr.inode: attr for attr in self.engine.read(lambda tx: list(tx.scan(Attr)))}
        links = Counter(edge.inode for edge in edges)
        subdirectories = Counter(
            edge.parent for edge in edges
            if edge.type == NodeType.DIRECTORY and not in_trash(edge.parent)
        )  # fmt: skip
        for edge in edges:
            assert attrs[edge.inode].type == edge.type
            assert attrs[edge.inode].parent in (edge.parent, 0)
        for attr in attrs.values():
            if attr.is_directory:
                assert attr.nlink == 2 + subdirectories[attr.inode]
                assert attr.parent
            else:
                assert attr.nlink == links[attr.inode] > 0
        assert attrs.keys() - links.keys() <= {ROOT_INODE, TRASH_INODE}

    @invariant()
    def nothing_is_left_of_removed_inodes(self):
        inodes = {attr.inode for attr in self.engine.read(lambda tx: list(tx.scan(Attr)))}
        for table in (DirStats, Symlink, Xattr):
            rows = self.engine.read(lambda tx, table=table: list(tx.scan(table)))
            assert {row.inode for row in rows} <= inodes
        doomed = self.engine.read(lambda tx: list(tx.scan(DeletedFile)))
        assert not {row.inode for row in doomed} & inodes

    @invariant()
    def every_record_of_a_slice_is_a_reference(self):
        assert_references_counted(self.engine)


class SqliteTree(OnEngine, Tree):
    """The same on SQLite."""


class RedisTree(OnEngine, Tree):
    """The same on Redis."""

    kind = "redis"


class PostgresTree(OnEngine, Tree):
    """The same on PostgreSQL."""

    kind = "postgres"


class MysqlTree(OnEngine, Tree):
    """The same on MariaDB."""

    kind = "mysql"


TestMemory = Tree.TestCase
TestMemory.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestSqlite = SqliteTree.TestCase
TestSqlite.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
TestRedis = RedisTree.TestCase
TestRedis.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestPostgres = PostgresTree.TestCase
TestPostgres.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
TestMysql = MysqlTree.TestCase
TestMysql.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
