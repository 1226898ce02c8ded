"""The command ``cp``: between volumes and local files, in any direction.

Inside one volume only records are copied. A file appears under its name whole or not at all,
in a volume and locally.
"""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from juicecache.errors import (
    EntryNotFoundError,
    InvalidNameError,
    IsDirectoryError,
    NotDirectoryError,
)
from juicecache.faces.cli.arguments import (
    Command,
    Place,
    add_meta_flag,
    add_volume_options,
    any_place,
    open_place,
)
from juicecache.faces.cli.console import Console, name_shown, size
from juicecache.faces.sync.stored import canonical
from juicecache.model.attr import NodeType
from juicecache.volume.volume import Volume

_PIECE_BYTES = 4 << 20
"""Bytes per step: one block of the default size."""
_SMALL_BYTES = 1 << 20
"""Files up to here are stored many at once: their cost is the request, not the bytes."""
_BATCH_BYTES = 64 << 20
"""Content held while a batch of small files comes together."""
_BATCH_FILES = 1000
"""Files of one batch: a few transactions, however small they are."""


class _Item(NamedTuple):
    """One entry below a source: its path relative to it (empty for itself) and what it is."""

    relative: str
    kind: NodeType
    length: int


@dataclass(slots=True)
class _Copying:
    """What a run has done and has open."""

    console: Console
    volumes: dict[str, Volume]
    files: int = 0
    directories: int = 0
    total_bytes: int = 0
    pending: list[tuple[str, bytes]] = field(default_factory=list)
    pending_bytes: int = 0

    def count(self, kind: NodeType, length: int) -> None:
        if kind == NodeType.DIRECTORY:
            self.directories += 1
        else:
            self.files += 1
            self.total_bytes += length
        self.console.progress(f"{self.files} files, {size(self.total_bytes)}")


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("-r", "--recursive", action="store_true", help="directories as well")
    parser.add_argument(
        "places",
        metavar="PATH",
        nargs="+",
        type=any_place,
        help="sources and, last, the target: juicecache://VOLUME/path or a local path",
    )
    add_meta_flag(parser)
    add_volume_options(parser)


def _cp(arguments: Namespace, console: Console) -> int:
    *sources, target = arguments.places
    if not sources:
        raise InvalidNameError(str(target), "cp needs a source and a target")
    if not any(place.volume for place in arguments.places):
        raise InvalidNameError(str(target), "neither side is juicecache://VOLUME/path")
    with ExitStack() as stack:
        names = dict.fromkeys(place.volume for place in arguments.places if place.volume)
        volumes = {name: stack.enter_context(open_place(arguments, name)) for name in names}
        copying = _Copying(console, volumes)
        into = target.path.endswith("/") or _is_directory(copying, target)
        if len(sources) > 1 and not into:
            raise NotDirectoryError(str(target), "several sources need a directory as target")
        for source in sources:
            place = target.below(source.name or source.volume) if into else target
            _copy(copying, source, place, recursive=arguments.recursive)
        _flush(copying, target)
    value = {
        "files": copying.files,
        "directories": copying.directories,
        "bytes": copying.total_bytes,
    }
    console.result(value, [])
    return 0


def _is_directory(copying: _Copying, place: Place) -> bool:
    if not place.volume:
        return os.path.isdir(place.path)
    try:
        return copying.volumes[place.volume].stat(place.path).is_directory
    except (EntryNotFoundError, NotDirectoryError):
        return False


def _is_inside(copying: _Copying, place: Place, directory: Place) -> bool:
    """Return whether a place is a directory or lies in it, links followed; of one volume."""
    if not place.volume:
        names, others = (
            Path(os.path.realpath(place.path)).parts,
            Path(os.path.realpath(directory.path)).parts,
        )
    else:
        volume = copying.volumes[place.volume]
        names, others = canonical(volume, place.path), canonical(volume, directory.path)
    return names[: len(others)] == others


def _copy(copying: _Copying, source: Place, target: Place, *, recursive: bool) -> None:
    """Copy one source, a directory with all that is below it."""
    if source == target:
        raise InvalidNameError(str(target), "source and target are the same")
    directory = _is_directory(copying, source)
    if directory and not recursive:
        raise IsDirectoryError(str(source), "a directory: --recursive copies it")
    if directory and source.volume == target.volume and _is_inside(copying, target, source):
        raise InvalidNameError(str(target), "a directory cannot be copied into itself")
    for item in _items(copying, source) if directory else [_single(copying, source)]:
        origin = source.below(item.relative) if item.relative else source
        place = target.below(item.relative) if item.relative else target
        if item.kind == NodeType.DIRECTORY:
            _make_directory(copying, place)
        elif item.kind == NodeType.SYMLINK:
            _copy_link(copying, origin, place)
        elif item.kind == NodeType.FILE:
            _copy_file(copying, origin, place, item.length)
        else:
            copying.console.note(f"skipped {name_shown(str(origin))}: {item.kind.name.lower()}")
            continue
        copying.count(item.kind, item.length)


