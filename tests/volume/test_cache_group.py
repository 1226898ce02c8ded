"""A volume in a cache group: members in this process and in others, and clients of them."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import juicecache
from juicecache.config import VolumeOptions
from juicecache.errors import ConfigError
from juicecache.testing.certificates import Authority
from juicecache.testing.processes import in_child
from juicecache.testing.servers import DelayingProxy
from juicecache.testing.tier_faults import damage
from juicecache.volume.cache_group import Directory
from juicecache.volume.volume import Volume

HEARTBEAT_S = 1.0
MIB = 1 << 20


class Cluster:
    """Members and clients of one group of a site, all in this process."""

    def __init__(self, site) -> None:
        self.site = site

    def member(self, name: str = "", **options) -> Volume:
        options = {"cache_dir": str(self.site.folder / f"member{name}"), **options}
        volume = self.client(no_sharing=False, cache_size="1GiB", **options)
        for other in self.site.opened:
            if (group := other.parts().blocks.group) is not None:
                group.refresh()
        return volume

    def client(self, **options) -> Volume:
        given = {
            "cache_group": "g",
            "no_sharing": True,
            "cache_size": 0,
            "free_space_ratio": 0,
            "heartbeat": HEARTBEAT_S,
            "group_ip": None,
            "remote_timeout": "1s",
            **options,
        }
        if not given["no_sharing"]:
            given["group_ip"] = "127.0.0.1"
        return self.site.open(**given)

    def loads(self) -> int:
        """Return how many whole blocks all clients and members took from object storage."""
        return sum(v.stats().blocks.loads + v.stats().blocks.range_gets for v in self.site.opened)

    def settled(self, volume: Volume, members: int) -> None:
        """Return when a client sees so many members."""
        group = volume.parts().blocks.group
        until_s = time.monotonic() + 10
        while len(group.stats().members) != members:
            assert time.monotonic() < until_s, group.stats()
            group.refresh()


@pytest.fixture
def cluster(big_site) -> Cluster:
    return Cluster(big_site)


@pytest.fixture
def files(big_site, content: Callable[..., bytes]) -> dict[str, bytes]:
    """Files of one and of several blocks, without a group."""
    writer = big_site.open(cache_size=0)
    bodies = {f"/{number}": content(MIB, number) for number in range(12)}
    bodies["/large"] = content(7 * MIB + 12_345, 99)
    bodies["/small"] = content(5000, 100)
    for path, body in bodies.items():
        writer.write_file(path, body)
    return bodies


def blocks_of(files: dict[str, bytes]) -> int:
    return sum(-(-len(body) // MIB) for body in files.values())


def test_owners_load_each_block_once_for_all(cluster, files) -> None:
    members = [cluster.member(str(number)) for number in range(3)]
    clients = [cluster.client() for _ in range(2)]
    for client in [*clients, *clients, *members]:
        for path, body in files.items():
            assert client.read_file(path) == body
    assert cluster.loads() == blocks_of(files)
    for client in clients:
        stats = client.stats().blocks
        assert stats.loads == stats.range_gets == stats.fallbacks == 0
        assert stats.peer_bytes == 2 * sum(map(len, files.values()))
    assert all(member.parts().serving.stats().parts for member in members)


@pytest.mark.parametrize("looped", [False, True])
def test_any_range_by_any_way_is_right(cluster, files, looped: bool) -> None:
    cluster.member("a", looped=looped)
    cluster.member("b", looped=looped)
    volume = cluster.client(looped=looped)
    chance = random.Random(4)
    for _ in range(150):
        path = chance.choice(list(files))
        body = files[path]
        start = chance.randrange(len(body))
        stop = min(len(body), start + chance.choice([1, 100, 65_536, 131_072, 2 * MIB]))
        assert volume.read_file(path, start, stop) == body[start:stop]
        buffer = bytearray(stop - start)
        assert volume.read_into(path, buffer, start) == stop - start
        assert buffer == body[start:stop]
    wanted = [(path, None, None) for path in files] + [("/large", 5, 70_000), ("/3", 1, 2)]
    found = volume.read_files(wanted)
    assert found == [files[path][start:stop] for path, start, stop in wanted]
    with volume.open("/large") as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == files["/large"]
    stats = volume.stats().blocks
    assert stats.loads == stats.range_gets == stats.fallbacks == 0
    assert volume.parts().blocks.loading_bytes == 0


def test_a_client_keeps_what_it_gets_if_it_has_room(cluster, files) -> None:
    cluster.member()
    volume = cluster.client(cache_size="1GiB")
    for _ in range(2):
        for path, body in files.items():
            assert volume.read_file(path) == body
    assert volume.stats().blocks.peer_bytes == sum(map(len, files.values()))


def test_children_read_from_the_group_and_are_no_members(cluster, files) -> None:
    parent = cluster.member(looped=True)
    assert parent.read_file("/0") == files["/0"]

    def act() -> bool:
        fine = all(parent.read_file(path) == body for path, body in files.items())
        stats = parent.stats().blocks
        return not (fine and parent.parts().serving is None and stats.fallbacks == 0)

    assert in_child(act) == 0
    assert parent.read_file("/1") == files["/1"]
    # The child shares the folder, and asked its parent for what was not in there.
    assert parent.stats().blocks.loads == blocks_of(files)
    assert len(parent.parts().blocks.group.stats().members) == 1


def test_who_gets_a_copy_of_a_member_only_reads(cluster, files) -> None:
    member = cluster.member()
    copy = pickle.loads(pickle.dumps(juicecache.open_volume(cluster.site.meta, cache_size=0)))
    assert copy.options.no_sharing is False  # it is in no group
    copy.close()
    options = VolumeOptions.from_options({"cache_group": "g", "cache_size": 0})
    _, (_, copied, _) = Volume.__reduce__(member)
    assert copied.no_sharing
    assert options.no_sharing is False


def test_a_member_that_leaves_gives_its_part_to_the_others(cluster, files) -> None:
    members = {str(number): cluster.member(str(number)) for number in range(3)}
    client = cluster.client()
    for path, body in files.items():
        assert client.read_file(path) == body
    members["1"].close()
    for path, body in files.items():
        assert client.read_file(path) == body
    assert client.stats().blocks.fallbacks <= 1  # what was under way when it closed
    cluster.settled(client, 2)
    assert len(client.parts().blocks.group.stats().peers) == 2


def test_a_member_of_weight_0_owns_nothing(cluster, files) -> None:
    drained = cluster.member("a", group_weight=0)
    other = cluster.member("b")
    client = cluster.client()
    for path, body in files.items():
        assert client.read_file(path) == body
    assert drained.parts().serving.stats().requests == 0
    assert other.parts().serving.stats().parts >= blocks_of(files)
    # It reads from the others like a client.
    for path, body in files.items():
        assert drained.read_file(path) == body
    assert drained.stats().blocks.loads == 0


def test_a_new_member_asks_the_former_owner_first(cluster, files) -> None:
    old = cluster.member("old")
    for path, body in files.items():
        assert old.read_file(path) == body
    new = cluster.member("new", group_backup=True)
    client = cluster.client()
    for path, body in files.items():
        assert client.read_file(path) == body
    assert new.parts().serving.stats().loads > 0
    assert new.stats().blocks.loads == 0
    assert new.stats().blocks.peer_blocks > 0
    old.close()
    client.parts().blocks.group.refresh()
    new.parts().blocks.group.refresh()
    for path, body in files.items():  # what the former owner has gone with comes from the store
        assert client.read_file(path) == body


def test_uploaded_blocks_go_to_their_owners(cluster, content) -> None:
    members = [cluster.member(str(number)) for number in range(2)]
    writer = cluster.client(fill_group_cache=True)
    body = content(6 * MIB, 5)
    writer.write_file("/new", body)
    until_s = time.monotonic() + 10
    while sum(member.parts().serving.stats().kept for member in members) < 6:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    reader = cluster.client()
    assert reader.read_file("/new") == body
    assert cluster.loads() == 0


def test_a_group_that_is_too_small_is_not_used(cluster, files) -> None:
    cluster.member("a")
    client = cluster.client(cache_group_size=2)
    assert client.read_file("/0") == files["/0"]
    stats = client.parts().blocks.group.stats()
    assert (stats.state, stats.reason) == ("waiting", "1 of 2 members are there")
    assert client.stats().blocks.loads == 1
    cluster.member("b")
    cluster.settled(client, 2)
    assert client.read_file("/1") == files["/1"]
    assert client.stats().blocks.loads == 1


def test_without_members_object_storage_is_read(cluster, files) -> None:
    client = cluster.client()
    for path, body in files.items():
        assert client.read_file(path) == body
    assert client.stats().blocks.loads == blocks_of(files)


@pytest.mark.parametrize("kind", ["secret", "volume"])
def test_strangers_get_nothing(cluster, files, tmp_path: Path, kind: str) -> None:
    member = cluster.member()
    address = "{}:{}".format(*member.parts().serving.member.address)
    if kind == "secret":
        client = cluster.client(group_secret="guessed", group_members=address)
    else:
        meta = f"sqlite3://{tmp_path}/other.db"
        juicecache.format_volume(meta, "other", bucket=str(tmp_path / "other"), remember=False)
        secret = member.parts().directory.secret().decode("latin-1")
        client = cluster.client(meta=meta, group_secret=secret, group_members=address)
        client.write_file("/0", files["/0"])
    assert client.read_file("/0") == files["/0"]
    assert client.stats().blocks.peer_blocks == 0
    assert member.parts().serving.stats().parts == 0
    assert member.parts().serving.stats().refused >= 1


def test_groups_of_one_volume_do_not_mix(cluster, files) -> None:
    one = cluster.member("a", cache_group="one")
    two = cluster.member("b", cache_group="two")
    client = cluster.client(cache_group="two")
    for path, body in files.items():
        assert client.read_file(path) == body
    assert one.parts().serving.stats().accepted == 0
    assert two.parts().serving.stats().parts >= blocks_of(files)


def test_a_damaged_copy_of_a_member_reaches_nobody(cluster, files) -> None:
    member = cluster.member()
    client = cluster.client()
    for path, body in files.items():
        assert client.read_file(path) == body
    chance = random.Random(1)
    for _ in range(30):
        damage(cluster.site.folder / "member", chance, "flip")
    for path, body in files.items():
        assert client.read_file(path) == body
    (peer,) = client.parts().blocks.group.stats().peers
    assert peer.corrupt > 0
    assert peer.state == "up"
    assert member.parts().serving.stats().reports >= peer.corrupt
    assert member.stats().tiers[0].corrupt >= peer.corrupt
    before = client.stats().blocks.fallbacks
    for path, body in files.items():  # the members loaded them anew
        assert client.read_file(path) == body
    assert client.stats().blocks.fallbacks == before


def test_a_reader_without_rights_uses_the_group(cluster, files) -> None:
    cluster.member()
    client = cluster.client(read_only=True)
    for path, body in files.items():
        assert client.read_file(path) == body
    assert client.stats().blocks.loads == 0


def test_a_member_must_be_able_to_enter_itself(cluster, files) -> None:
    with pytest.raises(ConfigError, match="with no_sharing this client only reads"):
        cluster.member(read_only=True)
    with pytest.raises(ConfigError, match="JUICECACHE_GROUP_SECRET"):
        cluster.member(read_only=True, group_members="127.0.0.1:1")


def test_members_by_their_addresses_need_no_rights(cluster, files) -> None:
    options = {"read_only": True, "group_secret": "shared", "group_members": "127.0.0.1:1"}
    member = cluster.member(**options)
    address = "{}:{}".format(*member.parts().serving.member.address)
    client = cluster.client(**{**options, "group_members": f"{address},127.0.0.1:1"})
    for path, body in files.items():
        assert client.read_file(path) == body
    assert client.stats().blocks.loads == 0


def test_a_port_that_is_taken_is_named(cluster, files) -> None:
    port = cluster.member("a").parts().serving.member.address[1]
    with pytest.raises(ConfigError, match=f"group_port {port}"):
        cluster.member("b", group_port=port)


def test_secrets_are_not_shown(cluster, files) -> None:
    member = cluster.member(group_secret="hush-hush")
    shown = f"{member!r} {member.options!r} {member.stats()!r} {member.parts().directory.terms()!r}"
    shown += repr(member.parts().blocks.group.stats())
    assert "hush" not in shown


def test_ranges_of_a_compressed_volume_come_from_the_owner_alone(tmp_path: Path, content) -> None:
    meta = f"sqlite3://{tmp_path}/meta.db"
    juicecache.format_volume(
        meta, "packed", bucket=str(tmp_path / "bucket"), compress="lz4", remember=False
    )
    common = {"cache_group": "g", "heartbeat": HEARTBEAT_S, "free_space_ratio": 0}
    with juicecache.open_volume(
        meta, cache_dir=str(tmp_path / "m"), group_ip="127.0.0.1", **common
    ) as member:
        body = content(9 * MIB)
        member.write_file("/file", body)
        with juicecache.open_volume(meta, no_sharing=True, cache_size=0, **common) as client:
            for start in range(0, len(body) - 1000, 700_001):
                assert client.read_file("/file", start, start + 1000) == body[start : start + 1000]
            stats = client.stats().blocks
            assert stats.peer_bytes < 200_000
            assert stats.loads == stats.range_gets == 0


@pytest.mark.parametrize(("versions", "works"), [((1, 2), True), ((2, 3), False), ((2, 2), False)])
def test_a_newer_member_works_or_says_why_not(
    cluster, files, monkeypatch: pytest.MonkeyPatch, versions: tuple[int, int], works: bool
) -> None:
    ours = Directory.terms
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "terms", lambda self: replace(ours(self), versions=versions))
        cluster.member()
    client = cluster.client()
    for path, body in files.items():
        assert client.read_file(path) == body
    (peer,) = client.parts().blocks.group.stats().peers
    if works:
        assert client.stats().blocks.loads == 0
    else:
        assert peer.state == "down"
        assert f"speaks versions {versions[0]} to {versions[1]}" in peer.reason
        assert "the caller 1 to 1: update the older one" in peer.reason


def through(member: Volume, proxy: DelayingProxy) -> dict[str, object]:
    """Return options by which a client reaches a member through a proxy."""
    return {
        "group_members": f"127.0.0.1:{proxy.port}",
        "group_secret": member.options.group_secret,
    }


def test_a_bit_that_flips_on_the_way_reaches_nobody(cluster, files) -> None:
    member = cluster.member(group_secret="shared")
    with DelayingProxy(member.parts().serving.member.address[1], 0) as proxy:
        client = cluster.client(**through(member, proxy))
        assert client.read_file("/0") == files["/0"]
        proxy.flip_bits(after_bytes=1000, every_bytes=700_001)
        for _ in range(2):
            for path, body in files.items():
                assert client.read_file(path) == body
        assert proxy.traffic().flipped_bits > 5
        stats = client.stats().blocks
        assert stats.fallbacks > 0
        assert stats.peer_bytes > 0
    # The member's copies were sound: it has kept all of them.
    assert member.stats().tiers[0].corrupt == 0


def test_a_member_that_falls_silent_costs_one_pause(cluster, files) -> None:
    member = cluster.member(group_secret="shared")
    with DelayingProxy(member.parts().serving.member.address[1], 0) as proxy:
        client = cluster.client(**through(member, proxy))
        assert client.read_file("/large") == files["/large"]
        proxy.hang()
        began_s = time.monotonic()
        for path, body in files.items():
            assert client.read_file(path) == body
        took_s = time.monotonic() - began_s
        (peer,) = client.parts().blocks.group.stats().peers
        assert (peer.state, peer.reason) == ("down", "it was silent for 1 s")
        assert took_s < 5 * 1.0, "each file waited"
        proxy.forward()
        until_s = time.monotonic() + 20
        while client.parts().blocks.group.stats().peers[0].state == "down":
            assert time.monotonic() < until_s
            time.sleep(0.05)
        before = client.stats().blocks.fallbacks
        for path, body in files.items():
            assert client.read_file(path) == body
        assert client.stats().blocks.fallbacks == before


def test_blocks_travel_inside_tls(cluster, files, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files_of = {"ca_file": str(authority.path)}

    def shown(name: str, by: Authority = authority) -> dict[str, str]:
        path = str(by.sign(name))
        return {"cert_file": path, "key_file": path, **files_of}

    member = cluster.member(**shown("member"))
    client = cluster.client(**shown("client"))
    for path, body in files.items():
        assert client.read_file(path) == body
    assert client.stats().blocks.loads == 0
    # In clear, or with a certificate of somebody else, nobody gets in.
    other = Authority(tmp_path, "other authority")
    parts = member.parts().serving.stats().parts
    for options in ({}, {**shown("stranger", other), "ca_file": str(authority.path)}):
        stranger = cluster.client(**options)
        assert stranger.read_file("/0") == files["/0"]
        assert stranger.stats().blocks.fallbacks == 1
    assert member.parts().serving.stats().parts == parts


def test_one_certificate_that_all_share_is_enough(cluster, files, tmp_path: Path) -> None:
    path = Authority(tmp_path).self_signed("shared")
    options = {"cert_file": str(path), "key_file": str(path)}
    cluster.member(**options)
    client = cluster.client(**options)
    assert client.read_file("/0") == files["/0"]
    assert client.stats().blocks.loads == 0


def test_certificates_that_cannot_be_used_are_named(cluster, files, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match=r"cert_file.*missing\.pem|cert_file"):
        cluster.client(cert_file=missing, key_file=missing)
