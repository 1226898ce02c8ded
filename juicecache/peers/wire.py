"""The form of what peers send each other, as pure code: no socket, no clock.

::

    frame    "JC", kind (u8), 0 (u8), bytes of the header (u32), bytes of the body (u64);
             little-endian; then the header, a msgpack array, and the body, raw
    part     the bytes of whole segments of a block; its header carries the CRC-32C of each,
             as they stand in the file of the block: the sender does not compute them

A connection carries one request at a time. Its answer is one frame, or several that end with
a `Kind.DONE`; `Kind.LOADING` may come any number of times before each of them: the owner is
alive and waits for object storage.

Laws: every size is checked against a limit before anything of that size is allocated; a frame
that does not fit its kind is a `PeerProtocolError`, whatever is wrong with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

import msgpack

from juicecache.errors import PeerProtocolError
from juicecache.model.layout import BLOCK_KIB_MAX
from juicecache.model.segments import bounds, pack_sums, segment_count, touched, unpack_sums

VERSIONS = (1, 1)
"""Lowest and highest version of the protocol that this code speaks."""

PREFIX = struct.Struct("<2sBBIQ")
PREFIX_BYTES = PREFIX.size
_MAGIC = b"JC"

BODY_BYTES_MAX = BLOCK_KIB_MAX << 10
"""The largest block of the format."""
HEADER_BYTES_MAX = 64 * 1024
"""Room for `KEYS_MAX` keys, whatever their names, and for what members say of themselves."""
STRANGER_BYTES_MAX = 2048
"""A header before the handshake is done: names and nonces."""
KEYS_MAX = 512
"""Blocks that one request names; no array or map in a header has more items. For each of those
that begin, msgpack allocates what they claim to have, and up to 1,024 may begin in each other:
4 MiB at most, for a moment."""
_NAME_CHARS_MAX = 100
"""Of ASCII, so as many bytes: blocks' names have about thirty. An array, a name and a length take
eight bytes more at most, and `KEYS_MAX` of them are less than `HEADER_BYTES_MAX`."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REFUSED = 5
    GET = 16
    GET_MANY = 17
    PUT = 18
    HAS = 19
    WARM = 20
    EVICT = 21
    STATS = 22
    REPORT = 23
    PING = 24
    PART = 32
    MISS = 33
    LOADING = 34
    BUSY = 35
    STEP = 36
    DONE = 37


_WITH_BODY = frozenset([Kind.PUT, Kind.PART])


def _header_bytes_max(kind: Kind) -> int:
    if kind == Kind.LOADING:
        return 0
    return STRANGER_BYTES_MAX if kind <= Kind.REFUSED else HEADER_BYTES_MAX


_KINDS = {
    int(kind): (kind, _header_bytes_max(kind), BODY_BYTES_MAX if kind in _WITH_BODY else 0)
    for kind in Kind
}
"""Each kind, and what its header and its body may have."""


class Prefix(NamedTuple):
    """The first bytes of a frame."""

    kind: Kind
    header_bytes: int
    body_bytes: int


class Frame(NamedTuple):
    """A whole frame; ``body`` is ours alone."""

    kind: Kind
    header: list[Any]
    body: bytearray


class Name(NamedTuple):
    """A block inside the namespace that the connection is for."""

    name: str
    length: int


class Get(NamedTuple):
    """A request for bytes ``[start, stop)`` of a block; ``cached`` asks for no load."""

    block: Name
    start: int
    stop: int
    cached: bool


class Put(NamedTuple):
    """A whole block for its owner, with the checksums of its segments."""

    block: Name
    sums: tuple[int, ...]


class Part(NamedTuple):
    """Which of the requested blocks a part is of, and the checksums of its segments."""

    number: int
    sums: tuple[int, ...]


# --------------------------------------------------------------------- out


def frame(kind: Kind, header: Sequence[Any] = (), body_bytes: int = 0) -> bytes:
    """Return a frame as far as its body, of ``body_bytes``, which the caller sends behind it."""
    packed = msgpack.packb(header) if header else b""
    return PREFIX.pack(_MAGIC, kind, 0, len(packed), body_bytes) + packed


def get(block: Name, start: int, stop: int, *, cached: bool = False) -> bytes:
    """Return a request for bytes ``[start, stop)`` of a block."""
    return frame(Kind.GET, (*block, start, stop, cached))


def get_many(blocks: Sequence[Name]) -> bytes:
    """Return a request for whole blocks, which come as they are ready."""
    return frame(Kind.GET_MANY, blocks)


