"""Warm-up of a cache group: each owner loads its own blocks, and none passes through here.

The tree is walked once, by the caller. Blocks wait in a short line for each owner, and a thread
for each owner asks it for what is in its line, and notes what it says block by block. What an
owner did not do, because it died or had no time, goes to whoever owns it then.

Laws: every block has one end, which is noted once; lines, and so memory, are bounded, however
large the tree is; after an interrupt no thread does more than end what it is at.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple, TypeAlias

from juicecache.errors import JuicecacheError, PeerError
from juicecache.model.layout import BlockKey
from juicecache.peers import wire
from juicecache.peers.peer import Peer
from juicecache.peers.source import Warmed
from juicecache.peers.wire import Kind, Name
from juicecache.volume.blocks import Blocks

_BATCH = 256
"""Blocks asked for together: enough to keep an owner's object storage busy."""
_OWN_BATCH = 16
"""Blocks that we load ourselves at once: they wait in memory until they are kept."""
_WAITING_MAX = 2048
"""Blocks in all lines; then the walk waits. A few batches for each of a few owners."""
_TRIES_MAX = 5
"""Times that a block is tried: as many owners may die meanwhile, or be busy once more."""
_BUSY_PAUSE_S = 0.5
"""Before an owner that had no time is asked again."""
_LOOK_S = 0.2
"""How often the caller looks around while the owners work."""
_LEAVE_S = 2.0
"""Longest wait, after an interrupt, for a thread whose owner says nothing new."""

Owner: TypeAlias = Peer | None
"""Who is asked; None for ourselves."""


class End(Enum):
    """What became of a block: it was in its owner's cache, is now, or is not."""

    CACHED = "cached"
    LOADED = "loaded"
    DROPPED = "dropped"
    """It was loaded, and there was no room for it."""
    ABSENT = "absent"
    """Looked for, or to be evicted, and not there."""
    FAILED = "failed"


class Ended(NamedTuple):
    """The end of one block; ``reason`` says why it failed."""

    key: BlockKey
    end: End
    reason: str = ""


class _Task(NamedTuple):
    """A block that waits in a line, and how often it was tried."""

    key: BlockKey
    tries: int


_ENDS: dict[int, End] = {
    Warmed.CACHED: End.CACHED,
    Warmed.LOADED: End.LOADED,
    Warmed.DROPPED: End.DROPPED,
}


