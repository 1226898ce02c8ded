"""A cache group whose members find each other by metadata on a server, as on several machines."""

from __future__ import annotations

import os

import pytest

from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import open_volume

pytestmark = pytest.mark.service

GROUP = {"cache_group": "g", "group_ip": "127.0.0.1", "heartbeat": "1"}


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_members_serve_a_client_by_any_metadata(kind, tmp_path):
    meta = fresh_url(kind, tmp_path)
    format_volume(
        meta,
        "volume",
        bucket=f"{tmp_path}/objects/",
        trash_days=0,
        block_size_kib=64,
        remember=False,
    )
    body = os.urandom(20 * 65536)
    with open_volume(meta, cache_size="0") as writer:
        writer.write_file("/file", body)
    members = [
        open_volume(meta, cache_dir=str(tmp_path / f"member{number}"), **GROUP)
        for number in range(2)
    ]
    try:
        with open_volume(meta, cache_size="0", no_sharing=True, **GROUP) as client:
            assert len(client.group().members) == 2
            assert client.read_file("/file") == body
            assert client.stats().blocks.loads == 0
        assert sum(member.stats().blocks.loads for member in members) == 20
        assert all(member.stats().blocks.loads for member in members)
    finally:
        for member in members:
            member.close()
