"""Packed files under both clients: whoever reads, changes, clones, compacts or removes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache import JuiceCacheFileSystem
from juicecache.meta.rows import DelayedSlices, SliceRef
from juicecache.testing.file_model import FileModel
from juicecache.testing.kinds import Kind, with_engines
from juicecache.testing.official import SharedVolume, assert_same, seen_by_us
from juicecache.testing.oracle import assert_clean
from juicecache.volume.volume import Volume

pytestmark = pytest.mark.service

KINDS = [
    Kind("file", "none", "", 0),
    Kind("file", "lz4", "", 1),
    Kind("file", "zstd", "aes256gcm-rsa", 0),
    Kind("s3", "none", "chacha20-rsa", 1),
]
SMALL_MAX = 16 << 10
"""A quarter of a block."""

TAIL = b"appended" * 10_000


CASES = with_engines(KINDS)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].name()}-{case[1]}")
def case(request) -> tuple[Kind, str]:
    return request.param


@pytest.fixture
def engine_kind(case: tuple[Kind, str]) -> str:
    return case[1]


@pytest.fixture
def volume(request, case: tuple[Kind, str], shared: SharedVolume, rsa_key: str) -> SharedVolume:
    kind, _ = case
    options = kind.options(lambda: request.getfixturevalue("s3"), rsa_key)
    # In turn made by either.
    make = shared.format_ours if KINDS.index(kind) % 2 else shared.format_theirs
    make(**options)
    return shared


@pytest.fixture
def fs(volume: SharedVolume) -> Iterator[JuiceCacheFileSystem]:
    options = {"meta": volume.meta, "cache_size": "0", "skip_instance_cache": True}
    fs = JuiceCacheFileSystem(volume.name, **options)
    yield fs
    fs.volume.close()


def body(number: int) -> bytes:
    """Return content that is short, long, compressible or not, as the number wants it."""
    size = number * 1571 % (SMALL_MAX + 1)
    return (b"%d:" % number * size)[:size] if number % 3 else os.urandom(size)


def pack(fs: JuiceCacheFileSystem, local: Path) -> FileModel:
    """Write files in every way that packs; return what is in them."""
    piped = {f"/pipe/{number}": body(number) for number in range(16)}
    fs.pipe(piped)
    kept = {f"/kept/{number % 3}/{number}": body(100 + number) for number in range(9)}
    kept["/kept/large"] = os.urandom(200_000)
    with fs.transaction:
        for path, content in kept.items():
            with fs.open(path, "wb") as file:
                file.write(content)
    put = {f"/put/{number % 2}/{number}": body(200 + number) for number in range(9)}
    put["/put/large"] = os.urandom(70_000)
    for path, content in put.items():
        place = Path(f"{local}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    fs.put(f"{local}/put/", "/put/", recursive=True)
    model = FileModel()
    for path, content in (piped | kept | put).items():
        model.replace(path, content)
    return model


def packed_slices(ours: Volume) -> list[int]:
    """Return the reference counts of slices that several files share."""
    rows = ours.parts().engine.read(lambda tx: list(tx.scan(SliceRef)))
    return [row.refs for row in rows if row.refs > 1]


def assert_all(ours: Volume, point: Path, model: FileModel) -> None:
    """Assert that both clients see the model, and everything else alike."""
    assert_same(ours, point)
    seen = {os.fsdecode(path): one for path, one in seen_by_us(ours).items()}
    found = {path: one.content for path, one in seen.items() if stat.S_ISREG(one.mode)}
    assert sorted(found) == sorted(model.files)
    assert [path for path in found if found[path] != model.files[path]] == []


def change_theirs(volume: SharedVolume, point: Path, model: FileModel, folder: str) -> None:
    """Do to files 1 to 10 of a folder what the official client can do."""

    def at(path: str) -> str:
        return f"{point}{path}"

    one = [f"{folder}/{number}" for number in range(11)]
    for path in (f"{folder}/clone", f"{folder}/changed-clone"):
        volume.run("clone", at(one[1]), at(path))
    for path in (one[2], f"{folder}/changed-clone"):
        with open(at(path), "ab") as file:
            file.write(TAIL)
    with open(at(one[3]), "r+b") as file:
        file.seek(1000)
        file.write(b"overwritten")
    os.truncate(at(one[4]), 100)
    os.truncate(at(one[5]), 90_000)
    os.rename(at(one[6]), at(f"{folder}/moved"))
    os.unlink(at(one[7]))
    Path(at(one[8])).write_bytes(b"replaced")
    os.replace(at(one[9]), at(one[10]))
    _change_model(model, folder)


def change_ours(ours: Volume, model: FileModel, folder: str) -> None:
    """The same by this library; then a pack over what is there."""
    one = [f"{folder}/{number}" for number in range(11)]
    for path in (f"{folder}/clone", f"{folder}/changed-clone"):
        ours.copy_file(one[1], path)
    for path in (one[2], f"{folder}/changed-clone"):
        with ours.open(path, "ab") as file:
            file.write(TAIL)
    with ours.open(one[3], "r+b") as file:
        file.seek(1000)
        file.write(b"overwritten")
    ours.truncate(one[4], 100)
    ours.truncate(one[5], 90_000)
    ours.rename(one[6], f"{folder}/moved")
    ours.unlink(one[7])
    ours.write_file(one[8], b"replaced")
    ours.rename(one[9], one[10])
    _change_model(model, folder)
    again = {f"{folder}/{name}": b"again" * 500 for name in ("10", "new", "also new")}
    assert ours.write_files(list(again.items())) == [None] * 3
    for path, content in again.items():
        model.replace(path, content)


def _change_model(model: FileModel, folder: str) -> None:
    one = [f"{folder}/{number}" for number in range(11)]
    for path in (f"{folder}/clone", f"{folder}/changed-clone"):
        model.copy(one[1], path)
    for path in (one[2], f"{folder}/changed-clone"):
        model.write(path, len(model.content(path)), TAIL)
    model.write(one[3], 1000, b"overwritten")
    model.truncate(one[4], 100)
    model.truncate(one[5], 90_000)
    model.rename(one[6], f"{folder}/moved")
    model.unlink(one[7])
    model.replace(one[8], b"replaced")
    model.rename(one[9], one[10])


def write_theirs(point: Path, model: FileModel, folder: str) -> None:
    """Let the official client write ordinary files."""
    os.mkdir(f"{point}{folder}")
    for number in range(11):
        path, content = f"{folder}/{number}", body(300 + number)
        Path(f"{point}{path}").write_bytes(content)
        model.replace(path, content)


def test_either_client_changes_what_the_other_wrote(
    volume: SharedVolume, fs: JuiceCacheFileSystem, tmp_path: Path
) -> None:
    ours = fs.volume
    model = pack(fs, tmp_path / "local")
    assert len(packed_slices(ours)) == 3
    with volume.mounted() as point:
        assert_all(ours, point, model)
        change_theirs(volume, point, model, "/pipe")
        assert_all(ours, point, model)
        write_theirs(point, model, "/theirs")
        change_ours(ours, model, "/theirs")
        assert_all(ours, point, model)
        # A clone of packed files, then both change what was packed together.
        volume.run("clone", f"{point}/put", f"{point}/put-clone")
        for path in [path for path in model.files if path.startswith("/put/")]:
            model.copy(path, path.replace("/put/", "/put-clone/"))
        ours.rename("/put/0/2", "/put/1/2")
        model.rename("/put/0/2", "/put/1/2")
        os.unlink(f"{point}/put-clone/0/4")
        model.unlink("/put-clone/0/4")
        assert_all(ours, point, model)
        volume.run("compact", str(point))
        assert_all(ours, point, model)
    # Their clone counts the length of the new directories among those of files.
    report = ours.fsck(repair=True, sync_dir_stat=True)
    assert report.ok, report
    assert {line.partition(":")[0] for line in report.repaired} <= {"/", "/put-clone"}
    assert_clean(volume.meta)
    volume.run("gc", "--compact", "--delete", volume.meta)
    assert ours.gc(delete=True, compact=True, min_age_s=0).errors == ()
    with volume.mounted() as point:
        assert_all(ours, point, model)
    assert_clean(volume.meta)


def test_a_dump_of_packed_files_loads(
    volume: SharedVolume, fs: JuiceCacheFileSystem, tmp_path: Path
) -> None:
    model = pack(fs, tmp_path / "local")
    fs.volume.close()
    dump = volume.folder / "dump.json"
    volume.run("dump", "--keep-secret-key", volume.meta, str(dump))
    (tmp_path / "again").mkdir()
    loaded = SharedVolume(tmp_path / "again")
    loaded.run("load", loaded.meta, str(dump))
    with loaded.open() as ours, loaded.mounted() as point:
        assert_all(ours, point, model)
        change_ours(ours, model, "/pipe")
        assert_all(ours, point, model)
    assert_clean(loaded.meta)


def test_nothing_is_left_of_packed_files_that_are_removed(
    volume: SharedVolume, fs: JuiceCacheFileSystem, tmp_path: Path
) -> None:
    ours = fs.volume
    model = pack(fs, tmp_path / "local")
    with volume.mounted() as point:
        change_theirs(volume, point, model, "/pipe")
        ours.compact("/pipe")
        assert_all(ours, point, model)
        for path in sorted(model.files)[::2]:
            os.unlink(f"{point}{path}")
            model.unlink(path)
        assert_all(ours, point, model)
        volume.run("rmr", str(point / "kept"))
        ours.remove_tree("/pipe")
        ours.remove_tree("/put")
        assert ours.list_directory("/") == []
    assert_clean(volume.meta)
    volume.run("config", volume.meta, "--trash-days", "0", "--yes")
    volume.run("gc", "--delete", volume.meta)
    while ours.parts().engine.read(lambda tx: tx.exists(DelayedSlices) or tx.exists(SliceRef)):
        # What a compaction replaced stays until the second in which it did is over; and their
        # collector may end before its deletions, which the next one finishes.
        volume.run("gc", "--delete", volume.meta)
    assert ours.gc(min_age_s=0).objects == 0
    assert ours.usage().used_inodes == 0
    assert_clean(volume.meta)
