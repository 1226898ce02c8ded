"""Volumes shared with the official client: made by either, mounted, and compared.

Needs ``/dev/fuse`` and the right to mount.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from juicecache.testing.engines import fresh_url
from juicecache.testing.raw_metadata import read_raw
from juicecache.testing.servers import run_juicefs
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import Volume, open_volume

_HIDDEN = {b".trash", b".accesslog", b".config", b".stats", b".control"}
"""What a mount shows in its root and is no entry; reading one of them never ends."""

_LEAVE_TIMEOUT_S = 10.0
"""A mount ends within a second of its unmount."""


class Seen(NamedTuple):
    """All that a client says about one path; ``content`` is a file's bytes or a link's target."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int
    content: bytes
    xattrs: dict[str, bytes]


@dataclass
class SharedVolume:
    """A volume that both clients use.

    Parameters
    ----------
    folder
        Where the database, the mount point and the official client's cache are.
    name
        Of the volume.
    engine
        One of ``engines.SHARED_KINDS``.
    """

    folder: Path
    name: str = "shared"
    environment: dict[str, str] = field(default_factory=dict)
    engine: str = "sqlite"

    @property
    def database(self) -> Path:
        """The file with the metadata of a SQLite volume."""
        return self.folder / "meta.db"

    @cached_property
    def meta(self) -> str:
        """The metadata URL."""
        return fresh_url(self.engine, self.folder)

    def format_ours(self, **options: Any) -> None:
        """Let this library make the volume; the options are those of `format_volume`."""
        options.setdefault("bucket", f"{self.folder}/bucket/")
        format_volume(self.meta, self.name, remember=False, **options)

    def format_theirs(self, **options: Any) -> None:
        """Let the official client make the volume, with the same options."""
        options.setdefault("storage", "file")
        options.setdefault("bucket", f"{self.folder}/bucket/")
        pem = options.pop("encrypt_rsa_key", "")
        if pem:
            (self.folder / "key.pem").write_text(pem)
            options["encrypt_rsa_key"] = str(self.folder / "key.pem")
        words = [
            f"--{name.replace('_', '-').replace('-size-kib', '-size')}={self._shown(value)}"
            for name, value in options.items()
        ]
        run_juicefs("format", *words, self.meta, self.name, env=self._environment())

    def open(self, **options: Any) -> Volume:
        """Open the volume with this library, without a cache unless the options ask for one."""
        return open_volume(self.meta, **{"cache_size": "0", **options})

    def run(self, command: str, *arguments: str) -> str:
        """Run a command of the official client and return all that it printed."""
        done = run_juicefs(command, *arguments, env=self._environment())
        return done.stdout + done.stderr

    @contextmanager
    def mounted(self, *, cached: bool = False) -> Iterator[Path]:
        """Mount the volume with the official client.

        Parameters
        ----------
        cached
            Keep attributes and entries for a second, as by default; else they are never kept.
        """
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            import pytest

            pytest.skip("FUSE cannot be used here")
        point = self.folder / "mount"
        point.mkdir(exist_ok=True)
        switches = ["-d", "--no-usage-report", "--no-syslog", "--enable-xattr", "--backup-meta=0"]
        names = [] if cached else ["attr", "entry", "dir-entry"]
        caches = [f"--{name}-cache=0" for name in names]
        places = [f"--cache-dir={self.folder}/cache", f"--log={self.folder}/mount.log"]
        self.run("mount", *switches, *caches, *places, self.meta, str(point))
        try:
            yield point
        finally:
            self.run("umount", str(point))
            self._await_end(point)

    def _await_end(self, point: Path) -> None:
        """Wait until the mount has left: it writes its sums behind the unmount, then its session.

        One that does not within its heartbeats is left to whoever checks the volume.
        """
        session = f'"MountPoint":"{point}"'.encode()
        deadline = time.monotonic() + _LEAVE_TIMEOUT_S
        while time.monotonic() < deadline:
            if not any(session in info for info in read_raw(self.meta).sessions):
                return
            time.sleep(0.05)

    @staticmethod
    def _shown(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def seen_by_mount(point: Path) -> dict[bytes, Seen]:
    """Return everything below a mount point, by path; names are bytes."""
    root = os.fsencode(point)
    found: dict[bytes, Seen] = {}
    for directory, folders, files in os.walk(root):
        if directory == root:
            folders[:] = [name for name in folders if name not in _HIDDEN]
            files[:] = [name for name in files if name not in _HIDDEN]
        for name in (*folders, *files):
            path = os.path.join(directory, name)
            found[path.removeprefix(root)] = _seen_in_mount(path)
    return found


def _seen_in_mount(path: bytes) -> Seen:
    status = os.lstat(path)
    content, xattrs = b"", {}
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    else:
        names = [name for name in os.listxattr(path) if name.startswith("user.")]
        xattrs = {name: os.getxattr(path, name) for name in names}
    if stat.S_ISREG(status.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
    return Seen(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_size,
        status.st_mtime_ns,
        content,
        xattrs,
    )


def seen_by_us(volume: Volume) -> dict[bytes, Seen]:
    """Return everything in a volume as this library sees it, by path."""
    found: dict[bytes, Seen] = {}
    for directory, entries in volume.walk("/"):
        for name, attr in entries:
            path = f"{directory.rstrip('/')}/{name}"
            content, xattrs = b"", {}
            if stat.S_ISLNK(attr.st_mode):
                content = os.fsencode(volume.readlink(path))
            else:
                keys = [key for key in volume.list_xattr(path) if key.startswith("user.")]
                xattrs = {key: volume.get_xattr(path, key) for key in keys}
            if attr.is_file:
                content = volume.read_file(path)
            found[os.fsencode(path)] = Seen(
                attr.st_mode,
                attr.uid,
                attr.gid,
                attr.nlink,
                attr.length,
                attr.mtime_ns,
                content,
                xattrs,
            )
    return found


def assert_same(volume: Volume, point: Path) -> None:
    """Assert that both clients see the same tree: names, bytes, sizes, times, modes, owners."""
    ours, theirs = seen_by_us(volume), seen_by_mount(point)
    assert sorted(ours) == sorted(theirs)
    different = [path for path in ours if ours[path] != theirs[path]]
    shown = [
        (path, ours[path]._replace(content=b""), theirs[path]._replace(content=b""))
        for path in different[:3]
    ]
    assert not different, shown
