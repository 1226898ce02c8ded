"""Volumes that this library and the official client use together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from juicecache.testing.engines import SHARED_KINDS
from juicecache.testing.official import SharedVolume
from juicecache.testing.servers import juicefs_binary


@pytest.fixture
def shared(engine_kind: str, tmp_path: Path) -> SharedVolume:
    """A volume that is still to be formatted."""
    juicefs_binary()
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    return SharedVolume(tmp_path, engine=engine_kind)


@pytest.fixture(params=SHARED_KINDS)
def engine_kind(request: pytest.FixtureRequest) -> str:
    """The metadata engine of `shared`: each of them, unless a test chooses."""
    return str(request.param)


@pytest.fixture(scope="session")
def rsa_key() -> str:
    """An RSA key as PEM text; the official client reads PKCS#1 and PKCS#8."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    ).decode()
