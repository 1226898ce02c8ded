"""Wrappers: what is stored, what is repeated, what is bounded, what is refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from juicecache.errors import (
    ConfigError,
    CorruptBlockError,
    ObjectDeniedError,
    ObjectNotFoundError,
    ObjectUnavailableError,
)
from juicecache.objects.build import StoreConfig, open_store
from juicecache.objects.compress import codec_of
from juicecache.objects.encrypt import Cipher
from juicecache.objects.limit import LimitedStore, Pace
from juicecache.objects.local import LocalStore
from juicecache.objects.retry import RetryStore
from juicecache.objects.shards import shard_of
from juicecache.objects.store import ObjectStore
from juicecache.runtime import finish
from juicecache.testing.faults import FaultyStore

BLOCK = "vol/chunks/0/0/1_0_13"
BODY = b"hello juicefs"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = KEY,
    passphrase: str = "",
    form: serialization.PrivateFormat = serialization.PrivateFormat.TraditionalOpenSSL,
) -> str:
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, form, lock).decode()


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


async def no_pause(seconds: float) -> None:
    pass


def test_stored_forms_are_the_formats(tmp_path: Path) -> None:
    lz4 = open_store(StoreConfig("file", str(tmp_path), compression="lz4"))
    finish(lz4.put(BLOCK, BODY))
    assert (tmp_path / BLOCK).read_bytes() == b"\xd0" + BODY
    zstd = open_store(StoreConfig("file", str(tmp_path), compression="zstd"))
    finish(zstd.put(BLOCK, BODY))
    assert (tmp_path / BLOCK).read_bytes() == bytes.fromhex("28b52ffd200d690000") + BODY
    sealed = open_store(StoreConfig("file", str(tmp_path), encrypt_key_pem=pem()))
    finish(sealed.put(BLOCK, BODY))
    assert (tmp_path / BLOCK).read_bytes()[:3] == b"\x01\x00\x0c"
    assert (tmp_path / BLOCK).stat().st_size == 300


def test_only_blocks_are_compressed(tmp_path: Path) -> None:
    store = open_store(StoreConfig("file", str(tmp_path), compression="lz4"))
    finish(store.put("vol/juicefs_uuid", b"the uuid"))
    assert (tmp_path / "vol/juicefs_uuid").read_bytes() == b"the uuid"
    assert finish(store.get("vol/juicefs_uuid")) == b"the uuid"


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"\x10a"])
def test_damaged_compression(tmp_path: Path, compression: str, damage: bytes) -> None:
    store = open_store(StoreConfig("file", str(tmp_path), compression=compression))
    finish(store.put(BLOCK, BODY))
    (tmp_path / BLOCK).write_bytes(damage)
    with pytest.raises(CorruptBlockError):
        finish(store.get(BLOCK, length=len(BODY)))


def test_zstd_frame_that_claims_too_much(tmp_path: Path) -> None:
    codec = codec_of("zstd")
    assert codec is not None
    with pytest.raises(ValueError, match="claims"):
        codec.decompress(codec.compress(bytes(1 << 20)), 1000)


@pytest.mark.parametrize("algorithm", ["aes256gcm-rsa", "chacha20-rsa"])
def test_damaged_encryption(tmp_path: Path, algorithm: str) -> None:
    config = StoreConfig("file", str(tmp_path), encrypt_key_pem=pem(), encrypt_algo=algorithm)
    store = open_store(config)
    finish(store.put(BLOCK, BODY))
    stored = (tmp_path / BLOCK).read_bytes()
    for damaged in (b"", stored[:200], stored[:-1], stored[:-1] + b"\0\0", b"\0" + stored[1:]):
        (tmp_path / BLOCK).write_bytes(damaged)
        with pytest.raises(CorruptBlockError):
            finish(store.get(BLOCK, length=len(BODY)))


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8]
)
def test_keys_in_every_form(form: serialization.PrivateFormat) -> None:
    sealed = Cipher(pem(form=form), "", "left over").seal(BODY)
    assert Cipher(pem(passphrase="word", form=form), "", "word").open(sealed) == BODY


@pytest.mark.parametrize("given", ["", "not-the-word"])
def test_wrong_passphrase(given: str) -> None:
    with pytest.raises(ConfigError, match="JFS_RSA_PASSPHRASE") as caught:
        Cipher(pem(passphrase="word"), "", given)
    assert not given or given not in str(caught.value)
    assert caught.value.__suppress_context__


def test_keys_and_algorithms_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="sm4gcm"):
        Cipher(pem(), "sm4gcm", "")
    with pytest.raises(ConfigError, match="RSA"):
        Cipher(pem(ec.generate_private_key(ec.SECP256R1())), "", "")
    with pytest.raises(ConfigError, match="lz5"):
        open_store(StoreConfig("file", "/x", compression="lz5"))


def test_shards_of_the_format() -> None:
    names = ["fsh/chunks/0/0/1_0_4", "fsh/chunks/0/0/2_0_4", "fsh/juicefs_uuid"]
    assert [shard_of(name, 3) for name in names] == [2, 1, 2]


def test_retry_gives_up_after_its_count(local: LocalStore) -> None:
    faulty = FaultyStore(local)
    faulty.fail("get", range(1, 100))
    with pytest.raises(ObjectUnavailableError):
        finish(RetryStore(faulty, 4, sleep=no_pause).get(BLOCK))
    assert faulty.calls["get"] == 5


def test_retry_succeeds_and_leaves_other_errors(local: LocalStore) -> None:
    faulty = FaultyStore(local)
    faulty.fail("put", (1, 2))
    store = RetryStore(faulty, 2, sleep=no_pause)
    finish(store.put(BLOCK, BODY))
    assert faulty.calls["put"] == 3
    faulty.fail("get", (1,), lambda name: ObjectDeniedError(name, "no"))
    with pytest.raises(ObjectDeniedError):
        finish(store.get(BLOCK))
    assert faulty.calls["get"] == 1


def test_retry_keeps_its_deadline(local: LocalStore) -> None:
    faulty = FaultyStore(local)
    faulty.fail("get", range(1, 1000))
    now = [0.0]

    async def pass_time(seconds: float) -> None:
        now[0] += max(seconds, 1.0)

    store = RetryStore(faulty, 1000, deadline_s=20, sleep=pass_time, clock=lambda: now[0])
    with pytest.raises(ObjectUnavailableError):
        finish(store.get(BLOCK))
    assert 2 <= faulty.calls["get"] <= 21


class Suspending(FaultyStore):
    """A local store that is not inline, and tells how many calls are inside of it."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.inline = False
        self.inside = self.most_inside = 0

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        await asyncio.sleep(0)
        self.inside -= 1
        return await super().get(name, start, stop, length=length)


