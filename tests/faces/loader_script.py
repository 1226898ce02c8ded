"""Reads a set of files by a DataLoader whose workers start in one of three ways.

Run as ``loader_script.py WAY META CACHE_DIR CACHE_SIZE``; prints what it read.
"""

from __future__ import annotations

import sys
from typing import Any

import fsspec
from torch.utils.data import DataLoader, Dataset

COUNT = 40


class Files(Dataset[tuple[int, int]]):
    """The files of a volume; the file system travels with it to the workers."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        self.paths = fs.ls("/set", detail=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, int]:
        path = self.paths[index]
        whole = self.fs.cat_file(path)
        with self.fs.open(path) as file:
            assert file.read() == whole
        assert self.fs.info(path)["size"] == len(whole)
        return whole[0], len(whole)


def main(way: str, meta: str, cache_dir: str, cache_size: str) -> None:
    """Use the file system in every manner here, then from the workers of two epochs."""
    fs = fsspec.filesystem(
        "juicecache", volume="faces", meta=meta, cache_dir=cache_dir, cache_size=cache_size
    )
    fs.pipe({f"/set/{n:03}": bytes([n]) * (n * 1000 + 1) for n in range(COUNT)})
    fs.cat("/set", recursive=True)
    fs.get("/set/*", cache_dir + "-copy/")  # starts the loop and the threads
    still_open = fs.open("/set/030")
    still_open.read(5)
    loader = DataLoader(
        Files(fs),
        batch_size=4,
        num_workers=2,
        multiprocessing_context=way,
        persistent_workers=True,
    )
    for _ in range(2):
        read = [(int(n), int(size)) for batch in loader for n, size in zip(*batch, strict=True)]
        assert read == [(n, n * 1000 + 1) for n in range(COUNT)], read
    assert still_open.read() == bytes([30]) * (30 * 1000 + 1 - 5)
    fs.pipe("/after", b"works")
    sys.stdout.write(f"{len(read)} {fs.cat('/after').decode()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
