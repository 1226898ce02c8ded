"""The tree through fsspec: addresses, looking, changing, insight."""

from __future__ import annotations

import errno
import pickle
import time
from datetime import UTC, datetime, timedelta

import fsspec
import pytest

from juicecache import JuiceCacheFileSystem, format_volume
from juicecache.errors import ConfigError

ODD_NAMES = [
    "with space",
    " leading and trailing ",
    "per%20cent#hash?mark",
    "new\nline",
    "colon:and::more",
    "ünïcode-文件-🧃",
    "bad-\udcff-byte",
    "[bracket]",
    "star*",
    "-dash",
    "...",
    "jc:",
    "x" * 255,
]


# ---------------------------------------------------------------------- addresses


def test_entry_points_serve_both_protocols(fs, place):
    fs.pipe("/a/b.txt", b"content")
    for protocol in ("juicecache", "jc"):
        url = f"{protocol}://faces/a/b.txt"
        other, path = fsspec.url_to_fs(url, **place.options)
        assert isinstance(other, JuiceCacheFileSystem)
        assert path == "/a/b.txt"
        with fsspec.open(url, **place.options) as file:
            assert file.read() == b"content"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("juicecache://faces", "/"),
        ("juicecache://faces/", "/"),
        ("jc://faces/a/b/", "/a/b"),
        ("juicecache:///a", "/a"),
        ("", "/"),
        ("a/b", "/a/b"),
        ("/a//b///c", "/a/b/c"),
        ("/a/jc://x", "/a/jc:/x"),
    ],
)
def test_paths_are_brought_to_one_form(given, path):
    assert JuiceCacheFileSystem._strip_protocol(given) == path


def test_a_path_has_a_full_url(fs):
    assert fs.unstrip_protocol("/a/b") == "juicecache://faces/a/b"
    assert fs.unstrip_protocol("jc://faces/a/b") == "juicecache://faces/a/b"
    assert fs.volume.setting.uuid in fs.fsid


def test_a_url_of_another_volume_is_refused(fs):
    fs.pipe("/x", b"kept")
    for call in (fs.rm, fs.cat, fs.info, fs.exists, lambda path: fs.mv("/x", path)):
        with pytest.raises(ConfigError, match=r"in volume 'photos', .* is volume 'faces'"):
            call("juicecache://photos/x")
    with pytest.raises(ConfigError, match="photos"):
        fs.rm(["/x", "jc://photos/x"])
    assert [fs.cat(path) for path in ("/x", "jc://faces/x", "juicecache:///x")] == [b"kept"] * 3
    assert pickle.loads(pickle.dumps(fs)).cat("juicecache://faces/x") == b"kept"


def test_the_environment_and_the_list_know_the_volume(place, tmp_path, monkeypatch):
    monkeypatch.setenv("JUICECACHE_META", place.meta)
    fs = fsspec.filesystem("juicecache", volume="faces", cache_dir=place.options["cache_dir"])
    fs.pipe("/a", b"1")
    with fsspec.open("juicecache:///a", cache_dir=place.options["cache_dir"]) as file:
        assert file.read() == b"1"
    monkeypatch.delenv("JUICECACHE_META")
    monkeypatch.setenv("JUICECACHE_CONFIG", str(tmp_path / "volumes.toml"))
    with pytest.raises(ConfigError, match="unknown volume 'listed'"):
        JuiceCacheFileSystem("listed")
    format_volume(f"sqlite3://{tmp_path}/listed.db", "listed", bucket=str(tmp_path / "more"))
    listed = JuiceCacheFileSystem("listed", cache_size=0)
    assert listed.ls("/") == []


def test_an_address_of_another_volume_is_refused(place):
    with pytest.raises(ConfigError, match="leads to volume 'faces'"):
        JuiceCacheFileSystem("photos", **place.options)


def test_an_unknown_option_names_the_nearest(place):
    with pytest.raises(ConfigError, match="did you mean 'cache_size'"):
        JuiceCacheFileSystem("faces", meta=place.meta, cach_size="1GiB")
    with pytest.raises(ConfigError, match="unknown option 'volum'; did you mean 'volume'"):
        JuiceCacheFileSystem(volum="faces")


