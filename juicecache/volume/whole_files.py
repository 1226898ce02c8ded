"""Whole files written at once: stored in parallel, each committed in one transaction.

Law: blocks before metadata; what could not be committed is deleted again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from juicecache.meta.chunks import NewSlice
from juicecache.objects.store import Buffer
from juicecache.volume.compacting import compact_after_commit
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
    """Store several whole files, all uploads at the same time; return what went wrong with each."""
    under_way: list[tuple[Uploads, list[NewSlice]] | Exception] = []
    for path, content in contents:
        uploads = Uploads(parts)
        try:
            parts.meta.gate.check_writable(path)
            under_way.append((uploads, _store(parts, uploads, content)))
        except Exception as error:
            uploads.discard()
            under_way.append(error)
    outcomes: list[Exception | None] = []
    for (path, _), work in zip(contents, under_way, strict=True):
        if isinstance(work, Exception):
            outcomes.append(work)
            continue
        uploads, slices = work
        try:
            _commit(parts, uploads, path, slices, exclusive=False)
            outcomes.append(None)
        except Exception as error:
            uploads.discard()
            outcomes.append(error)
    return outcomes


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
