"""Changing the record of a volume that is in use: what must be checked and done besides.

Laws: a change that takes something away is confirmed first; object storage that is new to the
volume is tried before any client is sent there. The record is written last, so that a change
that fails, or is interrupted, may be repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from juicecache.config import VolumeOptions
from juicecache.errors import ConfigError, ObjectNotFoundError
from juicecache.meta import quota, usage
from juicecache.meta.engine import Engine
from juicecache.meta.quota import QuotaKind
from juicecache.meta.rows import DirStats, Session
from juicecache.model.setting import CLIENT_VERSION, Setting
from juicecache.objects.build import open_store
from juicecache.objects.store import ObjectStore
from juicecache.runtime import start
from juicecache.volume.formatting import absolute_bucket, change_volume
from juicecache.volume.parts import open_engine, store_config

_PLACE = frozenset({"storage", "bucket", "access_key", "secret_key", "session_token"})
"""Fields that say where objects are, and how to get there."""
_FEATURES = ("dir_stats", "user_group_quota", "acl", "change_log")
_PAGE = 10_000
"""Rows that one transaction removes: some 100 ms of the write lock."""
_SESSIONS_MAX = 10_000
"""Sessions looked at: far more clients than one database serves."""


class Changed(NamedTuple):
    """The record before and after a change."""

    before: Setting
    after: Setting

    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Return {field: (old, new)} of what differs; of a secret only that it does."""
        found = {}
        for name in self.after.__slots__:
            old, new = getattr(self.before, name), getattr(self.after, name)
            if name == "raw" or old == new:
                continue
            if name in ("secret_key", "session_token"):
                old, new = "", "stored" if new else "taken away"
            found[name] = old, new
        return found


def configure_volume(
    meta: str | Engine,
    fields: Mapping[str, object],
    *,
    confirm: Callable[[str], bool],
    trusting: bool = False,
) -> Changed:
    """Change fields of a volume's record; running clients see it within one heartbeat.

    Works on volumes whose secrets are missing, or whose version limits exclude this client: to
    set that right is what it is for.

    Parameters
    ----------
    fields
        Of `Setting`, those of `setting.CHANGEABLE`. Where only an address changes, the keys stay.
    confirm
        Called with each consequence that cannot be taken back; False gives the change up.
    trusting
        Do not try object storage, and ask nothing.

    Raises
    ------
    ConfigError
        There is no volume, no client would accept the change, or it was not confirmed.
    ObjectError
        Object storage cannot be reached at its new address, or refuses the keys.
    VolumeFormatError
        The volume is newer than this client, or its record is damaged.
    """
    with _opened(meta) as engine:
        before = read_any_setting(engine)
        if isinstance(fields.get("bucket"), str):
            kind = str(fields.get("storage", before.storage))
            fields = {**fields, "bucket": absolute_bucket(kind, str(fields["bucket"]))}
        fields = {name: new for name, new in fields.items() if getattr(before, name) != new}
        if not fields:
            return Changed(before, before)
        wanted = before.change(**fields)
        if not trusting:
            for consequence in _consequences(engine, before, wanted):
                if not confirm(consequence):
                    raise ConfigError(f"nothing was changed: {consequence}")
            if _PLACE & fields.keys():
                _try_storage(wanted)
        _prepare(engine, before, wanted)
        return Changed(before, change_volume(engine, **fields))


@contextmanager
def _opened(meta: str | Engine) -> Iterator[Engine]:
    engine = open_engine(meta, read_only=False)
    if engine is meta:
        yield engine
        return
    with closing(engine):
        yield engine


def read_any_setting(engine: Engine) -> Setting:
    """Return the record of a volume, also of one that this client may not use.

    Raises
    ------
    ConfigError
        There is no volume.
    VolumeFormatError
        It is newer than this client, or its record is damaged.
    """
    text = engine.setting()
    if not text:
        raise ConfigError(f"{engine.describe()} holds no volume")
    setting = Setting.parse(text)
    setting.check_layout()
    return setting


