"""``juicecache group`` and what ``explain`` says of owners."""

from __future__ import annotations

import json
import signal

import juicecache
from juicecache.faces.cli.main import main
from juicecache.testing.workers import worker

MIB = 1 << 20


def run(capsys, *words: str) -> str:
    assert main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_volume_without_groups(place, capsys) -> None:
    assert json.loads(run(capsys, "group", place.meta, "--json")) == {"groups": []}
    assert "no member" in run(capsys, "group", place.meta)
    assert main(["group", place.meta, "nobody"]) == 1
    assert "no cache group 'nobody'" in capsys.readouterr().err
    assert main(["group", place.meta, "one", "--cache-group", "other"]) == 1
    assert "give one of them" in capsys.readouterr().err


def test_members_with_what_they_did(place, capsys) -> None:
    words = ("--cache-size", "64M", "--free-space-ratio", "0")
    with (
        worker(place.meta, *words, "--cache-dir", str(place.folder / "a")) as one,
        worker(place.meta, *words, "--cache-dir", str(place.folder / "b")) as two,
        juicecache.open_volume(
            place.meta, cache_group="g", no_sharing=True, cache_size=0
        ) as client,
    ):
        body = bytes(9 * MIB)
        client.write_file("/file", body)
        assert client.read_file("/file") == client.read_file("/file") == body
        groups = json.loads(run(capsys, "group", place.meta, "--json"))["groups"]
        assert groups == [{"name": "g", "members": 2, "weight": 128}]
        text = run(capsys, "group", place.meta, "g")
        assert "cache group g, 2 members, ready" in text
        assert one.ready["address"] in text
        assert "50.0%" in text  # of what was asked for was cached
        report = json.loads(run(capsys, "group", place.meta, "--cache-group", "g", "--json"))
        members = {member["name"]: member for member in report["members"]}
        assert members.keys() == {one.ready["name"], two.ready["name"]}
        assert sum(member["share"] for member in members.values()) == 1
        assert sum(member["stats"]["loads"] for member in members.values()) == 3
        assert sum(member["stats"]["server"]["parts"] for member in members.values()) == 6
        for member in members.values():
            assert (member["state"], member["weight"]) == ("up", 64)
            assert 0 <= member["heartbeat_age_s"] < 3
            assert member["stats"]["capacity_bytes"] == 64 * MIB
            assert member["stats"]["version"] == juicecache.__version__
        # It only looked.
        assert len(client.group().members) == 2


def test_a_killed_member_is_down_with_a_reason(place, capsys) -> None:
    with worker(place.meta, "--cache-dir", str(place.folder / "a"), "--heartbeat", "1m") as one:
        one.stop(signal.SIGKILL)
        report = json.loads(run(capsys, "group", place.meta, "g", "--json"))
        (member,) = report["members"]
        assert (member["state"], member["stats"]) == ("down", None)
        assert "refused" in member["reason"]
        assert f"{one.ready['name']}: " in run(capsys, "group", place.meta, "g")


def test_explain_names_owners_and_whether_they_have_it(place, capsys) -> None:
    options = ("--cache-group", "g", "--cache-size", "0", "--heartbeat", "1m")
    with (
        worker(place.meta, "--cache-dir", str(place.folder / "a"), "--heartbeat", "1m") as one,
        juicecache.open_volume(
            place.meta, cache_group="g", no_sharing=True, cache_size=0
        ) as client,
    ):
        client.write_file("/file", bytes(9 * MIB))
        words = ("explain", place.url("/file"), "--meta", place.meta)

        def explained(*more: str) -> dict:
            return json.loads(run(capsys, *words, *more, "--json"))

        alone = explained("--cache-size", "0")
        assert {(block["owner"], block["owner_has"]) for block in alone["blocks"]} == {(None, None)}
        assert alone["requests"] == 3
        assert "owner" not in run(capsys, *words, "--cache-size", "0")
        cold = explained(*options)
        name = one.ready["name"]
        assert {(block["owner"], block["owner_has"]) for block in cold["blocks"]} == {(name, False)}
        assert (cold["requests"], cold["peer_bytes"]) == (3, 0)
        client.read_file("/file", 0, 8 * MIB)
        warm = explained(*options)
        assert [block["owner_has"] for block in warm["blocks"]] == [True, True, False]
        assert (warm["requests"], warm["peer_bytes"]) == (1, 8 * MIB)
        text = run(capsys, *words, *options)
        assert "with members of the group: 8.0 MiB" in text
        assert name in text
        one.stop(signal.SIGKILL)
        gone = explained(*options)
        assert {(block["owner"], block["owner_has"]) for block in gone["blocks"]} == {(name, None)}
        assert "unknown" in run(capsys, *words, *options)
