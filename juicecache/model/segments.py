"""Segments: the 64 KiB pieces of a block, each with a CRC-32C of its own.

The same checksums stand in a block's file and travel with it to a peer, so that whoever
sends a block never computes them again, and a read of one small file out of a large block
that holds many costs the check of that file and not of its neighbours.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import crc32c

SEGMENT_BYTES = 64 * 1024
"""What one checksum covers: a check of it costs 3 us, about as much as the calls around it."""


class Held(NamedTuple):
    """Bytes of whole segments of a block, where they are, with what proves them.

    Attributes
    ----------
    fd, offset
        The file that they stand in, and where; whoever gets this closes it. -1 where ``content``
        has them.
    size
        Their number.
    content
        They themselves, read-only; None where the file has them.
    sums
        CRC-32C of each segment: u32, little-endian, as in files of blocks and in frames.
    """

    fd: int
    offset: int
    size: int
    content: memoryview | None
    sums: bytes


def held_content(content: memoryview, start: int, stop: int) -> Held:
    """Return the segments around bytes ``[start, stop)`` of a block that is in memory."""
    first, last = bounds(touched(start, stop), content.nbytes)
    part = content[first:last]
    return Held(-1, 0, last - first, part, pack_sums(segment_sums(part)))


def pack_sums(sums: tuple[int, ...]) -> bytes:
    """Return checksums as they stand in files and frames."""
    return struct.pack(f"<{len(sums)}I", *sums)


def unpack_sums(raw: bytes | bytearray) -> tuple[int, ...]:
    """Return what `pack_sums` packed."""
    return struct.unpack(f"<{len(raw) // 4}I", raw)


def segment_count(length: int) -> int:
    """Return how many segments a block of ``length`` bytes has."""
    return -(-length // SEGMENT_BYTES)


def touched(start: int, stop: int) -> range:
    """Return the numbers of the segments that bytes ``[start, stop)`` lie in."""
    return range(start // SEGMENT_BYTES, segment_count(stop)) if start < stop else range(0)


def bounds(segments: range, length: int) -> tuple[int, int]:
    """Return the bytes ``[start, stop)`` that whole segments of a block of ``length`` cover."""
    return segments.start * SEGMENT_BYTES, min(segments.stop * SEGMENT_BYTES, length)


def segment_sums(content: memoryview) -> tuple[int, ...]:
    """Return the checksums of the segments of a content that starts with one."""
    checksum = crc32c.crc32c
    return tuple(
        [checksum(content[at : at + SEGMENT_BYTES]) for at in range(0, len(content), SEGMENT_BYTES)]
    )


def sums_around(before: bytearray, buffer: memoryview, after: bytearray) -> tuple[int, ...]:
    """Return `segment_sums` of three pieces end to end; the outer ones are less than a segment."""
    edge = SEGMENT_BYTES - len(before)
    first = crc32c.crc32c(buffer[:edge], crc32c.crc32c(before))
    sums = (first, *segment_sums(buffer[edge:]))
    return (*sums[:-1], crc32c.crc32c(after, sums[-1]))
