"""Bringing blocks into the tiers ahead of time, checking and evicting them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from juicecache.cache.stack import TierStack
from juicecache.errors import JuicecacheError
from juicecache.model.layout import BlockKey
from juicecache.peers.wire import Kind
from juicecache.volume.flight import Flight
from juicecache.volume.group_warm import End, Ended, GroupWarming
from juicecache.volume.insight import file_blocks
from juicecache.volume.parts import Parts


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What a warm-up saw and did so far; ``cached_*`` were in a tier before.

    In a cache group it is the tiers of the owners that count, else our own.

    Attributes
    ----------
    files, blocks, bytes
        Found so far; ``is_walked`` when these are all.
    dropped_blocks
        They were cached or loaded and are in no tier now, which had no room for them or gave it to
        others. Without a group this is known at the end, and of very many blocks those visited
        last are looked at.
    failed_blocks, errors
        What could not be loaded, and why.
    group
        The cache group whose owners did it; empty for this machine.
    """

    files: int = 0
    blocks: int = 0
    bytes: int = 0
    cached_blocks: int = 0
    cached_bytes: int = 0
    loaded_blocks: int = 0
    loaded_bytes: int = 0
    evicted_blocks: int = 0
    dropped_blocks: int = 0
    failed_blocks: int = 0
    errors: tuple[str, ...] = ()
    group: str = ""
    is_walked: bool = False


_ERRORS_MAX = 100
"""Errors kept in a report: enough to see the pattern, bounded for a million files."""
_SEEN_MAX = 131_072
"""Blocks remembered as visited, some 30 MB: files that share one (packed ones, copies) are
mostly near each other, and a block that is visited again only counts as cached. At the end it
takes half a second at most to see whether they stayed."""


class _Seen:
    """The blocks visited last, and whether each was in a tier then or was put there."""

    def __init__(self) -> None:
        self._keys: dict[BlockKey, bool] = {}

    def add(self, key: BlockKey) -> bool:
        """Note a visit; False for a block that was visited before."""
        if key in self._keys:
            return False
        if len(self._keys) >= _SEEN_MAX:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = False
        return True

    def expect(self, key: BlockKey) -> None:
        """Note that a tier should have a block now."""
        if key in self._keys:
            self._keys[key] = True

    def dropped(self, tiers: TierStack) -> int:
        """Return how many that should be in a tier are in none."""
        return sum(expected and not tiers.contains(key) for key, expected in self._keys.items())


def warm_paths(
    parts: Parts,
    paths: Sequence[str],
    *,
    check: bool = False,
    evict: bool = False,
    progress: Callable[[WarmReport], None] | None = None,
) -> WarmReport:
    """Load every block of the files below ``paths`` into the tiers; see `Volume.warmup`."""
    if parts.blocks.group is not None:
        act = Kind.HAS if check else Kind.EVICT if evict else Kind.WARM
        return _GroupWarm(parts, act, progress).run(paths)
    window: deque[Flight] = deque()
    try:
        return _warm(parts, paths, window, check=check, evict=evict, progress=progress)
    finally:
        # After an interrupt, or an error of the tree, what is on its way is dropped.
        parts.blocks.abandon(window)


def _warm(
    parts: Parts,
    paths: Sequence[str],
    window: deque[Flight],
    *,
    check: bool,
    evict: bool,
    progress: Callable[[WarmReport], None] | None,
) -> WarmReport:
    report, seen = WarmReport(), _Seen()
    for path in paths:
        for file in _files_below(parts, path):
            report = replace(report, files=report.files + 1)
            try:
                keys = file_blocks(parts, file)[2]
            except JuicecacheError as error:
                report = _failed(report, f"{file}: {error}")
                continue
            for key in filter(seen.add, keys):
                report = _visit(parts, key, window, seen, report, check=check, evict=evict)
            if progress is not None:
                progress(report)
    report = replace(report, is_walked=True)
    while window:
        report = _take(parts, window.popleft(), seen, report)
    if not check and not evict:
        report = replace(report, dropped_blocks=seen.dropped(parts.tiers))
    if progress is not None:
        progress(report)
    return report


