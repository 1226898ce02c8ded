"""A cache group under load while its members fail: no read fails, none is wrong, none waits long.

Processes of their own: members and readers, which read all the time. Object storage is late, so
that what comes from it is seen; a read that a fault hits may take `TIMEOUT_S` and one read of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import juicecache
from juicecache.testing import group_load
from juicecache.testing.networks import Host, network

TIMEOUT_S = 1.0
PAUSE_S = 0.05
HEARTBEAT_S = 1.0
SLACK_S = 2.5
"""For a machine with other work; what is looked for would wait for ever, or for each block."""
FILES = int(os.environ.get("JUICECACHE_GROUP_FILES", "400"))
READERS = 4
MEMBERS = "abc"
COMMON = {
    "cache_group": "g",
    "heartbeat": HEARTBEAT_S,
    "remote_timeout": TIMEOUT_S,
    "free_space_ratio": 0,
}


class Process:
    """One process of the group, answering questions on its pipes."""

    def __init__(self, *arguments: object, wrap: tuple[str, ...] = ()) -> None:
        root = str(Path(juicecache.__file__).parents[1])
        self.popen = subprocess.Popen(
            [*wrap, sys.executable, "-m", "juicecache.testing.group_load", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": root},
        )

    def ready(self) -> str:
        """Return the rest of its first line."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line.startswith("ready"), line
        return line.removeprefix("ready").strip()

    def ask(self) -> dict[str, Any]:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write("\n")
        found: dict[str, Any] = json.loads(self.popen.stdout.readline())
        return found

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self) -> None:
        """Let it end by itself: a member drains, a reader just stops."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.stdin.close()
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()
        if not self.popen.stdin.closed:
            self.popen.stdin.close()


class Load:
    """A volume, its members and its readers."""

    def __init__(self, folder: Path, hosts: Sequence[Host] = ()) -> None:
        self.folder = folder
        self.hosts = dict(zip([*MEMBERS, "readers"], hosts, strict=False))
        self.meta = f"sqlite3://{folder}/meta.db"
        self.members: dict[str, Process] = {}
        self.readers: list[Process] = []
        self.names: dict[str, str] = {}
        juicecache.format_volume(
            self.meta, "load", bucket=f"{folder}/bucket", block_size_kib=1024, remember=False
        )
        with juicecache.open_volume(self.meta, cache_size=0) as volume:
            for number in range(FILES):
                path = group_load.path_of(number)
                volume.write_file(path, group_load.content_of(path))

    def start_member(self, name: str, **options: object) -> Process:
        cache = self.folder / f"cache-{name}"
        address, prefix = self._host(name)
        given = {**COMMON, "group_ip": address, "cache_dir": str(cache), **options}
        member = Process("member", self.meta, PAUSE_S, json.dumps(given), wrap=prefix)
        self.members[name] = member
        return member

    def _host(self, name: str) -> tuple[str, tuple[str, ...]]:
        host = self.hosts.get(name)
        return ("127.0.0.1", ()) if host is None else (host.address, host.prefix)

    def add_member(self, name: str, **options: object) -> None:
        self.names[name] = self.start_member(name, **options).ready()

    def start_readers(self) -> None:
        given = json.dumps({**COMMON, "no_sharing": True, "cache_size": 0})
        _, prefix = self._host("readers")
        self.readers = [
            Process("reader", self.meta, PAUSE_S, given, FILES, seed, wrap=prefix)
            for seed in range(READERS)
        ]
        for reader in self.readers:
            reader.ready()

    def go_on(self, rounds: float = 1.0) -> list[dict[str, Any]]:
        """Let every reader read so many times all files; return what they saw meanwhile.

        No read failed, none was wrong, and none took longer than it may.
        """
        seen: list[list[dict[str, Any]]] = [[] for _ in self.readers]
        until_s = time.monotonic() + 120
        for reader, reports in zip(self.readers, seen, strict=True):
            while sum(report["reads"] for report in reports) < rounds * FILES:
                assert time.monotonic() < until_s, "the readers stand still"
                reports.append(reader.ask())
                time.sleep(0.05)
        for report in (report for reports in seen for report in reports):
            assert report["failures"] == []
            assert report["wrong"] == 0
            # A file of three blocks may meet the fault and then be late once more.
            assert report["worst_s"] < TIMEOUT_S + PAUSE_S + SLACK_S, report["worst"]
        return [reports[-1] for reports in seen]

    def settle(self, members: int) -> None:
        """Wait until every reader's ring has so many members, and all of them are up."""
        until_s = time.monotonic() + 30
        while True:
            reports = [reader.ask() for reader in self.readers]
            if all(len(r["shares"]) == members and not r["down"] for r in reports):
                assert len({json.dumps(r["shares"], sort_keys=True) for r in reports}) == 1
                return
            assert time.monotonic() < until_s, reports
            time.sleep(0.1)

    def fallbacks(self) -> int:
        return sum(reader.ask()["blocks"]["fallbacks"] for reader in self.readers)

    def close(self) -> None:
        for process in [*self.readers, *self.members.values()]:
            process.end()


