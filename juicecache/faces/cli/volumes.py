"""Commands about a volume as a whole: ``format``, ``status``, ``stats``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from juicecache.addresses import kept_password, mask_bucket
from juicecache.config import find_volume, remember_volume, storage_keys
from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import (
    METADATA_ONLY,
    Command,
    add_metadata,
    capacity_bytes,
    count,
    metadata,
    open_meta,
    size_bytes,
)
from juicecache.faces.cli.console import Console, fields, size, table
from juicecache.model.setting import Setting

_CHANGEABLE = {
    "bucket": "bucket",
    "access_key": "access_key",
    "secret_key": "secret_key",
    "session_token": "session_token",
    "storage_class": "storage_class",
    "capacity": "capacity_bytes",
    "inodes": "inodes_max",
    "trash_days": "trash_days",
}
"""Flags that a second ``format`` may change, and the fields of the record that they set."""
_FIXED = {
    "storage": "storage",
    "block_size": "block_kib",
    "compress": "compression",
    "hash_prefix": "hash_prefix",
    "shards": "shards",
    "encrypt_algo": "encrypt_algo",
}
_RENAMED = {
    "block_size": "block_size_kib",
    "capacity": "capacity_bytes",
}
"""Flags that are called otherwise among the arguments of ``format_volume``."""


def _block_kib(text: str) -> int:
    """Return KiB of ``4M`` or, without a unit, of a number of KiB: as the official client."""
    return size_bytes(f"{text}K" if text.isdigit() else text) >> 10


def _configure_format(parser: ArgumentParser) -> None:
    parser.add_argument("meta", metavar="META-URL", type=metadata, help="metadata address")
    parser.add_argument("name", metavar="NAME", help="3 to 63 lower-case letters, digits and '-'")
    add = parser.add_argument
    add("--storage", help="kind of object storage: file, s3, minio, ... (default: file)")
    add("--bucket", help="folder or URL of the bucket (default: ~/.juicefs/local; root: /var/jfs)")
    add("--access-key", help="key of object storage; better in the environment as ACCESS_KEY")
    add("--secret-key", help="as SECRET_KEY in the environment it shows in no list of processes")
    add("--session-token", help="as SESSION_TOKEN in the environment; see --secret-key")
    add("--storage-class", help="what objects are stored with (default: the bucket's)")
    add("--block-size", type=_block_kib, help="size of a block, in KiB without unit (default: 4M)")
    add("--compress", choices=("none", "lz4", "zstd"), help="compression (default: none)")
    add("--encrypt-rsa-key", metavar="PATH", help="RSA private key (PEM): encrypt all objects")
    add("--encrypt-algo", choices=("aes256gcm-rsa", "chacha20-rsa"), help="(default: the first)")
    add("--hash-prefix", action="store_true", default=None, help="begin object names with a hash")
    add("--shards", type=count(0, 256), help="spread objects over so many buckets")
    add("--capacity", type=capacity_bytes, help="most bytes, in GiB without unit (default: none)")
    add("--inodes", type=count(0, 1 << 62), help="most files and directories (default: no limit)")
    add("--trash-days", type=count(0, 36500), help="how long removed files are kept (default: 1)")
    add("--no-update", action="store_true", help="leave a volume that exists as it is")


def _format(arguments: Namespace, console: Console) -> int:
    """Make a volume, or change the one of this name that is there."""
    from juicecache.volume.formatting import absolute_bucket, change_volume, format_volume
    from juicecache.volume.status import stored_setting

    meta = arguments.meta if "://" in arguments.meta else find_volume(arguments.meta)
    given = {
        name: getattr(arguments, name)
        for name in (*_CHANGEABLE, *_FIXED, "encrypt_rsa_key")
        if getattr(arguments, name) is not None
    }
    given = {**storage_keys(), **given}
    setting = stored_setting(meta)
    if setting is not None and "bucket" in given:
        given["bucket"] = absolute_bucket(setting.storage, given["bucket"])
    if setting is None:
        outcome = "formatted"
        if "encrypt_rsa_key" in given:
            with open(given["encrypt_rsa_key"], encoding="utf-8") as file:
                given["encrypt_rsa_key"] = file.read()
        passed = {_RENAMED.get(name, name): value for name, value in given.items()}
        setting = format_volume(meta, arguments.name, remember=False, **passed)
    else:
        changes = {} if arguments.no_update else _changes(setting, arguments.name, given)
        outcome = "updated" if changes else "unchanged"
        if changes:
            setting = change_volume(meta, **changes)
    address = remember_volume(arguments.name, meta)
    if address.password and not kept_password(address.scheme):
        console.note("the password of the metadata address is not kept: set META_PASSWORD")
    console.result(
        {"outcome": outcome, "Setting": json.loads(setting.to_json())},
        [
            f"volume {setting.name} {outcome}: {setting.storage} {mask_bucket(setting.bucket)}",
            f"metadata: {address.masked()}",
            f"use it as juicecache://{setting.name}/",
        ],
    )
    return 0


def _changes(setting: Setting, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields to change in the record of a volume that exists.

    Raises
    ------
    ConfigError
        Another volume lives there, or something was asked for that is fixed.
    """
    if setting.name != name:
        raise ConfigError(f"the database already holds the volume {setting.name!r}")
    for flag, field in _FIXED.items():
        if flag in given and given[flag] != getattr(setting, field):
            raise ConfigError(
                f"--{flag.replace('_', '-')} cannot be changed once a volume is made: "
                f"it is {getattr(setting, field)}"
            )
    if "encrypt_rsa_key" in given:
        raise ConfigError("--encrypt-rsa-key cannot be changed once a volume is made")
    return {
        field: given[flag]
        for flag, field in _CHANGEABLE.items()
        if flag in given and given[flag] != getattr(setting, field)
    }


