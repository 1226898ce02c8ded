"""Erasing a volume from a database of Redis that others use too."""

from __future__ import annotations

import redis as driver

from juicecache.testing.engine_contract import ROWS, put
from juicecache.testing.engines import fresh_url
from juicecache.volume.parts import open_engine


def test_keys_of_others_stay(tmp_path):
    url = fresh_url("redis", tmp_path)
    engine = open_engine(url, read_only=False)
    put(engine, *ROWS)
    engine.put_setting("{}")
    client = driver.Redis.from_url(url)
    others = {b"i", b"i7x", b"image7", b"settings", b"c7", b"d7:cache", b"session", b"celery"}
    for name in others:
        client.set(name, b"theirs")
    engine.erase()
    assert set(client.keys()) == others
    client.close()
    engine.close()


def test_more_keys_than_a_page(tmp_path):
    url = fresh_url("redis", tmp_path)
    engine = open_engine(url, read_only=False)
    client = driver.Redis.from_url(url)
    client.mset({f"i{inode}": b"" for inode in range(5000)})
    engine.put_setting("{}")
    seen = []
    engine.erase(seen.append)
    assert seen[-1] == 5000
    assert len(seen) > 2
    assert client.dbsize() == 0
    client.close()
    engine.close()
