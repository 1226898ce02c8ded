"""Commands that keep a volume in order: ``gc``, ``fsck``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from juicecache.config import collectable_age_s
from juicecache.faces.cli.arguments import Command, add_metadata, open_meta
from juicecache.faces.cli.console import Console, fields, name_shown

_SHOWN_MAX = 100
"""Items of a list that people see; --json has all that the report kept."""


def _configure_gc(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--delete",
        action="store_true",
        help="remove what no file needs, not only count it; objects that are younger than an hour "
        "(JFS_GC_SKIPPEDTIME, in seconds) may belong to a writer and are only counted, as skipped",
    )
    add(
        "--compact",
        action="store_true",
        help="merge the slices of files that were written in small parts or again, which frees "
        "what later writes cover",
    )
    add_metadata(parser)


def _gc(arguments: Namespace, console: Console) -> int:
    """Look for objects that no file needs."""
    changes = arguments.delete or arguments.compact
    min_age_s = collectable_age_s()
    with open_meta(arguments, cache_size="0", **({} if changes else {"read_only": True})) as volume:
        report = volume.gc(
            delete=arguments.delete,
            compact=arguments.compact,
            min_age_s=min_age_s,
            progress=lambda so_far: console.progress(_counts(so_far.to_dict())),
        )
    value = report.to_dict()
    lines = _lines(value)
    if report.skipped_objects:
        lines.append(
            f"skipped: younger than {min_age_s / 60:g} minutes (JFS_GC_SKIPPEDTIME), so they may "
            "belong to a writer; a later --delete removes those that do not"
        )
    if not arguments.delete:
        lines.append("nothing was removed; --delete does that")
    console.result(value, lines)
    return 1 if value.get("errors") else 0


def _configure_fsck(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--path", default="/", help="the path in the volume to check, with all below (default: /)")
    add("-r", "--recursive", action="store_true", help="what is done in any case")
    add("--repair", action="store_true", help="mend what can be mended in directories")
    add("--sync-dir-stat", action="store_true", help="count the usage of all directories again")
    add_metadata(parser)


def _fsck(arguments: Namespace, console: Console) -> int:
    """Look for damage; 1 when there is some."""
    changes = arguments.repair or arguments.sync_dir_stat
    with open_meta(arguments, cache_size="0", **({} if changes else {"read_only": True})) as volume:
        report = volume.fsck(
            path=arguments.path,
            repair=arguments.repair,
            sync_dir_stat=arguments.sync_dir_stat,
            progress=lambda so_far: console.progress(_counts(so_far.to_dict())),
        )
    value = {"ok": report.ok, **report.to_dict()}
    lines = _lines(value)
    console.result(value, lines)
    return 0 if report.ok else 1


def _counts(report: dict[str, Any]) -> str:
    """Return the numbers of a report that are not zero, on one line."""
    return ", ".join(
        f"{value} {name.replace('_', ' ')}"
        for name, value in report.items()
        if isinstance(value, int) and not isinstance(value, bool) and value
    )


def _lines(report: dict[str, Any]) -> list[str]:
    lines = fields(report)
    for name, items in report.items():
        if isinstance(items, list | tuple) and items:
            lines.append(f"{name.replace('_', ' ')}:")
            lines += [f"  {name_shown(str(item))}" for item in items[:_SHOWN_MAX]]
            if len(items) > _SHOWN_MAX:
                lines.append(f"  and {len(items) - _SHOWN_MAX} more")
    return lines


COMMANDS = {
    "gc": Command(_configure_gc, _gc),
    "fsck": Command(_configure_fsck, _fsck),
}
