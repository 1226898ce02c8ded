"""Both clients change packed files at random while everything that collects and compacts runs."""

from __future__ import annotations

import os
import pickle
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from juicecache.testing.kinds import Kind, with_engines
from juicecache.testing.official import SharedVolume, seen_by_mount, seen_by_us
from juicecache.testing.oracle import assert_clean
from juicecache.volume.volume import Volume

pytestmark = [pytest.mark.service, pytest.mark.slow]

STRESS_S = float(os.environ.get("JUICECACHE_STRESS_S", "5"))
"""How long each kind of volume is under stress; a minute or more says something."""
TAIL_LINES = 40

KINDS = [
    Kind("file", "lz4", "", 0),
    Kind("file", "none", "aes256gcm-rsa", 1),
    Kind("s3", "lz4", "", 1),
    Kind("s3", "none", "chacha20-rsa", 0),
]


class Workers:
    """Three processes, and the folders that they hand to each other."""

    def __init__(self, folder: Path, places: dict[str, str]) -> None:
        self.folder = folder
        self.given: set[str] = set()
        self._errors = open(folder / "errors", "w+")  # noqa: SIM115  (closed in `close`)
        seed = random.randrange(10**9)
        self._processes = {
            name: subprocess.Popen(
                [
                    *(sys.executable, "-m", "juicecache.testing.stress"),
                    *(place, name, str(folder), str(STRESS_S), f"{seed + number}"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                bufsize=1,
            )
            for number, (name, place) in enumerate(places.items())
        }

    def join(self) -> None:
        """Hand folders on until all have ended; fail with what they did last if one failed."""
        with ThreadPoolExecutor(len(self._processes)) as pool:
            list(pool.map(self._route, self._processes))
        codes = {name: process.wait() for name, process in self._processes.items()}
        assert set(codes.values()) == {0}, f"{codes}\n{self.tail()}"

    def _route(self, name: str) -> None:
        others = [other for other in self._processes if (other == "theirs") != (name == "theirs")]
        for line in self._processes[name].stdout:
            self.given.add(pickle.loads(Path(line.strip()).read_bytes())[0][0])
            with suppress(BrokenPipeError):  # it has ended: the folder stays as it is
                self._processes[random.choice(others)].stdin.write(line)

    def tail(self) -> str:
        """Return the last operations of all, in order, and the errors."""
        lines = [line for log in self.folder.glob("*.log") for line in log.read_text().splitlines()]
        return "\n".join([*sorted(lines)[-TAIL_LINES:], (self.folder / "errors").read_text()])

    def expected(self) -> dict[str, bytes]:
        """Return what every file must contain: what workers have, and what nobody took over."""
        models = [*self.folder.glob("*.end"), *self.folder.glob("*.given")]
        return {
            path: bytes(content)
            for model in models
            for _, files in pickle.loads(model.read_bytes())
            for path, content in files.items()
        }

    def close(self) -> None:
        self._errors.close()
        for process in self._processes.values():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()


@contextmanager
def repeated(*acts: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Do each of the acts over and over, in a thread of its own, until the block ends."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(act: Callable[[], object]) -> None:
        # Pauses, because a database lock is not fair: whoever asks all the time has it.
        while not stop.wait(0.1):
            try:
                act()
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("kind", "engine_kind"),
    with_engines(KINDS),
    ids=lambda one: one.name() if isinstance(one, Kind) else one,
)
@pytest.mark.timeout(300 + 2 * STRESS_S)
def test_every_file_is_what_its_owner_made_it(
    request, shared: SharedVolume, rsa_key: str, tmp_path: Path, kind: Kind, capsys
) -> None:
    shared.format_ours(**kind.options(lambda: request.getfixturevalue("s3"), rsa_key))
    folder = tmp_path / "workers"
    folder.mkdir()
    with shared.open() as ours:
        with shared.mounted() as point:
            workers = Workers(folder, {"a": shared.meta, "b": shared.meta, "theirs": str(point)})
            try:
                with repeated(
                    lambda: their_upkeep(shared, point), lambda: our_upkeep(ours)
                ) as errors:
                    workers.join()
            finally:
                workers.close()
            assert errors == [], workers.tail()
            assert_expected(shared, point, workers)
        with capsys.disabled():
            print(f"\n{kind.name()}: {operations(folder)}", end=" ")
        assert ours.gc(delete=True, compact=True, min_age_s=0).errors == ()
        check_sums(ours, workers.given)
    assert_clean(shared.meta)


def their_upkeep(shared: SharedVolume, point: Path) -> None:
    shared.run("gc", "--delete", shared.meta)
    shared.run("compact", str(point))
    shared.run("gc", "--compact", shared.meta)
    try:
        shared.run("fsck", shared.meta)
    except AssertionError as error:
        # It takes a file for damaged that goes while it looks; at the end it must not.
        if "objects are lost" not in str(error):
            raise


def our_upkeep(ours: Volume) -> None:
    ours.compact("/")
    report = ours.gc(delete=True, compact=True)
    assert report.errors == (), report


def assert_expected(shared: SharedVolume, point: Path, workers: Workers) -> None:
    """Assert that both clients read in every file what its owner knows."""
    expected = workers.expected()
    with shared.open(cache_dir="memory") as fresh:
        seen, theirs = seen_by_us(fresh), seen_by_mount(point)
    assert sorted(seen) == sorted(theirs)
    for path, one in seen.items():
        assert one == theirs[path], f"{path!r} is not the same for both\n{workers.tail()}"
    files = {os.fsdecode(path): one for path, one in seen.items() if stat.S_ISREG(one.mode)}
    assert sorted(files) == sorted(expected), workers.tail()
    for path, content in expected.items():
        assert files[path].content == content, f"{path} has other bytes\n{workers.tail()}"


def check_sums(ours: Volume, given: set[str]) -> None:
    """Repair what their client miscounts: see the tests of both together."""
    mended = ours.fsck(repair=True, sync_dir_stat=True)
    assert mended.ok, mended
    touched = {"/", "/theirs", *given}
    off = {line.partition(":")[0] for line in mended.repaired if line.startswith("/")}
    # What is in the trash may be a directory that they had before.
    others = (path for path in off - touched if not path.startswith("/.trash/"))
    assert [path for path in others if "/theirs/" not in path] == []


def operations(folder: Path) -> dict[str, int]:
    return {log.stem: len(log.read_text().splitlines()) - 1 for log in folder.glob("*.log")}