class GroupWarming:
    """One warm-up, check or eviction over the members of a group, for one thread.

    Parameters
    ----------
    blocks
        Of a volume in a group.
    act
        `Kind.WARM`, `Kind.HAS` or `Kind.EVICT`.
    """

    def __init__(self, blocks: Blocks, act: Kind) -> None:
        assert blocks.group is not None
        self._blocks = blocks
        self._group = blocks.group
        self._act = act
        self._lock = threading.Lock()
        self._lines: dict[Owner, queue.SimpleQueue[list[_Task]]] = {}
        self._filling: dict[Owner, list[_Task]] = {}
        self._threads: list[threading.Thread] = []
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._waiting = 0
        self._stopped = threading.Event()

    def run(
        self,
        keys: Iterable[BlockKey],
        note: Callable[[Ended], None],
        look: Callable[[], None],
    ) -> None:
        """Bring every block to its end; ``note`` hears of each, ``look`` is called in between.

        Both are called on this thread. After an error in them, or an interrupt, nothing is
        asked for any more.
        """
        try:
            for key in keys:
                self._waiting += 1
                self._send([_Task(key, 0)], flush=False)
                while self._waiting >= _WAITING_MAX:
                    self._flush_all()
                    self._collect(note)
                    look()
            self._flush_all()
            while self._waiting:
                self._collect(note)
                look()
        finally:
            self._close()

    def _collect(self, note: Callable[[Ended], None]) -> None:
        """Note what ended, waiting a little for the first."""
        for ended in self._arrived():
            self._waiting -= 1
            note(ended)

    def _arrived(self) -> Iterator[Ended]:
        try:
            yield self._ended.get(timeout=_LOOK_S)
            while True:
                yield self._ended.get_nowait()
        except queue.Empty:
            return

    # ------------------------------------------------------------------ lines

    def _send(self, tasks: Iterable[_Task], *, flush: bool) -> None:
        """Put blocks into the lines of their owners; without ``flush`` when there are enough."""
        for task in tasks:
            owner = self._group.route(task.key.raw)
            if owner is None and not self._group.me:
                self._ended.put(Ended(task.key, End.FAILED, "no member of the group is there"))
                continue
            with self._lock:
                batch = self._filling.setdefault(owner, [])
                batch.append(task)
                if len(batch) >= (_OWN_BATCH if owner is None else _BATCH):
                    self._hand_over(owner)
        if flush:
            self._flush_all()

    def _flush_all(self) -> None:
        with self._lock:
            for owner in list(self._filling):
                self._hand_over(owner)

    def _hand_over(self, owner: Owner) -> None:
        """Let an owner's thread, which is started for the first batch, have what is there."""
        if owner not in self._lines:
            self._lines[owner] = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._work,
                args=(owner, self._lines[owner]),
                name="juicecache-warm",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        self._lines[owner].put(self._filling.pop(owner))

    def _close(self) -> None:
        self._stopped.set()
        with self._lock:
            lines, threads = list(self._lines.values()), list(self._threads)
        for line in lines:
            line.put([])
        for thread in threads:
            thread.join(_LEAVE_S)

    # ------------------------------------------------------------------ a thread for each owner

    def _work(self, owner: Owner, line: queue.SimpleQueue[list[_Task]]) -> None:
        while (batch := line.get()) and not self._stopped.is_set():
            left = dict(enumerate(batch))
            reason = "its owner has too much to do"
            try:
                if owner is None:
                    self._do_own(left)
                else:
                    self._ask(owner, batch, left)
            except _StoppedError:
                return
            except PeerError as error:
                reason = str(error)  # it is out of use now: others own its blocks
            if left:
                self._try_again(left.values(), reason)

    def _try_again(self, tasks: Iterable[_Task], reason: str) -> None:
        again = []
        for key, tries in tasks:
            if tries + 1 < _TRIES_MAX:
                again.append(_Task(key, tries + 1))
            else:
                self._ended.put(Ended(key, End.FAILED, reason))
        self._stopped.wait(_BUSY_PAUSE_S)
        self._send(again, flush=True)

    def _ask(self, owner: Peer, batch: list[_Task], left: dict[int, _Task]) -> None:
        """Ask a member for a batch; what has its end is taken out of ``left``."""
        names = [Name(key.name, key.length) for key, _ in batch]
        if self._act == Kind.WARM:
            owner.warm(names, lambda number, outcome: self._note_warmed(left, number, outcome))
            return
        answer = owner.ask(wire.frame(self._act, names))
        if self._act == Kind.HAS:
            ends = [End.CACHED if has else End.ABSENT for has in answer]
        else:  # how many, and not which
            ends = [End.CACHED if number < answer else End.ABSENT for number in range(len(batch))]
        for number, end in enumerate(ends):
            self._note(left, number, end)

    def _note_warmed(self, left: dict[int, _Task], number: int, outcome: int) -> None:
        end = _ENDS.get(outcome, End.FAILED)
        self._note(left, number, end, "" if end != End.FAILED else "its owner could not load it")

    def _do_own(self, left: dict[int, _Task]) -> None:
        """Load, look for, or drop the blocks that we own ourselves."""
        blocks = self._blocks
        keys = {number: key for number, (key, _) in left.items()}
        if self._act != Kind.WARM:
            act = blocks.tiers.contains if self._act == Kind.HAS else blocks.evict
            for number, key in keys.items():
                self._note(left, number, End.CACHED if act(key) else End.ABSENT)
            return
        absent = {n: key for n, key in keys.items() if not blocks.tiers.contains(key)}
        flights = {number: blocks.begin_own(key) for number, key in absent.items()}
        for number, key in keys.items():
            if number not in flights:
                self._note(left, number, End.CACHED)
                continue
            try:
                blocks.settle(flights[number])
            except JuicecacheError as error:
                self._note(left, number, End.FAILED, str(error))
                continue
            kept = blocks.tiers.contains(key)
            self._note(left, number, End.LOADED if kept else End.DROPPED)

    def _note(self, left: dict[int, _Task], number: int, end: End, reason: str = "") -> None:
        if self._stopped.is_set():
            raise _StoppedError
        task = left.pop(number, None)  # a member that says so twice is not believed twice
        if task is not None:
            self._ended.put(Ended(task.key, end, reason))


class _StoppedError(Exception):
    """The caller gave up."""
