"""The cache group as a client of it sees it: which member owns a block, and who is up.

Laws: every client with the same list of members comes to the same owner; to find it costs no
system call and no lock; a member that is down is passed over for the next on the ring, so that
the others share what it owned. One thread keeps the list fresh and looks after who is down.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from juicecache.forks import survive_fork
from juicecache.peers.link import Dialing
from juicecache.peers.members import Member
from juicecache.peers.peer import Peer, PeerStats
from juicecache.peers.ring import Ring

_PROBE_TICK_S = 0.25
"""How often the thread looks whether a peer that is down should be asked."""
_READINGS = 2
"""So often in a heartbeat the list is read, and our own entry renewed: all clients then agree
within two heartbeats, also about a member that died just behind a renewal."""
_JITTER = 0.1
"""Readings differ by so much, so that clients which began together do not stay together."""

logger = logging.getLogger("juicecache")


@dataclass(frozen=True, slots=True)
class GroupStats:
    """A group as this process sees it now.

    ``state`` is ``ready``, or ``waiting`` and ``reason`` says for what: then every block comes
    from object storage. ``me`` is our name in it; empty for one who only reads.
    """

    name: str
    me: str
    state: str
    reason: str
    members: tuple[Member, ...]
    shares: dict[str, float]
    peers: tuple[PeerStats, ...]


class _View:
    """The members at one moment; never changed."""

    def __init__(self, members: Sequence[Member], peers: dict[str, Peer], me: str) -> None:
        self.members = tuple(members)
        self.peers = peers
        self.me = me
        self.ring = Ring({member.name: member.weight for member in members})
        self._former: Ring | None = None

    @property
    def former(self) -> Ring:
        """Where a new member's blocks were before it came; other new ones do not have them."""
        # `cached_property` of Python 3.11 has a lock, which a forked child could find held.
        if self._former is None:
            old = [m for m in self.members if not m.backup and m.name != self.me]
            self._former = Ring({member.name: member.weight for member in old})
        return self._former


