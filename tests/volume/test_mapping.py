"""Whole files as shared memory."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from juicecache.errors import EntryNotFoundError, IsDirectoryError, ObjectNotFoundError


def test_a_file_is_mapped_whole_and_read_only(site, content):
    volume = site.open()
    for size in (0, 1, 5 * site.block + 7):
        body = content(size)
        volume.write_file("/file", body)
        view = volume.map_file("/file")
        assert view == body
        assert view.readonly
    with pytest.raises(EntryNotFoundError):
        volume.map_file("/none")
    volume.make_directory("/d")
    with pytest.raises(IsDirectoryError):
        volume.map_file("/d")


def test_a_mapping_outlives_the_file_the_cache_and_the_volume(site, content):
    body = content(3 * site.block)
    volume = site.open()
    volume.write_file("/file", body)
    view = volume.map_file("/file")
    volume.write_file("/file", body[::-1])
    volume.warmup(["/file"], evict=True)
    volume.close()
    assert view == body


def test_forked_processes_share_the_memory(site, content):
    body = content(2 * site.block)
    volume = site.open()
    volume.write_file("/file", body)
    view = volume.map_file("/file")
    child = os.fork()
    if child == 0:
        os._exit(0 if view == body and "memfd:juicecache" in maps() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_holes_of_whole_chunks_take_no_memory_and_the_last_view_frees_the_rest(site):
    volume = site.open()
    with volume.open("/file", "wb") as file:
        file.write(b"first")
    volume.truncate("/file", 1 << 33)
    view = volume.map_file("/file")
    assert view[:6] == b"first\0"
    part = view[-10:]
    assert part == bytes(10)
    del view
    gc.collect()
    assert "memfd:juicecache" in maps()
    del part
    gc.collect()
    assert "memfd:juicecache" not in maps()


def test_a_failed_mapping_leaves_nothing(site, content, no_pauses):
    volume = site.open(cache_size=0)
    volume.write_file("/file", content(site.block))
    site.object_path(volume, "/file").unlink()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ObjectNotFoundError) as failed:
        volume.map_file("/file")
    del failed
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert "memfd:juicecache" not in maps()


def maps() -> str:
    return Path("/proc/self/maps").read_text()
