"""Reading ranges: which requests object storage sees, and what happens when it fails."""

from __future__ import annotations

import asyncio
import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from juicecache.errors import (
    CorruptBlockError,
    ObjectNotFoundError,
    ObjectUnavailableError,
    StaleHandleError,
)
from juicecache.meta.chunks import NewSlice
from juicecache.meta.lookups import Lookups
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord
from juicecache.runtime import loop_thread
from juicecache.volume import reader
from juicecache.volume.blocks import Blocks


@pytest.fixture
def filled(site, content):
    """Return a body of five blocks that no tier of a fresh client has."""
    body = content(4 * site.block + 100)
    with_cache = site.open(cache_size=0)
    with_cache.write_file("/file", body)
    return body


def test_the_blocks_of_a_read_are_loaded_at_the_same_time(site, filled):
    volume = site.open(looped=True)
    gate = asyncio.Event()
    site.store(volume).hold("get", gate)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(volume.read_file, "/file")

        async def all_asked() -> None:
            while site.store(volume).calls["get"] < 5:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0)
            gate.set()

        loop_thread().run(asyncio.wait_for(all_asked(), 30))
        assert result.result(30) == filled


def test_a_cold_block_that_many_threads_read_is_loaded_once(site, filled):
    volume = site.open(looped=True)
    start = threading.Barrier(16)

    def read() -> bytes:
        start.wait(30)
        return volume.read_file("/file", 0, site.block)

    with ThreadPoolExecutor(16) as pool:
        found = {future.result(60) for future in [pool.submit(read) for _ in range(16)]}
    assert found == {filled[: site.block]}
    assert site.store(volume).calls["get"] == 1
    assert volume.stats().blocks.loads == 1


def test_what_the_tiers_have_is_not_asked_for(site, filled):
    volume = site.open()
    assert volume.read_file("/file") == filled
    asked = site.store(volume).calls["get"]
    assert asked == 5
    assert volume.read_file("/file", 10, -10) == filled[10:-10]
    assert volume.peek("/file", -5) == filled[-5:]
    assert site.store(volume).calls["get"] == asked


def test_a_small_read_fetches_a_range_and_the_second_one_the_block(big_site, content):
    body = content(3 << 20)
    big_site.open(cache_size=0).write_file("/file", body)
    volume = big_site.open()
    assert volume.read_file("/file", 5000, 9000) == body[5000:9000]
    blocks = volume.stats().blocks
    assert (blocks.range_gets, blocks.range_bytes, blocks.loads) == (1, 4000, 0)
    assert volume.read_file("/file", 500_000, 501_000) == body[500_000:501_000]
    blocks = volume.stats().blocks
    assert (blocks.range_gets, blocks.loads) == (1, 1)
    assert volume.read_file("/file", 5000, 9000) == body[5000:9000]
    assert big_site.store(volume).calls["get"] == 2


def test_a_bulk_read_loads_whole_blocks(big_site, content):
    body = content(3 << 20)
    big_site.open(cache_size=0).write_file("/file", body)
    volume = big_site.open()
    assert volume.read_file("/file", 1, (2 << 20) + 300_000) == body[1 : (2 << 20) + 300_000]
    blocks = volume.stats().blocks
    assert (blocks.range_gets, blocks.loads) == (0, 3)


def test_two_ranges_of_one_block_in_one_call_load_it_once(big_site, content):
    body = content(1 << 20)
    big_site.open(cache_size=0).write_file("/file", body)
    volume = big_site.open()
    found = volume.read_files([("/file", 0, 10), ("/file", 500, 510), ("/none", 0, 1)])
    assert found[:2] == [body[:10], body[500:510]]
    assert isinstance(found[2], FileNotFoundError)
    assert big_site.store(volume).calls["get"] == 1


