"""Features that all clients of a volume keep together: quotas, owners, lists, the change log."""

from __future__ import annotations

import errno
import os
import random
import re
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from juicecache.errors import QuotaExceededError
from juicecache.meta.acl import ACCESS, DEFAULT
from juicecache.meta.quota import Quota, QuotaKind, check_quota, list_quotas, set_quota
from juicecache.meta.rows import ChangeLine
from juicecache.testing.official import SharedVolume, assert_same
from juicecache.testing.oracle import assert_clean
from juicecache.volume.parts import open_engine
from juicecache.volume.volume import Volume

pytestmark = pytest.mark.service

NO_ID = 0xFFFF_FFFF
TOGETHER_S = 1.5


@contextmanager
def engine_of(shared: SharedVolume) -> Iterator[Any]:
    with closing(open_engine(shared.meta, read_only=False)) as engine:
        yield engine


def rows(shared: SharedVolume, table: type) -> list[Any]:
    with engine_of(shared) as engine:
        return list(engine.read(lambda tx: list(tx.scan(table))))


# ---------------------------------------------------------------------- quotas


def test_a_quota_of_the_official_client_is_kept(shared: SharedVolume) -> None:
    shared.format_theirs(trash_days=1)
    with shared.open() as volume:
        volume.make_directory("/q/deep", parents=True)
        volume.write_file("/q/deep/f", bytes(5000))
    shared.run("quota", "set", shared.meta, "--path", "/q", "--capacity", "1", "--inodes", "6")
    with shared.open() as volume:
        volume.write_file("/q/g", bytes(9000))
        volume.make_directory("/out/sub", parents=True)
        volume.write_file("/out/sub/h", b"x")
        volume.rename("/out/sub", "/q/sub")
        volume.write_file("/q/sixth", b"x")
        with pytest.raises(QuotaExceededError, match="6 inodes"):
            volume.write_file("/q/seventh", b"x")
        volume.link("/q/g", "/out/link")
        volume.unlink("/q/deep/f")
        volume.copy_file("/q/g", "/q/copy")
        with pytest.raises(QuotaExceededError, match=f"{1 << 30} bytes"):
            volume.truncate("/q/g", 1 << 30)
    shared.run("quota", "check", shared.meta, "--path", "/q")
    assert_clean(shared.meta)


def test_a_quota_of_ours_is_kept_by_a_mount(shared: SharedVolume) -> None:
    shared.format_ours(trash_days=0)
    with shared.open() as volume:
        volume.make_directory("/q")
        volume.write_file("/q/f", bytes(5000))
        inode = volume.stat("/q").inode
    with engine_of(shared) as engine:
        made = set_quota(engine, QuotaKind.DIRECTORY, inode, max_space=1 << 20, max_inodes=3)
        assert made == Quota(QuotaKind.DIRECTORY, inode, 1 << 20, 3, 8192, 1)
        assert list_quotas(engine) == [made]
    assert "1.0 MiB" in shared.run("quota", "list", shared.meta)
    with shared.mounted() as point:
        (point / "q/g").write_bytes(bytes(9000))
        (point / "q/h").write_bytes(b"x")
        with pytest.raises(OSError, match="quota") as refused:
            (point / "q/i").write_bytes(b"x")
        assert refused.value.errno == errno.EDQUOT
        (point / "q/f").unlink()
    shared.run("quota", "check", shared.meta, "--path", "/q")
    with engine_of(shared) as engine:
        stored, counted = check_quota(engine, QuotaKind.DIRECTORY, inode)
        assert (stored.used_space, stored.used_inodes) == counted == (4 * 4096, 2)
    assert_clean(shared.meta)


def test_what_users_and_groups_own_is_kept_together(shared: SharedVolume) -> None:
    shared.format_theirs(trash_days=0)
    with shared.open() as volume:
        volume.write_file("/early", bytes(5000))
        volume.set_attr("/early", uid=1000, gid=100)
    shared.run("quota", "set", shared.meta, "--uid", "1000", "--inodes", "3")
    with shared.open() as volume, shared.mounted() as point:
        for at in range(2):
            volume.write_file(f"/ours{at}", bytes(9000))
            (point / f"theirs{at}").write_bytes(bytes(9000))
        volume.set_attr("/ours0", uid=1000)
        os.chown(point / "theirs0", -1, 100)
        os.chown(point / "ours1", 7, 8)
        volume.set_attr("/theirs1", uid=8, gid=9)
        volume.unlink("/theirs0")
        os.truncate(point / "ours0", 1)
    shared.run("quota", "check", shared.meta, "--gid", "100")
    assert_clean(shared.meta)
    with engine_of(shared) as engine:
        stored, counted = check_quota(engine, QuotaKind.USER, 1000)
        assert (stored.max_inodes, counted) == (3, (3 * 4096, 2))