def test_a_subdir_must_be_there_when_the_volume_is_opened(fs, open_fs):
    fs.pipe({"/file": b"", "/d/below": b"1"})
    for missing in ("/nope", "file", "d/below/more"):
        with pytest.raises(ConfigError, match=f"option subdir: '{missing}'"):
            open_fs(subdir=missing)
    assert open_fs(subdir="d").ls("/", detail=False) == ["/below"]


def test_a_put_that_is_run_again_lands_in_the_same_place(fs, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "big/one").write_bytes(b"1")
    for _ in range(2):
        fs.put(f"{tmp_path}/big/", "/x/", recursive=True)
        assert fs.find("/") == ["/x/one"]


# ---------------------------------------------------------------------- looking


@pytest.fixture
def planted(fs):
    fs.pipe({"/top.txt": b"1", "/a/one.bin": b"22", "/a/b/two.bin": b"333", "/c/three.txt": b""})
    fs.makedirs("/empty")
    return fs


def test_info_has_the_keys_of_the_local_file_system(planted):
    info = planted.info("/a/b/two.bin")
    assert info["name"] == "/a/b/two.bin"
    assert info["type"] == "file"
    assert info["size"] == 3
    assert info["mode"] & 0o170000 == 0o100000
    assert not info["islink"]
    assert info["nlink"] == 1
    assert abs(info["mtime"] - time.time()) < 60
    assert planted.info("/")["type"] == "directory"
    assert planted.size("/a/one.bin") == 2
    assert planted.sizes(["/a/one.bin", "/top.txt"]) == [2, 1]


def test_ls(planted):
    assert planted.ls("/", detail=False) == ["/a", "/c", "/empty", "/top.txt"]
    assert planted.ls("/a", detail=True) == [planted.info("/a/b"), planted.info("/a/one.bin")]
    assert planted.ls("/top.txt", detail=False) == ["/top.txt"]
    assert planted.listdir("/empty") == []


def test_questions(planted):
    assert planted.exists("/a")
    assert planted.isdir("/a")
    assert not planted.isfile("/a")
    assert planted.isfile("/top.txt")
    for absent in ("/none", "/top.txt/below", "/" + "x" * 300, "/a/../a"):
        assert not planted.exists(absent)
        assert not planted.lexists(absent)
        assert not planted.isdir(absent)
        assert not planted.isfile(absent)


def test_walk_find_glob_du(planted):
    assert list(planted.walk("/")) == [
        ("/", ["a", "c", "empty"], ["top.txt"]),
        ("/a", ["b"], ["one.bin"]),
        ("/a/b", [], ["two.bin"]),
        ("/c", [], ["three.txt"]),
        ("/empty", [], []),
    ]
    assert [step[0] for step in planted.walk("/a", topdown=False)] == ["/a/b", "/a"]
    assert [step[0] for step in planted.walk("/", maxdepth=1)] == ["/"]
    assert planted.find("/") == ["/a/b/two.bin", "/a/one.bin", "/c/three.txt", "/top.txt"]
    assert planted.find("/", maxdepth=1, withdirs=True) == ["/", "/a", "/c", "/empty", "/top.txt"]
    assert planted.find("/top.txt") == ["/top.txt"]
    assert planted.find("/none") == []
    assert planted.find("/a", detail=True)["/a/one.bin"]["size"] == 2
    assert planted.glob("/a/*") == ["/a/b", "/a/one.bin"]
    assert planted.glob("juicecache://faces/**/*.bin") == ["/a/b/two.bin", "/a/one.bin"]
    assert planted.glob("/*/") == ["/a", "/c", "/empty"]
    assert planted.glob("/[ac]/*.t?t") == ["/c/three.txt"]
    assert planted.glob("/none*") == []
    assert planted.expand_path("/a", recursive=True) == ["/a", "/a/b", "/a/b/two.bin", "/a/one.bin"]
    assert planted.du("/") == 6
    assert planted.du("/a", total=False) == {"/a/b/two.bin": 3, "/a/one.bin": 2}
    assert planted.du("/a", maxdepth=1) == 2


