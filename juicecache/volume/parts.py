"""Builds the parts of one volume for one process, in one place and visible order.

Law: whatever a fork breaks (database handles, loops, locks, sessions) is reachable only
from a `Parts`, and a `Parts` belongs to the process that built it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from juicecache.cache.stack import TierStack
from juicecache.config import VolumeOptions, parse_meta, rsa_passphrase
from juicecache.errors import (
    ConfigError,
    EntryNotFoundError,
    JuicecacheError,
    NotDirectoryError,
    VolumeFormatError,
)
from juicecache.meta import epoch
from juicecache.meta.engine import Engine
from juicecache.meta.service import Meta
from juicecache.model.layout import Layout
from juicecache.model.setting import Setting
from juicecache.objects.build import StoreConfig
from juicecache.objects.replaceable import ReplaceableStore
from juicecache.objects.store import ObjectStore
from juicecache.runtime import BoundedExecutor, start
from juicecache.volume.blocks import Blocks
from juicecache.volume.cache_group import Directory, Serving, build_group
from juicecache.volume.tiers import build_tiers

_CLEANERS = 2
"""Threads that drop the content of removed files: enough to overlap database and store."""


@dataclass(slots=True, weakref_slot=True)
class Parts:
    """Everything a volume is made of, in this process."""

    options: VolumeOptions
    engine: Engine
    meta: Meta
    layout: Layout
    store: ObjectStore
    tiers: TierStack
    blocks: Blocks
    directory: Directory | None
    serving: Serving | None
    upload_slots: threading.BoundedSemaphore
    cleaners: BoundedExecutor
    pid: int = field(default_factory=os.getpid)
    cleaning: set[Future[None]] = field(default_factory=set)
    doomed_lock: threading.Lock = field(default_factory=threading.Lock)
    doomed: list[int] = field(default_factory=list)
    """Removed files whose content waits to be dropped in the background."""
    compacting: set[tuple[int, int]] = field(default_factory=set)
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when `close` begins: background work does not wait for more then."""
    closing: list[Callable[[], None]] = field(default_factory=list)
    """What ends before everything else."""

    def close(self, *, engine: bool) -> None:
        """Finish background work and release everything, with ``engine`` the database too."""
        self.ending.set()
        for end in self.closing:
            end()
        for future in tuple(self.cleaning):
            future.exception()
        self.cleaners.close()
        if self.serving is not None:
            self.serving.close()
        self.blocks.close()
        if self.directory is not None:
            self.directory.close()
        self.tiers.close()
        start(self.store.aclose(), inline=self.store.inline).result()
        if engine:
            self.engine.close()


def open_engine(meta: str | Engine, *, read_only: bool) -> Engine:
    """Return the engine of a metadata address; an engine object is used as it is."""
    if isinstance(meta, Engine):
        return meta
    address = parse_meta(meta)
    if address.scheme == "sqlite3":
        from juicecache.meta.engines.sqlite import SqliteEngine

        return SqliteEngine(
            address.location, read_only=read_only, table_prefix=address.table_prefix
        )
    if address.scheme in ("redis", "rediss"):
        from juicecache.meta.engines.redis import RedisEngine

        return RedisEngine(address, read_only=read_only)
    from juicecache.meta.engines.sql import SqlEngine

    if address.scheme == "postgres":
        from juicecache.meta.engines.postgres import Postgres as Server
    else:
        from juicecache.meta.engines.mysql import Mysql as Server  # type: ignore[assignment]
    return SqlEngine(Server(address), read_only=read_only, table_prefix=address.table_prefix)


def read_setting(engine: Engine) -> Setting:
    """Return the parsed record of the volume behind ``engine``.

    Raises
    ------
    VolumeFormatError
        Not formatted, damaged, or newer than this client.
    """
    text = engine.setting()
    if not text:
        raise VolumeFormatError(
            f"{engine.describe()}: not formatted; run 'juicecache format' first"
        )
    setting = Setting.parse(text)
    setting.check_open()
    return setting