def act_at_random(
    seed: int, folders: list[str], actions: list[Callable[[str, str, int], object]]
) -> None:
    """Do random things to a few names in some folders for a while; most of them may fail."""
    chance = random.Random(seed)
    stop = time.monotonic() + TOGETHER_S
    while time.monotonic() < stop:
        one, other = (f"{chance.choice(folders)}/{seed}-{chance.randrange(20)}" for _ in range(2))
        try:
            chance.choice(actions)(one, other, chance.randrange(20_000))
        except OSError as error:
            # There is none, there is one, or both are the same.
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.EINVAL):
                raise


def test_both_write_below_quotas_at_the_same_time(shared: SharedVolume) -> None:
    """No link and no move by the official client: its quotas go wrong with these."""
    shared.format_theirs(trash_days=0)
    shared.run("config", shared.meta, "--user-group-quota", "--changelog", "--yes")
    folders = ["/a", "/a/b", "/c", "/c/d"]
    with shared.open() as volume:
        for folder in folders:
            volume.make_directory(folder)
    for folder in ("/a", "/a/b", "/c"):
        shared.run("quota", "set", shared.meta, "--path", folder, "--inodes", "100000")
    with shared.open() as volume, shared.mounted() as point:
        ours = [
            lambda path, _, size: volume.write_file(path, bytes(size)),
            lambda path, _, size: volume.truncate(path, size),
            lambda path, _, size: volume.set_attr(path, uid=size % 3, gid=size % 2),
            lambda path, *_: volume.unlink(path),
            lambda path, other, _: volume.rename(path, other),
            lambda path, other, _: volume.link(path, other),
            lambda path, other, _: volume.copy_file(path, other),
        ]
        theirs = [
            lambda path, _, size: Path(f"{point}{path}").write_bytes(bytes(size)),
            lambda path, _, size: os.truncate(f"{point}{path}", size),
            lambda path, _, size: os.chown(f"{point}{path}", size % 3, size % 2),
            lambda path, *_: os.unlink(f"{point}{path}"),
        ]
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(act_at_random, *it) for it in ((1, folders, ours), (2, folders, theirs))
            ]
            for one in both:
                one.result()
        volume.rename("/a/b", "/c/b")
    for folder in ("/a", "/c", "/c/b"):
        shared.run("quota", "check", shared.meta, "--path", folder)
    shared.run("quota", "check", shared.meta, "--gid", "1")
    assert_clean(shared.meta)


# ---------------------------------------------------------------------- lists


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


FULL = acl((1, 7, NO_ID), (2, 6, 1000), (4, 5, NO_ID), (8, 1, 50), (16, 7, NO_ID), (32, 4, NO_ID))
PLAIN = acl((1, 7, NO_ID), (4, 5, NO_ID), (32, 0, NO_ID))
MASKED = acl((1, 6, NO_ID), (4, 4, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID))


def lists_of(path: Path) -> dict[str, bytes]:
    names = [name for name in os.listxattr(path) if name in (ACCESS, DEFAULT)]
    return {name: os.getxattr(path, name) for name in names}


def our_lists_of(volume: Volume, path: str) -> dict[str, bytes]:
    names = [name for name in volume.list_xattr(path) if name in (ACCESS, DEFAULT)]
    return {name: volume.get_xattr(path, name) for name in names}


@pytest.mark.parametrize("default", [FULL, PLAIN, MASKED], ids=["full", "plain", "masked"])
def test_lists_are_set_and_inherited_alike(shared: SharedVolume, default: bytes) -> None:
    shared.format_theirs(trash_days=0, enable_acl=True)
    with shared.mounted() as point, shared.open() as volume:
        for client in ("ours", "theirs"):
            (point / client).mkdir()
        volume.set_xattr("/ours", DEFAULT, default)
        os.setxattr(point / "theirs", DEFAULT, default)
        volume.write_file("/ours/f", b"x")
        (point / "theirs/f").write_bytes(b"x")
        volume.make_directory("/ours/d")
        (point / "theirs/d").mkdir()
        volume.symlink("f", "/ours/s")
        (point / "theirs/s").symlink_to("f")
        for name in ("chmod", "set", "gone"):
            volume.write_file(f"/ours/{name}", b"x")
            (point / "theirs" / name).write_bytes(b"x")
        volume.set_attr("/ours/chmod", mode=0o640)
        os.chmod(point / "theirs/chmod", 0o640)
        volume.set_xattr("/ours/set", ACCESS, FULL)
        os.setxattr(point / "theirs/set", ACCESS, FULL)
        volume.set_xattr("/ours/gone", ACCESS, FULL)
        os.setxattr(point / "theirs/gone", ACCESS, FULL)
        volume.remove_xattr("/ours/gone", ACCESS)
        os.removexattr(point / "theirs/gone", ACCESS)
        assert_same(volume, point)
        for name in (".", "f", "d", "chmod", "set", "gone"):
            one, other = point / "ours" / name, point / "theirs" / name
            assert one.stat().st_mode == other.stat().st_mode, name
            found = lists_of(one)
            assert found == lists_of(other), name
            for client in ("ours", "theirs"):
                assert our_lists_of(volume, f"/{client}/{name}") == found, name
    assert_clean(shared.meta)


