"""What a synchronisation is to do, and what it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from juicecache.faces.sync.rules import Rule


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What is compared, copied and removed; the names are those of the official ``sync``.

    Attributes
    ----------
    rules, match_full_path
        Which names are taken; see `rules.Rules`.
    start, end
        The first and the last path that is looked at; empty for none.
    min_size, max_size, min_age_s, max_age_s
        Which files of the source are taken; bytes, and seconds since their last change.
    files_from
        Only these files, and what is below these directories.
    limit
        So many files of the source at most; -1 for all.
    update
        Copy what is there only where the source is newer, whatever the sizes.
    force_update
        Copy everything that is there.
    existing, ignore_existing
        Make no new files; leave alone what is there.
    dirs, perms, links
        Directories too, also empty ones; permission bits, owners and times; symbolic links as
        they are, not what they lead to.
    delete_src
        Remove from the source what is the same at the target.
    delete_src_after
        Remove from the source what was copied.
    delete_dst
        Remove from the target what the source does not have.
    check_all, check_new, check_change
        Compare contents of what seems to be the same; compare what was copied; look whether the
        source changed meanwhile.
    dry
        Change nothing.
    max_failure
        End the run when more files than this fail; -1 goes on to the end.
    threads
        Files at a time.
    bytes_per_s
        Limit of what is copied; 0 for none.
    """

    rules: tuple[Rule, ...] = ()
    match_full_path: bool = False
    start: str = ""
    end: str = ""
    min_size: int = 0
    max_size: int | None = None
    min_age_s: float = 0.0
    max_age_s: float | None = None
    files_from: tuple[str, ...] | None = None
    limit: int = -1
    update: bool = False
    force_update: bool = False
    existing: bool = False
    ignore_existing: bool = False
    dirs: bool = False
    perms: bool = False
    links: bool = False
    delete_src: bool = False
    delete_src_after: bool = False
    delete_dst: bool = False
    check_all: bool = False
    check_new: bool = False
    check_change: bool = False
    dry: bool = False
    max_failure: int = -1
    threads: int = 10
    bytes_per_s: float = 0.0


@dataclass(slots=True)
class SyncReport:
    """What a run did; with ``dry`` what it would have done.

    Attributes
    ----------
    handled
        Files and links of the source that the options let through.
    copied, copied_bytes, skipped, failed
        Of these; ``skipped`` were the same, or are left alone.
    checked_bytes
        Compared by content.
    deleted
        Removed from the target, or the source.
    errors
        What went wrong, a bounded number.
    """

    handled: int = 0
    copied: int = 0
    copied_bytes: int = 0
    skipped: int = 0
    checked_bytes: int = 0
    deleted: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Chosen:
    """Some paths with what is below them, and the way to them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = {path.strip("/") for path in paths} - {""}
        self._above = {
            "/".join(names[:depth])
            for names in (path.split("/") for path in self._paths)
            for depth in range(1, len(names))
        }

    def takes(self, path: str) -> bool:
        """Return whether a path is one of them, or below one."""
        names = path.split("/")
        return any("/".join(names[:depth]) in self._paths for depth in range(1, len(names) + 1))

    def enters(self, path: str) -> bool:
        """Return whether one of them may be below a directory."""
        return path in self._above or self.takes(path)