def test_walk_may_be_pruned_and_tells_errors(planted):
    seen = []
    for directory, directories, _ in planted.walk("/"):
        seen.append(directory)
        if "a" in directories:
            directories.remove("a")
    assert seen == ["/", "/c", "/empty"]
    assert list(planted.walk("/none")) == []
    errors: list[OSError] = []
    assert list(planted.walk("/none", on_error=errors.append)) == []
    assert errors[0].errno == errno.ENOENT
    with pytest.raises(FileNotFoundError):
        list(planted.walk("/none", on_error="raise"))
    with pytest.raises(ValueError, match="maxdepth"):
        planted.walk("/", maxdepth=0)


def test_odd_names_survive_every_door(fs):
    for name in ODD_NAMES:
        fs.pipe_file(f"/odd/{name}", name.encode("utf-8", "surrogateescape"))
    expected = sorted(f"/odd/{name}" for name in ODD_NAMES)
    assert fs.find("/odd") == expected
    assert fs.glob("/odd/*") == expected
    assert sorted(fs.ls("/odd", detail=False)) == expected
    assert fs.glob("/odd/[[]*") == ["/odd/[bracket]"]
    assert fs.glob("/odd/new*") == ["/odd/new\nline"]
    for name in ODD_NAMES:
        content = name.encode("utf-8", "surrogateescape")
        assert fs.cat_file(f"/odd/{name}") == content
        assert fs.info(f"/odd/{name}")["name"] == f"/odd/{name}"
        fs.mv_file(f"/odd/{name}", f"/odd/{name[:-1]}~")
        fs.rm_file(f"/odd/{name[:-1]}~")
    assert fs.ls("/odd") == []


def test_links(planted):
    planted.volume.symlink("a/one.bin", "/to-file")
    planted.volume.symlink("/a", "/to-directory")
    planted.volume.symlink("nowhere", "/broken")
    planted.volume.symlink("..", "/a/loop")
    planted.volume.symlink("itself", "/itself")
    info = planted.info("/to-file")
    assert info["islink"]
    assert info["destination"] == "a/one.bin"
    assert (info["type"], info["size"]) == ("file", 2)
    assert planted.cat("/to-file") == b"22"
    assert planted.isdir("/to-directory")
    assert planted.cat("/to-directory/one.bin") == b"22"
    assert planted.info("/broken")["type"] == "other"
    assert not planted.exists("/broken")
    assert planted.lexists("/broken")
    assert not planted.exists("/itself")
    assert planted.lexists("/itself")
    # Listings name links and never follow them in circles.
    assert "/a/loop" in planted.ls("/a", detail=False)
    assert planted.find("/a") == ["/a/b/two.bin", "/a/one.bin"]
    assert planted.du("/") == 8 + len("nowhere") + len("itself")
    planted.rm("/a", recursive=True)
    assert planted.exists("/top.txt")
    planted.rm("/to-directory")
    assert not planted.lexists("/to-directory")


def test_times_checksum_and_ukey(planted):
    before = datetime.now(UTC) - timedelta(minutes=1)
    assert before < planted.modified("/top.txt") < before + timedelta(minutes=2)
    assert before < planted.created("/top.txt") < before + timedelta(minutes=2)
    first = planted.ukey("/top.txt"), planted.checksum("/top.txt")
    assert first == (planted.ukey("/top.txt"), planted.checksum("/top.txt"))
    planted.pipe("/top.txt", b"2")
    assert planted.ukey("/top.txt") != first[0]
    assert planted.checksum("/top.txt") != first[1]


