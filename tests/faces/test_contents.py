"""Bytes through fsspec: cat, pipe, open, get, put, mappers, transactions."""

from __future__ import annotations

import io

import pytest
from fsspec.callbacks import Callback

CONTENT = bytes(range(256)) * 40


# ---------------------------------------------------------------------- cat and pipe


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        (0, 0),
        (5, 10),
        (None, 7),
        (10_000, None),
        (-5, None),
        (-10, -3),
        (None, -1),
        (20_000, 30_000),
        (9, 5),
        (-99_999, 3),
    ],
)
def test_ranges_are_those_of_a_slice(fs, start, end):
    fs.pipe("/file", CONTENT)
    assert fs.cat_file("/file", start, end) == CONTENT[start:end]
    assert fs.cat("/file", start=start, end=end) == CONTENT[start:end]
    assert fs.cat_ranges(["/file"], start, end) == [CONTENT[start:end]]


def test_bytes_without_a_copy_of_them(fs):
    fs.pipe("/d/file", CONTENT)
    for path in ("/d/file", "juicecache://faces/d/file"):
        view = fs.cat_view(path, 5, -5)
        assert view == CONTENT[5:-5]
        assert view.readonly
        buffer = bytearray(20)
        assert fs.cat_into(path, buffer, 100) == 20
        assert buffer == CONTENT[100:120]
        assert fs.cat_into(path, buffer, -3) == 3
        assert fs.map_file(path) == CONTENT
    for act in (fs.cat_view, fs.map_file, lambda path: fs.cat_into(path, bytearray(1))):
        with pytest.raises(FileNotFoundError):
            act("/none")


def test_cat_of_several(fs):
    fs.pipe({"/d/a": b"1", "/d/b": b"2", "/d/e/c": b"3"})
    assert fs.cat(["/d/a"]) == {"/d/a": b"1"}
    assert fs.cat("/d/[ab]") == {"/d/a": b"1", "/d/b": b"2"}
    assert fs.cat("/d", recursive=True) == {"/d/a": b"1", "/d/b": b"2", "/d/e/c": b"3"}
    with pytest.raises(FileNotFoundError):
        fs.cat(["/d/a", "/none"])
    assert fs.cat(["/d/a", "/none"], on_error="omit") == {"/d/a": b"1"}
    kept = fs.cat(["/d/a", "/none"], on_error="return")
    assert isinstance(kept["/none"], FileNotFoundError)


