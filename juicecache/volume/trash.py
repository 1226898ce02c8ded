"""The trash of a volume: what is in it, and getting it back.

Law: entries go back one at a time, each in a transaction of its own, so a run that is interrupted
has put back some and may be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from juicecache.errors import EntryNotFoundError, FileError
from juicecache.meta.restoring import parse_trash_name
from juicecache.model.attr import Attr
from juicecache.volume.parts import Parts

_FAILURES_MAX = 100
"""Failures kept in a report: enough to see the pattern."""


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """Something that was removed.

    Attributes
    ----------
    hour
        When, as ``YYYY-MM-DD-HH`` in UTC: the directory below ``/.trash`` that it is in.
    entry
        Its name there.
    name
        What it was called; the end may be missing where that was very long.
    parent
        The inode of the directory that it was in; 0 where the name does not say.
    attr
        What it is.
    """

    hour: str
    entry: str
    name: str
    parent: int
    attr: Attr

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "hour": self.hour,
            "entry": self.entry,
            "name": self.name,
            "parent": self.parent,
            "inode": self.attr.inode,
            "type": self.attr.type.name.lower(),
            "length": self.attr.length,
        }


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What came back.

    Attributes
    ----------
    restored
        Entries that are where they were.
    failed
        Entries that stay in the trash.
    failures
        Why, for a bounded number of them.
    """

    restored: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def list_trash(parts: Parts, hours: Sequence[str] = ()) -> Iterator[TrashEntry]:
    """Iterate over what is in the trash, hour by hour; an hour that does not exist has nothing."""
    known = [os.fsdecode(name) for name, _ in parts.meta.children("/.trash")]
    for hour in known:
        if hours and hour not in hours:
            continue
        try:
            entries = parts.meta.children(f"/.trash/{hour}")
        except EntryNotFoundError:
            continue  # its time has come meanwhile
        for name, attr in entries:
            was = parse_trash_name(name)
            shown = name if was is None else was.name
            parent = 0 if was is None else was.parent
            yield TrashEntry(hour, os.fsdecode(name), os.fsdecode(shown), parent, attr)


def restore_trash(
    parts: Parts,
    hours: Sequence[str] = (),
    *,
    progress: Callable[[RestoreReport], None] | None = None,
) -> RestoreReport:
    """Put back what was removed in some hours, or all of it; nothing is ever replaced.

    What was in a directory that was removed as well comes back with it.
    """
    parts.meta.gate.check_writable("/.trash")
    report = RestoreReport()
    waiting = list(list_trash(parts, hours))
    errors: dict[TrashEntry, FileError] = {}
    while waiting:
        errors = {}
        for entry in waiting:
            try:
                parts.meta.restore(entry.hour, entry.entry)
            except FileError as error:
                errors[entry] = error
                continue
            report = replace(report, restored=report.restored + 1)
            if progress is not None:
                progress(report)
        # What waits for its directory to come back is tried again while anything comes back.
        if len(errors) == len(waiting):
            break
        waiting = list(errors)
    failures = [f"{entry.hour}/{entry.entry}: {error}" for entry, error in errors.items()]
    return replace(report, failed=len(failures), failures=tuple(failures[:_FAILURES_MAX]))
