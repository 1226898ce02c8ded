"""Damage is found and named, sums are mended, content is never touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from juicecache.errors import EntryNotFoundError, ReadOnlyVolumeError
from juicecache.meta.rows import Counter, DirStats, Edge, SliceRef
from juicecache.meta.service import Meta
from juicecache.model.attr import ROOT_INODE, Attr, NodeType
from juicecache.testing.oracle import sums_wrong
from juicecache.volume import fsck
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume, open_volume


@pytest.fixture(params=["none", "lz4", "encrypted"])
def volume(request, tmp_path: Path) -> Iterator[Volume]:
    options = {} if request.param == "encrypted" else {"compress": request.param}
    if request.param == "encrypted":
        options["encrypt_rsa_key"] = key_pem()
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/bucket/",
        trash_days=1,
        block_size_kib=64,
        remember=False,
        **options,
    )
    with open_volume(meta, cache_size="0") as volume:
        for path in ("/a/one", "/a/deep/two", "/b/three"):
            volume.write_file(path, path.encode() * 20_000)
        volume.symlink("one", "/a/link")
        volume.link("/a/one", "/b/hard")
        yield volume


def key_pem() -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def write(volume: Volume, body) -> None:
    volume.parts().engine.write(body)
    volume.forget()


def object_of(volume: Volume, path: str, number: int) -> Path:
    return Path(volume.setting.bucket) / volume.explain(path).blocks[number].object_name


def sums(volume: Volume) -> list[str]:
    return sums_wrong(Path(volume.parts().engine.describe().removeprefix("sqlite3://")))


def test_a_sound_volume_is_found_sound(volume: Volume) -> None:
    volume.remove_tree("/b")
    seen = []
    report = volume.fsck(sync_dir_stat=True, progress=lambda so_far: seen.append(so_far.files))
    assert report.ok, report
    assert (report.lost, report.damaged, report.sums, report.repaired) == ([], [], [], [])
    assert report.files >= 3
    assert report.blocks >= 6
    assert seen


def test_a_lost_block_is_named_with_its_file(volume: Volume) -> None:
    gone = object_of(volume, "/a/deep/two", 1)
    gone.unlink()
    report = volume.fsck()
    name = str(gone).removeprefix(volume.setting.bucket)
    assert (report.ok, report.lost_blocks) == (False, 1)
    assert report.lost == [f"/a/deep/two: {name}"]
    assert not volume.fsck(path="/a").ok
    assert not volume.fsck(path="/a/deep/two").ok
    assert volume.fsck(path="/b").ok


def test_a_block_of_the_wrong_size_is_named(volume: Volume) -> None:
    short = object_of(volume, "/b/three", 0)
    if volume.setting.compression == "lz4":
        short.write_bytes(b"")
    else:
        short.write_bytes(short.read_bytes()[:-1])
    report = volume.fsck()
    assert (report.ok, report.damaged_blocks) == (False, 1)
    assert report.damaged[0].startswith("/b/three: ")
    assert not volume.fsck(path="/b").ok


def test_wrong_sums_are_mended(volume: Volume) -> None:
    inode = volume.stat("/a").inode

    def spoil(tx) -> None:
        tx.add(Attr, inode, nlink=3)
        tx.add(DirStats, inode, data_length=5, used_space=-4096, used_inodes=1)
        tx.delete(DirStats, volume.stat("/b").inode)
        tx.add(Counter, "usedSpace", value=-10_000_000)
        tx.add(Counter, "totalInodes", value=7)

    write(volume, spoil)
    report = volume.fsck(sync_dir_stat=True)
    assert (report.ok, report.wrong_sums, report.repaired) == (False, 3, [])
    report = volume.fsck(sync_dir_stat=True, repair=True)
    assert (report.ok, report.wrong_sums, len(report.repaired)) == (True, 0, 3)
    assert volume.fsck(sync_dir_stat=True).repaired == []
    assert sums(volume) == []


def test_wrong_references_are_found_and_not_touched(volume: Volume) -> None:
    refs = volume.parts().engine.read(lambda tx: list(tx.scan(SliceRef)))
    write(
        volume,
        lambda tx: [
            tx.put(refs[0]._replace(refs=5)),
            tx.delete(SliceRef, refs[1].slice_id, refs[1].size),
            tx.put(SliceRef(70_000, 10, 2)),
        ],
    )
    report = volume.fsck(repair=True, sync_dir_stat=True)
    assert (report.ok, report.wrong_sums, report.repaired) == (False, 3, [])
    assert len(sums(volume)) == 3


def test_an_entry_without_an_inode_is_found(volume: Volume) -> None:
    write(volume, lambda tx: tx.put(Edge(ROOT_INODE, b"ghost", 70_000, NodeType.FILE)))
    report = volume.fsck(repair=True)
    assert (report.ok, report.sums) == (False, ["/: entry 'ghost' leads to no inode"])


def test_an_entry_of_a_directory_that_is_gone_is_found(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsck, "_EDGES_PAGE", 2)
    for number in range(3):
        write(volume, lambda tx, at=number: tx.put(Edge(77, b"%d" % at, 5, NodeType.FILE)))
    assert volume.fsck().sums == [
        f"inode 77 is gone and has an entry '{number}' of inode 5" for number in range(3)
    ]


def test_a_directory_that_goes_meanwhile_is_left_out(volume: Volume) -> None:
    gone = []

    def progress(_: object) -> None:
        if not gone:  # "/" was checked, and names what is below it
            gone.append(volume.remove_tree("/b", skip_trash=True))

    report = volume.fsck(progress=progress)
    assert gone
    assert report.ok, report


def test_a_directory_that_goes_while_it_is_checked_is_left_out(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Meta.children

    def vanishing(meta: Meta, path: str):
        found = children(meta, path)
        if path == "/b":
            volume.remove_tree("/b", skip_trash=True)
        return found

    monkeypatch.setattr(Meta, "children", vanishing)
    report = volume.fsck()
    assert report.ok, report
    assert report.directories == 4  # /, /a, /a/deep and the trash


def test_what_cannot_be_checked_or_repaired_says_so(volume: Volume) -> None:
    with pytest.raises(EntryNotFoundError):
        volume.fsck(path="/nowhere")
    meta = volume.parts().engine.describe()
    with open_volume(meta, read_only=True, cache_size="0") as reader:
        assert reader.fsck().ok
        with pytest.raises(ReadOnlyVolumeError):
            reader.fsck(repair=True)
