"""Compression of blocks. The order on the way out is compress, encrypt, put.

Only blocks are compressed: of a volume's objects, those below its ``chunks/``. Others, such
as its UUID, are stored as they are. Facts: ``docs/format.md``, "Block content".
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from juicecache.errors import ConfigError, CorruptBlockError
from juicecache.objects.store import Buffer, ObjectStore
from juicecache.objects.wrap import CodecWrapper, part

CONTENT_BYTES_MAX = 16 << 20
"""The largest block of the format: what may come out where the caller gives no length."""

INLINE_BYTES = 64 << 10
"""Smaller bodies take less time than the way to a thread and back."""


class Codec(ABC):
    """One form of compression. Errors of the library stop here."""

    @abstractmethod
    def compress(self, body: Buffer) -> bytes:
        """Return the stored form of ``body``."""

    @abstractmethod
    def decompress(self, stored: bytes, bytes_max: int) -> bytes:
        """Return the content, at most ``bytes_max`` bytes.

        Raises
        ------
        ValueError
            ``stored`` is damaged, or its content is larger.
        """


class Lz4Codec(Codec):
    """One raw LZ4 block: no frame, no magic, no length in front."""

    def compress(self, body: Buffer) -> bytes:
        """Return the raw block."""
        import lz4.block

        return bytes(lz4.block.compress(body, store_size=False))

    def decompress(self, stored: bytes, bytes_max: int) -> bytes:
        """Return the content of a raw block."""
        import lz4.block

        try:
            # The library takes no bound of 0, and an empty content is one byte stored.
            return bytes(lz4.block.decompress(stored, uncompressed_size=max(bytes_max, 1)))
        except lz4.block.LZ4BlockError as error:
            raise ValueError("not an LZ4 block of that size") from error


def codec_of(compression: str) -> Codec | None:
    """Return the codec that a volume's Compression names; None for none.

    Raises
    ------
    ConfigError
        The name is unknown, or the extra that it needs is not installed.
    """
    name = compression.lower()
    if name in ("", "none"):
        return None
    if name == "lz4":
        return Lz4Codec()
    if name == "zstd":
        from juicecache.objects.zstd import ZstdCodec

        return ZstdCodec()
    raise ConfigError(f"unknown compression {compression!r}: it is none, lz4 or zstd")


def is_block(name: str) -> bool:
    """Tell whether an object is a block: ``{volume name}/chunks/...``."""
    return name.partition("/")[2].startswith("chunks/")


class CompressedStore(CodecWrapper):
    """Blocks compressed, other objects as they are."""

    def __init__(self, inner: ObjectStore, codec: Codec) -> None:
        super().__init__(inner, "juicecache-compress", INLINE_BYTES)
        self._codec = codec

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return a part of the content; a block is always fetched whole."""
        if not is_block(name):
            return await self._inner.get(name, start, stop, length=length)
        stored = await self._inner.get(name)
        bound = CONTENT_BYTES_MAX if length is None else length
        try:
            content = await self.run(bound, self._codec.decompress, stored, bound)
        except ValueError as error:
            raise CorruptBlockError(
                name, f"{bound} bytes compressed", "damaged bytes", "object storage"
            ) from error
        if length is not None and len(content) != length:
            raise CorruptBlockError(
                name, f"{length} bytes", f"{len(content)} bytes", "object storage"
            )
        return part(content, start, stop)

    async def put(self, name: str, body: Buffer) -> None:
        """Store a block compressed, even where that makes it larger."""
        if is_block(name):
            body = await self.run(memoryview(body).nbytes, self._codec.compress, body)
        await self._inner.put(name, body)
