"""Tables: pandas and pyarrow, by URL and by file system; paths as UPath."""

from __future__ import annotations

import warnings

import pytest

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
dataset = pytest.importorskip("pyarrow.dataset")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def options(place):
    return place.options


@pytest.fixture
def frame():
    return pandas.DataFrame(
        {
            "year": [2024, 2024, 2025, 2025] * 250,
            "city": ["Oslo", "Rome", "Oslo", "Kyōto"] * 250,
            "value": range(1000),
        }
    )


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_pandas_csv(options, place, frame, name):
    frame.to_csv(place.url(f"/new/{name}"), index=False, storage_options=options)
    back = pandas.read_csv(place.url(f"/new/{name}"), storage_options=options)
    pandas.testing.assert_frame_equal(back, frame)
    chunks = pandas.read_csv(place.url(f"/new/{name}"), storage_options=options, chunksize=300)
    assert [len(chunk) for chunk in chunks] == [300, 300, 300, 100]


def test_pandas_parquet(options, place, frame):
    url = place.url("/table.parquet")
    frame.to_parquet(url, storage_options=options)
    pandas.testing.assert_frame_equal(pandas.read_parquet(url, storage_options=options), frame)
    some = pandas.read_parquet(
        url, columns=["value"], filters=[("city", "==", "Rome")], storage_options=options
    )
    assert list(some["value"]) == list(range(1, 1000, 4))


def test_pandas_parquet_in_partitions(options, place, frame, fs):
    url = place.url("/parted")
    frame.to_parquet(url, partition_cols=["year", "city"], storage_options=options)
    assert fs.ls("/parted", detail=False) == ["/parted/year=2024", "/parted/year=2025"]
    some = pandas.read_parquet(
        url, filters=[("year", "==", 2025), ("city", "==", "Kyōto")], storage_options=options
    )
    assert sorted(some["value"]) == list(range(3, 1000, 4))


def test_pandas_json_and_pickle(options, place, frame):
    frame.to_json(place.url("/t.jsonl"), orient="records", lines=True, storage_options=options)
    back = pandas.read_json(place.url("/t.jsonl"), lines=True, storage_options=options)
    pandas.testing.assert_frame_equal(back, frame)
    frame.to_pickle(place.url("/t.pkl"), storage_options=options)
    pandas.testing.assert_frame_equal(
        pandas.read_pickle(place.url("/t.pkl"), storage_options=options), frame
    )


def test_pyarrow_dataset_with_partitions_and_filters(fs, frame):
    table = pyarrow.Table.from_pandas(frame)
    dataset.write_dataset(
        table,
        "/data/set",
        format="parquet",
        partitioning=dataset.partitioning(
            pyarrow.schema([("year", pyarrow.int64()), ("city", pyarrow.string())]), flavor="hive"
        ),
        filesystem=fs,
    )
    read = dataset.dataset("/data/set", format="parquet", partitioning="hive", filesystem=fs)
    assert read.count_rows() == 1000
    assert len(read.files) == 4
    wanted = (dataset.field("year") == 2024) & (dataset.field("value") < 100)
    assert len(list(read.get_fragments(dataset.field("year") == 2024))) == 2
    found = read.to_table(filter=wanted, columns=["city", "value"])
    assert found.sort_by("value")["city"].to_pylist() == ["Oslo", "Rome"] * 25
    dataset.write_dataset(
        table.slice(0, 10),
        "/data/set",
        format="parquet",
        partitioning=["year"],
        filesystem=fs,
        existing_data_behavior="overwrite_or_ignore",
    )
    assert fs.exists("/data/set/2024/part-0.parquet")
    dataset.write_dataset(
        table.slice(0, 10),
        "/data/set",
        format="parquet",
        filesystem=fs,
        existing_data_behavior="delete_matching",
    )
    assert fs.ls("/data/set", detail=False) == ["/data/set/part-0.parquet"]


def test_pyarrow_by_url(options, place, frame, monkeypatch):
    frame.to_parquet(place.url("/by/url/t.parquet"), storage_options=options)
    monkeypatch.setenv("JUICECACHE_META", place.meta)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder))
    url = "fsspec+" + place.url("/by/url")
    assert dataset.dataset(url).count_rows() == 1000
    assert parquet.read_table(url, columns=["value"]).num_rows == 1000


def test_pyarrow_file_system_verbs(fs):
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    arrow.create_dir("d/e", recursive=True)
    with arrow.open_output_stream("d/file") as stream:
        stream.write(b"content")
    with arrow.open_append_stream("d/file") as stream:
        stream.write(b" more")
    with arrow.open_input_file("d/file") as file:
        assert file.size() == 12
        assert file.read_at(4, 8) == b"more"
    with arrow.open_input_stream("d/file") as stream:
        assert stream.read() == b"content more"
    arrow.copy_file("d/file", "d/copy")
    arrow.move("d/copy", "d/moved")
    infos = arrow.get_file_info(pyarrow.fs.FileSelector("d", recursive=True))
    assert sorted((info.base_name, info.is_file) for info in infos) == [
        ("e", False),
        ("file", True),
        ("moved", True),
    ]
    absent = arrow.get_file_info("d/none")
    assert absent.type == pyarrow.fs.FileType.NotFound
    arrow.delete_file("d/moved")
    arrow.delete_dir_contents("d")
    assert fs.ls("/d") == []
    arrow.delete_dir("d")
    assert not fs.exists("/d")


def test_parquet_reads_only_the_columns_it_wants(fs):
    columns = {f"c{n}": list(range(n, 20_000 + n)) for n in range(10)}
    parquet.write_table(pyarrow.table(columns), "wide.parquet", filesystem=fs)
    table = parquet.read_table("wide.parquet", columns=["c3"], filesystem=fs)
    assert table["c3"][:3].to_pylist() == [3, 4, 5]
    metadata = parquet.ParquetFile("wide.parquet", filesystem=fs).metadata
    assert metadata.num_rows == 20_000


def test_upath(options, place):
    upath = pytest.importorskip("upath")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says once that it knows the protocol from fsspec only
        root = upath.UPath(place.url("/"), **options)
    folder = root / "papers" / "2025"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text("grüße")
    (folder / "b.bin").write_bytes(b"\0\1")
    assert (folder / "a.txt").read_text() == "grüße"
    assert sorted(one.name for one in folder.iterdir()) == ["a.txt", "b.bin"]
    assert [one.name for one in root.glob("**/*.bin")] == ["b.bin"]
    assert (folder / "a.txt").stat().st_size == len("grüße".encode())
    assert folder.is_dir()
    assert (folder / "a.txt").is_file()
    assert not (folder / "none").exists()
    with (folder / "a.txt").open("ab") as file:
        file.write(b"!")
    (folder / "a.txt").rename(folder / "c.txt")
    assert (folder / "c.txt").read_bytes().endswith(b"!")
    (folder / "c.txt").unlink()
    assert (folder / "b.bin").suffix == ".bin"
    assert (folder / "b.bin").parent == folder
