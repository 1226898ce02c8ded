"""The books and the lock on them, also across a fork."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from juicecache.cache.books import Books, BooksFile


@contextmanager
def held_by_a_thread(books: BooksFile) -> Iterator[None]:
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with books.held():
            taken.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        release.set()
        thread.join()


def test_what_is_changed_is_kept(tmp_path):
    path = os.fsencode(tmp_path / "root" / ".space")
    with BooksFile(path).held() as books:
        assert books == Books(0, 0, 0.0)
        books.used_bytes, books.items, books.counted_at_s = 1 << 40, 3, 17.25
    with BooksFile(path).held() as books:
        assert books == Books(1 << 40, 3, 17.25)


def test_what_is_damaged_or_of_another_boot_must_be_counted(tmp_path):
    path = tmp_path / ".space"
    file = BooksFile(os.fsencode(path))
    for damaged in (b"", b"JCSPACE1", b"\xff" * 48, b"JCSPACE1" + b"\xff" * 40):
        path.write_bytes(damaged)
        with file.held() as books:
            assert books == Books(0, 0, 0.0)
    file.close()


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.cache.books._LOCK_WAIT_S", 0.02)
    path = os.fsencode(tmp_path / ".space")
    mine, other = BooksFile(path), BooksFile(path)
    with held_by_a_thread(mine):
        for file in (mine, other):
            with pytest.raises(TimeoutError), file.held():
                pass
    for file in (mine, other):
        with file.held():
            pass
        file.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_has_its_own_lock_and_respects_its_parents(tmp_path, monkeypatch):
    monkeypatch.setattr("juicecache.cache.books._LOCK_WAIT_S", 0.02)
    file = BooksFile(os.fsencode(tmp_path / ".space"))
    released, release = os.pipe()
    refused, refuse = os.pipe()
    with held_by_a_thread(file):
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            file.after_fork_in_child()
            try:
                with file.held():
                    os._exit(1)  # the parent's thread holds it
            except TimeoutError:
                os.write(refuse, b"x")
            os.close(release)
            os.read(released, 1)
            with file.held():
                os._exit(0)
        os.close(refuse)
        assert os.read(refused, 1) == b"x"
    with file.held():
        pass
    os.write(release, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (released, release, refused):
        os.close(fd)
    file.close()