def test_limits_requests_at_once(local: LocalStore) -> None:
    finish(local.put(BLOCK, BODY))
    slow = Suspending(local)
    store = LimitedStore(slow, max_downloads=3, max_uploads=1)

    async def many() -> None:
        await asyncio.gather(*(store.get(BLOCK) for _ in range(20)))

    asyncio.run(many())
    assert slow.most_inside == 3
    asyncio.run(many())  # another loop, as in a forked child
    with pytest.raises(ValueError, match="inline"):
        LimitedStore(local, max_downloads=1, max_uploads=1)


def test_pace() -> None:
    now = [100.0]

    async def pass_time(seconds: float) -> None:
        now[0] += seconds

    async def take() -> None:
        pace = Pace(8, clock=lambda: now[0], sleep=pass_time)
        for _ in range(11):
            await pace.take(1_000_000)

    asyncio.run(take())
    assert now[0] == pytest.approx(110, abs=0.2)


def test_absent_directory_is_never_filled(tmp_path: Path) -> None:
    store = LocalStore(f"{tmp_path}/mount")
    for call in (store.put(BLOCK, BODY), store.get(BLOCK), store.delete(BLOCK)):
        with pytest.raises(ObjectNotFoundError, match="mounted"):
            finish(call)
    assert not (tmp_path / "mount").exists()


def test_local_files_and_leftovers(local: LocalStore, tmp_path: Path) -> None:
    finish(local.put(BLOCK, BODY))
    assert (tmp_path / BLOCK).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "vol/chunks").stat().st_mode & 0o777 == 0o755
    (tmp_path / "vol/chunks/0/0/.tmp.0123").write_bytes(b"of a crash")

    async def listed() -> list[str]:
        return [info.name async for info in local.list("vol/")]

    assert finish(listed()) == [BLOCK]
    with pytest.raises(ConfigError):
        LocalStore("relative")


def test_local_refuses_names_that_lead_out(local: LocalStore) -> None:
    from juicecache.errors import ObjectError

    for name in ("", "/etc/passwd", "vol/../../x"):
        with pytest.raises(ObjectError, match="not the name"):
            finish(local.get(name))


def test_secrets_are_not_shown() -> None:
    config = StoreConfig("s3", "b", "AK", "SK-secret", "ST-secret", 0, "none", "PEM-secret")
    assert "secret" not in repr(config)


def test_imports_are_lazy() -> None:
    code = (
        "import sys; from juicecache.objects.build import StoreConfig, open_store; "
        "open_store(StoreConfig('file', '/x')); "
        "bad = {'aiobotocore', 'aiohttp', 'cryptography', 'lz4', 'fsspec', 'asyncio'}; "
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_package_is_named() -> None:
    with pytest.raises(ConfigError, match="webdav4"):
        open_store(StoreConfig("webdav", "http://host/path"))
