"""Eviction orders as pure rules."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.cache.policy import Candidate, Lru, TwoRandom, eviction_order
from juicecache.errors import ConfigError

CANDIDATES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=40).map(
    lambda rows: [Candidate(age, size, b"%d" % n) for n, (age, size) in enumerate(rows)]
)


def size(candidates: list[Candidate]) -> int:
    return sum(candidate.size_bytes for candidate in candidates)


@given(
    CANDIDATES,
    st.integers(-5, 500),
    st.integers(-1, 20),
    st.sampled_from(["lru", "2-random"]),
    st.integers(),
)
def test_victims_are_as_many_as_are_needed_and_no_more(candidates, needed, items, name, seed):
    order = eviction_order(name, random.Random(seed))
    assert order is not None
    victims = order.victims(iter(candidates), needed, items)
    assert len(set(victims)) == len(victims)
    assert set(victims) <= set(candidates)
    assert size(victims) >= min(needed, size(candidates))
    assert len(victims) >= min(items, len(candidates))
    if victims:
        assert size(victims[:-1]) < needed or len(victims) <= items


@given(CANDIDATES, st.integers(1, 500))
def test_lru_takes_the_oldest_in_order(candidates, needed):
    victims = Lru().victims(candidates, needed)
    ages = [victim.last_used_ns for victim in victims]
    assert ages == sorted(ages)
    spared = set(candidates) - set(victims)
    if victims and spared:
        assert ages[-1] <= min(candidate.last_used_ns for candidate in spared)


@given(st.lists(st.integers(1, 400), max_size=60), st.integers(400, 1000), st.integers())
def test_a_store_that_asks_first_never_exceeds_its_capacity(sizes, capacity, seed):
    order = TwoRandom(random.Random(seed))
    here: list[Candidate] = []
    for number, new in enumerate(sizes):
        victims = set(order.victims(here, size(here) + new - capacity))
        here = [candidate for candidate in here if candidate not in victims]
        here.append(Candidate(number, new, b"%d" % number))
        assert size(here) <= capacity


def test_two_random_prefers_the_old():
    candidates = [Candidate(age, 1, b"%d" % age) for age in range(1000)]
    victims = TwoRandom(random.Random(7)).victims(candidates, 300)
    # Chance alone would take the middle, 500; the older of two is a third of the way.
    assert sum(victim.last_used_ns for victim in victims) / 300 < 420


def test_the_words_of_the_option():
    rng = random.Random(0)
    assert eviction_order("none", rng) is None
    with pytest.raises(ConfigError, match="2-random"):
        eviction_order("fifo", rng)
