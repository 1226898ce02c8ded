"""Both clients at the same time: writers, open files, compaction, and a writer that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from juicecache.meta.rows import Chunk, Counter, Row, Session, Sustained
from juicecache.model.attr import Attr
from juicecache.testing.official import SharedVolume, assert_same
from juicecache.testing.oracle import assert_clean, leaked
from juicecache.volume.parts import open_engine
from juicecache.volume.volume import Volume

pytestmark = pytest.mark.service

TOGETHER_S = 2.0
KIB = 1024


def rows(volume: SharedVolume, table: type[Row]) -> list[Any]:
    with closing(open_engine(volume.meta, read_only=True)) as engine:
        return engine.read(lambda tx: list(tx.scan(table)))


class Writer(threading.Thread):
    """Makes, overwrites, appends to, renames and removes files until told to stop."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self.expected: dict[str, bytes] = {}
        self.rounds = 0
        self.error: Exception | None = None

    def run(self) -> None:
        stop = time.monotonic() + TOGETHER_S
        try:
            while time.monotonic() < stop:
                self.round(self.rounds)
                self.rounds += 1
        except Exception as error:  # shown by the test
            self.error = error

    def round(self, number: int) -> None:
        path = f"{self.folder}/{number % 20}"
        body = b"%d " % number * (1 + number * 37 % 9000)
        self.write(path, body)
        self.expected[path] = body
        if number % 3 == 0:
            self.append(path, b"tail")
            self.expected[path] += b"tail"
        if number % 5 == 0:
            self.rename(path, path + "-moved")
            self.expected[path + "-moved"] = self.expected.pop(path)
        if number % 7 == 0 and path in self.expected:
            self.remove(path)
            del self.expected[path]


class OurWriter(Writer):
    def __init__(self, volume: Volume, folder: str) -> None:
        super().__init__(folder)
        self.volume = volume
        volume.make_directory(folder)

    def write(self, path: str, body: bytes) -> None:
        self.volume.write_file(path, body)

    def append(self, path: str, body: bytes) -> None:
        with self.volume.open(path, "ab") as file:
            file.write(body)

    def rename(self, source: str, target: str) -> None:
        self.volume.rename(source, target)

    def remove(self, path: str) -> None:
        self.volume.unlink(path)


class TheirWriter(Writer):
    def __init__(self, point: Path, folder: str) -> None:
        super().__init__(folder)
        self.point = point
        os.mkdir(self.at(folder))

    def at(self, path: str) -> str:
        return f"{self.point}{path}"

    def write(self, path: str, body: bytes) -> None:
        Path(self.at(path)).write_bytes(body)

    def append(self, path: str, body: bytes) -> None:
        with open(self.at(path), "ab") as file:
            file.write(body)

    def rename(self, source: str, target: str) -> None:
        os.rename(self.at(source), self.at(target))

    def remove(self, path: str) -> None:
        os.unlink(self.at(path))


@pytest.mark.parametrize("trash_days", [0, 1], ids=["no trash", "trash"])
def test_writers_of_both_do_not_disturb_each_other(shared: SharedVolume, trash_days: int) -> None:
    shared.format_theirs(trash_days=trash_days, compress="lz4")
    with shared.open() as ours:
        with shared.mounted() as point:
            writers = [
                OurWriter(ours, "/a"),
                OurWriter(ours, "/b"),
                TheirWriter(point, "/c"),
                TheirWriter(point, "/d"),
            ]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            assert [writer.error for writer in writers] == [None] * 4
            assert all(writer.rounds > 0 for writer in writers)
            assert_same(ours, point)
            for writer in writers:
                for path, body in writer.expected.items():
                    assert ours.read_file(path) == body, path
        report = ours.gc(delete=True, compact=True, min_age_s=0)
        assert report.errors == ()
        # Their client counts a transaction that it has to repeat twice, also when nobody but
        # a busy database disturbs it; what is off must not be in our directories.
        mended = ours.fsck(repair=True, sync_dir_stat=True)
        assert mended.ok, mended
        assert not [line for line in mended.repaired if line.startswith(("/a:", "/b:"))]
    assert_clean(shared.meta)