def active_sessions(engine: Engine, now_s: int | None = None) -> list[Session]:
    """Return the sessions whose heartbeat has not stopped."""
    now_s = int(time.time()) if now_s is None else now_s
    rows = engine.read(lambda tx: list(tx.scan(Session, limit=_SESSIONS_MAX)))
    return [row for row in rows if row.expire_s >= now_s]


def _consequences(engine: Engine, before: Setting, wanted: Setting) -> Iterator[str]:
    """Yield what a change takes away from somebody."""
    if before.trash_days and not wanted.trash_days:
        yield "the trash will be emptied, and what is removed from now on is gone at once"
    limits = wanted.capacity_bytes, wanted.inodes_max
    if limits != (before.capacity_bytes, before.inodes_max):
        used = engine.read(usage.totals)
        if any(limit and limit <= so_far for limit, so_far in zip(limits, used, strict=True)):
            yield (
                f"the volume holds {used.used_space} bytes in {used.used_inodes} inodes: with "
                "such limits nothing can be written"
            )
    if before.dir_stats and not wanted.dir_stats:
        count = sum(one.kind is QuotaKind.DIRECTORY for one in quota.list_quotas(engine))
        if count:
            yield f"{count} quotas of directories will be taken away"
    if not wanted.admits(CLIENT_VERSION) and before.admits(CLIENT_VERSION):
        yield f"clients of version {CLIENT_VERSION}, as this one, will be rejected"
    rejected = [one for one in active_sessions(engine) if not wanted.admits(_version_of(one))]
    if rejected and (before.min_client_version, before.max_client_version) != (
        wanted.min_client_version,
        wanted.max_client_version,
    ):
        yield f"{len(rejected)} clients that use the volume now will be rejected"


def _version_of(row: Session) -> str:
    try:
        info = json.loads(row.info)
    except ValueError:
        return ""
    return str(info.get("Version", "")).split("+")[0] if isinstance(info, dict) else ""


def _prepare(engine: Engine, before: Setting, wanted: Setting) -> None:
    """Do what a change of features needs before clients see it; safe to repeat."""
    if any(getattr(wanted, name) and not getattr(before, name) for name in _FEATURES):
        engine.prepare()  # tables that a volume of an older version lacks
    if wanted.dir_stats and not before.dir_stats:
        # Nobody kept them meanwhile; a missing row is counted when it is needed.
        for rows in engine.sweep(DirStats, page=_PAGE):
            _drop_stats(engine, [row.inode for row in rows])
    if before.dir_stats and not wanted.dir_stats:
        for one in quota.list_quotas(engine):
            if one.kind is QuotaKind.DIRECTORY:
                quota.remove_quota(engine, one.kind, one.id)
    if wanted.user_group_quota and not before.user_group_quota:
        quota.count_owners(engine)


def _drop_stats(engine: Engine, inodes: list[int]) -> None:
    for first in range(0, len(inodes), _PAGE):
        some = inodes[first : first + _PAGE]
        engine.write(lambda tx, some=some: [tx.delete(DirStats, one) for one in some])  # type: ignore[misc]  # mypy cannot infer a lambda default


def _try_storage(setting: Setting) -> None:
    """Check that the volume can live at its new address, and leave its identity there."""
    store = open_store(store_config(setting, VolumeOptions.from_options({})))
    try:
        start(store.create(), inline=store.inline).result()
        start(_identify(store, setting), inline=store.inline).result()
    finally:
        start(store.aclose(), inline=store.inline).result()


async def _identify(store: ObjectStore, setting: Setting) -> None:
    await check_identity(store, setting)
    name, body = setting.layout.uuid_name, setting.uuid.encode()
    await store.put(name, body)
    if await store.get(name) != body:
        raise ConfigError(f"{store.describe()} does not return what was stored")


async def check_identity(store: ObjectStore, setting: Setting) -> None:
    """Refuse object storage that holds another volume of this name.

    Raises
    ------
    ConfigError
    """
    try:
        found = await store.get(setting.layout.uuid_name)
    except ObjectNotFoundError:
        return
    if found and found != setting.uuid.encode():
        raise ConfigError(
            f"{store.describe()} holds objects of another volume named {setting.name!r}"
        )
