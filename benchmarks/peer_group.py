"""Cache groups of real worker processes, clients as processes, and the bare loop beside them."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness import memory_folder, scratch

import juicecache
from juicecache import JuiceCacheFileSystem
from juicecache.testing.workers import Worker, worker

KIB, MIB, GB = 1 << 10, 1 << 20, 10**9
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NUMBER = struct.Struct("<I")
_END = 0xFFFFFFFF
_SPAWN = multiprocessing.get_context("spawn")
"""New interpreters: nothing of this process, and none of its threads, is in them."""


# --------------------------------------------------------------------- the group


class CacheGroup:
    """Workers of one volume with directory tiers on tmpfs, and clients of them that keep nothing.

    Clients use the default of every other option: ``open_cache`` and ``attr_cache`` are 0, so that
    each open looks whether the file changed.
    """

    def __init__(self, meta: str, workers: Sequence[Worker]) -> None:
        self.meta = meta
        self.workers = workers

    @property
    def pids(self) -> list[int]:
        return [one.process.pid for one in self.workers]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        places = [str(one.ready["address"]).rpartition(":") for one in self.workers]
        return [(host, int(port)) for host, _, port in places]

    def client(self, **options: object) -> JuiceCacheFileSystem:
        return client(self.meta, cache_group="g", no_sharing=True, **options)

    def readers(self, count: int, job: Callable[..., Any], *arguments: Any) -> Crew:
        """Start so many client processes, to do ``job(fs, *arguments, order)`` for each order."""
        return Crew(count, partial(_client_job, self.meta, job, arguments))


def client(meta: str, **options: object) -> JuiceCacheFileSystem:
    """Return a file system that keeps nothing."""
    return JuiceCacheFileSystem(
        volume="bench", meta=meta, skip_instance_cache=True, cache_size=0, **options
    )


@contextmanager
def workers(meta: str, count: int, *words: str) -> Iterator[CacheGroup]:
    """Run workers that are gone, with their caches, at the end."""
    with ExitStack() as stack:
        tmpfs = stack.enter_context(scratch(memory_folder()))
        cache = ("--cache-size", "64GiB", *words)
        started = [
            stack.enter_context(worker(meta, "--cache-dir", str(tmpfs / f"{number}"), *cache))
            for number in range(count)
        ]
        yield CacheGroup(meta, started)


@contextmanager
def warm_group(count: int, size: int, files: int) -> Iterator[tuple[CacheGroup, list[str]]]:
    """Run workers that have ``files`` files of ``size`` bytes; object storage is a folder."""
    with scratch() as folder:
        meta = f"sqlite3://{folder}/meta.db"
        juicecache.format_volume(
            meta, "bench", bucket=str(folder / "store"), trash_days=0, remember=False
        )
        paths = [f"/set/{number:05d}" for number in range(files)]
        with client(meta).volume as volume:
            volume.make_directory("/set")
            for path in paths:  # one by one: no file is packed
                volume.write_file(path, os.urandom(size))
        with workers(meta, count) as group:
            fs = group.client()
            for path in paths:
                fs.cat_file(path)
            fs.volume.close()
            yield group, paths


def from_peers(fs: JuiceCacheFileSystem) -> str:
    """Say where the blocks of a client came from."""
    blocks = fs.volume.stats().blocks
    return f"{blocks.peer_blocks:,} blocks from peers, {blocks.fallbacks:,} fallbacks"


def cpu_s(pid: int) -> float:
    """Return what a process used of the processors so far; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def placed(pids: Sequence[int], *, apart: bool) -> Iterator[None]:
    """Keep this process on one core and others on another, or leave it to the kernel."""
    everywhere = os.sched_getaffinity(0)
    if not apart or len(everywhere) < 2:
        yield
        return
    mine, theirs = sorted(everywhere)[:2]
    try:
        _keep_on({os.getpid(): {mine}, **{pid: {theirs} for pid in pids}})
        yield
    finally:
        _keep_on(dict.fromkeys((os.getpid(), *pids), everywhere))


def _keep_on(cores: dict[int, set[int]]) -> None:
    for pid, some in cores.items():
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), some)


# --------------------------------------------------------------------- processes


