"""Trees brought into line: between local files, volumes and what fsspec opens."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from juicecache import format_volume, open_volume
from juicecache.errors import ConfigError, EntryNotFoundError, InvalidNameError
from juicecache.faces.cli.main import main
from juicecache.faces.sync.item import End, Item, Kind, checked
from juicecache.faces.sync.local import LocalEnd
from juicecache.faces.sync.options import SyncOptions, SyncReport
from juicecache.faces.sync.pace import Pace
from juicecache.faces.sync.remote import RemoteEnd
from juicecache.faces.sync.run import synchronise
from juicecache.faces.sync.stored import VolumeEnd
from juicecache.testing.oracle import assert_clean
from juicecache.testing.processes import in_child
from juicecache.volume.volume import Volume

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    meta = f"sqlite3://{tmp_path}/meta.db"
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", block_size_kib=64, trash_days=0)
    return meta


@pytest.fixture
def volume(meta: str) -> Iterator[Volume]:
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        yield volume
    assert_clean(meta)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with small and large files, an empty directory, a link, and odd names."""
    top = tmp_path / "source"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    for number in range(30):
        (top / "deep" / f"small{number}").write_bytes(b"%d" % number * 100)
    (top / "large").write_bytes(os.urandom((1 << 20) + 7))
    (top / "deep" / "er" / "none").write_bytes(b"")
    (top / os.fsdecode(b"na\xffme")).write_bytes(b"odd")
    (top / "deep.txt").write_bytes(b"sorted between deep and deep/")
    (top / "link").symlink_to("large")
    (top / "nowhere").symlink_to("nothing")
    return top


def contents(end: End, *, links: bool = False) -> dict[str, bytes]:
    """Return the files of an end by path, links as what they lead to."""
    found = {}
    for item in end.walk(lambda path: True, follow=not links):
        if item.kind is Kind.FILE:
            found[item.path] = end.read(item.path, item.size)
        elif item.kind is Kind.LINK and links:  # else one that leads nowhere
            found[item.path] = b"-> " + os.fsencode(end.read_link(item.path))
    return found


def ends(name: str, tmp_path: Path, volume: Volume) -> End:
    if name == "local":
        return LocalEnd(str(tmp_path / "target"))
    if name == "volume":
        return VolumeEnd(volume, "/target", "juicecache://volume/target")
    if name == "memory":
        fsspec.filesystem("memory").store.clear()
        return RemoteEnd("memory://target")
    return RemoteEnd(f"local://{tmp_path}/remote")


@pytest.fixture(params=["local", "volume", "memory", "renamed"])
def target(request: pytest.FixtureRequest, tmp_path: Path, volume: Volume) -> End:
    return ends(request.param, tmp_path, volume)


def sync(source: End, target: End, **options: Any) -> SyncReport:
    report = synchronise(source, target, SyncOptions(**options))
    assert report.errors == [], report
    return report


def test_everything_arrives_once(source: Path, target: End) -> None:
    origin = LocalEnd(str(source))
    wanted = contents(origin)
    report = sync(origin, target)
    assert contents(target) == wanted
    assert (report.copied, report.handled) == (len(wanted), len(wanted))
    assert report.copied_bytes == sum(map(len, wanted.values()))
    again = sync(origin, target)
    assert (again.copied, again.skipped) == (0, len(wanted))


def test_it_comes_back(source: Path, target: End, tmp_path: Path) -> None:
    sync(LocalEnd(str(source)), target)
    back = LocalEnd(str(tmp_path / "back"))
    sync(target, back)
    assert contents(back) == contents(LocalEnd(str(source)))


def test_what_changed_is_copied_and_what_is_gone_is_deleted(source: Path, target: End) -> None:
    origin = LocalEnd(str(source))
    sync(origin, target)
    (source / "deep" / "small1").write_bytes(b"of another size")
    later = time.time_ns() + HOUR_NS
    (source / "deep" / "small2").write_bytes(b"s" * 100)
    os.utime(source / "deep" / "small2", ns=(later, later))
    (source / "deep" / "small3").unlink()
    assert sync(origin, target, dry=True, delete_dst=True).deleted == 1
    assert "deep/small3" in contents(target)
    report = sync(origin, target, delete_dst=True)
    assert (report.copied, report.deleted) == (2, 1)
    assert contents(target) == contents(origin)