def _visit(
    parts: Parts,
    key: BlockKey,
    window: deque[Flight],
    seen: _Seen,
    report: WarmReport,
    *,
    check: bool,
    evict: bool,
) -> WarmReport:
    report = replace(report, blocks=report.blocks + 1, bytes=report.bytes + key.length)
    if evict:
        gone = parts.blocks.evict(key)
        return replace(report, evicted_blocks=report.evicted_blocks + gone)
    if parts.tiers.where(key) is not None:
        seen.expect(key)
        return replace(
            report,
            cached_blocks=report.cached_blocks + 1,
            cached_bytes=report.cached_bytes + key.length,
        )
    if check:
        return report
    # Blocks wait in memory until they are kept: the read buffer of the volume bounds them.
    while window and (
        len(window) >= parts.options.max_downloads
        or parts.blocks.loading_bytes >= parts.options.buffer_size_bytes
    ):
        report = _take(parts, window.popleft(), seen, report)
    window.extend(parts.blocks.begin((key,), ahead=True))
    return report


def _take(parts: Parts, flight: Flight, seen: _Seen, report: WarmReport) -> WarmReport:
    try:
        body = parts.blocks.settle(flight)
    except JuicecacheError as error:
        return _failed(replace(report, failed_blocks=report.failed_blocks + 1), str(error))
    seen.expect(flight.key)
    return replace(
        report,
        loaded_blocks=report.loaded_blocks + 1,
        loaded_bytes=report.loaded_bytes + len(body),
    )


class _GroupWarm:
    """A warm-up by the owners of a cache group, and the report of it."""

    def __init__(
        self, parts: Parts, act: Kind, progress: Callable[[WarmReport], None] | None
    ) -> None:
        assert parts.blocks.group is not None
        self._parts = parts
        self._act = act
        self._progress = progress
        self._report = WarmReport(group=parts.blocks.group.name)

    def run(self, paths: Sequence[str]) -> WarmReport:
        """Walk, and return what became of it."""
        GroupWarming(self._parts.blocks, self._act).run(self._keys(paths), self._note, self._look)
        self._look()
        return self._report

    def _keys(self, paths: Sequence[str]) -> Iterator[BlockKey]:
        seen = _Seen()
        for path in paths:
            for file in _files_below(self._parts, path):
                self._add(files=1)
                try:
                    keys = file_blocks(self._parts, file)[2]
                except JuicecacheError as error:
                    self._report = _failed(self._report, f"{file}: {error}")
                    continue
                for key in filter(seen.add, keys):
                    self._add(blocks=1, bytes=key.length)
                    yield key
                self._look()
        self._report = replace(self._report, is_walked=True)

    def _note(self, ended: Ended) -> None:
        size_bytes = ended.key.length
        if self._act == Kind.EVICT:
            self._parts.blocks.evict(ended.key)  # what this client keeps besides
        if ended.end == End.FAILED:
            self._add(failed_blocks=1)
            name = self._parts.layout.object_name(ended.key.name)
            self._report = _failed(self._report, f"{name}: {ended.reason}")
        elif ended.end == End.CACHED and self._act == Kind.EVICT:
            self._add(evicted_blocks=1)
        elif ended.end == End.CACHED:
            self._add(cached_blocks=1, cached_bytes=size_bytes)
        elif ended.end in (End.LOADED, End.DROPPED):
            dropped = ended.end == End.DROPPED
            self._add(loaded_blocks=1, loaded_bytes=size_bytes, dropped_blocks=dropped)

    def _add(self, **counts: int) -> None:
        report = self._report
        self._report = replace(
            report,
            **{name: getattr(report, name) + count for name, count in counts.items()},
        )

    def _look(self) -> None:
        if self._progress is not None:
            self._progress(self._report)


def _failed(report: WarmReport, message: str) -> WarmReport:
    if len(report.errors) >= _ERRORS_MAX:
        return report
    return replace(report, errors=(*report.errors, message))


def _files_below(parts: Parts, path: str) -> Iterator[str]:
    attr = parts.meta.resolve(path)
    if not attr.is_directory:
        yield path
        return
    for directory, entries in parts.meta.walk(path):
        for name, child in entries:
            if child.is_file:
                yield f"{directory.rstrip('/')}/{name}"
