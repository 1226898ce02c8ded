"""Metrics and pages: the text format by a strict parser, a server that cannot be used up."""

from __future__ import annotations

import math
import re
import socket
import threading
from typing import NamedTuple

import pytest

import juicecache
from juicecache.errors import ConfigError
from juicecache.faces.metrics import server as server_module
from juicecache.faces.metrics.families import volume_families, volume_labels
from juicecache.faces.metrics.pages import member_pages, overview
from juicecache.faces.metrics.server import Page, PageServer
from juicecache.faces.metrics.text import Family, Sample, render
from juicecache.volume.group_report import GroupReport, MemberReport

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})\{{(.*)\}} (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


class Series(NamedTuple):
    kind: str
    samples: dict[tuple[tuple[str, str], ...], float]


def parse(text: str) -> dict[str, Series]:
    """Return what a page of metrics says; every line must be one that Prometheus takes."""
    assert text.endswith("\n")
    found: dict[str, Series] = {}
    helped = name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped, _, words = line.removeprefix("# HELP ").partition(" ")
            assert words
            assert helped not in found
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == helped
            assert kind in ("counter", "gauge")
            found[name] = Series(kind, {})
        else:
            matched = _SAMPLE.fullmatch(line)
            assert matched, line
            assert matched[1] == name
            pairs = _LABEL.findall(matched[2])
            assert "".join(f'{k}="{v}",' for k, v in pairs).rstrip(",") == matched[2].rstrip(",")
            plain = tuple((key, unescape(value)) for key, value in pairs)
            assert len({key for key, _ in plain}) == len(plain)
            assert plain not in found[name].samples
            value = float(matched[3])
            assert math.isfinite(value)
            assert found[name].kind == "gauge" or value >= 0
            found[name].samples[plain] = value
    return found


def unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), value)


def test_odd_labels_and_numbers_survive() -> None:
    odd = 'a "quoted"\\ \n line, {x}="y",'
    families = [
        Family(
            "one", "counter", "with \\ and \n in it", [Sample(1 << 60), Sample(0.5, {"b": odd})]
        ),
        Family("none", "gauge", "without samples", []),
    ]
    found = parse(render(families, {"all": odd}))
    assert found["one"].samples == {(("all", odd),): 1 << 60, (("all", odd), ("b", odd)): 0.5}
    assert found["none"].samples == {}


def test_a_members_metrics_are_what_it_did(place) -> None:
    common = {"cache_group": "g", "free_space_ratio": 0}
    with (
        juicecache.open_volume(
            place.meta, cache_dir=str(place.folder / "m"), group_ip="127.0.0.1", **common
        ) as member,
        juicecache.open_volume(place.meta, no_sharing=True, cache_size=0, **common) as client,
    ):
        client.write_file("/file", bytes(5 << 20))
        for _ in range(3):
            client.read_file("/file")
        (key,) = {tuple(pairs.items()) for pairs in (volume_labels(member), volume_labels(member))}
        assert dict(key)["cache_group_role"] == "Provider"
        assert volume_labels(client)["cache_group_role"] == "Consumer"
        found = parse(render(volume_families(member), volume_labels(member)))
        expected = {
            "juicefs_blockcache_blocks": 2,
            "juicefs_blockcache_hits": 4,
            "juicefs_blockcache_miss": 2,
            "juicefs_blockcache_writes": 2,
            "juicecache_store_loads": 2,
            "juicecache_store_loaded_bytes": 5 << 20,
            "juicefs_remotecache_send": 6,
            "juicecache_server_hits": 4,
            "juicecache_server_loads": 2,
            "juicecache_group_members": 1,
            "juicecache_group_share": 1,
            "juicecache_group_ready": 1,
        }
        assert {name: found[name].samples[key] for name in expected} == expected
        assert found["juicefs_remotecache_sendBytes"].samples[key] >= 15 << 20
        assert found["juicefs_blockcache_bytes"].samples[key] >= 5 << 20
        assert found["juicecache_tier_ok"].samples[
            (*key, ("tier", str(place.folder / "m")), ("medium", "directory"))
        ]
        found = parse(render(volume_families(client), volume_labels(client)))
        (asked,) = found["juicefs_remotecache_get"].samples.values()
        (came,) = found["juicefs_remotecache_getBytes"].samples.values()
        assert (asked, came) == (6, 15 << 20)
        assert "juicefs_remotecache_send" not in found


