"""A store whose address changes while requests are made."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from juicecache.objects.build import StoreConfig
from juicecache.objects.replaceable import ReplaceableStore
from juicecache.runtime import finish


@pytest.fixture
def folders(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def store(folders):
    store = ReplaceableStore(StoreConfig("file", f"{folders}/a/"))
    yield store
    finish(store.aclose())


def test_requests_go_to_the_store_of_their_time(folders, store):
    finish(store.put("x", b"a"))
    begun = store.get("x")
    assert store.take_over(StoreConfig("file", f"{folders}/b/"))
    finish(store.put("x", b"b"))
    assert finish(begun) == b"a"
    assert finish(store.get("x", 0, 1)) == b"b"
    assert finish(store.head("x")).size_bytes == 1
    finish(store.delete("x"))
    assert (folders / "a" / "x").read_bytes() == b"a"
    assert not (folders / "b" / "x").exists()
    assert store.describe() == f"file://{folders}/b/"


def test_the_same_address_changes_nothing(folders, store):
    before = store._inner
    assert store.take_over(StoreConfig("file", f"{folders}/a/"))
    assert store._inner is before


def test_what_cannot_be_followed_stays(folders, store, caplog):
    finish(store.put("x", b"a"))
    far = StoreConfig("s3", "http://127.0.0.1:1/bucket", "key", "secret-word")
    with caplog.at_level(logging.WARNING, "juicecache"):
        assert not store.take_over(far)
        assert not store.take_over(replace(far, storage="nowhere"))
    assert "open the volume anew" in caplog.text
    assert "secret-word" not in caplog.text
    assert finish(store.get("x")) == b"a"


def test_old_stores_are_closed_two_changes_later():
    config = StoreConfig("s3", "http://127.0.0.1:1/bucket", "key", "secret")
    store = ReplaceableStore(config)
    for number in range(10):
        assert store.take_over(replace(config, secret_key=str(number)))
        assert len(store._retired) <= 2