def test_contents_may_be_compared(source: Path, target: End) -> None:
    origin = LocalEnd(str(source))
    sync(origin, target)
    status = (source / "large").stat()
    content = (source / "large").read_bytes()
    (source / "large").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(source / "large", ns=(0, status.st_mtime_ns - HOUR_NS))
    assert sync(origin, target).copied == 0
    report = sync(origin, target, check_all=True)
    assert report.copied == 2  # and the link to it
    assert report.checked_bytes >= 1 << 20
    assert contents(target) == contents(origin)
    assert sync(origin, target, check_all=True).copied == 0
    assert sync(origin, target, force_update=True, check_new=True).failed == 0


def test_a_volume_copies_to_itself_by_records(source: Path, volume: Volume) -> None:
    one, other = (VolumeEnd(volume, f"/{name}", name) for name in ("one", "other"))
    sync(LocalEnd(str(source)), one)
    sync(one, other)
    assert contents(one) == contents(other)
    assert volume.explain("/one/large").blocks == volume.explain("/other/large").blocks


def test_small_files_are_packed(source: Path, volume: Volume) -> None:
    sync(LocalEnd(str(source)), VolumeEnd(volume, "/target", "target"))
    names = {
        block.object_name
        for number in range(30)
        for block in volume.explain(f"/target/deep/small{number}").blocks
    }
    assert len(names) <= 2


def test_links_and_owners_may_be_kept(source: Path, volume: Volume, tmp_path: Path) -> None:
    os.chmod(source / "deep", 0o750)
    os.chmod(source / "large", 0o640)
    os.utime(source / "large", ns=(5, 1_000_000_000_123_456_789))
    stored = VolumeEnd(volume, "/target", "target")
    options: dict[str, Any] = {"links": True, "perms": True, "dirs": True}
    report = sync(LocalEnd(str(source)), stored, **options)
    assert report.copied == len(contents(LocalEnd(str(source)), links=True))
    back = LocalEnd(str(tmp_path / "back"))
    sync(stored, back, **options)
    assert contents(back, links=True) == contents(LocalEnd(str(source)), links=True)
    for name in ("deep", "large", "empty"):
        ours, theirs = (source / name).stat(), (tmp_path / "back" / name).stat()
        assert (ours.st_mode, ours.st_uid) == (theirs.st_mode, theirs.st_uid)
    assert (tmp_path / "back" / "large").stat().st_mtime_ns == 1_000_000_000_123_456_789
    assert sync(stored, back, **options).copied == 0


def test_directories_come_and_go(source: Path, target: End) -> None:
    origin = LocalEnd(str(source))
    sync(origin, target, dirs=True)
    kinds = {item.path: item.kind for item in target.walk(lambda path: True, follow=True)}
    assert kinds["empty"] is Kind.DIRECTORY
    (source / "empty").rmdir()
    (source / "deep" / "er" / "none").unlink()
    (source / "deep" / "er").rmdir()
    sync(origin, target, dirs=True, delete_dst=True)
    names = {item.path for item in target.walk(lambda path: True, follow=True)}
    assert not {"empty", "deep/er"} & names
    assert "deep" in names


def test_the_source_may_be_emptied(source: Path, target: End) -> None:
    origin = LocalEnd(str(source))
    (source / "link").unlink()
    wanted = contents(origin)
    sync(origin, target)
    (source / "new").write_bytes(b"new")
    report = sync(origin, target, delete_src=True)
    assert (report.deleted, report.copied) == (len(wanted), 1)
    assert contents(origin) == {"new": b"new"}
    (source / "newer").write_bytes(b"newer")
    assert sync(origin, target, delete_src_after=True).deleted == 1
    assert contents(origin) == {"new": b"new"}
    assert contents(target) == {**wanted, "new": b"new", "newer": b"newer"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"min_size": 201}, ["large", "link"]),
        ({"max_size": 0}, ["deep/er/none"]),
        ({"start": "deep/small8", "end": "deep/small9"}, ["deep/small8", "deep/small9"]),
        ({"files_from": ("deep/er", "deep.txt")}, ["deep.txt", "deep/er/none"]),
        ({"max_age_s": 1800.0}, ["large", "link"]),
        ({"min_age_s": 1800.0, "max_size": 90}, ["deep.txt", "deep/er/none", "na\udcffme"]),
        ({"existing": True}, []),
    ],
)
def test_a_part_may_be_taken(
    options: dict[str, Any], wanted: list[str], source: Path, tmp_path: Path
) -> None:
    old = time.time_ns() - HOUR_NS
    for path in source.rglob("*"):
        if path.is_file() and path.name not in ("large", "link"):
            os.utime(path, ns=(old, old))
    target = LocalEnd(str(tmp_path / "target"))
    sync(LocalEnd(str(source)), target, **options)
    assert sorted(contents(target)) == wanted


