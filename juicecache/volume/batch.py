"""Many files written as one batch: the small ones packed, the commits bounded and in order.

Laws: a deferred batch shows nothing before its commit; any batch commits in bounded steps,
and where one fails, what was committed is whole and the rest is not there. What waits for
its commit for long is kept referenced, so that no collector takes it for garbage.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from juicecache.errors import (
    BatchError,
    ClosedError,
    FileError,
    JuicecacheError,
    StaleHandleError,
    UnsupportedError,
)
from juicecache.meta.paths import join_path, split_path
from juicecache.objects.store import Buffer
from juicecache.volume.cleaning import log
from juicecache.volume.pack import Pack, PackedFile, is_small
from juicecache.volume.parts import Parts

_PACKS_WAITING_MAX = 2
"""Full packs whose last blocks may still be on their way while the next one is filled."""
_HOLD_EVERY_S = 1200.0
"""Objects without a reference are safe from collectors for an hour: what is stored waits at
most for two of these, with room for a slow commit and for clocks that differ."""


class DeferredFile(Protocol):
    """A file that stored its content by itself and leaves the commit to its batch."""

    path: str
    replaces: bool
    """Whether the commit gives the path a content of its own, whatever was there."""

    def commit(self) -> None:
        """Make it visible."""

    def discard(self) -> None:
        """Forget it."""

    def hold(self) -> None:
        """Keep what is stored referenced until the commit."""


def raise_failures(outcomes: Mapping[str, Exception | None]) -> None:
    """Raise what went wrong with files, by path: the error itself where there is one file.

    Raises
    ------
    BatchError
        Of several files some were not written.
    """
    failed = {path: error for path, error in outcomes.items() if error is not None}
    if not failed:
        return
    first = next(iter(failed.values()))
    if len(outcomes) == 1:
        raise first
    raise BatchError([path for path, error in outcomes.items() if error is None], failed) from first


class Batch:
    """Files that are written together; may be used from several threads.

    Of several contents for one path the last one counts. Of one file that is written under
    two names (links) it is open which.

    Parameters
    ----------
    deferred
        Commit nothing before `commit`; else packs are committed as they fill, and files show
        up one pack after the other.

    Attributes
    ----------
    outcomes
        What came of each path so far, in its canonical form: None when it is committed. The
        last one counts where a path was written several times.
    """

    def __init__(self, parts: Parts, *, deferred: bool) -> None:
        self._parts = parts
        self._deferred = deferred
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._pack: Pack | None = None
        self._waiting: list[Pack] = []
        self._files: list[DeferredFile] = []
        self._latest: dict[str, object] = {}
        self._timer: threading.Timer | None = None
        self._broken: Exception | None = None
        self._ended = False
        self.outcomes: dict[str, Exception | None] = {}

    # ------------------------------------------------------------------ filling

    def accepts(self, size_bytes: int) -> bool:
        """Return whether a file of this size is small enough to be packed."""
        return is_small(self._parts, size_bytes)

    def write(self, path: str, content: Buffer, *, exclusive: bool = False) -> None:
        """Take a copy of the whole content of a small file.

        Waits while all upload slots of the volume are taken, and for the commit of earlier
        packs. What becomes of the file is told at the end.

        Raises
        ------
        ReadOnlyVolumeError
        ClosedError, StaleHandleError
            The batch has ended, or belongs to the parent process.
        """
        self._check_owner(path)
        path = join_path(split_path(path))
        self._parts.meta.gate.check_writable(path)
        with self._lock:
            self._check_usable(path)
            if self._broken is not None:
                self.outcomes[path] = self._broken
                return
            size_bytes = memoryview(content).nbytes
            if self._pack is not None and not self._pack.has_room(size_bytes):
                self._end_pack()
            if self._pack is None:
                self._pack = Pack(self._parts)
            try:
                self._pack.add(path, content, exclusive=exclusive)
            except BaseException as error:
                self._give_up_pack(self._pack, error)
                self.outcomes[path] = self._broken
                if not isinstance(error, Exception):
                    raise
                return
            self._latest[path] = self._pack.files[-1]
            self._watch()

    def add_file(self, file: DeferredFile) -> None:
        """Take over the commit of a file that was too large to be packed, or appended to.

        Raises
        ------
        UnsupportedError
            An append to a file that the batch writes already; see `check_append`.
        """
        self._check_owner(file.path)
        if not file.replaces:
            self.check_append(file.path)
        with self._lock:
            self._check_usable(file.path)
            self._files.append(file)
            self._latest[file.path] = file
            self._watch()

    def check_append(self, path: str) -> None:
        """Refuse an append to a path that the batch writes: its end is known at the commit only.

        Raises
        ------
        UnsupportedError
        """
        if path in self._latest:
            raise UnsupportedError(
                path, "the same batch or transaction writes the file already; append after its end"
            )

    def _check_owner(self, path: str) -> None:
        # Before the lock, which another thread of the parent may have held while it forked.
        if os.getpid() != self._pid:
            raise StaleHandleError(path, "the batch belongs to the parent process")

    def _check_usable(self, path: str) -> None:
        if self._ended:
            raise ClosedError(f"{path}: the batch has ended")

    def _end_pack(self) -> None:
        """Close the pack in hand; commit the oldest ones where that may be done already."""
        pack, self._pack = self._pack, None
        if pack is None:
            return
        self._waiting.append(pack)
        try:
            pack.close()
        except Exception as error:
            self._give_up_pack(pack, error)
            return
        while not self._deferred and len(self._waiting) > _PACKS_WAITING_MAX:
            self._commit_pack(self._waiting.pop(0))

    # ------------------------------------------------------------------ ending

    def commit(self) -> None:
        """Commit everything that is left, in bounded steps and in order.

        Raises
        ------
        BatchError
            Some of several files were not written; says which, and which were.
        """
        self._check_owner("")
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._stop_watching()
            try:
                self._end_pack()
                while self._waiting:
                    self._commit_pack(self._waiting.pop(0))
                while self._files:
                    self._commit_file(self._files.pop(0))
            finally:
                self._drop()
        raise_failures(self.outcomes)

    def discard(self) -> None:
        """Forget what is not committed and remove its objects. Safe to repeat.

        In a forked child nothing happens: what is stored is the parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._ended = True
            self._stop_watching()
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.commit()
        else:
            self.discard()

    def _commit_pack(self, pack: Pack) -> None:
        """Commit the files of a pack that were not written anew since, unless all is lost."""
        files = [file for file in pack.files if self._latest.get(file.path) is file]
        if self._broken is not None or not files:
            self._settle(files, [self._broken] * len(files))
            pack.discard()
            return
        try:
            found = pack.commit(files)
        except BaseException as error:
            self._give_up_pack(pack, error)
            if not isinstance(error, Exception):
                raise
            return
        self._settle(files, [one if isinstance(one, FileError) else None for one in found])

    def _commit_file(self, file: DeferredFile) -> None:
        if self._latest.get(file.path) is not file:  # written anew since
            file.discard()
            return
        failure = self._broken
        try:
            if failure is None:
                file.commit()
            else:
                file.discard()
        except Exception as error:
            failure = error
        if self._latest.get(file.path) is file:
            del self._latest[file.path]
        self.outcomes[file.path] = failure

    def _settle(self, files: list[PackedFile], failures: list[Exception | None]) -> None:
        for file, failure in zip(files, failures, strict=True):
            self._latest.pop(file.path, None)
            self.outcomes[file.path] = failure

    def _give_up_pack(self, pack: Pack, error: BaseException) -> None:
        """Note that a pack is lost: storage or database fail, so nothing more is tried."""
        if self._broken is None:
            self._broken = (
                error
                if isinstance(error, Exception)
                else JuicecacheError(f"the batch was interrupted by {error!r}")
            )
        files = [file for file in pack.files if self._latest.get(file.path) is file]
        self._settle(files, [self._broken] * len(files))
        pack.discard()
        self._waiting = [other for other in self._waiting if other is not pack]
        if self._pack is pack:
            self._pack = None

    def _drop(self) -> None:
        for pack in [*self._waiting, *([self._pack] if self._pack else [])]:
            pack.discard()
        for file in self._files:
            file.discard()
        self._waiting, self._pack, self._files = [], None, []
        self._latest.clear()

    # ------------------------------------------------------------------ long batches

    def _watch(self) -> None:
        """See to it that somebody looks after what is stored, once there is any."""
        stored = self._waiting or self._files or (self._pack and self._pack.has_stored)
        if self._timer is None and stored:
            self._timer = threading.Timer(_HOLD_EVERY_S, self._on_time)
            self._timer.name, self._timer.daemon = "juicecache-batch", True
            self._timer.start()

    def _stop_watching(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_time(self) -> None:
        """See that nothing that is stored stays without a reference."""
        with self._lock:
            if self._ended:
                return
            self._timer = None
            if self._pack is not None and self._pack.has_stored:
                self._end_pack()
            if self._deferred:
                self._hold()
            while self._waiting and not self._deferred:
                self._commit_pack(self._waiting.pop(0))
            self._watch()

    def _hold(self) -> None:
        """Keep all that is stored referenced; what fails is tried again the next time."""
        held: list[Pack | DeferredFile] = [*self._waiting, *self._files]
        for one in held:
            try:
                one.hold()
            except JuicecacheError as error:
                log.warning("stored blocks of a batch could not be kept referenced: %s", error)
