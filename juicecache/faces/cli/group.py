"""The command ``group``: the cache groups of a volume, and the members of one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import (
    METADATA_ONLY,
    Command,
    add_metadata,
    given_options,
    open_meta,
)
from juicecache.faces.cli.console import Console, printable, size, table
from juicecache.volume.group_report import GroupReport, MemberReport

_COLUMNS = (
    *("member", "address", "weight", "share", "used", "of", "hit ratio"),
    *("sent", "from store", "state", "last heartbeat"),
)


def _configure(parser: ArgumentParser) -> None:
    add_metadata(parser)
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        default="",
        help="a cache group, right behind META-URL; without it, all",
    )


def _group(arguments: Namespace, console: Console) -> int:
    """Print all groups, or the members of one."""
    given = str(given_options(arguments).get("cache_group") or "")
    name = arguments.name or given
    if given and name != given:
        raise ConfigError(f"NAME is {name!r}, and --cache-group {given!r}: give one of them")
    return _members(name, arguments, console) if name else _list(arguments, console)


def _list(arguments: Namespace, console: Console) -> int:
    with open_meta(arguments, **METADATA_ONLY) as volume:
        groups = volume.groups()
    value = {"groups": [{"name": g.name, "members": g.members, "weight": g.weight} for g in groups]}
    rows = [(group.name, str(group.members), str(group.weight)) for group in groups]
    nobody = "no member has entered itself into the metadata so far"
    console.result(value, table(("group", "members", "weight"), rows) if rows else [nobody])
    return 0


def _members(name: str, arguments: Namespace, console: Console) -> int:
    with open_meta(arguments, **METADATA_ONLY, cache_group=name) as volume:
        report = volume.group()
        assert report is not None
        if not report.members and volume.options.group_members is None:
            known = [group.name for group in volume.groups()]
            if name not in known:
                others = f"; there are {', '.join(known)}" if known else ""
                raise ConfigError(f"the volume has no cache group {name!r}{others}")
    console.result(report.to_dict(), _lines(report))
    return 0


def _lines(report: GroupReport) -> list[str]:
    reason = f": {printable(report.reason)}" if report.reason else ""
    lines = [f"cache group {report.name}, {len(report.members)} members, {report.state}{reason}"]
    if report.members:
        lines += ["", *table(_COLUMNS, [_row(member) for member in report.members])]
    for member in report.members:
        reasons = [member.reason, *(member.stats.reasons if member.stats is not None else ())]
        lines += [printable(f"{member.name}: {reason}") for reason in reasons if reason]
    return lines


def _row(member: MemberReport) -> tuple[str, ...]:
    stats = member.stats
    said = ("-",) * 5
    if stats is not None:
        ratio = stats.hit_ratio
        said = (
            size(stats.used_bytes),
            size(stats.capacity_bytes),
            "-" if ratio is None else f"{ratio:.1%}",
            size(stats.server.sent_bytes),
            size(stats.loaded_bytes),
        )
    age_s = member.heartbeat_age_s
    return (
        *(printable(member.name), printable(member.address), str(member.weight)),
        *(f"{member.share:.1%}", *said, member.state),
        "-" if age_s is None else f"{age_s:.0f} s ago",
    )


COMMANDS = {"group": Command(_configure, _group)}
