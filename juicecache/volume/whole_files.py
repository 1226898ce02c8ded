"""Whole files written at once: stored in parallel, small ones packed.

Law: blocks before metadata; what could not be committed is deleted again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from juicecache.errors import JuicecacheError
from juicecache.meta.chunks import NewSlice
from juicecache.meta.paths import join_path, split_path
from juicecache.objects.store import Buffer
from juicecache.volume.batch import Batch
from juicecache.volume.compacting import compact_after_commit
from juicecache.volume.pack import is_small
from juicecache.volume.parts import Parts
from juicecache.volume.writer import SliceWriter, Uploads


def write_file(parts: Parts, path: str, content: Buffer, *, exclusive: bool) -> None:
    """Store a whole file and commit it in one transaction."""
    parts.meta.gate.check_writable(path)
    uploads = Uploads(parts)
    try:
        slices = _store(parts, uploads, content)
        _commit(parts, uploads, path, slices, exclusive=exclusive)
    except BaseException:
        uploads.discard()
        raise


def write_many_files(
    parts: Parts, contents: Sequence[tuple[str, Buffer]]
) -> list[Exception | None]:
    """Store several whole files, the small ones packed; return what went wrong with each.

    The large ones are uploaded at the same time, each committed in a transaction of its own.
    """
    small = {path for path, content in contents if is_small(parts, memoryview(content).nbytes)}
    under_way = [_begin(parts, one) if one[0] not in small else None for one in contents]
    packed = _write_packed(parts, [one for one in contents if one[0] in small])
    outcomes: list[Exception | None] = []
    for (path, _), work in zip(contents, under_way, strict=True):
        if work is None:
            outcomes.append(packed[path])
        elif isinstance(work, Exception):
            outcomes.append(work)
        else:
            outcomes.append(_finish(parts, path, *work))
    return outcomes


def _write_packed(
    parts: Parts, contents: Sequence[tuple[str, Buffer]]
) -> dict[str, Exception | None]:
    outcomes: dict[str, Exception | None] = {}
    with suppress(JuicecacheError), Batch(parts, deferred=False) as batch:
        for path, content in contents:
            try:
                batch.write(path, content)
            except JuicecacheError as error:
                outcomes[path] = error
    for path, _ in contents:
        if path not in outcomes:
            outcomes[path] = batch.outcomes[join_path(split_path(path))]
    return outcomes


def _begin(parts: Parts, one: tuple[str, Buffer]) -> tuple[Uploads, list[NewSlice]] | Exception:
    path, content = one
    uploads = Uploads(parts)
    try:
        parts.meta.gate.check_writable(path)
        return uploads, _store(parts, uploads, content)
    except Exception as error:
        uploads.discard()
        return error


def _finish(parts: Parts, path: str, uploads: Uploads, slices: list[NewSlice]) -> Exception | None:
    try:
        _commit(parts, uploads, path, slices, exclusive=False)
    except Exception as error:
        uploads.discard()
        return error
    return None


def _commit(
    parts: Parts, uploads: Uploads, path: str, slices: list[NewSlice], *, exclusive: bool
) -> None:
    attr = uploads.commit(
        lambda: parts.meta.commit_file(path, slices, time.time_ns(), exclusive=exclusive)
    )
    compact_after_commit(parts, attr, slices)


def _store(parts: Parts, uploads: Uploads, content: Buffer) -> list[NewSlice]:
    writer = SliceWriter(parts, uploads, 0)
    slices = writer.write(content, stable=True)
    if writer.has_content:
        slices.append(writer.cut())
    return slices
