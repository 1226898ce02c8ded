"""``juicecache worker`` as a process: ready, read from, drained; its pages; wrong options."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

import juicecache
from juicecache.faces.cli.main import main
from juicecache.testing.workers import worker

KIB = 1 << 10


@pytest.fixture
def files(place) -> dict[str, bytes]:
    with juicecache.open_volume(place.meta, cache_size=0) as volume:
        bodies = {f"/{number}": bytes([number]) * 300 * KIB for number in range(24)}
        for path, body in bodies.items():
            volume.write_file(path, body)
    return bodies


@pytest.fixture
def client(place) -> Callable[..., juicecache.Volume]:
    """Return a maker of clients that keep nothing."""

    with ExitStack() as stack:

        def make(**options) -> juicecache.Volume:
            given = {"cache_group": "g", "no_sharing": True, "cache_size": 0, "heartbeat": "1s"}
            return stack.enter_context(juicecache.open_volume(place.meta, **{**given, **options}))

        yield make


def cache(place, name: str) -> tuple[str, ...]:
    return ("--cache-dir", str(place.folder / name), "--free-space-ratio", "0")


def test_a_worker_is_ready_when_it_says_so_and_serves(place, files, client) -> None:
    with worker(place.meta, *cache(place, "a")) as one:
        assert one.ready["event"] == "ready"
        assert (one.ready["volume"], one.ready["cache_group"]) == ("faces", "g")
        assert one.page("/readyz") == (200, "ready\n")
        volume = client()
        for path, body in files.items():
            assert volume.read_file(path) == body
        stats = volume.stats()
        assert stats.blocks.loads == stats.blocks.range_gets == stats.blocks.fallbacks == 0
        (member,) = volume.group().members
        assert (member.name, member.address) == (one.ready["name"], one.ready["address"])
        assert (member.stats.loads, member.stats.server.loads) == (24, 24)
        assert one.stop(signal.SIGTERM) == (0, "")


def test_drain_fails_no_read_and_the_other_takes_over(place, files, client) -> None:
    with worker(place.meta, *cache(place, "a")) as one, worker(place.meta, *cache(place, "b")):
        volume = client()
        paths, ended = list(files), threading.Event()
        wrong: list[str] = []
        rounds = 0

        def read() -> None:
            nonlocal rounds
            while not ended.is_set():
                for path in paths:
                    try:
                        if volume.read_file(path) != files[path]:
                            wrong.append(path)
                    except Exception as error:
                        wrong.append(repr(error))
                rounds += 1

        reader = threading.Thread(target=read)
        reader.start()
        try:
            while rounds < 2 and not wrong:  # until both have been read from
                ended.wait(0.01)
            code, errors = one.stop(signal.SIGTERM)
        finally:
            ended.set()
            reader.join()
        assert (code, errors) == (0, "")
        assert wrong == []
        assert volume.stats().blocks.fallbacks == 0
        volume.parts().blocks.group.refresh()
        assert [member.name for member in volume.group().members] != [one.ready["name"]]
        assert len(volume.group().members) == 1


def test_while_it_drains_it_is_not_ready_and_a_second_signal_ends_it(place, files, client) -> None:
    with worker(place.meta, *cache(place, "a"), "--heartbeat", "10m") as one:
        volume = client(heartbeat="10m")
        assert volume.read_file("/0") == files["/0"]  # a caller that is waited for
        one.process.send_signal(signal.SIGTERM)
        while (page := one.page("/readyz"))[0] == 200:
            pass
        assert page == (503, "it is leaving the group\n")
        assert one.page("/healthz")[0] == 200
        assert volume.read_file("/1") == files["/1"]
        assert volume.stats().blocks.fallbacks == 0
        code, _ = one.stop(signal.SIGINT)
        assert code == -signal.SIGINT
        assert volume.read_file("/2") == files["/2"]
        assert volume.stats().blocks.fallbacks <= 1


def test_drain_is_bounded(place, files, client) -> None:
    with worker(
        place.meta, *cache(place, "a"), "--heartbeat", "10m", "--drain-timeout", "100ms"
    ) as one:
        volume = client(heartbeat="10m")
        assert volume.read_file("/0") == files["/0"]
        assert one.stop(signal.SIGTERM) == (0, "")


def test_an_interrupt_drains_too(place) -> None:
    with worker(place.meta, *cache(place, "a")) as one:
        assert one.stop(signal.SIGINT) == (0, "")


def test_the_page_for_people_shows_members_and_escapes(place, client) -> None:
    with worker(place.meta, *cache(place, "a")) as one:
        status, page = one.page("/")
        assert status == 200
        assert one.ready["name"] in page
        assert "100.0%" in page
        secret = client().parts().directory.secret()
        everything = page + one.page("/metrics")[1]
        assert secret.hex() not in everything
        assert place.meta not in everything
        assert one.page("/other") == (404, "there is no such page\n")


def test_without_metrics_there_is_no_port(place) -> None:
    with worker(place.meta, *cache(place, "a"), "--metrics", "") as one:
        assert one.ready["metrics"] is None


def test_a_metrics_port_that_was_asked_for_and_is_taken_is_an_error(place, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["worker", place.meta, "--cache-group", "g", "--group-ip", "127.0.0.1"]
        assert main([*words, *cache(place, "a"), "--metrics", address]) == 1
    assert address.rpartition(":")[2] in capsys.readouterr().err
    with juicecache.open_volume(place.meta, cache_group="g", no_sharing=True) as volume:
        assert volume.group().members == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs --cache-group"),
        (("--cache-group", ""), "needs --cache-group"),
        (("--cache-group", "g", "--no-sharing"), "--no-sharing is for clients"),
        (("--cache-group", "g", "--cache-size", "0", "--group-ip", "127.0.0.1"), "no cache"),
        (("--cache-group", "g", "--read-only", "--group-ip", "127.0.0.1"), "metadata"),
        (("--cache-group", "g", "--metrics", "everywhere"), "not host:port"),
        (("--cache-group", "g", "--metrics", "h:99999"), "not host:port"),
        (("--cache-group", "g", "--drain-timeout", "soon"), "--drain-timeout"),
    ],
)
def test_wrong_options_are_named(place, capsys, words: tuple[str, ...], said: str) -> None:
    assert main(["worker", place.meta, *cache(place, "a"), *words]) in (1, 2)
    assert said in capsys.readouterr().err
