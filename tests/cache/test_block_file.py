"""Block files: a checksum a segment, and what reads it."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from juicecache.cache.block_file import file_bytes, read_checked, read_part, write_block
from juicecache.cache.directory import DirectoryTier
from juicecache.model import segments
from juicecache.model.segments import SEGMENT_BYTES
from juicecache.testing.tier_contract import block

KEY = block(1, 1)[0]
LENGTHS = [1, 100, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 5]


def written(path, content: bytes) -> int:
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR)
    write_block(fd, KEY._replace(length=len(content)), content)
    assert os.fstat(fd).st_size == file_bytes(len(content))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LENGTHS), st.integers(0, 1 << 32), st.booleans())
def test_a_part_is_right_or_refused(tmp_path_factory, length, seed, damaged):
    rng = random.Random(seed)
    content = rng.randbytes(length)
    key = KEY._replace(length=length)
    start = rng.randrange(length)
    stop = rng.randint(start + 1, length)
    fd = written(tmp_path_factory.getbasetemp() / "block", content)
    try:
        at = rng.randrange(file_bytes(length))
        if damaged:
            byte = os.pread(fd, 1, at)
            os.pwrite(fd, bytes([byte[0] ^ 1 << rng.randrange(8)]), at)
        first, last = start // SEGMENT_BYTES * SEGMENT_BYTES, -(-stop // SEGMENT_BYTES)
        seen = damaged and (first <= at < min(last * SEGMENT_BYTES, length) or at >= length)
        buffer = memoryview(bytearray(stop - start))
        for view in (
            read_part(fd, key, start, stop, None),
            read_part(fd, key, start, stop, buffer),
        ):
            assert (view is None) if seen else (view == content[start:stop])
        assert read_checked(fd, key) == (None if damaged else content)
    finally:
        os.close(fd)


@pytest.mark.parametrize("lost", [1, 16, 20, 70_000])
def test_a_shorter_file_is_refused(tmp_path, lost):
    content = random.Random(1).randbytes(2 * SEGMENT_BYTES)
    key = KEY._replace(length=len(content))
    fd = written(tmp_path / "block", content)
    os.ftruncate(fd, file_bytes(len(content)) - lost)
    assert read_part(fd, key, 0, 5, None) is None
    assert read_part(fd, key, 0, 5, memoryview(bytearray(5))) is None
    assert read_checked(fd, key) is None
    os.close(fd)


def test_extend_checks_each_segment_once(tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.cache.checking._MTIME_GRAIN_S", -1)
    tier = DirectoryTier(tmp_path, capacity_bytes=1 << 24, free_space_ratio=0)
    key, content = block(1, 4 * SEGMENT_BYTES + 10)
    tier.put(key, content)
    checked: list[int] = []
    plain = segments.crc32c.crc32c

    class Counting:
        @staticmethod
        def crc32c(data, value=0):
            if len(data) > 100:  # not the footer
                checked.append(len(data))
            return plain(data, value)

    monkeypatch.setattr(segments, "crc32c", Counting)

    def cost(start: int, stop: int | None) -> int:
        checked.clear()
        assert tier.get(key, start, stop) == content[start:stop]
        return len(checked)

    at = SEGMENT_BYTES
    assert cost(at + 5, at + 10) == 1
    assert cost(at, 2 * at) == 0
    assert cost(at + 5, 2 * at + 1) == 2
    assert cost(at + 7, 3 * at) == 0
    assert cost(0, None) == 4  # the last one has ten bytes
    assert cost(0, None) == cost(4 * at, 4 * at + 10) == cost(3, 4 * at) == 0
    tier.close()


def test_full_checks_what_it_reads_and_no_more(tmp_path):
    tier = DirectoryTier(tmp_path, capacity_bytes=1 << 24, free_space_ratio=0, verify="full")
    key, content = block(1, 3 * SEGMENT_BYTES)
    tier.put(key, content)
    (path,) = tmp_path.glob("*/*/*/b*")
    with path.open("r+b") as file:
        file.seek(SEGMENT_BYTES)
        file.write(bytes([content[SEGMENT_BYTES] ^ 1]))
    buffer = memoryview(bytearray(10))
    assert tier.get(key, 0, SEGMENT_BYTES) == content[:SEGMENT_BYTES]
    assert tier.get_into(key, 2 * SEGMENT_BYTES, 2 * SEGMENT_BYTES + 10, buffer)
    assert tier.get_into(key, SEGMENT_BYTES + 100, SEGMENT_BYTES + 110, buffer) is False
    assert tier.stats().corrupt == 1
    assert not tier.contains(key)
    tier.close()


@pytest.mark.parametrize("part", [(0, None), (3, 9)])
def test_a_file_in_the_place_of_another_is_damage(tmp_path, part):
    tier = DirectoryTier(tmp_path, capacity_bytes=1 << 24, free_space_ratio=0)
    (one, content), (two, other) = block(1, 1000), block(1, 1000, "another-volume")
    tier.put(one, content)
    tier.put(two, other)
    (mine,) = tmp_path.glob(f"*/b{one.namespace}/*/b*")
    (theirs,) = tmp_path.glob("*/banother-volume/*/b*")
    theirs.rename(mine)
    assert tier.get(one, *part) is None
    assert tier.stats().corrupt == 1
    tier.close()


def test_what_changed_just_now_is_checked_once_more(tmp_path):
    """A second change in the same tick of the clock would not show in the time of change."""
    tier = DirectoryTier(tmp_path, capacity_bytes=1 << 24, free_space_ratio=0)
    key, content = block(1, 1000)
    tier.put(key, content)
    (path,) = tmp_path.glob("*/*/*/b*")
    now = path.stat()
    soon_ns = now.st_mtime_ns + 10**10  # the clock has not reached it
    os.utime(path, ns=(now.st_atime_ns, soon_ns))
    assert tier.get(key) == content
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(now.st_atime_ns, soon_ns))
    assert tier.get(key) is None
    tier.close()


@pytest.mark.parametrize("left", [0, 10, SEGMENT_BYTES, SEGMENT_BYTES + 5])
@pytest.mark.parametrize("into", [False, True])
def test_a_part_of_a_file_that_was_cut_meanwhile_is_refused(tmp_path, left, into):
    """Its size is looked at before its bytes are: it may be cut in between."""
    content = random.Random(1).randbytes(3 * SEGMENT_BYTES)
    key = KEY._replace(length=len(content))
    fd = written(tmp_path / "block", content)
    try:
        os.ftruncate(fd, left)
        for start in (0, SEGMENT_BYTES, 2 * SEGMENT_BYTES + 7):
            buffer = memoryview(bytearray(100)) if into else None
            assert read_part(fd, key, start, start + 100, buffer) is None
        assert read_checked(fd, key) is None
    finally:
        os.close(fd)
