"""The file system over an S3 server: cold reads, coroutines, and forks while the loop runs."""

from __future__ import annotations

import asyncio

import pytest

from juicecache import JuiceCacheFileSystem
from juicecache.errors import ObjectDeniedError

pytestmark = pytest.mark.service

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def options(s3_place):
    return {"volume": "faces", "meta": s3_place.meta}


def test_cold_coroutines_load_at_the_same_time(options):
    fs = JuiceCacheFileSystem(**options, cache_size=0, asynchronous=True)

    async def scene() -> None:
        await fs._pipe({f"/{n}": CONTENT for n in range(20)})
        found = await asyncio.gather(*(fs._cat_file(f"/{n}", n, n + 1000) for n in range(20)))
        assert found == [CONTENT[n : n + 1000] for n in range(20)]
        ranges = await fs._cat_ranges([f"/{n}" for n in range(20)], -10, None)
        assert ranges == [CONTENT[-10:]] * 20
        async with await fs.open_async("/3") as file:
            assert await file.read() == CONTENT

    asyncio.run(scene())


def test_many_up_and_down(options, tmp_path):
    fs = JuiceCacheFileSystem(**options, cache_dir=str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    for n in range(30):
        (tmp_path / "in" / f"{n}").write_bytes(CONTENT[n:])
    fs.put(f"{tmp_path}/in", "/up", recursive=True)
    fs.warmup("/up", evict=True)
    fs.get("/up", f"{tmp_path}/out", recursive=True)
    for n in range(30):
        assert (tmp_path / "out" / f"{n}").read_bytes() == CONTENT[n:]
    assert fs.explain("/up/7").requests == 0
    with fs.transaction:
        fs.pipe({f"/t/{n}": CONTENT for n in range(5)})
    assert fs.du("/t") == 5 * len(CONTENT)


def test_wrong_keys_are_told_and_not_shown(options):
    fs = JuiceCacheFileSystem(**options, cache_size=0)
    fs.pipe("/a", CONTENT)
    wrong = JuiceCacheFileSystem(**options, cache_size=0, secret_key="wr0ng-s3cr3t")
    with pytest.raises(ObjectDeniedError) as caught:
        wrong.cat("/a")
    assert "wr0ng" not in str(caught.value)


def test_forks_load_by_a_loop_of_their_own(run_script, options):
    out = run_script(
        """
        import os, sys
        import fsspec

        fs = fsspec.filesystem("juicecache", volume="faces", meta=sys.argv[1], cache_size=0)
        fs.pipe({f"/{n}": bytes([n]) * 100_000 for n in range(10)})
        fs.cat("/", recursive=True)
        reading = fs.open("/5")
        reading.read(10)
        pids = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                try:
                    assert fs.cat(f"/{number}") == bytes([number]) * 100_000
                    assert len(fs.cat("/", recursive=True)) >= 10
                    assert reading.read() == bytes([5]) * 99_990
                    fs.pipe(f"/new/{number}", b"child" * 10_000)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
        assert reading.read() == bytes([5]) * 99_990
        print(fs.du("/new"), fs.cat("/new/2")[:5])
        """,
        options["meta"],
        flags=("-W", "ignore::DeprecationWarning"),  # that a fork copies threads is the point
    )
    assert out == "150000 b'child'\n"


def test_a_warm_read_starts_no_loop(run_script, options, tmp_path):
    fs = JuiceCacheFileSystem(**options, cache_dir=str(tmp_path / "cache"))
    fs.pipe("/a", CONTENT)
    assert fs.cat("/a") == CONTENT
    fs.volume.close()
    out = run_script(
        """
        import sys, threading
        import fsspec
        meta, cache_dir = sys.argv[1:]
        fs = fsspec.filesystem("juicecache", volume="faces", meta=meta, cache_dir=cache_dir)
        assert len(fs.cat("/a")) == 1_024_000
        print([thread.name for thread in threading.enumerate()])
        """,
        options["meta"],
        str(tmp_path / "cache"),
    )
    assert out == "['MainThread']\n"
