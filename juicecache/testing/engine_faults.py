"""Metadata engines whose commits fail on purpose, for tests of what stands above them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from juicecache.errors import CommitUnknownError, EngineUnavailableError
from juicecache.meta.engine import Append, Engine, Put, Transaction
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.meta.rows import SliceRef

T = TypeVar("T")


class CommitFaults(Engine):
    """A mixin, in front of an engine: what goes wrong with the next commit of content.

    Attributes
    ----------
    refuse
        It does not happen, and that is known.
    lose_commit, lose_reply
        It does not happen, or it does, and nobody is told which.
    """

    refuse = lose_commit = lose_reply = False

    def attempt(self, body: Callable[[Transaction], T], *, writable: bool) -> T:
        """Run ``body`` once, and fail where it commits content and that was asked for."""
        seen: list[bool] = []

        def watched(tx: Transaction) -> T:
            result = body(tx)
            commits = any(
                isinstance(write, Append)
                or (isinstance(write, Put) and isinstance(write.row, SliceRef))
                for write in tx.writes
            )
            seen.append(commits)
            if commits and self.refuse:
                self.refuse = False
                raise EngineUnavailableError("refused on purpose")
            if commits and self.lose_commit:
                self.lose_commit = False
                raise CommitUnknownError("the commit is lost on purpose")
            return result

        result = super().attempt(watched, writable=writable)  # type: ignore[safe-super]  # of the engine behind
        if self.lose_reply and seen[-1]:
            self.lose_reply = False
            raise CommitUnknownError("the reply is lost on purpose")
        return result


class FaultyMemory(CommitFaults, MemoryEngine):
    """The engine in memory, with faults."""


class FaultySqlite(CommitFaults, SqliteEngine):
    """The engine on SQLite, with faults."""
