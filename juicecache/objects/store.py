"""The contract of object storage: names to bytes.

This floor sees names and bytes; it knows no block, inode or cache. One class serves one
kind of storage, and one wrapper adds one quality (see ``wrap``).

Laws: an object is written once and whole, and is visible only when complete. Methods
raise the ``ObjectError`` family and ``CorruptBlockError`` only; a driver's exceptions
stop in the driver's file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What a caller may pass as content. It must not change until the call returns."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object; ``size_bytes`` is as stored (after compression and encryption)."""

    name: str
    size_bytes: int
    modified_ns: int


class ObjectStore(ABC):
    """Names to bytes, in one bucket or directory.

    Attributes
    ----------
    inline
        True when no coroutine of this store ever suspends, so that it may be driven to its
        end on the caller's own thread, without an event loop (a local directory).
    ranged
        True when a ``get`` of a range moves only about these bytes (false under
        compression or encryption, which need the whole object).
    """

    inline: bool = False
    ranged: bool = True

    @abstractmethod
    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)`` of an object's content.

        Parameters
        ----------
        start, stop
            Byte offsets in the content as it was put; ``stop=None`` means to the end.
        length
            The whole content's length, where the caller knows it. Compressed objects need
            it; every store checks what it can against it.

        Raises
        ------
        ObjectNotFoundError
            No such object.
        CorruptBlockError
            The stored bytes differ from their recorded checksum, or from ``length``.
        """

    @abstractmethod
    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` under ``name``, whole or not at all; an existing object is replaced."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Remove an object. A missing one is not an error, so a repeat is safe."""

    @abstractmethod
    async def head(self, name: str) -> ObjectInfo:
        """Return the stored size and time of an object; ObjectNotFoundError when absent."""

    @abstractmethod
    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate by name over objects that begin with ``prefix`` and sort behind ``after``."""

    @abstractmethod
    async def create(self) -> None:
        """Make the bucket or directory where it is missing."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections. Safe to call twice."""

    @abstractmethod
    def describe(self) -> str:
        """Return the address for people, without a secret."""
