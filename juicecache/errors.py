"""Every exception that juicecache raises, grouped by what a handler does with it.

Nothing here imports another part of the package. All classes pickle, so that an error
raised in a DataLoader worker arrives whole in the parent. A cache miss is never an
exception: it is ``None``.

::

    JuicecacheError
    |-- FileError (OSError)            errno and path are set; never retried
    |   |-- EntryNotFoundError         (FileNotFoundError)
    |   |-- EntryExistsError           (FileExistsError)
    |   |-- NotDirectoryError          (NotADirectoryError)
    |   |-- IsDirectoryError           (IsADirectoryError)
    |   |-- DirectoryNotEmptyError
    |   |-- InvalidNameError
    |   |-- AccessDeniedError          (PermissionError)
    |   |-- ReadOnlyVolumeError
    |   |-- NoSpaceError
    |   |-- QuotaExceededError
    |   |-- NoAttributeError
    |   |-- UnsupportedError
    |   `-- StaleHandleError
    |-- ConfigError (ValueError)       the caller passed something that cannot work
    |-- VolumeFormatError              the volume is absent, newer, or uses what we do not keep
    |-- ClosedError                    used after close()
    |-- BatchError                     some of many files were not written; says which
    |-- MetaError                      the metadata engine
    |   |-- ConflictError              lost a race; retried inside, raised after the last try
    |   |-- CommitUnknownError         the reply of a commit was lost; never retried blindly
    |   `-- EngineUnavailableError
    |-- ObjectError                    object storage
    |   |-- ObjectNotFoundError
    |   |-- ObjectDeniedError
    |   `-- ObjectUnavailableError     the only one that is retried
    |-- CorruptBlockError              stored bytes differ from their checksum or length
    `-- PeerError                      a member of the cache group; a read then takes another way
        |-- PeerUnavailableError       it refused the connection, is silent, or went away
        |   `-- PeerBusyError          it is well and has too much to do
        |-- PeerProtocolError          it sent what this version does not understand
        `-- PeerDeniedError            it, or we, lack the secret, or serve something else
"""

from __future__ import annotations

import errno as _errno
import os as _os
from collections.abc import Mapping, Sequence
from typing import Any


class JuicecacheError(Exception):
    """Root of every error raised by juicecache."""


class FileError(JuicecacheError, OSError):
    """An operation on a path failed; ``errno`` and ``filename`` are always set.

    Parameters
    ----------
    path
        The path or name as the caller gave it.
    detail
        What is wrong with it, in words; the standard text of the errno when empty.
    errno
        Overrides the errno of the class.
    """

    default_errno = _errno.EIO

    def __init__(self, path: str | bytes = "", detail: str = "", *, errno: int | None = None):
        number = self.default_errno if errno is None else errno
        shown = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
        self._args: tuple[str | bytes, str, int, str | None] = (path, detail, number, None)
        super().__init__(number, detail or _os.strerror(number), shown or None)

    def locate(self, path: str, target: str | None = None) -> None:
        """Name the path, or the two paths, that the caller gave instead of what failed inside."""
        self._args = (path, *self._args[1:3], target)
        self.filename = path
        if target is not None:
            self.filename2 = target

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from our own arguments; OSError would pass errno first."""
        return _rebuild_file_error, (type(self), *self._args)


def _rebuild_file_error(
    cls: type[FileError], path: str | bytes, detail: str, number: int, target: str | None
) -> FileError:
    error = cls(path, detail, errno=number)
    if target is not None:
        error.filename2 = target
        error._args = (path, detail, number, target)
    return error


class EntryNotFoundError(FileError, FileNotFoundError):
    """No such file or directory."""

    default_errno = _errno.ENOENT


class EntryExistsError(FileError, FileExistsError):
    """The name is already taken."""

    default_errno = _errno.EEXIST


class NotDirectoryError(FileError, NotADirectoryError):
    """A directory is needed and the entry is something else."""

    default_errno = _errno.ENOTDIR


class IsDirectoryError(FileError, IsADirectoryError):
    """A file is needed and the entry is a directory."""

    default_errno = _errno.EISDIR


class DirectoryNotEmptyError(FileError):
    """The directory still has entries."""

    default_errno = _errno.ENOTEMPTY


class InvalidNameError(FileError):
    """The name is empty, too long, or holds bytes that a name cannot hold."""

    default_errno = _errno.EINVAL


class AccessDeniedError(FileError, PermissionError):
    """The volume's rules forbid it (trash, immutable or append-only file, reserved name)."""

    default_errno = _errno.EPERM


class ReadOnlyVolumeError(FileError):
    """The volume was opened read-only, or asks for what this client cannot keep."""

    default_errno = _errno.EROFS


