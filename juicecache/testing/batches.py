"""Small files for batches, and what a batch leaves in the metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from juicecache.meta.rows import SliceRef, Sustained
from juicecache.volume.volume import Volume


def bodies(content: Callable[[int, int], bytes], count: int, size: int = 4000) -> dict[str, bytes]:
    """Return contents of about ``size`` bytes by path; ``content`` makes one of size and seed."""
    return {f"/set/{number:04}": content(size + number % 7, number) for number in range(count)}


def write_all(volume: Volume, files: Mapping[str, bytes], *, deferred: bool = False) -> None:
    """Write files in one batch."""
    with volume.batch(deferred=deferred) as batch:
        for path, body in files.items():
            batch.write(path, body)


def read_all(volume: Volume, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what files contain now."""
    return {path: volume.read_file(path) for path in files}


def references(volume: Volume) -> list[SliceRef]:
    """Return the reference rows of all slices."""
    return volume.parts().engine.read(lambda tx: list(tx.scan(SliceRef)))


def sustained(volume: Volume) -> int:
    """Return how many files without a name the first session holds."""
    return len(volume.parts().engine.read(lambda tx: list(tx.scan(Sustained, 1))))
