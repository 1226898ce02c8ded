"""Batches that take long: what is stored is kept from collectors, counted once and let go."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref

import pytest

from juicecache.errors import (
    BatchError,
    ObjectError,
    ObjectNotFoundError,
)
from juicecache.runtime import loop_thread
from juicecache.testing.batches import bodies, read_all, references, sustained
from juicecache.testing.engine_faults import FaultySqlite
from juicecache.testing.oracle import sums_wrong
from juicecache.volume import batch as batch_module
from juicecache.volume import pack as pack_module
from juicecache.volume import writer as writer_module
from juicecache.volume.formatting import change_volume
from juicecache.volume.stored_file import StoredFile


@pytest.fixture(autouse=True)
def sums_are_right(tmp_path):
    yield
    assert sums_wrong(tmp_path / "meta.db") == []


def test_what_waits_for_long_is_kept_from_collectors(site, content):
    volume, other = site.open(), site.open(cache_size=0)
    files = bodies(content, 100)
    large = content(2 * site.block, 7)
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        with volume.open("/large", "wb", batch=batch) as file:
            file.write(large)
        batch.secure()  # what the timer does
        assert sustained(other) == 2
        assert sums_wrong(site.folder / "meta.db") == []
        other.gc(delete=True, min_age_s=0)
        batch.write("/after", b"later pack")
    assert read_all(other, files) == files
    assert other.read_file("/large") == large
    assert other.read_file("/after") == b"later pack"
    volume.close()
    assert sustained(other) == 0
    assert sorted(row.refs for row in references(other)) == [1, 1, 100]
    assert other.gc(min_age_s=0).leaked_objects == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hold_whose_reply_was_lost_is_made_sure_of(site, content, when, caplog, monkeypatch):
    engine = FaultySqlite(site.folder / "meta.db")
    volume, other = site.open(meta=engine), site.open(cache_size=0)
    files = bodies(content, 100)
    volume.parts().meta.presence.ensure_session()
    volume.write_file("/takes/numbers", b"x")
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        with volume.open("/large", "wb", batch=batch) as file:
            file.write(content(2 * site.block, 7))
        engine.lose_commit, engine.lose_reply = when == "before", when == "after"
        batch.secure()
        assert ("could not be kept referenced" in caplog.text) == (when == "before")
        assert sustained(other) == (1 if when == "before" else 2)
        batch.secure()
        assert sustained(other) == 2
        other.gc(delete=True, min_age_s=0)
    caplog.clear()
    assert read_all(other, files) == files
    volume.close()
    engine.close()
    assert sustained(other) == 0
    assert other.gc(min_age_s=0).leaked_objects == 0


def test_a_batch_that_could_not_be_held_notices_what_collectors_took(site, content, monkeypatch):
    engine = FaultySqlite(site.folder / "meta.db")
    volume = site.open(meta=engine)
    volume.parts().meta.presence.ensure_session()
    volume.write_file("/takes/numbers", b"x")
    batch = volume.batch(deferred=True)
    for path, body in bodies(content, 100).items():
        batch.write(path, body)
    engine.lose_commit = True
    batch.secure()
    site.open().gc(delete=True, min_age_s=0)
    monkeypatch.setattr(writer_module, "_UNREFERENCED_S_MAX", -1.0)
    with pytest.raises(BatchError) as caught:
        batch.commit()
    assert isinstance(caught.value.__cause__, ObjectNotFoundError)
    volume.close()
    engine.close()


def test_a_long_batch_that_is_discarded_leaves_nothing(site, content):
    volume = site.open()
    batch = volume.batch(deferred=True)
    for path, body in bodies(content, 100).items():
        batch.write(path, body)
    with volume.open("/large", "wb", batch=batch) as file:
        file.write(content(2 * site.block, 7))
    batch.secure()
    batch.discard()
    volume.close()
    other = site.open()
    assert (sustained(other), references(other), site.block_names()) == (0, [], [])


def test_the_timer_of_a_batch_that_is_not_deferred_commits(site, content, monkeypatch):
    monkeypatch.setattr(batch_module, "_HOLD_EVERY_S", 0.02)
    volume, other = site.open(), site.open(cache_size=0)
    files = bodies(content, 40)
    with volume.batch() as batch:
        for path, body in files.items():
            batch.write(path, body)
        while not other.exists("/set/0000"):
            os.sched_yield()
        batch.write("/after", b"x")
    assert read_all(other, files) == files
    assert other.read_file("/after") == b"x"


@pytest.mark.parametrize("held", [False, True])
def test_a_large_file_that_is_refused_at_its_commit_leaves_nothing(site, content, held):
    volume, other = site.open(), site.open()
    batch = volume.batch(deferred=True)
    batch.write("/small", b"1")
    batch.write("/taken", content(2 * site.block), exclusive=True)
    other.make_directory("/taken")
    if held:
        batch.secure()
    with pytest.raises(BatchError):
        batch.commit()
    volume.close()
    assert len(site.block_names()) == 1
    assert (sustained(other), [row.refs for row in references(other)]) == (0, [1])


def test_what_is_held_does_not_count_twice(site, content):
    change_volume(site.meta, capacity_bytes=1 << 20)
    volume = site.open()
    files = {f"/{number}": content(site.block // 4, number) for number in range(36)}
    with volume.batch(deferred=True) as batch:
        for path, body in files.items():
            batch.write(path, body)
        batch.write("/large", content(site.block))
        batch.secure()
    assert read_all(volume, files) == files
    volume.close()
    other = site.open()
    assert other.usage().used_bytes == 36 * site.block // 4 + site.block


def test_stored_bytes_of_a_long_batch_are_let_go(site, content, monkeypatch):
    monkeypatch.setattr(pack_module, "FILES_MAX", 4)
    volume = site.open(looped=True, max_uploads=2)
    site.store(volume).delay("put", 0.001)
    with volume.batch(deferred=True) as batch:
        for number in range(100):
            batch.write(f"/{number}", content(site.block // 4, number))
            pending = sum(len(pack._uploads._pending) for pack in batch._waiting)
            assert pending <= 2 * batch_module._WAITING_MAX + 2
    assert volume.read_file("/99") == content(site.block // 4, 99)


def test_a_forgotten_batch_goes_with_its_timer(site, content):
    volume = site.open()
    batch = volume.batch(deferred=True)
    batch.write("/large", content(site.block))
    timer, alive = batch._timer, weakref.ref(batch)
    assert timer is not None
    del batch
    gc.collect()
    assert alive() is None
    timer.function(*timer.args)  # finds nobody
    timer.cancel()


@pytest.mark.parametrize("kind", ["pack", "file"])
def test_a_block_that_is_lost_while_it_is_secured_is_never_committed(site, content, kind):
    volume = site.open(looped=True)
    batch = volume.batch(deferred=True)
    site.store(volume).fail("put", [2])
    # The failure comes after the file was handed over: before, its constructor reports it.
    gate = asyncio.Event()
    site.store(volume).hold("put", gate)
    if kind == "pack":
        files = bodies(content, 30)
        for path, body in files.items():
            batch.write(path, body)
    else:
        files = {"/large": content(2 * site.block)}
        batch.add_file(StoredFile(volume.parts(), "/large", files["/large"], exclusive=False))
    loop_thread().loop.call_soon_threadsafe(gate.set)
    batch.secure()
    with pytest.raises((BatchError, ObjectError)):
        batch.commit()
    assert not any(site.open().exists(path) for path in files)
    assert site.block_names() == []


def test_an_append_that_was_held_does_not_count_twice(site, content):
    change_volume(site.meta, capacity_bytes=1 << 20)
    volume = site.open()
    volume.write_file("/log", b"begin")
    with volume.batch(deferred=True) as batch:
        with volume.open("/log", "ab", batch=batch) as file:
            file.write(content(600_000))
        batch.secure()
    assert volume.read_file("/log") == b"begin" + content(600_000)
