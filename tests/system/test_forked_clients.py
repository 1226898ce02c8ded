"""A process with an open volume on a metadata server that forks: no connection is used twice."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from juicecache.testing.engines import fresh_url
from juicecache.testing.logged_writers import logged_writers, wait_for_more
from juicecache.testing.oracle import assert_clean
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume, open_volume

pytestmark = pytest.mark.service

CHILDREN, FILES = 4, 25


@pytest.fixture(params=["redis", "postgres", "mysql"])
def meta(request, tmp_path) -> str:
    meta = fresh_url(request.param, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", trash_days=0, remember=False)
    return meta


def connections(volume: Volume) -> set[int]:
    """Return what the server calls the connections of this process that are idle now."""
    engine: Any = volume.parts().engine
    pool = engine._link.pool if hasattr(engine, "_link") else engine._pool
    found = set()
    for connection in list(pool._idle):
        if hasattr(engine, "_link"):
            found.add(engine._link.ask(connection, [(b"CLIENT", b"ID")])[0])
        elif hasattr(connection, "info"):
            found.add(connection.info.backend_pid)
        else:
            found.add(connection.thread_id())
    return found


def warm(volume: Volume) -> None:
    """Leave several idle connections in this process."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(volume.exists, ["/"] * 40))


def forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def read_and_write(volume: Volume, folder: str) -> None:
    """Make files and read those of others, as the only writer of a directory."""
    for at in range(FILES):
        path = f"{folder}/{at}"
        volume.write_file(path, path.encode(), exclusive=True)
        assert volume.read_file(path) == path.encode()
        assert volume.read_file("/common") == b"content"
    assert len(volume.list_directory(folder)) == FILES


def test_children_and_their_parent_use_a_volume_at_once(meta):
    with open_volume(meta, cache_size="0") as volume:
        volume.write_file("/common", b"content")
        warm(volume)
        ours = connections(volume)
        assert ours
        answers, tell = os.pipe()

        def work() -> None:
            os.close(answers)
            read_and_write(volume, f"/{os.getpid()}")
            mine = connections(volume)
            os.write(tell, b"".join(b"%d %d\n" % (os.getpid(), one) for one in mine))
            volume.close()

        # Threads of the parent have transactions under way at the moment of each fork.
        with logged_writers(volume, 2) as writers:
            children = []
            for _ in range(CHILDREN):
                wait_for_more(writers, 3)
                children.append(forked(work))
            os.close(tell)
            assert [os.waitpid(child, 0)[1] for child in children] == [0] * CHILDREN
        for writer in writers:
            writer.check()
            assert writer.unknown == []
        with os.fdopen(answers, "rb") as told:
            theirs = [tuple(map(int, line.split())) for line in told]
        assert {pid for pid, _ in theirs} == set(children)
        assert len({one for _, one in theirs}) == len(theirs)
        assert not {one for _, one in theirs} & (ours | connections(volume))
        for child in children:
            assert len(volume.list_directory(f"/{child}")) == FILES
    assert_clean(meta)


_volume: Volume


def _in_pool(at: int) -> tuple[int, bytes]:
    path = f"/pool/{at}"
    _volume.write_file(path, path.encode(), exclusive=True)
    return os.getpid(), _volume.read_file(path)


def test_a_pool_of_forked_workers_shares_a_volume(meta):
    global _volume
    with open_volume(meta, cache_size="0") as _volume:
        warm(_volume)
        with multiprocessing.get_context("fork").Pool(CHILDREN) as pool:
            result = pool.map_async(_in_pool, range(60), chunksize=1)
            for at in range(20):
                _volume.write_file(f"/parent/{at}", b"x")
            answers = result.get(60)
            pool.close()
            pool.join()
        assert [content for _, content in answers] == [f"/pool/{at}".encode() for at in range(60)]
        assert len({pid for pid, _ in answers}) > 1
        assert len(_volume.list_directory("/pool")) == 60
        assert len(_volume.list_directory("/parent")) == 20
    assert_clean(meta)


def test_a_fork_of_a_fork_goes_on(meta):
    with open_volume(meta, cache_size="0") as volume:
        volume.write_file("/common", b"content")

        def grandchild() -> None:
            read_and_write(volume, "/grandchild")
            volume.close()

        def child() -> None:
            volume.write_file("/child", b"x")
            assert os.waitpid(forked(grandchild), 0)[1] == 0
            volume.close()

        assert os.waitpid(forked(child), 0)[1] == 0
        read_and_write(volume, "/parent")
        assert volume.read_file("/child") == b"x"
        assert len(volume.list_directory("/grandchild")) == FILES
    assert_clean(meta)
