"""The process's one event-loop thread, its reset after a fork, the bounded executor, the collector.

Only object storage is asynchronous; everything else runs on the caller's thread. The
loop starts with the first request that needs it, belongs to one process, and is
forgotten (not stopped) in a forked child, which starts its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from juicecache.errors import ClosedError

T = TypeVar("T")


class LoopThread:
    """An event loop on a daemon thread of this process, started when first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; starts it on first use."""
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    loop = asyncio.new_event_loop()
                    thread = threading.Thread(
                        target=loop.run_forever, name="juicecache-objects", daemon=True
                    )
                    thread.start()
                    self._thread, self._loop = thread, loop
        return self._loop

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine`` on the loop; the future may be waited for on any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` to its end and return its result.

        Raises
        ------
        RuntimeError
            Called on the loop's own thread, where waiting would never end.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a blocking call was made on the object storage loop itself")
        return self.submit(coroutine).result()


_loop_thread = LoopThread()


def loop_thread() -> LoopThread:
    """Return this process's loop thread."""
    return _loop_thread


def _forget_loop() -> None:
    # The parent's thread does not exist in the child; its loop object is left untouched,
    # because closing it would close file descriptors that the parent still uses.
    global _loop_thread
    _loop_thread = LoopThread()


os.register_at_fork(after_in_child=_forget_loop)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end on this thread, without a loop.

    Raises
    ------
    RuntimeError
        The coroutine suspended: its store is not ``inline`` after all.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError("a coroutine of an inline object store suspended")


def start(coroutine: Coroutine[Any, Any, T], *, inline: bool) -> Future[T]:
    """Start a coroutine of object storage; an ``inline`` one has ended when this returns."""
    if not inline:
        return _loop_thread.submit(coroutine)
    future: Future[T] = Future()
    try:
        future.set_result(finish(coroutine))
    except Exception as error:
        future.set_exception(error)
    return future


class BoundedExecutor:
    """Threads of this process that start when first used, at most ``workers``.

    A forked child gets its own; the parent's queue and threads are left alone.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._workers = workers
        self._name = name
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0
        self._closed = False

    def submit(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Queue ``call(*args)``.

        Raises
        ------
        ClosedError
            After `close`.
        """
        return self.pool.submit(call, *args)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The executor of this process, for ``loop.run_in_executor``."""
        if self._pool is None or self._pid != os.getpid():
            with self._lock:
                if self._closed:
                    raise ClosedError("the volume is closed")
                if self._pool is None or self._pid != os.getpid():
                    self._pool = ThreadPoolExecutor(self._workers, self._name)
                    self._pid = os.getpid()
        return self._pool

    def close(self, *, wait: bool = True) -> None:
        """Stop accepting work; wait for what runs. Safe to call twice, and in a forked child."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown(wait=wait, cancel_futures=True)


class _Collector:
    """The garbage collector of cycles, off while any thread has a reason."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons = 0
        self._was_on = False

    def pause(self) -> None:
        with self._lock:
            if not self._reasons:
                self._was_on = gc.isenabled()
                gc.disable()
            self._reasons += 1

    def go_on(self) -> None:
        with self._lock:
            self._reasons -= 1
            if not self._reasons and self._was_on:
                gc.enable()

    def after_fork(self) -> None:
        """Go on in a child: the threads that had a reason are not there."""
        if self._reasons and self._was_on:
            gc.enable()
        self._lock, self._reasons = threading.Lock(), 0


_collector = _Collector()
os.register_at_fork(after_in_child=_collector.after_fork)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector of cycles quiet while very many objects are made.

    With each some ten thousand more it would look through all objects of the process again, a
    third of the time that a large listing takes, and find nothing: none of them is in a cycle.
    """
    _collector.pause()
    try:
        yield
    finally:
        _collector.go_on()