class Crew:
    """Processes that all do the same at the same time, each time they are told to.

    Parameters
    ----------
    make
        Called in each process, with its number; returns what does an order.
    """

    def __init__(self, count: int, make: Callable[[int], Callable[[Any], Any]]) -> None:
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for number in range(count):
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_follow_orders, args=(make, number, theirs))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def do(self, order: Any) -> list[Any]:
        """Return what each process made of an order."""
        for pipe in self._pipes:
            pipe.send(order)
        return [pipe.recv() for pipe in self._pipes]


def _follow_orders(make: Callable[[int], Callable[[Any], Any]], number: int, pipe: Any) -> None:
    do = make(number)
    pipe.send("ready")
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        pipe.send(do(order))


def _client_job(
    meta: str, job: Callable[..., Any], arguments: Sequence[Any], number: int
) -> Callable[[Any], Any]:
    fs = client(meta, cache_group="g", no_sharing=True)
    fs.volume.parts().blocks.group.start()  # type: ignore[union-attr]
    return partial(job, fs, *arguments)


def read_for(fs: JuiceCacheFileSystem, paths: Sequence[str], time_s: float) -> float:
    """Read files in random order for a while; return bytes per second."""
    return _rate(lambda number: len(fs.volume.read_file(paths[number])), len(paths), time_s)


def _rate(read: Callable[[int], int], count: int, time_s: float) -> float:
    numbers, total = random.Random(os.getpid()), 0
    began_s = now_s = time.perf_counter()
    while now_s < began_s + time_s:
        total += read(numbers.randrange(count))
        now_s = time.perf_counter()
    return total / (now_s - began_s)


# --------------------------------------------------------------------- the bare loop


class BareLoop:
    """The least that sending files can cost: `sendfile` on one side, `recv_into` on the other.

    One connection at a time, both ends blocking, the server in a process of its own. A request is
    a number.

    Parameters
    ----------
    keeps_open
        The server opens its files once, and not for each request.
    """

    def __init__(self, files: Sequence[Path], size: int, *, keeps_open: bool = False) -> None:
        ours, theirs = _SPAWN.Pipe()
        arguments = (files, size, keeps_open, theirs)
        # Whoever forgets to close this is not kept from ending.
        self._process = _SPAWN.Process(target=_serve_bare, args=arguments, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid
        self.size = size
        self._port = ours.recv()
        self._buffer = memoryview(bytearray(size))
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def reconnect(self) -> None:
        """Begin with a new connection, whose windows the kernel may size in another way."""
        self._socket.close()
        self._socket = self._connect()

    def fetch(self, number: int) -> int:
        """Receive a file into the one buffer."""
        self._socket.sendall(_NUMBER.pack(number))
        have, size, buffer = 0, self.size, self._buffer
        while have < size:
            count = self._socket.recv_into(buffer[have:], 0, socket.MSG_WAITALL)
            if not count:
                raise ConnectionError("the bare loop ended")
            have += count
        return have

    def __enter__(self) -> BareLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendall(_NUMBER.pack(_END))
        self._socket.close()
        self._process.join()


def _serve_bare(files: Sequence[Path], size: int, keeps_open: bool, pipe: Any) -> None:
    names = [str(file) for file in files]
    kept = [os.open(name, os.O_RDONLY) for name in names] if keeps_open else []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        while _serve_caller(listener.accept()[0], names, kept, size):
            pass


def _serve_caller(
    connected: socket.socket, names: Sequence[str], kept: Sequence[int], size: int
) -> bool:
    """Serve one connection; False when it says that it was the last."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connected:
        out = connected.fileno()
        while request := connected.recv(_NUMBER.size):
            (number,) = _NUMBER.unpack(request)
            if number == _END:
                return False
            file = kept[number] if kept else os.open(names[number], os.O_RDONLY | os.O_CLOEXEC)
            sent = 0
            while sent < size:
                sent += os.sendfile(out, file, sent, size - sent)
            if not kept:
                os.close(file)
    return True


def bare_pair(files: Sequence[Path], size: int, _: int) -> Callable[[float], float]:
    """Return a client of a bare loop of its own, for `Crew`: reads like `read_for`."""
    loop = BareLoop(files, size)
    return lambda time_s: _rate(loop.fetch, len(files), time_s)


@contextmanager
def plain_files(size: int, count: int) -> Iterator[list[Path]]:
    """Make files on tmpfs for a bare loop."""
    with scratch(memory_folder()) as tmpfs:
        files = [tmpfs / f"{number:05d}" for number in range(count)]
        for file in files:
            file.write_bytes(os.urandom(size))
        yield files