def test_cat_ranges(fs):
    fs.pipe({"/a": b"0123456789", "/b": b"abcdefghij"})
    assert fs.cat_ranges(["/a", "/b", "/a"], [0, 2, -3], [2, 4, None]) == [b"01", b"cd", b"789"]
    assert fs.cat_ranges(["/a", "/b"], 1, 3, max_gap=10) == [b"12", b"bc"]
    found = fs.cat_ranges(["/a", "/none"], 0, 1)
    assert found[0] == b"0"
    assert isinstance(found[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["/a", "/none"], 0, 1, on_error="raise")
    with pytest.raises(ValueError, match="same length"):
        fs.cat_ranges(["/a", "/b"], [0], [1, 2])
    with pytest.raises(TypeError):
        fs.cat_ranges("/a", 0, 1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pipe_takes_any_buffer(fs, kind):
    fs.pipe("/made/on/write", kind(CONTENT))
    assert fs.read_bytes("/made/on/write") == CONTENT
    fs.pipe({"/made/on/write": kind(b"short")})
    assert fs.read_bytes("/made/on/write") == b"short"
    with pytest.raises(FileExistsError):
        fs.pipe_file("/made/on/write", kind(b"x"), mode="create")


def test_pipe_refuses_what_it_cannot_mean(fs):
    with pytest.raises(ValueError, match="dict"):
        fs.pipe([("/a", b"")])


# ---------------------------------------------------------------------- open


def test_modes(fs):
    with fs.open("/f", "wb") as file:
        assert file.write(b"0123") == 4
        assert not fs.exists("/f")
    with fs.open("/f", "ab") as file:
        file.write(b"456789")
    with fs.open("/f", "r+b") as file:
        file.seek(2)
        file.write(b"XY")
        file.seek(0)
        assert file.read() == b"01XY456789"
        file.truncate(8)
    with fs.open("/f", "rb", block_size=2**20, cache_type="readahead") as file:
        assert file.size == 8
        assert file.seek(-3, io.SEEK_END) == 5
        assert file.read(2) == b"56"
        assert file.tell() == 7
        buffer = bytearray(4)
        assert file.readinto(buffer) == 1
    with fs.open("/x", "xb") as file:
        file.write(b"new")
    with pytest.raises(FileExistsError):
        fs.open("/x", "xb")
    with pytest.raises(ValueError, match="mode"):
        fs.open("/f", "w+b")
    with pytest.raises(ValueError, match="closed"):
        file.write(b"")


def test_lines_and_ends(fs):
    fs.pipe("/lines", b"one\ntwo\r\n\nlast")
    with fs.open("/lines") as file:
        assert file.readline() == b"one\n"
        assert list(file) == [b"two\r\n", b"\n", b"last"]
    assert fs.head("/lines", 3) == b"one"
    assert fs.tail("/lines", 4) == b"last"
    assert fs.read_block("/lines", 2, 4, delimiter=b"\n") == b"two\r\n"


def test_text(fs):
    with fs.open("/text", "w", encoding="utf-16-le", newline="\r\n") as file:
        file.write("grüße\n文件\n")
    assert fs.cat("/text") == "grüße\r\n文件\r\n".encode("utf-16-le")
    with fs.open("/text", "rt", encoding="utf-16-le") as file:
        assert file.readlines() == ["grüße\n", "文件\n"]
    fs.write_text("/plain", "a\n")
    with fs.open("/plain", "a") as file:
        file.write("b\n")
    with fs.open("/plain", "r+") as file:
        assert file.read() == "a\nb\n"
        file.seek(0)
        file.write("A")
    assert fs.read_text("/plain") == "A\nb\n"
    with fs.open("/plain", "x" if not fs.exists("/plain") else "w") as file:
        file.write("z")
    assert fs.read_text("/plain") == "z"


def test_compression_is_inferred(fs):
    with fs.open("/log.gz", "wb", compression="infer") as file:
        file.write(CONTENT)
    assert fs.size("/log.gz") < len(CONTENT)
    with fs.open("/log.gz", compression="infer") as file:
        assert file.read() == CONTENT


# ---------------------------------------------------------------------- get and put


class Progress(Callback):
    """Counts files, and the bytes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, Callback] = {}

    def branched(self, path_1, path_2, **kwargs):
        return self.bytes.setdefault(str(path_1), Callback())


def test_get_and_put_many_with_callbacks(fs, tmp_path):
    local = tmp_path / "local"
    contents = {f"sub{n % 3}/file{n}": CONTENT[: n * 100] for n in range(12)}
    for name, content in contents.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    (local / "empty").mkdir()
    up = Progress()
    fs.put(str(local), "/put", recursive=True, callback=up)
    assert {name: fs.cat(f"/put/{name}") for name in contents} == contents
    assert fs.isdir("/put/empty")
    assert up.value == up.size
    assert {one.size for one in up.bytes.values()} >= {n * 100 for n in range(1, 12)}
    down = Progress()
    fs.get("/put", str(tmp_path / "back"), recursive=True, callback=down)
    assert {name: (tmp_path / "back" / name).read_bytes() for name in contents} == contents
    assert (tmp_path / "back" / "empty").is_dir()
    assert down.value == down.size
    assert all(one.value == one.size for one in down.bytes.values() if one.size)
    fs.get("/put/sub1/*", str(tmp_path / "globbed") + "/")
    assert len(list((tmp_path / "globbed").iterdir())) == 4


def test_get_file_and_put_file(fs, tmp_path):
    fs.pipe("/f", CONTENT)
    target = io.BytesIO()
    fs.get_file("/f", target)
    assert target.getvalue() == CONTENT
    with (tmp_path / "out").open("wb") as file:
        fs.get_file("/f", None, outfile=file)
    assert (tmp_path / "out").read_bytes() == CONTENT
    fs.put_file(str(tmp_path / "out"), "/g/h")
    assert fs.cat("/g/h") == CONTENT
    with pytest.raises(FileExistsError):
        fs.put_file(str(tmp_path / "out"), "/g/h", mode="create")
    with pytest.raises(FileNotFoundError):
        fs.put_file(str(tmp_path / "none"), "/not-made")
    assert not fs.exists("/not-made")


# ---------------------------------------------------------------------- mapper


def test_mapper(fs):
    mapper = fs.get_mapper("/store", create=True)
    assert list(mapper) == []
    mapper["a/b"] = b"1"
    mapper.setitems({"c": b"2", "d/e/f": b"3"})
    assert sorted(mapper) == ["a/b", "c", "d/e/f"]
    assert mapper.getitems(["a/b", "none"], on_error="omit") == {"a/b": b"1"}
    assert "c" in mapper
    del mapper["c"]
    with pytest.raises(KeyError):
        mapper["c"]
    assert mapper.get("c") is None
    mapper.delitems(["a/b"])
    assert len(mapper) == 1
    mapper.clear()
    assert list(mapper) == []
    assert fs.isdir("/store")
    root = fs.get_mapper("juicecache://faces/")
    root["x"] = b"9"
    assert fs.cat("/x") == b"9"
    assert list(root) == ["x"]


# ---------------------------------------------------------------------- transactions


def test_a_transaction_shows_nothing_before_its_end(open_fs, tmp_path):
    fs, other = open_fs(), open_fs(skip_instance_cache=True)
    other.pipe({"/old": b"before", "/log": b"1"})
    (tmp_path / "local").write_bytes(b"put")
    with fs.transaction:
        with fs.open("/t/a", "wb") as file:
            file.write(b"a")
        with fs.open("/log", "ab") as file:
            file.write(b"2")
        fs.pipe("/old", b"after")
        fs.pipe({"/t/b": b"b", "/t/c": b"c"})
        fs.touch("/t/empty")
        fs.put_file(str(tmp_path / "local"), "/t/put")
        fs.put([str(tmp_path / "local")], ["/t/put2"])
        assert other.find("/t") == []
        assert other.cat(["/old", "/log"]) == {"/old": b"before", "/log": b"1"}
    assert other.cat("/t", recursive=True) == {
        "/t/a": b"a",
        "/t/b": b"b",
        "/t/c": b"c",
        "/t/empty": b"",
        "/t/put": b"put",
        "/t/put2": b"put",
    }
    assert other.cat(["/old", "/log"]) == {"/old": b"after", "/log": b"12"}
    fs.pipe("/plain", b"again")
    assert other.cat("/plain") == b"again"


def test_an_error_discards_a_transaction_and_its_objects(fs, tmp_path):
    fs.pipe("/old", b"before")
    objects = {path for path in (tmp_path / "objects").rglob("*") if path.is_file()}

    def fail() -> None:
        with fs.transaction:
            fs.pipe({"/old": b"after", "/new": CONTENT})
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        fail()
    assert fs.find("/") == ["/old"]
    assert fs.cat("/old") == b"before"
    assert {path for path in (tmp_path / "objects").rglob("*") if path.is_file()} == objects
    fs.pipe("/new", b"works again")
    assert fs.cat("/new") == b"works again"


def test_a_transaction_refuses_changes_in_place(fs):
    fs.pipe("/f", b"content")
    with pytest.raises(ValueError, match="in place"), fs.transaction:
        fs.open("/f", "r+b")
    assert fs.cat("/f") == b"content"
