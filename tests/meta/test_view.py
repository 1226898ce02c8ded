"""What is remembered of the tree, and for how long."""

from __future__ import annotations

import threading

import pytest

from juicecache.meta import view as view_module
from juicecache.meta.engine import Listed
from juicecache.meta.rows import Counter
from juicecache.meta.view import View
from juicecache.model.attr import Attr, NodeType
from juicecache.model.slices import Extent

FILE = Attr(5, NodeType.FILE, mtime_ns=10, ctime_ns=20)
EXTENTS = [Extent(0, 7, 100, 0, 100)]


def change(engine) -> None:
    engine.write(lambda tx: tx.add(Counter, "nextInode", value=1))


def test_attributes_are_fresh_until_anything_changes(engine):
    if engine.stamp() is None:
        pytest.skip("this engine has no stamp")
    view = View(engine)
    view.fresh(0).keep("/file", FILE)
    assert view.fresh(0).attrs == {"/file": FILE}
    change(engine)
    assert view.fresh(0).attrs == {}


def test_an_age_that_is_allowed_keeps_them_longer(engine):
    view = View(engine)
    view.fresh(0).keep("/file", FILE)
    change(engine)
    assert view.fresh(3600).attrs == {"/file": FILE}
    assert view.fresh(0).attrs == {}
    view.fresh(0).keep("/file", FILE)
    view.forget()
    assert view.fresh(3600).attrs == {}


def test_what_was_read_before_a_change_is_not_kept_behind_it(engine):
    view = View(engine)
    snapshot = view.fresh(0)
    change(engine)
    view.fresh(0)
    snapshot.keep("/file", FILE)
    assert view.fresh(3600).attrs == {}


def test_slice_lists_are_those_of_one_version(engine):
    view = View(engine)
    view.keep_extents(FILE, [0, 3], [EXTENTS, []])
    assert view.extents(FILE, 0) == EXTENTS
    assert view.extents(FILE, 3) == []
    assert view.extents(FILE, 1) is None
    assert view.extents(FILE._replace(mtime_ns=11), 0) is None
    assert view.extents(FILE._replace(ctime_ns=21), 0) is None


def test_what_is_remembered_is_bounded(engine, monkeypatch):
    monkeypatch.setattr(view_module, "_CHUNKS_MAX", 4)
    monkeypatch.setattr(view_module, "_ATTRS_MAX", 3)
    view = View(engine)
    for index in range(10):
        view.keep_extents(FILE, [index], [EXTENTS])
        view.fresh(0).keep(f"/{index}", FILE)
    assert [index for index in range(10) if view.extents(FILE, index)] == [6, 7, 8, 9]
    assert len(view.fresh(0).attrs) <= 3


def test_threads_may_fill_it_at_the_same_time(engine, monkeypatch):
    monkeypatch.setattr(view_module, "_CHUNKS_MAX", 8)
    view = View(engine)
    errors: list[BaseException] = []

    def fill(first: int) -> None:
        try:
            for index in range(first, first + 3000):
                view.keep_extents(FILE, [index], [EXTENTS])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fill, args=(number * 10_000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(view._extents) <= 8 + 4


def test_a_page_that_is_too_much_is_left_out(engine, monkeypatch):
    monkeypatch.setattr(view_module, "_ATTRS_MAX", 3)
    snapshot = View(engine).fresh(0)
    snapshot.keep("/d/x", FILE)
    snapshot.keep_page("/d/", [Listed(b"%d" % number, FILE, b"") for number in range(3)])
    assert list(snapshot.attrs) == ["/d/x"]
    snapshot.keep_page("/d/", [Listed(b"%d" % number, FILE, b"") for number in range(2)])
    assert list(snapshot.attrs) == ["/d/x", "/d/0", "/d/1"]


def test_pages_grow_and_end():
    paging = view_module.Paging()
    assert [paging.look() for _ in range(3)] == [0, 0, 64]
    paging.advance([Listed(b"%03d" % number, FILE, b"") for number in range(64)], 64)
    assert (paging.after, paging.look()) == (b"063", 128)
    paging.advance([Listed(b"064", FILE, b"")], 128)
    assert (paging.after, paging.look()) == (b"064", 0)


def test_forgetting_all_takes_the_slice_lists_too(engine):
    view = View(engine)
    view.keep_extents(FILE, [0], [EXTENTS])
    view.forget()
    assert view.extents(FILE, 0) == EXTENTS
    view.forget_all()
    assert view.extents(FILE, 0) is None
