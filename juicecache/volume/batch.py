"""Many files written as one batch: the small ones packed, the commits bounded and in order.

Laws: a deferred batch shows nothing before its commit; any batch commits in bounded steps,
and where one fails, what was committed is whole and the rest is not there. What waits for
its commit for long is kept referenced, so that no collector takes it for garbage.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from juicecache.errors import (
    BatchError,
    ClosedError,
    EntryExistsError,
    FileError,
    JuicecacheError,
    MetaError,
    StaleHandleError,
    UnsupportedError,
)
from juicecache.meta.paths import join_path, split_path
from juicecache.objects.store import Buffer
from juicecache.volume.cleaning import log
from juicecache.volume.pack import Pack, PackedFile, is_small
from juicecache.volume.parts import Parts
from juicecache.volume.stored_file import StoredFile

_WAITING_MAX = 2
"""Full packs whose last blocks may still be on their way while the next one is filled: 128 MiB."""
_FILES_WAITING_MAX = 20
"""Large files that are uploaded at the same time: the default of ``max_uploads``."""
_HOLD_EVERY_S = 1200.0
"""Objects without a reference are safe from collectors for an hour: what is stored waits at
most for two of these, with room for a slow commit and for clocks that differ."""


class DeferredFile(Protocol):
    """A file that stored its content by itself and leaves the commit to its batch."""

    path: str
    replaces: bool
    """Whether the commit gives the path a content of its own, whatever was there."""
    exclusive: bool
    """Whether a name that is taken is refused."""

    def commit(self) -> None:
        """Make it visible."""

    def discard(self) -> None:
        """Forget it."""

    def hold(self) -> None:
        """Keep what is stored referenced until the commit."""


def content_view(path: str, content: Buffer) -> memoryview:
    """Return the bytes of a content, not copied.

    Raises
    ------
    TypeError
        It has no bytes, or not one after the other; names the path.
    """
    try:
        view = memoryview(content)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError as error:
        raise TypeError(f"{path}: the content must be contiguous bytes: {error}") from None


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
        """Take the whole content of a file: a copy of a small one, for a pack.

        A larger one is stored by itself. Waits while all upload slots of the volume are taken,
        and for the commit of earlier packs. What becomes of the file is told at the end.

        Parameters
        ----------
        exclusive
            Refuse a name that is taken, here by this batch, at the commit by anybody.

        Raises
        ------
        EntryExistsError
            ``exclusive`` and the batch writes the file already.
        ReadOnlyVolumeError
        TypeError
            The content has no contiguous bytes.
        ClosedError, StaleHandleError
            The batch has ended, or belongs to the parent process.
        """
        self._check_owner(path)
        view = content_view(path, content)
        path = join_path(split_path(path))
        self._parts.meta.gate.check_writable(path)
        if not self.accepts(view.nbytes):
            file = StoredFile(self._parts, path, view, exclusive=exclusive)
            try:
                file.wait()  # the caller's buffer is free again
                self.add_file(file)
            except BaseException:
                file.discard()
                raise
            return
        with self._lock:
            self._check_usable(path)
            if exclusive:
                self.check_new(path)
            if self._broken is None:
                self._add_to_pack(path, view, exclusive=exclusive)
            if self._broken is not None:
                self.outcomes[path] = self._broken
            self._watch()

    def _add_to_pack(self, path: str, view: memoryview, *, exclusive: bool) -> None:
        if self._pack is not None and not self._pack.has_room(view.nbytes):
            self._end_pack()
        if self._pack is None:
            self._pack = Pack(self._parts)
        try:
            self._pack.add(path, view, exclusive=exclusive)
            self._latest[path] = self._pack.files[-1]
        except BaseException as error:
            self._give_up_pack(self._pack, error)
            if not isinstance(error, Exception):
                raise

    def add_file(self, file: DeferredFile) -> None:
        """Take over the commit of a file that was too large to be packed, or appended to.

        Raises
        ------
        UnsupportedError
            An append to a file that the batch writes already; see `check_append`.
        EntryExistsError
            It is exclusive and the batch writes the file already.
        """
        self._check_owner(file.path)
        with self._lock:
            self._check_usable(file.path)
            if not file.replaces:
                self.check_append(file.path)
            if file.exclusive:
                self.check_new(file.path)
            self._files.append(file)
            self._latest[file.path] = file
            while not self._deferred and len(self._files) > _FILES_WAITING_MAX:
                self._commit_file(self._files.pop(0))
            self._watch()

    def outcome(self, path: str) -> Exception | None:
        """Return what went wrong with a path; None when it is committed."""
        return self.outcomes[join_path(split_path(path))]

    def check_new(self, path: str) -> None:
        """Refuse a name that the batch writes already.

        Raises
        ------
        EntryExistsError
        """
        if path in self._latest:
            raise EntryExistsError(path, "the same batch or transaction writes it already")

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
        if len(self._waiting) <= _WAITING_MAX:
            return
        if not self._deferred:
            self._commit_pack(self._waiting.pop(0))
            return
        oldest = self._waiting[-1 - _WAITING_MAX]
        try:
            oldest.wait()
        except Exception as error:
            self._give_up_pack(oldest, error)

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
            file.discard()
        self._settle([file], [failure])

    def _settle(
        self, files: Sequence[PackedFile | DeferredFile], failures: Sequence[Exception | None]
    ) -> None:
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

    def _lose(self, one: Pack | DeferredFile, error: Exception) -> None:
        """Note that the content of a pack or a file could not be stored."""
        if isinstance(one, Pack):
            self._give_up_pack(one, error)
            return
        self._files.remove(one)
        one.discard()
        if self._latest.get(one.path) is one:
            self._settle([one], [error])

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
            # Weakly: a batch that was forgotten does not live on by its timer, which ends with it.
            self._timer = threading.Timer(_HOLD_EVERY_S, _on_time, (weakref.ref(self),))
            self._timer.name, self._timer.daemon = "juicecache-batch", True
            self._timer.start()
            weakref.finalize(self, self._timer.cancel).atexit = False

    def _stop_watching(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def secure(self) -> None:
        """See that nothing that is stored stays without a reference; the timer calls it."""
        with self._lock:
            if self._ended:
                return
            self._stop_watching()
            if self._pack is not None and self._pack.has_stored:
                self._end_pack()
            while self._waiting and not self._deferred:
                self._commit_pack(self._waiting.pop(0))
            held: list[Pack | DeferredFile] = [*self._waiting, *self._files]
            for one in held:
                try:
                    one.hold()
                except ClosedError:
                    return  # with the volume ends all that could be done
                except (MetaError, FileError) as error:
                    # Tried again the next time; the commit looks for what waited for too long.
                    log.warning("stored blocks of a batch could not be kept referenced: %s", error)
                except Exception as error:
                    self._lose(one, error)
            self._watch()


def _on_time(batch: weakref.ref[Batch]) -> None:
    alive = batch()
    if alive is not None:
        alive.secure()
