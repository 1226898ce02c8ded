"""Commands on files and directories of a volume: ``ls``, ``cat``, ``rm``."""

from __future__ import annotations

import base64
import stat
import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import Any

from juicecache.errors import (
    AccessDeniedError,
    EntryNotFoundError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.faces.cli.arguments import (
    METADATA_ONLY,
    Command,
    Place,
    add_places,
    open_place,
)
from juicecache.faces.cli.console import Console, name_shown
from juicecache.model.attr import Attr, NodeType
from juicecache.volume.volume import Entry, Volume

_PIECE_BYTES = 4 << 20
"""Bytes read at once: one block of the default size."""


def _configure_ls(parser: ArgumentParser) -> None:
    parser.add_argument("-l", dest="long", action="store_true", help="with mode, size and time")
    add_places(parser)


def _ls(arguments: Namespace, console: Console) -> int:
    place: Place = arguments.path
    with open_place(arguments, place.volume, **METADATA_ONLY) as volume:
        try:
            entries = volume.list_directory(place.path)
            head = place
        except NotDirectoryError:
            entries = [Entry(place.name, volume.stat(place.path, follow=False))]
            head = Place(place.volume, place.path.rstrip("/").rpartition("/")[0])
        links = {
            name: volume.readlink(head.below(name).path)
            for name, attr in entries
            if attr.type == NodeType.SYMLINK and (arguments.long or arguments.json)
        }
    if arguments.long and not arguments.json:
        lines = [_long(entry, links.get(entry.name)) for entry in entries]
        width = max((len(cells[3]) for cells in lines), default=0)
        console.result(None, [" ".join([*c[:3], c[3].rjust(width), *c[4:]]) for c in lines])
        return 0
    value = [_plain(name, attr, links.get(name)) for name, attr in entries]
    console.result(value, [name_shown(name) for name, _ in entries])
    return 0


def _plain(name: str, attr: Attr, target: str | None) -> dict[str, Any]:
    plain = {
        "name": name,
        "type": attr.type.name.lower(),
        "size": attr.length,
        "mode": f"{attr.mode:04o}",
        "uid": attr.uid,
        "gid": attr.gid,
        "mtime": attr.mtime_ns / 1e9,
        "inode": attr.inode,
    }
    return plain if target is None else {**plain, "target": target}


def _long(entry: Entry, target: str | None) -> tuple[str, ...]:
    attr = entry.attr
    when = datetime.fromtimestamp(attr.mtime_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    name = name_shown(entry.name) + (f" -> {name_shown(target)}" if target is not None else "")
    owner = f"{attr.uid}:{attr.gid}"
    return stat.filemode(attr.st_mode), str(attr.nlink), owner, str(attr.length), when, name


def _configure_cat(parser: ArgumentParser) -> None:
    add_places(parser, "paths", nargs="+")


def _cat(arguments: Namespace, console: Console) -> int:
    """Write the content of files; as JSON in base64."""
    contents = []
    for place in arguments.paths:
        with open_place(arguments, place.volume, read_only=True) as volume:
            if arguments.json:
                content = volume.read_file(place.path)
                encoded = base64.b64encode(content).decode()
                contents.append({"path": place.path, "length": len(content), "base64": encoded})
                continue
            with volume.open(place.path) as file:
                while piece := file.read(_PIECE_BYTES):
                    sys.stdout.buffer.write(piece)
    if arguments.json:
        console.result(contents, [])
    else:
        sys.stdout.buffer.flush()
    return 0


def _configure_rm(parser: ArgumentParser) -> None:
    parser.add_argument("-r", "--recursive", action="store_true", help="directories as well")
    parser.add_argument("-f", "--force", action="store_true", help="a missing path is no error")
    parser.add_argument("--skip-trash", action="store_true", help="remove for good at once")
    add_places(parser, "paths", nargs="+")


def _rm(arguments: Namespace, console: Console) -> int:
    removed = 0
    for place in arguments.paths:
        with open_place(arguments, place.volume, cache_size="0") as volume:
            try:
                removed += remove_place(
                    volume,
                    place,
                    console,
                    recursive=arguments.recursive,
                    skip_trash=arguments.skip_trash,
                    before=removed,
                )
            except EntryNotFoundError:
                if not arguments.force:
                    raise
    console.result({"removed": removed}, [])
    return 0


def remove_place(
    volume: Volume,
    place: Place,
    console: Console,
    *,
    recursive: bool,
    skip_trash: bool,
    before: int,
) -> int:
    """Remove what is at and below a place; return how many entries, ``before`` not included."""
    if not [name for name in place.path.split("/") if name not in ("", ".")]:
        raise AccessDeniedError(str(place), "the whole volume: name the entries to remove")
    directory = volume.stat(place.path, follow=False).is_directory
    if directory and not recursive:
        raise IsDirectoryError(str(place), "a directory: --recursive removes it")
    return volume.remove_tree(
        place.path,
        skip_trash=skip_trash,
        progress=lambda count: console.progress(f"removed {before + count} entries"),
    )


COMMANDS = {
    "ls": Command(_configure_ls, _ls),
    "cat": Command(_configure_cat, _cat),
    "rm": Command(_configure_rm, _rm),
}
