"""Compression with zstd: the one file that needs the ``zstd`` extra."""

from __future__ import annotations

from juicecache.errors import ConfigError
from juicecache.objects.compress import Codec
from juicecache.objects.store import Buffer

try:
    import zstandard
except ImportError as error:
    raise ConfigError(
        "this volume is compressed with zstd: pip install 'juicecache[zstd]'"
    ) from error

LEVEL = 1  # what the official client writes


class ZstdCodec(Codec):
    """One standard zstd frame."""

    def compress(self, body: Buffer) -> bytes:
        """Return a frame that names its content size."""
        # A compressor serves one thread at a time; making one is cheap beside its work.
        return bytes(zstandard.ZstdCompressor(level=LEVEL).compress(body))

    def decompress(self, stored: bytes, bytes_max: int) -> bytes:
        """Return the content of a frame, with or without its size."""
        try:
            # The library allocates what the frame claims and heeds its own bound only where
            # the frame says nothing.
            if zstandard.frame_content_size(stored) > bytes_max:
                raise ValueError("the frame claims more than the block holds")
            return bytes(
                zstandard.ZstdDecompressor().decompress(stored, max_output_size=max(bytes_max, 1))
            )
        except zstandard.ZstdError as error:
            raise ValueError("not a zstd frame of that size") from error