def test_our_sums_are_exact_under_contention(shared: SharedVolume) -> None:
    shared.format_theirs(trash_days=1)
    with shared.open() as one, shared.open() as other:
        writers = [OurWriter(one, "/a"), OurWriter(other, "/b"), OurWriter(other, "/c")]
        for writer in writers:
            writer.start()
        with closing(open_engine(shared.meta, read_only=False)) as engine:
            while any(writer.is_alive() for writer in writers):
                engine.write(lambda tx: tx.add(Counter, "nextChunk", value=1))
                time.sleep(0.002)  # the lock is not fair
        for writer in writers:
            writer.join()
        assert [writer.error for writer in writers] == [None] * 3
    assert_clean(shared.meta)


def test_both_append_to_and_overwrite_one_file(shared: SharedVolume) -> None:
    """Each in a half of its own; all bytes of both are there at the end."""
    shared.format_ours(trash_days=0)
    with shared.open() as ours:
        ours.write_file("/both", bytes(200 * KIB))
        with shared.mounted() as point:

            def write_theirs() -> None:
                for number in range(100):
                    with open(point / "both", "r+b") as file:
                        file.seek((100 + number) * KIB)
                        file.write(b"t" * KIB)

            thread = threading.Thread(target=write_theirs)
            thread.start()
            for number in range(100):
                with ours.open("/both", "r+b") as file:
                    file.seek(number * KIB)
                    file.write(b"o" * KIB)
            thread.join()
            assert ours.read_file("/both") == b"o" * 100 * KIB + b"t" * 100 * KIB
            assert (point / "both").read_bytes() == b"o" * 100 * KIB + b"t" * 100 * KIB
    assert_clean(shared.meta)


WRITES = """
import sys
from juicecache import open_volume
volume = open_volume(sys.argv[1], cache_size="0")
for number in range(100):
    path = f"/{number % 60}"
    if number % 4 == 3:
        with volume.open(path, "wb") as file:
            for part in range(5):
                file.write(b"%d" % number * 20_000)
                file.flush()
    else:
        volume.write_file(path, b"%d" % number * 100_000)
    print(number, flush=True)
"""