def test_ready_only_as_a_member_that_is_found(place) -> None:
    with juicecache.open_volume(
        place.meta, cache_dir=str(place.folder / "m"), cache_group="g", group_ip="127.0.0.1"
    ) as member:
        pages = member_pages(member)
        assert pages["/readyz"]() == Page("ready\n")
        serving = member.parts().serving
        serving._renewed_s -= 1000  # as if the metadata had not been there for so long
        assert pages["/readyz"]().status == 503
        assert "took no renewal" in pages["/readyz"]().body
        serving._renew()
        assert pages["/readyz"]().status == 200
        member.drain(0.0)
        assert pages["/readyz"]() == Page("it is leaving the group\n", 503)
    with juicecache.open_volume(place.meta, cache_size=0) as client:
        assert member_pages(client)["/readyz"]() == Page("it is no member\n", 503)


def test_what_members_say_is_only_text() -> None:
    bad = "<script>alert(1)</script>&\"'"
    member = MemberReport(bad, bad, 1, 1.0, False, "down", bad, None, None, None)
    page = overview(bad, GroupReport(bad, bad, "waiting", bad, (member,)))
    assert "<script" not in page
    assert "alert(1)" in page


@pytest.fixture
def pages():
    def fail() -> Page:
        raise RuntimeError("the reason is not for everybody")

    server = PageServer(("127.0.0.1", 0), {"/": lambda: Page("hello\n"), "/bad": fail})
    yield server
    server.close()


def ask(server: PageServer, request: bytes) -> bytes:
    with socket.create_connection(server.address, timeout=30) as connected:
        connected.sendall(request)
        return b"".join(iter(lambda: connected.recv(65_536), b""))


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET / HTTP/1.1", 200, b"hello\n"),
        (b"GET /?x=/bad HTTP/1.0", 200, b"hello\n"),
        (b"HEAD / HTTP/1.1", 200, b""),
        (b"POST / HTTP/1.1", 405, None),
        (b"GET /../etc/passwd HTTP/1.1", 404, None),
        (b"GET /bad HTTP/1.1", 500, None),
        (b"GET /", 400, None),
        (b"\xff\x00\xfe", 400, None),
    ],
)
def test_requests(
    pages: PageServer, request_line: bytes, status: int, body: bytes | None, caplog
) -> None:
    answer = ask(pages, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, found = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"not for everybody" not in answer
    if body is not None:
        assert found == body
        assert b"Content-Length: 6\r\n" in head


def test_a_request_without_end_is_cut(pages: PageServer) -> None:
    request = b"GET / HTTP/1.1\r\nX: " + b"x" * (server_module._REQUEST_BYTES_MAX * 2)
    with socket.create_connection(pages.address, timeout=30) as connected:
        connected.sendall(request)
        assert connected.recv(100).startswith(b"HTTP/1.1 200")


def test_callers_that_say_nothing_hold_it_up_for_a_moment_only(
    pages: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_REQUEST_S", 0.2)
    silent = [socket.create_connection(pages.address) for _ in range(server_module._THREADS + 2)]
    try:
        silent[0].sendall(b"GET")
        before = threading.active_count()
        assert b"hello" in ask(pages, b"GET / HTTP/1.1\r\n\r\n")
        assert threading.active_count() == before
    finally:
        for each in silent:
            each.close()


def test_an_address_that_is_taken_is_named(pages: PageServer) -> None:
    with pytest.raises(ConfigError, match=str(pages.address[1])):
        PageServer(pages.address, {})
    pages.close()
    PageServer(pages.address, {}).close()
