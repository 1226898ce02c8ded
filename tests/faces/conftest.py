"""A volume on SQLite and a local directory, and file systems that look at it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from juicecache import JuiceCacheFileSystem, format_volume

if TYPE_CHECKING:
    from juicecache.testing.servers import S3Server

NAME = "faces"


class Place(NamedTuple):
    """Where the volume of a test is, and how a client of it is told."""

    meta: str
    folder: Path

    @property
    def options(self) -> dict[str, Any]:
        return {"meta": self.meta, "cache_dir": str(self.folder / "cache")}

    def url(self, path: str = "/") -> str:
        return f"juicecache://{NAME}{path}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, NAME, bucket=str(tmp_path / "objects"), remember=False)
    return Place(meta, tmp_path)


@pytest.fixture
def s3_place(s3: S3Server, tmp_path: Path) -> Place:
    """The same over an S3 server: the only storage that needs the loop thread."""
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(
        meta,
        NAME,
        storage="s3",
        bucket=f"{s3.endpoint}/{s3.fresh_bucket()}",
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        remember=False,
    )
    return Place(meta, tmp_path)


@pytest.fixture
def run_script() -> Callable[..., str]:
    """Return a runner of scripts in a process of their own, where a hang ends by the timeout."""

    def run(source: str, *arguments: str, flags: Sequence[str] = ()) -> str:
        done = subprocess.run(
            [sys.executable, *flags, "-c", textwrap.dedent(source), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def _close_instances() -> Iterator[None]:
    """Close what fsspec keeps for the process: clients under test open by URL."""
    yield
    for fs in JuiceCacheFileSystem._cache.values():
        fs.volume.close()
    JuiceCacheFileSystem.clear_instance_cache()


@pytest.fixture
def open_fs(place: Place) -> Iterator[Callable[..., JuiceCacheFileSystem]]:
    """Return a maker of file systems on the volume, which are closed with the test."""
    made: list[JuiceCacheFileSystem] = []

    def make(**options: Any) -> JuiceCacheFileSystem:
        fs = JuiceCacheFileSystem(NAME, **{**place.options, **options})
        made.append(fs)
        return fs

    yield make
    for fs in made:
        fs.volume.close()


@pytest.fixture
def fs(open_fs: Callable[..., JuiceCacheFileSystem]) -> JuiceCacheFileSystem:
    return open_fs()
