"""The asynchronous half: the same answers, inline when warm."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def afs(open_fs):
    return open_fs(asynchronous=True)


def test_the_tree(afs):
    async def scene() -> None:
        await afs._makedirs("/a/b")
        await afs._mkdir("/empty")
        await afs._pipe_file("/a/one", b"1")
        await afs._pipe({"/a/b/two": b"22", "/three": b"333"})
        await afs._touch("/touched")
        assert (await afs._info("/a/one"))["size"] == 1
        assert await afs._size("/three") == 3
        assert await afs._sizes(["/a/one", "/three"]) == [1, 3]
        assert await afs._ls("/a", detail=False) == ["/a/b", "/a/one"]
        assert await afs._exists("/a")
        assert not await afs._exists("/none")
        assert await afs._isdir("/a")
        assert await afs._isfile("/three")
        assert [step async for step in afs._walk("/a")] == [
            ("/a", ["b"], ["one"]),
            ("/a/b", [], ["two"]),
        ]
        pruned = []
        async for directory, directories, _ in afs._walk("/"):
            pruned.append(directory)
            directories.clear()
        assert pruned == ["/"]
        assert await afs._find("/a") == ["/a/b/two", "/a/one"]
        assert await afs._glob("/**/t*") == ["/a/b/two", "/three", "/touched"]
        assert await afs._du("/a") == 3
        assert await afs._expand_path("/a", recursive=True) == ["/a", "/a/b", "/a/b/two", "/a/one"]
        await afs._cp_file("/three", "/copies/three")
        await afs._copy("/a", "/d", recursive=True)
        assert await afs._cat("/d", recursive=True) == {"/d/b/two": b"22", "/d/one": b"1"}
        await afs._mv_file("/three", "/3")
        await afs._rm_file("/3")
        await afs._rm("/d", recursive=True)
        await afs._rm(["/touched", "/copies/three"])
        await afs._rmdir("/empty")
        assert await afs._find("/") == ["/a/b/two", "/a/one"]
        with pytest.raises(FileNotFoundError) as caught:
            await afs._info("/none")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/none")
        with pytest.raises(FileExistsError):
            await afs._pipe_file("/a/one", b"", mode="create")

    asyncio.run(scene())


def test_bytes(afs):
    async def scene() -> None:
        await afs._pipe({f"/{n}": b"%d" % n * 500 for n in range(9)})
        found = await asyncio.gather(*(afs._cat_file(f"/{n}", 1, 3) for n in range(9)))
        assert found == [b"%d" % n * 2 for n in range(9)]
        assert await afs._cat("/3") == b"3" * 500
        assert await afs._cat(["/3", "/none"], on_error="omit") == {"/3": b"3" * 500}
        assert await afs._cat_ranges(["/1", "/2"], [0, -2], [3, None]) == [b"111", b"22"]
        mixed = await afs._cat_ranges(["/1", "/none", "/2"], 0, 1)
        assert (mixed[0], mixed[2]) == (b"1", b"2")
        assert isinstance(mixed[1], FileNotFoundError)
        with pytest.raises(FileNotFoundError):
            await afs._cat_ranges(["/1", "/none"], 0, 1, on_error="raise")

    asyncio.run(scene())


def test_open_async(afs):
    async def scene() -> None:
        async with await afs.open_async("/new/file", "wb") as file:
            assert await file.write(CONTENT) == len(CONTENT)
            assert file.tell() == len(CONTENT)
            await file.flush()
            assert await afs._size("/new/file") == len(CONTENT)
        file = await afs.open_async("/new/file")
        assert await file.read(10) == CONTENT[:10]
        assert await file.seek(-5, 2) == len(CONTENT) - 5
        assert await file.read() == CONTENT[-5:]
        await file.close()
        with pytest.raises(FileExistsError):
            await afs.open_async("/new/file", "xb")
        with pytest.raises(FileNotFoundError):
            await afs.open_async("/none")
        for wrong in ({"mode": "r"}, {"compression": "gzip"}):
            with pytest.raises(ValueError, match="binary"):
                await afs.open_async("/new/file", **wrong)

    asyncio.run(scene())


def test_get_and_put(afs, tmp_path):
    async def scene() -> None:
        (tmp_path / "in" / "deep").mkdir(parents=True)
        (tmp_path / "in" / "deep" / "a").write_bytes(CONTENT)
        await afs._put(str(tmp_path / "in"), "/up", recursive=True)
        assert await afs._cat_file("/up/deep/a") == CONTENT
        await afs._get("/up", str(tmp_path / "out"), recursive=True)
        assert (tmp_path / "out" / "deep" / "a").read_bytes() == CONTENT

    asyncio.run(scene())


def test_an_instance_serves_several_loops_and_the_plain_methods(afs):
    asyncio.run(afs._pipe_file("/a", b"1"))
    asyncio.run(afs._pipe_file("/b", b"2"))
    assert afs.cat(["/a", "/b"]) == {"/a": b"1", "/b": b"2"}


def test_plain_methods_work_inside_a_running_loop(fs):
    async def scene() -> bytes:
        fs.pipe("/a", CONTENT)
        with fs.open("/a") as file:
            file.read(3)
        return fs.cat("/a")

    assert asyncio.run(scene()) == CONTENT


def test_warm_reads_use_no_thread_and_no_loop(open_fs):
    afs = open_fs(asynchronous=True)
    afs.pipe("/a", CONTENT)
    assert afs.cat("/a") == CONTENT
    before = set(threading.enumerate())
    assert afs.cat_file("/a", 5, 10) == CONTENT[5:10]
    with afs.open("/a") as file:
        assert file.read() == CONTENT
    # A coroutine that never waits can be driven by hand, without any loop.
    for coroutine, expected in (
        (afs._cat_file("/a", 5, 10), CONTENT[5:10]),
        (afs._cat_ranges(["/a", "/a"], 0, [2, 3]), [CONTENT[:2], CONTENT[:3]]),
    ):
        with pytest.raises(StopIteration) as finished:
            coroutine.send(None)
        assert finished.value.value == expected
    assert set(threading.enumerate()) == before


def test_bytes_without_a_copy_of_them(afs):
    async def scene() -> None:
        await afs._pipe_file("/file", CONTENT)
        assert await afs._cat_view("/file", 1, 5) == CONTENT[1:5]
        buffer = bytearray(10)
        assert await afs._cat_into("/file", buffer, 20) == 10
        assert buffer == CONTENT[20:30]
        assert await afs._map_file("/file") == CONTENT
        async with await afs.open_async("/file") as file:
            assert await file.readinto(buffer) == 10
            assert buffer == CONTENT[:10]

    asyncio.run(scene())