def test_a_missing_object_is_looked_for_again_and_named(site, filled, no_pauses):
    volume = site.open()
    lost = site.object_path(volume, "/file", 2)
    lost.unlink()
    with pytest.raises(ObjectNotFoundError) as failed:
        volume.read_file("/file")
    assert failed.value.name.endswith(lost.name)
    assert "/file" in str(failed.value)
    tries = sum(lost.name in name for operation, name in site.store(volume).asked)
    assert tries == 3
    assert volume.parts().blocks.loading_bytes == 0
    assert volume.read_file("/file", 0, 100) == filled[:100]


def test_a_stale_slice_list_is_read_again(site, filled, no_pauses):
    """The objects of the remembered list are gone, those of the new list are there."""
    volume = site.open(open_cache="1h", attr_cache="1h")
    assert volume.read_file("/file", 0, 10) == filled[:10]
    old = site.object_path(volume, "/file", 1)
    other = site.open(cache_size=0)
    other.write_file("/file", filled[::-1])
    old.unlink()
    assert volume.read_file("/file", site.block, site.block + 9) == filled[::-1][site.block :][:9]


def test_a_damaged_object_is_an_error_that_names_both(site, filled):
    volume = site.open()
    damaged = site.object_path(volume, "/file", 1)
    damaged.write_bytes(b"short")
    with pytest.raises(CorruptBlockError) as failed:
        volume.read_file("/file")
    assert failed.value.name.endswith(damaged.name)
    assert "/file" in failed.value.where
    assert volume.parts().blocks.loading_bytes == 0


@pytest.mark.parametrize("looped", [False, True])
def test_a_failed_read_leaves_nothing_on_its_way_and_the_next_one_works(site, filled, looped):
    volume = site.open(looped=looped)
    site.store(volume).fail("get", [2])
    with pytest.raises(ObjectUnavailableError):
        volume.read_file("/file")
    with ThreadPoolExecutor(1) as pool:  # what was still on its way lands on the loop
        assert pool.submit(volume.read_file, "/file").result(30) == filled
    assert volume.parts().blocks.loading_bytes == 0


@pytest.mark.parametrize("damage", ["changed", "truncated", "emptied"])
def test_a_damaged_copy_in_a_cache_is_dropped_counted_and_loaded_again(site, filled, damage):
    site.open().read_file("/file")
    (copy,) = [f for f in (site.folder / "cache").rglob("*_1_*") if f.is_file()]
    body = copy.read_bytes()
    changed = {"changed": b"?" + body[1:], "truncated": body[:1000], "emptied": b""}[damage]
    copy.write_bytes(changed)
    volume = site.open()
    assert volume.read_file("/file") == filled
    assert volume.stats().tiers[0].corrupt == 1
    assert volume.stats().blocks.loads == 1
    assert copy.read_bytes() == body


def test_holes_are_zeros_and_ask_nobody(site):
    volume = site.open()
    volume.write_file("/file", b"")
    volume.truncate("/file", 1 << 40)
    assert volume.read_file("/file", 1 << 39, (1 << 39) + 1000) == bytes(1000)
    assert volume.read_file("/file", -10) == bytes(10)
    assert site.store(volume).calls["get"] == 0


def test_a_file_removed_by_another_client_is_an_error_that_names_the_path(site, filled):
    volume, other = site.open(cache_size=0), site.open()
    handle = volume.open("/file")
    other.unlink("/file")
    other.close()
    with pytest.raises(FileNotFoundError) as failed:
        handle.read()
    assert failed.value.filename == "/file"
    handle.close()


def test_random_small_reads_of_a_cold_file_move_little_more_than_the_blocks(big_site, content):
    """The worst case of blocks: the figures are in the docs, the bound is here."""
    body = content(8 << 20)
    big_site.open(cache_size=0).write_file("/file", body)
    volume = big_site.open()
    numbers = random.Random(1)
    for _ in range(200):
        at = numbers.randrange(len(body) - 4096)
        assert volume.read_file("/file", at, at + 4096) == body[at : at + 4096]
    blocks = volume.stats().blocks
    assert blocks.loaded_bytes + blocks.range_bytes <= len(body) + 16 * 4096


