"""A volume with small blocks on a local directory, behind a store that fails on command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from juicecache.config import VolumeOptions
from juicecache.meta.engine import Engine
from juicecache.objects.store import ObjectStore
from juicecache.testing.faults import FaultyStore
from juicecache.testing.oracle import sums_wrong
from juicecache.volume import reader
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume


class LoopedStore(FaultyStore):
    """A faulty store whose requests run on the event loop, as those to a far bucket do."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.inline = False


class Site:
    """One volume on disk, and the clients of it that a test opens."""

    def __init__(self, folder: Path, block_kib: int) -> None:
        self.folder = folder
        self.block = block_kib << 10
        self.meta = f"sqlite3://{folder}/meta.db"
        self.objects = folder / "objects"
        self.setting = format_volume(
            self.meta,
            "site",
            bucket=str(self.objects),
            block_size_kib=block_kib,
            trash_days=0,
            remember=False,
        )
        self.opened: list[Volume] = []

    def options(self, **given: Any) -> VolumeOptions:
        given.setdefault("cache_dir", str(self.folder / "cache"))
        return VolumeOptions.from_options(given)

    def open(
        self, *, looped: bool = False, meta: str | Engine | None = None, **given: Any
    ) -> Volume:
        kind = LoopedStore if looped else FaultyStore
        volume = Volume(meta or self.meta, self.options(**given), wrap_store=kind)
        self.opened.append(volume)
        return volume

    def store(self, volume: Volume) -> FaultyStore:
        store = volume.parts().store
        assert isinstance(store, FaultyStore)
        return store

    def block_names(self) -> list[str]:
        root = self.objects / "site" / "chunks"
        return sorted(file.name for file in root.rglob("*_*") if file.is_file())

    def object_path(self, volume: Volume, path: str, number: int = 0) -> Path:
        return self.objects / volume.explain(path).blocks[number].object_name


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, 64)
    yield site
    for volume in site.opened:
        volume.close()


@pytest.fixture
def big_site(tmp_path: Path) -> Iterator[Site]:
    """A volume with blocks of 1 MiB: large enough that fetching a range pays."""
    site = Site(tmp_path, 1024)
    yield site
    for volume in site.opened:
        volume.close()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MISSING_PAUSES_S", (0.0, 0.0))


@pytest.fixture
def content() -> Callable[[int], bytes]:
    """Return a maker of bytes in which no two blocks are alike."""

    def make(size: int, seed: int = 0) -> bytes:
        words = (seed << 32 | number for number in range(-(-size // 8)))
        return b"".join(word.to_bytes(8, "little") for word in words)[:size]

    return make


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Volume]]:
    """Return a maker of clients without a cache of one volume; its sums are checked at the end."""
    opened: list[Volume] = []

    def make(*, trash_days: int = 0, hash_prefix: bool = False, **options: object) -> Volume:
        meta = f"sqlite3://{tmp_path}/meta.db"
        if not opened:
            format_volume(
                meta,
                "volume",
                bucket=f"{tmp_path}/bucket/",
                trash_days=trash_days,
                hash_prefix=hash_prefix,
                block_size_kib=64,
                remember=False,
            )
        options = {"cache_size": "0", **options}
        volume = Volume(meta, VolumeOptions.from_options(options), wrap_store=FaultyStore)
        opened.append(volume)
        return volume

    yield make
    for volume in opened:
        volume.close()
    assert sums_wrong(tmp_path / "meta.db") == []
