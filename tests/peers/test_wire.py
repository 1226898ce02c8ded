"""Frames: what goes in comes out however the stream is cut, and nothing else gets in."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import PeerProtocolError
from juicecache.model.segments import SEGMENT_BYTES, bounds, segment_count, segment_sums, touched
from juicecache.peers import wire
from juicecache.peers.wire import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    KEYS_MAX,
    PREFIX_BYTES,
    STRANGER_BYTES_MAX,
    Decoder,
    Frame,
    Get,
    Kind,
    Name,
    Part,
    Prefix,
    Put,
)

NAMED = [Kind.GET_MANY, Kind.HAS, Kind.WARM, Kind.EVICT]
NUMBERED = [Kind.MISS, Kind.BUSY, Kind.STEP]
WITH_BODY = [Kind.PUT, Kind.PART]
BODILESS = [kind for kind in Kind if kind not in WITH_BODY]

NAME_CHARS_MAX = 100
ASCII = st.characters(max_codepoint=127)
names = st.builds(
    Name, st.text(ASCII, min_size=1, max_size=NAME_CHARS_MAX), st.integers(1, BODY_BYTES_MAX)
)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
texts = st.text(max_size=20) | st.binary(max_size=20)
values = st.recursive(
    plain | texts,
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@st.composite
def requests(draw) -> Get:
    block = draw(names)
    start = draw(st.integers(0, block.length - 1))
    return Get(block, start, draw(st.integers(start + 1, block.length)), draw(st.booleans()))


@st.composite
def frames(draw) -> tuple[bytes, Frame]:
    """The bytes of a frame of any kind, and what a decoder makes of them."""
    kind = draw(st.sampled_from(Kind))
    body = draw(st.binary(max_size=300)) if kind in WITH_BODY else b""
    if kind == Kind.GET:
        wanted = draw(requests())
        head = wire.get(wanted.block, wanted.start, wanted.stop, cached=wanted.cached)
        header: list[Any] = [*wanted.block, *wanted[1:]]
    elif kind == Kind.GET_MANY:
        blocks = draw(st.lists(names, min_size=1, max_size=5))
        head = wire.get_many(blocks)
        header = [list(block) for block in blocks]
    elif kind == Kind.PUT:
        body = body or b"x"
        block = Name(draw(names).name, len(body))
        sums = segment_sums(memoryview(body))
        head = wire.put(block, sums)
        header = [*block, struct.pack(f"<{len(sums)}I", *sums)]
    elif kind == Kind.PART:
        header = [draw(st.integers(0, KEYS_MAX - 1)), draw(st.binary(max_size=12))]
        head = wire.part(header[0], header[1], len(body))
    else:
        header = [] if kind == Kind.LOADING else draw(st.lists(values, max_size=4))
        head = wire.frame(kind, header)
    return head + body, Frame(kind, header, bytearray(body))


def decoded(stream: bytes, cuts: Sequence[int], decoder: Decoder | None = None) -> list[Frame]:
    """Feed a stream in pieces that end at ``cuts``, every piece in a buffer that is used again."""
    decoder = decoder or Decoder()
    buffer = bytearray(len(stream))
    found = []
    for start, stop in pairwise([0, *sorted(cuts), len(stream)]):
        buffer[: stop - start] = stream[start:stop]
        with memoryview(buffer)[: stop - start] as chunk:
            found += decoder.feed(chunk)
        buffer[:] = bytes(len(buffer))
    return found


def raw_prefix(kind: int, header_bytes: int, body_bytes: int) -> bytes:
    return struct.pack("<2sBBIQ", b"JC", kind, 0, header_bytes, body_bytes)


# --------------------------------------------------------------------- round trips


@given(st.lists(frames(), min_size=1, max_size=5), st.data())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(sent, data) -> None:
    stream = b"".join(raw for raw, _ in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert decoded(stream, cuts) == [frame for _, frame in sent]


@given(st.lists(frames(), min_size=1, max_size=3))
def test_frames_may_come_byte_by_byte_or_all_at_once(sent) -> None:
    stream = b"".join(raw for raw, _ in sent)
    wanted = [frame for _, frame in sent]
    assert decoded(stream, range(1, len(stream))) == wanted
    assert decoded(stream, []) == wanted


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_makes_the_round_trip(kind: Kind) -> None:
    body = b"body" if kind in WITH_BODY else b""
    header = [] if kind == Kind.LOADING else ["text", 1, b"bytes"]
    (found,) = decoded(wire.frame(kind, header, len(body)) + body, [])
    assert found == Frame(kind, header, bytearray(body))


def test_a_frame_is_given_out_as_soon_as_its_last_byte_is_there() -> None:
    block = Name("a", 3)
    stream = wire.put(block, (7,)) + b"xyz"
    decoder = Decoder()
    assert not decoder.is_midway
    assert decoded(stream[:-1], [], decoder) == []
    assert decoder.is_midway
    assert [frame.body for frame in decoded(stream[-1:], [], decoder)] == [b"xyz"]
    assert not decoder.is_midway


def test_a_frame_without_header_and_body_is_its_prefix() -> None:
    assert len(wire.frame(Kind.PING)) == PREFIX_BYTES
    assert decoded(wire.frame(Kind.PING) * 3, []) == [Frame(Kind.PING, [], bytearray())] * 3


def test_a_body_belongs_to_its_frame_alone() -> None:
    stream = (wire.put(Name("a", 3), (7,)) + b"abc") * 2
    first, second = decoded(stream, [10])
    first.body[:] = b"xxx"
    assert second.body == b"abc"


@given(st.integers(1, 100), st.lists(st.integers(0, 300), max_size=6))
def test_a_body_that_is_skipped_leaves_the_next_frame_whole(size: int, cuts: list[int]) -> None:
    def accept(prefix: Prefix) -> None:
        if prefix.kind == Kind.PUT:
            decoder.skip_body()

    decoder = Decoder(accept)
    put = wire.put(Name("a", size), (7,)) + bytes(size)
    stream = put + wire.part(0, b"", 2) + b"ok" + put + wire.frame(Kind.PING)
    found = decoded(stream, [min(cut, len(stream)) for cut in cuts], decoder)
    assert [(frame.kind, bytes(frame.body)) for frame in found] == [
        (Kind.PUT, b""),
        (Kind.PART, b"ok"),
        (Kind.PUT, b""),
        (Kind.PING, b""),
    ]


def test_accept_is_asked_once_a_frame_before_its_header_is_there() -> None:
    asked: list[Prefix] = []
    head = wire.put(Name("a", 3), (7,))
    stream = (head + b"abc") * 2
    decoder = Decoder(asked.append)
    decoded(stream[:PREFIX_BYTES], range(1, PREFIX_BYTES), decoder)
    prefix = Prefix(Kind.PUT, len(head) - PREFIX_BYTES, 3)
    assert asked == [prefix]
    assert len(decoded(stream[PREFIX_BYTES:], range(1, len(stream) - PREFIX_BYTES), decoder)) == 2
    assert asked == [prefix] * 2


def test_what_accept_refuses_is_refused_at_its_prefix() -> None:
    def accept(prefix: Prefix) -> None:
        raise PeerProtocolError(f"no {prefix.kind.name} now")

    decoder = Decoder(accept)
    prefix = memoryview(raw_prefix(Kind.GET_MANY, HEADER_BYTES_MAX, 0))
    assert list(decoder.feed(prefix[:-1])) == []
    with pytest.raises(PeerProtocolError, match="no GET_MANY now"):
        list(decoder.feed(prefix[-1:]))


# --------------------------------------------------------------------- what readers read


@given(requests())
def test_get(wanted: Get) -> None:
    (frame,) = decoded(wire.get(*wanted[:3], cached=wanted.cached), [])
    assert wire.read_get(frame.header) == wanted


@given(st.sampled_from(NAMED), st.lists(names, min_size=1, max_size=20))
def test_names(kind: Kind, blocks: list[Name]) -> None:
    (frame,) = decoded(wire.frame(kind, blocks), [])
    assert wire.read_names(kind, frame.header) == blocks


def test_as_many_names_as_a_request_may_have_fit_into_its_header() -> None:
    blocks = [Name(f"{n:x>{NAME_CHARS_MAX}}", BODY_BYTES_MAX) for n in range(KEYS_MAX)]
    (frame,) = decoded(wire.get_many(blocks), [])
    assert wire.read_names(Kind.GET_MANY, frame.header) == blocks
    with pytest.raises(PeerProtocolError):
        wire.read_names(Kind.GET_MANY, [*frame.header, frame.header[0]])


@given(names)
def test_report(block: Name) -> None:
    (frame,) = decoded(wire.frame(Kind.REPORT, block), [])
    assert wire.read_report(frame.header) == block


@given(st.integers(1, BODY_BYTES_MAX), st.randoms(use_true_random=False))
def test_put_has_a_checksum_a_segment(length: int, rng: random.Random) -> None:
    sums = tuple(rng.getrandbits(32) for _ in range(segment_count(length)))
    block = Name("a", length)
    raw = wire.put(block, sums)
    prefix = wire.parse_prefix(raw)
    header = wire.parse_header(raw[PREFIX_BYTES:])
    assert prefix == (Kind.PUT, len(raw) - PREFIX_BYTES, length)
    assert wire.read_put(header, prefix.body_bytes) == Put(block, sums)
    for wrong in (length - 1, length + 1, 0):
        with pytest.raises(PeerProtocolError):
            wire.read_put(header, wrong)
    with pytest.raises(PeerProtocolError):
        wire.read_put([*header[:2], header[2] + bytes(4)], length)


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_part_has_the_segments_around_what_was_asked_for(asked: list[Get], data) -> None:
    wanted = [(one.block.length, one.start, one.stop) for one in asked]
    number = data.draw(st.integers(0, len(asked) - 1))
    length, start, stop = wanted[number]
    segments = touched(start, stop)
    first, last = bounds(segments, length)
    sums = tuple(range(len(segments)))
    raw = wire.part(number, struct.pack(f"<{len(sums)}I", *sums), last - first)
    header = wire.parse_header(raw[PREFIX_BYTES:])
    assert wire.read_part(header, wanted) == (Part(number, sums), last - first)
    assert first <= start < stop <= last <= length
    for wrong in ([len(wanted), header[1]], [-1, header[1]], [number, header[1] + bytes(4)]):
        with pytest.raises(PeerProtocolError):
            wire.read_part(wrong, wanted)


@pytest.mark.parametrize("segments", [1, 2, 63, 64, 65, segment_count(BODY_BYTES_MAX)])
def test_a_part_begins_as_is_expected(segments: int) -> None:
    sums, size = os.urandom(4 * segments), segments * SEGMENT_BYTES - 1
    assert wire.part(0, sums, size) == wire.part_head(segments, size) + sums


@pytest.mark.parametrize("kind", NUMBERED)
def test_number(kind: Kind) -> None:
    assert wire.read_number(kind, [], 1) == 0
    assert [wire.read_number(kind, [n], 3) for n in range(3)] == [0, 1, 2]
    for wrong in ([3], [-1], [True], [1.0], ["1"], [None], [[1]]):
        with pytest.raises(PeerProtocolError):
            wire.read_number(kind, wrong, 3)


def test_an_answer_of_many_that_names_none_is_refused() -> None:
    with pytest.raises(PeerProtocolError):
        wire.read_number(Kind.MISS, [], 2)


# --------------------------------------------------------------------- what readers refuse


WANTED = [(3 * SEGMENT_BYTES + 1, 0, 3 * SEGMENT_BYTES + 1), (100, 0, 50), (SEGMENT_BYTES, 7, 8)]


def read_again(kind: Kind, header: list[Any], body_bytes: int) -> list[Any] | None:
    """Read a header and return it made anew from what was read; None where nothing reads it."""
    if kind == Kind.GET:
        get = wire.read_get(header)
        assert 0 <= get.start < get.stop <= get.block.length <= BODY_BYTES_MAX
        return [*get.block, *get[1:]]
    if kind in NAMED:
        return [list(name) for name in wire.read_names(kind, header)]
    if kind == Kind.REPORT:
        return [*wire.read_report(header)]
    if kind == Kind.PUT:
        put = wire.read_put(header, body_bytes)
        assert put.block.length == body_bytes
        return [*put.block, struct.pack(f"<{len(put.sums)}I", *put.sums)]
    if kind == Kind.PART:
        part, size = wire.read_part(header, WANTED)
        assert 0 < size <= WANTED[part.number][0]
        return [part.number, struct.pack(f"<{len(part.sums)}I", *part.sums)]
    if kind in NUMBERED:
        return [wire.read_number(kind, header, 3), *header[1:]]
    return None


READ = [Kind.GET, *NAMED, Kind.REPORT, *WITH_BODY, *NUMBERED]


def read_or_refuse(kind: Kind, header: list[Any], body_bytes: int = 0) -> bool:
    """Return whether a header is read, and then to the last bit; nothing but a refusal else."""
    try:
        again = read_again(kind, header, body_bytes)
    except PeerProtocolError:
        return False
    assert again is None or msgpack.packb(again) == msgpack.packb(header)
    return True


@given(st.sampled_from(READ), values, st.integers(0, 200))
def test_readers_refuse_any_other_header(kind: Kind, value: Any, body_bytes: int) -> None:
    raw = msgpack.packb(value)
    if isinstance(value, list):
        read_or_refuse(kind, wire.parse_header(raw), body_bytes)
    else:
        with pytest.raises(PeerProtocolError, match="not an array"):
            wire.parse_header(raw)


RIGHT: dict[Kind, list[Any]] = {
    Kind.GET: ["a", 100, 0, 50, False],
    **{kind: [["a", 100], ["b", 1]] for kind in NAMED},
    Kind.REPORT: ["a", 100],
    Kind.PUT: ["a", 100, b"sums"],
    Kind.PART: [1, b"sums"],
}


@given(st.sampled_from(list(RIGHT)), st.data())
def test_readers_refuse_a_header_with_one_thing_wrong(kind: Kind, data) -> None:
    header = list(RIGHT[kind])
    assert read_or_refuse(kind, header, 100)
    at = data.draw(st.integers(0, len(header) - 1))
    what = data.draw(st.sampled_from(["replace", "remove", "insert"]))
    if what != "insert":
        del header[at]
    if what != "remove":
        header.insert(at, data.draw(values))
    read_or_refuse(kind, header, 100)


@pytest.mark.parametrize(
    "header",
    [
        [],
        ["a", 100, 0, 50],
        ["a", 100, 0, 50, False, 0],
        ["", 100, 0, 50, False],
        ["x" * (NAME_CHARS_MAX + 1), 100, 0, 50, False],
        ["ü", 100, 0, 50, False],
        [b"a", 100, 0, 50, False],
        ["a", 0, 0, 0, False],
        ["a", -1, -3, -2, False],
        ["a", BODY_BYTES_MAX + 1, 0, 1, False],
        ["a", 2**64 - 1, 0, 1, False],
        ["a", 100.0, 0, 50, False],
        ["a", True, 0, 1, False],
        ["a", 100, -1, 50, False],
        ["a", 100, 50, 50, False],
        ["a", 100, 51, 50, False],
        ["a", 100, 0, 101, False],
        ["a", 100, False, 50, False],
        ["a", 100, 0, True, False],
        ["a", 100, 0.0, 50, False],
        ["a", 100, 0, 50, 0],
        ["a", 100, 0, 50, None],
    ],
)
def test_get_refuses(header: list[Any]) -> None:
    with pytest.raises(PeerProtocolError, match="a GET does not have its form"):
        wire.read_get(header)


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize(
    "header", [[], ["a", 1], [["a"]], [["a", 1, 1]], [["a", 1], ["b", 0]], [{"a": 1, "b": 2}], [[]]]
)
def test_names_refuse(kind: Kind, header: list[Any]) -> None:
    with pytest.raises(PeerProtocolError, match=f"a {kind.name} does not have its form"):
        wire.read_names(kind, header)


# --------------------------------------------------------------------- limits


def peak_of(call: Callable[[], object]) -> int:
    """Return the bytes that a call had at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(stream: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decoded(stream, [])


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("header_bytes", "body_bytes"),
    [
        (0, 2**63),
        (0, 2**64 - 1),
        (0, BODY_BYTES_MAX + 1),
        (2**32 - 1, 0),
        (HEADER_BYTES_MAX + 1, 0),
    ],
)
def test_too_long_a_frame_is_refused_before_anything_is_allocated(
    kind: Kind, header_bytes: int, body_bytes: int
) -> None:
    raw = raw_prefix(kind, header_bytes, body_bytes)
    assert peak_of(lambda: refused(raw)) < 64 * 1024