@contextmanager
def running(tmp_path: Path, hosts: Sequence[Host] = ()) -> Iterator[Load]:
    """Start three members and the readers, and let these read everything once."""
    folder = Path("/dev/shm") / f"jc-{os.getpid()}-{tmp_path.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    load = Load(folder, hosts)
    try:
        for name in MEMBERS:
            load.start_member(name)
        for name in MEMBERS:
            load.names[name] = load.members[name].ready()
        load.start_readers()
        load.settle(len(MEMBERS))
        load.go_on()
        yield load
    finally:
        load.close()
        shutil.rmtree(folder)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    with running(tmp_path) as load:
        yield load


def test_a_member_is_killed_and_comes_back_with_nothing(load: Load) -> None:
    load.members["b"].signal(signal.SIGKILL)
    load.go_on()
    load.members["b"].end()
    load.settle(2)
    before = load.fallbacks()
    load.go_on()
    assert load.fallbacks() == before, "the others own all of it now"
    shutil.rmtree(load.folder / "cache-b")
    load.add_member("b")
    load.settle(3)
    load.go_on()


def test_a_member_is_stopped_and_goes_on(load: Load) -> None:
    load.members["a"].signal(signal.SIGSTOP)
    for report in load.go_on():
        assert list(report["down"]) in ([load.names["a"]], [])
    before = load.fallbacks()
    load.members["a"].signal(signal.SIGCONT)
    load.settle(3)
    load.go_on()
    assert load.fallbacks() == before


def test_members_are_added_and_drained(load: Load) -> None:
    load.add_member("d", group_backup=True)
    load.settle(4)
    before = load.fallbacks()
    load.go_on(2)
    assert load.fallbacks() == before
    load.members["c"].end()  # drains
    load.settle(3)
    load.go_on()


def test_members_get_the_part_that_the_ring_says(load: Load) -> None:
    before = {name: member.ask()["parts"] for name, member in load.members.items()}
    load.go_on(2)
    served = {name: member.ask()["parts"] - before[name] for name, member in load.members.items()}
    shares = load.readers[0].ask()["shares"]
    for name, parts in served.items():
        share = shares[load.names[name]]
        assert share * 0.7 < parts / sum(served.values()) < share * 1.3


def test_a_cold_group_loads_each_block_once(load: Load) -> None:
    """However many readers wait for it, and while object storage is late."""
    loads = sum(member.ask()["loads"] for member in load.members.values())
    reads = [reader.ask()["blocks"] for reader in load.readers]
    assert sum(blocks["loads"] + blocks["range_gets"] for blocks in reads) == 0
    with juicecache.open_volume(load.meta, cache_size=0) as volume:
        blocks = sum(
            len(volume.explain(group_load.path_of(number)).blocks) for number in range(FILES)
        )
    assert loads == blocks


def test_a_host_is_cut_off_and_comes_back(tmp_path: Path) -> None:
    """Its connections fall silent, and nobody refuses anything."""
    with network(len(MEMBERS) + 1) as hosts, running(tmp_path, hosts) as load:
        hosts[1].cut()
        for report in load.go_on():
            assert list(report["down"]) in ([load.names["b"]], [])
        hosts[1].heal()
        load.settle(3)
        before = load.fallbacks()
        load.go_on()
        assert load.fallbacks() == before
        # All members at once: what is left is object storage.
        for host in hosts[: len(MEMBERS)]:
            host.cut()
        load.go_on(0.3)
        for host in hosts[: len(MEMBERS)]:
            host.heal()
        load.settle(3)
        load.go_on()


def test_a_killed_host_is_a_killed_member(tmp_path: Path) -> None:
    with network(len(MEMBERS) + 1) as hosts, running(tmp_path, hosts) as load:
        load.members["c"].signal(signal.SIGKILL)
        load.go_on()
        load.settle(2)
        load.members["c"].end()
        load.add_member("c")
        load.settle(3)
        load.go_on()