class Group:
    """One cache group, for one process; it starts its thread when it is first asked.

    Parameters
    ----------
    listing
        Returns the members that are alive, ourselves included; called on our thread.
    dialing
        Returns how members are reached; called when there are any.
    remark
        Returns what is wrong with the list though it could be read.
    size_min
        So many members must be there before any is used.
    heartbeat_s
        The list is read twice in it.

    Attributes
    ----------
    me
        Our own name in the group; empty if we only read.
    """

    def __init__(
        self,
        name: str,
        listing: Callable[[], Sequence[Member]],
        dialing: Callable[[], Dialing],
        *,
        remark: Callable[[], str] = str,
        size_min: int = 0,
        heartbeat_s: float = 12.0,
    ) -> None:
        self.name = name
        self.me = ""
        self._listing = listing
        self._dialing = dialing
        self._remark = remark
        self._size_min = size_min
        self._heartbeat_s = heartbeat_s
        self._beat: Callable[[], None] | None = None
        self._view: _View | None = None
        self._reason = ""
        self._closed = False
        self._begin_anew()
        survive_fork(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def join(self, me: str, beat: Callable[[], None]) -> None:
        """Be a member from now on: ``beat`` says that we are alive, before each reading."""
        with self._lock:
            self.me, self._beat = me, beat
            self._refresh()  # readers go on with what they see now
        self.start()

    # ------------------------------------------------------------------ who owns what

    def route(self, key: bytes) -> Peer | None:
        """Return the member to ask for a block; None when we should load it ourselves."""
        view = self._view
        if view is None or self._thread is None:
            view = self.start()
        for name in view.ring.owners(key):
            peer = view.peers.get(name)
            if peer is None or peer.is_up:
                return peer  # None stands for ourselves
        return None

    def former_owner(self, key: bytes) -> Peer | None:
        """Return who owned a block before the members that are new, ourselves included."""
        view = self._view or self.start()
        name = view.former.owner(key)
        peer = view.peers.get(name) if name is not None else None
        return peer if peer is not None and peer.is_up else None

    def owner_name(self, key: bytes) -> str | None:
        """Return the name of the owner on the ring, whether it is up or not."""
        return (self._view or self.start()).ring.owner(key)

    # ------------------------------------------------------------------ the list

    def start(self) -> _View:
        """Read the list of members, if that was not done yet, and start keeping it fresh."""
        with self._lock:
            if self._view is None:
                self._refresh()
            if self._thread is None and not self._closed:
                thread = threading.Thread(
                    target=self._keep_fresh,
                    args=(self._wake,),
                    name="juicecache-group",
                    daemon=True,
                )
                with contextlib.suppress(RuntimeError):  # the interpreter is at its end
                    thread.start()
                    self._thread = thread
            assert self._view is not None
            return self._view

    def refresh(self) -> None:
        """Read the list of members now."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        if self._closed:  # a last beat would bring us back as a ghost
            self._view = self._view or _View((), {}, self.me)
            return
        reason = ""
        try:
            if self._beat is not None:
                self._beat()
            members = sorted(self._listing())
            if len(members) < self._size_min:
                reason = f"{len(members)} of {self._size_min} members are there"
                members = []
            self._accept(members)
        except Exception as error:
            # Whatever it is, readers go on. Who was there before is still the best guess; who is
            # dead is found out.
            reason = str(error) or type(error).__name__
            if self._reason != reason:
                logger.warning("cache group %s: the members cannot be read: %s", self.name, reason)
            if self._view is None:
                self._view = _View((), {}, self.me)
        self._reason = reason

    def _accept(self, members: Sequence[Member]) -> None:
        before = self._view
        if before is not None and before.members == tuple(members) and before.me == self.me:
            return
        known = {} if before is None else before.peers
        peers = {}
        for member in members:
            if member.name == self.me:
                continue
            peer = known.get(member.name)
            if peer is None or peer.address != member.address:
                peer = Peer(member.name, member.address, self._dialing())
            peers[member.name] = peer
        self._view = _View(members, peers, self.me)
        for name, peer in known.items():
            if peers.get(name) is not peer:
                peer.close()

    def _keep_fresh(self, wake: threading.Event) -> None:
        period_s = self._heartbeat_s / _READINGS
        beat_at_s = time.monotonic() + period_s
        while not wake.wait(min(_PROBE_TICK_S, max(beat_at_s - time.monotonic(), 0.0))):
            if time.monotonic() >= beat_at_s:
                self.refresh()
                beat_at_s = time.monotonic() + period_s * random.uniform(1 - _JITTER, 1)
            down = [peer for peer in self.peers().values() if not peer.is_up]
            for peer in sorted(down, key=lambda peer: peer.probe_at_s):
                try:
                    peer.probe()
                except Exception:  # without this thread no list is read and nobody comes back
                    logger.exception("cache group %s: probing a member failed", self.name)
                # Each that hangs takes a time limit: many must not make us look dead ourselves.
                if wake.is_set() or time.monotonic() >= beat_at_s:
                    break

    # ------------------------------------------------------------------ the rest

    def peers(self) -> dict[str, Peer]:
        """Return the other members by name."""
        return (self._view or self.start()).peers

    def stats(self) -> GroupStats:
        """Return the members and counters; starts nothing."""
        view = self._view
        if view is None:
            return GroupStats(self.name, self.me, "waiting", "not asked yet", (), {}, ())
        usable = any(member.weight for member in view.members)
        reason = self._reason
        if not (usable or reason):
            reason = "the weights of its members are 0" if view.members else "it has no members"
        reason = "; ".join(filter(None, (reason, self._remark())))
        return GroupStats(
            self.name,
            self.me,
            "ready" if usable else "waiting",
            reason,
            view.members,
            view.ring.shares(),
            tuple(peer.stats() for peer in view.peers.values()),
        )

    def before_fork(self) -> None:
        """Nothing of ours is half-done for long enough to matter; locks are made anew."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; a child has no thread and no connections, and is no member."""
        if not in_child:
            return
        self._begin_anew()
        view = self._view
        for peer in view.peers.values() if view is not None else ():
            peer.after_fork_in_child()
        if self.me:
            # Our parent is one of the others now.
            self.me, self._beat, self._view = "", None, None

    def close(self) -> None:
        """Stop the thread and close all connections. Safe to call twice."""
        self._wake.set()
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for peer in self._view.peers.values() if self._view is not None else ():
            peer.close()
