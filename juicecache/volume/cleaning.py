"""Content of removed files: references dropped, objects deleted, rows forgotten.

Law: objects go before their reference row. A crash in between leaves a row with no
references, which the next collection finishes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from juicecache.errors import JuicecacheError, ObjectError
from juicecache.meta import dropping
from juicecache.meta.remove import Removed
from juicecache.volume.parts import Parts

log = logging.getLogger("juicecache")

_CHUNKS_PER_TRANSACTION = 64
"""Chunk rows dropped at once: 4 GiB of file, a transaction of some milliseconds."""

_GATHER_S = 0.05
"""How long removed files are gathered: nobody waits for their content to go."""


def delete_slices(parts: Parts, slices: list[tuple[int, int]]) -> int:
    """Delete the objects of dead slices (id, size), then their rows; return how many objects."""
    if not slices:
        return 0
    keys = [key for slice_id, size in slices for key in parts.layout.block_keys(slice_id, size)]
    parts.blocks.delete(keys)
    parts.engine.write(lambda tx: dropping.forget_slices(tx, slices))
    return len(keys)


def clean_files(parts: Parts, inodes: Sequence[int]) -> None:
    """Drop the content of removed files. Safe to repeat and to interrupt at any point."""
    left = list(inodes)
    failure: ObjectError | None = None
    while left:
        some, rest = left[:_CHUNKS_PER_TRANSACTION], left[_CHUNKS_PER_TRANSACTION:]
        unfinished: list[int] = []
        try:
            dead, unfinished = parts.engine.write(
                lambda tx, some=some: dropping.drop_chunks(  # type: ignore[misc]  # mypy cannot infer a lambda default
                    tx, some, limit=_CHUNKS_PER_TRANSACTION
                )
            )
            delete_slices(parts, dead)
        except ObjectError as error:
            failure = error  # one object that stays does not keep the others
        left = unfinished + rest
    if failure is not None:
        raise failure


def is_droppable(parts: Parts, removed: Removed) -> bool:
    """Return whether the content of an inode that lost a name may be dropped now.

    A file without a name stays while we have it open: its last close asks again. Where it
    was closed meanwhile, it is finished here.
    """
    if removed.doomed or not removed.attr.is_file or removed.attr.nlink:
        return removed.doomed
    presence = parts.meta.presence
    return not presence.sustain(removed.inode) and presence.release(removed.inode)


def after_removal(parts: Parts, removed: Removed) -> None:
    """Drop the content of an inode that lost a name, if that may go."""
    _drop_if(parts, removed.inode, lambda: is_droppable(parts, removed))


def end_hold(parts: Parts, inode: int) -> None:
    """Count one open handle less; the last one of a file without a name drops its content."""
    if parts.meta.presence.close(inode):
        release(parts, inode)


def release(parts: Parts, inode: int) -> None:
    """Finish a file without a name that only our session kept."""
    _drop_if(parts, inode, lambda: parts.meta.presence.release(inode))


def _drop_if(parts: Parts, inode: int, is_free: Callable[[], bool]) -> None:
    try:
        if is_free():
            clean_later(parts, inode)
    except JuicecacheError as error:
        log.warning("removed inode %d is left to the next gc: %s", inode, error)


def clean_later(parts: Parts, inode: int) -> None:
    """Drop the content of a removed file in the background.

    What is removed while the background is busy is dropped together. A failure is logged and left
    to ``gc``: a file's row among the deleted ones stays.
    """
    with parts.doomed_lock:
        parts.doomed.append(inode)
        is_first = len(parts.doomed) == 1
    if is_first:  # else whoever takes the first takes this one too
        run_later(parts, lambda: _clean_doomed(parts), "content of removed files is left to gc")


def _clean_doomed(parts: Parts) -> None:
    # Whoever removes many files is not disturbed by one transaction for each of them.
    parts.ending.wait(_GATHER_S)
    with parts.doomed_lock:
        inodes, parts.doomed = parts.doomed, []
    clean_files(parts, inodes)


def run_later(parts: Parts, work: Callable[[], object], otherwise: str) -> None:
    """Do ``work`` in the background; a failure is logged as ``otherwise`` and its reason."""

    def run() -> None:
        try:
            work()
        except JuicecacheError as error:
            log.warning("%s: %s", otherwise, error)

    try:
        future = parts.cleaners.submit(run)
    except RuntimeError:
        # A handle that was never closed is closed while the interpreter ends.
        log.info("%s: the process ends", otherwise)
        return
    parts.cleaning.add(future)
    future.add_done_callback(parts.cleaning.discard)
