"""Handles for reading: io semantics, reading ahead within its bounds, forks."""

from __future__ import annotations

import io
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from juicecache.config import VolumeOptions
from juicecache.testing.faults import FaultyStore
from juicecache.testing.processes import in_child, wait_for
from juicecache.volume.volume import Volume


@pytest.fixture
def body(site, content):
    body = content(20 * site.block + 77)
    site.open(cache_size=0).write_file("/file", body)
    return body


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 400_000)),
            st.tuples(st.just("read1"), st.integers(-1, 100_000)),
            st.tuples(st.just("seek"), st.integers(0, 1_400_000)),
            st.tuples(st.just("tail"), st.integers(-1000, 0)),
            st.tuples(st.just("readline"), st.integers(1, 1000)),
            st.tuples(st.just("readinto"), st.integers(0, 100_000)),
        ),
        max_size=12,
    ),
    looped=st.booleans(),
)
def test_a_handle_reads_like_a_plain_file(site, body, moves, looped):
    with site.open(looped=looped, cache_dir="memory", memory_size="16MiB") as volume:
        with volume.open("/file") as file:
            plain = io.BytesIO(body)
            for move, number in moves:
                if move == "seek":
                    assert file.seek(number) == plain.seek(number)
                elif move == "tail":
                    assert file.seek(number, io.SEEK_END) == plain.seek(number, io.SEEK_END)
                elif move == "read1":
                    found = file.read1(number)
                    assert found == plain.read(len(found))
                    assert found or not number or plain.tell() >= len(body)
                elif move == "readinto":
                    one, other = bytearray(number), bytearray(number)
                    assert file.readinto(one) == plain.readinto(other)
                    assert one == other
                else:
                    assert getattr(file, move)(number) == getattr(plain, move)(number)
                assert file.tell() == plain.tell()
        assert volume.parts().blocks.loading_bytes == 0 or looped


def test_sequential_reads_are_loaded_ahead_up_to_the_limit(site, body):
    volume = site.open(looped=True, max_readahead="256KiB", cache_size=0)
    with volume.open("/file") as file:
        for at in range(0, 10 * site.block, 10_000):
            assert file.read(10_000) == body[at : at + 10_000]
            needed = file.tell() // site.block + 1
            assert volume.stats().blocks.loads <= needed + 4
        wait_for(lambda: volume.stats().blocks.loads > 10 + 1)
    assert file.closed


def test_no_readahead_where_none_is_allowed(site, body):
    volume = site.open(looped=True, max_readahead=0)
    with volume.open("/file") as file:
        file.read(site.block + 1)
    assert volume.stats().blocks.loads == 2


def test_what_is_loading_for_all_handles_is_bounded_by_the_buffer(site, content):
    body = content(40 << 20)
    site.open(cache_size=0).write_file("/large", body)
    volume = site.open(looped=True, buffer_size="16MiB", max_readahead="1GiB", cache_size=0)
    most = 0
    files = [volume.open("/large") for _ in range(3)]
    for at in range(0, 24 << 20, 1 << 18):
        for file in files:
            assert file.read(1 << 16) == body[at // 4 : at // 4 + (1 << 16)]
            most = max(most, volume.parts().blocks.loading_bytes)
    for file in files:
        file.close()
    assert (1 << 20) < most <= (16 << 20) + 3 * site.block


def test_random_reads_do_not_read_ahead(site, body):
    volume = site.open(looped=True)
    with volume.open("/file") as file:
        for number in (15, 3, 9, 12, 6):
            file.seek(number * site.block + 10)
            assert file.read(100) == body[number * site.block + 10 :][:100]
    assert volume.stats().blocks.loaded_bytes <= 5 * 5 * site.block


def test_a_closed_handle_refuses_and_gives_up_what_is_on_its_way(site, body):
    volume = site.open(looped=True)
    file = volume.open("/file")
    file.read(10)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(volume.read_file, "/file").result(30) == body


@pytest.mark.parametrize("looped", [False, True])
def test_a_handle_inherited_by_a_fork_reads_on_with_loads_of_its_own(site, body, looped):
    volume = site.open(looped=looped, cache_size=0)
    file = volume.open("/file")
    assert file.read(100) == body[:100]  # leaves blocks on their way

    def act() -> int:
        assert file.read() == body[100:]
        file.close()
        assert volume.read_file("/file") == body
        volume.close()
        return 7

    assert in_child(act) == 7
    assert file.read() == body[100:]
    file.close()


def test_closing_an_inherited_handle_leaves_the_childs_own_protected(site, body):
    volume = site.open()
    inherited = volume.open("/file")

    def act() -> int:
        own = volume.open("/file")
        inherited.close()
        volume.unlink("/file")
        assert own.read() == body
        own.close()
        volume.close()
        return 7

    assert in_child(act) == 7
    inherited.close()


def test_a_file_without_a_name_is_read_on_until_the_last_close(site, body):
    volume = site.open(cache_size=0)
    one, other = volume.open("/file"), volume.open("/file")
    volume.unlink("/file")
    assert not volume.exists("/file")
    one.close()
    assert other.read() == body
    assert len(site.block_names()) == 21
    other.close()
    volume.close()
    assert site.block_names() == []


def test_an_unfinished_handle_does_not_keep_a_volume_from_closing(site, body):
    volume = Volume(site.meta, VolumeOptions.from_options({"cache_size": 0}), FaultyStore)
    file = volume.open("/file")
    volume.close()
    file.close()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("looped", [False, True])
def test_readinto_fills_what_it_gets(site, content, warm, looped):
    """Small and large buffers in turn, within and across segments, to the end."""
    body = content(20 * site.block + 11)
    site.open(cache_size=0).write_file("/file", body)
    volume = site.open(looped=looped)
    if warm:
        volume.read_file("/file")
    found = b""
    sizes = itertools.cycle([10, 300_000, 1, 70_000, 400_000])
    with volume.open("/file") as file:
        for size in sizes:
            buffer = bytearray(b"?" * size)
            count = file.readinto(buffer)
            assert buffer[count:] == b"?" * (size - count)
            found += buffer[:count]
            assert file.tell() == len(found)
            if count < size:
                break
    assert found == body
    assert volume.parts().blocks.loading_bytes == 0
