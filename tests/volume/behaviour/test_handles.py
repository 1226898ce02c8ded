"""Open files: what is loaded, when it is seen, and what a fork, a failure or a removal does."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import pytest

from juicecache.errors import (
    CommitUnknownError,
    EntryExistsError,
    ObjectUnavailableError,
    StaleHandleError,
)
from juicecache.meta.rows import DeletedFile, Session, Sustained
from juicecache.testing.faults import FaultyStore

BLOCK = 64 << 10


def in_child(act: Callable[[], object]) -> int:
    """Run ``act`` in a forked child; its exit code, 1 after any error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_blocks_are_stored_before_the_commit(open_volume):
    faults: list[FaultyStore] = []
    volume = open_volume(faults=faults)
    seen = []
    meta = volume.parts().meta
    commit_file = meta.commit_file

    def spy(*args, **kwargs):
        seen.append(faults[0].calls["put"])
        return commit_file(*args, **kwargs)

    meta.commit_file = spy
    volume.write_file("/a", b"x" * (3 * BLOCK + 1))
    assert seen == [4]


def test_a_failed_upload_leaves_nothing(open_volume):
    faults: list[FaultyStore] = []
    volume = open_volume(faults=faults, cache_size=0)
    faults[0].fail("put", {3})
    with pytest.raises(ObjectUnavailableError):
        volume.write_file("/a", b"x" * (4 * BLOCK))
    assert not volume.exists("/a")
    faults[0].fail("put", {faults[0].calls["put"] + 2})
    file = volume.open("/a", "wb")
    with pytest.raises(ObjectUnavailableError):
        file.write(b"x" * (4 * BLOCK))
    file.close()
    assert not volume.exists("/a")
    assert volume.gc(min_age_s=0).objects == 0


def test_an_unclear_commit_keeps_its_objects(open_volume):
    volume = open_volume(cache_size=0)
    meta = volume.parts().meta
    commit_file = meta.commit_file

    def lose_the_reply(*args, **kwargs):
        commit_file(*args, **kwargs)
        raise CommitUnknownError("the reply was lost")

    meta.commit_file = lose_the_reply
    with pytest.raises(CommitUnknownError):
        volume.write_file("/a", b"x" * 100)
    assert volume.read_file("/a") == b"x" * 100


def test_an_open_file_is_seen_from_its_first_flush_on(open_volume):
    ours, other = open_volume(), open_volume()
    with ours.open("/a", "wb") as file:
        file.write(b"one")
        assert not other.exists("/a")
        file.flush()
        assert other.read_file("/a") == b"one"
        file.write(b"two")
    assert other.read_file("/a") == b"onetwo"
    ours.write_file("/a", b"three")
    assert other.read_file("/a") == b"three"


def test_a_commit_can_be_left_to_the_caller(volume):
    kept, dropped = (volume.open(path, "wb", autocommit=False) for path in ("/k", "/d"))
    for file in (kept, dropped):
        file.write(b"x" * (BLOCK + 1))
        file.flush()
        file.close()
    assert volume.list_directory("/") == []
    kept.commit()
    dropped.discard()
    assert [entry.name for entry in volume.list_directory("/")] == ["k"]
    assert volume.gc(min_age_s=0).leaked_objects == 0


def test_of_two_exclusive_creators_one_wins(volume):
    first, second = volume.open("/a", "xb"), volume.open("/a", "xb")
    first.write(b"1")
    second.write(b"2")
    first.close()
    with pytest.raises(EntryExistsError):
        second.close()
    assert volume.read_file("/a") == b"1"
    with pytest.raises(EntryExistsError):
        volume.open("/a", "xb")


def test_a_write_handle_that_a_child_inherits_never_commits(volume):
    file = volume.open("/a", "wb")
    file.write(b"x" * (BLOCK + 1))

    def child() -> None:
        with pytest.raises(StaleHandleError):
            file.write(b"y")
        file.flush()
        file.close()

    assert in_child(child) == 0
    assert not volume.exists("/a")
    file.close()
    assert volume.read_file("/a") == b"x" * (BLOCK + 1)


