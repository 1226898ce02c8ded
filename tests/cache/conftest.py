"""Places with limits, made for one test: only root can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.testing.places import tmpfs


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 GiB."""
    with tmpfs(tmp_path / "memory", "1g") as point:
        yield point


class MemoryCgroup:
    """A cgroup of this test; ``members`` is the file that takes process ids."""

    def __init__(self, path: Path, limit_name: str) -> None:
        self._limit = path / limit_name
        self.members = str(path / "cgroup.procs")

    def limit(self, size_bytes: int) -> None:
        self._limit.write_text(str(size_bytes))


@pytest.fixture
def memory_cgroup() -> Iterator[MemoryCgroup]:
    tree = Path("/sys/fs/cgroup")
    name = f"juicecache-test-{os.getpid()}"
    for above, limit_name in ((tree / "memory", "memory.limit_in_bytes"), (tree, "memory.max")):
        path = above / name
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            if (path / limit_name).exists():
                yield MemoryCgroup(path, limit_name)
                return
        finally:
            path.rmdir()
    pytest.skip("no cgroup that limits memory can be made here")
