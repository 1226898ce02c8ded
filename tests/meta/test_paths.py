"""Paths as text and as names."""

from __future__ import annotations

import pytest

from juicecache.errors import InvalidNameError
from juicecache.meta.paths import join_path, split_path


@pytest.mark.parametrize(
    ("path", "names"),
    [("", ()), ("/", ()), (".", ()), ("a", (b"a",)), ("//a/./b/", (b"a", b"b")), ("...", (b"...",)),
     ("\udcff/\u00e9", (b"\xff", b"\xc3\xa9"))],
)  # fmt: skip
def test_paths_are_split(path, names):
    assert split_path(path) == names
    assert split_path(join_path(names)) == names


@pytest.mark.parametrize("path", ["..", "/a/../b", "a/.."])
def test_no_path_climbs(path):
    with pytest.raises(InvalidNameError):
        split_path(path)


def test_the_root_is_a_slash():
    assert join_path(()) == "/"
    assert join_path((b"a", b"\xff")) == "/a/\udcff"