class NoSpaceError(FileError):
    """The capacity or the inode limit of the volume is reached."""

    default_errno = _errno.ENOSPC


class QuotaExceededError(FileError):
    """The quota of a directory, user or group is reached; the text says whose, and which."""

    default_errno = _errno.EDQUOT


class NoAttributeError(FileError):
    """The extended attribute does not exist."""

    default_errno = _errno.ENODATA


class UnsupportedError(FileError):
    """The operation is not defined for this kind of entry or volume."""

    default_errno = _errno.ENOTSUP


class StaleHandleError(FileError):
    """The open handle is of no use any more: its file is gone, or a parent process owns it."""

    default_errno = _errno.ESTALE


class ConfigError(JuicecacheError, ValueError):
    """An option, address or environment variable is unknown, malformed or contradictory."""


class VolumeFormatError(JuicecacheError):
    """There is no volume at the address, it is newer than this client, or its record is damaged."""


class ClosedError(JuicecacheError):
    """The volume or file was closed before this call."""


class BatchError(JuicecacheError):
    """Some files of a batch were not written; the others are committed, each of them whole.

    Parameters
    ----------
    committed
        Paths of the files that are there, with their new content.
    failed
        What went wrong with each of the others, by path. Their old content stands, unless
        the error is a CommitUnknownError.
    """

    def __init__(self, committed: Sequence[str], failed: Mapping[str, Exception]):
        super().__init__(tuple(committed), dict(failed))
        self.committed = tuple(committed)
        self.failed = dict(failed)

    def __str__(self) -> str:
        """Say how many, the first of them and why."""
        path, reason = next(iter(self.failed.items()))
        return (
            f"{len(self.failed)} of {len(self.failed) + len(self.committed)} files were not "
            f"written, the first of them {path}: {reason} "
            "('failed' of this error has them all, 'committed' the others)"
        )


class MetaError(JuicecacheError):
    """The metadata engine failed."""


class ConflictError(MetaError):
    """Other clients changed the same rows; raised only after the last retry."""


class CommitUnknownError(MetaError):
    """The engine's answer to a commit was lost: it may or may not have happened."""


class EngineUnavailableError(MetaError):
    """The metadata engine cannot be reached, is locked for too long, or refused us."""


class ObjectError(JuicecacheError):
    """Object storage failed.

    Parameters
    ----------
    name
        The object's name in the bucket.
    detail
        What happened, in words, with no secret in it.
    """

    def __init__(self, name: str = "", detail: str = ""):
        super().__init__(name, detail)
        self.name = name
        self.detail = detail

    def __str__(self) -> str:
        """Say which object and what happened."""
        return f"{self.name}: {self.detail}" if self.name else self.detail


class ObjectNotFoundError(ObjectError):
    """The object, or the bucket, does not exist."""


class ObjectDeniedError(ObjectError):
    """The credentials are missing, wrong, or lack the right."""


class ObjectUnavailableError(ObjectError):
    """A timeout, a dropped connection or a 5xx answer; worth another try."""


class CorruptBlockError(JuicecacheError):
    """Stored bytes differ from their recorded checksum or length.

    Parameters
    ----------
    name
        The object or block.
    expected, found
        What was recorded and what was read: a checksum or a length, as text.
    where
        The place that served the bytes, such as ``object storage``.
    """

    def __init__(self, name: str, expected: str, found: str, where: str):
        super().__init__(name, expected, found, where)
        self.name = name
        self.expected = expected
        self.found = found
        self.where = where

    def __str__(self) -> str:
        """Say which bytes, what was expected and what was found."""
        return f"{self.name} in {self.where}: expected {self.expected}, found {self.found}"


class PeerError(JuicecacheError):
    """A member of a cache group failed. Reads never raise it: they take another way.

    Parameters
    ----------
    detail
        What happened, in words, with no secret in it.
    peer
        The member or its address; empty where the one who handles it knows.
    """

    def __init__(self, detail: str = "", peer: str = ""):
        super().__init__(detail, peer)
        self.detail = detail
        self.peer = peer

    def __str__(self) -> str:
        """Say which member and what happened."""
        return f"{self.peer}: {self.detail}" if self.peer else self.detail


class PeerUnavailableError(PeerError):
    """It refused the connection, was silent for ``remote_timeout``, or went away."""


class PeerBusyError(PeerUnavailableError):
    """It is well, and refuses more work for now."""


class PeerProtocolError(PeerError):
    """It sent something that is not a frame of this protocol, or no version is common to both."""


class PeerDeniedError(PeerError):
    """One of both does not have the group's secret, or serves another volume or group."""
