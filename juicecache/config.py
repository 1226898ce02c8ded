"""Options and addresses: the only reader of the environment, of URLs and of option dicts.

`VolumeOptions` is the one list of options: its fields carry name, default, bounds and reason,
and `OPTIONS`, which parses them and fills the table of the documentation, is made from it.
Metadata URLs and the list of volumes have files of their own and are named here as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from juicecache.addresses import (
    MetaAddress,
    collectable_age_s,
    mask_url,
    parse_meta,
    parse_volume_url,
    rsa_passphrase,
    storage_keys,
)
from juicecache.errors import ConfigError
from juicecache.values import (
    KINDS,
    MemberPlaces,
    TierOptions,
    nearest,
    parse_size,
    parse_time,
)
from juicecache.volume_list import (
    find_volume,
    forget_volume,
    list_volumes,
    remember_volume,
    user_folder,
)

__all__ = [
    "OPTIONS",
    "MetaAddress",
    "Option",
    "TierOptions",
    "VolumeOptions",
    "collectable_age_s",
    "default_cache_dir",
    "find_volume",
    "forget_volume",
    "list_volumes",
    "mask_url",
    "parse_meta",
    "parse_size",
    "parse_time",
    "parse_volume_url",
    "remember_volume",
    "rsa_passphrase",
    "storage_keys",
]


class Option(NamedTuple):
    """What a user may set, as one row of the documentation.

    Attributes
    ----------
    name, field
        As the user writes it, and in `VolumeOptions`.
    kind
        One of `juicecache.values.KINDS`.
    default
        As a user would write it.
    reason
        One line: what it does, and why the default is what it is.
    low, high
        Bounds, both allowed, as texts of the kind; empty for none.
    choices
        The only texts allowed; empty for any.
    """

    name: str
    field: str
    kind: str
    default: str
    reason: str
    low: str = ""
    high: str = ""
    choices: tuple[str, ...] = ()

    def parse(self, value: object) -> Any:
        """Return a user's value as the field's.

        Raises
        ------
        ConfigError
            Names the option, the value unless it is secret, and what is allowed.
        """
        read = KINDS[self.kind]
        shown = "****" if self.kind == "secret" else repr(value)
        try:
            parsed = read(value)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"option {self.name}: {shown} is not {error}") from None
        if self.choices and parsed not in self.choices:
            raise ConfigError(f"option {self.name}: {shown} is not one of {self.choices}")
        if self.low and parsed is not None and not read(self.low) <= parsed <= read(self.high):
            raise ConfigError(
                f"option {self.name}: {shown} is not between {self.low} and {self.high}"
            )
        return parsed


def _option(
    kind: str,
    default: str,
    reason: str,
    *bounds: str,
    choices: tuple[str, ...] = (),
    name: str = "",
    hidden: bool = False,
) -> Any:
    """Return the field of one option; its name is the field's unless ``name`` differs (units).

    ``hidden`` keeps a value out of the repr that may hold a secret, as ``secret`` ones are.
    """
    low, high = bounds or ("", "")
    option = Option(name, "", kind, default, reason, low, high, choices)
    return field(
        default=KINDS[kind](default),
        repr=not hidden and kind != "secret",
        metadata={"option": option},
    )


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """How one client uses a volume: what a user may choose, checked, with units in the names.

    Made by `from_options`; equal options make equal clients, and a pickle is all that another
    process needs besides the metadata address.
    """

    cache_dir: tuple[str, ...] = _option(
        "folders",
        "~/.cache/juicecache",
        "where blocks are kept, several separated by ':'; 'memory' is this process's memory. "
        "The default is the user's cache folder, which needs no rights; where it cannot be made, "
        "nothing is kept",
    )
    cache_size_bytes: int = _option(
        "size",
        "100GiB",
        "bytes that the folders of cache_dir share; 0 keeps nothing. As the official client: "
        "free_space_ratio keeps it from filling a smaller disk",
        "0",
        "1EiB",
        name="cache_size",
    )
    memory_size_bytes: int = _option(
        "size",
        "300MiB",
        "bytes of the memory tier in every process that asks for one: as much as buffer_size",
        "0",
        "1EiB",
        name="memory_size",
    )
    tiers: tuple[TierOptions, ...] = _option(
        "tiers",
        "[]",
        "the long form of cache_dir, cache_size and memory_size, instead of them: a list, or its "
        "JSON text, in the order of asking, of "
        '{"medium": "MEM", "path": "/dev/shm/jc", "quota": "40Gi", "free_space_ratio": 0.1}; '
        "quota is required; medium is MEM, SSD or HDD, and MEM without a path is this process's "
        "memory; several folders separated by ',' share one quota, or have one each, and blocks "
        "in proportion; "
        "what a tier does not say is as in the other options",
    )
    cache_items: int = _option(
        "count",
        "0",
        "most blocks in each cache folder; 0 is no limit, since free_space_ratio minds inodes too",
        "0",
        "1000000000000",
    )
    free_space_ratio: float = _option(
        "ratio",
        "0.1",
        "share of a cache folder's disk, in bytes and in inodes, that stays free for others",
        "0",
        "0.99",
    )
    cache_eviction: str = _option(
        "text",
        "2-random",
        "what goes first from a full cache folder: the older of two random blocks costs no "
        "record of each read",
        choices=("none", "2-random", "lru"),
    )
    cache_expire_s: float = _option(
        "time",
        "0s",
        "blocks not read for so long go; 0 is never, since blocks never change",
        "0s",
        "366d",
        name="cache_expire",
    )
    verify_cache_checksum: str = _option(
        "text",
        "extend",
        "when a cached block is checked: at every read (full), when this process first reads it "
        "(extend), when it first reads all of it (shrink), never (none); a copy that was checked "
        "once is not checked again, because blocks never change",
        choices=("none", "full", "shrink", "extend"),
    )
    max_readahead_bytes: int = _option(
        "size",
        "32MiB",
        "how far one open file reads ahead at most: eight blocks of 4 MiB hide 20 ms at 1 GB/s",
        "0",
        "64GiB",
        name="max_readahead",
    )
    buffer_size_bytes: int = _option(
        "size",
        "300MiB",
        "memory for blocks on their way up and for read ahead, for the whole volume",
        "16MiB",
        "1TiB",
        name="buffer_size",
    )
    max_downloads: int = _option(
        "count", "200", "objects requested at once; more wait in line", "1", "10000"
    )
    max_uploads: int = _option(
        "count", "20", "objects sent at once; each holds a block in buffer_size", "1", "10000"
    )
    upload_limit_mbps: int = _option(
        "count",
        "0",
        "Mbit/s to object storage; 0 takes the volume's own limit",
        "0",
        "10000000",
        name="upload_limit",
    )
    download_limit_mbps: int = _option(
        "count",
        "0",
        "Mbit/s from object storage; 0 takes the volume's own limit",
        "0",
        "10000000",
        name="download_limit",
    )
    io_retries: int = _option(
        "count", "10", "further tries of a failed request: about a minute of outage", "0", "100"
    )
    get_timeout_s: float = _option(
        "time",
        "60s",
        "longest download of one object: 4 MiB at 0.6 Mbit/s",
        "100ms",
        "1h",
        name="get_timeout",
    )
    put_timeout_s: float = _option(
        "time",
        "60s",
        "longest upload of one object: 4 MiB at 0.6 Mbit/s",
        "100ms",
        "1h",
        name="put_timeout",
    )
    attr_cache_s: float = _option(
        "time",
        "0s",
        "how old attributes may be in stat and listings; 0 sees every change at once",
        "0s",
        "366d",
        name="attr_cache",
    )
    open_cache_s: float = _option(
        "time",
        "0s",
        "how old a file may be when it is opened; 0 sees whatever was closed before",
        "0s",
        "366d",
        name="open_cache",
    )
    cache_group: str = _option(
        "group",
        "",
        "the cache group that this client reads from, and is a member of unless no_sharing; "
        "nodes of a group own a part of the blocks each. Separate names, such as one a zone, are "
        "separate groups",
    )
    no_sharing: bool = _option(
        "flag", "false", "only read from the cache group: for clients that come and go"
    )
    group_weight: int | None = _option(
        "weight",
        "",
        "this member's part of the blocks, relative to the others'; 0 gives up all, to drain it. "
        "The default is the size of its cache in MiB",
        "0",
        "1099511627776",
    )
    group_backup: bool = _option(
        "flag",
        "false",
        "for the first ten minutes ask the former owner of a block before object storage: so "
        "that a group that grows stays warm",
    )
    fill_group_cache: bool = _option(
        "flag", "false", "give each uploaded block to its owner in the group, which costs network"
    )
    cache_group_size: int = _option(
        "count",
        "0",
        "members that must be there before the group is used: a group that starts would "
        "otherwise let the first member load what belongs to the others",
        "0",
        "100000",
    )
    group_members: MemberPlaces | None = _option(
        "members",
        "",
        "where the members are: host:port,host:port or, for a headless Kubernetes service, "
        "dns:name:port; the default is that they enter themselves into the metadata",
    )
    group_secret: str = _option(
        "secret",
        "",
        "what all of the group must know; the default is one that is kept with the metadata. "
        "Better given as JUICECACHE_GROUP_SECRET",
    )
    group_ip: str = _option(
        "text",
        "",
        "the address that a member listens at and that others reach it by; the default is that "
        "of the network of the default route",
    )
    group_port: int = _option(
        "count",
        "0",
        "the port of a member; 0 takes a free one, and with it another part of the blocks after "
        "each restart",
        "0",
        "65535",
    )
    remote_timeout_s: float = _option(
        "time",
        "2s",
        "a member that sends nothing for so long counts as dead; one that loads a block from "
        "object storage says so meanwhile",
        "1s",
        "5m",
        name="remote_timeout",
    )
    cert_file: str = _option(
        "text", "", "certificate (PEM) that this client and member shows to others: turns on TLS"
    )
    key_file: str = _option("text", "", "private key (PEM) of cert_file")
    ca_file: str = _option(
        "text",
        "",
        "certificates (PEM) that the others' must be signed by; the default is cert_file, for one "
        "certificate that all share",
    )
    read_only: bool = _option("flag", "false", "refuse every change; needs no right to write")
    no_bgjob: bool = _option(
        "flag",
        "false",
        "leave the upkeep of the volume to other clients: expired trash, content of removed files, "
        "sessions of clients that died",
    )
    backup_meta_s: float = _option(
        "time",
        "1h",
        "between two backups of the metadata in object storage; 0 writes none. Larger volumes than "
        "a million inodes need more than an hour",
        name="backup_meta",
    )
    backup_skip_trash: bool = _option("flag", "false", "leave the trash out of these backups")
    subdir: str = _option("text", "", "the folder of the volume that is the root for this client")
    heartbeat_s: float = _option(
        "time",
        "12s",
        "how often a session is renewed and the setting read again; equal for all clients",
        "1s",
        "10m",
        name="heartbeat",
    )
    bucket: str = _option(
        "text", "", "another address of the same bucket; empty is the volume's", hidden=True
    )
    storage: str = _option("text", "", "another kind of storage; empty is the volume's")
    access_key: str = _option("text", "", "instead of the volume's access key")
    secret_key: str = _option("secret", "", "instead of the volume's secret key")
    session_token: str = _option("secret", "", "instead of the volume's session token")

    @classmethod
    def from_options(
        cls, options: Mapping[str, object], environ: Mapping[str, str] = os.environ
    ) -> Self:
        """Return the options of a user's mapping; one that is None counts as absent.

        Raises
        ------
        ConfigError
            An unknown option (names the nearest known one), or a value that is not allowed.
        """
        for name in options:
            if name not in _BY_NAME:
                known = [*_BY_NAME, *(() if name in _ARGUMENTS else _ARGUMENTS)]
                hint = nearest(name.replace("-", "_"), known)
                raise ConfigError(f"unknown option {name!r}{hint}")
        values: dict[str, Any] = {"cache_dir": default_cache_dir(environ)}
        for option in OPTIONS:
            given = options.get(option.name)
            if given is not None:
                values[option.field] = option.parse(given)
        secret = environ.get("JUICECACHE_GROUP_SECRET")
        if values.get("cache_group") and secret and "group_secret" not in values:
            values["group_secret"] = secret
        _check_group(options, values)
        short = [name for name in _SHORT_FORM if options.get(name) is not None]
        if values.get("tiers") and short:
            raise ConfigError(f"options tiers and {short[0]} exclude each other")
        return cls(**values)


def _check_group(options: Mapping[str, object], values: Mapping[str, Any]) -> None:
    """Raise ConfigError where the options of a cache group do not fit together."""
    if not values.get("cache_group"):
        for name in _GROUP_OPTIONS:
            if options.get(name):
                raise ConfigError(f"option {name} needs cache_group, the name of the group")
    if bool(values.get("cert_file")) != bool(values.get("key_file")):
        raise ConfigError("options cert_file and key_file need each other")
    if values.get("ca_file") and not values.get("cert_file"):
        raise ConfigError("option ca_file needs cert_file and key_file")


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what ``cache_dir`` is where nobody says."""
    return (user_folder("XDG_CACHE_HOME", ".cache", environ),)


OPTIONS: tuple[Option, ...] = tuple(
    item.metadata["option"]._replace(
        name=item.metadata["option"].name or item.name, field=item.name
    )
    for item in fields(VolumeOptions)
)
"""All options in the order of the documentation."""
_BY_NAME = {option.name: option for option in OPTIONS}
_SHORT_FORM = ("cache_dir", "cache_size", "memory_size")
"""What `VolumeOptions.tiers` says at length."""
_GROUP_OPTIONS = (
    *("no_sharing", "group_weight", "group_backup", "fill_group_cache", "cache_group_size"),
    *("group_members", "group_secret", "group_ip", "group_port"),
)
"""What means nothing without `VolumeOptions.cache_group`."""
_ARGUMENTS = ("volume", "meta")
"""What may stand beside the options, and be misspelt as they are."""