def test_small_reads_stay_small_where_nothing_is_kept(big_site, content):
    body = content(2 << 20)
    volume = big_site.open(cache_size=0)
    volume.write_file("/file", body)
    for at in range(0, 40_000, 1000):
        assert volume.read_file("/file", at, at + 100) == body[at : at + 100]
    blocks = volume.stats().blocks
    assert (blocks.loads, blocks.range_gets, blocks.range_bytes) == (0, 40, 4000)


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(None, None, (0, 10)), (-3, None, (7, 10)), (2, -2, (2, 8)), (8, 3, (8, 8)), (5, 99, (5, 10)),
     (99, None, (10, 10)), (-99, 2, (0, 2))],
)  # fmt: skip
def test_ranges_are_those_of_python_slices(start, stop, expected):
    assert reader.clip(start, stop, 10) == expected


# ---------------------------------------------------------------------- packed files


@pytest.fixture
def packed(big_site, content):
    """200 files of 10,000 bytes, end to end in one slice of two blocks: {path: content}."""
    volume = big_site.open(cache_size=0)
    parts, size, count = volume.parts(), 10_000, 200
    body = content(size * count)
    slice_id = parts.meta.new_slice_id()
    for number, key in enumerate(parts.layout.block_keys(slice_id, len(body))):
        start = number * parts.layout.block_bytes
        parts.blocks.upload(key, body[start : start + key.length]).result()
    files = {}
    for number in range(count):
        path, off = f"/packed/{number:03d}", number * size
        record = SliceRecord(0, slice_id, len(body), off, size)
        new = NewSlice(0, record, fresh=number == 0)
        parts.meta.commit_file(path, [new], 5 + number, exclusive=False)
        files[path] = body[off : off + size]
    return files


@pytest.mark.parametrize("cache_size", ["1GiB", "0"])
@pytest.mark.parametrize("looped", [False, True])
def test_packed_files_cost_one_request_a_block(big_site, packed, monkeypatch, looped, cache_size):
    """Also when files of one block are planned far apart, and nothing is kept."""
    monkeypatch.setattr(reader, "_PLANNED_MAX", 16)
    volume = big_site.open(looped=looped, cache_size=cache_size)
    paths = random.Random(1).sample(sorted(packed), len(packed))
    found = volume.read_files([(path, None, None) for path in paths])
    assert found == [packed[path] for path in paths]
    assert big_site.store(volume).calls["get"] == 2
    assert volume.parts().blocks.loading_bytes == 0


@pytest.mark.parametrize("looped", [False, True])
def test_reading_packed_files_one_by_one_loads_their_block_once(big_site, packed, looped):
    volume = big_site.open(looped=looped)
    for path, body in packed.items():
        assert volume.read_file(path) == body
    assert big_site.store(volume).calls["get"] == 2
    assert volume.stats().blocks.range_gets == 0


def test_a_part_of_a_packed_file_is_still_a_range(big_site, packed):
    volume = big_site.open()
    assert volume.read_file("/packed/003", 10, 20) == packed["/packed/003"][10:20]
    assert volume.stats().blocks.range_bytes == 10


def read_epoch(volume, packed, seed: int, how: str) -> int:
    """Read every packed file once, shuffled; return the bytes that object storage delivered."""
    before = volume.stats().blocks
    paths = random.Random(seed).sample(sorted(packed), len(packed))
    if how == "many":
        for first in range(0, len(paths), 20):
            some = paths[first : first + 20]
            found = volume.read_files([(path, None, None) for path in some])
            assert found == [packed[path] for path in some]
    for path in paths:
        if how == "open":
            with volume.open(path) as file:
                assert file.read() == packed[path]
        elif how == "one":
            assert volume.read_file(path) == packed[path]
    now = volume.stats().blocks
    loaded_bytes = now.loaded_bytes - before.loaded_bytes
    return loaded_bytes + now.range_bytes - before.range_bytes


