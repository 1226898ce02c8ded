"""Commands that look at the tree: ``info``, ``summary``, ``explain``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from typing import Any

from juicecache.faces.cli.arguments import (
    METADATA_ONLY,
    Command,
    Place,
    add_places,
    count,
    open_place,
)
from juicecache.faces.cli.console import Console, fields, name_shown, size, table
from juicecache.volume.insight import FileLayout
from juicecache.volume.volume import Volume

_HAS = {True: "yes", False: "no", None: "unknown"}


def _info(arguments: Namespace, console: Console) -> int:
    """Print the inode of a path, and a file's objects."""
    place: Place = arguments.path
    with open_place(arguments, place.volume, **METADATA_ONLY) as volume:
        attr = volume.stat(place.path, follow=False)
        value: dict[str, Any] = {
            "path": place.path,
            "type": attr.type.name.lower(),
            **attr._asdict(),
            "mode": f"{attr.mode:04o}",
        }
        value["type"] = attr.type.name.lower()
        lines = []
        if attr.is_directory:
            value["summary"] = volume.summary(place.path)._asdict()
            lines = fields(value["summary"])
        elif attr.is_file:
            layout = volume.explain(place.path)
            value["objects"] = [
                {"name": b.object_name, "length": b.length, "used_bytes": b.used_bytes}
                for b in layout.blocks
            ]
            rows = [(b.object_name, str(b.length), str(b.used_bytes)) for b in layout.blocks]
            lines = table(("object", "length", "used"), rows) if rows else []
    console.result(value, [*fields({**value, "path": name_shown(place.path)}), *lines])
    return 0


def _explain(arguments: Namespace, console: Console) -> int:
    """Print where the blocks of a file are."""
    place: Place = arguments.path
    with open_place(arguments, place.volume, read_only=True) as volume:
        layout = volume.explain(place.path)
    console.result(layout.to_dict(), _layout_lines(layout))
    return 0


def _layout_lines(layout: FileLayout) -> list[str]:
    cost = (
        f"{layout.requests} requests to object storage for {size(layout.request_bytes)}"
        if layout.requests
        else "nothing from object storage"
    )
    has_group = any(block.owner for block in layout.blocks)
    peers = f"with members of the group: {size(layout.peer_bytes)}; " if has_group else ""
    owners = ("owner", "has it") if has_group else ()
    return [
        f"{name_shown(layout.path)}: {size(layout.length)} in {layout.chunks} chunks, "
        f"{layout.slices} slices, {len(layout.blocks)} blocks",
        f"cached: {size(layout.cached_bytes)}; {peers}holes: {size(layout.hole_bytes)}",
        f"a full read now takes {cost}",
        "",
        *table(
            ("object", "length", "used", "tier", *owners),
            [
                (
                    *(b.object_name, str(b.length), str(b.used_bytes), b.tier or "-"),
                    *((b.owner or "-", _HAS[b.owner_has]) if has_group else ()),
                )
                for b in layout.blocks
            ],
        ),
    ]


@dataclass(slots=True)
class _Node:
    """What is at and below one entry; children are kept as deep as is shown."""

    path: str
    kind: str = "directory"
    size: int = 0
    length: int = 0
    files: int = 0
    directories: int = 0
    children: list[_Node] = field(default_factory=list)


def _configure_summary(parser: ArgumentParser) -> None:
    parser.add_argument("-d", "--depth", type=count(0, 10), default=2, help="(default: 2)")
    parser.add_argument(
        "-e", "--entries", type=count(0, 100), default=10, help="largest of a level (default: 10)"
    )
    add_places(parser)


def _summary(arguments: Namespace, console: Console) -> int:
    place: Place = arguments.path
    with open_place(arguments, place.volume, **METADATA_ONLY) as volume:
        top = _tree(volume, place.path, arguments.depth)
    _prune(top, arguments.entries)
    rows: list[tuple[str, str, str, str]] = []
    _add_rows(top, rows)
    console.result(_plain(top), table(("path", "size", "directories", "files"), rows))
    return 0


def _tree(volume: Volume, path: str, depth: int) -> _Node:
    """Return the sizes of everything below ``path`` in one walk, summed up below ``depth``."""
    attr = volume.stat(path)
    if not attr.is_directory:
        return _Node(path, "file", attr.space, attr.length, 1)
    top = _Node(path, size=attr.space, directories=1)
    lines: dict[str, list[_Node]] = {}  # directory: the nodes that its entries count for
    for directory, entries in volume.walk(path):
        above = lines.pop(directory, [top])
        for name, attr in entries:
            below = f"{directory.rstrip('/')}/{name}"
            line = above
            if len(above) <= depth:
                node = _Node(below, "directory" if attr.is_directory else "file")
                above[-1].children.append(node)
                line = [*above, node]
            for node in line:
                node.size += attr.space
                node.length += 0 if attr.is_directory else attr.length
                node.files += not attr.is_directory
                node.directories += attr.is_directory
            if attr.is_directory:
                lines[below] = line
    return top


def _prune(node: _Node, entries: int) -> None:
    """Keep the largest children; the others become one."""
    node.children.sort(key=lambda child: (-child.size, child.path))
    rest = node.children[entries:]
    del node.children[entries:]
    for child in node.children:
        _prune(child, entries)
    if rest and entries:
        other = _Node(f"{node.path.rstrip('/')}/...", "others")
        for child in rest:
            other.size += child.size
            other.length += child.length
            other.files += child.files
            other.directories += child.directories
        node.children.append(other)


def _add_rows(node: _Node, rows: list[tuple[str, str, str, str]]) -> None:
    rows.append((name_shown(node.path), size(node.size), str(node.directories), str(node.files)))
    for child in node.children:
        _add_rows(child, rows)


def _plain(node: _Node) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.kind,
        "size": node.size,
        "length": node.length,
        "files": node.files,
        "directories": node.directories,
        "children": [_plain(child) for child in node.children],
    }


COMMANDS = {
    "info": Command(add_places, _info),
    "summary": Command(_configure_summary, _summary),
    "explain": Command(add_places, _explain),
}
