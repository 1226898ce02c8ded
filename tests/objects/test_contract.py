"""The object contract, on every store and in every wrapper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import botocore.session
import fsspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from juicecache.objects.build import StoreConfig, open_store
from juicecache.objects.foreign import ForeignStore
from juicecache.objects.limit import LimitedStore
from juicecache.objects.local import LocalStore
from juicecache.objects.retry import RetryStore
from juicecache.objects.shards import ShardedStore, shard_of
from juicecache.objects.store import ObjectStore
from juicecache.testing.object_contract import ObjectContract, RawAccess, drive
from juicecache.testing.servers import S3Server


@pytest.fixture(scope="session")
def key_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str) -> bytes | None:
        file = self.path / name
        return file.read_bytes() if file.exists() else None

    def put(self, name: str, stored: bytes) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stored)


class Memory:
    def __init__(self, root: str) -> None:
        self.root = root
        self.fs = fsspec.filesystem("memory", skip_instance_cache=True)

    def get(self, name: str) -> bytes | None:
        path = self.root + name
        return self.fs.cat_file(path) if self.fs.exists(path) else None

    def put(self, name: str, stored: bytes) -> None:
        self.fs.pipe_file(self.root + name, stored)


class TestLocal(ObjectContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        store = LocalStore(str(tmp_path / "bucket"))
        drive(store, store.create())
        return store

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawAccess:
        return Folder(tmp_path / "bucket")


class TestLocalShards(TestLocal):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        config = StoreConfig("file", f"{tmp_path}/b%d", shards=3)
        store = open_store(config)
        assert isinstance(store, ShardedStore)
        drive(store, store.create())
        return store

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawAccess:
        class Sharded(Folder):
            def get(self, name: str) -> bytes | None:
                return Folder(tmp_path / f"b{shard_of(name, 3)}").get(name)

            def put(self, name: str, stored: bytes) -> None:
                Folder(tmp_path / f"b{shard_of(name, 3)}").put(name, stored)

        return Sharded(tmp_path)


class TestLocalCoded(TestLocal):
    verbatim = False

    @pytest.fixture(params=["lz4", "zstd", "aes256gcm-rsa", "lz4+chacha20-rsa"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path, key_pem: str) -> ObjectStore:
        compression, _, algorithm = request.param.rpartition("+")
        if algorithm in ("lz4", "zstd"):
            config = StoreConfig("file", f"{tmp_path}/bucket", compression=algorithm)
        else:
            config = StoreConfig(
                "file",
                f"{tmp_path}/bucket",
                compression=compression or "none",
                encrypt_key_pem=key_pem,
                encrypt_algo=algorithm,
            )
        store = open_store(config)
        assert store.inline
        assert not store.ranged
        drive(store, store.create())
        return store


@pytest.mark.parametrize("atomic_put", [True, False])
class TestForeign(ObjectContract):
    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawAccess:
        return Memory(f"/{tmp_path.name}/")

    @pytest.fixture
    def store(self, raw: Memory, atomic_put: bool) -> Iterator[ObjectStore]:
        store = ForeignStore(lambda: raw.fs, raw.root, "memory://", atomic_put=atomic_put)
        limited = LimitedStore(store, max_downloads=2, max_uploads=1)
        wrapped = RetryStore(limited, retries=2)
        drive(wrapped, wrapped.create())
        yield wrapped
        drive(wrapped, wrapped.aclose())


@pytest.mark.service
class TestS3(ObjectContract):
    codec = "none"
    strict_order = False

    @pytest.fixture
    def bucket(self, s3: S3Server) -> str:
        return s3.fresh_bucket()

    @pytest.fixture
    def store(self, s3: S3Server, bucket: str, key_pem: str) -> Iterator[ObjectStore]:
        store = open_store(
            StoreConfig(
                "s3",
                f"{s3.endpoint}/{bucket}",
                s3.access_key,
                s3.secret_key,
                compression=self.codec,
                encrypt_key_pem="" if self.verbatim else key_pem,
            )
        )
        assert store.ranged == self.verbatim
        yield store
        drive(store, store.aclose())

    @pytest.fixture
    def raw(self, s3: S3Server, bucket: str) -> Iterator[RawAccess]:
        client = botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=s3.endpoint,
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
        )

        class Bucket:
            def get(self, name: str) -> bytes | None:
                try:
                    return client.get_object(Bucket=bucket, Key=name)["Body"].read()
                except client.exceptions.NoSuchKey:
                    return None

            def put(self, name: str, stored: bytes) -> None:
                client.put_object(Bucket=bucket, Key=name, Body=stored)

        yield Bucket()
        client.close()


class TestS3Coded(TestS3):
    verbatim = False
    codec = "zstd"
