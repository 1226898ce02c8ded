"""Parts that many tests share; each starts with the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from juicecache.testing.servers import S3Server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    from juicecache.testing.servers import s3_server  # loads the S3 driver

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
