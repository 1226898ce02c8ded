"""Destroying a volume: its objects first, its metadata then, its record at the very end.

Laws: nothing is touched before the caller has named the volume by its UUID and nobody uses it; at
most a page of names is held; whatever interrupts it, the same call goes on where it ended, since
what says which volume it was goes last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any

from juicecache.config import VolumeOptions
from juicecache.errors import ConfigError, ObjectError, ObjectNotFoundError
from juicecache.meta import usage
from juicecache.meta.engine import Engine
from juicecache.model.setting import Setting
from juicecache.objects.build import open_store
from juicecache.objects.store import ObjectStore
from juicecache.runtime import start
from juicecache.volume.administration import active_sessions, check_identity, read_any_setting
from juicecache.volume.gc import list_page
from juicecache.volume.parts import open_engine, store_config


@dataclass(slots=True)
class DestroyReport:
    """What is gone so far.

    Attributes
    ----------
    objects, bytes
        Objects, and their size as stored.
    entries
        Tables or keys of the metadata.
    """

    name: str
    objects: int = 0
    bytes: int = 0
    entries: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def destroy_volume(
    meta: str | Engine,
    uuid: str,
    *,
    confirm: Callable[[str], bool],
    force: bool = False,
    progress: Callable[[DestroyReport], None] | None = None,
) -> DestroyReport:
    """Remove all objects and all metadata of a volume, for ever.

    Parameters
    ----------
    uuid
        Of the volume: whoever knows it has looked at it.
    confirm
        Called with what will be gone; False gives it up.
    force
        Ask nothing, and look neither for clients that use the volume nor at whose the objects are;
        a bucket that is gone is no obstacle.
    progress
        Called with the report so far, after each page of objects and of metadata.

    Raises
    ------
    ConfigError
        There is no such volume, somebody uses it, the objects are another volume's, or it was not
        confirmed. Nothing was removed.
    ObjectError
        Some objects could not be removed; the metadata is still there.
    """
    engine = open_engine(meta, read_only=False)
    with nullcontext() if engine is meta else closing(engine):
        setting = read_any_setting(engine)
        if setting.uuid.lower() != uuid.lower():
            raise ConfigError(
                f"the volume {setting.name!r} in {engine.describe()} has another UUID: "
                "'juicecache status' shows it"
            )
        setting.check_secrets()
        engine.prepare()  # an interrupted call has taken tables away
        store = open_store(store_config(setting, VolumeOptions.from_options({})))
        try:
            if not force:
                _check(engine, store, setting, confirm)
            report = DestroyReport(setting.name)
            tell = progress or (lambda report: None)
            try:
                _delete_objects(store, setting, report, tell)
            except ObjectNotFoundError:
                if not force:
                    raise  # the bucket itself is gone, or not mounted
        finally:
            start(store.aclose(), inline=store.inline).result()
        _drop_folders(setting)

        def count(entries: int) -> None:
            report.entries = entries
            tell(report)

        engine.erase(count)
        return report


def _check(
    engine: Engine, store: ObjectStore, setting: Setting, confirm: Callable[[str], bool]
) -> None:
    sessions = active_sessions(engine)
    if sessions:
        raise ConfigError(
            f"{len(sessions)} clients use the volume: end them first; one that died is forgotten "
            "within five of its heartbeats"
        )
    start(check_identity(store, setting), inline=store.inline).result()
    used = engine.read(usage.totals)
    consequence = (
        f"the volume {setting.name!r} with {used.used_inodes} inodes and {used.used_space} bytes, "
        f"its objects in {store.describe()} and its metadata in {engine.describe()} will be gone "
        "for ever"
    )
    if not confirm(consequence):
        raise ConfigError("nothing was removed")


def _delete_objects(
    store: ObjectStore,
    setting: Setting,
    report: DestroyReport,
    tell: Callable[[DestroyReport], None],
) -> None:
    """Remove everything whose name begins with the volume's; its identity last."""
    prefix, identity = f"{setting.name}/", setting.layout.uuid_name
    after, failed = "", 0
    first: ObjectError | None = None
    while infos := start(list_page(store, prefix, after), inline=store.inline).result():
        after = infos[-1].name
        wanted = {info.name: info.size_bytes for info in infos if info.name != identity}
        for name, error in _delete(store, wanted):
            if error is None:
                report.objects += 1
                report.bytes += wanted[name]
            else:
                failed += 1
                first = first or error
        tell(report)
    if first is not None:
        raise ObjectError(
            first.name, f"{failed} objects could not be removed, and the metadata stays: {first}"
        ) from first
    start(store.delete(identity), inline=store.inline).result()


def _delete(store: ObjectStore, names: Iterable[str]) -> list[tuple[str, ObjectError | None]]:
    """Remove objects, as many at a time as the store allows; return what went wrong with each."""
    waiting = [(name, start(store.delete(name), inline=store.inline)) for name in names]
    outcomes: list[tuple[str, ObjectError | None]] = []
    for name, future in waiting:
        try:
            future.result()
            outcomes.append((name, None))
        except ObjectError as error:
            outcomes.append((name, error))
    return outcomes


def _drop_folders(setting: Setting) -> None:
    """Remove the empty folders that objects in files leave behind; others are kept."""
    if setting.storage != "file":
        return
    for number in range(max(setting.shards, 1)):
        bucket = setting.bucket.replace("%d", str(number)) if setting.shards > 1 else setting.bucket
        for folder, _, _ in os.walk(os.path.join(bucket, setting.name), topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
