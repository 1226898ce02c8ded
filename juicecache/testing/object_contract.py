"""What every object store must do: inherit `ObjectContract` and give it two fixtures."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import pytest

from juicecache.errors import CorruptBlockError, ObjectNotFoundError
from juicecache.objects.store import ObjectInfo, ObjectStore
from juicecache.runtime import finish, loop_thread

T = TypeVar("T")


class RawAccess(Protocol):
    """The same storage, reached without the code under test; bytes as they are stored."""

    def get(self, name: str) -> bytes | None:
        """Return what is stored, None when nothing is."""

    def put(self, name: str, stored: bytes) -> None:
        """Store bytes as they are."""


def drive(store: ObjectStore, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end: on this thread if the store is inline, which proves that it is."""
    return finish(coroutine) if store.inline else loop_thread().run(coroutine)


def names(store: ObjectStore, prefix: str, after: str = "") -> list[str]:
    """Return the names that a store lists."""
    return [info.name for info in infos(store, prefix, after)]


def infos(store: ObjectStore, prefix: str, after: str = "") -> list[ObjectInfo]:
    """Return what a store lists."""

    async def collect() -> list[ObjectInfo]:
        return [info async for info in store.list(prefix, after)]

    return drive(store, collect())


class ObjectContract:
    """The contract as tests. Subclasses give the fixtures ``store`` (created) and ``raw``.

    Attributes
    ----------
    verbatim
        Stored bytes equal the content (no compression, no encryption).
    strict_order
        Names are ordered as strings even around ``/``; some services order folders.
    """

    verbatim = True
    strict_order = True

    @pytest.mark.parametrize("size", [0, 1, 13, 100_000, (1 << 20) + 7])
    def test_returns_what_was_put(self, store: ObjectStore, size: int) -> None:
        """Bytes come back, of any size."""
        body = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
        drive(store, store.put("vol/chunks/0/0/1_0_1", body))
        assert drive(store, store.get("vol/chunks/0/0/1_0_1", length=size)) == body
        assert drive(store, store.get("vol/chunks/0/0/1_0_1")) == body

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_takes_any_buffer(self, store: ObjectStore, kind: type) -> None:
        """Every kind of buffer is taken; bytes come back."""
        drive(store, store.put("vol/chunks/buffer", kind(b"some bytes")))
        got = drive(store, store.get("vol/chunks/buffer", length=10))
        assert got == b"some bytes"
        assert type(got) is bytes

    def test_returns_ranges(self, store: ObjectStore) -> None:
        """Ranges are half-open."""
        name = "vol/chunks/range"
        drive(store, store.put(name, b"0123456789"))
        assert drive(store, store.get(name, 2, 5, length=10)) == b"234"
        assert drive(store, store.get(name, 0, 4, length=10)) == b"0123"
        assert drive(store, store.get(name, 7, length=10)) == b"789"
        assert drive(store, store.get(name, 0, 10, length=10)) == b"0123456789"
        assert drive(store, store.get(name, 4, 4, length=10)) == b""

    def test_range_ends_with_the_content(self, store: ObjectStore) -> None:
        """What lies behind the end is left out."""
        name = "vol/chunks/end"
        drive(store, store.put(name, b"0123456789"))
        assert drive(store, store.get(name, 8, 99)) == b"89"
        assert drive(store, store.get(name, 10, 99)) == b""

    def test_put_replaces(self, store: ObjectStore) -> None:
        """The last put counts, whole."""
        drive(store, store.put("vol/chunks/twice", b"first and longer"))
        drive(store, store.put("vol/chunks/twice", b"second"))
        assert drive(store, store.get("vol/chunks/twice", length=6)) == b"second"

    def test_absent_object(self, store: ObjectStore) -> None:
        """Reading what is not there says so."""
        with pytest.raises(ObjectNotFoundError):
            drive(store, store.get("vol/chunks/absent"))
        with pytest.raises(ObjectNotFoundError):
            drive(store, store.get("vol/chunks/absent", 1, 2, length=5))
        with pytest.raises(ObjectNotFoundError):
            drive(store, store.head("vol/chunks/absent"))

    def test_wrong_length_is_corrupt(self, store: ObjectStore) -> None:
        """Another length than the caller knows is damage."""
        drive(store, store.put("vol/chunks/short", b"0123456789"))
        with pytest.raises(CorruptBlockError):
            drive(store, store.get("vol/chunks/short", length=11))

    def test_delete_is_repeatable(self, store: ObjectStore) -> None:
        """A second delete is no error."""
        drive(store, store.put("vol/chunks/gone", b"x"))
        drive(store, store.delete("vol/chunks/gone"))
        drive(store, store.delete("vol/chunks/gone"))
        with pytest.raises(ObjectNotFoundError):
            drive(store, store.get("vol/chunks/gone"))

    def test_head_tells_the_stored_size(self, store: ObjectStore, raw: RawAccess) -> None:
        """The size is that of the stored bytes."""
        drive(store, store.put("vol/chunks/head", b"0123456789"))
        info = drive(store, store.head("vol/chunks/head"))
        stored = raw.get("vol/chunks/head")
        assert stored is not None
        assert info.name == "vol/chunks/head"
        assert info.size_bytes == len(stored)
        assert info.modified_ns > 10**18

    def test_stored_under_its_name(self, store: ObjectStore, raw: RawAccess) -> None:
        """Others find the object under the same name."""
        drive(store, store.put("vol/chunks/1/2/3_4_5", b"01234"))
        stored = raw.get("vol/chunks/1/2/3_4_5")
        assert stored is not None
        assert (stored == b"01234") == self.verbatim

    def test_reads_what_others_stored(self, store: ObjectStore, raw: RawAccess) -> None:
        """An object without a checksum of ours is readable."""
        if not self.verbatim:
            pytest.skip("bytes as they are mean nothing to this store")
        raw.put("vol/chunks/7/8/9_0_3", b"abc")
        assert drive(store, store.get("vol/chunks/7/8/9_0_3", length=3)) == b"abc"

    def test_lists_by_name(self, store: ObjectStore) -> None:
        """Names come in the order of strings, not of folders."""
        early = ["v/a-b/c", "v/a.b"] if self.strict_order else []  # before the folder v/a
        listed = [*early, "v/a/b", "v/a0", "v/ab/c", "v/b", "w/a"]
        for name in reversed(listed):
            drive(store, store.put(name, b"x"))
        assert names(store, "") == listed
        assert names(store, "v/") == listed[:-1]
        assert names(store, "v/a") == listed[:-2]
        assert names(store, "v/a/") == ["v/a/b"]
        assert names(store, "v/", "v/a/b") == ["v/a0", "v/ab/c", "v/b"]
        assert names(store, "v/", "v/a0") == ["v/ab/c", "v/b"]
        if self.strict_order:
            assert names(store, "v/", "v/a.b") == ["v/a/b", "v/a0", "v/ab/c", "v/b"]
            assert names(store, "v/", "v/a/") == ["v/a/b", "v/a0", "v/ab/c", "v/b"]
        assert names(store, "v/", "v/b") == []
        assert names(store, "nothing/here") == []

    def test_lists_stored_sizes(self, store: ObjectStore, raw: RawAccess) -> None:
        """Sizes are those of the stored bytes."""
        drive(store, store.put("vol/chunks/size", b"0123456789"))
        stored = raw.get("vol/chunks/size")
        assert stored is not None
        (info,) = infos(store, "vol/chunks/size")
        assert (info.name, info.size_bytes) == ("vol/chunks/size", len(stored))

    def test_create_is_repeatable(self, store: ObjectStore) -> None:
        """Making a bucket that exists keeps what is in it."""
        drive(store, store.put("vol/chunks/kept", b"x"))
        drive(store, store.create())
        assert drive(store, store.get("vol/chunks/kept", length=1)) == b"x"

    def test_aclose_is_repeatable(self, store: ObjectStore) -> None:
        """A second close is no error."""
        drive(store, store.put("vol/chunks/closing", b"x"))
        drive(store, store.aclose())
        drive(store, store.aclose())