@pytest.fixture
def packed_wide(big_site, content):
    """800 files of 10,000 bytes in eight blocks of 1 MiB: {path: content}."""
    files = {f"/wide/{number:03d}": content(10_000, number) for number in range(800)}
    big_site.open(cache_size=0).write_files(list(files.items()))
    return files


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("how", ["one", "many", "open"])
def test_a_packed_set_twice_the_cache_costs_a_bounded_multiple(big_site, packed_wide, how, looped):
    volume = big_site.open(cache_size="4400KiB", free_space_ratio=0, looped=looped)
    set_bytes = sum(map(len, packed_wide.values()))
    for seed in range(4):
        assert read_epoch(volume, packed_wide, seed, how) <= 3 * set_bytes
    assert volume.parts().blocks.loading_bytes == 0


@pytest.mark.parametrize("how", ["one", "many", "open"])
def test_where_no_block_can_stay_packed_files_are_ranges(big_site, packed_wide, how):
    volume = big_site.open(cache_size="512KiB", free_space_ratio=0)
    set_bytes = sum(map(len, packed_wide.values()))
    costs = [read_epoch(volume, packed_wide, seed, how) for seed in range(4)]
    assert costs[0] <= 2.1 * set_bytes
    assert costs[1:] == [set_bytes] * 3


@pytest.mark.parametrize("how", ["one", "many", "open"])
def test_a_packed_set_that_fits_is_loaded_once(big_site, packed_wide, how):
    volume = big_site.open(cache_size="1GiB", free_space_ratio=0)
    costs = [read_epoch(volume, packed_wide, seed, how) for seed in range(3)]
    assert costs == [volume.stats().blocks.loaded_bytes, 0, 0]
    assert volume.stats().blocks.range_gets == 0
    assert big_site.store(volume).calls["get"] == 8


@pytest.fixture
def evicting(monkeypatch) -> None:
    """Let a warm-up evict as want of room does, which nobody asked for."""
    monkeypatch.setattr(Blocks, "evict", lambda self, key: self.tiers.delete(key))


@pytest.mark.usefixtures("evicting")
@pytest.mark.parametrize("evicted", [False, True])
def test_small_random_reads_of_a_block_that_does_not_stay_are_ranges(big_site, content, evicted):
    body = content(1 << 20)
    big_site.open(cache_size=0).write_file("/file", body)
    volume = big_site.open(cache_size="4MiB" if evicted else "512KiB", free_space_ratio=0)
    for at in range(0, 400_000, 4000):
        assert volume.read_file("/file", at, at + 4000) == body[at : at + 4000]
        if evicted:
            volume.warmup(["/file"], evict=True)
    assert volume.stats().blocks.loads == 1  # at the second touch, in vain


