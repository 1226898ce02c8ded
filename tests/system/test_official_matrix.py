"""One volume, two clients, every way to store it: written by both, read by both, left clean.

The configurations are pairwise: each value of one choice meets each value of another.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from juicecache.model.layout import CHUNK_BYTES
from juicecache.testing.kinds import with_engines
from juicecache.testing.official import SharedVolume, assert_same
from juicecache.testing.oracle import assert_clean
from juicecache.volume.volume import Volume

pytestmark = pytest.mark.service


class Choice(NamedTuple):
    maker: str
    compress: str
    hash_prefix: bool
    encrypt: str
    trash_days: int
    storage: str


CHOICES = [
    Choice("ours", "none", False, "", 0, "file"),
    Choice("theirs", "none", True, "", 1, "s3"),
    Choice("theirs", "lz4", False, "", 0, "file"),
    Choice("ours", "lz4", True, "aes256gcm-rsa", 1, "file"),
    Choice("ours", "zstd", False, "", 1, "s3"),
    Choice("theirs", "zstd", True, "chacha20-rsa", 0, "file"),
    Choice("theirs", "none", False, "aes256gcm-rsa", 1, "file"),
    Choice("ours", "none", True, "chacha20-rsa", 0, "s3"),
]


def name_of(choice: Choice) -> str:
    words = [
        choice.maker,
        choice.compress,
        "hash" if choice.hash_prefix else "",
        choice.encrypt.partition("-")[0],
        "trash" if choice.trash_days else "",
        choice.storage,
    ]
    return "-".join(word for word in words if word)


CASES = with_engines(CHOICES)


@pytest.fixture(params=CASES, ids=lambda case: f"{name_of(case[0])}-{case[1]}")
def case(request) -> tuple[Choice, str]:
    return request.param


@pytest.fixture
def engine_kind(case: tuple[Choice, str]) -> str:
    return case[1]


@pytest.fixture
def volume(request, case: tuple[Choice, str], shared: SharedVolume, rsa_key: str) -> SharedVolume:
    choice, _ = case
    options: dict[str, Any] = {
        "compress": choice.compress,
        "hash_prefix": choice.hash_prefix,
        "trash_days": choice.trash_days,
        "block_size_kib": 256,
        "storage": choice.storage,
    }
    if choice.encrypt:
        options |= {"encrypt_rsa_key": rsa_key, "encrypt_algo": choice.encrypt}
    if choice.storage == "s3":
        server = request.getfixturevalue("s3")
        options |= {
            "bucket": f"{server.endpoint}/{server.fresh_bucket()}",
            "access_key": server.access_key,
            "secret_key": server.secret_key,
        }
    (shared.format_ours if choice.maker == "ours" else shared.format_theirs)(**options)
    return shared


def compressible(size: int, seed: int) -> bytes:
    return (b"%d:" % seed * (size // 2 + 1))[:size]


def write_ours(ours: Volume) -> None:
    """Files of all sizes, and everything else that a directory can hold."""
    ours.make_directory("/ours/deep", parents=True)
    for size in (0, 1, 4096, 262_144, 700_000):
        ours.write_file(f"/ours/{size}", os.urandom(size))
    ours.write_file("/ours/text", compressible(600_000, 1))
    ours.symlink("../0", "/ours/deep/link")
    ours.write_file("/ours/deep/name-\udcff\udcfe", b"not UTF-8")
    ours.link("/ours/4096", "/ours/deep/hard")
    ours.set_attr("/ours/1", mode=0o640, uid=1000, gid=100, mtime_ns=1_234_567_890_123_456_789)
    ours.set_xattr("/ours/1", "user.colour", b"blue\x00\xff")
    ours.write_file("/ours/big", b"a")
    with ours.open("/ours/big", "r+b") as file:
        file.seek(CHUNK_BYTES - 100)
        file.write(b"across a border" * 20)


def write_theirs(point: Path) -> None:
    folder = point / "theirs"
    (folder / "deep").mkdir(parents=True)
    for size in (0, 1, 4096, 262_144, 700_000):
        (folder / str(size)).write_bytes(os.urandom(size))
    (folder / "text").write_bytes(compressible(600_000, 2))
    os.symlink("../0", folder / "deep" / "link")
    with open(os.fsencode(folder) + b"/deep/name-\xff\xfe", "wb") as file:
        file.write(b"not UTF-8 either")
    os.link(folder / "4096", folder / "deep" / "hard")
    os.chown(folder / "1", 1000, 100)
    os.chmod(folder / "1", 0o640)
    os.setxattr(folder / "1", "user.colour", b"red\x00\xff")
    os.utime(folder / "1", ns=(1, 1_234_567_890_123_456_789))


def change_ours(ours: Volume) -> None:
    """Change what the other client made."""
    with ours.open("/theirs/700000", "r+b") as file:
        file.seek(250_000)
        file.write(b"overwritten" * 3000)
    with ours.open("/theirs/text", "ab") as file:
        file.write(b"appended")
    ours.truncate("/theirs/262144", 1000)
    ours.truncate("/theirs/262144", 500_000)
    ours.write_file("/theirs/4096", b"replaced")
    ours.rename("/theirs/deep/link", "/theirs/moved")
    ours.unlink("/theirs/0")
    ours.copy_file("/theirs/text", "/theirs/copy")


def change_theirs(point: Path) -> None:
    folder = point / "ours"
    with open(folder / "700000", "r+b") as file:
        file.seek(250_000)
        file.write(b"overwritten" * 3000)
    with open(folder / "text", "ab") as file:
        file.write(b"appended")
    os.truncate(folder / "262144", 1000)
    os.truncate(folder / "262144", 500_000)
    (folder / "4096").write_bytes(b"replaced")
    os.rename(folder / "deep" / "link", folder / "moved")
    os.unlink(folder / "0")
    with open(folder / "big", "r+b") as file:
        file.seek(CHUNK_BYTES + 9_000_000)
        file.write(b"behind a hole")


def test_both_write_and_read_in_turn(volume: SharedVolume) -> None:
    with volume.open(cache_dir="memory", cache_size="100M") as ours:
        with volume.mounted() as point:
            write_ours(ours)
            assert_same(ours, point)
            write_theirs(point)
            assert_same(ours, point)
            change_ours(ours)
            assert_same(ours, point)
            change_theirs(point)
            assert_same(ours, point)
            assert "/ours/700000" in volume.run("info", str(point / "ours" / "700000"))
            assert ours.compact("/") > 0
            volume.run("compact", str(point))
            assert_same(ours, point)
        report = ours.fsck(sync_dir_stat=True)
        assert report.ok, report
        found = ours.gc(min_age_s=0)
        assert (found.leaked_objects, found.errors) == (0, ())
        assert_clean(volume.meta)
        with volume.mounted() as point:
            volume.run("clone", str(point / "ours"), str(point / "cloned"))
            assert_same(ours, point)
        # Their clone counts the length of the new directory among those of files.
        report = ours.fsck(repair=True, sync_dir_stat=True)
        assert (report.ok, len(report.repaired)) == (True, 1)
    assert_clean(volume.meta)


def test_what_is_removed_leaves_nothing(volume: SharedVolume) -> None:
    with volume.open() as ours:
        write_ours(ours)
        with volume.mounted() as point:
            write_theirs(point)
            ours.remove_tree("/theirs", skip_trash=True)
            volume.run("rmr", "--skip-trash", str(point / "ours"))
        assert ours.list_directory("/") == []
        report = ours.gc(delete=True, min_age_s=0)
        assert report.errors == ()
        assert ours.gc(min_age_s=0).objects == 0
        assert ours.usage().used_inodes == 0
    assert_clean(volume.meta)


def test_a_dump_of_what_we_wrote_loads(volume: SharedVolume) -> None:
    with volume.open() as ours:
        write_ours(ours)
        before = {path: len(entries) for path, entries in ours.walk("/")}
    dump = volume.folder / "dump.json"
    volume.run("dump", "--keep-secret-key", volume.meta, str(dump))
    (volume.folder / "loaded").mkdir()
    loaded = replace(volume, folder=volume.folder / "loaded")
    loaded.run("load", loaded.meta, str(dump))
    with loaded.open() as ours:
        assert {path: len(entries) for path, entries in ours.walk("/")} == before
        assert ours.read_file("/ours/text") == compressible(600_000, 1)
    assert_clean(loaded.meta, volume.environment)
