"""Counts of any number of slices: the same whether they fit into memory or not."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.meta import tally
from juicecache.meta.tally import Seen, SliceTally, joined

keys = st.tuples(st.integers(1, 2**62), st.integers(0, 2**32 - 1)) | st.tuples(
    st.integers(1, 4), st.integers(0, 2)
)
added = st.lists(st.dictionaries(keys, st.integers(-3, 3), max_size=6), max_size=8)


@pytest.fixture(scope="module", params=[2, 1000], autouse=True)
def held_max(request: pytest.FixtureRequest):
    before, tally._HELD_MAX = tally._HELD_MAX, request.param
    yield
    tally._HELD_MAX = before


def model(parts: list[dict[tuple[int, int], int]]) -> dict[tuple[int, int], int]:
    sums: Counter[tuple[int, int]] = Counter()
    for part in parts:
        sums.update(part)
    return dict(sums)


@given(added)
def test_counts_are_the_sums(parts: list[dict[tuple[int, int], int]]) -> None:
    with SliceTally() as counts:
        for part in parts:
            counts.add(part)
        wanted = model(parts)
        assert list(counts.counts()) == sorted(wanted.items())
        for key in [*wanted, (77, 77)]:
            assert counts.count(*key) == wanted.get(key, 0)


@given(added, added, st.integers(0, 1))
def test_two_are_joined_by_slice(one_parts, other_parts, missing) -> None:
    with SliceTally() as one, SliceTally() as other:
        for part in one_parts:
            one.add(part)
        for part in other_parts:
            other.add(part)
        first, second = model(one_parts), model(other_parts)
        assert list(joined(one, other, missing=missing)) == [
            (key, first.get(key, 0), second.get(key, missing))
            for key in sorted(first.keys() | second.keys())
        ]


def test_closing_twice_is_safe() -> None:
    counts = SliceTally()
    counts.close()
    counts.close()


@given(st.lists(st.lists(st.binary(max_size=2), max_size=8), max_size=8))
def test_what_was_met_is_met_once(pages: list[list[bytes]]) -> None:
    met: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch, closing(Seen()) as seen:
        patch.setattr(tally, "_ASKED_MAX", 3)
        for page in pages:
            new = seen.unmet(page)
            assert new == seen.unmet(page)  # asking is not meeting
            seen.add(new)
            met += new
    assert met == list(dict.fromkeys(key for page in pages for key in page))
