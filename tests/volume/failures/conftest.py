"""A volume on SQLite and a local directory, and ways to open it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from juicecache.config import VolumeOptions
from juicecache.testing.faults import FaultyStore
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume

BLOCK = 64 << 10
OpenVolume: TypeAlias = Callable[..., Volume]


@pytest.fixture
def meta(tmp_path: Path) -> str:
    address = f"sqlite3://{tmp_path}/meta.db"
    format_volume(
        address,
        "test",
        bucket=str(tmp_path / "store"),
        block_size_kib=BLOCK >> 10,
        trash_days=0,
        remember=False,
    )
    return address


@pytest.fixture
def open_volume(meta: str, tmp_path: Path) -> Iterator[OpenVolume]:
    """Open the volume with options; ``faults`` is a list that gets its store's double."""
    opened: list[Volume] = []

    def open_one(*, faults: list[FaultyStore] | None = None, **options: object) -> Volume:
        def wrap(store):
            double = FaultyStore(store)
            faults.append(double)
            return double

        options.setdefault("cache_dir", str(tmp_path / "cache"))
        parsed = VolumeOptions.from_options(options)
        volume = Volume(meta, parsed, wrap_store=None if faults is None else wrap)
        opened.append(volume)
        return volume

    yield open_one
    for volume in opened:
        volume.close()


@pytest.fixture
def volume(open_volume: OpenVolume) -> Volume:
    return open_volume()
