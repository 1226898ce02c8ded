"""What users write for options, as values: sizes, times, counts, folders, tiers, addresses.

Every reader here takes what a program or a command line gives, and raises a ValueError whose
text is the end of "... is not".
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from juicecache.errors import ConfigError

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
            hint = nearest(folder, ("memory",)) or f"; the folder of that name is './{folder}'"
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
            raise ValueError(f"unknown key {key!r}{nearest(str(key), _TIER_KEYS)}")
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


class MemberPlaces(NamedTuple):
    """Where the members of a cache group are looked for, if not in the metadata.

    Attributes
    ----------
    addresses
        Theirs; none if a name stands for them.
    service
        A name that resolves to all of them, and their port.
    """

    addresses: tuple[tuple[str, int], ...] = ()
    service: tuple[str, int] | None = None


_GROUP_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORT_MAX = (1 << 16) - 1
_DNS = "dns:"


def parse_group(value: object) -> str:
    """Return the name of a cache group, or nothing.

    Raises
    ------
    ValueError
        No group may be called so.
    """
    text = _parse_text(value)
    if text and not _GROUP_NAME.fullmatch(text):
        raise ValueError("a name of 1 to 64 letters, digits, '.', '_' and '-'")
    return text


def _parse_weight(value: object) -> int | None:
    return None if value == "" else _parse_count(value)


def _parse_members(value: object) -> MemberPlaces | None:
    """Return the places that ``host:port,...`` or ``dns:name:port`` means; None for nothing."""
    text = _parse_text(value).strip()
    if not text:
        return None
    if text.startswith(_DNS):
        return MemberPlaces(service=_parse_address(text.removeprefix(_DNS)))
    return MemberPlaces(tuple(dict.fromkeys(_parse_address(item) for item in text.split(","))))


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not host or not 0 < number <= _PORT_MAX:
        raise ValueError("host:port, several separated by ',', or dns:name:port")
    return host, number


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a complaint that names the known word next to a wrong one, or nothing."""
    import difflib  # here: only a mistake needs it

    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


KINDS: Mapping[str, Callable[[object], Any]] = {
    "size": parse_size,
    "time": parse_time,
    "count": _parse_count,
    "ratio": _parse_ratio,
    "flag": _parse_flag,
    "text": _parse_text,
    "secret": _parse_text,
    "folders": _parse_folders,
    "tiers": _parse_tiers,
    "group": parse_group,
    "weight": _parse_weight,
    "members": _parse_members,
}
"""Kinds of options, and how a value of each is read."""
