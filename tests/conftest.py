"""Parts that many tests share; each starts with the first test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    from juicecache.testing.servers import S3Server


# Without the explanation of a failure, which takes minutes of a state machine.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
settings.register_profile("ci", max_examples=100, deadline=None, phases=PHASES)
settings.register_profile("nightly", max_examples=2000, deadline=None, phases=PHASES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    from juicecache.testing.servers import s3_server  # loads the S3 driver

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


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


_NO_PART = ("mean nothing to this store", "this engine has no stamp")
"""Reasons to skip that speak of a contract's choices, not of a part that is absent."""


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fail instead of skipping for an absent part, where the caller promised all of them."""
    if not report.skipped or not os.environ.get("JUICECACHE_REQUIRE_PARTS"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(known in reason for known in _NO_PART):
        report.outcome = "failed"
        report.longrepr = f"{reason} (JUICECACHE_REQUIRE_PARTS is set)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse(report)
    return report