def _single(copying: _Copying, source: Place) -> _Item:
    """Return a source that is no directory; a link named by the user is followed."""
    if source.volume:
        attr = copying.volumes[source.volume].stat(source.path)
        return _Item("", attr.type, attr.length)
    return _Item("", NodeType.FILE, os.stat(source.path).st_size)


def _items(copying: _Copying, source: Place) -> Iterator[_Item]:
    """Iterate over a directory and what is below, each directory before its entries."""
    yield _Item("", NodeType.DIRECTORY, 0)
    if not source.volume:
        yield from _local_items(source.path, "")
        return
    top = source.path.rstrip("/")
    for directory, entries in copying.volumes[source.volume].walk(source.path):
        head = directory.rstrip("/")[len(top) :].lstrip("/")
        for name, attr in entries:
            if name == ".trash" and directory == "/":
                continue
            yield _Item(f"{head}/{name}" if head else name, attr.type, attr.length)


def _local_items(folder: str, head: str) -> Iterator[_Item]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        relative = f"{head}/{entry.name}" if head else entry.name
        if entry.is_symlink():
            yield _Item(relative, NodeType.SYMLINK, 0)
        elif entry.is_dir():
            yield _Item(relative, NodeType.DIRECTORY, 0)
            yield from _local_items(entry.path, relative)
        elif entry.is_file():
            yield _Item(relative, NodeType.FILE, entry.stat().st_size)
        else:
            yield _Item(relative, NodeType.FIFO, 0)


def _make_directory(copying: _Copying, place: Place) -> None:
    if place.volume:
        volume = copying.volumes[place.volume]
        volume.make_directory(place.path, parents=True, exist_ok=True)
    else:
        os.makedirs(place.path, exist_ok=True)


def _copy_link(copying: _Copying, source: Place, target: Place) -> None:
    if source.volume:
        leads_to = copying.volumes[source.volume].readlink(source.path)
    else:
        leads_to = os.readlink(source.path)
    if target.volume:
        volume = copying.volumes[target.volume]
        with suppress(EntryNotFoundError):
            volume.stat(target.path, follow=False)
            volume.unlink(target.path)
        volume.symlink(leads_to, target.path)
    else:
        if os.path.lexists(target.path):
            os.unlink(target.path)
        os.symlink(leads_to, target.path)


def _copy_file(copying: _Copying, source: Place, target: Place, length: int) -> None:
    if source.volume == target.volume:
        copying.volumes[source.volume].copy_file(source.path, target.path)
    elif not source.volume and length <= _SMALL_BYTES:
        with open(source.path, "rb") as file:
            content = file.read()
        copying.pending.append((target.path, content))
        copying.pending_bytes += len(content)
        if copying.pending_bytes >= _BATCH_BYTES or len(copying.pending) >= _BATCH_FILES:
            _flush(copying, target)
    elif target.volume:
        with _opened(copying, source) as file:
            _store(copying.volumes[target.volume], target.path, file)
    else:
        with _opened(copying, source) as file:
            _save(target.path, file)


def _flush(copying: _Copying, target: Place) -> None:
    """Store the small files that wait."""
    pending, copying.pending, copying.pending_bytes = copying.pending, [], 0
    if pending:
        for error in copying.volumes[target.volume].write_files(pending):
            if error is not None:
                raise error


def _opened(copying: _Copying, source: Place) -> Any:
    if source.volume:
        return copying.volumes[source.volume].open(source.path)
    return open(source.path, "rb")


def _store(volume: Volume, path: str, source: Any) -> None:
    """Write a file of a volume that others see whole or not at all."""
    parent = path.rpartition("/")[0]
    if parent:
        volume.make_directory(parent, parents=True, exist_ok=True)
    target: Any = volume.open(path, "wb")
    try:
        shutil.copyfileobj(source, target, _PIECE_BYTES)
    except BaseException:
        target.discard()
        raise
    target.close()


def _save(path: str, source: Any) -> None:
    """Write a local file that others see whole or not at all."""
    parent = os.path.dirname(path)
    if parent:
        os.makedirs(parent, exist_ok=True)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as target:  # a pipe or a device is written to, not replaced
            shutil.copyfileobj(source, target, _PIECE_BYTES)
        return
    fresh = f"{path}.{os.getpid()}.part"
    try:
        with open(fresh, "xb") as target:
            shutil.copyfileobj(source, target, _PIECE_BYTES)
        os.replace(fresh, path)
    except BaseException:
        if os.path.exists(fresh):
            os.unlink(fresh)
        raise


COMMANDS = {"cp": Command(_configure, _cp)}
