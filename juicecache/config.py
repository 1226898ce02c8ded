"""Options and addresses: the only reader of the environment, of URLs and of option dicts.

`VolumeOptions` is the one list of options: its fields carry name, default, bounds and reason,
and `OPTIONS`, which parses them and fills the table of the documentation, is made from it.
Metadata URLs and the list of volumes have files of their own and are named here as well.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
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
from juicecache.volume_list import find_volume, list_volumes, remember_volume, user_folder

__all__ = [
    "OPTIONS",
    "MetaAddress",
    "Option",
    "TierOptions",
    "VolumeOptions",
    "collectable_age_s",
    "default_cache_dir",
    "find_volume",
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

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(B)|([KMGTPE])(?:i?B?))?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {unit: 1 << (10 * power) for power, unit in enumerate("BKMGTPE")}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_EIB = 1 << 60
_FREE_SPACE_RATIO_MAX = 0.99
_NUMBER_CHARS_MAX = 40
"""More digits than any quantity here has; keeps arithmetic on them small."""


def parse_size(value: object) -> int:
    """Return bytes of ``1GiB``, ``40Gi``, ``100M``, ``512B``, or of a bare number of MiB.

    Units are powers of 1024 whatever their spelling, as in the official client.

    Raises
    ------
    ValueError
        Not a size.
    """
    match = _SIZE.fullmatch(_number_text(value))
    if match is None:
        raise ValueError("a size like 1GiB, 40Gi or a number of MiB")
    unit = (match[2] or match[3] or "M").upper()
    if "." in match[1]:
        return round(float(match[1]) * _SIZE_UNITS[unit])
    return int(match[1]) * _SIZE_UNITS[unit]


def parse_time(value: object) -> float:
    """Return seconds of ``1s``, ``500ms``, ``1h30m``, or of a bare number of seconds.

    Raises
    ------
    ValueError
        Not a time.
    """
    text = _number_text(value)
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text or _TIME.sub("", text):
        raise ValueError("a time like 1s, 500ms or a number of seconds")
    return math.fsum(float(m[1]) * _TIME_UNITS[m[2]] for m in _TIME.finditer(text))


def _number_text(value: object) -> str:
    """Return a number or its text as text; not a boolean, a number to Python."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = format(value, "f") if isinstance(value, float) else str(value).strip()
    return text if len(text) <= _NUMBER_CHARS_MAX else ""


def _parse_count(value: object) -> int:
    text = _number_text(value)
    if isinstance(value, float) or not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number")
    return int(text)


def _parse_ratio(value: object) -> float:
    text = _number_text(value)
    if not _NUMBER.fullmatch(text):
        raise ValueError("a number")
    return float(text)


def _parse_flag(value: object) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _parse_folders(value: object) -> tuple[str, ...]:
    """Return folders of a text that separates them by ``:``, of one path, or of several."""
    if isinstance(value, str):
        folders = value.split(":")
    elif isinstance(value, os.PathLike):
        folders = [os.fspath(value)]
    elif isinstance(value, list | tuple):
        folders = [os.fspath(folder) for folder in value if isinstance(folder, str | os.PathLike)]
        if len(folders) < len(value):
            raise ValueError("folders")
    else:
        folders = []
    if not folders or not all(isinstance(folder, str) and folder for folder in folders):
        raise ValueError("folders separated by ':', or the word memory")
    for folder in folders if not isinstance(value, os.PathLike) else ():
        # A misspelt "memory" would be a folder in whatever directory the program runs.
        if "/" not in folder and folder not in ("memory", "~"):
            hint = _hint(folder, ("memory",)) or f"; the folder of that name is './{folder}'"
            raise ConfigError(
                f"option cache_dir: {folder!r} is neither a path with '/' nor memory{hint}"
            )
    return tuple(dict.fromkeys(folders))


class TierOptions(NamedTuple):
    """One level of cache.

    Attributes
    ----------
    folders
        Paths with the bytes that each may take; none for the memory of the process.
    memory_bytes
        What a tier in the memory of the process may take.
    free_space_ratio
        Share of a folder's disk that stays free.
    """

    folders: tuple[tuple[str, int], ...]
    memory_bytes: int
    free_space_ratio: float | None = None


_TIER_KEYS = ("medium", "path", "quota", "free_space_ratio")
_MEDIA = ("MEM", "SSD", "HDD")


def _parse_tiers(value: object) -> tuple[TierOptions, ...]:
    """Return the levels of a list of mappings, or of its JSON text."""
    if isinstance(value, str):
        import json  # here: only the long form needs it

        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"JSON: {error}") from None
    if not isinstance(value, list | tuple) or not all(isinstance(m, Mapping) for m in value):
        raise ValueError("a list of tiers, each with medium, path and quota")
    levels = []
    for number, tier in enumerate(value, 1):
        try:
            levels.append(_parse_tier(tier))
        except ValueError as error:
            path = f" ({tier['path']})" if tier.get("path") else ""
            raise ConfigError(f"option tiers: tier {number}{path}: {error}") from None
    return tuple(levels)


