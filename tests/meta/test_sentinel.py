"""Redis behind Sentinel: masters that die in the middle of writes, and servers that are none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from juicecache.errors import EngineUnavailableError
from juicecache.testing.logged_writers import logged_writers
from juicecache.testing.oracle import assert_clean
from juicecache.testing.redis_sentinel import SentinelGroup, sentinel_group
from juicecache.testing.servers import run_juicefs
from juicecache.volume.formatting import format_volume
from juicecache.volume.parts import open_engine
from juicecache.volume.volume import open_volume

pytestmark = pytest.mark.service

WRITERS = 4


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Iterator[SentinelGroup]:
    """A group whose master lives on; what the tests take from it, no other one needs."""
    with sentinel_group(tmp_path_factory.mktemp("group")) as group:
        yield group


def test_writes_go_on_with_the_next_master_and_nothing_is_done_twice(tmp_path):
    with sentinel_group(tmp_path) as group:
        url = group.url()
        format_volume(url, "volume", bucket=f"{tmp_path}/objects/", trash_days=0, remember=False)
        with open_volume(url, cache_size="0") as volume:
            with logged_writers(volume, WRITERS) as writers:
                group.master.stop()
                before = [len(writer.done) for writer in writers]
            for writer, count in zip(writers, before, strict=True):
                # What a master confirmed and its replica did not have yet dies with it: at most
                # the last file of each writer.
                writer.check(lost=writer.done[count - 1 : count + 1])
                assert len(writer.unknown) <= 1
            volume.gc(delete=True, min_age_s=0)  # content whose file did not come to be
        run_juicefs("fsck", url)
        assert_clean(group.direct(group.replica))


def test_a_replica_is_read_and_takes_no_changes(group, tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.meta.engines.redis._OUTAGE_S", 0.5)
    format_volume(group.url(), "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(group.url(), cache_size="0") as volume:
        volume.write_file("/file", b"content")
    group.master.command("-a", group.password, "WAIT", "1", "5000", database=1)
    url = group.direct(group.replica)
    with open_volume(url, cache_size="0", read_only=True) as volume:
        assert volume.read_file("/file") == b"content"
    with open_volume(url, cache_size="0") as volume:
        assert volume.read_file("/file") == b"content"
        with pytest.raises(EngineUnavailableError, match="this is a replica") as told:
            volume.make_directory("/directory")
    assert group.password not in str(told.value)


def test_sentinels_that_are_gone_are_passed_over(group):
    for one in group.sentinels[:2]:
        one.kill()
        one.wait()
        with closing(open_engine(group.url(2), read_only=False)) as engine:
            assert engine.setting() is None


def test_a_master_that_no_sentinel_knows_is_told_at_once(group):
    started = time.monotonic()
    with closing(open_engine(group.url(name="nobody"), read_only=False)) as engine:
        with pytest.raises(EngineUnavailableError, match="No master found for 'nobody'") as told:
            engine.setting()
    assert group.password not in str(told.value)
    assert time.monotonic() - started < 5
