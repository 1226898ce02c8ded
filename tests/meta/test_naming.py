"""Inodes by the path that leads to them."""

from __future__ import annotations

import pytest

from juicecache.meta.naming import path_of
from juicecache.model.attr import ROOT_INODE, TRASH_INODE
from juicecache.testing.engines import SHARED_KINDS, fresh_url
from juicecache.volume.formatting import format_volume
from juicecache.volume.volume import open_volume


@pytest.mark.parametrize("kind", SHARED_KINDS)
def test_any_inode_has_a_path(kind, tmp_path):
    meta = fresh_url(kind, tmp_path)
    format_volume(meta, "volume", bucket=f"{tmp_path}/objects/", remember=False)
    with open_volume(meta, cache_size="0") as volume:
        volume.make_directory("/a/b", parents=True)
        volume.write_file("/a/b/f", b"x")
        volume.write_file("/linked", b"x")
        volume.link("/linked", "/a/again")
        volume.write_file("/gone", b"x")
        gone = volume.stat("/gone").inode
        volume.unlink("/gone")
        engine = volume.parts().engine
        for path in ("/a/b", "/a/b/f", "/a", "/"):
            assert path_of(engine, volume.stat(path).inode) == path
        assert path_of(engine, volume.stat("/linked").inode) in ("/linked", "/a/again")
        assert path_of(engine, ROOT_INODE) == "/"
        assert path_of(engine, TRASH_INODE) == "/.trash"
        (entry,) = volume.trash()
        assert path_of(engine, gone) == f"/.trash/{entry.hour}/{ROOT_INODE}-{gone}-gone"
        assert path_of(engine, 4242) == ""
