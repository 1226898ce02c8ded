"""What a client hears of its group: by members that answer, lie, hang or are gone."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import pytest

import juicecache
from juicecache.meta.membership import Membership
from juicecache.peers.limits import ServerStats
from juicecache.peers.members import Member
from juicecache.testing.processes import in_child
from juicecache.volume.group_report import MemberStats

MIB = 1 << 20


@pytest.fixture
def member(big_site):
    return big_site.open(
        cache_group="g",
        cache_dir=str(big_site.folder / "member"),
        cache_size="1GiB",
        free_space_ratio=0,
        group_ip="127.0.0.1",
    )


def reader(site, **options):
    return site.open(
        **{"cache_group": "g", "no_sharing": True, "cache_size": 0, "remote_timeout": "1s"}
        | options
    )


def test_without_a_group_there_is_no_report(big_site) -> None:
    volume = big_site.open()
    assert volume.group() is None
    assert volume.member() is None
    assert volume.groups() == ()
    volume.drain(1.0)
    assert (volume.stats().group, volume.stats().serving) == (None, None)


def test_both_sides_say_the_same_of_a_member(big_site, member) -> None:
    client = reader(big_site)
    client.write_file("/file", bytes(3 * MIB))
    client.read_file("/file")
    client.read_file("/file")
    for volume in (client, member):
        (seen,) = volume.group().members
        assert (seen.name, seen.state, seen.share) == (member.member().name, "up", 1.0)
        assert seen.is_me == (volume is member)
        assert (seen.given is None) == (volume is member)
        assert seen.stats.version == juicecache.__version__
        assert (seen.stats.items, seen.stats.loads, seen.stats.loaded_bytes) == (3, 3, 3 * MIB)
        assert (seen.stats.hits, seen.stats.misses) == (3, 3)
        assert seen.stats.hit_ratio == 0.5
        assert seen.stats.used_bytes >= 3 * MIB
        assert 0 <= seen.heartbeat_age_s < 60
        json.dumps(volume.group().to_dict())
        json.dumps(volume.stats().to_dict())
    assert client.group().members[0].given.bytes == 6 * MIB
    assert member.stats().serving.parts == 6
    assert client.stats().group.members[0].name == member.member().name
    assert [(g.name, g.members, g.weight) for g in client.groups()] == [("g", 1, 1024)]


def test_a_child_of_a_member_only_reads(big_site, member) -> None:
    def act() -> bool:
        (seen,) = member.group().members
        return member.member() is not None or seen.is_me or seen.stats is None

    assert in_child(act) == 0


def test_the_silent_and_the_dead_cost_one_timeout_together(big_site, member) -> None:
    with ExitStack() as stack:
        rows = Membership(member.parts().engine, "g", 12.0)
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        ports = [server.getsockname()[1] for server in silent]
        with socket.create_server(("127.0.0.1", 0)) as gone:
            ports.append(gone.getsockname()[1])
        for port in ports:
            about = Member(f"odd:{port}", ("127.0.0.1", port), 1, False).about()
            rows.renew(f"odd:{port}", json.dumps(about).encode())
        client = reader(big_site)
        began_s = time.monotonic()
        report = client.group()
        assert time.monotonic() - began_s < 2.0
        members = {seen.name: seen for seen in report.members}
        assert members.pop(member.member().name).state == "up"
        assert len(members) == 5
        for seen in members.values():
            assert (seen.state, seen.stats, seen.heartbeat_age_s) == ("down", None, None)
            assert seen.reason


def test_owners_that_do_not_answer_leave_it_open(big_site, member) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        about = Member("odd", ("127.0.0.1", port), 1024, False).about()
        Membership(member.parts().engine, "g", 12.0).renew("odd", json.dumps(about).encode())
        client = reader(big_site)
        client.write_file("/file", bytes(40 * MIB))
        layout = client.explain("/file")
        has = {(block.owner, block.owner_has) for block in layout.blocks}
        assert has == {("odd", None), (member.member().name, False)}
        assert layout.requests == 40


def test_a_member_knows_what_it_has_itself(big_site, member) -> None:
    member.write_file("/file", bytes(2 * MIB))
    layout = member.explain("/file")
    assert [(block.owner, block.owner_has) for block in layout.blocks] == [
        (member.member().name, True)
    ] * 2
    assert (layout.cached_bytes, layout.peer_bytes, layout.requests) == (2 * MIB, 0, 0)


def test_members_by_their_addresses(big_site) -> None:
    common = {"cache_group": "g", "group_secret": "shared", "free_space_ratio": 0}
    member = big_site.open(
        **common,
        cache_dir=str(big_site.folder / "m"),
        group_ip="127.0.0.1",
        group_members="127.0.0.1:1",
    )
    client = reader(big_site, **common, group_members=f"{member.member().address},127.0.0.1:1")
    (seen,) = client.group().members
    assert (seen.name, seen.heartbeat_age_s) == (member.member().name, 0.0)


def test_odd_answers_count_as_nothing() -> None:
    nothing = MemberStats("", 0.0, 0, 0, 0, 0, 0, 0, 0, (), ServerStats())
    odd = {
        "version": ["1"],
        "uptime_s": "long",
        "items": -1,
        "hits": True,
        "used_bytes": 1.5,
        "reasons": "full",
        "server": [1],
    }
    assert MemberStats.parse({}) == MemberStats.parse(odd) == nothing
    assert nothing.hit_ratio is None
    long = MemberStats.parse({"version": "x" * 10_000, "reasons": ["y" * 10_000] * 1000})
    assert len(repr(long)) < 10_000
    assert MemberStats.parse({"server": {"parts": 7, "new": 1}}).server == ServerStats(parts=7)
