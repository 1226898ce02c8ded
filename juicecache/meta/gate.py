"""What stands before every change: the volume's record, and whether this client may write.

Laws: the record is read again once a heartbeat, and with it which directories have a quota:
a feature that is switched on while we run is kept from then on, and another volume formatted
in the same place stops everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from juicecache.errors import ConflictError, ReadOnlyVolumeError, VolumeFormatError
from juicecache.meta import epoch, trash, usage
from juicecache.meta.change_log import Origins
from juicecache.meta.context import (
    TRASH_WANTED,
    Context,
    CountNeededError,
    SessionNeededError,
    TrashNeededError,
    Used,
)
from juicecache.meta.engine import Engine, T, Transaction
from juicecache.meta.presence import Presence
from juicecache.meta.rows import DirQuota
from juicecache.model.setting import Setting

_PREPARED_MAX = 7
"""Runs of a removal: one that needs a session, one that needs the trash, two directories that
change places between quotas, and clients that drop an hour at the moment it is needed."""


class Gate:
    """Checks the record of one volume and gives each operation its context.

    Parameters
    ----------
    setting
        The record as it was when the volume was opened.
    read_only
        Refuse every change, whatever the database would allow.
    owner
        (uid, gid, umask) of what is created.
    """

    def __init__(
        self,
        engine: Engine,
        setting: Setting,
        presence: Presence,
        *,
        read_only: bool,
        heartbeat_s: float,
        owner: tuple[int, int, int],
        clock: Callable[[], int],
    ) -> None:
        self.setting = setting
        self._engine = engine
        self._presence = presence
        self._read_only = read_only
        self._heartbeat_s = heartbeat_s
        self._owner = owner
        self._clock = clock
        self._lock = threading.Lock()
        self._text = ""
        self._due_s = 0.0
        self._obstacle: str | None = None
        self._origins = Origins(lambda: presence.sid, clock)
        self._quotas: frozenset[int] = frozenset()
        self._hour = (0, 0)
        self.after_change: Callable[[Setting], object] | None = None
        """Called with the record whenever it was read and is not what it was."""
        self.namespace = ""
        """Under what blocks are cached, as it was when the volume was opened."""
        self.before_first_change: Callable[[], None] | None = None
        """Called once, when somebody is about to change the volume and may."""

    @property
    def read_only(self) -> bool:
        """Whether changes are refused for a reason that is known without asking the database."""
        return self._read_only or self._engine.read_only

    def now_ns(self) -> int:
        """Return the time of an operation that starts now."""
        return self._clock()

    def check(self) -> None:
        """Read the record again when a heartbeat has passed since.

        Raises
        ------
        VolumeFormatError
            The record is gone, belongs to another volume, or asks for a newer client; or the
            metadata was restored from a dump.
        """
        if time.monotonic() < self._due_s:
            return
        with self._lock:
            if time.monotonic() < self._due_s:
                return
            text = self._engine.setting()
            if text is None:
                raise VolumeFormatError(f"{self._engine.describe()}: the volume's record is gone")
            if text != self._text:
                self._accept(text)
            self._obstacle = self.setting.write_obstacle()
            self._engine.origin = self._origins if self.setting.change_log else None
            self._quotas = self._engine.read(self._look)
            self._due_s = time.monotonic() + self._heartbeat_s

    def _look(self, tx: Transaction) -> frozenset[int]:
        """Return the directories with quotas; refuse to go on in another life of the volume."""
        if self.namespace and epoch.namespace(tx, self.setting.uuid) != self.namespace:
            raise VolumeFormatError(
                f"{self._engine.describe()}: the metadata was restored from a dump; open it anew"
            )
        if not self.setting.dir_stats or self.read_only:
            return frozenset()
        return frozenset(row.inode for row in tx.scan(DirQuota))

    def refresh(self) -> None:
        """Let the next check read the record and the quotas, which this process changed."""
        self._due_s = 0.0

    def _accept(self, text: str) -> None:
        setting = Setting.parse(text)
        setting.check_open()
        if setting.uuid != self.setting.uuid:
            raise VolumeFormatError(
                f"{self._engine.describe()}: another volume was formatted here; open it anew"
            )
        self.setting, self._text = setting, text
        if self.after_change is not None:
            self.after_change(setting)

    def check_writable(self, path: str) -> None:
        """Raise ReadOnlyVolumeError, with the reason, where changes are refused."""
        if self._engine.read_only:
            raise ReadOnlyVolumeError(path, "the metadata database is read-only")
        if self._read_only:
            raise ReadOnlyVolumeError(path, "the volume was opened with read_only")
        self.check()
        if self._obstacle is not None:
            raise ReadOnlyVolumeError(path, f"writing is refused: {self._obstacle}")
        if self.before_first_change is not None:
            call, self.before_first_change = self.before_first_change, None
            call()

    def context(self) -> Context:
        """Return the facts of an operation that starts now and takes no name away."""
        setting = self.setting
        return Context(
            self._clock(),
            *self._owner,
            dir_stats=setting.dir_stats,
            capacity_bytes=setting.capacity_bytes,
            inodes_max=setting.inodes_max,
            acl=setting.acl,
            user_group=setting.user_group_quota,
            quotas=self._quotas,
        )

    def remove(self, body: Callable[[Transaction, Context], T], *, skip_trash: bool = False) -> T:
        """Run a transaction that may take names away, and return its result.

        Most removals need no session, and most find the trash of their hour in place. What
        turns out to be missing is made first, and the body runs again.

        Raises
        ------
        ConflictError
            Another client takes away again and again what was made.
        """
        counted: dict[int, Used] = {}
        for _ in range(_PREPARED_MAX):
            ctx = self._removal_context(skip_trash=skip_trash)._replace(counted=counted)
            try:
                return self._engine.write(lambda tx, ctx=ctx: body(tx, ctx))  # type: ignore[misc]  # mypy cannot infer a lambda default
            except SessionNeededError:
                self._presence.ensure_session()
            except CountNeededError as error:
                used = usage.count_below(self._engine.read, error.inode)
                counted[error.inode] = used or Used()
            except TrashNeededError:
                inode = self._engine.write(
                    lambda tx, ctx=ctx: trash.hourly_directory(tx, ctx)  # type: ignore[misc]
                )
                self._hour = ctx.now_ns // trash.HOUR_NS, inode
        raise ConflictError(
            f"{self._engine.describe()}: the session or the trash of this hour is removed by "
            "another client as soon as it is made"
        )

    def _removal_context(self, *, skip_trash: bool) -> Context:
        ctx = self.context()._replace(sid=self._presence.sid, opened=self._presence.opened)
        if self.setting.trash_days <= 0 or skip_trash:
            return ctx
        hour, inode = self._hour
        return ctx._replace(trash=inode if hour == ctx.now_ns // trash.HOUR_NS else TRASH_WANTED)
