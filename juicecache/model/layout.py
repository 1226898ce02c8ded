"""Where the bytes of a file are: chunks, slices, blocks, and the names of their objects.

A file is cut into chunks of 64 MiB. What is visible in a chunk is a list of extents, each a
part of a slice; a slice is stored as blocks of the volume's block size, one object each.
Facts of the format: ``docs/format.md``, "Data objects".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from juicecache.model.slices import CHUNK_BYTES, Extent

__all__ = ["CHUNK_BYTES", "BlockKey", "BlockSpan", "Layout", "spans"]

BLOCK_BYTES_DEFAULT = 4 << 20
BLOCK_KIB_MIN, BLOCK_KIB_MAX = 64, 16384
"""A block size is a power of two between these, in KiB: the bounds of the official client."""


class BlockKey(NamedTuple):
    """What names a block to caches and peers: opaque, unique, never reused.

    Attributes
    ----------
    namespace
        The volume (its UUID), so that several volumes share one cache.
    name
        ``{slice id}_{index}_{length}``: unique inside the namespace.
    length
        Raw bytes of the block.
    """

    namespace: str
    name: str
    length: int

    @property
    def raw(self) -> bytes:
        """Namespace and name as bytes, for hashes: distinct for distinct blocks."""
        return f"{self.namespace}\0{self.name}".encode("utf-8", "surrogatepass")


class BlockSpan(NamedTuple):
    """Bytes ``[start, stop)`` of one block, and how far behind the start of a read they belong."""

    at: int
    slice_id: int
    slice_size: int
    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How slices of one volume become block keys and object names.

    Parameters
    ----------
    name
        The volume's name: every object name begins with it.
    namespace
        Of its blocks: the volume's UUID, and its epoch where it has one.
    block_bytes
        Raw bytes of every block but the last of a slice.
    hash_prefix
        Which of the two forms object names have.
    """

    name: str
    namespace: str
    block_bytes: int = BLOCK_BYTES_DEFAULT
    hash_prefix: bool = False

    def block_key(self, slice_id: int, index: int, slice_size: int) -> BlockKey:
        """Return the key of block ``index`` of a slice of ``slice_size`` bytes."""
        length = min(self.block_bytes, slice_size - index * self.block_bytes)
        return BlockKey(self.namespace, f"{slice_id}_{index}_{length}", length)

    def block_keys(self, slice_id: int, slice_size: int) -> list[BlockKey]:
        """Return the keys of all blocks of a slice."""
        count = -(-slice_size // self.block_bytes)
        return [self.block_key(slice_id, index, slice_size) for index in range(count)]

    def object_name(self, block_name: str) -> str:
        """Return the name of the object that holds the block called ``block_name``."""
        slice_id = int(block_name.partition("_")[0])
        if self.hash_prefix:
            return f"{self.chunks_prefix}{slice_id % 256:02X}/{slice_id // 1_000_000}/{block_name}"
        return f"{self.chunks_prefix}{slice_id // 1_000_000}/{slice_id // 1000}/{block_name}"

    @property
    def backups_prefix(self) -> str:
        """What the names of all backups of metadata begin with."""
        return f"{self.name}/meta/"

    @property
    def chunks_prefix(self) -> str:
        """What the names of all blocks begin with."""
        return f"{self.name}/chunks/"

    @property
    def uuid_name(self) -> str:
        """The object that holds the volume's UUID as text."""
        return f"{self.name}/juicefs_uuid"


_BLOCK_NAME = re.compile("([0-9]+)_([0-9]+)_([0-9]+)")


def parse_block_name(block_name: str) -> tuple[int, int, int] | None:
    """Return (slice id, index, length) of a block's name; None for what is no block."""
    found = _BLOCK_NAME.fullmatch(block_name)
    if found is None:
        return None
    slice_id, index, length = found.groups()
    return int(slice_id), int(index), int(length)


def spans(
    extents: Iterable[Extent], start: int, stop: int, block_bytes: int
) -> Iterator[BlockSpan]:
    """Iterate over the parts of blocks that make up bytes ``[start, stop)`` of a chunk.

    What no span covers is a hole and reads as zeros. In order of ``at``, which counts from
    ``start``.
    """
    for extent in extents:
        first = max(start, extent.pos)
        last = min(stop, extent.pos + extent.length)
        if last <= first:
            if extent.pos >= stop:
                return
            continue
        inside = extent.off + first - extent.pos
        end = inside + last - first
        while inside < end:
            index, begin = divmod(inside, block_bytes)
            size = min(block_bytes - begin, end - inside)
            yield BlockSpan(first - start, extent.slice_id, extent.size, index, begin, begin + size)
            inside += size
            first += size
