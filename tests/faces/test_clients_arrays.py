"""Arrays and archives: zarr, webdataset and the tar files of the standard library."""

from __future__ import annotations

import io
import tarfile

import pytest


@pytest.fixture
def options(place):
    return place.options


def test_zarr_on_the_asynchronous_file_system(open_fs):
    zarr = pytest.importorskip("zarr")
    numpy = pytest.importorskip("numpy")
    from zarr.storage import FsspecStore

    store = FsspecStore(open_fs(asynchronous=True), path="/arrays/one")
    group = zarr.create_group(store=store)
    array = group.create_array("temperature", shape=(100, 80), chunks=(10, 80), dtype="f4")
    array[:] = numpy.arange(8000).reshape(100, 80)
    array.attrs["unit"] = "K"
    again = zarr.open_group(store=store, mode="r")
    assert again["temperature"].attrs["unit"] == "K"
    assert again["temperature"][37, 5] == 37 * 80 + 5
    assert again["temperature"][::10].sum() == array[::10].sum()
    assert sorted(again.array_keys()) == ["temperature"]
    del group["temperature"]
    assert list(group.array_keys()) == []


def test_zarr_by_url_and_resized(options, place):
    zarr = pytest.importorskip("zarr")
    url = place.url("/arrays/two")
    array = zarr.create_array(url, shape=(10,), chunks=(3,), dtype="i8", storage_options=options)
    array[:] = range(10)
    array.resize((12,))
    array[10:] = 7
    back = zarr.open_array(url, mode="r", storage_options=options)
    assert list(back[:]) == [*range(10), 7, 7]


def test_webdataset_from_shards_in_the_volume(fs):
    webdataset = pytest.importorskip("webdataset")
    for shard in range(3):
        with fs.open(f"/shards/{shard:04}.tar", "wb") as file, webdataset.TarWriter(file) as writer:
            for n in range(5):
                writer.write({"__key__": f"s{shard}-{n}", "txt": f"text {n}", "cls": n})

    def opened(urls):
        for url in urls:
            yield {"url": url, "stream": fs.open(url)}

    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(fs.glob("/shards/*.tar")),
        lambda source: opened(sample["url"] for sample in source),
        webdataset.tariterators.tar_file_expander,
        webdataset.tariterators.group_by_keys,
        webdataset.decode(),
        webdataset.to_tuple("txt", "cls"),
    )
    samples = list(pipeline)
    assert len(samples) == 15
    assert samples[7] == ("text 2", 2)


def test_tar_files_in_a_stream_and_by_seeking(fs):
    with fs.open("/a.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w|gz") as tar:
        for n in range(20):
            member = tarfile.TarInfo(f"m{n}")
            member.size = 1000
            tar.addfile(member, io.BytesIO(b"%d" % (n % 10) * 1000))
    with fs.open("/a.tar.gz") as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
        extracted = tar.extractfile("m13")
        assert extracted is not None
        assert extracted.read() == b"3" * 1000
    with fs.open("/a.tar.gz") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        assert len(list(tar)) == 20
