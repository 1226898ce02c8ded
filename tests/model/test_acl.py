"""Access control lists as values."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.model.acl import UNSET, Rule, pack_named, unpack_named

NO_ID = 0xFFFF_FFFF
FULL = Rule(7, 5, 7, 4, ((1000, 6),), ((50, 1),))

bits = st.integers(0, 7)
names = st.dictionaries(st.integers(0, NO_ID - 1), bits, max_size=4).map(
    lambda found: tuple(sorted(found.items()))
)
rules = st.builds(
    lambda owner, group, mask, other, users, groups: Rule(
        owner, group, mask if users or groups or mask < 4 else UNSET, other, users, groups
    ),
    *(bits, bits, bits, bits, names, names),
)


def xattr(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_the_form_of_linux() -> None:
    """As the kernel passes it on, and as the official client stores and logs the same list."""
    passed = xattr(
        (1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (8, 1, 50), (16, 7, NO_ID), (32, 4, NO_ID)
    )
    assert Rule.from_xattr(passed) == FULL
    assert FULL.to_xattr() == passed
    assert FULL.pack().hex() == "000700050007000400000001000003e8000600000001000000320001"
    assert Rule().pack().hex() == "ff" * 8 + "00" * 8


@given(rules)
def test_every_list_comes_back_as_it_was(rule: Rule) -> None:
    assert Rule.from_xattr(rule.to_xattr()) == rule
    assert unpack_named(pack_named(rule.named_users)) == rule.named_users


@given(rules, st.integers(0, 0o7777))
def test_a_mode_and_its_list_say_the_same(rule: Rule, mode: int) -> None:
    changed = rule.with_mode(mode)
    assert changed.mode == mode & 0o777
    assert (changed.named_users, changed.is_minimal) == (rule.named_users, rule.is_minimal)
    assert changed.mask == UNSET or changed.group == rule.group
    inherited = rule.inherited(mode)
    assert inherited.mode == rule.mode & mode
    assert (inherited.named_groups, inherited.is_minimal) == (rule.named_groups, rule.is_minimal)


def test_what_the_official_client_makes_of_a_list() -> None:
    """A chmod to 0640, a file made with 0666, a directory made with 0777."""
    rule = Rule(6, 4, 6, 4, ((1000, 6),))
    assert rule.with_mode(0o640) == Rule(6, 4, 4, 0, ((1000, 6),))
    default = Rule(7, 5, 7, 5, ((1000, 6),))
    assert default.inherited(0o666) == Rule(6, 5, 6, 4, ((1000, 6),))
    assert default.inherited(0o777) == default
    assert Rule(7, 5, UNSET, 0).inherited(0o666).mode == 0o640


def test_no_entries_take_the_list_away() -> None:
    assert Rule.from_xattr(b"") is None
    assert Rule.from_xattr(xattr()) is None


@pytest.mark.parametrize(
    "value",
    [
        b"\x02",
        struct.pack("<I", 3),
        xattr((1, 7, NO_ID)) + b"\0",
        xattr((1, 7, NO_ID)),
        xattr((1, 8, NO_ID), (4, 5, NO_ID), (32, 4, NO_ID)),
        xattr((1, 7, NO_ID), (1, 7, NO_ID), (4, 5, NO_ID), (32, 4, NO_ID)),
        xattr((1, 7, NO_ID), (2, 7, 5), (4, 5, NO_ID), (32, 4, NO_ID)),
        xattr((1, 7, NO_ID), (2, 7, NO_ID), (4, 5, NO_ID), (16, 7, NO_ID), (32, 4, NO_ID)),
        xattr((1, 7, NO_ID), (2, 7, 5), (2, 7, 5), (4, 5, 0), (16, 7, NO_ID), (32, 4, NO_ID)),
        xattr((1, 7, NO_ID), (4, 5, NO_ID), (32, 4, NO_ID), (64, 4, NO_ID)),
    ],
)
def test_what_is_no_list(value: bytes) -> None:
    with pytest.raises(ValueError, match="ACL"):
        Rule.from_xattr(value)


def test_a_damaged_row_loses_only_what_is_not_whole() -> None:
    assert unpack_named(pack_named(((1, 7),)) + b"\0\0") == ((1, 7),)
