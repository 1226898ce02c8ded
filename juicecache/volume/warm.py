"""Bringing blocks into the tiers ahead of time, checking and evicting them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from juicecache.cache.stack import TierStack
from juicecache.errors import JuicecacheError
from juicecache.model.layout import BlockKey
from juicecache.volume.flight import Flight
from juicecache.volume.insight import file_blocks
from juicecache.volume.parts import Parts


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What a warm-up saw and did so far; ``cached_*`` were in a tier before.

    ``dropped_blocks``, known at the end, were cached or loaded and are in no tier now: these had
    no room for them, or gave it to others. Of very many blocks, those visited last are looked at.
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
    errors: tuple[str, ...] = ()


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
        return _failed(report, str(error))
    seen.expect(flight.key)
    return replace(
        report,
        loaded_blocks=report.loaded_blocks + 1,
        loaded_bytes=report.loaded_bytes + len(body),
    )


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