def _parse_tier(tier: Mapping[str, object]) -> TierOptions:
    """Return one level; raises ValueError with what is wrong with it."""
    for key in tier:
        if key not in _TIER_KEYS:
            raise ValueError(f"unknown key {key!r}{_hint(str(key), _TIER_KEYS)}")
    medium = tier.get("medium", "SSD")
    if medium not in _MEDIA:
        raise ValueError(f"medium {medium!r} is not one of {_MEDIA}")
    ratio = None
    if tier.get("free_space_ratio") is not None:
        ratio = _tier_value(tier, "free_space_ratio", _parse_ratio)
        if not 0 <= ratio <= _FREE_SPACE_RATIO_MAX:
            raise ValueError(
                f"free_space_ratio {ratio} is not between 0 and {_FREE_SPACE_RATIO_MAX}"
            )
    place = tier.get("path")
    if isinstance(place, str) and ":" in place:
        raise ValueError("several folders are separated by ',' here; one with ':' goes into a list")
    paths = [path for path in _items(place) if isinstance(path, str) and path]
    if len(paths) < len(_items(place)) or not (paths or medium == "MEM"):
        raise ValueError("path must be a folder, or several separated by ','")
    if tier.get("quota") is None:
        raise ValueError("quota is missing: how many bytes it may take, such as 40Gi")
    quotas: list[int] = _tier_value(
        tier, "quota", lambda given: [parse_size(q) for q in _items(given)]
    )
    if len(quotas) not in (1, len(paths) or 1) or not all(0 < each <= _EIB for each in quotas):
        raise ValueError("quota must be one size for all folders together, or one for each")
    if not paths:
        return TierOptions((), quotas[0], ratio)
    if len(quotas) < len(paths):
        quotas = [quotas[0] // len(paths)] * len(paths)
    return TierOptions(tuple(zip(paths, quotas, strict=True)), 0, ratio)


def _tier_value(tier: Mapping[str, object], key: str, parse: Callable[[object], Any]) -> Any:
    try:
        return parse(tier[key])
    except ValueError as error:
        raise ValueError(f"{key} {tier[key]!r} is not {error}") from None


def _items(value: object) -> list[object]:
    """Return the parts of a text that separates them by commas, or the one value, or the list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, list | tuple):
        return [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
    return [os.fspath(value) if isinstance(value, os.PathLike) else value]


_KINDS: Mapping[str, Callable[[object], Any]] = {
    "size": parse_size,
    "time": parse_time,
    "count": _parse_count,
    "ratio": _parse_ratio,
    "flag": _parse_flag,
    "text": _parse_text,
    "secret": _parse_text,
    "folders": _parse_folders,
    "tiers": _parse_tiers,
}


class Option(NamedTuple):
    """What a user may set, as one row of the documentation.

    Attributes
    ----------
    name, field
        As the user writes it, and in `VolumeOptions`.
    kind
        ``size``, ``time``, ``count``, ``ratio``, ``flag``, ``text``, ``secret``, ``folders`` or
        ``tiers``.
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
        read = _KINDS[self.kind]
        shown = "****" if self.kind == "secret" else repr(value)
        try:
            parsed = read(value)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"option {self.name}: {shown} is not {error}") from None
        if self.choices and parsed not in self.choices:
            raise ConfigError(f"option {self.name}: {shown} is not one of {self.choices}")
        if self.low and not read(self.low) <= parsed <= read(self.high):
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
        default=_KINDS[kind](default),
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
    read_only: bool = _option("flag", "false", "refuse every change; needs no right to write")
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
                raise ConfigError(f"unknown option {name!r}{_hint(name, known)}")
        values: dict[str, Any] = {"cache_dir": default_cache_dir(environ)}
        for option in OPTIONS:
            given = options.get(option.name)
            if given is not None:
                values[option.field] = option.parse(given)
        short = [name for name in _SHORT_FORM if options.get(name) is not None]
        if values.get("tiers") and short:
            raise ConfigError(f"options tiers and {short[0]} exclude each other")
        return cls(**values)


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what ``cache_dir`` is where nobody says."""
    return (user_folder("XDG_CACHE_HOME", ".cache", environ),)


def _hint(name: str, known: Iterable[str]) -> str:
    import difflib  # here: only a mistake needs it

    nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


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
_ARGUMENTS = ("volume", "meta")
"""What may stand beside the options, and be misspelt as they are."""
