"""Which file system holds a path.

Law: what relies on file locks, atomic renames or shared memory between processes must not be
put on a network file system, where they mean something else or nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK_FILE_SYSTEMS = frozenset(
    (
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb3",
        "smbfs",
    )
)
_NETWORK_FUSE = frozenset(
    (
        "afp",
        "blobfuse",
        "blobfuse2",
        "ceph",
        "ceph-fuse",
        "curlftpfs",
        "gcsfuse",
        "geesefs",
        "glusterfs",
        "goofys",
        "juicefs",
        "mount-s3",
        "rclone",
        "s3fs",
        "seaweedfs",
        "sshfs",
    )
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """Return the type of the network file system that holds ``path``; None when it is local.

    Parameters
    ----------
    path
        Need not exist: then what counts is the nearest folder above it that does.
    mounts
        Text in the form of ``/proc/self/mountinfo``, which is read when this is None; where
        there is no such file, every path counts as local.
    """
    found = _file_system(path, mounts)
    kind = found.removeprefix("fuse.")
    is_network = kind in (_NETWORK_FUSE if found.startswith("fuse.") else _NETWORK_FILE_SYSTEMS)
    return kind if is_network else None


def is_memory_file_system(path: Path, mounts: str | None = None) -> bool:
    """Return whether what is written to ``path`` stays in memory; for the rest see above."""
    return _file_system(path, mounts) in ("tmpfs", "ramfs")


def _file_system(path: Path, mounts: str | None) -> str:
    """Return the type of the file system, as the list of mounts calls it; empty if unknown."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    real = os.path.realpath(path)
    best, found = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ", 5)[4]
        if "\\" in point:  # blanks and the like, as octal numbers
            point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), point)
        # A later mount on the same point hides the earlier one.
        if len(point) >= best and (point == "/" or f"{real}/".startswith(f"{point}/")):
            best, found = len(point), right.partition(" ")[0]
    return found
