"""The command ``worker``: a member of a cache group, in the foreground until it is told to stop.

The first SIGTERM or SIGINT drains: the member leaves the group and serves on until clients know.
A second one ends the process at once; clients then find out by a refused connection.
"""

from __future__ import annotations

import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from juicecache.config import parse_time
from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import Command, add_metadata, given_options, open_meta
from juicecache.faces.cli.console import Console

if TYPE_CHECKING:
    from juicecache.faces.metrics.server import PageServer
    from juicecache.volume.volume import Volume

_METRICS_HOST, _METRICS_PORT = "127.0.0.1", 9567
_DRAIN_S = 25.0
"""Below the 30 s after which Kubernetes kills, and above a heartbeat of 12 s in which clients
learn that we left."""


def _address(text: str) -> tuple[str, int] | None:
    """Return the host and port of ``host:port``; None of nothing."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise ArgumentTypeError(f"{text!r} is not host:port")
    return host, int(port)


def _duration_s(text: str) -> float:
    try:
        return parse_time(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not {error}") from None


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        metavar="ADDRESS",
        type=_address,
        default=(),
        help="host:port of /metrics, /healthz, /readyz and a page for people; empty for none, "
        f"port 0 for any (default: {_METRICS_HOST}:{_METRICS_PORT}, or any if that is taken)",
    )
    parser.add_argument(
        "--drain-timeout",
        metavar="TIME",
        type=_duration_s,
        default=_DRAIN_S,
        help="how long to serve on after SIGTERM or SIGINT, until clients know "
        f"(default: {_DRAIN_S:g}s, below the 30s of Kubernetes)",
    )
    add_metadata(parser)


def _worker(arguments: Namespace, console: Console) -> int:
    """Serve until a signal comes, then drain."""
    options = given_options(arguments)
    if not options.get("cache_group"):
        raise ConfigError("worker needs --cache-group, the name of the group to be a member of")
    if options.get("no_sharing"):
        raise ConfigError("worker shares its cache: --no-sharing is for clients")
    with open_meta(arguments, no_sharing=False) as volume:
        if not volume.stats().tiers:
            raise ConfigError("worker has no cache to share: give --cache-dir and --cache-size")
        with _pages(volume, arguments.metrics) as server:
            stops = _stops()
            _announce(volume, server, console)
            stops.get()
            console.note(f"draining, {arguments.drain_timeout:g} s at the longest")
            volume.drain(arguments.drain_timeout)
    return 0


def _announce(volume: Volume, server: PageServer | None, console: Console) -> None:
    """Say that we are ready, on one line."""
    member = volume.member()
    assert member is not None
    url = None if server is None else server.url
    value = {
        "event": "ready",
        "name": member.name,
        "address": member.address,
        "cache_group": volume.options.cache_group,
        "volume": volume.setting.name,
        "metrics": url,
    }
    console.announce(
        value,
        f"ready: {member.name} at {member.address} in cache group {value['cache_group']} of "
        f"volume {value['volume']}" + ("" if url is None else f"; metrics at {url}/metrics"),
    )


@contextmanager
def _pages(
    volume: Volume, address: tuple[str, int] | tuple[()] | None
) -> Iterator[PageServer | None]:
    """Serve pages about a volume meanwhile."""
    if address is None:
        yield None
        return
    from juicecache.faces.metrics.pages import member_pages
    from juicecache.faces.metrics.server import PageServer

    pages = member_pages(volume)
    if address:
        server = PageServer(address, pages)
    else:
        try:
            server = PageServer((_METRICS_HOST, _METRICS_PORT), pages)
        except ConfigError:  # another worker of this machine: nobody asked for this very port
            server = PageServer((_METRICS_HOST, 0), pages)
    try:
        yield server
    finally:
        server.close()


def _stops() -> SimpleQueue[int]:
    """Return where the first signal to stop shows up; the second then has its usual effect."""
    stops: SimpleQueue[int] = SimpleQueue()  # may be put into while the same thread waits for it

    def stop(number: int, _: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        stops.put(number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    return stops


COMMANDS = {"worker": Command(_configure, _worker)}
