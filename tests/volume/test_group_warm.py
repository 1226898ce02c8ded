"""A warm-up of a cache group: each owner loads its own blocks, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from juicecache.volume import group_warm
from juicecache.volume.volume import Volume
from juicecache.volume.warm import WarmReport

MIB = 1 << 20


@pytest.fixture
def files(big_site, content: Callable[..., bytes]) -> dict[str, bytes]:
    """Files of one and of several blocks, some of which share one."""
    writer = big_site.open(cache_size=0)
    bodies = {f"/set/{number}": content(MIB, number) for number in range(10)}
    bodies["/set/large"] = content(7 * MIB + 12_345, 99)
    for path, body in bodies.items():
        writer.write_file(path, body)
    small = {f"/set/small/{number}": content(20_000, 100 + number) for number in range(30)}
    writer.write_files(list(small.items()))
    return bodies | small


BLOCKS = 10 + 8 + 1


@pytest.fixture
def open_in_group(big_site) -> Callable[..., Volume]:
    def opened(name: str = "", **options) -> Volume:
        given = {"cache_group": "g", "free_space_ratio": 0, "heartbeat": 1, "remote_timeout": 1}
        if name:
            folder = str(big_site.folder / f"member-{name}")
            given |= {"group_ip": "127.0.0.1", "cache_dir": folder, "cache_size": "1GiB"}
        else:
            given |= {"no_sharing": True, "cache_size": 0}
        volume = big_site.open(**given | options)
        for other in big_site.opened:
            if (group := other.parts().blocks.group) is not None:
                group.refresh()
        return volume

    return opened


def loads(*members: Volume) -> int:
    return sum(member.stats().blocks.loads for member in members)


@pytest.mark.parametrize("looped", [False, True])
def test_owners_load_their_own_blocks_once(open_in_group, files, looped: bool) -> None:
    members = [open_in_group(name, looped=looped) for name in "abc"]
    client = open_in_group()
    seen: list[WarmReport] = []
    report = client.warmup(["/set"], progress=seen.append)
    size = sum(map(len, files.values()))
    assert (report.group, report.is_walked, report.errors) == ("g", True, ())
    assert (report.files, report.blocks, report.bytes) == (len(files), BLOCKS, size)
    assert (report.loaded_blocks, report.loaded_bytes) == (BLOCKS, size)
    assert report.cached_blocks == report.failed_blocks == report.dropped_blocks == 0
    assert seen[-1] == report
    assert all(one.loaded_blocks <= other.loaded_blocks for one, other in pairwise(seen))
    assert loads(*members) == BLOCKS
    assert sum(loads(member) > 0 for member in members) > 1  # which of them is left to chance
    assert client.stats().blocks.loads == client.stats().blocks.peer_blocks == 0

    again = client.warmup(["/set", "/set/large"])
    assert (again.cached_blocks, again.cached_bytes, again.loaded_blocks) == (BLOCKS, size, 0)
    check = client.warmup(["/set"], check=True)
    assert (check.cached_blocks, check.loaded_blocks) == (BLOCKS, 0)
    for path, body in files.items():
        assert client.read_file(path) == body
    assert loads(*members) == BLOCKS

    assert client.warmup(["/set"], evict=True).evicted_blocks == BLOCKS
    check = client.warmup(["/set"], check=True)
    assert (check.blocks, check.cached_blocks) == (BLOCKS, 0)


def test_a_member_warms_the_others_and_itself(open_in_group, files) -> None:
    members = [open_in_group(name) for name in "ab"]
    report = members[0].warmup(["/"])
    assert (report.loaded_blocks, report.errors) == (BLOCKS, ())
    assert loads(*members) == BLOCKS
    assert sum(loads(member) > 0 for member in members) > 1  # which of them is left to chance
    assert members[1].warmup(["/"], check=True).cached_blocks == BLOCKS
    assert members[1].warmup(["/"], evict=True).evicted_blocks == BLOCKS


def test_what_a_dead_member_owned_goes_to_the_others(open_in_group, files, monkeypatch) -> None:
    monkeypatch.setattr(group_warm, "_BUSY_PAUSE_S", 0.01)
    members = [open_in_group(name) for name in "abc"]
    client = open_in_group()
    client.parts().blocks.group.start()
    members[1].parts().serving._server.close()  # it is gone, and its entry is still there
    report = client.warmup(["/set"])
    assert (report.loaded_blocks, report.failed_blocks, report.errors) == (BLOCKS, 0, ())
    assert loads(members[0], members[2]) == BLOCKS


def test_without_members_it_says_so(open_in_group, files) -> None:
    report = open_in_group().warmup(["/set/0"])
    assert (report.failed_blocks, report.loaded_blocks) == (1, 0)
    assert "no member of the group is there" in report.errors[0]


def test_what_owners_have_no_room_for_is_told(open_in_group, files) -> None:
    open_in_group("a", cache_size="4MiB", cache_eviction="none")
    report = open_in_group().warmup(["/set"])
    assert report.loaded_blocks == BLOCKS
    assert 10 < report.dropped_blocks < BLOCKS


def test_what_object_storage_lost_is_named(open_in_group, files, big_site) -> None:
    member = open_in_group("a")
    client = open_in_group()
    lost = client.explain("/set/3").blocks[0].object_name
    big_site.store(member).lose(lost)
    report = client.warmup(["/set"])
    assert (report.loaded_blocks, report.failed_blocks) == (BLOCKS - 1, 1)
    assert report.errors == (f"{lost}: its owner could not load it",)


class GivenUpError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 20, 45])
def test_it_can_be_interrupted_and_begun_again(open_in_group, files, at: int) -> None:
    members = [open_in_group(name, looped=True) for name in "ab"]
    client = open_in_group()
    calls = 0

    def progress(report: WarmReport) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise GivenUpError

    with pytest.raises(GivenUpError):
        client.warmup(["/set"], progress=progress)
    assert not [t for t in threading.enumerate() if t.name == "juicecache-warm"]
    report = client.warmup(["/set"])
    assert report.cached_blocks + report.loaded_blocks == BLOCKS
    assert loads(*members) == BLOCKS


def test_lines_are_bounded(open_in_group, files, monkeypatch) -> None:
    monkeypatch.setattr(group_warm, "_WAITING_MAX", 3)
    open_in_group("a")
    report = open_in_group().warmup(["/set"])
    assert (report.loaded_blocks, report.errors) == (BLOCKS, ())