# ---------------------------------------------------------------------- the change log

_OWN = ("INCR_COUNTER", "NEWSESSION", "CLEANSESSION", "SET(", "DIRSTAT", "INIT_")
"""What depends on when a client takes numbers, renews its session and flushes its sums."""


def said(shared: SharedVolume) -> list[str]:
    """Return the operations of a log, without what differs from run to run.

    Those are times, sessions, numbers of slices, how many records a chunk had (not known on
    every engine), and whether the times of a directory moved: the official client leaves them
    where they moved a moment ago. What is dropped in the background stands at the end.
    """
    found = []
    for line in rows(shared, ChangeLine):
        match = re.fullmatch(r"\d+\.\d{9}\|(.*)\|\(\d+,\d+\)", line.text)
        assert match, line
        operation = re.sub(r",(true|false)\)", ")", match[1])
        if operation.startswith("WRITE"):
            operation = re.sub(r"(WRITE\(\d+,\d+,\d+),\d+,(\d+),.*", r"\1,\2)", operation)
        if operation.startswith("SETATTR"):
            times = re.compile(r"(SETATTR\((?:\d+,){6}\d+),.*,(\d+)\)")
            operation = times.sub(r"\1,\2)", operation)
        if not operation.startswith(_OWN):
            found.append(operation)
    return sorted(found, key=lambda operation: operation.startswith("DEL"))


def with_a_mount(point: Path) -> None:
    (point / "d").mkdir()
    (point / "d/f").write_bytes(b"hello")
    (point / "d/a,b%(c) é").write_bytes(b"")
    os.truncate(point / "d/f", 3)
    os.symlink("tar get", point / "d/s")
    os.link(point / "d/f", point / "d/f2")
    os.chmod(point / "d/f", 0o600)
    os.chown(point / "d/f", 1000, 1001)
    os.utime(point / "d/f", ns=(1, 2))
    os.setxattr(point / "d/f", "user.x y", b"v\0,(")
    os.removexattr(point / "d/f", "user.x y")
    os.rename(point / "d/f2", point / "d/f3")
    (point / "e").mkdir()
    os.rename(point / "d/s", point / "e/s")
    os.rename(point / "d/f3", point / "e/s")
    os.setxattr(point / "e", DEFAULT, FULL)
    os.setxattr(point / "d/f", ACCESS, FULL)
    os.removexattr(point / "e", DEFAULT)
    os.unlink(point / "d/f")
    os.unlink(point / "e/s")
    os.rmdir(point / "e")


def with_us(volume: Volume) -> None:
    volume.make_directory("/d")
    volume.write_file("/d/f", b"hello")
    volume.write_file("/d/a,b%(c) é", b"")
    volume.truncate("/d/f", 3)
    volume.symlink("tar get", "/d/s")
    volume.link("/d/f", "/d/f2")
    volume.set_attr("/d/f", mode=0o600)
    volume.set_attr("/d/f", uid=1000, gid=1001)
    volume.set_attr("/d/f", atime_ns=1, mtime_ns=2)
    volume.set_xattr("/d/f", "user.x y", b"v\0,(")
    volume.remove_xattr("/d/f", "user.x y")
    volume.rename("/d/f2", "/d/f3")
    volume.make_directory("/e")
    volume.rename("/d/s", "/e/s")
    volume.rename("/d/f3", "/e/s")
    volume.set_xattr("/e", DEFAULT, FULL)
    volume.set_xattr("/d/f", ACCESS, FULL)
    volume.remove_xattr("/e", DEFAULT)
    volume.unlink("/d/f")
    volume.unlink("/e/s")
    volume.remove_directory("/e")


def test_both_write_the_same_change_log(shared: SharedVolume, tmp_path: Path) -> None:
    found = []
    for name in ("theirs", "ours"):
        folder = tmp_path / name
        folder.mkdir()
        one = SharedVolume(folder, engine=shared.engine)
        one.format_theirs(trash_days=0, enable_acl=True)
        one.run("config", one.meta, "--changelog", "--yes")
        if name == "theirs":
            with one.mounted() as point:
                with_a_mount(point)
        else:
            with one.open() as volume:
                with_us(volume)
        found.append(said(one))
        assert_clean(one.meta)
    theirs, ours = found
    assert ours == theirs
