"""Close-to-open: who opens a file sees what was closed before, by whatever client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from juicecache.errors import EntryNotFoundError
from juicecache.testing.official import SharedVolume
from juicecache.volume.volume import Volume

pytestmark = pytest.mark.service

ROUNDS = 20
SIZE = 10_000


def content(number: int, size: int = SIZE) -> bytes:
    return b"%05d" % number * (size // 5)


@pytest.fixture
def made(shared: SharedVolume) -> SharedVolume:
    shared.format_ours(trash_days=0, block_size_kib=64)
    return shared


def read_in_every_way(volume: Volume, path: str) -> set[bytes]:
    """Return what the ways to open and read a file bring; one value where they agree."""
    with volume.open(path) as file:
        found = {file.read()}
    found.add(volume.read_file(path))
    found.add(bytes(volume.read_view(path)))
    found.update(one for one in volume.read_files([(path, None, None)]) if isinstance(one, bytes))
    buffer = bytearray(volume.stat(path).length)
    volume.read_into(path, buffer)
    found.add(bytes(buffer))
    peeked = volume.peek(path)
    return found if peeked is None else found | {peeked}


# ---------------------------------------------------------------------- between our clients

CHANGES: dict[str, Callable[[Volume, int], object]] = {
    "whole": lambda volume, at: volume.write_file("/file", content(at)),
    "handle": lambda volume, at: write_by_handle(volume, "wb", content(at)),
    "in place": lambda volume, at: write_by_handle(volume, "r+b", content(at)),
    "appended": lambda volume, at: write_by_handle(volume, "ab", b"%05d" % at),
    "cut": lambda volume, at: volume.truncate("/file", SIZE - 1 - at),
    "batch": lambda volume, at: volume.write_files([("/file", content(at))]),
    "range": lambda volume, at: volume.copy_range("/source", at * 5, "/file", 0, 50),
    "replaced": lambda volume, at: replace(volume, content(at)),
}


def write_by_handle(volume: Volume, mode: str, data: bytes) -> None:
    with volume.open("/file", mode) as file:
        file.write(data)


def replace(volume: Volume, data: bytes) -> None:
    volume.write_file("/beside", data)
    volume.rename("/beside", "/file")


@pytest.mark.parametrize("frozen", [False, True], ids=["clock", "no tick"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_our_clients_see_each_other(made, change, frozen):
    """Also where two changes have the same time by the clock: each change has a new mtime."""
    with made.open() as writer, made.open(cache_size="64MiB") as reader:
        writer.write_file("/source", b"".join(b"%05d" % at for at in range(1000)))
        writer.write_file("/file", content(99))
        if frozen:
            tick = writer.stat("/file").mtime_ns + 1000
            writer.parts().meta.gate._clock = lambda: tick
        times = [reader.stat("/file").mtime_ns]
        for at in range(ROUNDS):
            change(writer, at)
            assert read_in_every_way(reader, "/file") == {writer.read_file("/file")}
            times.append(reader.stat("/file").mtime_ns)
            assert times[-1] == writer.stat("/file").mtime_ns
        assert times == sorted(set(times))


def test_a_handle_keeps_its_length_and_the_next_one_has_the_new(made):
    """What its file holds by now may show, and no byte behind the end that it knows."""
    with made.open() as writer, made.open() as reader:
        writer.write_file("/file", content(0))
        for at in range(1, 5):
            longer = content(at, SIZE + 5 * at)
            with reader.open("/file") as before:
                writer.write_file("/file", longer)
                with reader.open("/file") as after:
                    assert after.read() == longer
                assert len(before.read()) == SIZE + 5 * (at - 1)


# ---------------------------------------------------------------------- with official mounts


@pytest.mark.parametrize("size", [SIZE, 0], ids=["same length", "other lengths"])
def test_an_official_mount_sees_what_we_closed(made, size):
    with made.open() as volume:
        volume.write_file("/file", content(99))
        with made.mounted(cached=True) as point:
            for at in range(ROUNDS):
                wanted = content(at, size or 100 * (1 + at * 7 % 5))
                volume.write_file("/file", wanted)
                assert (point / "file").read_bytes() == wanted


def test_an_official_mount_sees_what_we_closed_after_changes_in_place(made):
    with made.open() as volume:
        volume.write_file("/file", content(99))
        with made.mounted(cached=True) as point:
            for at in range(ROUNDS):
                write_by_handle(volume, "r+b", content(at))
                assert (point / "file").read_bytes() == content(at)


def test_we_see_what_an_official_mount_closed(made):
    with made.mounted(cached=True) as point, made.open(cache_size="64MiB") as volume:
        (point / "file").write_bytes(content(99))
        times = [volume.stat("/file").mtime_ns]
        for at in range(ROUNDS):
            flags = os.O_WRONLY | (os.O_TRUNC if at % 2 else 0)
            file = os.open(point / "file", flags)
            os.write(file, content(at))
            os.close(file)
            assert read_in_every_way(volume, "/file") == {content(at)}
            times.append(volume.stat("/file").mtime_ns)
        assert times == sorted(set(times))


# ---------------------------------------------------------------------- who asks for older answers


@pytest.fixture
def clock(monkeypatch):
    """The time by which answers from memory grow old."""
    clock = SimpleNamespace(now_s=1000.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr("juicecache.meta.view.time", clock)
    return clock


@contextmanager
def asked(volume: Volume) -> Iterator[list[int]]:
    """Count the transactions that a client makes in the block."""
    engine = volume.parts().engine
    attempt, trips = engine.attempt, [0]

    def counting(*body: Any, writable: bool) -> Any:
        trips[0] += 1
        return attempt(*body, writable=writable)

    engine.attempt = counting  # type: ignore[method-assign]
    try:
        yield trips
    finally:
        del engine.attempt


def test_an_open_is_as_old_as_open_cache_allows_and_no_older(made, clock):
    with made.open() as writer, made.open(open_cache="10s", cache_size="64MiB") as reader:
        writer.write_file("/file", content(0))
        assert read_in_every_way(reader, "/file") == {content(0)}
        for at in range(3):
            assert reader.read_file("/file") == content(at)
            writer.write_file("/file", content(at + 1))
            clock.now_s += 9.9
            with asked(reader) as trips, reader.open("/file") as file:
                assert file.read() == reader.read_file("/file") == content(at)
                assert trips == [0]
            clock.now_s += 0.2
        assert read_in_every_way(reader, "/file") == {content(3)}
        writer.unlink("/file")
        assert reader.read_file("/file") == content(3)
        clock.now_s += 10.1
        with pytest.raises(EntryNotFoundError):
            reader.read_file("/file")


def test_attributes_are_as_old_as_attr_cache_allows_and_an_open_is_not(made, clock):
    with made.open() as writer, made.open(attr_cache="10s") as reader:
        writer.write_file("/file", b"")
        for at in range(3):
            assert reader.stat("/file").length == at
            writer.write_file("/file", bytes(at + 1))
            clock.now_s += 9.9
            with asked(reader) as trips:
                assert reader.stat("/file").length == at
                assert trips == [0]
            clock.now_s += 0.2
        assert reader.stat("/file").length == 3
        writer.write_file("/file", content(0))
        assert reader.stat("/file").length == 3
        assert reader.read_file("/file") == content(0)


def test_without_either_nothing_old_is_ever_seen(made, clock):
    """The clock stands still: no answer is young enough to be given twice."""
    with made.open() as writer, made.open() as reader:
        for at in range(5):
            writer.write_file("/file", content(at, 5 * (at + 1)))
            assert reader.stat("/file").length == 5 * (at + 1)
            assert read_in_every_way(reader, "/file") == {content(at, 5 * (at + 1))}
            writer.write_file(f"/{at}", b"x")
            assert reader.exists(f"/{at}")
            writer.unlink(f"/{at}")
            assert not reader.exists(f"/{at}")
            assert [one.name for one in reader.list_directory("/")] == ["file"]
