"""The command ``trash``: what was removed and is kept, getting it back, and emptying it."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from juicecache.faces.cli.arguments import METADATA_ONLY, Command, add_metadata, open_meta
from juicecache.faces.cli.console import Console, name_shown, size, table

_HOUR = re.compile(r"\d{4}-\d{2}-\d{2}-\d{2}")

_SHOWN_MAX = 1000
"""Entries that people see; --json has all."""


def _hour(text: str) -> str:
    if not _HOUR.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} is no hour like 2006-01-02-15")
    return text


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("list", "restore", "empty"),
        help="list, restore, empty",
    )
    add_metadata(parser)
    parser.add_argument(
        "hours",
        metavar="HOUR",
        nargs="*",
        type=_hour,
        help="when it was removed, as YYYY-MM-DD-HH in UTC (default: all hours)",
    )


def _trash(arguments: Namespace, console: Console) -> int:
    """Carry out one action; 1 when something could not be restored."""
    if arguments.action == "list":
        return _list(arguments, console)
    with open_meta(arguments, cache_size="0") as volume:
        if arguments.action == "restore":
            report = volume.restore_trash(
                arguments.hours,
                progress=lambda so_far: console.progress(f"restored {so_far.restored} entries"),
            )
            lines = [f"restored {report.restored} entries"]
            if report.failed:
                lines.append(f"{report.failed} stay in the trash:")
                lines += [f"  {name_shown(line)}" for line in report.failures]
            console.result(report.to_dict(), lines)
            return 1 if report.failed else 0
        removed = 0
        for place in [f"/.trash/{hour}" for hour in arguments.hours] or ["/.trash"]:
            before = removed
            removed += volume.remove_tree(
                place,
                skip_trash=True,
                progress=lambda so_far, before=before: console.progress(  # type: ignore[misc]  # mypy cannot infer a lambda default
                    f"removed {before + so_far} entries"
                ),
            )
    console.result({"removed": removed}, [f"removed {removed} entries for good"])
    return 0


def _list(arguments: Namespace, console: Console) -> int:
    with open_meta(arguments, **METADATA_ONLY) as volume:
        entries = list(volume.trash(arguments.hours))
    value: list[dict[str, Any]] = [entry.to_dict() for entry in entries]
    rows = [
        [name_shown(entry.name), entry.hour, str(entry.parent), size(entry.attr.length)]
        for entry in entries[:_SHOWN_MAX]
    ]
    lines = table(["name", "removed (UTC)", "was in inode", "length"], rows) if rows else []
    if len(entries) > _SHOWN_MAX:
        lines.append(f"and {len(entries) - _SHOWN_MAX} more")
    console.result(value, lines or ["the trash is empty"])
    return 0


COMMANDS = {"trash": Command(_configure, _trash)}
