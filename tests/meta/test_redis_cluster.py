"""Volumes in a Redis Cluster: shared with the official client, and while their slot moves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from juicecache.errors import EngineUnavailableError
from juicecache.meta.rows import Edge
from juicecache.model.attr import NodeType
from juicecache.testing.engine_contract import EngineContract
from juicecache.testing.logged_writers import logged_writers
from juicecache.testing.oracle import leaked
from juicecache.testing.redis_cluster import RedisCluster, redis_cluster
from juicecache.testing.redis_server import RedisServer
from juicecache.testing.servers import run_juicefs
from juicecache.volume.formatting import format_volume
from juicecache.volume.parts import open_engine
from juicecache.volume.volume import Volume, open_volume

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class TestCluster(EngineContract):
    """Keys begin with the number of the database, and so are in one slot of one node."""

    @pytest.fixture
    def engine(self, cluster):
        engine = open_engine(cluster.fresh_url(), read_only=False)
        engine.prepare()
        yield engine
        engine.close()


# ---------------------------------------------------------------------- the official client


@contextmanager
def mounted(url: str, folder: Path) -> Iterator[Path]:
    point = folder / "mount"
    point.mkdir()
    switches = ["-d", "--no-usage-report", "--no-syslog", "--backup-meta=0"]
    places = [f"--cache-dir={folder}/cache", f"--log={folder}/mount.log"]
    run_juicefs("mount", *switches, *places, url, str(point))
    try:
        yield point
    finally:
        run_juicefs("umount", str(point))


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("maker", ["ours", "theirs"])
def test_a_volume_is_one_for_both_clients(cluster, maker, tmp_path):
    number = int(cluster.fresh_url().rpartition("/")[2])
    url = cluster.url(number, *(cluster.nodes if maker == "ours" else cluster.nodes[2:]))
    bucket = f"{tmp_path}/objects/"
    if maker == "ours":
        format_volume(url, "volume", bucket=bucket, trash_days=0, remember=False)
    else:
        run_juicefs(
            "format", "--storage=file", f"--bucket={bucket}", "--trash-days=0", url, "volume"
        )
    contents = {f"file{at}": os.urandom(100_000) for at in range(5)}
    with open_volume(url, cache_size="0") as volume:
        for name, content in contents.items():
            volume.write_file(f"/{name}", content)
        run_juicefs("fsck", url)
        with mounted(url, tmp_path) as point:
            assert {name: (point / name).read_bytes() for name in contents} == contents
            (point / "theirs").write_bytes(b"by them")
            (point / "file0").unlink()
            (point / "file1").rename(point / "renamed")
            assert "inode: " in run_juicefs("info", str(point / "file2")).stdout
        assert volume.read_file("/theirs") == b"by them"
        assert volume.read_file("/renamed") == contents["file1"]
        assert not volume.exists("/file0")
        volume.unlink("/theirs")
    run_juicefs("fsck", url)
    assert leaked(url) == 0


# ---------------------------------------------------------------------- slots that move


class Move:
    """A volume whose slot goes from one node to another."""

    def __init__(self, cluster: RedisCluster, tmp_path: Path) -> None:
        self.cluster = cluster
        self.url = cluster.fresh_url()
        self.number = int(self.url.rpartition("/")[2])
        bucket = f"{tmp_path}/objects/"
        format_volume(self.url, "volume", bucket=bucket, trash_days=0, remember=False)
        self.slot = cluster.slot(self.number)
        self.source = cluster.owner(self.slot)
        self.target = next(node for node in cluster.nodes if node is not self.source)

    def begin(self) -> None:
        self.cluster.begin_move(self.slot, self.source, self.target)

    def some(self, count: int) -> bool:
        """Move some keys; return whether there were any."""
        return self.cluster.move_keys(self.slot, self.source, self.target, count) > 0

    def finish(self) -> None:
        while self.some(100):
            pass
        self.cluster.end_move(self.slot, self.target)


@pytest.fixture
def move(cluster, tmp_path) -> Move:
    return Move(cluster, tmp_path)


def values(node: RedisServer, number: int) -> dict[bytes, bytes]:
    """Return all keys of a volume on a node, with what is in them."""
    import redis

    found = {}
    with closing(redis.Redis(port=node.port, single_connection_client=True)) as client:
        for key in client.keys(f"{{{number}}}*"):
            client.execute_command("ASKING")  # it may have the key and not the slot
            found[key] = client.dump(key)
    return found


def test_writers_go_on_while_the_slot_moves(move):
    with open_volume(move.url, cache_size="0") as volume:
        with logged_writers(volume, 3) as writers:
            move.begin()
            while move.some(20):
                pass
            move.finish()
        for writer in writers:
            writer.check()
            assert writer.unknown == []
    run_juicefs("fsck", move.url)
    assert leaked(move.url) == 0


CHANGES: dict[str, Callable[[Volume], object]] = {
    "create": lambda volume: volume.write_file("/new", b"new"),
    "replace": lambda volume: volume.write_file("/file", b"new"),
    "make a directory": lambda volume: volume.make_directory("/new"),
    "remove": lambda volume: volume.unlink("/file"),
    "move": lambda volume: volume.rename("/file", "/directory/file"),
    "put in place": lambda volume: volume.rename("/file", "/other"),
    "link": lambda volume: volume.link("/file", "/link"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("moved", [0, 4])
def test_a_change_of_keys_that_move_is_whole_or_none(move, change, moved, monkeypatch):
    with open_volume(move.url, cache_size="0") as volume:
        for name in ("file", "other"):
            volume.write_file(f"/{name}", b"old")
        volume.make_directory("/directory")
        monkeypatch.setattr("juicecache.meta.engines.redis._OUTAGE_S", 0.3)
        move.begin()
        move.some(moved)
        before = [values(node, move.number) for node in (move.source, move.target)]
        with pytest.raises(EngineUnavailableError, match="keys are moving to another node"):
            change(volume)
        after = [values(node, move.number) for node in (move.source, move.target)]
        assert before == after
        move.finish()
        change(volume)
    run_juicefs("fsck", move.url)
    assert leaked(move.url) == 0


def test_a_sweep_never_misses_what_has_moved(move):
    edges = {Edge(at % 7, b"%d" % at, at, NodeType.FILE) for at in range(500)}
    with closing(open_engine(move.url, read_only=False)) as engine:
        engine.write(lambda tx: [tx.put(edge) for edge in sorted(edges)])
        sweep = engine.sweep(Edge, page=1)
        next(sweep)
        move.begin()
        move.finish()
        with pytest.raises(EngineUnavailableError, match="begin again"):
            list(sweep)
        assert {edge for page in engine.sweep(Edge, page=32) for edge in page} == edges
