"""No read returns wrong bytes while its cache is damaged, filled, removed, and readers killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import juicecache
from juicecache.testing.places import tmpfs

pytestmark = [pytest.mark.service, pytest.mark.slow]

SOAK_S = float(os.environ.get("JUICECACHE_SOAK_S", "6"))
"""How long each kind of damage goes on; five minutes say something."""
SCRIPT = Path(__file__).parent / "soak_script.py"
PAUSES_S = (0.2, 1.5)
"""Between two kills: a reader lives for some seconds, most of them after its start."""
WAIT_S = 90.0
"""For the end of processes that end by themselves: longer than a reader waits before it fails."""
VERIFY = {"seen": ["extend", "full", "extend", "full"], "unseen": ["full"] * 4}
"""A file whose identity says that nothing changed is looked at again by ``full`` only."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A cache folder on a tmpfs in which not all blocks find room."""
    with tmpfs(tmp_path / "memory", "24m") as point:
        yield point / "cache"


class Site:
    """The processes of one test, and what they print."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir()
        self._logs = logs
        self._errors = open(logs / "errors", "w")  # noqa: SIM115  (closed in `close`)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a role of the script in a process that is nobody's fork."""
        with open(self._logs / f"{arguments[0]}-{len(self.processes)}", "w") as out:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                stdout=out,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": str(Path(juicecache.__file__).parents[1])},
            )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process that ends by itself, without an error."""
        assert process.wait(WAIT_S) == 0, self.errors()

    def errors(self) -> str:
        """Return what all processes complained of, the first of it first."""
        return (self._logs / "errors").read_text()[:20_000]

    def results(self, role: str) -> tuple[Counter[str], float]:
        """Return the sums of what the processes of a role counted last, and their slowest read."""
        total: Counter[str] = Counter()
        slowest_s = 0.0
        for log in self._logs.glob(f"{role}-*"):
            lines = log.read_text().split("\n")[:-1]  # the last one may be half
            if lines:
                result = json.loads(lines[-1])
                total.update(result["counts"])
                slowest_s = max(slowest_s, result["slowest_s"])
        return total, slowest_s

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._errors.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "logs")
    yield site
    site.close()


def kill_at_random(site: Site, readers: list[list[str]], end_s: float) -> int:
    """Keep a reader of each kind alive until the end, killing one after the other."""
    alive = [site.start(*arguments) for arguments in readers]
    kills = 0
    while (left_s := end_s - time.monotonic()) > PAUSES_S[1]:
        number = random.randrange(len(alive))
        with suppress(subprocess.TimeoutExpired):
            alive[number].wait(min(random.uniform(*PAUSES_S), left_s))
            pytest.fail(f"a reader ended early\n{site.errors()}")
        assert [process.poll() for process in alive] == [None] * len(alive), site.errors()
        alive[number].kill()
        assert alive[number].wait() == -signal.SIGKILL, site.errors()
        kills += 1
        alive[number] = site.start(*readers[number][:-2], f"{kills}", readers[number][-1])
    for process in alive:
        site.finish(process)
    return kills


@pytest.mark.parametrize("kind", ["seen", "unseen"])
@pytest.mark.timeout(240 + SOAK_S)
def test_no_read_returns_wrong_bytes(
    tmp_path: Path, folder: Path, site: Site, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = f"sqlite3://{tmp_path}/meta.db"
    site.finish(site.start("make", meta, str(tmp_path / "objects")))
    end_s = time.monotonic() + SOAK_S
    seed = f"{random.getrandbits(64):x}"
    chaos = site.start("spoil", str(folder), kind, seed, str(end_s))
    readers = [
        ["read", meta, str(folder), verify, f"{seed}-{number}", str(end_s)]
        for number, verify in enumerate(VERIFY[kind])
    ]
    kills = kill_at_random(site, readers, end_s)
    site.finish(chaos)
    (reads, slowest_s), (done, _) = site.results("read"), site.results("spoil")
    with capsys.disabled():
        print(f"\n{kind}: {kills} kills, {dict(done)}, {dict(reads)}, slowest {slowest_s:.1f} s")
    assert kills
    assert min(reads["hits"], reads["loads"], reads["corrupt"], reads["map_file"]) > 0
    assert reads["cat"] + reads["cat_ranges"] + reads["cat_many"] > 100
