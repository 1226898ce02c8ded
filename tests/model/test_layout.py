"""Names of blocks and objects, and the parts of blocks that a read needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.model.layout import BlockKey, Layout, parse_block_name, spans
from juicecache.model.slices import Extent

PLAIN = Layout("fplain", "uuid")
SMALL = Layout("fsm", "uuid", 64 << 10)
HASHED = Layout("fhp", "uuid", hash_prefix=True)


def object_names(layout: Layout, slice_id: int, size: int) -> list[str]:
    return [layout.object_name(key.name) for key in layout.block_keys(slice_id, size)]


@pytest.mark.parametrize(
    ("layout", "slice_id", "size", "names"),
    [
        (PLAIN, 2, 9_437_284, ["fplain/chunks/0/0/2_0_4194304", "fplain/chunks/0/0/2_1_4194304",
                               "fplain/chunks/0/0/2_2_1048676"]),
        (SMALL, 12_345_678, 150_000, ["fsm/chunks/12/12345/12345678_0_65536",
                                      "fsm/chunks/12/12345/12345678_1_65536",
                                      "fsm/chunks/12/12345/12345678_2_18928"]),
        (HASHED, 12_345_678, 3, ["fhp/chunks/4E/12/12345678_0_3"]),
        (PLAIN, 8193, 6190, ["fplain/chunks/0/8/8193_0_6190"]),
        (PLAIN, 7, 4 << 20, ["fplain/chunks/0/0/7_0_4194304"]),
    ],
)  # fmt: skip
def test_objects_have_the_names_of_the_format(layout, slice_id, size, names):
    assert object_names(layout, slice_id, size) == names


def test_a_hash_prefix_has_two_upper_case_digits():
    assert HASHED.object_name("10_0_1") == "fhp/chunks/0A/0/10_0_1"
    assert HASHED.object_name("2000255_0_1") == "fhp/chunks/7F/2/2000255_0_1"


def test_other_names_of_a_volume():
    assert PLAIN.chunks_prefix == "fplain/chunks/"
    assert PLAIN.uuid_name == "fplain/juicefs_uuid"


def test_a_block_key_tells_volumes_apart():
    key = PLAIN.block_key(2, 2, 9_437_284)
    assert key == BlockKey("uuid", "2_2_1048676", 1_048_676)
    assert key != Layout("fplain", "other").block_key(2, 2, 9_437_284)


@given(st.integers(1, 2**63), st.integers(1, 1 << 26), st.sampled_from([64 << 10, 4 << 20]))
def test_blocks_tile_their_slice_and_names_are_read_back(slice_id, size, block_bytes):
    layout = Layout("vol", "uuid", block_bytes)
    keys = layout.block_keys(slice_id, size)
    assert sum(key.length for key in keys) == size
    assert all(key.length == block_bytes for key in keys[:-1])
    assert [parse_block_name(key.name) for key in keys] == [
        (slice_id, index, key.length) for index, key in enumerate(keys)
    ]


NO_BLOCKS = ["", "1", "1_2", "1_2_3_4", "a_0_1", "1_0_", "-1_0_1", "\u0661_0_1"]


@pytest.mark.parametrize("name", NO_BLOCKS)
def test_what_is_no_block_is_told(name):
    assert parse_block_name(name) is None


def test_a_read_over_a_hole_and_a_block_border():
    extents = [Extent(10, 5, 300, 90, 20), Extent(40, 6, 10, 0, 10)]
    assert list(spans(extents, 15, 45, 100)) == [
        (0, 5, 300, 0, 95, 100),
        (5, 5, 300, 1, 0, 10),
        (25, 6, 10, 0, 0, 5),
    ]
    assert list(spans(extents, 30, 40, 100)) == []
    assert list(spans([], 0, 10, 100)) == []


@st.composite
def extent_lists(draw) -> list[Extent]:
    """Extents in order, with gaps between some of them."""
    extents, at = [], 0
    for slice_id in range(1, draw(st.integers(0, 5)) + 1):
        at += draw(st.integers(0, 5))
        length = draw(st.integers(1, 30))
        off = draw(st.integers(0, 20))
        extents.append(Extent(at, slice_id, off + length + draw(st.integers(0, 9)), off, length))
        at += length
    return extents


@given(extent_lists(), st.integers(0, 100), st.integers(0, 100), st.integers(1, 16))
def test_spans_are_the_bytes_of_the_range(extents, start, size, block_bytes):
    wanted = {
        extent.pos + at: (extent.slice_id, extent.off + at)
        for extent in extents
        for at in range(extent.length)
        if start <= extent.pos + at < start + size
    }
    found = {}
    last = 0
    for span in spans(extents, start, start + size, block_bytes):
        assert 0 <= span.start < span.stop <= block_bytes
        assert span.at >= last
        last = span.at + span.stop - span.start
        for step in range(span.stop - span.start):
            inside = span.number * block_bytes + span.start + step
            found[start + span.at + step] = (span.slice_id, inside)
    assert found == wanted
