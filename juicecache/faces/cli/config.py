"""The command ``config``: the setting of a volume, shown or changed."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import Any

from juicecache.addresses import mask_bucket
from juicecache.config import find_volume, storage_keys
from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import Command, capacity_bytes, count, metadata
from juicecache.faces.cli.console import Console
from juicecache.values import parse_time

_FIELDS = {
    "storage": "storage",
    "bucket": "bucket",
    "storage_class": "storage_class",
    "upload_limit": "upload_limit_mbps",
    "download_limit": "download_limit_mbps",
    "capacity": "capacity_bytes",
    "inodes": "inodes_max",
    "trash_days": "trash_days",
    "enable_acl": "acl",
    "encrypt_secret": "key_encrypted",
    "min_client_version": "min_client_version",
    "max_client_version": "max_client_version",
    "dir_stats": "dir_stats",
    "user_group_quota": "user_group_quota",
    "changelog": "change_log",
    "changelog_max_age": "change_log_age_s",
    "changelog_max_lines": "change_log_lines",
}
"""Flags, and the fields of the record that they set."""
_KEYS = ("access_key", "secret_key", "session_token")
_FLAGS = {name: flag for flag, name in _FIELDS.items()} | {name: name for name in _KEYS}
_MBPS_MAX = 10**7
"""10 Tbit/s: beyond every network card."""


def _seconds(text: str) -> int:
    """Return whole seconds of ``2h``, ``30m`` or ``0``."""
    try:
        return round(parse_time(text))
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not {error}") from None


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "meta", metavar="META-URL", type=metadata, help="metadata address, or name, of the volume"
    )
    add = parser.add_argument
    add("-y", "--yes", action="store_true", help="answer every question with yes")
    add("--force", action="store_true", help="ask nothing, and do not try object storage")
    add("--storage", help="kind of object storage: file, s3, minio, ...")
    add("--bucket", help="folder or URL of the bucket, to which the objects were copied before")
    for name in _KEYS:
        variable = name.upper()
        add(
            f"--{name.replace('_', '-')}",
            action="store_true",
            help=f"store {variable} of the environment; empty takes the stored one away",
        )
    add("--storage-class", help="what objects are stored with")
    for way in ("upload", "download"):
        add(
            f"--{way}-limit",
            type=count(0, _MBPS_MAX),
            help="Mbit/s of each client; 0 lifts the limit",
        )
    add("--capacity", type=capacity_bytes, help="most bytes, in GiB without unit; 0 for no limit")
    add("--inodes", type=count(0, 1 << 62), help="most files and directories; 0 for no limit")
    add("--trash-days", type=count(0, 36500), help="how long removed files are kept")
    _add_switch(parser, "--enable-acl", "keep access control lists; cannot be switched off again")
    _add_switch(parser, "--encrypt-secret", "seal the keys in the record; stays on")
    add("--min-client-version", metavar="VERSION", help="of clients that may use the volume")
    add("--max-client-version", metavar="VERSION", help="as the least one; '' lifts the limit")
    _add_switch(parser, "--dir-stats", "keep the usage of directories, which quotas of them need")
    _add_switch(parser, "--user-group-quota", "keep what every user and group owns")
    _add_switch(parser, "--changelog", "keep a log of all changes of the metadata")
    add("--changelog-max-age", type=_seconds, help="as 2h or 30m; 0 keeps lines of any age")
    add("--changelog-max-lines", type=count(0, 1 << 62), help="0 keeps any number of lines")


def _add_switch(parser: ArgumentParser, flag: str, text: str) -> None:
    """Add a flag that switches on, and its form ``=false``, as the official client writes it."""
    name = flag[2:].replace("-", "_")
    parser.add_argument(
        flag, f"{flag}=true", dest=name, action="store_const", const=True, help=text
    )
    parser.add_argument(
        f"{flag}=false", dest=name, action="store_const", const=False, help="switch it off"
    )


def _config(arguments: Namespace, console: Console) -> int:
    """Show the setting, or change what flags were given for."""
    from juicecache.volume.administration import configure_volume
    from juicecache.volume.status import stored_setting

    meta = arguments.meta if "://" in arguments.meta else find_volume(arguments.meta)
    given = {
        name: getattr(arguments, flag)
        for flag, name in _FIELDS.items()
        if getattr(arguments, flag) is not None
    }
    keys = storage_keys()
    given |= {name: keys.get(name, "") for name in _KEYS if getattr(arguments, name)}
    if not given:
        setting = stored_setting(meta)
        if setting is None:
            raise ConfigError("there is no volume")
        console.result(json.loads(setting.to_json()), [setting.to_json()])
        return 0
    changed = configure_volume(
        meta, given, confirm=_confirm(arguments, console), trusting=arguments.force
    )
    shown = {
        _FLAGS[name]: [_shown(name, old), _shown(name, new)]
        for name, (old, new) in changed.fields().items()
    }
    console.result(
        {"changed": shown, "Setting": json.loads(changed.after.to_json())},
        [f"{flag.replace('_', '-')}: {old!s} -> {new!s}" for flag, (old, new) in shown.items()]
        or ["nothing to change"],
    )
    return 0


def _shown(name: str, value: Any) -> Any:
    return mask_bucket(value) if name == "bucket" else value


def _confirm(arguments: Namespace, console: Console) -> Callable[[str], bool]:
    return lambda consequence: confirmed(consequence, arguments, console)


def confirmed(consequence: str, arguments: Namespace, console: Console) -> bool:
    """Return whether the user wants it: by ``--yes``, or asked where a person can answer.

    Raises
    ------
    ConfigError
        Nobody can be asked.
    """
    if arguments.yes:
        console.note(f"{consequence} (--yes)")
        return True
    if console.machine or not sys.stdin.isatty():
        raise ConfigError(f"{consequence}; --yes goes on all the same")
    console.note(consequence)
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


COMMANDS = {"config": Command(_configure, _config)}