def put(block: Name, sums: tuple[int, ...]) -> bytes:
    """Return the request to keep a block, up to its body."""
    return frame(Kind.PUT, (*block, pack_sums(sums)), block.length)


def part(number: int, sums: bytes, body_bytes: int) -> bytes:
    """Return the answer with bytes of block ``number`` of the request, up to its body."""
    return frame(Kind.PART, (number, sums), body_bytes)


def part_head(segments: int, body_bytes: int) -> bytes:
    """Return what the answer to a GET of so many segments begins with: all but their checksums.

    These, four bytes each, stand between it and the body.
    """
    before, behind = _part_form(segments)
    return before + body_bytes.to_bytes(8, "little") + behind


@cache
def _part_form(segments: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind the size of the body in such an answer."""
    head = part(0, bytes(4 * segments), 0)
    return head[: PREFIX_BYTES - 8], head[PREFIX_BYTES : len(head) - 4 * segments]


# --------------------------------------------------------------------- in


def parse_prefix(raw: bytes | bytearray | memoryview) -> Prefix:
    """Return what the first `PREFIX_BYTES` of a frame say, checked against the limits.

    Raises
    ------
    PeerProtocolError
    """
    magic, number, zero, header_bytes, body_bytes = PREFIX.unpack_from(raw)
    known = _KINDS.get(number)
    if magic != _MAGIC or zero or known is None:
        raise PeerProtocolError("what it sent is no frame of this protocol")
    kind, header_max, body_max = known
    if header_bytes > header_max:
        raise PeerProtocolError(f"a header of {header_bytes} bytes is too long for a {kind.name}")
    if body_bytes > body_max:
        raise PeerProtocolError(f"a body of {body_bytes} bytes is too long for a {kind.name}")
    return Prefix(kind, header_bytes, body_bytes)


def parse_header(raw: bytes | bytearray | memoryview) -> list[Any]:
    """Return the array in a header: numbers, texts, bytes, arrays, and maps with texts as keys.

    Raises
    ------
    PeerProtocolError
        It is something else, has a key twice, more than `KEYS_MAX` items in one of them, or is
        deeper than the 1,024 levels of msgpack.
    """
    if not len(raw):
        return []
    try:
        # A limit of 0 lets empty extensions pass, and the hook timestamps: it takes both.
        header = msgpack.unpackb(
            raw,
            object_pairs_hook=_text_map,
            max_array_len=KEYS_MAX,
            max_map_len=KEYS_MAX,
            max_ext_len=0,
            ext_hook=_no_extension,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise PeerProtocolError(f"a header cannot be read: {type(error).__name__}") from None
    if not isinstance(header, list):
        raise PeerProtocolError("a header is not an array")
    return header


def _no_extension(code: int, content: bytes) -> Any:
    raise ValueError("an extension")


def _text_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or not all(type(key) is str for key in found):
        raise ValueError("keys are texts, and differ")
    return found


class Decoder:
    """Cuts a stream into frames; at most one header, one body and one buffer are held.

    Parameters
    ----------
    accept
        Called once with each prefix, before its header is collected and anything is allocated;
        raises what it will not have.
    """

    def __init__(self, accept: Callable[[Prefix], None] = lambda prefix: None) -> None:
        self._accept = accept
        self._head = bytearray()
        self._prefix: Prefix | None = None
        self._header: list[Any] | None = None
        self._body = bytearray()
        self._filled = 0
        self._skips = False

    @property
    def is_midway(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._prefix is not None or len(self._head) > 0

    def skip_body(self) -> None:
        """Let the body of the frame that ``accept`` is called for pass; its frame has none."""
        self._skips = True

    def feed(self, chunk: memoryview) -> Iterator[Frame]:
        """Iterate over the frames that end in ``chunk``; the iterator must be read to its end.

        Raises
        ------
        PeerProtocolError
            The stream cannot be understood from here on.
        """
        at = 0
        while at < len(chunk):
            whole = None if self.is_midway else self._whole(chunk, at)
            if whole is not None:
                at, received = whole
                yield received
                continue
            at = self._take(chunk, at)
            prefix, header = self._prefix, self._header
            if prefix is None or header is None or self._filled < prefix.body_bytes:
                return
            done = Frame(prefix.kind, header, self._body)
            self._prefix, self._header, self._body, self._filled = None, None, bytearray(), 0
            self._skips = False
            yield done

    def _whole(self, chunk: memoryview, at: int) -> tuple[int, Frame] | None:
        """Return where the frame at ``at`` ends, and it, if all of it is there and it has no body.

        So do nearly all requests arrive; this is the short way for them.
        """
        first = at + PREFIX_BYTES
        if len(chunk) < first:
            return None
        try:
            prefix = parse_prefix(chunk[at:])
            stop = first + prefix.header_bytes
            if prefix.body_bytes or stop > len(chunk):
                return None
            self._accept(prefix)
            header = parse_header(chunk[first:stop])
        except PeerProtocolError:
            return None  # the long way meets it again, and stays there
        return stop, Frame(prefix.kind, header, bytearray())

    def _take(self, chunk: memoryview, at: int) -> int:
        """Take bytes of one frame from ``chunk``; return where the rest begins."""
        if self._prefix is None:
            at = self._fill_head(chunk, at, PREFIX_BYTES)
            if len(self._head) < PREFIX_BYTES:
                return at
            found = parse_prefix(self._head)
            self._accept(found)
            self._prefix = found
        if self._header is None:
            wanted = PREFIX_BYTES + self._prefix.header_bytes
            at = self._fill_head(chunk, at, wanted)
            if len(self._head) < wanted:
                return at
            self._header = parse_header(memoryview(self._head)[PREFIX_BYTES:])
            self._head = bytearray()
            self._body = bytearray(0 if self._skips else self._prefix.body_bytes)
        size = min(self._prefix.body_bytes - self._filled, len(chunk) - at)
        if not self._skips:
            self._body[self._filled : self._filled + size] = chunk[at : at + size]
        self._filled += size
        return at + size

    def _fill_head(self, chunk: memoryview, at: int, wanted: int) -> int:
        size = max(0, min(wanted - len(self._head), len(chunk) - at))
        self._head += chunk[at : at + size]
        return at + size


def read_get(header: Sequence[Any]) -> Get:
    """Return the request in the header of a GET."""
    _check(len(header) == 5, Kind.GET)
    name, length, start, stop, cached = header
    block = _block(name, length, Kind.GET)
    _check(type(start) is int and type(stop) is int and type(cached) is bool, Kind.GET)
    _check(0 <= start < stop <= length, Kind.GET)
    return Get(block, start, stop, cached)


def read_names(kind: Kind, header: Sequence[Any]) -> list[Name]:
    """Return the blocks in the header of a GET_MANY, HAS, WARM or EVICT."""
    _check(0 < len(header) <= KEYS_MAX, kind)
    for item in header:
        _check(isinstance(item, list) and len(item) == 2, kind)
    return [_block(name, length, kind) for name, length in header]


def read_report(header: Sequence[Any]) -> Name:
    """Return the block in the header of a REPORT."""
    _check(len(header) == 2, Kind.REPORT)
    return _block(header[0], header[1], Kind.REPORT)


def read_put(header: Sequence[Any], body_bytes: int) -> Put:
    """Return the block in the header of a PUT; its checksums are still to be compared."""
    _check(len(header) == 3, Kind.PUT)
    block = _block(header[0], header[1], Kind.PUT)
    _check(body_bytes == block.length, Kind.PUT)
    return Put(block, _sums(header[2], segment_count(block.length), Kind.PUT))


def read_part(header: Sequence[Any], wanted: Sequence[tuple[int, int, int]]) -> tuple[Part, int]:
    """Return the part in a header, and the bytes that its body has.

    Parameters
    ----------
    wanted
        Length of the block, start and stop, for each that was requested.
    """
    _check(len(header) == 2 and type(header[0]) is int and 0 <= header[0] < len(wanted), Kind.PART)
    length, start, stop = wanted[header[0]]
    segments = touched(start, stop)
    first, last = bounds(segments, length)
    return Part(header[0], _sums(header[1], len(segments), Kind.PART)), last - first


def read_number(kind: Kind, header: Sequence[Any], count: int) -> int:
    """Return which of ``count`` requested blocks a MISS, BUSY or STEP is about.

    None needs to be named where one was requested. What stands behind the number is for the
    caller to read.
    """
    if not header:
        _check(count == 1, kind)
        return 0
    _check(type(header[0]) is int and 0 <= header[0] < count, kind)
    number: int = header[0]
    return number


def _block(name: Any, length: Any, kind: Kind) -> Name:
    _check(isinstance(name, str) and 0 < len(name) <= _NAME_CHARS_MAX and name.isascii(), kind)
    _check(type(length) is int and 0 < length <= BODY_BYTES_MAX, kind)
    return Name(name, length)


def _sums(raw: Any, count: int, kind: Kind) -> tuple[int, ...]:
    _check(isinstance(raw, bytes) and len(raw) == 4 * count, kind)
    return unpack_sums(raw)


def _check(holds: bool, kind: Kind) -> None:
    if not holds:
        raise PeerProtocolError(f"a {kind.name} does not have its form")
