"""Whether the objects of files are there, and as long as they must be.

Content is not read. A whole volume is compared with one listing of its objects, chunk by chunk and
in bounded memory; of a part of it each object is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from juicecache.config import rsa_passphrase
from juicecache.errors import ObjectNotFoundError
from juicecache.meta.engine import Transaction
from juicecache.meta.naming import path_of
from juicecache.meta.rows import Chunk
from juicecache.meta.tally import SliceKey, scratch_table
from juicecache.model.attr import Attr
from juicecache.model.layout import BlockKey, parse_block_name
from juicecache.model.setting import Setting
from juicecache.model.slices import refs_of
from juicecache.objects.encrypt import Cipher
from juicecache.runtime import start
from juicecache.volume.fsck_report import FsckReport, is_full, keep
from juicecache.volume.gc import listed_objects
from juicecache.volume.parts import Parts

_PAGE = 1000
"""Chunks of one read."""
_ROWS = 10_000
"""Objects that are noted at a time."""
_HEADS = 64
"""Objects asked for at once."""


class BlockCheck:
    """A check of the blocks of files; what it finds goes into ``report``."""

    def __init__(self, parts: Parts, report: FsckReport) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._report = report
        self._setting = parts.meta.gate.setting
        self._overhead = _sealed_overhead(self._setting)
        self._stock: _Stock | None = None

    def whole(self) -> Iterator[None]:
        """Check every chunk of the volume; yields now and then.

        The objects are listed before the chunks are read: what was stored since is asked for.
        """
        with _Stock(self._parts) as self._stock:
            for rows in self._engine.sweep(Chunk, page=_PAGE):
                self._chunks(rows)
                yield

    def files(self, files: Sequence[Attr]) -> None:
        """Check the chunks of some files."""
        for attr in files:
            inode = attr.inode
            self._chunks(self._engine.read(lambda tx, inode=inode: list(tx.scan(Chunk, inode))))  # type: ignore[misc]  # mypy cannot infer a lambda default

    def _chunks(self, rows: Iterable[Chunk]) -> None:
        users: dict[SliceKey, list[int]] = {}
        for row in rows:
            for one in refs_of(row.slices):
                users.setdefault(one, []).append(row.inode)
        keys = {key: one for one in sorted(users) for key in self._parts.layout.block_keys(*one)}
        self._report.blocks += len(keys)
        for key, size in self._sizes(list(keys)):
            inodes = users[keys[key]]
            if size is None:
                self._lost(key, inodes)
            elif not self._is_right(key, size):
                self._report.damaged_blocks += 1
                what = f"has {size} bytes, its content {key.length}"
                for path in self._paths(inodes, self._report.damaged):
                    keep(self._report.damaged, f"{path}: {self._name(key)} {what}")

    def _lost(self, key: BlockKey, inodes: list[int]) -> None:
        # A file may have been compacted or removed since its chunk was read.
        using = [inode for inode in dict.fromkeys(inodes) if self._is_used(inode, key)]
        if not using:
            return
        self._report.lost_blocks += 1
        for path in self._paths(using, self._report.lost):
            keep(self._report.lost, f"{path}: {self._name(key)}")

    def _is_used(self, inode: int, key: BlockKey) -> bool:
        slice_id = int(key.name.partition("_")[0])

        def body(tx: Transaction) -> bool:
            attr = tx.get(Attr, inode)
            if attr is None or attr.nlink == 0:
                return False
            return any(
                slice_id == used for row in tx.scan(Chunk, inode) for used, _ in refs_of(row.slices)
            )

        return self._engine.read(body)

    def _paths(self, inodes: Iterable[int], findings: list[str]) -> Iterator[str]:
        """Iterate over what files are called, as long as ``findings`` has room for it."""
        for inode in dict.fromkeys(inodes):
            if is_full(findings):
                return
            yield path_of(self._engine, inode) or f"inode {inode}"

    def _name(self, key: BlockKey) -> str:
        return self._parts.layout.object_name(key.name)

    # ------------------------------------------------------------------ sizes

    def _sizes(self, keys: list[BlockKey]) -> Iterator[tuple[BlockKey, int | None]]:
        """Iterate over blocks with what is stored of each; None where there is nothing."""
        unknown = keys
        if self._stock is not None:
            unknown = []
            for key in keys:
                size = self._stock.size(key)
                if size is None:
                    unknown.append(key)
                else:
                    yield key, size
        for first in range(0, len(unknown), _HEADS):
            yield from self._ask(unknown[first : first + _HEADS])

    def _ask(self, keys: list[BlockKey]) -> Iterator[tuple[BlockKey, int | None]]:
        store = self._parts.store
        waiting = [start(store.head(self._name(key)), inline=store.inline) for key in keys]
        for key, future in zip(keys, waiting, strict=True):
            try:
                yield key, future.result().size_bytes
            except ObjectNotFoundError:
                yield key, None

    def _is_right(self, key: BlockKey, size: int) -> bool:
        if self._setting.compression not in ("", "none"):
            return size > self._overhead
        return size == key.length + self._overhead


class _Stock:
    """How long each stored block is, in a temporary file: of millions none is held in memory."""

    def __init__(self, parts: Parts) -> None:
        self._table = scratch_table(
            "id INTEGER, number INTEGER, length INTEGER, size INTEGER", "id, number, length"
        )
        rows: list[tuple[int, int, int, int]] = []
        for info in listed_objects(parts):
            name = info.name.rpartition("/")[2]
            found = parse_block_name(name)
            if found is not None and parts.layout.object_name(name) == info.name:
                rows.append((*found, info.size_bytes))
                if len(rows) == _ROWS:
                    self._note(rows)
                    rows = []
        self._note(rows)

    def _note(self, rows: list[tuple[int, int, int, int]]) -> None:
        self._table.execute("BEGIN")
        self._table.executemany("INSERT OR REPLACE INTO scratch VALUES (?, ?, ?, ?)", rows)
        self._table.execute("COMMIT")

    def size(self, key: BlockKey) -> int | None:
        """Return the stored size of a block."""
        row = self._table.execute(
            "SELECT size FROM scratch WHERE id = ? AND number = ? AND length = ?",
            key.name.split("_"),
        ).fetchone()
        return None if row is None else row[0]

    def __enter__(self) -> _Stock:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()


def _sealed_overhead(setting: Setting) -> int:
    """Return by how much encryption makes an object longer."""
    if not setting.encrypted:
        return 0
    cipher = Cipher(setting.encrypt_key, setting.encrypt_algo, rsa_passphrase())
    return len(cipher.seal(b""))
