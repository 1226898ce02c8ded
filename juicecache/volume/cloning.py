"""Copies of files and directories inside a volume, by their records; no byte moves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from juicecache.errors import JuicecacheError
from juicecache.meta import cloning, copying, remove
from juicecache.meta.context import Used
from juicecache.model.attr import Attr
from juicecache.volume.cleaning import after_removal
from juicecache.volume.parts import Parts

_PAGE = 500
"""Entries copied by one transaction: some 30 ms."""


class _Copy(NamedTuple):
    """A directory of the source, and its copy."""

    source: int
    inode: int


def clone(
    parts: Parts,
    source: str,
    target: str,
    *,
    preserve: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Make ``target``, which must not exist, a copy of a file or a whole directory.

    A directory appears as a whole, at the end; what is changed in the source meanwhile may be in
    the copy or not. An interrupted copy leaves nothing that can be seen.

    Parameters
    ----------
    preserve
        Keep owner, mode and times; else a copy belongs to who makes it, now.
    progress
        Called with the number of entries copied so far.

    Returns
    -------
    int
        How many entries were copied, with the top.
    """
    meta = parts.meta
    meta.gate.check_writable(target)
    top = meta.resolve(source, follow=False)
    place = meta.place_of(target)
    if not top.is_directory:
        inode = meta.new_inodes(1)[0]
        meta.change(
            target,
            lambda tx, ctx: copying.clone_file(tx, ctx, top, *place, inode, preserve=preserve),
        )
        return 1
    root = meta.new_inodes(1)[0]
    meta.change(
        target,
        lambda tx, ctx: cloning.begin_clone(tx, ctx, top, place, root, preserve=preserve),
    )
    try:
        count, below = _fill(parts, target, _Copy(top.inode, root), preserve, progress)
        meta.change(target, lambda tx, ctx: cloning.attach_clone(tx, ctx, place, root, below))
    except BaseException:
        with suppress(JuicecacheError):  # gc removes it after a day
            _give_up(parts, root)
        raise
    return count


def _fill(
    parts: Parts,
    target: str,
    top: _Copy,
    preserve: bool,
    progress: Callable[[int], None] | None,
) -> tuple[int, Used]:
    """Copy everything below a directory; return how many entries, and what they hold."""
    count, space = 1, 0
    waiting = [top]
    while waiting:
        here = waiting.pop()
        after: bytes | None = b""
        while after is not None:
            page = _read(parts, here.source, after)
            after = page[-1][0] if len(page) == _PAGE else None
            if not page:
                break
            inodes = parts.meta.new_inodes(len(page))
            entries = [
                cloning.Copied(name, attr.inode, inode)
                for (name, attr), inode in zip(page, inodes, strict=True)
            ]
            copies = parts.meta.change(
                target,
                lambda tx, ctx, here=here, entries=entries: cloning.copy_entries(  # type: ignore[misc]  # mypy cannot infer a lambda default
                    tx, ctx, top.inode, here.inode, entries, preserve=preserve
                ),
            )
            sources = {entry.inode: entry.source for entry in entries}
            waiting += [_Copy(sources[one.inode], one.inode) for one in copies if one.is_directory]
            count += len(copies)
            space += sum(one.space for one in copies)
            if progress is not None:
                progress(count)
    return count, Used(space, count - 1)


def _read(parts: Parts, directory: int, after: bytes) -> list[tuple[bytes, Attr]]:
    return parts.engine.read(lambda tx: list(tx.children(directory, after=after, limit=_PAGE)))


def _give_up(parts: Parts, root: int) -> None:
    done = False
    while not done:
        removed, done = parts.meta.gate.remove(
            lambda tx, ctx: remove.remove_detached(tx, ctx, root, limit=_PAGE), skip_trash=True
        )
        for one in removed:
            after_removal(parts, one)