def test_what_is_there_may_be_left_alone(source: Path, tmp_path: Path) -> None:
    target = LocalEnd(str(tmp_path / "target"))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "large").write_bytes(b"mine")
    os.utime(tmp_path / "target" / "large", ns=(0, 2 * 10**18))  # newer than the source
    sync(LocalEnd(str(source)), target, ignore_existing=True)
    assert contents(target)["large"] == b"mine"
    sync(LocalEnd(str(source)), target, update=True)
    assert contents(target)["large"] == b"mine"
    sync(LocalEnd(str(source)), target)
    assert contents(target) == contents(LocalEnd(str(source)))


def test_a_number_of_files_may_be_the_limit(source: Path, target: End) -> None:
    for count in (0, 3, 3):
        assert sync(LocalEnd(str(source)), target, limit=count).handled == count
    assert len(contents(target)) == 3


# ---------------------------------------------------------------------- what goes wrong


def test_one_failure_does_not_stop_the_others(source: Path, volume: Volume) -> None:
    volume.write_file("/target/deep.txt/in the way", b"x")
    report = synchronise(
        LocalEnd(str(source)), VolumeEnd(volume, "/target", "target"), SyncOptions()
    )
    assert (report.failed, report.handled - report.copied) == (1, 1)
    assert report.errors[0].startswith("deep.txt: ")


def test_too_many_failures_do(source: Path, volume: Volume) -> None:
    for number in range(30):
        volume.make_directory(f"/target/deep/small{number}", parents=True)
    report = synchronise(
        LocalEnd(str(source)),
        VolumeEnd(volume, "/target", "target"),
        SyncOptions(max_failure=2, threads=1, force_update=True),
    )
    assert report.failed >= 3


def test_a_source_that_changes_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = LocalEnd(str(tmp_path / "target"))
    store = LocalEnd.store

    def changing(self: LocalEnd, path: str, *arguments: Any) -> None:
        store(self, path, *arguments)
        with open(source / path, "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(LocalEnd, "store", changing)
    options = SyncOptions(check_change=True, files_from=("large",))
    report = synchronise(LocalEnd(str(source)), target, options)
    assert report.errors == ["large: it changed while it was copied"]


@pytest.mark.parametrize("name", ["..", "a/../b", "", "a//b", "a\0b", "."])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        checked(name)


def test_no_file_is_written_outside_of_the_target(tmp_path: Path) -> None:
    class Hostile(LocalEnd):
        def listed(self, folder: str, *, follow: bool) -> list[Item]:
            return [Item("../escaped", Kind.FILE, 1), Item("fine", Kind.FILE, 1)]

        def open(self, path: str) -> Any:
            return open(tmp_path / "fine", "rb")

    (tmp_path / "fine").write_bytes(b"x")
    (tmp_path / "source").mkdir()
    report = synchronise(
        Hostile(str(tmp_path / "source")), LocalEnd(str(tmp_path / "into")), SyncOptions()
    )
    assert report.failed == 1
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["fine"]
    assert not (tmp_path / "escaped").exists()


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError):
        sync(LocalEnd(str(tmp_path / "nothing")), LocalEnd(str(tmp_path / "target")))


@pytest.mark.parametrize(("one", "other"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("", "a/x")])
def test_nothing_is_copied_into_itself(
    tmp_path: Path, volume: Volume, one: str, other: str
) -> None:
    def ends(name: str) -> list[End]:
        return [
            LocalEnd(f"{tmp_path}/tree/{name}"),
            VolumeEnd(volume, f"/{name}", name),
            RemoteEnd(f"memory://tree/{name}"),
        ]

    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/b/file").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    pairs = [
        *zip(ends(one), ends(other), strict=True),
        (LocalEnd(f"{tmp_path}/link/{one}"), ends(other)[0]),
    ]
    for source, target in pairs:
        with pytest.raises(ConfigError, match="one of them lies in the other"):
            synchronise(source, target, SyncOptions(delete_src=True, delete_dst=True))
    assert (tmp_path / "tree/a/b/file").read_bytes() == b"precious"
    assert not ends("a")[0].overlaps(ends("ab")[0])
    assert not any(end.overlaps(LocalEnd(f"{tmp_path}/tree")) for end in ends("a")[1:])