def store_config(setting: Setting, options: VolumeOptions) -> StoreConfig:
    """Return how to reach object storage: the record, with what the options override."""
    return StoreConfig(
        storage=options.storage or setting.storage,
        bucket=options.bucket or setting.bucket,
        access_key=options.access_key or setting.access_key,
        secret_key=options.secret_key or setting.secret_key,
        session_token=options.session_token or setting.session_token,
        shards=setting.shards,
        compression=setting.compression,
        encrypt_key_pem=setting.encrypt_key,
        encrypt_algo=setting.encrypt_algo,
        passphrase=rsa_passphrase() if setting.encrypt_key else "",
        upload_limit_mbps=options.upload_limit_mbps or setting.upload_limit_mbps,
        download_limit_mbps=options.download_limit_mbps or setting.download_limit_mbps,
        io_retries=options.io_retries,
        get_timeout_s=options.get_timeout_s,
        put_timeout_s=options.put_timeout_s,
        max_downloads=options.max_downloads,
        max_uploads=options.max_uploads,
        storage_class=setting.storage_class,
    )


def build_parts(
    meta: str | Engine,
    options: VolumeOptions,
    wrap_store: Callable[[ObjectStore], ObjectStore] | None = None,
    ancestor: Parts | None = None,
) -> Parts:
    """Open every part of a volume. Makes no request to object storage.

    Starts no thread, unless the options make this process a member of a cache group. One that
    was forked is none, whatever they say: its parent is.

    Parameters
    ----------
    wrap_store
        Stands between the volume and its object storage, to measure or to disturb.
    ancestor
        The parts that the parent of a forked process had. Their tiers survive a fork, with
        what is known to be sound; slice lists are plain values. All else is made anew.
    """
    engine = open_engine(meta, read_only=options.read_only)
    try:
        setting = read_setting(engine)
        setting.check_secrets(
            given=[name for name in ("secret_key", "session_token") if getattr(options, name)]
        )
        namespace = engine.read(lambda tx: epoch.namespace(tx, setting.uuid))
        layout = replace(setting.layout, namespace=namespace)
        replaceable = ReplaceableStore(store_config(setting, options))
        store = replaceable if wrap_store is None else wrap_store(replaceable)
        service = Meta(
            engine,
            setting,
            read_only=options.read_only,
            subdir=options.subdir,
            heartbeat_s=options.heartbeat_s,
            owner=(os.getuid(), os.getgid(), _umask()),
        )
        service.gate.after_change = lambda changed: replaceable.take_over(
            store_config(changed, options)
        )
        service.gate.namespace = namespace
        if options.subdir and ancestor is None:
            _check_subdir(service, options.subdir)
        tiers = build_tiers(options) if ancestor is None else ancestor.tiers
        directory = Directory(options, engine, namespace) if options.cache_group else None
        group = None if directory is None else build_group(options, directory)
        blocks = Blocks(layout, store, tiers, group, fills_group=options.fill_group_cache)
        serving = None
        if group is not None and not options.no_sharing and ancestor is None:
            assert directory is not None
            try:
                serving = Serving(options, directory, blocks, group)
            except JuicecacheError:
                blocks.close()
                tiers.close()
                raise
    except JuicecacheError:
        if engine is not meta:
            engine.close()
        raise
    if ancestor is not None:
        service.view.inherit(ancestor.meta.view)
    # Blocks on their way up are held in memory, by us and once more by the HTTP client:
    # buffer_size bounds both, as it bounds readahead.
    held = layout.block_bytes * (1 if store.inline else 2)
    slots = max(1, min(options.max_uploads, options.buffer_size_bytes // held))
    return Parts(
        options,
        engine,
        service,
        layout,
        store,
        tiers,
        blocks,
        directory,
        serving,
        threading.BoundedSemaphore(slots),
        BoundedExecutor(_CLEANERS, "juicecache-clean"),
    )


def _check_subdir(service: Meta, subdir: str) -> None:
    try:
        is_directory = service.resolve("/").is_directory
    except (EntryNotFoundError, NotDirectoryError):
        is_directory = False
    if not is_directory:
        raise ConfigError(f"option subdir: {subdir!r} is no directory of the volume")


def _umask() -> int:
    """Return the process's umask; setting it to read it would open a gap for other threads."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022
