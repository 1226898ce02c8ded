"""Metadata as a file: what comes back on every engine, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from juicecache.errors import (
    ConfigError,
    EntryNotFoundError,
    NotDirectoryError,
    VolumeFormatError,
)
from juicecache.meta.acl import ACCESS, DEFAULT
from juicecache.meta.dump import loading
from juicecache.meta.engine import Engine
from juicecache.meta.quota import QuotaKind, count_owners, list_quotas, set_quota
from juicecache.meta.rows import Counter, DeletedFile
from juicecache.model.acl import Rule
from juicecache.model.attr import TRASH_INODE
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.testing.official import seen_by_us
from juicecache.testing.oracle import sums_wrong
from juicecache.testing.raw_metadata import read_raw
from juicecache.volume.dumping import dump_metadata, load_metadata
from juicecache.volume.formatting import change_volume, format_volume
from juicecache.volume.parts import open_engine
from juicecache.volume.volume import open_volume


def make(meta: str, folder: Path, **options: Any) -> None:
    """Make a volume with something of everything that a dump holds."""
    options = {"trash_days": 1, "block_size_kib": 64} | options
    format_volume(meta, "dumped", bucket=f"{folder}/objects/", remember=False, **options)
    with open_volume(meta, cache_size="0") as volume:
        volume.make_directory("/deep/er/still", parents=True)
        volume.write_file("/deep/er/file", b"content" * 20_000)
        volume.write_files([(f"/packed/{number}", b"%d" % number) for number in range(30)])
        volume.write_file("/linked", b"linked")
        volume.link("/linked", "/deep/link")
        volume.link("/linked", "/deep/er/link")
        volume.symlink("a%b\nc", "/symlink")
        volume.write_file(os.fsdecode(b'/na\xffme "\\%41'), b"odd")
        volume.set_xattr("/linked", "user.odd", b"\xff\x00%")
        volume.set_attr("/deep", mode=0o2750, uid=7, gid=8)
        with volume.open("/sparse", "wb") as file:
            file.write(b"x" * 10)
        volume.truncate("/sparse", 200 << 20)
        volume.write_file("/removed", b"in the trash")
        volume.unlink("/removed")
        volume.clone("/deep", "/clone")


@pytest.fixture(params=SHARED_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load_into(kind: str, folder: Path, dump: Path) -> str:
    (folder / kind).mkdir(exist_ok=True)
    meta = fresh_url(kind, folder / kind)
    load_metadata(meta, dump)
    return meta


def counters(meta: str) -> dict[str, int]:
    with closing(open_engine(meta, read_only=True)) as engine:
        rows = engine.read(
            lambda tx: tx.get_many(
                Counter, [("nextInode",), ("nextChunk",), ("nextSession",), ("nextTrash",)]
            )
        )
    return {row.name: row.value for row in rows if row is not None}


def test_all_comes_back_on_another_engine(kind: str, tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    dump = tmp_path / "dump.json"
    report = dump_metadata(source, dump)
    target = load_into(kind, tmp_path, dump)
    assert sums_wrong(target) == []
    with open_volume(source, cache_size="0") as one, open_volume(target, cache_size="0") as other:
        assert seen_by_us(one) == seen_by_us(other)
        assert one.usage() == other.usage()
        names = [[entry.name for entry in volume.trash()] for volume in (one, other)]
        assert names[0] == names[1] == ["removed"]
        assert other.fsck().ok
    again = tmp_path / "again.json"
    assert dump_metadata(target, again).entries == report.entries
    assert again.stat().st_size == dump_metadata(target, again).text_bytes
    first, second = (json.loads(path.read_text()) for path in (dump, again))
    assert first.pop("Counters") != second.pop("Counters")
    assert first == second


def test_counters_leap_and_ids_are_never_used_again(kind: str, tmp_path: Path) -> None:
    source = fresh_url(kind, tmp_path)
    make(source, tmp_path)
    dump = tmp_path / "dump.json.gz"
    dump_metadata(source, dump)
    before = counters(source)
    after = counters(load_into("sqlite" if kind != "sqlite" else "redis", tmp_path, dump))
    assert after.keys() == before.keys()
    assert all(after[name] >= before[name] + 1024 for name in before)
    assert after["nextChunk"] >= before["nextChunk"] + 10**9


def test_blocks_of_the_former_life_are_not_used(kind: str, tmp_path: Path) -> None:
    """Numbers of slices that recur, as after a restore by a client whose counters do not leap."""
    source = fresh_url(kind, tmp_path)
    make(source, tmp_path)
    dump = tmp_path / "dump.json"
    dump_metadata(source, dump)
    options = {"cache_dir": str(tmp_path / "cache"), "cache_size": "64M"}
    with open_volume(source, **options) as volume:
        volume.write_file("/later", b"former" * 1000)  # written behind the backup, and cached
        number = volume.explain("/later").blocks[0].object_name
        assert volume.read_file("/later") == b"former" * 1000
        former_namespace = volume.parts().layout.namespace
    target = load_into("sqlite" if kind != "sqlite" else "redis", tmp_path, dump)
    chunk = counters(source)["nextChunk"]
    with closing(open_engine(target, read_only=False)) as engine:
        # Undo the leap, so that only the epoch is left between the two lives.
        engine.write(lambda tx: tx.put(Counter("nextChunk", chunk - 4096)))
    with open_volume(target, **options) as volume:
        while True:
            volume.write_file("/later", b"latter" * 1000)
            if volume.explain("/later").blocks[0].object_name >= number:
                break
        assert volume.explain("/later").blocks[0].object_name == number
        assert volume.parts().layout.namespace != former_namespace
        assert volume.read_file("/later") == b"latter" * 1000
    with open_volume(target, **options) as volume:
        assert volume.read_file("/later") == b"latter" * 1000
    with open_volume(source, **options) as volume:  # what the former life has cached it still finds
        assert volume.parts().layout.namespace == former_namespace


def test_a_client_that_was_open_sees_the_restore(tmp_path: Path) -> None:
    meta = fresh_url("redis", tmp_path)
    make(meta, tmp_path)
    dump = tmp_path / "dump.json"
    dump_metadata(meta, dump)
    with open_volume(meta, cache_size="0") as volume:
        assert volume.read_file("/linked") == b"linked"
        with closing(open_engine(meta, read_only=False)) as engine:
            engine.erase()
        load_metadata(meta, dump)
        volume.parts().meta.gate.refresh()  # a heartbeat passes
        with pytest.raises(VolumeFormatError, match="restored from a dump"):
            volume.write_file("/new", b"x")


def test_quotas_owners_and_lists_come_back(kind: str, tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    rule = Rule(7, 5, 7, 0, ((1000, 6),), ())
    with closing(open_engine(source, read_only=False)) as engine:
        change_volume(engine, acl=True)
        count_owners(engine)
        with open_volume(source, cache_size="0") as volume:
            inode = volume.stat("/deep").inode
            volume.set_xattr("/deep", DEFAULT, rule.to_xattr())
            volume.set_xattr("/linked", ACCESS, rule.to_xattr())
        set_quota(engine, QuotaKind.DIRECTORY, inode, max_space=1 << 30, max_inodes=100)
        set_quota(engine, QuotaKind.USER, 7, max_space=1 << 31, max_inodes=0)
        set_quota(engine, QuotaKind.GROUP, 12345, max_space=0, max_inodes=5)
        quotas = list_quotas(engine)
    dump = tmp_path / "dump.json"
    dump_metadata(source, dump)
    target = load_into(kind, tmp_path, dump)
    assert sums_wrong(target) == []
    with closing(open_engine(target, read_only=True)) as engine:
        assert list_quotas(engine) == quotas
    with open_volume(target, cache_size="0") as volume:
        assert volume.get_xattr("/deep", DEFAULT) == rule.to_xattr()
        assert volume.get_xattr("/linked", ACCESS) == rule.to_xattr()
        volume.write_file("/deep/inherits", b"x")
        assert volume.get_xattr("/deep/inherits", ACCESS)


def test_a_part_of_the_tree_becomes_a_root(tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    dump = tmp_path / "part.json"
    dump_metadata(source, dump, subdir="/deep")
    target = load_into("redis", tmp_path, dump)
    with open_volume(target, cache_size="0") as volume:
        assert set(seen_by_us(volume)) == {b"/er", b"/er/file", b"/er/link", b"/er/still", b"/link"}
        assert volume.stat("/link").nlink == 2
        assert volume.stat("/").mode == 0o2750
        assert volume.read_file("/er/file") == b"content" * 20_000
    assert sums_wrong(target) == []
    with pytest.raises(NotDirectoryError):
        dump_metadata(source, dump, subdir="/linked")
    with pytest.raises(EntryNotFoundError):
        dump_metadata(source, dump, subdir="/nothing")


def test_without_the_trash(tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    dump = tmp_path / "dump.json"
    dump_metadata(source, dump, skip_trash=True)
    target = load_into("sqlite", tmp_path, dump)
    assert sums_wrong(target) == []
    with open_volume(target, cache_size="0") as volume:
        assert list(volume.trash()) == []
        volume.unlink("/linked")  # the trash works all the same
        assert len(list(volume.trash())) == 1


def test_secrets_stay_out_unless_they_are_wanted(tmp_path: Path) -> None:
    meta = fresh_url("sqlite", tmp_path)
    format_volume(
        meta,
        "secret",
        bucket=f"{tmp_path}/objects/",
        access_key="access",
        secret_key="hidden-key",
        remember=False,
    )
    plain, whole = tmp_path / "plain.json", tmp_path / "whole.json"
    dump_metadata(meta, plain)
    dump_metadata(meta, whole, keep_secret_key=True)
    assert json.loads(plain.read_text())["Setting"]["SecretKey"] == "removed"
    assert "hidden-key" not in plain.read_text() + whole.read_text()  # it is sealed in both
    assert stat.S_IMODE(whole.stat().st_mode) == 0o600
    (tmp_path / "sqlite").mkdir()
    report = load_metadata(fresh_url("sqlite", tmp_path / "sqlite"), plain)
    assert report.missing == ("secret_key",)
    with (
        pytest.raises(VolumeFormatError, match="juicecache config"),
        open_volume(f"sqlite3://{tmp_path}/sqlite/meta.db"),
    ):
        pass
    (tmp_path / "whole").mkdir()
    url = fresh_url("sqlite", tmp_path / "whole")
    assert load_metadata(url, whole).missing == ()
    with open_volume(url, cache_size="0") as volume:
        volume.write_file("/f", b"x")


def test_removed_files_keep_their_rows(kind: str, tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    with closing(open_engine(source, read_only=False)) as engine:
        engine.write(lambda tx: tx.put(DeletedFile(4242, 5, 99)))
    dump = tmp_path / "dump.json"
    dump_metadata(source, dump)
    target = load_into(kind, tmp_path, dump)
    with closing(open_engine(target, read_only=True)) as engine:
        found = engine.read(lambda tx: list(tx.scan(DeletedFile)))
    assert found == [DeletedFile(4242, 5, 99)]


# ---------------------------------------------------------------------- what goes wrong


def test_a_database_in_use_is_refused(kind: str, tmp_path: Path) -> None:
    meta = fresh_url(kind, tmp_path)
    make(meta, tmp_path)
    dump = tmp_path / "dump.json"
    dump_metadata(meta, dump)
    before = read_raw(meta)
    with pytest.raises(ConfigError, match="already holds the volume 'dumped'"):
        load_metadata(meta, dump)
    assert read_raw(meta) == before


def test_rows_without_a_record_are_left_alone(kind: str, tmp_path: Path) -> None:
    meta = fresh_url(kind, tmp_path)
    (tmp_path / "source").mkdir()
    source = fresh_url("sqlite", tmp_path / "source")
    make(source, tmp_path)
    dump = tmp_path / "dump.json"
    dump_metadata(source, dump)
    with closing(open_engine(meta, read_only=False)) as engine:
        engine.prepare()
        engine.write(lambda tx: tx.put(Counter("nextInode", 77)))
    with pytest.raises(ConfigError, match="not empty"):
        load_metadata(meta, dump)
    with closing(open_engine(meta, read_only=False)) as engine:
        assert engine.read(lambda tx: tx.get(Counter, "nextInode")) == Counter("nextInode", 77)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: text[: len(text) // 2], "JSON|ends"),
        (lambda text: text.replace('"type":"regular"', '"type":"odd"'), "no type that is known"),
        (lambda text: text.replace('"inode":3,', '"inode":-3,'), "inode is no whole number"),
        (lambda text: text.replace('"deep": {', '"../deep": {'), "no entry can have the name"),
        (lambda text: text.replace('"FSTree"', '"Tree"'), "FSTree"),
        (lambda text: text.replace('"Setting"', '"Settings"'), "before the record"),
        (lambda text: text.replace('"UUID"', '"Uuid"'), "setting record"),
        (lambda text: "[]", "where a start_map"),
        (lambda text: "", "JSON|start_map"),
        (lambda text: text + "x", "JSON"),
    ],
)
def test_what_is_no_dump_leaves_nothing_behind(damage: Any, what: str, tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    file = io.BytesIO()
    dump_metadata(source, file)
    (tmp_path / "target").mkdir()
    target = fresh_url("sqlite", tmp_path / "target")
    with pytest.raises(VolumeFormatError, match=what):
        load_metadata(target, io.BytesIO(damage(file.getvalue().decode()).encode()))
    load_metadata(target, io.BytesIO(file.getvalue()))  # the way is free
    assert sums_wrong(target) == []


def test_a_compressed_dump_that_is_cut_is_refused(tmp_path: Path) -> None:
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    dump = tmp_path / "dump.json.gz"
    dump_metadata(source, dump)
    whole = dump.read_bytes()
    assert json.loads(gzip.decompress(whole))["Setting"]["Name"] == "dumped"
    dump.write_bytes(whole[:-20])
    with pytest.raises(VolumeFormatError, match="dump"):
        load_metadata(f"sqlite3://{tmp_path}/target.db", dump)


def test_a_load_that_is_killed_is_made_again(kind: str, tmp_path: Path) -> None:
    """At every transaction of it, each time on what the one before has left."""
    source = fresh_url("sqlite", tmp_path)
    make(source, tmp_path)
    file = io.BytesIO()
    dump_metadata(source, file)
    (tmp_path / "target").mkdir()
    meta = fresh_url(kind, tmp_path / "target")
    at = 0
    while True:
        with closing(open_engine(meta, read_only=False)) as engine:
            kill_at(engine, at)
            try:
                load_metadata(engine, io.BytesIO(file.getvalue()))
                break
            except _KilledError:
                at += 1
            assert engine.setting() is None
    assert at > 3
    assert sums_wrong(meta) == []
    with open_volume(meta, cache_size="0") as volume:
        assert volume.fsck().ok


class _KilledError(BaseException):
    """The process ends."""


def kill_at(engine: Engine, left: int) -> None:
    """Let the process of an engine be killed before its n-th commit: it does nothing then."""
    write = engine.write

    def counted(body: Any) -> Any:
        nonlocal left
        if left == 0:
            engine.erase = lambda progress=None: None  # type: ignore[method-assign]
            raise _KilledError
        left -= 1
        return write(body)

    engine.write = counted  # type: ignore[method-assign]


# ---------------------------------------------------------------------- odd dumps


def document(entries: dict[str, Any], **members: Any) -> bytes:
    setting = {
        "Name": "odd",
        "UUID": "26936c66-e6d7-4988-9ffb-69c294e05461",
        "Storage": "file",
        "Bucket": "/nowhere/",
        "BlockSize": 4096,
        "Compression": "none",
        "MetaVersion": 1,
        "DirStats": True,
    }
    tree = {"attr": {"inode": 1, "type": "directory", "mode": 511}, "entries": entries}
    return json.dumps({"Setting": setting, **members, "FSTree": tree}).encode()


def regular(inode: int, **members: Any) -> dict[str, Any]:
    return {"attr": {"inode": inode, "type": "regular", "nlink": 1, "length": 3}, **members}


def folder(inode: int, **entries: Any) -> dict[str, Any]:
    return {"attr": {"inode": inode, "type": "directory", "nlink": 9}, "entries": entries}


def test_what_moved_during_the_dump_is_there_once(tmp_path: Path) -> None:
    chunks = [{"index": 0, "slices": [{"id": 9, "size": 3, "len": 3}]}]
    moved = folder(5, inside=regular(6, chunks=chunks), deeper=folder(7))
    dump = document({"a": moved, "b": folder(8, moved=moved), "c": regular(9), "d": regular(9)})
    meta = f"sqlite3://{tmp_path}/meta.db"
    report = load_metadata(meta, io.BytesIO(dump))
    assert (report.repeated, report.entries) == (1, 6)
    assert sums_wrong(meta) == []
    with open_volume(meta, read_only=True, cache_size="0") as volume:
        assert volume.stat("/c").nlink == 2
        assert sorted(seen_names(volume)) == ["/a", "/a/deeper", "/a/inside", "/b", "/c", "/d"]


def seen_names(volume: Any) -> list[str]:
    return [
        f"{directory.rstrip('/')}/{name}"
        for directory, entries in volume.walk("/")
        for name, _ in entries
    ]


def test_counts_in_a_dump_are_not_believed(tmp_path: Path) -> None:
    dump = document(
        {"a": folder(5)}, Counters={"usedSpace": 10**15, "usedInodes": -5, "nextInodes": 2}
    )
    meta = f"sqlite3://{tmp_path}/meta.db"
    load_metadata(meta, io.BytesIO(dump))
    assert sums_wrong(meta) == []
    assert counters(meta)["nextInode"] > 5


def test_a_deep_tree_needs_no_deep_stack(tmp_path: Path) -> None:
    depth = 3000
    head = document({}).decode().partition('"entries": {}')[0]
    levels = "".join(
        f'"entries":{{"d":{{"attr":{{"inode":{number},"type":"directory"}},'
        for number in range(2, depth + 2)
    )
    dump = head + levels + '"entries":{}' + "}}" * depth + "}}"
    meta = f"sqlite3://{tmp_path}/meta.db"
    assert load_metadata(meta, io.BytesIO(dump.encode())).entries == depth
    assert sums_wrong(meta) == []
    dump_metadata(meta, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text().count('"inode"') == depth + 1


def test_roots_are_met_nowhere_else(tmp_path: Path) -> None:
    for inode in (1, TRASH_INODE):
        with pytest.raises(VolumeFormatError, match="number of a root"):
            load_metadata(
                f"sqlite3://{tmp_path}/meta.db", io.BytesIO(document({"a": folder(inode)}))
            )


@pytest.mark.parametrize(
    "members",
    [
        {"Counters": [1]},
        {"Counters": {"nextInodes": 2**63 - 1}},
        {"DelFiles": {"a": 1}},
        {"DelFiles": [1]},
        {"Quotas": {"abc": {}}},
        {"Quotas": [1]},
        {"Quotas": {"1": 5}},
    ],
)
def test_what_is_of_another_kind_is_refused(kind: str, tmp_path: Path, members: Any) -> None:
    meta = fresh_url(kind, tmp_path)
    with pytest.raises(VolumeFormatError):
        load_metadata(meta, io.BytesIO(document({"f": regular(3)}, **members)))
    assert load_metadata(meta, io.BytesIO(document({"f": regular(3)}))).entries == 1


def test_no_file_has_the_number_of_a_directory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_BATCH", 1)
    with pytest.raises(VolumeFormatError, match="inode 5 is of two kinds"):
        load_metadata(
            fresh_url(kind, tmp_path), io.BytesIO(document({"a": folder(5), "b": regular(5)}))
        )


def test_a_file_in_the_tree_is_not_among_the_removed(kind: str, tmp_path: Path) -> None:
    removed = [{"inode": inode, "length": 3, "expire": 1} for inode in (3, 77, 77)]
    meta = fresh_url(kind, tmp_path)
    load_metadata(meta, io.BytesIO(document({"f": regular(3)}, DelFiles=removed)))
    with closing(open_engine(meta, read_only=True)) as engine:
        assert [row.inode for row in engine.read(lambda tx: list(tx.scan(DeletedFile)))] == [77]


@pytest.mark.parametrize("ends", [True, False])
def test_a_load_whose_place_was_taken_writes_and_erases_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(loading, "_BATCH", 2)
    text = document({f"f{number}": regular(number) for number in range(3, 30)})
    meta = fresh_url(kind, tmp_path)

    def another(entries: int) -> None:
        if entries == 10:
            if ends:
                load_metadata(meta, io.BytesIO(text))
                return
            with closing(open_engine(meta, read_only=False)) as engine:
                kill_at(engine, 5)
                with pytest.raises(_KilledError):
                    load_metadata(engine, io.BytesIO(text))

    with pytest.raises(ConfigError, match="another load began here meanwhile"):
        load_metadata(meta, io.BytesIO(text), progress=another)
    with closing(open_engine(meta, read_only=True)) as engine:
        assert (engine.setting() is not None) == ends
    if ends:
        assert sums_wrong(meta) == []
    else:
        load_metadata(meta, io.BytesIO(text))
        assert sums_wrong(meta) == []