@pytest.mark.parametrize("dirs", [False, True])
def test_what_a_link_leads_to_is_never_removed(tmp_path: Path, volume: Volume, dirs: bool) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("file", "deep/file"):
        (outside / name).write_bytes(b"precious")
        volume.write_file(f"/outside/{name}", b"precious")
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from/kept").write_bytes(b"kept")
    (tmp_path / "to/folder").symlink_to(outside)
    (tmp_path / "to/one").symlink_to(outside / "file")
    volume.make_directory("/to")
    volume.symlink("../outside", "/to/folder")
    volume.symlink("../outside/file", "/to/one")
    for target in (LocalEnd(str(tmp_path / "to")), VolumeEnd(volume, "/to", "/to")):
        report = synchronise(
            LocalEnd(str(tmp_path / "from")), target, SyncOptions(delete_dst=True, dirs=dirs)
        )
        assert (report.failed, report.copied, report.deleted) == (0, 1, 2 if dirs else 1)
        left = {item.path for item in target.listed("", follow=False)}
        assert left == ({"kept"} if dirs else {"kept", "folder"})
    assert (outside / "file").read_bytes() == (outside / "deep/file").read_bytes() == b"precious"
    assert volume.read_file("/outside/file") == volume.read_file("/outside/deep/file")


def test_a_source_is_emptied_of_what_is_in_it(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"precious")
    (tmp_path / "from").mkdir()
    (tmp_path / "from/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "from/one").symlink_to(tmp_path / "outside/file")
    report = synchronise(
        LocalEnd(str(tmp_path / "from")),
        VolumeEnd(volume, "/to", "/to"),
        SyncOptions(delete_src_after=True),
    )
    assert (report.failed, report.copied, report.deleted) == (0, 2, 1)
    assert [path.name for path in (tmp_path / "from").iterdir()] == ["folder"]
    assert (tmp_path / "outside/file").read_bytes() == b"precious"
    assert volume.read_file("/to/folder/file") == b"precious"


def test_what_a_lost_link_had_stays_at_the_target(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/file").write_bytes(b"precious")
    (tmp_path / "from").mkdir()
    (tmp_path / "from/data").symlink_to(tmp_path / "disk")
    origin, target = LocalEnd(str(tmp_path / "from")), VolumeEnd(volume, "/to", "/to")
    assert sync(origin, target).copied == 1
    (tmp_path / "disk").rename(tmp_path / "away")
    assert sync(origin, target, delete_dst=True, dirs=True).deleted == 0
    assert volume.read_file("/to/data/file") == b"precious"


def test_a_source_that_changed_is_not_removed(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / "from").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).write_bytes(b"old")

    class Changing(LocalEnd):
        def read(self, path: str, size: int | None) -> bytes:
            content = super().read(path, size)
            if path == "a":
                (tmp_path / "from/a").write_bytes(b"newer")
            return content

    options = SyncOptions(delete_src_after=True)
    report = synchronise(Changing(str(tmp_path / "from")), VolumeEnd(volume, "/to", "/to"), options)
    assert (report.failed, report.deleted) == (1, 1)
    assert (tmp_path / "from/a").read_bytes() == b"newer"


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/large").write_bytes(bytes(1_000_000))

    def copy() -> bool:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        ends = LocalEnd(str(tmp_path / "from")), LocalEnd(str(tmp_path / "to"))
        report = synchronise(*ends, SyncOptions(delete_src_after=True, threads=1))
        return (report.failed, report.copied, report.deleted) != (1, 0, 0)

    assert in_child(copy) == 0
    assert (tmp_path / "from/large").stat().st_size == 1_000_000
    assert list((tmp_path / "to").iterdir()) == []


def test_one_tree_under_two_names_is_one_tree(tmp_path: Path, volume: Volume) -> None:
    volume.write_file("/dir/file", b"precious")
    volume.symlink("dir", "/link")
    for one, other in (("/./dir", "/dir"), ("/link", "/dir"), ("/dir", "/link/deeper")):
        with pytest.raises(ConfigError, match="one of them lies in the other"):
            synchronise(
                VolumeEnd(volume, one, one),
                VolumeEnd(volume, other, other),
                SyncOptions(delete_src=True),
            )
    assert volume.read_file("/dir/file") == b"precious"


def test_circles_of_links_end(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / "source" / "inner").mkdir(parents=True)
    (tmp_path / "source" / "inner" / "up").symlink_to("..")
    (tmp_path / "source" / "file").write_bytes(b"x")
    stored = VolumeEnd(volume, "/target", "target")
    assert sync(LocalEnd(str(tmp_path / "source")), stored).copied == 1
    sync(LocalEnd(str(tmp_path / "source")), stored, links=True)
    assert sync(stored, LocalEnd(str(tmp_path / "back"))).copied == 1


def test_a_run_that_is_killed_goes_on(meta: str, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(3000):
        (source / f"{number:04}").write_bytes(b"%d" % number * 50)
    words = [sys.executable, "-m", "juicecache", "sync", str(source), "juicecache://volume/many"]
    process = subprocess.Popen([*words, "--bwlimit", "2"])
    with open_volume(meta, cache_size="0", no_bgjob=True) as volume:
        while process.poll() is None:
            volume.forget()
            if volume.exists("/many") and len(volume.list_directory("/many")) >= 1000:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        assert process.wait() == -signal.SIGKILL
        done = subprocess.run([*words, "--json"], check=True, capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["skipped"] >= 1000
        assert report["copied"] + report["skipped"] == 3000
        volume.forget()
        ours = contents(VolumeEnd(volume, "/many", "many"))
    assert ours == contents(LocalEnd(str(source)))
    main(["gc", meta, "--delete"])


# ---------------------------------------------------------------------- pace and command


def test_bytes_pass_at_the_limit_and_no_faster() -> None:
    now = 0.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    pace = Pace(1000, lambda: now, sleep)
    for _ in range(10):
        pace.take(500)
    assert 4.5 <= now <= 5.0
    now += 100  # a pause is no credit for more than a burst
    before = now
    for _ in range(4):
        pace.take(500)
    assert now - before >= 1.5
    Pace(0, lambda: now, sleep).take(10**12)
    assert len(slept) <= 14


def test_the_command(
    meta: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "juicecache://volume/data"
    assert main(["sync", str(source), place, "--exclude", "small*", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["copied"], report["failed"]) == (5, 0)
    rules = ["--include", "small1", "--exclude", "small*"]
    assert main(["sync", *rules, place, f"{tmp_path}/out/", "--deleteDst", "--dry"]) == 0
    assert "would copy 5 files" in capsys.readouterr().out
    assert main(["sync", f"{source}/large", f"{place}/into/"]) == 0
    assert main(["sync", f"{place}/into/large", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one").read_bytes() == (source / "large").read_bytes()
    capsys.readouterr()
    assert main(["sync", f"{place}/nothing", str(tmp_path / "out")]) == 1
    assert "nothing" in capsys.readouterr().err
    (tmp_path / "list").write_text("deep/small1\n\ndeep/er\n")
    words = ["--files-from", str(tmp_path / "list"), "--start-time", "2020-01-01 00:00:00"]
    assert main(["sync", str(source), str(tmp_path / "listed"), *words]) == 0
    assert sorted(contents(LocalEnd(str(tmp_path / "listed")))) == ["deep/er/none", "deep/small1"]


def test_failures_are_told(meta: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_volume(meta, cache_size="0") as volume:
        volume.make_directory("/data/large", parents=True)
    assert main(["sync", str(source), "juicecache://volume/data"]) == 1
    err = capsys.readouterr().err
    assert "juicecache: error: large: " in err
    assert main(["sync", str(source), "none-such://user:hidden@host/x"]) == 1
    err = capsys.readouterr().err
    assert "none-such" in err
    assert "hidden" not in err


def test_errors_hide_what_an_address_holds(tmp_path: Path) -> None:
    class Broken(LocalEnd):
        def store(self, path: str, *arguments: Any) -> None:
            raise OSError("cannot reach s3://key:hidden@bucket/x")

    (tmp_path / "f").write_bytes(b"x")
    report = synchronise(LocalEnd(str(tmp_path / "f")), Broken(str(tmp_path / "g")), SyncOptions())
    assert report.errors == ["cannot reach s3://****@bucket/x"]