def test_a_read_handle_that_a_child_inherits_reads_on(volume):
    content = random.Random(1).randbytes(5 * BLOCK + 7)
    volume.write_file("/a", content)
    volume.warmup(["/a"], evict=True)
    with volume.open("/a") as file:
        assert file.read(100) == content[:100]

        def child() -> None:
            assert file.read() == content[100:]
            assert volume.read_file("/a") == content
            volume.write_file("/b", b"from the child")
            file.close()
            volume.close()

        assert in_child(child) == 0
        assert file.read() == content[100:]
    assert volume.read_file("/b") == b"from the child"


def test_an_unlinked_file_lives_until_its_last_close(open_volume):
    volume = open_volume(cache_size=0)
    volume.write_file("/a", b"x" * 100)
    engine = volume.parts().engine
    first, second = volume.open("/a"), volume.open("/a")
    assert engine.read(lambda tx: list(tx.scan(Session))) == []
    volume.unlink("/a")
    assert not volume.exists("/a")
    (session,) = engine.read(lambda tx: list(tx.scan(Session)))
    (held,) = engine.read(lambda tx: list(tx.scan(Sustained, session.sid)))
    first.close()
    assert second.read() == b"x" * 100
    second.close()
    for work in tuple(volume.parts().cleaning):
        work.result()
    assert engine.read(lambda tx: list(tx.scan(Sustained, session.sid))) == []
    assert engine.read(lambda tx: tx.get(DeletedFile, held.inode)) is None
    assert volume.gc(min_age_s=0).objects == 0


def test_many_threads_load_a_block_once(open_volume):
    volume = open_volume()
    volume.write_file("/a", b"x" * BLOCK)
    volume.warmup(["/a"], evict=True)
    barrier, results = threading.Barrier(16), []

    def read() -> None:
        barrier.wait()
        results.append(volume.read_file("/a"))

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"x" * BLOCK] * 16
    assert volume.stats().blocks.loads == 1


@pytest.mark.service
def test_what_small_reads_cost(s3, tmp_path):
    """A first small read of a block fetches its range, a second one the block."""
    import juicecache

    meta = f"sqlite3://{tmp_path}/m.db"
    juicecache.format_volume(
        meta,
        "remote",
        storage="s3",
        bucket=f"{s3.endpoint}/{s3.fresh_bucket()}",
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        remember=False,
    )
    with juicecache.open_volume(meta, cache_dir=str(tmp_path / "cache")) as volume:
        content = random.Random(2).randbytes(9 << 20)
        volume.write_file("/a", content)
        volume.warmup(["/a"], evict=True)
        before = volume.stats().blocks
        assert volume.read_file("/a", 1000, 5096) == content[1000:5096]
        first = volume.stats().blocks
        assert (first.range_bytes - before.range_bytes, first.loads - before.loads) == (4096, 0)
        assert volume.read_file("/a", 9000, 9100) == content[9000:9100]
        second = volume.stats().blocks
        assert (second.range_gets - first.range_gets, second.loads - first.loads) == (0, 1)
        assert volume.read_file("/a") == content
        third = volume.stats().blocks
        assert (third.range_gets, third.loads) == (second.range_gets, second.loads + 2)


@pytest.mark.service
def test_sequential_reads_run_ahead_within_the_buffer(s3, tmp_path):
    import juicecache

    meta = f"sqlite3://{tmp_path}/m.db"
    juicecache.format_volume(
        meta,
        "remote",
        storage="s3",
        bucket=f"{s3.endpoint}/{s3.fresh_bucket()}",
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        block_size_kib=64,
        remember=False,
    )
    options = {
        "cache_dir": str(tmp_path / "cache"),
        "buffer_size": "16MiB",
        "max_readahead": "256KiB",
    }
    with juicecache.open_volume(meta, **options) as volume:
        content = random.Random(3).randbytes(40 * BLOCK)
        volume.write_file("/a", content)
        volume.warmup(["/a"], evict=True)
        with volume.open("/a") as file:
            read, most = b"", 0
            while piece := file.read(10_000):
                read += piece
                most = max(most, volume.parts().blocks.loading_bytes)
        assert read == content
        assert 0 < most <= 256 << 10
        assert volume.stats().blocks.loads == 40
