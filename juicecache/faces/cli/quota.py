"""The command ``quota``: limits of directories, users and groups."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from juicecache.errors import ConfigError, EntryNotFoundError
from juicecache.faces.cli.arguments import (
    METADATA_ONLY,
    Command,
    add_metadata,
    capacity_bytes,
    count,
    open_meta,
)
from juicecache.faces.cli.console import Console, name_shown, size, table
from juicecache.volume.quotas import QuotaOwner, QuotaReport

_OTHER_NAMES = {"ls": "list", "del": "delete"}
_ID_MAX = (1 << 32) - 1


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("set", "get", "list", "ls", "delete", "del", "check"),
        help="set, get, list (ls), delete (del) or check",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--path", help="the directory, from the root of the volume")
    whose.add_argument("--uid", type=count(0, _ID_MAX), help="the user")
    whose.add_argument("--gid", type=count(0, _ID_MAX), help="the group")
    add = parser.add_argument
    add("--create", action="store_true", help="with set: make the directory if it is missing")
    add(
        "--capacity",
        type=capacity_bytes,
        help="with set: most bytes, in GiB without unit; 0 lifts the limit",
    )
    add(
        "--inodes",
        type=count(0, 1 << 62),
        help="with set: most files and directories; 0 lifts the limit",
    )
    add("--repair", action="store_true", help="with check: store what was counted")
    add("--strict", action="store_true", help="count everything below: what is done in any case")
    add_metadata(parser)


def _quota(arguments: Namespace, console: Console) -> int:
    """Carry out one action; 1 when a check found a quota that counts wrong and stays so."""
    action = _OTHER_NAMES.get(arguments.action, arguments.action)
    _check(action, arguments)
    owner = None
    if (arguments.path, arguments.uid, arguments.gid) != (None, None, None):
        owner = QuotaOwner(arguments.path, arguments.uid, arguments.gid)
    if owner is None and action in ("set", "get", "delete"):
        raise ConfigError(f"quota {action} needs --path, --uid or --gid")
    if action == "check":
        return _check_counts(owner, arguments, console)
    if action in ("list", "get"):
        with open_meta(arguments, **METADATA_ONLY) as volume:
            reports = volume.quotas(owner)
        if owner is not None and action == "get" and not reports:
            raise EntryNotFoundError(arguments.path or "", f"{_shown(owner)} has no quota")
        value: Any = [report.to_dict() for report in reports]
        console.result(value if action == "list" else value[0], _lines(reports))
        return 0
    assert owner is not None, "checked above"
    with open_meta(arguments, cache_size="0") as volume:
        if action == "delete":
            removed = volume.remove_quota(owner)
            console.result({"removed": removed}, [] if removed else ["there was no quota"])
            return 0
        if arguments.create:
            volume.make_directory(arguments.path, parents=True, exist_ok=True)
        report = volume.set_quota(
            owner, capacity_bytes=arguments.capacity, inodes_max=arguments.inodes
        )
    console.result(report.to_dict(), _lines([report]))
    return 0


def _check(action: str, arguments: Namespace) -> None:
    """Refuse flags that mean nothing to an action: the user expects something of them."""
    given = {
        "--create": ("set", arguments.create),
        "--capacity": ("set", arguments.capacity is not None),
        "--inodes": ("set", arguments.inodes is not None),
        "--repair": ("check", arguments.repair),
    }
    for flag, (wanted, is_given) in given.items():
        if is_given and action != wanted:
            raise ConfigError(f"{flag} is for quota {wanted}")
    if arguments.create and arguments.path is None:
        raise ConfigError("--create needs --path")
    if action == "set" and arguments.capacity is None and arguments.inodes is None:
        raise ConfigError("quota set needs --capacity or --inodes")


def _check_counts(owner: QuotaOwner | None, arguments: Namespace, console: Console) -> int:
    options = {"cache_size": "0"} if arguments.repair else METADATA_ONLY
    with open_meta(arguments, **options) as volume:
        reports = volume.check_quotas(
            owner,
            repair=arguments.repair,
            progress=lambda report: console.progress(f"counted {_name(report)}"),
        )
    wrong = [report for report in reports if not report.ok]
    ok = not wrong or arguments.repair
    lines = [
        f"{_name(report)} counts {size(report.used_bytes)} in {report.used_inodes} inodes, "
        f"and should {size(report.counted_bytes or 0)} in {report.counted_inodes}"
        for report in wrong
    ]
    lines.append(f"{len(reports)} checked, {len(wrong)} wrong")
    if wrong:
        lines.append("all are repaired" if arguments.repair else "--repair sets them right")
    value = [{**report.to_dict(), "ok": report.ok} for report in reports]
    repaired = len(wrong) if arguments.repair else 0
    console.result({"ok": ok, "repaired": repaired, "quotas": value}, lines)
    return 0 if ok else 1


def _lines(reports: list[QuotaReport]) -> list[str]:
    return table(
        ("quota of", "capacity", "used", "use%", "inodes", "iused", "iuse%"),
        [
            (
                _name(report),
                size(report.capacity_bytes) if report.capacity_bytes else "no limit",
                size(report.used_bytes),
                _share(report.used_bytes, report.capacity_bytes),
                str(report.inodes_max) if report.inodes_max else "no limit",
                str(report.used_inodes),
                _share(report.used_inodes, report.inodes_max),
            )
            for report in reports
        ],
    )


def _share(used: int, limit: int) -> str:
    return f"{100 * used // limit}%" if limit else ""


def _name(report: QuotaReport) -> str:
    if report.kind != "directory":
        return f"{'uid' if report.kind == 'user' else 'gid'}:{report.id}"
    return name_shown(report.path) or f"inode {report.id} (gone)"


def _shown(owner: QuotaOwner) -> str:
    if owner.path is not None:
        return "the directory"
    return f"uid:{owner.uid}" if owner.uid is not None else f"gid:{owner.gid}"


COMMANDS = {"quota": Command(_configure, _quota)}
