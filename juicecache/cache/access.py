"""Who may use a directory tier: one user, or by explicit set-up the users of one group.

::

    <path>/<version>-u<uid>    one user's: folders 0700, files 0600
    <path>/<version>           a group's: folders 2770, files 0660

The version is that of the layout of blocks, ``block_file.LAYOUT``.

By default every user has a tier of his own below the same ``<path>``, with a quota of its own;
``<path>`` may be shared as /dev/shm and /tmp are, and one made in such a folder is made alike.

Whoever owns ``<path>`` may rename what is in it, sticky or not, and so put a folder of his own in
the place of another user's while that is in use. So a private tier takes nothing from a file of
another user, whatever it is called.

A group shares one tier when ``<path>`` itself is setgid, writable by its group and closed to the
rest of the world (``chgrp GROUP path; chmod 2770 path``; the fsGroup of Kubernetes does it to
volumes), the process belongs to that group, and ``<path>`` belongs to root or to the user of the
process. Only such a decision suffices: whoever owns the folder or can write there can hand all
others any content, since a checksum finds damage but is no signature. Members do not look at the
others' ages beyond what the kernel keeps of them (relatime): setting a time is the owner's right.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from juicecache.cache.block_file import LAYOUT
from juicecache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Access:
    """Modes of what a tier makes.

    Attributes
    ----------
    folder_mode, file_mode
        All bits, whatever the umask is.
    """

    folder_mode: int = 0o700
    file_mode: int = 0o600

    @property
    def shared(self) -> bool:
        """Whether other users share the tier."""
        return self.file_mode != 0o600

    def trusts(self, found: os.stat_result, user: int) -> bool:
        """Return whether what a file or folder of a tier of ``user`` holds may be believed."""
        return found.st_uid == user or self.shared

    def make_above(self, folder: bytes) -> None:
        """Make the user's folder, in which the tier is, again after it was removed.

        Raises
        ------
        OSError
            As the system says; also where a group's is gone: how it is shared is not ours to say.
        """
        if not self.shared:
            _make_user_folder(Path(os.fsdecode(folder)))
            return
        try:
            fine = _is_for_our_group(os.stat(folder))
        except FileNotFoundError:
            fine = False
        if not fine:
            raise OSError(errno.ENODEV, "its folder is not there for our group any more")

    def make_folder(self, path: bytes, half_made: bytes = b"") -> None:
        """Make a folder unless it is there; one of a group is not seen before it has its mode.

        Parameters
        ----------
        half_made
            What it is called until then, a name on which the caller has the only claim; by
            default one of chance, which stays as an empty folder if this process is killed.

        Raises
        ------
        OSError
            As the system says.
        """
        if not self.shared:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, self.folder_mode)
            return
        with contextlib.suppress(FileNotFoundError):
            if stat.S_IMODE(os.lstat(path).st_mode) == self.folder_mode:
                return
        half_made = half_made or b"%b.%b" % (path, os.urandom(4).hex().encode())
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(half_made)  # of who died there
        os.mkdir(half_made, 0o700)
        os.chmod(half_made, self.folder_mode)
        try:
            os.rename(half_made, path)  # also over an empty folder
        except OSError as error:
            os.rmdir(half_made)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another member was faster, and uses it.

    def create(self, path: bytes, flags: int) -> int:
        """Create or open a file, and return its descriptor.

        Raises
        ------
        PermissionError
            In a shared tier: its maker died between two calls; it is empty.
        OSError
            As the system says.
        """
        fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if self.shared and os.fstat(fd).st_mode & 0o777 != self.file_mode:
                os.fchmod(fd, self.file_mode)
        except BaseException:
            os.close(fd)
            raise
        return fd


PRIVATE = Access()
GROUP = Access(0o2770, 0o660)


def prepare_root(folder: Path) -> tuple[bytes, Access]:
    """Make the folder of a tier below the user's ``folder``; return it and who may use it.

    Raises
    ------
    ConfigError
        It cannot be made, or belongs to somebody else: whoever owns it could hand us any
        content as a block.
    """
    try:
        _make_user_folder(folder)
        above = folder.stat()
        access = GROUP if _is_for_our_group(above) else PRIVATE
        user = os.geteuid()
        name = LAYOUT if access.shared else f"{LAYOUT}-u{user}"
        root = folder / name
        access.make_folder(os.fsencode(root))
        found = root.lstat()
    except OSError as error:
        raise ConfigError(
            f"the cache folder {folder} cannot be used: {error.strerror or error}"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"the cache folder {folder} cannot be used: {name} in it is no folder")
    if access.shared and (found.st_gid, stat.S_IMODE(found.st_mode)) != (
        above.st_gid,
        access.folder_mode,
    ):
        raise ConfigError(
            f"{root} should belong to group {above.st_gid} and have mode 2770, as its folder "
            "says that it is for the group: remove it or set it right"
        )
    if not access.trusts(found, user):
        raise ConfigError(
            f"{root} belongs to user {found.st_uid}, not to user {user}: "
            "remove it, or use another cache folder"
        )
    return os.fsencode(root), access


def _make_user_folder(folder: Path) -> None:
    """Make the user's folder and those above; like the one that it is in if that is everybody's."""
    folder.parent.mkdir(0o700, parents=True, exist_ok=True)
    everybodys = stat.S_ISVTX | stat.S_IWOTH
    mode = 0o1777 if folder.parent.stat().st_mode & everybodys == everybodys else 0o700
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        return
    if mode != 0o700:
        folder.chmod(mode)


def _is_for_our_group(folder: os.stat_result) -> bool:
    asked = folder.st_mode & stat.S_ISGID and folder.st_mode & stat.S_IWGRP
    if not asked or folder.st_mode & stat.S_IWOTH or folder.st_uid not in (0, os.geteuid()):
        return False
    return os.geteuid() == 0 or folder.st_gid in (os.getegid(), *os.getgroups())
