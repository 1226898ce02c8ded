"""What users write, checked by mypy and never run: the public types must stay these."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, assert_type

import juicecache
from juicecache import JuiceCacheFileSystem, Volume, format_volume, open_volume
from juicecache.errors import EntryNotFoundError, FileError, JuicecacheError
from juicecache.volume.insight import FileLayout, VolumeStats
from juicecache.volume.warm import WarmReport


def through_a_volume(meta: str) -> None:
    format_volume(meta, "photos", bucket="/mnt/bucket", remember=False)
    with open_volume(meta, cache_dir="/dev/shm/jc", attr_cache="1s") as volume:
        assert_type(volume, Volume)
        volume.write_file("/a", b"content")
        assert_type(volume.read_file("/a", 0, 3), bytes)
        assert_type(volume.peek("/a"), bytes | None)
        assert_type(volume.stat("/a").length, int)
        assert_type(volume.explain("/a"), FileLayout)
        for entry in volume.list_directory("/"):
            assert_type(entry.name, str)


def through_fsspec(fs: JuiceCacheFileSystem) -> None:
    try:
        fs.pipe({"/a": b"1", "/b": b"2"})
    except juicecache.errors.BatchError as error:
        assert_type(error.committed, tuple[str, ...])
    assert_type(fs.cat_file("/a"), bytes)
    assert_type(fs.cat_ranges(["/a", "/b"], 0, [1, None]), list[bytes | Exception])
    assert_type(fs.exists("/a"), bool)
    assert_type(fs.modified("/a"), datetime)
    assert_type(fs.walk("/"), Iterator[tuple[str, Any, Any]])
    assert_type(fs.stats(), VolumeStats)
    assert_type(fs.explain("/a"), FileLayout)
    assert_type(fs.warmup(["/a"], progress=lambda report: print(report.files)), WarmReport)


async def through_coroutines(fs: JuiceCacheFileSystem) -> None:
    assert_type(await fs._cat_file("/a"), bytes)
    async with await fs.open_async("/a") as file:
        assert_type(await file.read(10), bytes)


def by_errors(fs: JuiceCacheFileSystem) -> int | None:
    try:
        fs.rm_file("/none")
    except EntryNotFoundError as error:
        known: FileNotFoundError = error
        return known.errno
    except FileError as error:
        os_error: OSError = error
        return os_error.errno
    except JuicecacheError:
        return None
    return 0


assert_type(juicecache.__version__, str)
