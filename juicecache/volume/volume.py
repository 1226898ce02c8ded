"""`Volume`: one file system, as every face uses it. Builds nothing itself; see ``parts``.

Laws: a path is ``/a/b`` with ``/`` as separator (``str``; undecodable names use
surrogateescape); all methods may be called from any thread; after a fork the child
builds its own parts on first use and leaves the parent's alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from juicecache.config import VolumeOptions, find_volume, mask_url
from juicecache.errors import (
    ClosedError,
    ConfigError,
    EntryExistsError,
    EntryNotFoundError,
    NotDirectoryError,
)
from juicecache.meta.engine import Engine
from juicecache.meta.paths import split_path
from juicecache.meta.remove import Removed
from juicecache.meta.rename import RenameMode
from juicecache.meta.tree import AttrChange
from juicecache.meta.usage import Summary
from juicecache.meta.xattr import XattrMode
from juicecache.model.attr import Attr, NodeType, in_trash
from juicecache.model.setting import Setting
from juicecache.objects.store import Buffer, ObjectStore
from juicecache.runtime import collector_paused
from juicecache.volume import (
    cleaning,
    cloning,
    insight,
    mapping,
    quotas,
    reader,
    upkeep,
    warm,
    whole_files,
)
from juicecache.volume.batch import Batch
from juicecache.volume.collector import GcReport
from juicecache.volume.compacting import compact_path
from juicecache.volume.fsck import check_volume
from juicecache.volume.fsck_report import FsckReport
from juicecache.volume.gc import collect_garbage
from juicecache.volume.group_report import (
    GroupEntry,
    GroupReport,
    OwnMember,
    group_report,
    list_groups,
    own_member,
)
from juicecache.volume.opening import open_file
from juicecache.volume.parts import Parts, build_parts
from juicecache.volume.quotas import QuotaOwner, QuotaReport
from juicecache.volume.read_handle import FileReader
from juicecache.volume.trash import RestoreReport, TrashEntry, list_trash, restore_trash
from juicecache.volume.write_handle import FileWriter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Entry(NamedTuple):
    """One name in a directory and the attributes behind it (a symlink's own)."""

    name: str
    attr: Attr


class Usage(NamedTuple):
    """Totals of the volume against its limits; a limit of 0 is unlimited."""

    used_bytes: int
    used_inodes: int
    capacity_bytes: int
    inodes_max: int


def open_volume(meta: str | Engine, **options: Any) -> Volume:
    """Open an existing volume.

    Parameters
    ----------
    meta
        A metadata URL such as ``sqlite3:///path/meta.db``, or the name of a volume that the
        environment or the volume list has the URL of.
    **options
        The options of ``docs/options.md``, named like the official client's with ``_``.

    Raises
    ------
    ConfigError
        An option or the address is unknown or malformed.
    VolumeFormatError
        There is no volume, or it needs a newer client.
    """
    parsed = VolumeOptions.from_options(options)
    if isinstance(meta, str) and "://" not in meta:
        return check_name(Volume(find_volume(meta), parsed), meta)
    return Volume(meta, parsed)


def check_name(volume: Volume, wanted: str) -> Volume:
    """Return ``volume`` if it is called so; whatever is done with another one would be a mistake.

    Parameters
    ----------
    wanted
        Empty for any.

    Raises
    ------
    ConfigError
        It is called otherwise; it is closed then.
    """
    found = volume.setting.name
    if wanted and wanted != found:
        volume.close()
        raise ConfigError(
            f"the metadata address of volume {wanted!r} leads to volume {found!r}; "
            "correct the name, 'meta', JUICECACHE_META or the volume list"
        )
    return volume


class Volume:
    """A mounted-in-process file system; made by `open_volume`.

    Pickles as its address and options; the other process opens it for itself.

    Parameters
    ----------
    meta
        A metadata URL, or an engine object (which the caller closes).
    wrap_store
        Stands between the volume and its object storage, as `juicecache.volume.latency` does.
    """

    def __init__(
        self,
        meta: str | Engine,
        options: VolumeOptions,
        wrap_store: Callable[[ObjectStore], ObjectStore] | None = None,
    ) -> None:
        self._meta = meta
        self.options = options
        self._wrap_store = wrap_store
        self._parts: Parts | None = None
        self._building: dict[int, threading.Lock] = {}
        self._closed = False
        self.parts()

    def parts(self) -> Parts:
        """Return the parts of the volume in this process, built on first use.

        Raises
        ------
        ClosedError
            After `close`.
        """
        parts = self._parts
        if parts is not None and parts.pid == os.getpid():
            return parts
        # A lock a process: the parent's may have been held while it forked.
        with self._building.setdefault(os.getpid(), threading.Lock()):
            if self._closed:
                raise ClosedError(f"{self!r} is closed")
            if self._parts is None or self._parts.pid != os.getpid():
                self._parts = build_parts(
                    self._meta, self.options, self._wrap_store, ancestor=self._parts
                )
                upkeep.attach(self._parts)
            return self._parts

    # ------------------------------------------------------------------ the volume

    @property
    def setting(self) -> Setting:
        """The volume's record, at most one heartbeat old while the volume is in use."""
        return self.parts().meta.gate.setting

    @property
    def read_only(self) -> bool:
        """Whether changes are refused, by option or by the database."""
        return self.parts().meta.gate.read_only

    def usage(self) -> Usage:
        """Return what is used and what is allowed."""
        space, inodes = self.parts().meta.totals()
        return Usage(space, inodes, self.setting.capacity_bytes, self.setting.inodes_max)

    def stats(self) -> insight.VolumeStats:
        """Return the counters of this process."""
        return insight.volume_stats(self.parts())

    def group(self) -> GroupReport | None:
        """Ask all members of the cache group how they are; None for a client of no group.

        They are asked at the same time; those that do not answer cost one ``remote_timeout``.
        """
        return group_report(self.parts())

    def member(self) -> OwnMember | None:
        """Return what this process is in its cache group; None unless it is a member."""
        return own_member(self.parts())

    def drain(self, timeout_s: float) -> None:
        """Leave the cache group, serving on until clients know, ``timeout_s`` at the longest.

        Nothing happens in a process that is no member. The volume stays open.
        """
        if (serving := self.parts().serving) is not None:
            serving.drain(timeout_s)

    def groups(self) -> tuple[GroupEntry, ...]:
        """Return the cache groups of the volume whose members enter themselves here, by name."""
        return list_groups(self.parts())

    def explain(self, path: str) -> insight.FileLayout:
        """Return which blocks a file needs, where each is, and what reading it would cost."""
        return insight.explain_file(self.parts(), path)

    def warmup(
        self,
        paths: Sequence[str],
        *,
        check: bool = False,
        evict: bool = False,
        progress: Callable[[warm.WarmReport], None] | None = None,
    ) -> warm.WarmReport:
        """Load every block of the files at and below ``paths`` into the tiers.

        In a cache group each owner loads its own blocks into its tiers, all at the same time, and
        nothing passes through this process. Safe to interrupt and to repeat.

        Parameters
        ----------
        check
            Only count what is cached.
        evict
            Drop the blocks from the tiers instead.
        progress
            Called with the report so far, after each file and while owners work.
        """
        return warm.warm_paths(self.parts(), paths, check=check, evict=evict, progress=progress)

    def forget(self) -> None:
        """Drop what this process remembers of the tree: the next look is at the database."""
        self.parts().meta.view.forget_all()

    def gc(
        self,
        *,
        delete: bool = False,
        compact: bool = False,
        min_age_s: float = 3600.0,
        progress: Callable[[GcReport], None] | None = None,
    ) -> GcReport:
        """Find, and with ``delete`` remove, what no file needs; see `gc.collect_garbage`."""
        return collect_garbage(
            self.parts(), delete=delete, compact=compact, min_age_s=min_age_s, progress=progress
        )

    def fsck(
        self,
        *,
        path: str = "/",
        repair: bool = False,
        sync_dir_stat: bool = False,
        progress: Callable[[FsckReport], None] | None = None,
    ) -> FsckReport:
        """Look for lost blocks and wrong sums; see `fsck.check_volume`."""
        return check_volume(
            self.parts(), path=path, repair=repair, sync_dir_stat=sync_dir_stat, progress=progress
        )

    def compact(self, path: str, progress: Callable[[int], None] | None = None) -> int:
        """Merge the slices of every fragmented chunk at and below ``path``; return how many."""
        return compact_path(self.parts(), path, progress)

    def quotas(self, owner: QuotaOwner | None = None) -> list[QuotaReport]:
        """Return all quotas, or that of ``owner``: empty where it has none."""
        return quotas.list_quotas(self.parts(), owner)

    def set_quota(
        self,
        owner: QuotaOwner,
        *,
        capacity_bytes: int | None = None,
        inodes_max: int | None = None,
    ) -> QuotaReport:
        """Set limits of a directory, user or group; 0 lifts one, None leaves it as it is.

        Clients that run obey it within one heartbeat.
        """
        return quotas.set_quota(
            self.parts(), owner, capacity_bytes=capacity_bytes, inodes_max=inodes_max
        )

    def remove_quota(self, owner: QuotaOwner) -> bool:
        """Take the limits of a directory, user or group away; return whether there were any."""
        return quotas.remove_quota(self.parts(), owner)

    def check_quotas(
        self,
        owner: QuotaOwner | None = None,
        *,
        repair: bool = False,
        progress: Callable[[QuotaReport], None] | None = None,
    ) -> list[QuotaReport]:
        """Count what quotas count, and with ``repair`` store it; see `quotas.check_quotas`."""
        return quotas.check_quotas(self.parts(), owner, repair=repair, progress=progress)

    def close(self) -> None:
        """Finish background work, end the session, release everything. Safe to call twice."""
        parts, self._parts = self._parts, None
        self._closed = True
        if parts is None or parts.pid != os.getpid():
            return
        try:
            for inode in parts.meta.presence.end():
                cleaning.clean_later(parts, inode)
        finally:
            parts.close(engine=parts.engine is not self._meta)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Carry the address and the options to another process."""
        if not isinstance(self._meta, str):
            raise TypeError(f"{self!r} cannot be pickled: its metadata lives in this process")
        # Who is given work reads from the group; to be a member of it is for who was told so.
        options = replace(self.options, no_sharing=bool(self.options.cache_group))
        return Volume, (self._meta, options, self._wrap_store)

    def __repr__(self) -> str:
        address = mask_url(self._meta) if isinstance(self._meta, str) else self._meta.describe()
        return f"<juicecache.Volume {address}>"

    # ------------------------------------------------------------------ the tree

    def stat(self, path: str, *, follow: bool = True) -> Attr:
        """Return the attributes of a path; with ``follow=False`` a symlink's own."""
        return self.parts().meta.resolve(path, follow=follow, max_age_s=self.options.attr_cache_s)

    def exists(self, path: str) -> bool:
        """Return whether the path leads to something."""
        try:
            self.stat(path)
        except (EntryNotFoundError, NotDirectoryError):
            return False
        return True

    def list_directory(self, path: str) -> list[Entry]:
        """Return the entries of a directory in name order, with their attributes."""
        with collector_paused():
            children = self.parts().meta.children(path)
            # A hundred thousand of them: as `os.fsdecode`, without its call.
            return [Entry(name.decode("utf-8", "surrogateescape"), attr) for name, attr in children]

    def walk(self, path: str = "/") -> Iterator[tuple[str, list[Entry]]]:
        """Iterate over the directories at and below ``path``, top down, each with its entries."""
        for directory, entries in self.parts().meta.walk(path):
            yield directory, [Entry(*entry) for entry in entries]

    def summary(self, path: str) -> Summary:
        """Return the number and sizes of what is at and below ``path``."""
        return self.parts().meta.summary(path)

    def make_directory(
        self, path: str, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """Create a directory, with ``parents`` also the missing ones above it."""
        meta = self.parts().meta
        if not split_path(path):
            if exist_ok:
                return
            raise EntryExistsError(path, "the root is always there")
        if parents:
            meta.gate.check_writable(path)
            meta.make_parents(path)
        try:
            meta.make_node(path, NodeType.DIRECTORY, mode)
        except EntryExistsError:
            if not exist_ok or not meta.resolve(path).is_directory:
                raise

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        self._after_removal(self.parts().meta.remove(path, directory=True))

    def unlink(self, path: str) -> None:
        """Remove a name of a file; the last one moves it to the trash, or removes it."""
        self._after_removal(self.parts().meta.remove(path))

    def remove_tree(
        self,
        path: str,
        *,
        skip_trash: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Remove a file, or a directory with everything below it; return the number of entries.

        Not atomic: an interrupted removal leaves the rest, and may be repeated. The root, the
        trash and its hourly directories are emptied and stay.
        """
        meta = self.parts().meta
        top = meta.resolve(path, follow=False)
        if not top.is_directory:
            self._after_removal(meta.remove(path, skip_trash=skip_trash))
            return 1
        count = 0
        while True:
            removed = meta.remove_below(path, skip_trash=skip_trash)
            for one in removed:
                self._after_removal(one)
            count += len(removed)
            if progress is not None:
                progress(count)
            if not removed:
                break
        if split_path(path) and not in_trash(top.inode):
            meta.remove(path, directory=True, skip_trash=skip_trash)
            count += 1
        return count

    def trash(self, hours: Sequence[str] = ()) -> Iterator[TrashEntry]:
        """Iterate over what was removed and is kept, in all hours or some (``YYYY-MM-DD-HH``)."""
        return list_trash(self.parts(), hours)

    def restore_trash(
        self,
        hours: Sequence[str] = (),
        *,
        progress: Callable[[RestoreReport], None] | None = None,
    ) -> RestoreReport:
        """Put back what was removed in some hours, or all of it; see `trash.restore_trash`."""
        return restore_trash(self.parts(), hours, progress=progress)

    def rename(self, source: str, target: str, *, replace: bool = True) -> None:
        """Move an entry, atomically; a file or empty directory at ``target`` is replaced.

        Raises
        ------
        EntryExistsError
            The target exists and ``replace`` is False.
        """
        mode = RenameMode.REPLACE if replace else RenameMode.NOREPLACE
        removed = self.parts().meta.rename(source, target, mode)
        if removed is not None:
            self._after_removal(removed)

    def exchange(self, one: str, other: str) -> None:
        """Exchange two entries, atomically."""
        self.parts().meta.rename(one, other, RenameMode.EXCHANGE)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        self.parts().meta.link(source, target)

    def symlink(self, target: str, path: str) -> None:
        """Create a symbolic link at ``path`` that leads to ``target``."""
        self.parts().meta.make_node(path, NodeType.SYMLINK, 0o777, target=os.fsencode(target))

    def readlink(self, path: str) -> str:
        """Return where a symbolic link leads."""
        return os.fsdecode(self.parts().meta.readlink(path))

    def set_attr(self, path: str, *, follow: bool = True, **changes: int) -> Attr:
        """Change ``mode``, ``uid``, ``gid``, ``atime_ns``, ``mtime_ns`` or ``flags``."""
        return self.parts().meta.set_attr(path, AttrChange(**changes), follow=follow)

    def get_xattr(self, path: str, name: str) -> bytes:
        """Return an extended attribute; NoAttributeError when absent."""
        return self.parts().meta.get_xattr(path, name)

    def list_xattr(self, path: str) -> list[str]:
        """Return the names of the extended attributes."""
        return self.parts().meta.list_xattr(path)

    def set_xattr(self, path: str, name: str, value: bytes, *, mode: str = "any") -> None:
        """Set an extended attribute; ``mode`` ``create`` wants a new, ``replace`` an old one."""
        self.parts().meta.set_xattr(path, name, value, XattrMode(mode))

    def remove_xattr(self, path: str, name: str) -> None:
        """Remove an extended attribute; NoAttributeError when absent."""
        self.parts().meta.remove_xattr(path, name)

    # ------------------------------------------------------------------ contents

    def peek(self, path: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """Return a range of a file if memory and tiers have all of it, else None; never waits."""
        return reader.peek_file(self.parts(), path, start, stop)

    def read_file(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of a file, negative offsets counted from its end.

        Raises
        ------
        EntryNotFoundError, IsDirectoryError
        ObjectNotFoundError, CorruptBlockError, ObjectError
            Object storage lacks, damaged or does not deliver a block; names the path.
        """
        return reader.read_file(self.parts(), path, start, stop)

    def read_view(self, path: str, start: int | None = None, stop: int | None = None) -> memoryview:
        """Return bytes ``[start, stop)`` of a file as a read-only view; raises like `read_file`.

        Not copied where a memory tier has them in one block. The view stays valid whatever is
        evicted or changed meanwhile, and may keep a whole block alive as long as it lives.
        """
        return reader.read_view(self.parts(), path, start, stop)

    def read_into(self, path: str, buffer: WriteableBuffer, start: int = 0) -> int:
        """Fill ``buffer`` from offset ``start`` of a file as far as it reaches; return how much.

        Cached bytes go straight into the buffer, which nobody else may touch meanwhile; after
        an error it may hold anything. A negative start counts from the end. Raises like
        `read_file`.
        """
        return reader.read_into(self.parts(), path, memoryview(buffer).cast("B"), start)

    def map_file(self, path: str) -> memoryview:
        """Return a whole file as read-only shared memory, for numpy, torch and the like.

        It is copied once, takes as much memory as the file is long (holes of whole chunks
        take none), and is freed with the last view of it. Processes forked later share it,
        not a copy. What happens to the file later does not show. Raises like `read_file`.

        Examples
        --------
        >>> array = numpy.frombuffer(volume.map_file("/array"), "float32")  # doctest: +SKIP
        """
        return mapping.map_file(self.parts(), path)

    def read_files(
        self, requests: Sequence[tuple[str, int | None, int | None]]
    ) -> list[bytes | Exception]:
        """Return the outcome of each ``(path, start, stop)``, in order, loaded at the same time."""
        return reader.read_many_files(self.parts(), requests)

    def write_file(self, path: str, content: Buffer, *, exclusive: bool = False) -> None:
        """Make a file with exactly this content; others see the old content or the new.

        Missing directories are made. ``content`` must not change until this returns.

        Raises
        ------
        EntryExistsError
            ``exclusive`` and the name is taken.
        """
        # Before anything is stored; the commit decides.
        if exclusive and len(content) and self.exists(path):
            raise EntryExistsError(path)
        whole_files.write_file(self.parts(), path, content, exclusive=exclusive)

    def write_files(self, contents: Sequence[tuple[str, Buffer]]) -> list[Exception | None]:
        """Write whole files, small ones packed; return what went wrong with each.

        See `batch` for packing. Contents must not change until this returns.
        """
        return whole_files.write_many_files(self.parts(), contents)

    def batch(self, *, deferred: bool = False) -> Batch:
        """Begin a batch, in which the contents of small files share slices and objects.

        Use it in a ``with`` block: its end commits, an error in it discards what is not
        committed. Many files then take one object for every 4 MiB and one transaction for
        every 2,000 files, and reading one of them loads its neighbours. Other clients see
        ordinary files.

        Parameters
        ----------
        deferred
            Commit nothing before the end; otherwise files show up as packs are full.

        Examples
        --------
        >>> with volume.batch() as batch:  # doctest: +SKIP
        ...     for number, content in enumerate(samples):
        ...         batch.write(f"/samples/{number}", content)
        """
        return Batch(self.parts(), deferred=deferred)

    def copy_file(self, source: str, target: str) -> None:
        """Copy a file inside the volume by its records; no byte is moved."""
        meta = self.parts().meta
        try:
            meta.copy(source, target)
        except EntryNotFoundError:
            meta.resolve(source)
            meta.make_parents(target)
            meta.copy(source, target)

    def clone(
        self,
        source: str,
        target: str,
        *,
        preserve: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Copy a file or a whole directory by its records; see `cloning.clone`."""
        return cloning.clone(self.parts(), source, target, preserve=preserve, progress=progress)

    def copy_range(
        self, source: str, source_start: int, target: str, target_start: int, size: int
    ) -> int:
        """Copy ``size`` bytes of a file over a range of an existing one; no byte is moved.

        Returns
        -------
        int
            The bytes copied: fewer where the source ends before.
        """
        meta = self.parts().meta
        return meta.copy_range((source, source_start), (target, target_start), size)

    def truncate(self, path: str, length: int) -> None:
        """Cut a file, or extend it with zeros."""
        self.parts().meta.truncate(path, length)

    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        autocommit: bool = True,
        batch: Batch | None = None,
    ) -> FileReader | FileWriter:
        """Open a file as a binary io object.

        Parameters
        ----------
        mode
            ``rb``, ``wb``, ``xb``, ``ab`` or ``r+b``. A new file, or one that ``wb``
            replaces, is seen by others from its first ``flush`` or ``close`` on.
        autocommit
            False leaves a ``wb``, ``xb`` or ``ab`` file to its ``commit`` or ``discard``.
        batch
            Takes a ``wb``, ``xb`` or ``ab`` file over when it is closed: it is committed, or
            discarded, with the batch.

        Raises
        ------
        EntryNotFoundError, EntryExistsError, IsDirectoryError, ReadOnlyVolumeError
        """
        return open_file(
            self.parts, path, mode, autocommit=autocommit, batch=batch, on_close=self._on_close
        )

    def _on_close(self, parts: Parts, inode: int) -> None:
        # Otherwise the volume was closed before its files, or the handle came by a fork.
        if parts is self._parts and parts.pid == os.getpid():
            cleaning.end_hold(parts, inode)

    def _after_removal(self, removed: Removed) -> None:
        cleaning.after_removal(self.parts(), removed)
