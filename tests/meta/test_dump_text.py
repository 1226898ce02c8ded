"""How values stand in a dump, and that what cannot be is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import VolumeFormatError
from juicecache.meta.dump.text import (
    attr_text,
    chunks_text,
    escape,
    parse_attr,
    parse_chunks,
    parse_rule,
    parse_xattrs,
    rule_text,
    unescape,
)
from juicecache.model.acl import UNSET, Rule
from juicecache.model.attr import DIRECTORY_LENGTH, Attr, NodeType
from juicecache.model.slices import SliceRecord


@given(st.binary(max_size=40))
def test_any_bytes_come_back_through_json(value: bytes) -> None:
    text = escape(value)
    assert json.loads(f'"{text}"') == text  # it needs no escape of JSON
    assert unescape(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        ("grün".encode(), "grün"),
        (b'a"b\\c%d\n', "a%22b%5Cc%25d%0A"),
        (b"bad\xff\xfe", "bad%FF%FE"),
        (b"\xed\xa0\x80", "%ED%A0%80"),
        ("\ufffd".encode(), "%EF%BF%BD"),
    ],
)
def test_the_form_of_escapes_is_the_official_one(value: bytes, text: str) -> None:
    assert escape(value) == text


def test_what_looks_like_no_escape_is_kept() -> None:
    assert unescape("100%") == b"100%"
    assert unescape("%zz%4") == b"%zz%4"


times = st.integers(0, 4 * 10**18)
attrs = st.builds(
    Attr,
    inode=st.integers(2, 2**62),
    type=st.just(NodeType.FILE),
    flags=st.integers(0, 255),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    atime_ns=times,
    mtime_ns=times,
    ctime_ns=times,
    nlink=st.integers(0, 2**32 - 1),
    length=st.integers(0, 2**63 - 1),
    rdev=st.integers(0, 2**32 - 1),
    tier=st.integers(0, 255),
    parent=st.just(0),
    access_acl=st.just(0),
    default_acl=st.just(0),
)


@given(attrs)
def test_attributes_come_back(attr: Attr) -> None:
    assert parse_attr(json.loads(attr_text(attr)), 0) == attr


@pytest.mark.parametrize("kind", [kind for kind in NodeType if kind != NodeType.FILE])
def test_only_files_have_a_length_of_their_own(kind: NodeType) -> None:
    attr = Attr(5, kind, length=77)
    found = parse_attr(json.loads(attr_text(attr)), 9)
    lengths = {NodeType.DIRECTORY: DIRECTORY_LENGTH, NodeType.SYMLINK: 9}
    assert found.length == lengths.get(kind, 9)


def test_slice_lists_come_back() -> None:
    first = SliceRecord(0, 5, 10, 0, 10).pack() + SliceRecord(3, 6, 9, 2, 7).pack()
    hole = SliceRecord(0, 0, 0, 0, 1 << 26).pack()
    for chunks in ([(0, first)], [(0, first), (7, hole)]):
        assert parse_chunks(json.loads(chunks_text(chunks, "  "))) == chunks


def test_slices_of_old_clients_are_read() -> None:
    old = [{"index": 0, "slices": [{"chunkid": 5, "size": 10, "len": 10}]}]
    assert parse_chunks(old) == [(0, SliceRecord(0, 5, 10, 0, 10).pack())]


def test_lists_of_rights_come_back() -> None:
    rule = Rule(7, 5, UNSET, 4, ((3, 7), (1000, 5)), ())
    assert parse_rule(json.loads(rule_text(rule))) == rule


GOOD: dict[str, Any] = {"inode": 5, "type": "regular", "length": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"inode": 0},
        {"inode": -1},
        {"inode": 2**63},
        {"inode": True},
        {"inode": "5"},
        {"type": "regularly"},
        {"length": -1},
        {"mode": 0o10000},
        {"mtime": 2**62},
        {"mtimensec": 10**9},
        {"uid": 2**32},
    ],
)
def test_attributes_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(VolumeFormatError):
        parse_attr(GOOD | wrong, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": 0, "slices": [{"id": 5, "size": 10, "len": 11}]},
        {"index": 0, "slices": [{"id": 5, "size": 10, "off": 5, "len": 6}]},
        {"index": 0, "slices": [{"id": 5, "size": 10, "pos": 1 << 26, "len": 1}]},
        {"index": 0, "slices": [{"id": 0, "size": 0, "pos": 1, "len": 1 << 26}]},
        {"index": 2**32, "slices": [{"id": 5, "size": 10, "len": 1}]},
        {"index": 0, "slices": {"id": 5}},
        [],
    ],
)
def test_slices_that_cannot_be_are_refused(wrong: Any) -> None:
    with pytest.raises(VolumeFormatError):
        parse_chunks([wrong])


@pytest.mark.parametrize("wrong", [5, {"name": "x"}, [5], [{"name": 5, "value": "x"}]])
def test_attributes_of_users_that_cannot_be_are_refused(wrong: Any) -> None:
    with pytest.raises(VolumeFormatError):
        parse_xattrs(wrong)
