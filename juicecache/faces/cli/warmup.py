"""The command ``warmup``: files into the cache of this machine, or of a group, ahead of their use.

Places are ``juicecache://VOLUME/path``, or paths behind one metadata URL.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import asdict

from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import (
    Command,
    Place,
    add_meta_flag,
    add_volume_options,
    count,
    inner_place,
    mixed_places,
    open_place,
    volume_place,
)
from juicecache.faces.cli.console import Console, size
from juicecache.volume.warm import WarmReport


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--file", metavar="LIST", help="a file with a path on each line")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only count what is cached")
    what.add_argument("--evict", action="store_true", help="drop the blocks from the cache")
    parser.add_argument(
        "-p", "--threads", type=count(1, 10_000), help="requests at once, as --max-downloads"
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="juicecache://VOLUME/path; or a META-URL, and behind it paths inside its volume",
    )
    add_meta_flag(parser)
    add_volume_options(parser)


def _warmup(arguments: Namespace, console: Console) -> int:
    """Load, check or evict; 1 when some file could not be read, or did not stay in the cache."""
    meta, places = _placed(arguments)
    volumes = dict.fromkeys(place.volume for place in places)
    if len(volumes) != 1:
        raise ConfigError("warmup takes one or more paths, all of one volume")
    arguments.meta = meta or arguments.meta
    at_once: dict[str, object] = {"max_downloads": arguments.threads} if arguments.threads else {}
    with open_place(arguments, next(iter(volumes)), read_only=True, **at_once) as volume:
        report = volume.warmup(
            [place.path for place in places],
            check=arguments.check,
            evict=arguments.evict,
            progress=lambda so_far: console.progress(_line(so_far, arguments)),
        )
        reasons = [tier.reason for tier in volume.stats().tiers if tier.reason]
    lines = [_line(report, arguments), *(f"failed: {error}" for error in report.errors)]
    if report.dropped_blocks:
        many = f"{report.dropped_blocks} of these blocks did not stay in it"
        whose = "the caches of the group are" if report.group else "the cache is"
        lines.append("; ".join([f"{whose} too small: {many}", *reasons]))
    console.result(asdict(report), lines)
    return 1 if report.errors or report.dropped_blocks else 0


def _placed(arguments: Namespace) -> tuple[str, list[Place]]:
    """Return the metadata URL, if it is the first argument, and all places."""
    meta, places = mixed_places(arguments.paths)
    if arguments.file:
        places += _listed(arguments.file, inner_place if meta else volume_place)
    if meta and not places:
        places = [inner_place("/")]
    return meta, places


def _listed(path: str, read: Callable[[str], Place]) -> list[Place]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n") for line in file]
    try:
        return [read(line) for line in lines if line]
    except ArgumentTypeError as error:
        raise ConfigError(f"{path}: {error}") from None


def _line(report: WarmReport, arguments: Namespace) -> str:
    seen = f"{report.files} files, {report.blocks} blocks, {size(report.bytes)}"
    if arguments.evict:
        return f"{seen}; evicted {report.evicted_blocks} blocks"
    where = f"the cache group {report.group}" if report.group else "the cache"
    cached = f"{report.cached_blocks} blocks ({size(report.cached_bytes)}) in {where}"
    if arguments.check:
        return f"{seen}; {cached}"
    failed = f", failed {report.failed_blocks}" if report.failed_blocks else ""
    loaded = f"loaded {report.loaded_blocks} ({size(report.loaded_bytes)})"
    return f"{seen}; {cached} before, {loaded}{failed}"


COMMANDS = {"warmup": Command(_configure, _warmup)}
