"""Which file system holds a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from juicecache.mounts import is_memory_file_system, network_file_system

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/nfs rw - nfs4 server:/export rw
31 30 0:41 / /mnt/nfs/local rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/with\\040blank rw - fuse.juicefs JuiceFS:x rw
33 22 0:43 / /mnt/m\u00fcller rw - cifs //server/share rw
34 22 0:44 / /mnt/hidden rw - nfs server:/old rw
35 34 0:45 / /mnt/hidden rw - tmpfs tmpfs rw
36 22 0:46 / /mnt/fuse rw - fuse.ntfs-3g /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/home/user", None),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/deep/down", "nfs4"),
        ("/mnt/nfs2", None),
        ("/mnt/nfs/local/x", None),
        ("/mnt/with blank/x", "juicefs"),
        ("/mnt/m\u00fcller/x", "cifs"),
        ("/mnt/hidden/x", None),
        ("/mnt/fuse/x", None),
    ],
)
def test_the_nearest_and_latest_mount_counts(path, kind):
    assert network_file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("path", "expected"), [("/mnt/hidden/x", True), ("/mnt/nfs/local", False), ("/", False)]
)
def test_what_lies_in_memory(path, expected):
    assert is_memory_file_system(Path(path), MOUNTS) is expected


def test_this_machine_tells(tmp_path):
    assert network_file_system(tmp_path) is None
