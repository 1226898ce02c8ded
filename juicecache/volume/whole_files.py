"""Whole files written at once: stored in parallel, small ones packed.

Law: blocks before metadata; what could not be committed is deleted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from juicecache.meta.paths import join_path, split_path
from juicecache.objects.store import Buffer
from juicecache.volume.batch import Batch, content_view
from juicecache.volume.parts import Parts
from juicecache.volume.stored_file import StoredFile


def write_file(parts: Parts, path: str, content: Buffer, *, exclusive: bool) -> None:
    """Store a whole file and commit it in one transaction."""
    StoredFile(parts, path, content_view(path, content), exclusive=exclusive).commit()


def write_many_files(
    parts: Parts, contents: Sequence[tuple[str, Buffer]]
) -> list[Exception | None]:
    """Store several whole files, the small ones packed; return what went wrong with each.

    The large ones are uploaded at the same time, each committed in a transaction of its own.
    Of several contents for one path the last one counts.
    """
    outcomes: list[Exception | None] = [None] * len(contents)
    batch = Batch(parts, deferred=False)
    taken: list[int] = []
    try:
        for number, (path, content) in enumerate(contents):
            try:
                view = content_view(path, content)
                if batch.accepts(view.nbytes):
                    batch.write(path, view)
                else:
                    name = join_path(split_path(path))
                    batch.add_file(StoredFile(parts, name, view, exclusive=False))
                taken.append(number)
            except Exception as error:
                outcomes[number] = error
        with suppress(Exception):  # each file's own error is among the outcomes
            batch.commit()
    finally:
        batch.discard()
    for number in taken:
        outcomes[number] = batch.outcome(contents[number][0])
    return outcomes
