"""Arguments that commands share: places, metadata addresses, the options of a volume.

Law: a flag for an option exists because `OPTIONS` has the option; secrets are no flags, since
every process of the machine sees a command line.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from juicecache.addresses import VOLUME_SCHEMES
from juicecache.config import (
    OPTIONS,
    Option,
    find_volume,
    mask_url,
    parse_meta,
    parse_size,
    parse_volume_url,
)
from juicecache.errors import ConfigError

if TYPE_CHECKING:
    from juicecache.faces.cli.console import Console
    from juicecache.volume.volume import Volume

_DEST = "option_"


class Command(NamedTuple):
    """How one command is read and carried out; ``run`` returns the exit code."""

    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Console], int]


class Place(NamedTuple):
    """A path in a volume, or a local one where ``volume`` is empty."""

    volume: str
    path: str

    def __str__(self) -> str:
        return f"juicecache://{self.volume}{self.path}" if self.volume else self.path

    def below(self, name: str) -> Place:
        """Return the place of an entry of this directory."""
        return Place(self.volume, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path, also of a relative one; empty for a root."""
        if not self.volume:
            return os.path.basename(os.path.abspath(self.path))
        return self.path.rstrip("/").rpartition("/")[2]


def volume_place(text: str) -> Place:
    """Return the place that ``juicecache://VOLUME/path`` means."""
    if "://" not in text:
        # Not quoted: it may be the value of a mistyped flag, such as a key.
        raise ArgumentTypeError("expected juicecache://VOLUME/path")
    try:
        volume, path = parse_volume_url(text)
    except ConfigError as error:
        raise ArgumentTypeError(str(error)) from None
    return Place(volume, path)


def any_place(text: str) -> Place:
    """Return the place that ``juicecache://VOLUME/path`` or a local path means."""
    return volume_place(text) if "://" in text else Place("", text)


def mixed_places(words: Sequence[str]) -> tuple[str, list[Place]]:
    """Return the metadata URL, if it is the first word, and the places that the others mean.

    Behind a metadata URL they are paths inside its volume, whose name is left empty.

    Raises
    ------
    ConfigError
        A word is neither.
    """
    try:
        if words and words[0].partition("://")[0] not in VOLUME_SCHEMES:
            return metadata(words[0]), [inner_place(word) for word in words[1:]]
        return "", [volume_place(word) for word in words]
    except ArgumentTypeError as error:
        raise ConfigError(str(error)) from None


def inner_place(text: str) -> Place:
    """Return the place that a path means behind a metadata URL."""
    if not text.startswith("/"):
        raise ArgumentTypeError(f"{text!r} is no path inside the volume: those begin with '/'")
    return Place("", text)


def metadata(text: str) -> str:
    """Return a metadata URL, or the name of a volume, after a check of its form."""
    try:
        if text.partition("://")[0] in ("juicecache", "jc"):
            return parse_volume_url(text)[0]
        if "://" in text:
            parse_meta(text)
        elif any(mark in text for mark in "/@:?"):
            raise ConfigError(
                f"{mask_url(text)!r} is neither a metadata URL nor the name of a volume"
            )
    except ConfigError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def size_bytes(text: str) -> int:
    """Return the bytes that ``128K``, ``1GiB`` or a number of MiB means."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not {error}") from None


def capacity_bytes(text: str) -> int:
    """Return bytes of ``10T`` or, without a unit, of a number of GiB: as the official client."""
    return size_bytes(f"{text}G" if text.isdigit() else text)


def count(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ArgumentTypeError(f"{text!r} is not a whole number")
        if not low <= int(text) <= high:
            raise ArgumentTypeError(f"{text} is not between {low} and {high}")
        return int(text)

    return read


def add_metadata(parser: ArgumentParser) -> None:
    """Add the argument META-URL, and the options of a volume."""
    parser.add_argument(
        "meta", metavar="META-URL", type=metadata, help="metadata address, or name, of the volume"
    )
    add_volume_options(parser)


def add_places(parser: ArgumentParser, name: str = "path", **keywords: Any) -> None:
    """Add an argument for places in a volume, ``--meta``, and the options of a volume."""
    parser.add_argument(
        name, metavar="PATH", type=volume_place, help="juicecache://VOLUME/path", **keywords
    )
    add_meta_flag(parser)
    add_volume_options(parser)


def add_meta_flag(parser: ArgumentParser) -> None:
    """Add ``--meta``, for a volume that the volume list does not know."""
    parser.add_argument(
        "--meta",
        metavar="META-URL",
        type=metadata,
        default="",
        help="metadata address of VOLUME, instead of JUICECACHE_META and the volume list",
    )


def add_volume_options(parser: ArgumentParser) -> None:
    """Add a flag for each option of a volume."""
    group = parser.add_argument_group("options of the volume")
    for option in OPTIONS:
        if option.kind == "secret" or option.name == "access_key":
            continue
        text = f"{option.reason} (default: {option.default or 'none'})".replace("%", "%%")
        flag, dest = f"--{option.name.replace('_', '-')}", _DEST + option.name
        if option.kind == "flag":
            group.add_argument(flag, dest=dest, action="store_const", const="true", help=text)
        else:
            kind = option.kind.upper()
            group.add_argument(flag, dest=dest, metavar=kind, type=_checked(option), help=text)


def _checked(option: Option) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            option.parse(text)
        except ConfigError as error:
            raise ArgumentTypeError(str(error)) from None
        return text

    return check


def given_options(arguments: Namespace) -> dict[str, object]:
    """Return the volume's options that the user gave."""
    return {
        name.removeprefix(_DEST): value
        for name, value in vars(arguments).items()
        if name.startswith(_DEST) and value is not None
    }


def open_meta(arguments: Namespace, **forced: object) -> Volume:
    """Open the volume of META-URL; ``forced`` options win over the user's.

    A command comes and goes: unless it is forced to share, it only reads from a cache group.
    """
    from juicecache.volume.volume import open_volume  # here: --help needs no volume

    return open_volume(arguments.meta, **_reading(arguments, forced))


def open_place(arguments: Namespace, volume: str, **forced: object) -> Volume:
    """Open the volume of a place, as `open_meta` does that of META-URL."""
    from juicecache.volume.volume import check_name, open_volume

    meta = find_volume(volume, arguments.meta, os.environ)
    return check_name(open_volume(meta, **_reading(arguments, forced)), volume)


def _reading(arguments: Namespace, forced: Mapping[str, object]) -> dict[str, object]:
    """Return the options of a client that is no member of its group, unless that is forced."""
    given = {**given_options(arguments), **forced}
    return {"no_sharing": True, **given} if given.get("cache_group") else given


METADATA_ONLY: dict[str, object] = {"read_only": True, "cache_size": "0"}
"""Options of commands that only look at the tree: they touch no cache folder."""
