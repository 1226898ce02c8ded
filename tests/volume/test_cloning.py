"""Copies of directories: complete or not there, and counted right."""

from __future__ import annotations

import json
import os

import pytest

from juicecache.errors import EntryExistsError, QuotaExceededError
from juicecache.faces.cli.main import main
from juicecache.meta import cloning
from juicecache.meta.quota import QuotaKind, set_quota
from juicecache.meta.rows import DetachedNode
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.machines import assert_references_counted
from juicecache.testing.oracle import assert_clean, sums_wrong
from juicecache.volume import cloning as volume_cloning
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume, open_volume


@pytest.fixture(params=SHARED_KINDS)
def meta(request, tmp_path):
    meta = fresh_url(request.param, tmp_path)
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        trash_days=0,
        block_size_kib=64,
        remember=False,
    )
    yield meta
    assert sums_wrong(meta) == []


@pytest.fixture
def volume(meta):
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        yield volume
        for future in tuple(volume.parts().cleaning):  # content of what was removed
            future.result()
        assert_references_counted(volume.parts().engine)


def fill(volume: Volume) -> dict[str, bytes]:
    files = {f"/src/{number:02d}/{name}": os.urandom(3000) for number in range(5) for name in "abc"}
    volume.write_files(list(files.items()))
    files["/src/large"] = os.urandom(200_000)
    volume.write_file("/src/large", files["/src/large"])
    volume.write_file("/src/empty", b"")
    volume.make_directory("/src/deep/er", parents=True)
    volume.symlink("../large", "/src/deep/link")
    volume.set_xattr("/src/large", "user.colour", b"blue")
    volume.set_attr("/src/large", mode=0o640, uid=1000, gid=1000, mtime_ns=5)
    return files


def names(volume: Volume, top: str) -> list[str]:
    return sorted(
        f"{directory.removeprefix(top)}/{name}"
        for directory, entries in volume.walk(top)
        for name, _ in entries
    )


@pytest.mark.parametrize("page", [2, 500])
def test_a_copy_has_everything(volume, monkeypatch, page):
    monkeypatch.setattr(volume_cloning, "_PAGE", page)
    files = fill(volume)
    count = volume.clone("/src", "/copy")
    assert count == 1 + len(names(volume, "/src"))
    assert names(volume, "/copy") == names(volume, "/src")
    for path, body in files.items():
        assert volume.read_file(path.replace("/src", "/copy")) == body
    copy = volume.stat("/copy/large")
    assert (copy.mode, copy.uid, copy.nlink) == (0o640, os.getuid(), 1)
    assert copy.mtime_ns > 5
    assert volume.get_xattr("/copy/large", "user.colour") == b"blue"
    assert volume.readlink("/copy/deep/link") == "../large"
    assert volume.stat("/copy").nlink == volume.stat("/src").nlink
    volume.remove_tree("/src")
    assert volume.read_file("/copy/large") == files["/src/large"]


def test_owners_and_times_are_kept_on_request(volume):
    fill(volume)
    volume.clone("/src", "/copy", preserve=True)
    source, copy = volume.stat("/src/large"), volume.stat("/copy/large")
    assert (copy.uid, copy.gid, copy.mode, copy.mtime_ns) == (1000, 1000, 0o640, 5)
    assert copy.inode != source.inode
    assert volume.clone("/src/large", "/one", preserve=True) == 1
    assert volume.stat("/one").uid == 1000


def test_a_copy_below_itself_ends(volume):
    fill(volume)
    before = names(volume, "/src")
    volume.clone("/src", "/src/copy")
    assert names(volume, "/src/copy") == before


def test_a_name_that_is_taken_is_refused_and_nothing_is_left(volume, monkeypatch):
    fill(volume)
    volume.make_directory("/copy")
    with pytest.raises(EntryExistsError):
        volume.clone("/src", "/copy")
    attach = cloning.attach_clone

    def late(tx, ctx, place, inode, below):
        raise EntryExistsError("/late")

    before = volume.usage()
    monkeypatch.setattr(cloning, "attach_clone", late)
    with pytest.raises(EntryExistsError):
        volume.clone("/src", "/late")
    monkeypatch.setattr(cloning, "attach_clone", attach)
    assert volume.usage() == before
    assert volume.parts().engine.read(lambda tx: list(tx.scan(DetachedNode))) == []
    assert not volume.exists("/late")


def test_a_quota_counts_the_whole_copy(volume):
    fill(volume)
    volume.make_directory("/limited")
    limited = volume.stat("/limited").inode
    engine = volume.parts().engine
    set_quota(engine, QuotaKind.DIRECTORY, limited, max_inodes=10)
    volume.parts().meta.gate.refresh()
    with pytest.raises(QuotaExceededError):
        volume.clone("/src", "/limited/copy")
    assert volume.list_directory("/limited") == []
    set_quota(engine, QuotaKind.DIRECTORY, limited, max_inodes=1000)
    count = volume.clone("/src", "/limited/copy")
    volume.parts().meta.gate.refresh()
    volume.clone("/src/00", "/limited/second")
    from juicecache.meta.rows import DirQuota

    row = engine.read(lambda tx: tx.get(DirQuota, limited))
    assert row is not None
    assert row.used_inodes == count + 4


@pytest.mark.service
def test_the_official_client_finds_nothing_wrong(meta, capsys):
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        fill(volume)
    assert main(["clone", "--json", meta, "/src", "/copy2"]) == 0
    assert json.loads(capsys.readouterr().out)["copied"] > 20
    assert_clean(meta)
