"""One synchronisation: two listings joined, what differs copied by some threads.

Laws:

* Memory is bounded by a directory of each side, the files that are under way, and one batch.
* A run that is interrupted, or killed, leaves whole files; the next one goes on, because the state
  is what the target has.
* What goes wrong with a file is counted and told, and the others go on.
* Nothing is removed that is in neither tree: a link goes, and never what it leads to.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from juicecache.errors import ConfigError, EntryNotFoundError, JuicecacheError
from juicecache.faces.sync.batches import Batches
from juicecache.faces.sync.item import End, Item, Kind, Pair, joined
from juicecache.faces.sync.options import Chosen, SyncOptions, SyncReport
from juicecache.faces.sync.pace import Pace
from juicecache.faces.sync.rules import Rules

_PIECE_BYTES = 4 << 20
"""Bytes per step: one block of the default size."""
_SMALL_BYTES = 1 << 20
"""Files up to here are stored many at once where the target can: their cost is the request."""
_WAITING = 4
"""Files that wait for each thread, so that none is idle while a directory is listed."""
_SECRET = re.compile(r"://[^/@\s]*@")
_ERRORS_MAX = 1000
"""Errors kept in a report: enough to see the pattern."""


class _DifferentError(JuicecacheError):
    """A file is not what it was copied from."""


class Sync:
    """A run from one end to the other, which are the caller's to close.

    Parameters
    ----------
    progress
        Called with the report so far, now and then.
    """

    def __init__(
        self,
        source: End,
        target: End,
        options: SyncOptions,
        progress: Callable[[SyncReport], None] | None = None,
    ) -> None:
        self.report = SyncReport()
        self._source = source
        self._target = target
        self._options = options
        self._progress = progress or (lambda report: None)
        self._rules = Rules(options.rules, full_path=options.match_full_path)
        self._chosen = None if options.files_from is None else Chosen(options.files_from)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pace = Pace(options.bytes_per_s, sleep=self._stop.wait)
        self._batches = Batches(target, self._finish, self._fail)
        self._now_ns = time.time_ns()
        self._directories: list[Pair] = []
        self._protected: set[str] = set()

    def run(self) -> SyncReport:
        """Do it and return what was done.

        Raises
        ------
        EntryNotFoundError
            There is no source.
        """
        waiting = threading.BoundedSemaphore(self._options.threads * _WAITING)
        with ThreadPoolExecutor(self._options.threads, "juicecache-sync") as pool:
            try:
                for pair in self._pairs():
                    if self._stop.is_set():
                        break
                    if pair.source is not None and self._is_nowhere(pair.source):
                        # What the target has in its place stays: a disk may just not be there.
                        self._protected.add(pair.source.path)
                    if not self._is_wanted(pair):
                        continue
                    if self._is_directory(pair):
                        self._directories.append(pair)
                    waiting.acquire()
                    pool.submit(self._handle, pair).add_done_callback(lambda _: waiting.release())
                    self._progress(self.report)
                pool.shutdown()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        self._batches.flush()
        if not self._stop.is_set():
            self._end_directories()
        return self.report

    # ------------------------------------------------------------------ what is there

    def _pairs(self) -> Iterator[Pair]:
        top = self._source.find("")
        if top is None:
            raise EntryNotFoundError(str(self._source))
        if top.kind is Kind.FILE:
            yield Pair(top, self._target.find(""))
            return
        follow = not self._options.links
        ours = self._source.walk(self._enters, follow=follow)
        theirs = self._target.walk(self._enters, follow=follow)
        left = self._options.limit
        with closing(ours), closing(theirs):  # type: ignore[type-var]  # they are generators
            for pair in joined(ours, theirs):
                if pair.source is not None and pair.source.kind is not Kind.DIRECTORY:
                    if left == 0:
                        return
                    left -= self._is_wanted(pair)
                yield pair

    def _is_nowhere(self, item: Item | None) -> bool:
        """Return whether an item is a link that leads nowhere, where links are followed."""
        return item is not None and item.kind is Kind.LINK and not self._options.links

    def _is_protected(self, path: str) -> bool:
        names = path.split("/")
        return bool(self._protected) and any(
            "/".join(names[:count]) in self._protected for count in range(1, len(names) + 1)
        )

    def _enters(self, path: str) -> bool:
        return self._rules.enters(path) and (self._chosen is None or self._chosen.enters(path))

    def _is_wanted(self, pair: Pair) -> bool:
        """Return whether the options let a path through."""
        item = pair.source or pair.target
        assert item is not None, "a pair has at least one item"
        options = self._options
        if self._is_nowhere(pair.source) or (self._is_directory(pair) and not options.dirs):
            return False
        if not item.path:
            return True
        if (options.start and item.path < options.start) or (
            options.end and item.path > options.end
        ):
            return False
        if not self._rules.takes(item.path, is_directory=item.kind is Kind.DIRECTORY):
            return False
        if self._chosen is not None and not self._chosen.takes(item.path):
            return False
        return pair.source is None or self._is_sized(pair.source)

    def _is_sized(self, item: Item) -> bool:
        options = self._options
        if item.kind is not Kind.FILE:
            return True
        most = options.max_size
        if item.size is not None and (
            item.size < options.min_size or (most is not None and item.size > most)
        ):
            return False
        if item.mtime_ns is None:
            return True
        age_s = (self._now_ns - item.mtime_ns) / 1e9
        if options.min_age_s and age_s < options.min_age_s:  # clocks differ: 0 is no limit
            return False
        return options.max_age_s is None or age_s <= options.max_age_s

    @staticmethod
    def _is_directory(pair: Pair) -> bool:
        item = pair.source or pair.target
        return item is not None and item.kind is Kind.DIRECTORY

    # ------------------------------------------------------------------ one path

    def _handle(self, pair: Pair) -> None:
        item = pair.source or pair.target
        assert item is not None, "a pair has at least one item"
        if self._stop.is_set():
            return
        try:
            if pair.source is None:
                self._extra(item)
            elif item.kind is Kind.DIRECTORY:
                if pair.target is None and not self._options.dry:
                    self._target.make_directory(item.path)
            elif item.kind is Kind.LINK:
                self._link(item, pair.target)
            else:
                self._file(item, pair.target)
        except Exception as error:
            self._fail(item, error)

    def _extra(self, item: Item) -> None:
        """Remove what the source does not have; directories wait until they are empty."""
        if not self._options.delete_dst or item.kind is Kind.DIRECTORY or item.is_beyond:
            return
        if self._is_protected(item.path):
            return
        if not self._options.dry:
            self._target.remove(item)
        self._count(deleted=1)

    def _link(self, item: Item, there: Item | None) -> None:
        self._count(handled=1)
        leads_to = self._source.read_link(item.path)
        is_link = there is not None and there.kind is Kind.LINK
        if is_link and self._target.read_link(item.path) == leads_to:
            self._count(skipped=1)
            return
        if not self._is_allowed(there):
            self._count(skipped=1)
            return
        if not self._options.dry:
            self._target.make_link(item.path, leads_to)
        self._count(copied=1)

    def _is_allowed(self, there: Item | None) -> bool:
        return not (self._options.existing if there is None else self._options.ignore_existing)

    def _file(self, item: Item, there: Item | None) -> None:
        self._count(handled=1)
        if there is not None and there.kind is Kind.LINK:
            there = None  # one that leads nowhere: the file takes its place
        if not self._is_allowed(there):
            self._count(skipped=1)
        elif there is None or self._is_different(item, there):
            if there is not None and there.is_link and not self._options.dry:
                self._target.remove(there)  # else what it leads to would be written
            self._copy(item)
        else:
            self._count(skipped=1)
            if self._options.delete_src and self._seems_same(item, there):
                self._remove_source(item)

    def _seems_same(self, item: Item, there: Item) -> bool:
        """Return whether a source may go whose file was there already."""
        return not self._options.update and item.size is not None and item.size == there.size

    def _is_different(self, item: Item, there: Item) -> bool:
        options = self._options
        if options.force_update:
            return True
        if options.check_all and not options.update:
            return not self._is_same_content(item, there)
        known = item.mtime_ns is not None and there.mtime_ns is not None
        is_newer = known and item.mtime_ns > there.mtime_ns  # type: ignore[operator]  # both are
        if options.update:
            return is_newer
        sizes = item.size, there.size
        return is_newer or (None not in sizes and sizes[0] != sizes[1])

    def _is_same_content(self, item: Item, there: Item) -> bool:
        if None not in (item.size, there.size) and item.size != there.size:
            return False
        with self._source.open(item.path) as one, self._target.open(item.path) as other:
            while True:
                first, second = _filled(one), _filled(other)
                self._count(checked_bytes=len(first))
                if first != second:
                    return False
                if not first:
                    return True

    # ------------------------------------------------------------------ copying

    def _copy(self, item: Item) -> None:
        if self._options.dry:
            self._count(copied=1, copied_bytes=item.size or 0)
        elif self._target.copy_inside(self._source, item.path):
            self._finish(item, item.size or 0)
        elif self._target.packs and item.size is not None and item.size <= _SMALL_BYTES:
            content = self._source.read(item.path, item.size)
            self._pace.take(len(content))
            self._batches.add(item, content)
        else:
            sent = 0

            def pieces() -> Iterator[bytes]:
                nonlocal sent
                with self._source.open(item.path) as file:
                    while piece := file.read(_PIECE_BYTES):
                        if self._stop.is_set():
                            raise InterruptedError("the run was ended")
                        self._pace.take(len(piece))
                        sent += len(piece)
                        yield piece

            self._target.store(item.path, pieces(), item.size)
            self._finish(item, sent)

    def _finish(self, item: Item, size: int) -> None:
        """Do what is to be done with a file that was copied."""
        options = self._options
        if options.check_change or options.check_new:
            now = self._source.find(item.path)
            if now is None or _differ(now, item):
                self._take_back(item, "it changed while it was copied")
        if options.check_new and not self._is_same_content(item, item):
            self._take_back(item, "what was stored differs from its source")
        self._set_owner(item)
        self._count(copied=1, copied_bytes=size)
        if options.delete_src_after:
            if item.size is not None and size != item.size:
                raise _DifferentError(f"{size} of its {item.size} bytes came; it is not removed")
            self._remove_source(item)

    def _take_back(self, item: Item, why: str) -> None:
        """Remove what is not as it must be: it looks like the source, and would stay for ever."""
        self._target.remove(item._replace(is_link=False))
        raise _DifferentError(why)

    def _set_owner(self, item: Item) -> None:
        if self._options.perms and self._source.has_owners and self._target.has_owners:
            self._target.set_owner(item.path, item)

    def _remove_source(self, item: Item) -> None:
        if item.is_beyond:
            return
        if not self._options.dry:
            now = self._source.find(item.path)
            if now is not None and _differ(now, item):
                raise _DifferentError("it changed since it was copied, and is not removed")
            self._source.remove(item)
        self._count(deleted=1)

    def _end_directories(self) -> None:
        """Finish directories behind what is in them, the deepest first."""
        options = self._options
        for source, target in reversed(self._directories):
            item = source or target
            assert item is not None, "a pair has at least one item"
            try:
                if source is None and options.delete_dst:
                    if item.is_beyond or self._is_protected(item.path):
                        continue
                    if not options.dry:
                        self._target.remove(item)
                    self._count(deleted=1)
                elif source is not None and not options.dry:
                    self._set_owner(item)
            except Exception as error:
                self._fail(item, error)

    # ------------------------------------------------------------------ the report

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.report, name, getattr(self.report, name) + count)

    def _fail(self, item: Item, error: Exception) -> None:
        # Errors of file systems may quote an address.
        text = _SECRET.sub("://****@", " ".join(str(error).split())) or type(error).__name__
        with self._lock:
            self.report.failed += 1
            if len(self.report.errors) < _ERRORS_MAX:
                self.report.errors.append(f"{item.path}: {text}" if item.path else text)
            if 0 <= self._options.max_failure < self.report.failed:
                self._stop.set()


def _differ(now: Item, before: Item) -> bool:
    """Return whether a file has changed since it was listed, as far as its end tells."""
    return (now.size, now.mtime_ns) != (before.size, before.mtime_ns)


def _filled(file: object) -> bytes:
    """Return the next piece of a file, short only at its end."""
    parts: list[bytes] = []
    left = _PIECE_BYTES
    while left and (part := file.read(left)):  # type: ignore[attr-defined]  # any file
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def synchronise(
    source: End,
    target: End,
    options: SyncOptions,
    progress: Callable[[SyncReport], None] | None = None,
) -> SyncReport:
    """Bring ``target`` into line with ``source``; see `Sync`.

    Raises
    ------
    ConfigError
        One of them is the other, or lies in it: it would be copied into itself, or deleted.
    """
    if source.overlaps(target):
        raise ConfigError(
            f"{source} and {target}: one of them lies in the other; sync takes two trees"
        )
    return Sync(source, target, options, progress).run()
