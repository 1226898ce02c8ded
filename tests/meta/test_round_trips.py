"""How often an operation waits for the server: the table in docs/engines.md."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any

import pytest

from juicecache.testing.engines import fresh_url
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import open_volume

pytestmark = pytest.mark.service

SERVERS = ["redis", "postgres", "mysql"]


@pytest.fixture(params=SERVERS)
def volume(request, tmp_path):
    meta = fresh_url(request.param, tmp_path)
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        trash_days=0,
        block_size_kib=64,
        remember=False,
    )
    with open_volume(meta, cache_size="0") as volume:
        volume.make_directory("/a/b", parents=True)
        for name in ("one", "two"):
            volume.write_file(f"/a/b/{name}", b"x")
        volume.write_file("/a/b/empty", b"")
        yield volume


@contextmanager
def counted(volume):
    """Count what this thread sends; the counts grow until the end of the block."""
    engine = volume.parts().engine
    place: Any = engine._link if hasattr(engine, "_link") else engine._server
    name = "ask" if hasattr(engine, "_link") else "run"
    send = getattr(place, name)
    trips: list[int] = []
    me = threading.get_ident()

    def counting(connection, what):
        if threading.get_ident() == me:  # the content of a removed file goes meanwhile
            trips.append(len(what))
        return send(connection, what)

    setattr(place, name, counting)
    try:
        yield trips
    finally:
        setattr(place, name, send)


def more_where_a_commit_goes_alone(volume) -> int:
    """The counts of the writes must be known before the COMMIT where no statement can fail."""
    server = getattr(volume.parts().engine, "_server", None)
    return 0 if server is None or server.dialect.required else 1


def test_a_look_up_is_one(volume):
    with counted(volume) as trips:
        assert volume.stat("/a/b/one").length == 1
    assert len(trips) == 1


def test_a_look_up_that_finds_nothing_is_one(volume):
    with counted(volume) as trips:
        assert not volume.exists("/a/b/none")
    assert len(trips) == 1


def test_opening_for_reading_is_one(volume):
    with counted(volume) as trips, volume.open("/a/b/one") as file:
        assert file.read() == b"x"
    assert len(trips) == 1


def test_a_creation_is_three(volume):
    with counted(volume) as trips:
        volume.write_file("/a/b/new", b"", exclusive=True)
    assert len(trips) == 3 + more_where_a_commit_goes_alone(volume)


def test_a_removal_is_three(volume):
    with counted(volume) as trips:
        volume.unlink("/a/b/empty")
        found = len(trips)
    assert found == 3 + more_where_a_commit_goes_alone(volume)


def test_many_paths_are_one(volume):
    with counted(volume) as trips:
        found = volume.parts().meta.resolve_many(
            [f"/a/b/{name}" for name in ("one", "two", "empty")]
        )
    assert [attr.length for attr in found] == [1, 1, 0]
    assert len(trips) == 1
