"""A block, or a part of one, on its way to whoever waits for it."""

from __future__ import annotations

from concurrent.futures import Future

from juicecache.cache.claims import Claim
from juicecache.model.layout import BlockKey
from juicecache.peers.peer import Peer


class Flight:
    """Bytes ``[start, stop)`` of one block on their way; ``future`` holds them.

    Attributes
    ----------
    claim
        Our right to load the block; None while another process does, and once it is given up.
    keeping, kept
        Somebody puts it into the tiers; that is done.
    collected
        Somebody has its bytes.
    peer
        The member that is asked for it; None if object storage is.
    cached
        That member shall load nothing for it.
    waiting
        It shall come from the peer, and no thread has asked for it yet.
    urgent
        Another member waits for it: so no other process is waited for, which may wait for him.
    counted
        Its bytes count as loading.
    wanted
        How many began it and have not given it up.
    """

    __slots__ = (
        "cached", "claim", "collected", "counted", "future", "keeping", "kept", "key", "peer",
        "start", "stop", "urgent", "waiting", "wanted",
    )  # fmt: skip

    def __init__(
        self, key: BlockKey, start: int = 0, stop: int | None = None, peer: Peer | None = None
    ) -> None:
        self.key = key
        self.start = start
        self.stop = key.length if stop is None else stop
        self.peer = peer
        self.future: Future[bytes] = Future()
        self.claim: Claim | None = None
        self.keeping = self.kept = self.collected = False
        self.cached = self.counted = self.urgent = self.waiting = False
        self.wanted = 1

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the block."""
        return self.stop - self.start == self.key.length

    def release(self) -> None:
        """Give up the claim. Safe to call twice."""
        claim, self.claim = self.claim, None
        if claim is not None:
            claim.release()
