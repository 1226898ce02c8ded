"""Small files through fsspec: what is packed, when it shows, and what a failure leaves."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from fsspec.asyn import sync

from juicecache.errors import BatchError, UnsupportedError
from juicecache.faces import contents

CONTENTS = {f"/set/{number:03}": bytes([number]) * (500 + number) for number in range(60)}
LARGE = bytes(range(256)) * 8192  # 2 MiB: over a quarter of a block


def objects(place) -> int:
    return sum(1 for path in (place.folder / "objects" / "faces" / "chunks").rglob("*_*"))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for path, content in CONTENTS.items():
        file = folder / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / "large").write_bytes(LARGE)
    (folder / "empty").mkdir()
    return folder


def test_a_dictionary_is_one_object(fs, place):
    fs.pipe(CONTENTS)
    assert objects(place) == 1
    assert fs.cat(list(CONTENTS)) == CONTENTS


def test_a_folder_is_one_object_besides_its_large_files(fs, place, source):
    fs.put(f"{source}/", "/copy/", recursive=True)
    assert objects(place) == 2
    assert {path: fs.cat_file(f"/copy{path}") for path in CONTENTS} == CONTENTS
    assert fs.cat_file("/copy/large") == LARGE
    assert fs.isdir("/copy/empty")


def test_asynchronous_writers_pack_as_well(open_fs, place, source):
    afs = open_fs(asynchronous=True)

    async def work() -> None:
        await afs._pipe(CONTENTS)
        await afs._put(f"{source}/", "/copy/", recursive=True)

    asyncio.run(work())
    assert objects(place) == 3


@pytest.mark.parametrize("kind", ["pipe_file", "open", "put", "pipe"])
def test_a_transaction_packs_whatever_writes(fs, place, source, kind):
    with fs.transaction:
        for path, content in CONTENTS.items():
            if kind == "pipe_file":
                fs.pipe_file(path, content)
            elif kind == "open":
                with fs.open(path, "wb") as file:
                    file.write(content[:100])
                    file.write(content[100:])
            elif kind == "put":
                fs.put_file(f"{source}{path}", path)
        if kind == "pipe":
            fs.pipe(CONTENTS)
    assert fs.cat(list(CONTENTS)) == CONTENTS
    assert objects(place) == 1


def test_a_transaction_may_be_ended_by_hand(fs, place):
    fs.start_transaction()
    fs.pipe(CONTENTS)
    assert fs.find("/") == []
    fs.end_transaction()
    assert fs.cat(list(CONTENTS)) == CONTENTS
    fs.pipe_file("/after", b"1")
    assert fs.cat_file("/after") == b"1"


def test_an_exclusive_file_in_a_transaction_is_refused_at_once(fs):
    fs.pipe_file("/there", b"old")
    with fs.transaction:
        with pytest.raises(FileExistsError):
            fs.pipe_file("/there", b"new", mode="create")
        fs.pipe_file("/other", b"new", mode="create")
    assert fs.cat(["/there", "/other"]) == {"/there": b"old", "/other": b"new"}


def test_an_exclusive_file_that_others_made_meanwhile_fails_at_the_end(fs, open_fs):
    other = open_fs(skip_instance_cache=True)
    fs.start_transaction()
    fs.pipe_file("/mine", b"new", mode="create")
    fs.pipe_file("/free", b"new")
    other.pipe_file("/mine", b"theirs")
    with pytest.raises(BatchError) as caught:
        fs.end_transaction()
    assert list(caught.value.failed) == ["/mine"]
    assert isinstance(caught.value.__cause__, FileExistsError)
    assert fs.cat(["/mine", "/free"]) == {"/mine": b"theirs", "/free": b"new"}


def test_one_bad_name_does_not_keep_the_others_back(fs):
    fs.mkdir("/set/005")
    with pytest.raises(BatchError, match=r"1 of 60 files were not written.*/set/005") as caught:
        fs.pipe(CONTENTS)
    assert list(caught.value.failed) == ["/set/005"]
    rest = {path: content for path, content in CONTENTS.items() if path != "/set/005"}
    assert fs.cat(list(rest)) == rest
    with pytest.raises(IsADirectoryError):
        fs.pipe({"/set/005": b"alone"})


def test_a_local_file_that_cannot_be_read_does_not_keep_the_others_back(fs, source):
    wanted = [str(source / path[1:]) for path in CONTENTS]
    with pytest.raises(BatchError) as caught:
        fs.put([*wanted, str(source / "absent")], [*CONTENTS, "/absent"])
    assert list(caught.value.failed) == ["/absent"]
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert sorted(caught.value.committed) == fs.find("/") == list(CONTENTS)
    with pytest.raises(FileNotFoundError):
        fs.put([str(source / "absent")], ["/absent"])
    with fs.transaction:
        with pytest.raises(FileNotFoundError):
            fs.put([str(source / "absent"), wanted[0]], ["/absent", "/present"])
        fs.pipe_file("/other", b"1")
    assert fs.exists("/present")
    assert fs.exists("/other")


def test_an_interrupted_copy_stops(fs, source, monkeypatch):
    wanted = [str(source / path[1:]) for path in CONTENTS]
    monkeypatch.setattr(contents, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fs.put(wanted, list(CONTENTS))
    monkeypatch.undo()
    assert fs.find("/") == []
    fs.put(wanted, list(CONTENTS))
    assert fs.find("/") == list(CONTENTS)


def interrupted(loop, call, *arguments, **options):
    """Do the work, and be interrupted before its end is seen."""
    sync(loop, call, *arguments, **options)
    raise KeyboardInterrupt


def test_transactions_do_not_nest(fs):
    with pytest.raises(UnsupportedError, match="do not nest"):
        nest(fs)
    assert fs.find("/") == []
    with fs.transaction:
        fs.pipe_file("/after", b"1")
    fs.start_transaction()
    with pytest.raises(UnsupportedError, match="do not nest"):
        fs.start_transaction()
    fs.pipe_file("/by-hand", b"1")
    fs.end_transaction()
    assert fs.find("/") == ["/after", "/by-hand"]


def nest(fs):
    with fs.transaction:
        fs.pipe_file("/outer", b"1")
        with fs.transaction:
            fs.pipe_file("/inner", b"2")


def test_a_caught_error_inside_a_transaction_takes_nothing_else_with_it(fs, tmp_path):
    with fs.transaction:
        fs.pipe_file("/one", b"1")
        with pytest.raises(FileNotFoundError):
            fs.put_file(str(tmp_path / "absent"), "/absent")
        fs.pipe_file("/two", b"2")
    assert fs.find("/") == ["/one", "/two"]


def test_threads_share_a_transaction(fs):
    def write(part: int) -> None:
        for path, content in list(CONTENTS.items())[part::4]:
            fs.pipe_file(path, content)

    with fs.transaction:
        threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert fs.cat(list(CONTENTS)) == CONTENTS


def test_a_transaction_that_begins_meanwhile_takes_no_copy_with_it(open_fs, source):
    afs = open_fs(asynchronous=True)

    async def work() -> None:
        copying = asyncio.create_task(afs._put(f"{source}/", "/copy/", recursive=True))
        await asyncio.sleep(0)
        afs.start_transaction()
        await copying
        afs.transaction.complete(commit=False)

    asyncio.run(work())
    assert {path: afs.cat_file(f"/copy{path}") for path in CONTENTS} == CONTENTS


def test_what_is_no_regular_file_is_copied_as_a_stream(fs, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(LARGE))
    writer.start()
    fs.put([str(pipe)], ["/streamed"])
    writer.join()
    assert fs.cat_file("/streamed") == LARGE