@pytest.mark.parametrize("moment", [1, 40, 77])
def test_a_writer_that_is_killed_damages_nothing(shared: SharedVolume, moment: int) -> None:
    shared.format_ours(trash_days=0, block_size_kib=64)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITES, shared.meta], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    done = [int(writer.stdout.readline()) for _ in range(moment)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    done += [int(line) for line in writer.stdout]
    writer.stdout.close()
    last = {number % 60: number for number in done}
    with shared.open() as ours:
        report = ours.gc(delete=True, min_age_s=0)
        assert report.errors == ()
        under_way = (len(done)) % 60
        for slot, number in last.items():
            if slot == under_way:
                continue  # it may be either the old or the new content
            body = ours.read_file(f"/{slot}")
            assert body == b"%d" % number * 100_000
        # Some engines add to the volume's totals once a second, and so does the official client.
        mended = ours.fsck(repair=True, sync_dir_stat=True)
        assert mended.ok, mended
        assert [line for line in mended.repaired if not line.startswith("volume: totals")] == []
    assert_clean(shared.meta)


def test_what_we_hold_open_outlives_their_unlink_through_us(shared: SharedVolume) -> None:
    """Our own unlink of an open file leaves a session and a sustained inode that all can see."""
    shared.format_ours(trash_days=0)
    with shared.open() as ours, shared.mounted() as point:
        ours.write_file("/open", b"still here")
        with ours.open("/open") as file:
            ours.unlink("/open")
            assert not (point / "open").exists()
            ((sid, inode),) = rows(shared, Sustained)
            assert f'"Sid": {sid}' in shared.run("status", shared.meta)
            assert file.read() == b"still here"
        assert rows(shared, Sustained) == []
        assert inode not in {attr.inode for attr in rows(shared, Attr)}
        ours.parts().cleaners.submit(lambda: None).result()
    assert rows(shared, Session) == []
    assert_clean(shared.meta)


def test_what_they_hold_open_outlives_their_unlink(shared: SharedVolume) -> None:
    shared.format_theirs(trash_days=0)
    with shared.open() as ours, shared.mounted() as point:
        ours.write_file("/open", b"still here")
        with open(point / "open", "rb") as file:
            os.unlink(point / "open")
            assert not ours.exists("/open")
            # Our collector leaves what a live session holds.
            report = ours.gc(delete=True, min_age_s=0)
            assert (report.deleted_files, report.leaked_objects) == (0, 0)
            assert file.read() == b"still here"
    with shared.open() as ours:
        ours.gc(delete=True, min_age_s=0)
    assert_clean(shared.meta)


def test_a_session_that_died_with_an_open_file_is_cleaned_up(shared: SharedVolume) -> None:
    shared.format_ours(trash_days=0)
    text = """
import sys, time
from juicecache import open_volume
volume = open_volume(sys.argv[1], cache_size="0")
volume.write_file("/open", b"held")
file = volume.open("/open")
volume.unlink("/open")
print("ready", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", text, shared.meta],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "ready\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    (session,) = rows(shared, Session)
    with closing(open_engine(shared.meta, read_only=False)) as engine:
        engine.write(lambda tx: tx.put(session._replace(expire_s=1)))
    with shared.open() as ours:
        assert ours.gc().stale_sessions == 1
        assert ours.gc(delete=True, min_age_s=0).stale_sessions == 1
        assert ours.gc(min_age_s=0).objects == 0
        # What was killed within a second of its last change may not have counted it.
        ours.fsck(repair=True, sync_dir_stat=True)
    assert rows(shared, Session) == []
    assert_clean(shared.meta)


@pytest.mark.parametrize("trash_days", [0, 1], ids=["no trash", "trash"])
def test_their_compaction_under_our_open_handle(shared: SharedVolume, trash_days: int) -> None:
    shared.format_ours(trash_days=trash_days)
    with shared.open() as ours:
        expected = b""
        for number in range(10):
            with ours.open("/file", "ab") as file:
                file.write(b"%d" % number * 1000)
            expected += b"%d" % number * 1000
        with ours.open("/file") as handle:
            assert handle.read(500) == expected[:500]
            shared.run("gc", "--compact", "--delete", shared.meta)
            assert [len(chunk.slices) for chunk in rows(shared, Chunk)] == [24]
            assert handle.read() == expected[500:]
        assert ours.read_file("/file") == expected
    assert_clean(shared.meta)


def test_our_compaction_under_their_open_handle(shared: SharedVolume) -> None:
    shared.format_theirs(trash_days=0)
    with shared.open() as ours, shared.mounted() as point:
        expected = b""
        for number in range(4):
            body = bytes([number]) * 300 * KIB
            with ours.open("/file", "ab") as file:
                file.write(body)
            expected += body
        with open(point / "file", "rb", buffering=0) as handle:
            assert handle.read(1000) == expected[:1000]
            assert ours.compact("/file") == 1
            handle.seek(0)
            assert handle.readall() == expected
        assert (point / "file").read_bytes() == expected
    assert_clean(shared.meta)


def test_leaked_objects_are_seen_and_removed_by_either(shared: SharedVolume) -> None:
    shared.format_ours(trash_days=0)
    with shared.open() as ours:
        ours.write_file("/kept", b"kept")
        for slice_id in (900_001, 900_002):
            name = ours.parts().layout.object_name(f"{slice_id}_0_4")
            path = shared.folder / "bucket" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"leak")
        assert leaked(shared.meta) == 2
        assert (ours.gc().skipped_objects, ours.gc(min_age_s=0).leaked_objects) == (2, 2)
        assert ours.gc(delete=True, min_age_s=0).removed_objects == 2
        assert ours.read_file("/kept") == b"kept"
    assert_clean(shared.meta)
