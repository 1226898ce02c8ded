"""The command ``warmup``: files into the cache of this machine, ahead of their use."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict

from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import (
    Command,
    Place,
    add_places,
    count,
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
    add_places(parser, "paths", nargs="*")


def _warmup(arguments: Namespace, console: Console) -> int:
    """Load, check or evict; 1 when some file could not be read, or did not stay in the cache."""
    places = [*arguments.paths, *(_listed(arguments.file) if arguments.file else ())]
    volumes = dict.fromkeys(place.volume for place in places)
    if len(volumes) != 1:
        raise ConfigError("warmup takes one or more paths, all of one volume")
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
        lines.append("; ".join([f"the cache is too small: {many}", *reasons]))
    console.result(asdict(report), lines)
    return 1 if report.errors or report.dropped_blocks else 0


def _listed(path: str) -> list[Place]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n") for line in file]
    try:
        return [volume_place(line) for line in lines if line]
    except ArgumentTypeError as error:
        raise ConfigError(f"{path}: {error}") from None


def _line(report: WarmReport, arguments: Namespace) -> str:
    seen = f"{report.files} files, {report.blocks} blocks, {size(report.bytes)}"
    if arguments.evict:
        return f"{seen}; evicted {report.evicted_blocks} blocks"
    cached = f"{report.cached_blocks} blocks ({size(report.cached_bytes)}) in the cache"
    if arguments.check:
        return f"{seen}; {cached}"
    return f"{seen}; {cached} before, loaded {report.loaded_blocks} ({size(report.loaded_bytes)})"


COMMANDS = {"warmup": Command(_configure, _warmup)}
