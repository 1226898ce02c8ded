"""Making a volume: the record, the first rows, the object that carries its identity.

Law: record and first rows are written last and together. Where a step before fails there is
no volume, and the same call may be made again; of two that make one at once, one loses.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
import uuid
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path

from juicecache.config import VolumeOptions, remember_volume
from juicecache.errors import (
    CommitUnknownError,
    ConfigError,
    JuicecacheError,
    ObjectNotFoundError,
)
from juicecache.meta import epoch, tree
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.rows import SETTING, Counter, Record
from juicecache.model.attr import Attr
from juicecache.model.setting import Setting
from juicecache.objects.build import open_store
from juicecache.objects.store import ObjectStore
from juicecache.runtime import start
from juicecache.volume.parts import open_engine, store_config

log = logging.getLogger("juicecache")


def format_volume(
    meta: str | Engine,
    name: str,
    *,
    storage: str = "file",
    bucket: str = "",
    access_key: str = "",
    secret_key: str = "",
    session_token: str = "",
    block_size_kib: int = 4096,
    compress: str = "none",
    hash_prefix: bool = False,
    shards: int = 0,
    capacity_bytes: int = 0,
    inodes: int = 0,
    trash_days: int = 1,
    encrypt_rsa_key: str = "",
    encrypt_algo: str = "aes256gcm-rsa",
    storage_class: str = "",
    remember: bool = True,
) -> Setting:
    """Make a new volume that this library and the official client can open.

    Parameters
    ----------
    meta
        Metadata URL of an empty database, or an engine object.
    name
        3 to 63 lower-case letters, digits and ``-``; every object's name begins with it.
    storage, bucket
        Kind and address of object storage. ``file`` is a directory, by default
        ``~/.juicefs/local`` (``/var/jfs`` for root). A missing bucket is created.
    access_key, secret_key, session_token
        Kept in the record, as the official client does it: whoever may read the metadata
        may read the data. Leave them empty to use the machine's own credentials.
    block_size_kib
        Power of two, 64 to 16384; cannot be changed later, like the next three.
    compress
        ``none``, ``lz4`` or ``zstd``.
    capacity_bytes, inodes
        Limits of the volume; 0 is unlimited.
    trash_days
        How long removed files are kept; 0 removes at once.
    encrypt_rsa_key
        PEM text of an RSA private key: objects are encrypted. Its passphrase, if it has
        one, is read from ``JFS_RSA_PASSPHRASE`` here and whenever the volume is opened.
    remember
        Add the name to the user's volume list, so that ``juicecache://name`` finds it.

    Raises
    ------
    ConfigError
        An argument that cannot work, a database that already holds a volume, or a bucket
        with objects of another volume of this name.
    ObjectError
        Object storage cannot be reached or refuses the credentials.
    """
    setting = Setting.create(
        name,
        str(uuid.uuid4()),
        storage=storage,
        bucket=absolute_bucket(storage, bucket or _default_bucket(storage)),
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        block_kib=block_size_kib,
        compression=compress,
        shards=shards,
        hash_prefix=hash_prefix,
        capacity_bytes=capacity_bytes,
        inodes_max=inodes,
        encrypt_key=encrypt_rsa_key,
        encrypt_algo=encrypt_algo,
        trash_days=trash_days,
        storage_class=storage_class,
    )
    engine = open_engine(meta, read_only=False)
    with nullcontext() if engine is meta else closing(engine):
        engine.prepare()
        _refuse_volume(engine, engine.setting())
        _claim_storage(setting)
        try:
            now_ns = time.time_ns()
            engine.write(lambda tx: _plant(tx, engine, setting, now_ns))
        except CommitUnknownError:
            raise  # the volume may be there
        except JuicecacheError:
            # The next try has another identity: this one must not stand in its way.
            _release_storage(setting, engine)
            raise
    if remember and isinstance(meta, str):
        remember_volume(name, meta)
    return setting


def change_volume(meta: str | Engine, **fields: object) -> Setting:
    """Change fields of a volume's record that may change: limits, trash, address, keys.

    Running clients see the change within one heartbeat.

    Parameters
    ----------
    fields
        Of `Setting`: those of `setting.CHANGEABLE`. Nothing is done besides; see
        `administration.configure_volume`.

    Raises
    ------
    ConfigError
        There is no volume, or no client would accept the change.
    VolumeFormatError
        The volume is newer than this client, or its record is damaged.
    """
    engine = open_engine(meta, read_only=False)
    with nullcontext() if engine is meta else closing(engine):
        if not engine.setting():
            raise ConfigError(f"{engine.describe()} holds no volume")
        return engine.write(lambda tx: _change(tx, fields))


def absolute_bucket(storage: str, bucket: str) -> str:
    """Return a bucket as the record keeps it: the folder of the storage ``file`` is absolute.

    It ends with ``/``, because clients in any folder append object names to it as they are.
    """
    if storage.lower() != "file" or not bucket:
        return bucket
    return os.path.join(os.path.abspath(bucket), "")


def _plant(tx: Transaction, engine: Engine, setting: Setting, now_ns: int) -> None:
    """Write everything that makes a database a volume, unless anything of one is there."""
    record = tx.get(Record, SETTING, lock=True)
    _refuse_volume(engine, None if record is None else record.text)
    if tx.exists(Attr) or tx.exists(Counter):
        raise ConfigError(
            f"{engine.describe()} holds rows of a volume whose record is gone: use another "
            "database, or remove this one"
        )
    tree.plant_root(tx, now_ns, trash=setting.trash_days > 0)
    tx.put_new(epoch.new_epoch())
    tx.put_new(Record(SETTING, setting.to_text(_nonce)))


def _refuse_volume(engine: Engine, text: str | None) -> None:
    if text is not None:
        there = Setting.parse(text)
        raise ConfigError(f"{engine.describe()} already holds the volume {there.name!r}")


def _change(tx: Transaction, fields: Mapping[str, object]) -> Setting:
    record = tx.get(Record, SETTING, lock=True)
    setting = Setting.parse("" if record is None else record.text)
    setting.check_layout()
    bucket = fields.get("bucket")
    if isinstance(bucket, str):
        storage = str(fields.get("storage", setting.storage))
        fields = {**fields, "bucket": absolute_bucket(storage, bucket)}
    changed = setting.change(**fields)
    tx.put(Record(SETTING, changed.to_text(_nonce)))
    return changed


def _nonce() -> bytes:
    return secrets.token_bytes(12)


def _default_bucket(storage: str) -> str:
    if storage.lower() != "file":
        return ""
    return "/var/jfs" if os.getuid() == 0 else str(Path("~/.juicefs/local").expanduser())


def _claim_storage(setting: Setting) -> None:
    """Check that object storage works and holds no volume of this name; leave our identity."""
    options = VolumeOptions.from_options({})
    store = open_store(store_config(setting, options))
    try:
        start(store.create(), inline=store.inline).result()
        start(_claim(store, setting), inline=store.inline).result()
    finally:
        start(store.aclose(), inline=store.inline).result()


def _release_storage(setting: Setting, engine: Engine) -> None:
    """Take our identity out of object storage again; a failure is only logged."""
    try:
        text = engine.setting()
        winner = Setting.parse(text) if text else None
        store = open_store(store_config(setting, VolumeOptions.from_options({})))
        try:
            start(_release(store, setting, winner), inline=store.inline).result()
        finally:
            start(store.aclose(), inline=store.inline).result()
    except JuicecacheError as error:
        # What made us give up matters more.
        log.warning("%s is left behind: %s", setting.layout.uuid_name, error)


async def _release(store: ObjectStore, setting: Setting, winner: Setting | None) -> None:
    name = setting.layout.uuid_name
    if await store.get(name) != setting.uuid.encode():
        return
    place = (setting.storage, setting.bucket, setting.name)
    if winner is not None and (winner.storage, winner.bucket, winner.name) == place:
        # Both found the bucket without an identity, and ours came later.
        await store.put(name, winner.uuid.encode())
    else:
        await store.delete(name)


async def _claim(store: ObjectStore, setting: Setting) -> None:
    name = setting.layout.uuid_name
    try:
        other = await store.get(name)
    except ObjectNotFoundError:
        other = b""
    if other:
        raise ConfigError(
            f"{store.describe()} already holds a volume named {setting.name!r}; "
            "choose another name or bucket, or remove its objects first"
        )
    body = setting.uuid.encode()
    await store.put(name, body)
    found = await store.get(name)
    if found != body:
        raise ConfigError(
            f"{store.describe()} answered {len(found)} bytes that differ from what was stored"
        )
