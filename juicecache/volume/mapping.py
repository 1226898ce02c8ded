"""Whole files in memory that processes share: for arrays and weights that are mapped.

Law: the bytes are copied once, from the tiers into anonymous shared memory, and belong to no
one but the views of them; a mapping of the tiers' own files would end with their eviction.
"""

from __future__ import annotations

import mmap
import os

from juicecache.model.attr import Attr
from juicecache.model.layout import CHUNK_BYTES
from juicecache.volume.parts import Parts
from juicecache.volume.reader import of_one_version, read_range_into

_STEP_BYTES = 16 << 20
"""Read at once: a few blocks load at the same time, and little waits to be copied."""


def map_file(parts: Parts, path: str) -> memoryview:
    """Return a whole file as read-only shared memory; see `Volume.map_file`."""
    return of_one_version(parts, path, lambda attr: _mapped(parts, path, attr))


def _mapped(parts: Parts, path: str, attr: Attr) -> memoryview:
    if not attr.length:
        return memoryview(b"")  # nothing cannot be mapped
    memory = os.memfd_create("juicecache", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, attr.length)
        writable = mmap.mmap(memory, attr.length)
        buffer = memoryview(writable)
        for start in range(0, attr.length, _STEP_BYTES):
            if parts.meta.extents(path, attr, (start // CHUNK_BYTES,)) == (attr, [[]]):
                continue  # a hole: what was never written takes no memory
            stop = min(start + _STEP_BYTES, attr.length)
            read_range_into(parts, attr, path, buffer[start:stop], start, stop)
        # After an error both go with its traceback, which still refers to parts of them.
        buffer.release()
        writable.close()
        return memoryview(mmap.mmap(memory, attr.length, prot=mmap.PROT_READ))
    finally:
        os.close(memory)
