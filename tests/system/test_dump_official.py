"""Metadata that one client dumps and the other loads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.official import Seen, SharedVolume, seen_by_mount, seen_by_us
from juicecache.testing.oracle import assert_clean, leaked, sums_wrong
from juicecache.testing.servers import run_juicefs
from juicecache.volume.dumping import dump_metadata, load_metadata

pytestmark = pytest.mark.service


def fill(shared: SharedVolume) -> None:
    """Write with both clients what a dump must carry over."""
    with shared.open() as volume:
        volume.make_directory("/ours/deep", parents=True)
        volume.write_file("/ours/large", os.urandom(300_000))
        volume.write_files([(f"/ours/packed/{number}", b"%d" % number) for number in range(40)])
        volume.link("/ours/large", "/ours/deep/link")
        volume.set_xattr("/ours/large", "user.odd", b"\xff\x00%41")
    with shared.mounted() as point:
        (point / "theirs").mkdir()
        os.chown(point / "theirs", 1000, 1001)
        with open(point / "theirs" / "file", "wb") as file:
            for _ in range(3):
                file.write(os.urandom(100_000))
                file.flush()
                os.fsync(file.fileno())
        os.truncate(point / "theirs" / "file", 70 << 20)
        os.symlink("a%20b\\", point / "theirs" / "link")
        os.mkfifo(point / "theirs" / "pipe")
        (point / os.fsdecode(b'na\xffme"')).write_bytes(b"odd")
        (point / "removed").write_bytes(b"trash")
        (point / "removed").unlink()


def other_engine(shared: SharedVolume, folder: Path) -> SharedVolume:
    """Return a place for the same volume on the next engine."""
    kind = SHARED_KINDS[(SHARED_KINDS.index(shared.engine) + 1) % len(SHARED_KINDS)]
    (folder / "other").mkdir()
    return SharedVolume(folder / "other", engine=kind)


def without_links(seen: dict[bytes, Seen]) -> dict[bytes, Any]:
    """Of directories an official ``load`` does not count the links anew."""
    return {path: one._replace(nlink=0) for path, one in seen.items()}


def test_ours_is_loaded_by_the_official_client(shared: SharedVolume, tmp_path: Path) -> None:
    shared.format_ours(trash_days=1)
    fill(shared)
    dump_metadata(shared.meta, tmp_path / "dump.json.gz")
    other = other_engine(shared, tmp_path)
    run_juicefs("load", other.meta, str(tmp_path / "dump.json.gz"))
    with shared.open() as volume, other.mounted() as point:
        assert without_links(seen_by_us(volume)) == without_links(seen_by_mount(point))
    run_juicefs("fsck", other.meta)
    assert leaked(other.meta) == 0
    with other.open() as volume, shared.open() as former:
        assert [entry.name for entry in volume.trash()] == ["removed"]
        assert volume.usage() == former.usage()


def test_theirs_is_loaded_by_us(shared: SharedVolume, tmp_path: Path) -> None:
    shared.format_theirs(trash_days=1)
    fill(shared)
    run_juicefs("dump", shared.meta, str(tmp_path / "dump.json"))
    other = other_engine(shared, tmp_path)
    load_metadata(other.meta, tmp_path / "dump.json")
    assert sums_wrong(other.meta) == []
    with shared.open() as volume, other.mounted() as point:
        assert seen_by_us(volume) == seen_by_mount(point)
        (point / "theirs" / "after").write_bytes(b"the official client goes on")
    with other.open() as volume:
        volume.write_file("/ours/after", b"and so do we")
        assert volume.read_file("/theirs/after") == b"the official client goes on"
    assert_clean(other.meta)


def test_both_write_the_same_dump(shared: SharedVolume, tmp_path: Path) -> None:
    shared.format_ours(trash_days=1)
    fill(shared)
    dump_metadata(shared.meta, tmp_path / "ours.json")
    run_juicefs("dump", shared.meta, str(tmp_path / "theirs.json"))
    ours, theirs = (
        json.loads((tmp_path / name).read_text()) for name in ("ours.json", "theirs.json")
    )
    # Numbers that are free are written as the engine keeps them; ours are the same on all.
    ours_counters, their_counters = ours.pop("Counters"), theirs.pop("Counters")
    assert ours_counters.keys() == their_counters.keys()
    for name in ("usedSpace", "usedInodes", "nextTrash"):
        assert ours_counters[name] == their_counters[name], name
    assert ours == theirs


def test_a_restored_volume_of_the_official_client_is_mended(tmp_path: Path) -> None:
    """Its ``load`` counts references twice on SQL: what is loaded by us is right again."""
    shared = SharedVolume(tmp_path, engine="sqlite")
    shared.format_ours(trash_days=0)
    with shared.open() as volume:
        volume.write_file("/f", b"x" * 100_000)
    run_juicefs("dump", shared.meta, str(tmp_path / "dump.json"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    theirs = fresh_url("postgres", tmp_path / "first")
    run_juicefs("load", theirs, str(tmp_path / "dump.json"))
    dump_metadata(theirs, tmp_path / "again.json")
    ours = fresh_url("sqlite", tmp_path / "second")
    load_metadata(ours, tmp_path / "again.json")
    assert_clean(ours)
