"""The one place where stores and their wrappers are put together.

Making a store starts no thread and makes no request, and a driver is imported only by the
volume that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from juicecache.addresses import mask_bucket
from juicecache.errors import ConfigError
from juicecache.objects.deferred import DeferredStore
from juicecache.objects.kinds import ForeignAddress, LocalAddress, S3Address, locate
from juicecache.objects.store import ObjectStore


@dataclass(frozen=True)
class StoreConfig:
    """The storage of one volume, as its format record and the caller's options say.

    Attributes
    ----------
    storage, bucket
        Kind and address, in the official client's words; with more than one of ``shards``
        the address holds ``%d``.
    compression
        ``none``, ``lz4`` or ``zstd``.
    encrypt_key_pem
        The RSA private key of an encrypted volume; empty means not encrypted.
    passphrase
        Of that key (``JFS_RSA_PASSPHRASE``).
    upload_limit_mbps, download_limit_mbps
        Megabits a second; 0 is no limit. Not applied to local directories.
    io_retries
        Tries after the first.
    max_downloads, max_uploads
        Requests under way at once.
    storage_class
        For PUTs; empty leaves it to the bucket.
    """

    storage: str
    bucket: str = field(repr=False)  # a user may have put a password into it
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    shards: int = 0
    compression: str = "none"
    encrypt_key_pem: str = field(default="", repr=False)
    encrypt_algo: str = ""
    passphrase: str = field(default="", repr=False)
    upload_limit_mbps: float = 0
    download_limit_mbps: float = 0
    io_retries: int = 10
    get_timeout_s: float = 60
    put_timeout_s: float = 60
    max_downloads: int = 200
    max_uploads: int = 20
    storage_class: str = ""


def open_store(config: StoreConfig) -> ObjectStore:
    """Return the store of a volume: a bucket in its wrappers, the outermost last.

    Raises
    ------
    ConfigError
        An address, kind, key or passphrase that cannot work, or a package that is missing.
    """
    store = _open_buckets(config)
    if not store.inline:
        from juicecache.objects.limit import LimitedStore
        from juicecache.objects.retry import RetryStore

        store = LimitedStore(
            store,
            max_downloads=config.max_downloads,
            max_uploads=config.max_uploads,
            download_limit_mbps=config.download_limit_mbps,
            upload_limit_mbps=config.upload_limit_mbps,
        )
        # Outside of the limits, so that a request that pauses holds no turn.
        store = RetryStore(store, config.io_retries)
    if config.encrypt_key_pem:
        from juicecache.objects.encrypt import Cipher, EncryptedStore

        cipher = Cipher(config.encrypt_key_pem, config.encrypt_algo, config.passphrase)
        store = EncryptedStore(store, cipher)
    if config.compression.lower() not in ("", "none"):
        from juicecache.objects.compress import CompressedStore, codec_of

        codec = codec_of(config.compression)
        if codec is not None:
            store = CompressedStore(store, codec)
    return store


def _open_buckets(config: StoreConfig) -> ObjectStore:
    if config.shards <= 1:
        return _open_bucket(config, config.bucket)
    from juicecache.objects.shards import ShardedStore

    if "%d" not in config.bucket:
        raise ConfigError("the bucket address of a volume with shards needs %d in it")
    buckets = [config.bucket.replace("%d", str(number)) for number in range(config.shards)]
    return ShardedStore(
        [_open_bucket(config, bucket) for bucket in buckets], mask_bucket(config.bucket)
    )


def _open_bucket(config: StoreConfig, bucket: str) -> ObjectStore:
    address = locate(config.storage, bucket, config.access_key, config.secret_key)
    if isinstance(address, LocalAddress):
        from juicecache.objects.local import LocalStore

        return LocalStore(address.folder)
    if isinstance(address, S3Address):
        return _open_s3(config, address)
    return _open_foreign(address)


def _open_s3(config: StoreConfig, address: S3Address) -> ObjectStore:
    def make() -> ObjectStore:
        from juicecache.objects.s3 import S3Options, S3Store

        return S3Store(
            S3Options(
                endpoint=address.endpoint,
                bucket=address.bucket,
                region=address.region,
                path_style=address.path_style,
                verify_tls=address.verify_tls,
                access_key=config.access_key,
                secret_key=config.secret_key,
                session_token=config.session_token,
                storage_class=config.storage_class,
                connections=config.max_downloads + config.max_uploads,
                get_timeout_s=config.get_timeout_s,
                put_timeout_s=config.put_timeout_s,
            )
        )

    return DeferredStore(make, f"{address.endpoint or 's3:/'}/{address.bucket}")


def _open_foreign(address: ForeignAddress) -> ObjectStore:
    import fsspec

    from juicecache.objects.foreign import ForeignStore

    try:
        file_system = fsspec.get_filesystem_class(address.protocol)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"storage of this kind needs a package: pip install {address.package!r}"
        ) from error

    def open_file_system() -> Any:
        # Listings are never cached: other clients write to the same place.
        return file_system(**address.options, use_listings_cache=False, skip_instance_cache=True)

    return ForeignStore(
        open_file_system,
        address.root,
        f"{address.protocol}://{address.root}",
        atomic_put=address.atomic_put,
    )