def _status(arguments: Namespace, console: Console) -> int:
    """Print what the official client prints, as JSON in any case."""
    from juicecache.volume.status import live_sessions

    with open_meta(arguments, **METADATA_ONLY) as volume:
        usage = volume.usage()
        status = {
            "Setting": json.loads(volume.setting.to_json()),
            "Sessions": live_sessions(volume.parts()),
            "Stat": {
                "UsedSpace": usage.used_bytes,
                "AvailableSpace": _rest(usage.capacity_bytes, usage.used_bytes),
                "UsedInodes": usage.used_inodes,
                "AvailableInodes": _rest(usage.inodes_max, usage.used_inodes),
            },
        }
    console.result(status, [json.dumps(status, indent=2)])
    return 0


def _rest(limit: int, used: int) -> int | None:
    """Return what is left of a limit; None without one."""
    return max(limit - used, 0) if limit else None


def _stats(arguments: Namespace, console: Console) -> int:
    with open_meta(arguments, read_only=True) as volume:
        usage, stats = volume.usage(), volume.stats()
    value = {"usage": usage._asdict(), **stats.to_dict()}
    del value["blocks"]  # counts what this process did: nothing
    lines = fields({name: value[name] for name in ("volume", "storage", "metadata")})
    limit = size(usage.capacity_bytes) if usage.capacity_bytes else "no limit"
    lines += [f"used: {size(usage.used_bytes)} of {limit}, {usage.used_inodes} inodes", ""]
    lines += table(
        ("tier", "used", "of", "blocks", "state"),
        [
            (t.where, size(t.used_bytes), size(t.capacity_bytes), str(t.items), t.state)
            for t in stats.tiers
        ],
    )
    lines += [f"{t.state}: {t.reason}" for t in stats.tiers if t.reason]
    console.result(value, lines)
    return 0


COMMANDS = {
    "format": Command(_configure_format, _format),
    "status": Command(add_metadata, _status),
    "stats": Command(add_metadata, _stats),
}
