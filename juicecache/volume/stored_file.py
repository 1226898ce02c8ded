"""One whole file, stored at once, that waits for the commit that makes it visible."""

from __future__ import annotations

import time

from juicecache.objects.store import Buffer
from juicecache.volume.compacting import compact_after_commit
from juicecache.volume.parts import Parts
from juicecache.volume.writer import SliceWriter, Uploads


class StoredFile:
    """The content of a file on its way; it ends with `commit` or `discard`.

    Parameters
    ----------
    content
        Must not change before `commit` or `discard` has returned.
    exclusive
        Refuse a name that is taken.

    Raises
    ------
    ReadOnlyVolumeError
    ObjectError
        Storing failed; nothing is left behind.
    """

    replaces = True

    def __init__(self, parts: Parts, path: str, content: Buffer, *, exclusive: bool) -> None:
        parts.meta.gate.check_writable(path)
        self.path = path
        self._parts = parts
        self.exclusive = exclusive
        self._uploads = Uploads(parts)
        try:
            writer = SliceWriter(parts, self._uploads, 0)
            self._slices = writer.write(content, stable=True)
            if writer.has_content:
                self._slices.append(writer.cut())
        except BaseException:
            self._uploads.discard()
            raise

    def wait(self) -> None:
        """Wait until all of it is stored, and let go of the content."""
        self._uploads.wait()

    def hold(self) -> None:
        """Keep what is stored referenced until the commit, however late that is."""
        if self._slices and not self._uploads.held:
            self._uploads.hold([new.record for new in self._slices])
            self._slices = [new._replace(fresh=False) for new in self._slices]

    def commit(self) -> None:
        """Make it the file at its path; after an error it is discarded.

        Raises
        ------
        EntryExistsError, NoSpaceError, ObjectError, MetaError
        """
        try:
            attr = self._uploads.commit(
                lambda: self._parts.meta.commit_file(
                    self.path,
                    self._slices,
                    time.time_ns(),
                    exclusive=self.exclusive,
                    held=self._uploads.held,
                )
            )
        except BaseException:
            self.discard()
            raise
        compact_after_commit(self._parts, attr, self._slices)

    def discard(self) -> None:
        """Forget it and remove its objects. Safe to repeat."""
        self._uploads.discard()
