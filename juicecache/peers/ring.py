"""Which member of a cache group owns a block: weighted consistent hashing, as pure code.

The key space has 65,536 slots, and every member visits all of them in an order of its own, at
the speed of its weight. A slot belongs to the member that comes first, then to the second, and
so on. When a member visits a slot depends on its name and weight alone, hence the laws:

* The same weights give the same owners on every machine.
* A member that joins, leaves or changes its weight moves the blocks that it gains or loses,
  and no others. What a dead member owned is where it will be once the list is without it.
* Only the ratios of weights count: they may be bytes, GiB or anything.

The usual points on a circle have none of the last: their number is relative to some scale, and
whenever that scale moves, so do blocks that nobody gained or lost.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b, shake_256
from itertools import accumulate, islice
from math import inf
from struct import unpack
from sys import byteorder
from typing import NamedTuple

_HALF = 256
_SLOTS = _HALF * _HALF
"""The shares of five members differ by 1%, those of a thousand by 9%: less than what chance makes
of 100 blocks a member. Building takes time in proportion; and a slot is two bytes, see `_Order`."""
_BYTES = bytes(range(_HALF))
_STEP = 2.0
"""Mean visits a slot of one round of building: few rounds, and few visits too many. It decides
how long building takes, and nothing about its result."""
_NEAR = 1e-12
"""Far more than what rounding does to a time."""


class _Order:
    """The order in which one member visits all slots: a three-round Feistel network on bytes.

    It can be read in both directions: which slots come next, and when a slot's turn is.
    """

    def __init__(self, name: str) -> None:
        tables = shake_256(name.encode("utf-8", "surrogatepass")).digest(3 * _HALF)
        self._first, self._second, self._third = (
            tables[at : at + _HALF] for at in range(0, 3 * _HALF, _HALF)
        )

    def slots(self) -> Iterator[int]:
        """Iterate over all slots: 256 at a time, by operations on whole strings of bytes."""
        mixed = bytearray(2 * _HALF)
        for a in range(_HALF):
            y = _xor(_BYTES, self._first[a : a + 1] * _HALF)
            x = _xor(y.translate(self._second), _BYTES[a : a + 1] * _HALF)
            mixed[0::2], mixed[1::2] = x, _xor(x.translate(self._third), y)
            yield from unpack(f">{_HALF}H", mixed)

    def turn(self, slot: int) -> int:
        """Return how many slots come before ``slot``."""
        x, z = divmod(slot, _HALF)
        y = z ^ self._third[x]
        a = x ^ self._second[y]
        return a * _HALF + (y ^ self._first[a])


def _xor(one: bytes, other: bytes) -> bytes:
    number = int.from_bytes(one, byteorder) ^ int.from_bytes(other, byteorder)
    return number.to_bytes(len(one), byteorder)


class _Visitor(NamedTuple):
    name: str
    weight: float
    order: _Order


class Ring:
    """Which member owns a key, and who is next; never changed once it is made.

    Parameters
    ----------
    weights
        {name: part of the blocks, relative to the others'}; 0 owns nothing.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._members = list(weights)
        self._visitors = [
            _Visitor(name, float(weights[name]), _Order(name))
            for name in sorted(weights)
            if weights[name] > 0
        ]
        # When a member of weight 1 makes its k-th of n visits: what the k-th smallest of n
        # exponential values is on average. With such times, of several members each is first
        # in proportion to its weight. Sums and quotients round alike everywhere; log() does not.
        ends = accumulate(1.0 / (_SLOTS - k) for k in range(_SLOTS))
        self._times = array("d", (end - 0.5 / (_SLOTS - k) for k, end in enumerate(ends)))
        self._first = array("I", self._settle() if self._visitors else ())

    def _settle(self) -> list[int]:
        """Return for each slot the number of the visitor that is there first.

        All visits up to a moment are made, then those up to a later one, until the last slot
        was taken before that moment: who comes later does not count.
        """
        first, taken = [0] * _SLOTS, [inf] * _SLOTS
        orders = [visitor.order.slots() for visitor in self._visitors]
        done = [0] * len(orders)
        step = moment = _STEP / sum(visitor.weight for visitor in self._visitors)
        while max(taken) > moment * (1 - _NEAR):
            moment += step
            for at, (_, weight, _) in enumerate(self._visitors):
                stop = bisect_right(self._times, moment * weight)
                times = self._times[done[at] : stop]
                for time, slot in zip(times, islice(orders[at], len(times)), strict=True):
                    arrival = time / weight
                    if arrival < taken[slot]:
                        taken[slot], first[slot] = arrival, at
                done[at] = stop
        return first

    def owner(self, key: bytes) -> str | None:
        """Return the member that owns ``key``; None if nobody owns anything."""
        if not self._visitors:
            return None
        return self._visitors[self._first[_slot(key)]].name

    def owners(self, key: bytes) -> Iterator[str]:
        """Iterate over the members that may own ``key``, the owner first.

        Each is the one that owns it once those before it have left. Only the owner comes at
        once: the others are put in order when the second is asked for.
        """
        if not self._visitors:
            return
        slot = _slot(key)
        owner = self._first[slot]
        yield self._visitors[owner].name
        ranked = sorted(
            (self._times[visitor.order.turn(slot)] / visitor.weight, at)
            for at, visitor in enumerate(self._visitors)
        )
        for _, at in ranked[1:]:
            yield self._visitors[at].name

    def shares(self) -> dict[str, float]:
        """Return the exact part of the key space of each member, of those with weight 0 too."""
        counts = Counter(self._first)
        owned = {visitor.name: counts[at] for at, visitor in enumerate(self._visitors)}
        return {name: owned.get(name, 0) / _SLOTS for name in self._members}


def _slot(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=2).digest(), "big")
