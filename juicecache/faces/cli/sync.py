"""The command ``sync``: one tree brought into line with another, wherever both are."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from contextlib import ExitStack
from datetime import datetime
from time import time
from typing import Any

from juicecache.addresses import VOLUME_SCHEMES, mask_url
from juicecache.errors import ConfigError, JuicecacheError
from juicecache.faces.cli.arguments import (
    Command,
    add_meta_flag,
    add_volume_options,
    count,
    open_place,
    size_bytes,
    volume_place,
)
from juicecache.faces.cli.console import Console, printable, size
from juicecache.faces.sync.item import End, Kind
from juicecache.faces.sync.local import LocalEnd
from juicecache.faces.sync.options import SyncOptions, SyncReport
from juicecache.faces.sync.remote import RemoteEnd
from juicecache.faces.sync.rules import Rule
from juicecache.faces.sync.run import synchronise
from juicecache.faces.sync.stored import VolumeEnd
from juicecache.values import parse_time
from juicecache.volume.volume import Volume

_MBIT = 1_000_000 / 8
_SHOWN_MAX = 20


class _AddRule(Action):
    """Keeps rules in the order in which both flags stand on the command line."""

    def __call__(
        self, parser: ArgumentParser, arguments: Namespace, values: Any, option: str | None = None
    ) -> None:
        rules = [*arguments.rules, Rule(option == "--include", values)]
        arguments.rules = rules


def _configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    place = "juicecache://VOLUME/path, a local path, or a URL of fsspec"
    add("source", metavar="SRC", help=place)
    add("target", metavar="DST", help="the same; a single file goes into it where it ends with /")
    _configure_selection(parser)
    _configure_actions(parser)
    add("-p", "--threads", metavar="THREADS", type=count(1, 1000), default=10, help="(default: 10)")
    add("--bwlimit", metavar="MBPS", type=count(0, 10**6), default=0, help="bandwidth, in Mbit/s")
    add_meta_flag(parser)
    add_volume_options(parser)


def _configure_selection(parser: ArgumentParser) -> None:
    parser.set_defaults(rules=[])
    add = parser.add_argument_group("what is taken").add_argument
    for flag, text in (
        ("--exclude", "leave out what matches; the first rule that matches decides"),
        ("--include", "take what matches, whatever later rules say"),
    ):
        add(flag, metavar="PATTERN", action=_AddRule, dest="rules", help=text)
    add("--match-full-path", action="store_true", help="judge whole paths, not each directory")
    add("--start", "-s", metavar="PATH", default="", help="the first path")
    add("--end", "-e", metavar="PATH", default="", help="the last path")
    add("--min-size", metavar="SIZE", type=_bytes, default=0, help="skip smaller files")
    add("--max-size", metavar="SIZE", type=_bytes, help="skip larger files")
    add("--min-age", metavar="TIME", type=_age, default=0.0, help="skip files that are newer")
    add("--max-age", metavar="TIME", type=_age, help="skip files that are older")
    add("--start-time", metavar="WHEN", type=_when, help="skip files changed before that time")
    add("--end-time", metavar="WHEN", type=_when, help="skip files changed after that time")
    add("--limit", metavar="N", type=int, default=-1, help="so many files at most")
    add("--update", "-u", action="store_true", help="only what is newer, whatever the sizes")
    add("--force-update", "-f", action="store_true", help="copy what is there as well")
    add("--existing", "--ignore-non-existing", action="store_true", help="make no new files")
    add("--ignore-existing", action="store_true", help="leave alone what is there")
    add("--files-from", metavar="FILE", help="only the files and directories listed in FILE")


def _configure_actions(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("what is done").add_argument
    add("--dirs", action="store_true", help="directories too, also empty ones")
    add("--perms", action="store_true", help="keep permission bits, owners and times")
    add("--links", "-l", action="store_true", help="copy symbolic links as they are")
    add(
        *("--delete-src", "--deleteSrc"),
        action="store_true",
        help="remove from SRC what DST has already",
    )
    add("--delete-src-after", action="store_true", help="remove from SRC what was copied")
    add(
        *("--delete-dst", "--deleteDst"),
        action="store_true",
        help="remove from DST what SRC does not have",
    )
    add("--check-all", action="store_true", help="compare the contents of all files")
    add("--check-new", action="store_true", help="compare the contents of what was copied")
    add("--check-change", action="store_true", help="look whether SRC changed meanwhile")
    add("--max-failure", metavar="N", type=int, default=-1, help="end behind more failures")
    add("--dry", action="store_true", help="say what would be done")


def _bytes(text: str) -> int:
    return int(text) if text.isdigit() else size_bytes(text)


def _age(text: str) -> float:
    try:
        return parse_time(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not {error}") from None


def _when(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time like 2006-01-02 15:04:05") from None


def _sync(arguments: Namespace, console: Console) -> int:
    """Copy what differs; 1 where some of it could not be done."""
    try:
        return _run(arguments, console)
    except (JuicecacheError, OSError):
        raise
    except Exception as error:  # a package behind fsspec may raise anything, and quote an address
        raise ConfigError(f"{type(error).__name__}: {mask_url(str(error))}") from None


def _run(arguments: Namespace, console: Console) -> int:
    options = _options(arguments)
    with ExitStack() as stack:
        volumes: dict[str, Volume] = {}
        source = _end(arguments, arguments.source, volumes, stack)
        place = _place_of_file(arguments, source, volumes, stack)
        target = _end(arguments, place, volumes, stack)

        def show(report: SyncReport) -> None:
            console.progress(
                f"{report.handled} files, {report.copied} copied ({size(report.copied_bytes)})"
            )

        report = synchronise(source, target, options, show)
    lines = [
        f"{'would copy' if options.dry else 'copied'} {report.copied} files "
        f"({size(report.copied_bytes)}), {report.skipped} were there, {report.deleted} deleted, "
        f"{report.failed} failed"
    ]
    console.result(report.to_dict(), lines)
    for error in report.errors[:_SHOWN_MAX]:
        print(f"juicecache: error: {printable(error)}", file=sys.stderr)
    if report.failed > _SHOWN_MAX:
        print(f"juicecache: and {report.failed - _SHOWN_MAX} more", file=sys.stderr)
    return 1 if report.failed else 0


def _options(arguments: Namespace) -> SyncOptions:
    now_s = time()
    names = None
    if arguments.files_from:
        with open(arguments.files_from, encoding="utf-8", errors="surrogateescape") as file:
            names = tuple(line.rstrip("\n") for line in file if line.strip())
    ages = [arguments.max_age]
    if arguments.start_time is not None:
        ages.append(max(0.0, now_s - arguments.start_time))
    youngest = [arguments.min_age]
    if arguments.end_time is not None:
        youngest.append(now_s - arguments.end_time)
    same = (
        *("match_full_path", "start", "end", "min_size", "max_size", "limit", "update"),
        *("force_update", "existing", "ignore_existing", "dirs", "perms", "links", "delete_src"),
        *("delete_src_after", "delete_dst", "check_all", "check_new", "check_change", "dry"),
        *("max_failure", "threads"),
    )
    return SyncOptions(
        rules=tuple(arguments.rules),
        files_from=names,
        min_age_s=max(youngest),
        max_age_s=min((age for age in ages if age is not None), default=None),
        bytes_per_s=arguments.bwlimit * _MBIT,
        **{name: getattr(arguments, name) for name in same},
    )


def _end(arguments: Namespace, text: str, volumes: dict[str, Volume], stack: ExitStack) -> End:
    """Return the end that an address means; the volumes are closed with the stack."""
    scheme, mark, rest = text.partition("://")
    if mark and scheme in VOLUME_SCHEMES:
        place = volume_place(text)
        if place.volume not in volumes:
            volumes[place.volume] = stack.enter_context(open_place(arguments, place.volume))
        return VolumeEnd(volumes[place.volume], place.path, text)
    if not (rest if mark else text):
        raise ConfigError(f"the address {text!r} names no place")
    if not mark or scheme in ("file", "local"):
        return LocalEnd(rest if mark else text)
    return RemoteEnd(text)


def _place_of_file(
    arguments: Namespace, source: End, volumes: dict[str, Volume], stack: ExitStack
) -> str:
    """Return the address of the target: a single file goes into a directory."""
    text: str = arguments.target
    top = source.find("")
    if top is None or top.kind is not Kind.FILE:
        return text
    there = None if text.endswith("/") else _end(arguments, text, volumes, stack).find("")
    if text.endswith("/") or (there is not None and there.kind is Kind.DIRECTORY):
        return f"{text.rstrip('/')}/{arguments.source.rstrip('/').rpartition('/')[2]}"
    return text


COMMANDS = {"sync": Command(_configure, _sync)}
