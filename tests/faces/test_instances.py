"""File systems as objects: cached, pickled, described without secrets, inherited by forks."""

from __future__ import annotations

import json
import os
import pickle

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from juicecache import JuiceCacheFileSystem

SECRETS = {"secret_key": "s3cr3t-key", "session_token": "s3cr3t-token"}


def test_equal_arguments_give_one_instance(open_fs, place):
    fs = open_fs()
    assert open_fs() is fs
    assert fsspec.filesystem("jc", volume="faces", **place.options) is not None
    assert open_fs(attr_cache="1s") is not fs
    assert open_fs(skip_instance_cache=True) is not fs
    assert fs == open_fs()
    assert hash(fs) == hash(open_fs())


def test_a_pickle_is_the_arguments_and_nothing_else(fs):
    fs.pipe("/a", os.urandom(200_000))
    fs.cat("/a")
    text = pickle.dumps(fs)
    assert len(text) < 1000
    assert pickle.loads(text) is fs
    JuiceCacheFileSystem.clear_instance_cache()
    other = pickle.loads(text)
    assert other is not fs
    assert other.cat("/a") == fs.cat("/a")
    other.volume.close()


def test_a_pickle_works_in_another_process(run_script, fs, tmp_path):
    fs.pipe("/a", b"from the parent")
    (tmp_path / "fs.pickle").write_bytes(pickle.dumps(fs))
    out = run_script(
        """
        import pickle, sys
        fs = pickle.load(open(sys.argv[1], "rb"))
        print(fs.cat("/a").decode())
        """,
        str(tmp_path / "fs.pickle"),
    )
    assert out == "from the parent\n"


def test_secrets_are_shown_nowhere(open_fs):
    fs = open_fs(**SECRETS)
    public = fs.to_json(include_password=False)
    for shown in (public, repr(fs), str(fs), repr(fs.volume), repr(fs.volume.options)):
        for secret in SECRETS.values():
            assert secret not in shown
    assert json.loads(public)["args"] == ["faces"]
    whole = AbstractFileSystem.from_json(fs.to_json())
    assert whole is fs


def test_passwords_in_addresses_are_masked():
    class Unopened(JuiceCacheFileSystem):
        """Only described, never opened: there is no such server."""

        def __init__(self, *args: object, **options: object) -> None:
            AbstractFileSystem.__init__(self)

    meta = "redis://user:pa55word@host:6379/1"
    for fs in (Unopened("v", meta), Unopened(volume="v", meta=meta)):
        public = fs.to_json(include_password=False)
        assert "pa55word" not in public
        assert "redis://user:****@host:6379/1" in public
        assert "pa55word" in fs.to_json()


def test_fsspecs_listing_cache_stays_off(open_fs):
    fs = open_fs(use_listings_cache=True, listings_expiry_time=60, max_paths=9)
    fs.pipe("/d/a", b"")
    assert fs.ls("/d", detail=False) == ["/d/a"]
    fs.volume.write_file("/d/b", b"")
    assert fs.ls("/d", detail=False) == ["/d/a", "/d/b"]
    assert not fs.dircache


def test_a_process_that_reads_a_directory_starts_no_thread_and_loads_no_driver(run_script, place):
    out = run_script(
        """
        import sys, threading
        import fsspec
        meta, cache_dir = sys.argv[1:]
        options = dict(volume="faces", meta=meta, cache_dir=cache_dir, no_bgjob=True)
        fs = fsspec.filesystem("juicecache", **options)
        fs.pipe("/a", b"x")
        assert fs.cat("/a") == b"x"
        heavy = {"aiobotocore", "botocore", "aiohttp", "cryptography", "pandas", "numpy"}
        print(sorted(heavy & set(sys.modules)))
        print([thread.name for thread in threading.enumerate()])
        """,
        place.meta,
        place.options["cache_dir"],
    )
    assert out == "[]\n['MainThread']\n"


def test_a_fork_goes_on_with_the_parents_file_system(run_script, place):
    out = run_script(
        """
        import os, sys, threading
        import fsspec

        options = dict(volume="faces", meta=sys.argv[1], cache_dir=sys.argv[2])
        fs = fsspec.filesystem("juicecache", **options)
        fs.pipe({f"/in/{n}": b"%d" % n * 1000 for n in range(20)})
        fs.cat("/in", recursive=True)
        fs.get("/in", sys.argv[3] + "/parent", recursive=True)   # starts the loop and threads
        reading = fs.open("/in/7")
        reading.read(10)
        writing = fs.open("/half", "wb")
        writing.write(b"parent")

        def child(number):
            assert fs.cat(f"/in/{number}") == b"%d" % number * 1000
            assert reading.read() == b"7" * 990
            # fsspec before 2026.9 notices the new process in the first call only.
            first = fsspec.filesystem("juicecache", **options)
            again = fsspec.filesystem("juicecache", **options)
            assert first.cat("/in/1") == again.cat("/in/1")
            assert again.ls("/in", detail=False) == fs.ls("/in", detail=False)
            assert again is fsspec.filesystem("juicecache", **options)
            fs.pipe(f"/out/{number}", b"child")
            again.get("/in", sys.argv[3] + f"/child{number}", recursive=True)
            try:
                writing.write(b"child")
            except OSError as error:
                assert "parent process" in str(error)
            else:
                raise AssertionError("an inherited handle took a write")
            writing.close()

        pids = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                try:
                    child(number)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
        assert reading.read() == b"7" * 990
        writing.close()
        assert fs.cat("/half") == b"parent"
        print(fs.find("/out"), len(os.listdir(sys.argv[3] + "/child2")))
        """,
        place.meta,
        place.options["cache_dir"],
        str(place.folder),
        flags=("-W", "ignore::DeprecationWarning"),  # that a fork copies threads is the point
    )
    assert out == "['/out/0', '/out/1', '/out/2'] 20\n"


def test_a_process_may_end_with_everything_open(run_script, place):
    out = run_script(
        """
        import sys
        import fsspec
        meta, cache_dir = sys.argv[1:]
        fs = fsspec.filesystem("juicecache", volume="faces", meta=meta, cache_dir=cache_dir)
        fs.pipe("/a", b"a" * 100_000)
        reading = fs.open("/a")
        reading.read(3)
        fs.volume.remove_tree("/a", skip_trash=True)
        unfinished = fs.open("/c", "wb")
        unfinished.write(b"c")
        """,
        place.meta,
        place.options["cache_dir"],
        flags=("-X", "dev"),
    )
    assert out == ""


@pytest.mark.parametrize("arguments", [{}, {"asynchronous": True}])
def test_the_loop_belongs_to_fsspec(open_fs, arguments, tmp_path):
    fs = open_fs(**arguments)
    fs.pipe("/a", b"x")
    fs.get("/a", str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"x"
    assert (fs.loop is None) == bool(arguments)


def test_the_errors_are_an_attribute_of_the_package(run_script):
    run_script(
        """
        import sys
        import juicecache

        assert "juicecache.errors" not in sys.modules
        assert issubclass(juicecache.errors.BatchError, juicecache.errors.JuicecacheError)
        """
    )
