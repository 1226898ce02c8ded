"""The walk over infos, whatever they come from."""

from __future__ import annotations

from juicecache.faces.listing import walk_entries

DEPTH = 3000


def ls(path: str) -> list[dict]:
    """A directory ``d`` and a file ``f`` in each directory, `DEPTH` levels down."""
    infos = [{"name": f"{path.rstrip('/')}/f", "type": "file", "islink": False}]
    if path.count("d") < DEPTH:
        infos.append({"name": f"{path.rstrip('/')}/d", "type": "directory", "islink": False})
    return infos


def test_a_tree_that_is_deeper_than_calls_is_walked_both_ways():
    walked = {}
    for topdown in (True, False):
        steps = walk_entries(ls, "/", None, "raise", topdown=topdown, detail=False)
        walked[topdown] = list(steps)
    assert len(walked[True]) == DEPTH + 1
    assert walked[True][0] == ("/", ["d"], ["f"])
    assert walked[True][::-1] == walked[False]
    limited = walk_entries(ls, "/", 3, "raise", topdown=False, detail=False)
    assert [step[0] for step in limited] == ["/d/d", "/d", "/"]


def test_names_taken_out_or_added_top_down_are_left_out_or_visited():
    def small(path: str) -> list[dict]:
        if path.count("/") > 1:
            return []
        names = ["x", "y"] if path == "/" else ["z"]
        return [
            {"name": f"{path.rstrip('/')}/{name}", "type": "directory", "islink": name == "z"}
            for name in names
        ]

    seen = []
    for path, directories, _ in walk_entries(small, "/", None, "raise", topdown=True, detail=False):
        seen.append(path)
        if path == "/":
            directories[:] = ["y", "added"]
    assert seen == ["/", "/y", "/added"]  # a link, /y/z, is named and not followed