@pytest.mark.usefixtures("evicting")
def test_a_block_is_loaded_whole_again_when_ranges_cost_as_much(big_site, packed_wide):
    volume = big_site.open(free_space_ratio=0)
    (block, *_) = volume.explain("/wide/000").blocks
    for _ in range(2 * -(-block.length // 10_000) + 3):
        assert volume.read_file("/wide/000") == packed_wide["/wide/000"]
        volume.warmup(["/wide/000"], evict=True)
    assert volume.stats().blocks.loads == 3


def test_a_bulk_read_holds_no_more_than_the_buffer(big_site):
    bodies = {f"/{number}": bytes([number]) * (3 << 20) for number in range(12)}
    writer = big_site.open(cache_size=0)
    for path, body in bodies.items():
        writer.write_file(path, body)
    volume = big_site.open(looped=True, buffer_size="16MiB")
    blocks = volume.parts().blocks
    seen = []
    begin = blocks.begin

    def watched(keys, *, ahead=False):
        flights = begin(keys, ahead=ahead)
        seen.append(blocks.loading_bytes)
        return flights

    blocks.begin = watched
    assert volume.read_files([(path, None, None) for path in bodies]) == list(bodies.values())
    assert len(seen) == 36
    assert max(seen) == 16 << 20


def test_a_block_that_is_lost_fails_its_files_and_no_other(big_site, packed, no_pauses):
    volume = big_site.open(cache_size=0)
    big_site.object_path(volume, "/packed/199").unlink()
    found = volume.read_files([(path, None, None) for path in packed])
    failed = [isinstance(one, ObjectNotFoundError) for one in found]
    assert failed == [number >= 104 for number in range(200)]
    assert [one for one in found if isinstance(one, bytes)] == list(packed.values())[:104]
    assert "/packed/150" in str(found[150])
    assert volume.parts().blocks.loading_bytes == 0


def test_a_warm_up_counts_and_loads_each_shared_block_once(big_site, packed):
    volume = big_site.open()
    report = volume.warmup(["/packed"])
    assert (report.files, report.blocks, report.loaded_blocks) == (200, 2, 2)
    assert (report.bytes, report.loaded_bytes) == (2_000_000, 2_000_000)
    assert big_site.store(volume).calls["get"] == 2
    report = volume.warmup(["/packed", "/packed"])
    assert (report.files, report.blocks, report.cached_blocks) == (400, 2, 2)


@pytest.mark.parametrize(
    ("cache_size", "dropped"), [("0", 8), ("512KiB", 8), ("4400KiB", 4), ("1GiB", 0)]
)
def test_a_warm_up_tells_what_did_not_stay(big_site, packed_wide, cache_size, dropped):
    volume = big_site.open(cache_size=cache_size, free_space_ratio=0, cache_eviction="lru")
    report = volume.warmup(["/wide"])
    stayed = volume.warmup(["/wide"], check=True).cached_blocks
    assert (report.loaded_blocks, report.dropped_blocks) == (8, 8 - stayed)
    assert dropped <= report.dropped_blocks <= dropped + (0 < dropped < 8)
    assert volume.warmup(["/wide"], evict=True).dropped_blocks == 0


# ---------------------------------------------------------------------- the caller's buffer


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("start", "size"), [(0, 300_000), (0, 10), (65_530, 20), (-7, 100), (10**6, 5)]
)
def test_bytes_go_into_the_buffer_of_the_caller(site, filled, warm, start, size):
    volume = site.open()
    if warm:
        volume.read_file("/file")
    buffer = bytearray(b"?" * size)
    expected = filled[start:][:size]
    assert volume.read_into("/file", buffer, start) == len(expected)
    assert buffer == expected + b"?" * (size - len(expected))


@pytest.mark.parametrize("start", [0, 1000])
def test_holes_are_zeros_in_the_buffer_of_the_caller(site, start):
    volume = site.open()
    with volume.open("/file", "wb") as file:
        file.write(b"a" * 5000)
    volume.truncate("/file", 200_000)
    with volume.open("/file", "r+b") as file:
        file.seek(150_000)
        file.write(b"b" * 10)
    body = b"a" * 5000 + bytes(145_000) + b"b" * 10 + bytes(49_990)
    for _ in range(2):
        buffer = bytearray(b"?" * 200_000)
        assert volume.read_into("/file", buffer, start) == 200_000 - start
        assert buffer[: 200_000 - start] == body[start:]
        assert volume.read_file("/file", start) == body[start:]


@pytest.mark.parametrize("options", [{}, {"cache_dir": "memory"}, {"cache_size": 0}])
def test_a_view_cannot_be_changed_and_outlives_the_cache(site, filled, options):
    volume = site.open(**options)
    for _ in range(2):
        views = [
            volume.read_view("/file"), volume.read_view("/file", 5, 500),
            volume.read_view("/file", 5, 5),
        ]  # fmt: skip
        assert all(view.readonly for view in views)
    volume.warmup(["/file"], evict=True)
    assert views == [filled, filled[5:500], b""]


def test_a_large_read_is_the_buffer_that_it_was_read_into(site, filled, monkeypatch):
    """No copy of what was put together: the tier's bytes are the only ones that move."""
    volume = site.open()
    volume.read_file("/file")
    read = reader.RangeRead(volume.parts(), volume.stat("/file"), "/file", 0, len(filled))
    read.plan()
    assert read.take_cached()
    assert read.collect() == filled
    tracemalloc.start()
    try:
        kept = volume.read_file("/file")
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(kept)
    finally:
        tracemalloc.stop()


def test_paths_that_are_not_plain_never_teach_wrong_neighbours(site):
    volume = site.open()
    volume.write_file("/d/f", b"outer")
    volume.write_file("/d/only", b"outer")
    for name in ("f", "g", "h"):
        volume.write_file(f"/d/sub/{name}", b"inner " + name.encode())
    for path in ("/d/sub/", "/d/sub/.", "/d//sub/", "/d/./sub/f"):
        volume.forget()
        for name in ("g", "h"):
            assert volume.read_file(f"/d/sub/{name}") == b"inner " + name.encode()
        for _ in range(4):
            volume.exists(path)
        assert volume.read_file("/d/sub/f") == b"inner f"
        assert not volume.exists("/d/sub/only")


def test_what_was_evicted_on_request_is_loaded_whole_again(big_site, content):
    volume = big_site.open()
    files = {f"/{number}": content(big_site.block // 5, number) for number in range(20)}
    assert not any(volume.write_files(list(files.items())))
    for _ in range(3):
        volume.warmup(["/"], evict=True)
        before = volume.stats().blocks
        assert {path: volume.read_file(path) for path in files} == files
        after = volume.stats().blocks
        assert (after.loads - before.loads, after.range_gets) == (4, 0)


# ------------------------------------------------- files that others change meanwhile


@pytest.fixture
def changing(site, content, monkeypatch):
    """Return a client that is overtaken once, between attributes and slice lists, by a writer."""
    old = site.open(cache_size=0)
    old.write_file("/file", content(100))
    old.truncate("/file", CHUNK_BYTES)
    with old.open("/file", "ab") as file:
        file.write(content(1000))
    volume, extents = site.open(), Lookups.extents

    def change(body: bytes) -> None:
        waiting = [body]

        def overtaken(lookups, *args, **switches):
            if lookups is volume.parts().meta and waiting:
                old.write_file("/file", waiting.pop())
            return extents(lookups, *args, **switches)

        monkeypatch.setattr(Lookups, "extents", overtaken)

    return volume, change


@pytest.mark.parametrize(
    "read",
    [
        lambda volume: volume.read_file("/file"),
        lambda volume: bytes(volume.read_view("/file")),
        lambda volume: bytes(volume.map_file("/file")),
        lambda volume: volume.read_files([("/file", None, None)])[0],
        lambda volume: (target := bytearray(3 * CHUNK_BYTES))[: volume.read_into("/file", target)],
    ],
    ids=["file", "view", "map", "files", "into"],
)
@pytest.mark.parametrize("chunks", [0, 1])
def test_a_path_is_read_in_one_version(changing, content, read, chunks):
    volume, change = changing
    body = content(chunks * CHUNK_BYTES + 5000)
    change(body)
    assert read(volume) == body


def test_an_open_file_reads_what_others_append(changing, content):
    volume, change = changing
    with volume.open("/file") as file:
        change(body := content(CHUNK_BYTES + 5000))
        file.seek(CHUNK_BYTES)
        assert file.read(10) == body[CHUNK_BYTES : CHUNK_BYTES + 10]


def test_an_open_file_that_became_shorter_is_an_error_and_not_zeros(changing, content):
    volume, change = changing
    with volume.open("/file") as file:
        change(content(5000))
        file.seek(CHUNK_BYTES)
        with pytest.raises(StaleHandleError, match="changed while it was read"):
            file.read(10)
