"""Commands on whole trees of a volume: ``clone``, ``compact``, ``rmr``.

Places are ``juicecache://VOLUME/path``, or paths behind one metadata URL.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from juicecache.errors import ConfigError
from juicecache.faces.cli.arguments import (
    Command,
    Place,
    add_meta_flag,
    add_volume_options,
    count,
    mixed_places,
    open_place,
)
from juicecache.faces.cli.console import Console
from juicecache.faces.cli.files import remove_place
from juicecache.volume.volume import Volume


def _add_paths(parser: ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="juicecache://VOLUME/path; or a META-URL, and behind it paths inside its volume",
    )
    add_meta_flag(parser)
    add_volume_options(parser)


def _opened(arguments: Namespace, **options: object) -> Iterator[tuple[Volume, Place]]:
    """Iterate over the places that were given, each with its volume, opened once in a row."""
    meta, places = mixed_places(arguments.paths)
    if not places:
        raise ConfigError("name the paths inside the volume")
    arguments.meta = meta or arguments.meta
    waiting = list(places)
    while waiting:
        name = waiting[0].volume
        with open_place(arguments, name, cache_size="0", **options) as volume:
            while waiting and waiting[0].volume == name:
                yield volume, waiting.pop(0)


def _configure_compact(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-p", "--threads", type=count(1, 10_000), help="requests at once, as --max-downloads"
    )
    _add_paths(parser)


def _compact(arguments: Namespace, console: Console) -> int:
    """Merge the slices of all files at and below some places."""
    merged = 0
    at_once: dict[str, object] = {"max_downloads": arguments.threads} if arguments.threads else {}
    for volume, place in _opened(arguments, **at_once):
        before = merged
        merged += volume.compact(
            place.path,
            progress=lambda so_far, before=before: console.progress(  # type: ignore[misc]  # mypy cannot infer a lambda default
                f"compacted {before + so_far} chunks"
            ),
        )
    console.result({"compacted_chunks": merged}, [f"compacted {merged} chunks"])
    return 0


def _configure_rmr(parser: ArgumentParser) -> None:
    parser.add_argument("--skip-trash", action="store_true", help="remove for good at once")
    parser.add_argument(
        "-p",
        "--threads",
        type=count(1, 255),
        help="taken for scripts of the official client: a thousand entries are removed at a time",
    )
    _add_paths(parser)


def _rmr(arguments: Namespace, console: Console) -> int:
    """Remove trees; what was interrupted goes on when it is repeated."""
    removed = 0
    for volume, place in _opened(arguments):
        removed += remove_place(
            volume,
            place,
            console,
            recursive=True,
            skip_trash=arguments.skip_trash,
            before=removed,
        )
    console.result({"removed": removed}, [])
    return 0


def _configure_clone(parser: ArgumentParser) -> None:
    parser.add_argument("-p", "--preserve", action="store_true", help="keep owner, mode and times")
    parser.add_argument(
        "--threads",
        type=count(1, 255),
        help="taken for scripts of the official client: some hundred entries are copied at a time",
    )
    _add_paths(parser)


def _clone(arguments: Namespace, console: Console) -> int:
    """Copy a file or a directory inside a volume, without copying its content."""
    meta, places = mixed_places(arguments.paths)
    if len(places) != 2 or places[0].volume != places[1].volume:
        raise ConfigError("clone needs two paths of one volume: what to copy, and its new name")
    arguments.meta = meta or arguments.meta
    source, target = places
    with open_place(arguments, source.volume, cache_size="0") as volume:
        copied = volume.clone(
            source.path,
            target.path,
            preserve=arguments.preserve,
            progress=lambda so_far: console.progress(f"copied {so_far} entries"),
        )
    console.result({"copied": copied}, [f"copied {copied} entries"])
    return 0


COMMANDS = {
    "clone": Command(_configure_clone, _clone),
    "compact": Command(_configure_compact, _compact),
    "rmr": Command(_configure_rmr, _rmr),
}