@pytest.mark.parametrize("kind", Kind)
def test_limits_of_a_kind(kind: Kind) -> None:
    header_max = STRANGER_BYTES_MAX if kind <= Kind.REFUSED else HEADER_BYTES_MAX
    header_max = 0 if kind == Kind.LOADING else header_max
    body_max = BODY_BYTES_MAX if kind in WITH_BODY else 0
    found = wire.parse_prefix(raw_prefix(kind, header_max, body_max))
    assert found == (kind, header_max, body_max)
    for header_bytes, body_bytes in ((header_max + 1, body_max), (header_max, body_max + 1)):
        with pytest.raises(PeerProtocolError, match=f"too long for a {kind.name}"):
            wire.parse_prefix(raw_prefix(kind, header_bytes, body_bytes))


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * PREFIX_BYTES,
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(5),
        struct.pack("<2sBBIQ", b"JC", Kind.PING, 1, 0, 0),
        struct.pack("<2sBBIQ", b"CJ", Kind.PING, 0, 0, 0),
        *(raw_prefix(kind, 0, 0) for kind in range(256) if kind not in set(Kind)),
    ],
)
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="no frame of this protocol"):
        wire.parse_prefix(raw)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


UNREADABLE = {
    "an array of 2^32": b"\xdd\xff\xff\xff\xff",
    "an array longer than the rest": b"\x91\xdc\xff\xff" + b"\x01" * 1000,
    "an array of more than a request may name": b"\xdc\x02\x01" + b"\xc0" * 513,
    "a map of more than that": b"\x91\xde\x02\x01"
    + b"".join(b"\xd9\x02%02x\xc0" % (n % 256) for n in range(300)),
    "a map of 2^32": b"\x91\xdf\xff\xff\xff\xff" + b"\xa1a" * 10,
    "a text of 2^32": b"\x91\xdb\xff\xff\xff\xff" + b"a" * 10,
    "bytes of 2^32": b"\x91\xc6\xff\xff\xff\xff" + b"a" * 10,
    "an extension of 2^32": b"\x91\xc9\xff\xff\xff\xff\x01" + b"a" * 10,
    "an extension": b"\x91\xd4\x01\x00",
    "an empty extension": b"\x91\xc7\x00\x01",
    "a timestamp of 4 bytes": b"\x91\xd6\xff\x00\x00\x00\x00",
    "a timestamp of 8 bytes": b"\x91\xd7\xff" + bytes(8),
    "a timestamp of 12 bytes": b"\x91\xc7\x0c\xff" + bytes(12),
    "an empty timestamp": b"\x91\xc7\x00\xff",
    "a key twice": b"\x91\x82\xa1a\x01\xa1a\x02",
    "a number as key": b"\x91\x81\x01\x01",
    "bytes as key": b"\x91\x81\xc4\x01a\x01",
    "an array as key": b"\x91\x81\x91\x01\x01",
    "a map as key": b"\x91\x81\x80\x01",
    "invalid UTF-8": b"\x91\xa2\xff\xfe",
    "a surrogate": b"\x91\xa3\xed\xa0\x80",
    "a key in invalid UTF-8": b"\x91\x81\xa1\xff\x01",
    "the byte that msgpack never uses": b"\x91\xc1",
    "two values": b"\x90\x90",
    "half a value": b"\x92\x01",
    "much too deep": nested(STRANGER_BYTES_MAX - 1),
    "much too deep in maps": b"\x91" + b"\x81\xa1a" * 600 + b"\x91" * 100 + b"\xc1",
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_a_header_that_is_not_plain_is_refused_in_little_memory(raw: bytes) -> None:
    # As a stranger sends it, who is not to be given more than a small multiple of what he sent.
    head = raw_prefix(Kind.HELLO, len(raw), 0) + raw
    assert peak_of(lambda: refused(head)) < 512 * 1024


@pytest.mark.parametrize(
    ("begun", "rest"), [(b"\xdc", b""), (b"\xdd\0\0", b""), (b"\xde", b"\xa1a")], ids=str
)
@pytest.mark.parametrize("claimed", [KEYS_MAX - 1, KEYS_MAX, HEADER_BYTES_MAX // 3 - 1, 0xFFFF])
def test_what_begins_in_each_other_and_claims_much_gets_little(
    begun: bytes, rest: bytes, claimed: int
) -> None:
    # What msgpack allows alone: 1,024 arrays that claim 65,536 items each, 512 MiB in all.
    raw = (begun + claimed.to_bytes(2, "big") + rest) * HEADER_BYTES_MAX
    head = raw_prefix(Kind.STATS, HEADER_BYTES_MAX, 0) + raw[:HEADER_BYTES_MAX]
    assert peak_of(lambda: refused(head)) < 5 << 20


def test_a_header_of_empty_arrays_costs_a_bounded_multiple_of_it() -> None:
    inner = b"\xdc\x00\x7c" + b"\x90" * 124
    raw = b"\xdc\x01\xfe" + inner * 510
    head = raw_prefix(Kind.GET_MANY, len(raw), 0)
    assert peak_of(lambda: decoded(head + raw, [])) < 128 * HEADER_BYTES_MAX


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("depth", [2, 500, 1000])
def test_readers_refuse_deep_headers(kind: Kind, depth: int) -> None:
    assert not read_or_refuse(kind, wire.parse_header(nested(depth)))


def test_a_decoder_that_refused_a_stream_refuses_all_of_the_rest() -> None:
    decoder = Decoder()
    bad = raw_prefix(Kind.HELLO, 1, 0) + b"\xc1"
    for raw in (bad, wire.frame(Kind.PING), b"x"):
        with pytest.raises(PeerProtocolError):
            list(decoder.feed(memoryview(raw)))


# --------------------------------------------------------------------- fuzz


INPUTS = 100_000
_EDGES = [0, 1, 2, 15, 16, 17, 255, 2048, 2049, 65535, 65536, 2**24, 2**24 + 1, 2**32 - 1]
_LENGTHS = [*_EDGES, 2**32, 2**63, 2**64 - 1]
_BAD = [raw[1:] for raw in UNREADABLE.values() if len(raw) < 40] + [b"\xdc\x02\x00" * 50]


def valid_frames() -> list[bytes]:
    """At least one frame of every kind, bodies included."""
    blocks = [Name("chunks/0/0/1_0_100", 100), Name("b", 1), Name("ä" * 40, 70000)]
    content = bytes(range(100))
    large = bytes(70000)
    sums = segment_sums(memoryview(content))
    packed = struct.pack("<1I", *sums)
    about = {"name": "n1", "host": "::1", "port": 1234, "weight": 7, "backup": False}
    made = [
        wire.frame(Kind.HELLO, [1, 1, "volume", "group", bytes(32)]),
        wire.frame(Kind.CHALLENGE, [1, bytes(32)]),
        wire.frame(Kind.PROOF, [bytes(32)]),
        wire.frame(Kind.WELCOME, [bytes(32), about]),
        wire.frame(Kind.REFUSED, ["denied", "why"]),
        wire.get(blocks[0], 3, 77),
        wire.get(blocks[2], 0, 70000, cached=True),
        wire.get_many(blocks),
        wire.put(blocks[0], sums) + content,
        wire.put(blocks[2], segment_sums(memoryview(large))) + large,
        wire.frame(Kind.HAS, blocks),
        wire.frame(Kind.WARM, blocks),
        wire.frame(Kind.EVICT, blocks[:1]),
        wire.frame(Kind.STATS),
        wire.frame(Kind.REPORT, blocks[1]),
        wire.frame(Kind.PING),
        wire.part(1, packed, len(content)) + content,
        wire.frame(Kind.MISS, [2]),
        wire.frame(Kind.LOADING),
        wire.frame(Kind.BUSY),
        wire.frame(Kind.STEP, [0, 1]),
        wire.frame(Kind.DONE, [{"hits": 1, "states": ["ok"], "ratio": 0.5}]),
    ]
    assert {raw[2] for raw in made} == set(Kind)
    assert decoded(b"".join(made), [])
    return made


def mutated(rng: random.Random, whole: list[bytes]) -> bytes:
    """Return a valid frame, or two, with one to three things done to them."""
    raw = bytearray(rng.choice(whole))
    for _ in range(rng.randint(1, 3)):
        # Most of it near the start: the forms are there, and a body is only bytes.
        at = rng.randrange(min(len(raw), 120) or 1)
        stop = at + rng.randint(1, 24)
        what = rng.randrange(8)
        if what == 0 and raw:
            raw[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del raw[at:]
        elif what == 2:
            del raw[at:stop]
        elif what == 3:
            raw[at:at] = raw[at:stop]
        elif what == 4:
            raw[at:] = rng.choice(whole)[at:]
        elif what == 5:
            raw += rng.choice(whole)[:200]
        elif what == 6 and len(raw) >= PREFIX_BYTES:
            mutate_sizes(rng, raw)
        elif len(raw) > PREFIX_BYTES:
            mutate_header(rng, raw)
    return bytes(raw)


def mutate_sizes(rng: random.Random, raw: bytearray) -> None:
    header_bytes, body_bytes = struct.unpack_from("<IQ", raw, 4)
    if rng.random() < 0.5:
        header_bytes = rng.choice([*_EDGES, header_bytes + 1, header_bytes - 1])
    else:
        body_bytes = rng.choice([*_LENGTHS, body_bytes + 1, body_bytes - 1])
    struct.pack_into("<IQ", raw, 4, header_bytes % 2**32, body_bytes % 2**64)


def mutate_header(rng: random.Random, raw: bytearray) -> None:
    """Put a bad value into the header, and make its size right, so that it is read at all."""
    (size,) = struct.unpack_from("<I", raw, 4)
    at = PREFIX_BYTES + rng.randrange(min(len(raw) - PREFIX_BYTES, size or 1))
    bad = rng.choice(_BAD)
    raw[at : at + 1] = bad
    struct.pack_into("<I", raw, 4, min(size + len(bad) - 1, 2**32 - 1))


def noise(rng: random.Random) -> bytes:
    """Return a frame of noise, or only noise."""
    content = rng.randbytes(rng.randrange(120))
    if rng.random() < 0.3:
        return content
    kind = rng.choice(list(Kind))
    body = rng.randrange(1, 200) if kind in WITH_BODY else 0
    if rng.random() < 0.5:
        content = bytes([0x90 + rng.randrange(6)]) + content
    return raw_prefix(kind, len(content), body) + content + bytes(body)


def survive(stream: bytes, rng: random.Random) -> tuple[int, int]:
    """Return how many frames came out, and how many of them were read."""
    decoder = Decoder()
    cut = rng.randrange(len(stream) + 1)
    came = read = 0
    try:
        for piece in (stream[:cut], stream[cut:]):
            for frame in decoder.feed(memoryview(piece)):
                came += 1
                read += read_or_refuse(frame.kind, frame.header, len(frame.body))
    except PeerProtocolError:
        pass
    return came, read


def test_no_stream_does_more_than_be_refused() -> None:
    rng = random.Random(4)
    whole = valid_frames()
    came = read = 0
    for number in range(INPUTS):
        stream = mutated(rng, whole) if number % 4 else noise(rng)
        frames_here, read_here = survive(stream, rng)
        assert frames_here <= len(stream) // PREFIX_BYTES
        came += frames_here
        read += read_here
    # It got through all floors: to the decoder's refusals, the readers' and past both.
    assert INPUTS // 10 < came < INPUTS
    assert INPUTS // 20 < read < came


def test_no_stream_takes_more_memory_than_a_body_or_leaves_any() -> None:
    rng = random.Random(5)
    whole = valid_frames()
    streams = [mutated(rng, whole) if n % 4 else noise(rng) for n in range(3000)]

    def survive_all() -> None:
        for stream in streams:
            survive(stream, rng)

    survive_all()  # what is made once, such as texts of errors and caches, is there now
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        survive_all()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < BODY_BYTES_MAX + (1 << 20)
    assert after - before < 64 * 1024
