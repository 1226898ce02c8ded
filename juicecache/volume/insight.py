"""What a volume knows about itself: counters, and where the blocks of a file are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from juicecache.cache.tier import TierStats
from juicecache.errors import IsDirectoryError
from juicecache.model.layout import CHUNK_BYTES, BlockKey
from juicecache.peers.group import GroupStats
from juicecache.peers.server import ServerStats
from juicecache.volume.blocks import BlockStats
from juicecache.volume.group_report import owners
from juicecache.volume.parts import Parts


@dataclass(frozen=True, slots=True)
class VolumeStats:
    """Counters of this process since it opened the volume; ``tiers`` are in reading order.

    ``group`` is the cache group as this process sees it, None for a client of none; ``serving``
    is what this process gave to others, None unless it is a member.
    """

    volume: str
    storage: str
    metadata: str
    tiers: tuple[TierStats, ...]
    blocks: BlockStats
    group: GroupStats | None = None
    serving: ServerStats | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        value = asdict(self)
        if self.group is not None:
            value["group"]["members"] = [member.about() for member in self.group.members]
        return value


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """One block that a file needs: its object, raw size, the used part, and the tier it is in.

    ``owner`` is the member of the cache group that the block belongs to, None without a group;
    ``owner_has`` is None where the owner does not say.
    """

    object_name: str
    length: int
    used_bytes: int
    tier: str | None
    owner: str | None = None
    owner_has: bool | None = None


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Where the content of a file is, and what reading all of it would cost now.

    ``requests`` and ``request_bytes`` count what object storage would have to deliver
    (raw bytes, before compression); ``cached_bytes`` is the used part that some tier has, and
    ``peer_bytes`` the part of the rest that its owners in the cache group have.
    """

    path: str
    inode: int
    length: int
    chunks: int
    slices: int
    blocks: tuple[BlockInfo, ...]
    cached_bytes: int
    peer_bytes: int
    hole_bytes: int
    requests: int
    request_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def volume_stats(parts: Parts) -> VolumeStats:
    """Return the counters of a volume."""
    return VolumeStats(
        parts.meta.gate.setting.name,
        parts.store.describe(),
        parts.engine.describe(),
        parts.tiers.stats(),
        parts.blocks.stats(),
        None if parts.blocks.group is None else parts.blocks.group.stats(),
        None if parts.serving is None else parts.serving.stats(),
    )


def file_blocks(parts: Parts, path: str) -> tuple[int, int, dict[BlockKey, int]]:
    """Return (chunks, slices, {block: used bytes}) of a file, its visible content only."""
    attr = parts.meta.resolve(path)
    if attr.is_directory:
        raise IsDirectoryError(path)
    count = -(-attr.length // CHUNK_BYTES)
    _, lists = parts.meta.extents(path, attr, range(count))
    used: dict[BlockKey, int] = {}
    slices = set()
    block_bytes = parts.layout.block_bytes
    for index, extents in enumerate(lists):
        rest = attr.length - index * CHUNK_BYTES
        for extent in extents:
            length = min(extent.length, rest - extent.pos)
            if length <= 0:
                continue
            slices.add(extent.slice_id)
            for number in range(
                extent.off // block_bytes, (extent.off + length - 1) // block_bytes + 1
            ):
                key = parts.layout.block_key(extent.slice_id, number, extent.size)
                start = max(extent.off, number * block_bytes)
                stop = min(extent.off + length, (number + 1) * block_bytes)
                used[key] = used.get(key, 0) + stop - start
    return count, len(slices), used


def explain_file(parts: Parts, path: str) -> FileLayout:
    """Return which blocks a file needs, in which tier each is, and what a full read would cost."""
    attr = parts.meta.resolve(path)
    chunks, slices, used = file_blocks(parts, path)
    owned = owners(parts, used)
    blocks = tuple(
        BlockInfo(
            parts.layout.object_name(key.name),
            key.length,
            size,
            parts.tiers.where(key),
            *owned.get(key, (None, None)),
        )
        for key, size in used.items()
    )
    away = [block for block in blocks if block.tier is None]
    absent = [block for block in away if not block.owner_has]
    return FileLayout(
        path,
        attr.inode,
        attr.length,
        chunks,
        slices,
        blocks,
        sum(block.used_bytes for block in blocks if block.tier is not None),
        sum(block.used_bytes for block in away if block.owner_has),
        attr.length - sum(block.used_bytes for block in blocks),
        len(absent),
        sum(block.length for block in absent),
    )