def test_tree(planted):
    drawing = planted.tree("/", recursion_limit=3)
    assert "one.bin" in drawing
    assert "two.bin" in drawing


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "kind", "number"),
    [
        (lambda fs: fs.info("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.ls("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.cat("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.cat_file("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.open("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.open("/none", "r+b"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.rm("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.rm("/none", recursive=True), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.rm_file("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.rmdir("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.mv("/none", "/x"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.mv("/none", "/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.cp_file("/none", "/x"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.modified("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.ukey("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.explain("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.warmup("/none"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.get_file("/none", "/dev/null"), FileNotFoundError, errno.ENOENT),
        (lambda fs: fs.cat_file("/a"), IsADirectoryError, errno.EISDIR),
        (lambda fs: fs.open("/a", "wb"), IsADirectoryError, errno.EISDIR),
        (lambda fs: fs.pipe("/a", b""), IsADirectoryError, errno.EISDIR),
        (lambda fs: fs.rm("/a"), IsADirectoryError, errno.EISDIR),
        (lambda fs: fs.info("/top.txt/x"), NotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.pipe("/top.txt/x", b""), NotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.rmdir("/top.txt"), NotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.rmdir("/a"), OSError, errno.ENOTEMPTY),
        (lambda fs: fs.mkdir("/a"), FileExistsError, errno.EEXIST),
        (lambda fs: fs.makedirs("/a"), FileExistsError, errno.EEXIST),
        (lambda fs: fs.mkdir("/"), FileExistsError, errno.EEXIST),
        (lambda fs: fs.open("/top.txt", "xb"), FileExistsError, errno.EEXIST),
        (lambda fs: fs.info("/a/../a"), OSError, errno.EINVAL),
        (lambda fs: fs.pipe("/" + "x" * 256, b""), OSError, errno.ENAMETOOLONG),
    ],
)
def test_errors_are_the_built_in_ones_with_errno_and_path(planted, call, kind, number):
    with pytest.raises(kind) as caught:
        call(planted)
    assert caught.value.errno == number
    assert caught.value.filename
    assert caught.value.filename.startswith("/")


def test_a_read_only_file_system_refuses_every_change(planted, open_fs):
    reader = open_fs(read_only=True)
    assert reader.cat("/a/one.bin") == b"22"
    for change in (
        lambda: reader.pipe("/new", b""),
        lambda: reader.open("/new", "wb"),
        lambda: reader.rm("/top.txt"),
        lambda: reader.mkdir("/new"),
        lambda: reader.mv("/a", "/z"),
        lambda: reader.cp("/top.txt", "/new"),
        lambda: reader.touch("/top.txt", truncate=False),
    ):
        with pytest.raises(OSError, match="/") as caught:
            change()
        assert caught.value.errno == errno.EROFS


# ---------------------------------------------------------------------- changing


def test_directories(fs):
    fs.mkdir("/a/b")
    assert fs.isdir("/a/b")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("/x/y", create_parents=False)
    fs.makedirs("/a/b", exist_ok=True)
    fs.makedirs("/", exist_ok=True)
    fs.rmdir("/a/b")
    assert fs.ls("/a") == []


def test_touch(fs):
    fs.touch("/new/file")
    assert fs.cat("/new/file") == b""
    fs.pipe("/new/file", b"content")
    before = fs.modified("/new/file")
    fs.touch("/new/file", truncate=False)
    assert fs.cat("/new/file") == b"content"
    assert fs.modified("/new/file") > before
    fs.touch("/new/file")
    assert fs.cat("/new/file") == b""


def test_rm(planted):
    planted.rm(["/top.txt", "/c/three.txt"])
    assert planted.find("/") == ["/a/b/two.bin", "/a/one.bin"]
    planted.rm("/a", recursive=True, maxdepth=1)
    assert planted.find("/") == ["/a/b/two.bin"]
    planted.pipe("/a/x/y", b"")
    planted.rm("/**", recursive=True)
    assert planted.ls("/") == []


def test_rm_of_the_root_empties_the_volume(planted):
    planted.rm("/", recursive=True)
    assert planted.ls("/") == []


def test_copies_share_their_blocks(planted):
    planted.pipe("/big", b"x" * 300_000)
    written = planted.stats().blocks
    planted.cp("/big", "/new/place/copy")
    planted.cp("/a", "/d", recursive=True)
    assert planted.stats().blocks == written
    assert planted.cat("/new/place/copy") == b"x" * 300_000
    assert planted.find("/d") == ["/d/b/two.bin", "/d/one.bin"]
    planted.rm("/big")
    assert planted.cat("/new/place/copy") == b"x" * 300_000


def test_a_copy_onto_itself_keeps_the_file(planted):
    with pytest.raises(OSError, match="same file"):
        planted.cp_file("/top.txt", "/top.txt")
    assert planted.cat("/top.txt") == b"1"


def test_mv_renames(planted):
    inode = planted.info("/a/b/two.bin")["ino"]
    planted.mv("/a", "/moved/far")
    assert planted.info("/moved/far/b/two.bin")["ino"] == inode
    assert not planted.exists("/a")
    planted.mv("/top.txt", "/moved/")
    assert planted.cat("/moved/top.txt") == b"1"
    planted.mv("/moved/top.txt", "/c")
    assert planted.cat("/c/top.txt") == b"1"
    planted.mv("/c/top.txt", "/c/three.txt")
    assert planted.cat("/c/three.txt") == b"1"
    planted.mv("/c/three.txt", "/c/three.txt")
    assert planted.cat("/c/three.txt") == b"1"
    planted.mv(["/c/three.txt", "/moved/far/one.bin"], ["/x", "/y"])
    assert planted.cat(["/x", "/y"]) == {"/x": b"1", "/y": b"22"}
    planted.mv("/[xy]", "/both")
    assert planted.ls("/both", detail=False) == ["/both/x", "/both/y"]


def test_mv_joins_directories_like_copy_and_remove(planted):
    planted.pipe({"/t/b/kept": b"k", "/t/one.bin": b"old"})
    planted.mv("/a/", "/t", recursive=True)
    assert planted.find("/t") == ["/t/b/kept", "/t/b/two.bin", "/t/one.bin"]
    assert planted.cat("/t/one.bin") == b"22"
    assert not planted.exists("/a")
    planted.mv("/t", "/t")
    assert len(planted.find("/t")) == 3
    with pytest.raises(NotImplementedError, match="maxdepth"):
        planted.mv("/t", "/u", maxdepth=1)
    with pytest.raises(OSError, match="/t"):
        planted.mv("/t", "/t/below/itself")
    assert planted.cat("/t/b/kept") == b"k"
    assert not planted.exists("/t/below")
    with pytest.raises(FileNotFoundError):
        planted.mv("/none", "/none/below/itself")
    planted.mv("/t", "/tt/below")
    assert planted.cat("/tt/below/b/kept") == b"k"


# ---------------------------------------------------------------------- other clients, insight


def test_what_another_client_closed_is_seen_at_once(open_fs):
    one, other = open_fs(), open_fs(skip_instance_cache=True)
    assert one is not other
    for round_ in range(3):
        one.pipe("/shared", b"%d" % round_)
        assert other.cat("/shared") == b"%d" % round_
        assert other.size("/shared") == 1
        one.pipe(f"/new-{round_}", b"")
        assert other.exists(f"/new-{round_}")
        one.rm(f"/new-{round_}")
        assert not other.exists(f"/new-{round_}")


def test_invalidate_cache_ends_what_attr_cache_allows(open_fs):
    writer, reader = open_fs(), open_fs(attr_cache="1h", open_cache="1h")
    writer.pipe("/file", b"old")
    assert reader.cat("/file") == b"old"
    writer.pipe("/file", b"newer")
    assert reader.cat("/file") == b"old"
    reader.invalidate_cache()
    assert reader.cat("/file") == b"newer"


def test_stats_explain_and_warmup(planted, open_fs, tmp_path):
    planted.pipe({f"/set/{n}": b"%d" % n * 1000 for n in range(5)})
    cold = open_fs(cache_dir=str(tmp_path / "other-cache"))
    layout = cold.explain("/set/3")
    assert layout.length == 1000
    assert [block.tier for block in layout.blocks] == [None]
    assert layout.requests == 1
    seen = []
    report = cold.warmup("juicecache://faces/set", progress=seen.append)
    assert (report.files, report.loaded_blocks, report.errors) == (5, 1, ())  # packed
    assert [one.files for one in seen][:5] == [1, 2, 3, 4, 5]
    assert seen[-1] == report
    assert cold.explain("/set/3").requests == 0
    assert cold.warmup(["/set/1", "/set/2"], check=True).cached_blocks == 1
    before = cold.stats().blocks
    assert cold.cat("/set/3") == b"3" * 1000
    assert cold.stats().blocks == before
    assert cold.warmup("/set/*", evict=True).evicted_blocks == 1
    assert cold.explain("/set/3").requests == 1
    assert cold.stats().volume == "faces"
