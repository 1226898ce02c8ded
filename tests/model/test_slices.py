"""Slice records against arrays of bytes, and the worked examples of the format."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.model.slices import (
    CHUNK_BYTES,
    RECORD_BYTES,
    Extent,
    SliceRecord,
    copy_records,
    covered_records,
    plan_compaction,
    refs_of,
    truncate_records,
    visible,
)

MIB = 1 << 20
UNIT = MIB // 2
"""Model bytes stand for half a MiB each where the rules for large records matter."""
SIZE = 24


def packed(*records: SliceRecord) -> bytes:
    return b"".join(record.pack() for record in records)


@st.composite
def records(draw, unit: int = 1, stop: int = SIZE) -> SliceRecord:
    """One record in a window of ``stop`` units; a third of them holes."""
    pos = draw(st.integers(0, stop - 1))
    length = draw(st.integers(1, stop - pos))
    slice_id = draw(st.sampled_from([0, 1, 2, 3, 4, 5]))
    if slice_id == 0:
        return SliceRecord(pos * unit, 0, 0, 0, length * unit)
    off = draw(st.integers(0, 5))
    return SliceRecord(pos * unit, slice_id, 100 * unit, off * unit, length * unit)


lists = st.lists(records(), max_size=12)


def byte_of(slice_id: int, off: int) -> int:
    """Return the byte of a slice at an offset: never zero, different nearby."""
    return 1 + (slice_id * 40 + off) % 255


def applied(rows, size: int, unit: int = 1) -> bytearray:
    """Return the bytes of a chunk by doing what the records say, one after another."""
    content = bytearray(size)
    for row in rows:
        for at in range(row.length // unit):
            byte = byte_of(row.slice_id, row.off // unit + at) if row.slice_id else 0
            content[row.pos // unit + at] = byte
    return content


def shown(extents, size: int, unit: int = 1) -> bytearray:
    """Return the bytes of a chunk as a reader assembles them."""
    content = bytearray(size)
    for extent in extents:
        for at in range(extent.length // unit):
            content[extent.pos // unit + at] = byte_of(extent.slice_id, extent.off // unit + at)
    return content


# ---------------------------------------------------------------- records


def test_the_example_of_the_format_is_packed_and_read():
    text = bytes.fromhex("00000FA0 0000000000001004 00000064 00000000 00000064")
    record = SliceRecord(4000, 4100, 100, 0, 100)
    assert record.pack() == text
    assert SliceRecord.unpack_all(text * 2) == [record, record]
    assert len(text) == RECORD_BYTES
    partial = SliceRecord(50, 8194, 5_058_900, 100, 1_000_000)
    assert partial.pack().hex().upper() == "000000320000000000002002004D31540000006400" + "0F4240"


@given(lists)
def test_records_survive_packing(rows):
    assert SliceRecord.unpack_all(packed(*rows)) == rows


def test_a_list_of_half_a_record_is_refused():
    with pytest.raises(Exception, match="multiple"):
        visible(bytes(RECORD_BYTES + 1))


# ---------------------------------------------------------------- what is visible


def test_an_overwritten_cut_and_extended_file_shows_what_it_should():
    text = packed(
        SliceRecord(0, 4099, 10_000, 0, 10_000),
        SliceRecord(4000, 4100, 100, 0, 100),
        SliceRecord(9000, 0, 0, 0, 1000),
        SliceRecord(9000, 0, 0, 0, 500),
    )
    assert visible(text) == [
        Extent(0, 4099, 10_000, 0, 4000),
        Extent(4000, 4100, 100, 0, 100),
        Extent(4100, 4099, 10_000, 4100, 4900),
    ]


@given(lists)
def test_visible_is_what_applying_the_records_leaves(rows):
    assert shown(visible(packed(*rows)), SIZE) == applied(rows, SIZE)


@given(lists)
def test_extents_are_sorted_disjoint_and_no_holes(rows):
    extents = visible(packed(*rows))
    assert all(one.pos + one.length <= other.pos for one, other in pairwise(extents))
    assert all(extent.length > 0 and extent.slice_id for extent in extents)
    sizes = {row.slice_id: row.size for row in rows}
    assert all(extent.size == sizes[extent.slice_id] for extent in extents)


def test_nothing_is_visible_in_an_empty_list():
    assert visible(b"") == []
    assert visible(SliceRecord(0, 0, 0, 0, 5).pack()) == []


# ---------------------------------------------------------------- references


def test_references_are_counted_by_record():
    hole, one, two = (
        SliceRecord(0, 0, 0, 0, 9),
        SliceRecord(0, 5, 100, 0, 10),
        SliceRecord(0, 6, 7, 0, 7),
    )
    assert refs_of(packed(one, hole, two, one)) == {(5, 100): 2, (6, 7): 1}
    assert refs_of(b"") == {}


# ---------------------------------------------------------------- truncation


def test_truncation_writes_the_holes_of_the_official_client():
    hole = SliceRecord(0, 0, 0, 0, 1)
    assert list(truncate_records(5000, 0, [])) == [(0, hole._replace(length=5000))]
    assert list(truncate_records(0, 200 * MIB, [])) == [
        (0, hole._replace(length=CHUNK_BYTES)),
        (3, hole._replace(length=8 * MIB)),
    ]
    assert list(truncate_records(9000, 9000, [])) == []
    two = 2 * CHUNK_BYTES
    assert list(truncate_records(two, 10, [1])) == [
        (0, SliceRecord(10, 0, 0, 0, CHUNK_BYTES - 10)),
        (1, hole._replace(length=CHUNK_BYTES)),
    ]


borders = st.builds(
    lambda chunk, shift: max(0, chunk * CHUNK_BYTES + shift),
    st.integers(0, 4),
    st.sampled_from([-2, -1, 0, 1, 2]),
)


@given(borders, borders, st.sets(st.integers(0, 4)))
def test_holes_cover_the_difference_and_nothing_else(old, new, rows):
    low, high = sorted((old, new))
    between = sorted(row for row in rows if low // CHUNK_BYTES < row < high // CHUNK_BYTES)
    covered = []
    for index, record in truncate_records(old, new, between):
        assert record.slice_id == record.size == record.off == 0
        assert record.length > 0
        assert record.pos + record.length <= CHUNK_BYTES
        start = index * CHUNK_BYTES + record.pos
        covered.append((start, start + record.length))
    assert all(one[1] <= other[0] for one, other in pairwise(covered))
    assert all(low <= start and stop <= high for start, stop in covered)
    # What is not covered lies in chunks without a row, which are holes already.
    at = low
    for start, stop in [*covered, (high, high)]:
        gap = range(at // CHUNK_BYTES, -(-start // CHUNK_BYTES)) if at < start else ()
        assert not set(gap) & set(between)
        at = stop


# ---------------------------------------------------------------- copies


def test_a_copied_range_is_the_record_of_the_official_client():
    chunk = [Extent(0, 8194, 5_058_900, 0, 5_058_900)]
    assert list(copy_records({0: chunk}, 100, 50, 1_000_000)) == [
        (0, SliceRecord(50, 8194, 5_058_900, 100, 1_000_000))
    ]


@given(
    st.dictionaries(st.integers(0, 1), lists, max_size=2),
    st.integers(-SIZE, SIZE),
    st.integers(-SIZE, SIZE),
    st.integers(1, 2 * SIZE),
)
def test_a_copy_has_the_bytes_of_its_source(chunks, start, target, size):
    """The range and its target lie around the border of the first two chunks."""
    # Records near the end of chunk 0 and the start of chunk 1, so that a range crosses both.
    edge = CHUNK_BYTES - SIZE
    placed = {
        index: [row._replace(pos=row.pos + (edge if index == 0 else 0)) for row in rows]
        for index, rows in chunks.items()
    }
    seen = {index: visible(packed(*rows)) for index, rows in placed.items()}
    source_start, target_start = CHUNK_BYTES + start, CHUNK_BYTES + target
    source = bytearray(4 * SIZE)
    for index, rows in chunks.items():
        at = SIZE if index == 0 else 2 * SIZE
        source[at : at + SIZE] = applied(rows, SIZE)
    wanted = source[2 * SIZE + start : 2 * SIZE + start + size].ljust(size, b"\0")

    found = bytearray(b"\xff" * size)
    for index, record in copy_records(seen, source_start, target_start, size):
        assert record.pos + record.length <= CHUNK_BYTES
        assert record.slice_id or record.size == record.off == 0
        at = index * CHUNK_BYTES + record.pos - target_start
        assert at >= 0
        for step in range(record.length):
            byte = byte_of(record.slice_id, record.off + step) if record.slice_id else 0
            found[at + step] = byte
    assert found == wanted


# ---------------------------------------------------------------- compaction


def merged(plan, rows, unit: int = 1) -> list[SliceRecord]:
    """Return the list after the compaction: a new slice 99, known by its extents only."""
    new = SliceRecord(plan.pos, 99, plan.length, 0, plan.length)
    return [*rows[: plan.skipped], new, *rows[plan.skipped + plan.taken :]]


def check_same_bytes(rows, unit: int, later: list[SliceRecord]) -> None:
    plan = plan_compaction(packed(*rows))
    if plan is None:
        return
    assert plan.taken >= 2
    assert plan.length > 0
    assert all(
        plan.pos <= one.pos and one.pos + one.length <= plan.pos + plan.length
        for one in plan.extents
    )
    text = shown(plan.extents, SIZE, unit)
    content = applied(rows[: plan.skipped], SIZE, unit)
    first, last = plan.pos // unit, -(-(plan.pos + plan.length) // unit)
    content[first:last] = text[first:last]
    for row in later:
        for at in range(row.pos // unit, (row.pos + row.length) // unit):
            content[at] = applied([row], SIZE, unit)[at]
    assert content == applied([*rows, *later], SIZE, unit)
    assert refs_of(packed(*merged(plan, rows)))[99, plan.length] == 1


@given(lists, lists)
def test_a_compaction_preserves_bytes(rows, later):
    check_same_bytes(rows, 1, later)


@given(st.lists(records(unit=UNIT), min_size=2, max_size=8), st.lists(records(unit=UNIT)))
def test_a_compaction_that_leaves_large_records_preserves_bytes(rows, later):
    check_same_bytes(rows, UNIT, later)


def test_large_leading_records_stay_where_they_are():
    big = SliceRecord(0, 1, 8 * MIB, 0, 8 * MIB)
    small = [SliceRecord(8 * MIB + at, 2 + at, 1, 0, 1) for at in range(3)]
    plan = plan_compaction(packed(big, *small))
    assert (plan.skipped, plan.taken, plan.pos, plan.length) == (1, 3, 8 * MIB, 3)
    covered = plan_compaction(packed(big, *small, SliceRecord(5, 9, 1, 0, 1)))
    assert (covered.skipped, covered.taken) == (0, 5)
    little = plan_compaction(packed(big._replace(length=MIB - 1), *small))
    assert little.skipped == 0


def test_there_is_nothing_to_merge_in_fewer_than_two_records():
    one = SliceRecord(0, 1, 10, 0, 10)
    big = SliceRecord(0, 2, MIB, 0, MIB)
    assert plan_compaction(b"") is None
    assert plan_compaction(packed(one)) is None
    assert plan_compaction(packed(big, one._replace(pos=MIB))) is None


def test_holes_around_the_bytes_are_dropped_and_an_empty_chunk_keeps_one_zero():
    data = SliceRecord(100, 1, 10, 0, 10)
    plan = plan_compaction(packed(SliceRecord(0, 0, 0, 0, 100), data, SliceRecord(110, 0, 0, 0, 9)))
    assert (plan.pos, plan.length, plan.taken) == (100, 10, 3)
    hole = SliceRecord(50, 0, 0, 0, 100)
    plan = plan_compaction(packed(hole, hole))
    assert (plan.pos, plan.length, plan.extents) == (50, 1, [])


def test_a_compaction_takes_a_thousand_records():
    rows = [SliceRecord(at, at + 1, 1, 0, 1) for at in range(1500)]
    plan = plan_compaction(packed(*rows))
    assert (plan.skipped, plan.taken, plan.pos, plan.length) == (0, 1000, 0, 1000)


@given(lists)
def test_covered_records_go_unseen_and_are_all_that_can(rows):
    packed = b"".join(row.pack() for row in rows)
    count = covered_records(packed)
    assert visible(packed[count * RECORD_BYTES :]) == visible(packed)
    if visible(packed):
        assert visible(packed[(count + 1) * RECORD_BYTES :]) != visible(packed)
    else:
        assert count == 0


def test_what_a_whole_file_replaced_is_covered():
    old, hole, new = (
        SliceRecord(0, 7, 100, 0, 100),
        SliceRecord(0, 0, 0, 0, 100),
        SliceRecord(0, 8, 5000, 300, 60),
    )
    assert covered_records(old.pack() + hole.pack() + new.pack()) == 2
    assert covered_records(new.pack()) == 0
