"""Tiers that fail on purpose, and damage to the files of real ones, for tests of what uses them."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from juicecache.cache.block_file import LAYOUT, charge
from juicecache.cache.claims import FREE, Claim
from juicecache.cache.tier import Tier, TierStats
from juicecache.model.layout import BlockKey
from juicecache.model.segments import Held

DAMAGES = ("flip", "truncate", "extend", "replace", "remove")
"""What `damage` does to a file: a bit of it, its end, its whole, or its being there."""


class FaultyTier:
    """Passes everything on, except where it was told to fail. Counts what it was asked.

    A tier never raises: what fails inside is a miss, or not kept, and counted as an error.

    Attributes
    ----------
    calls
        How often ``get``, ``get_into``, ``hold``, ``put``, ``delete``, ``claim`` were called.
    """

    def __init__(self, inner: Tier) -> None:
        self.calls: Counter[str] = Counter()
        self.shared = inner.shared
        self._inner = inner
        self._pauses: dict[str, float] = {}
        self._failures: dict[str, Container[int]] = {}
        self._full = False
        self._errors = self._missed = 0

    def delay(self, operation: str, seconds: float) -> None:
        """Let calls of an operation take ``seconds`` longer."""
        self._pauses[operation] = seconds

    def fail(self, operation: str, numbers: Container[int]) -> None:
        """Let the medium refuse the calls of an operation with these numbers, from 1."""
        self._failures[operation] = numbers

    def fill(self, *, full: bool = True) -> None:
        """Let there be no room for another block, or room again."""
        self._full = full

    @property
    def capacity_bytes(self) -> int:
        """The quota of the real tier."""
        return self._inner.capacity_bytes

    def get(self, key: BlockKey, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes of a block, or fail: None."""
        if self._fails("get"):
            self._missed += 1
            return None
        return self._inner.get(key, start, stop)

    def get_into(self, key: BlockKey, start: int, stop: int, buffer: memoryview) -> bool:
        """Copy bytes of a block; or fail, with nonsense in the buffer."""
        if self._fails("get_into"):
            self._missed += 1
            buffer[:] = b"\xa5" * len(buffer)
            return False
        return self._inner.get_into(key, start, stop, buffer)

    def hold(self, key: BlockKey, start: int, stop: int) -> Held | None:
        """Return segments of a block, or fail: None."""
        return None if self._fails("hold") else self._inner.hold(key, start, stop)

    def examine(self, key: BlockKey) -> bool:
        """Compare the real tier's copy."""
        return self._inner.examine(key)

    def put(self, key: BlockKey, content: bytes | memoryview) -> bool:
        """Keep a block; False when that fails or there is no room."""
        if self._fails("put") or (self._full and not self._inner.contains(key)):
            return False
        return self._inner.put(key, content)

    def claim(self, key: BlockKey) -> Claim | None:
        """Return a claim; one that means nothing when that fails or there is no room."""
        return FREE if self._fails("claim") or self._full else self._inner.claim(key)

    def delete(self, key: BlockKey) -> bool:
        """Forget a block; False when that fails."""
        return not self._fails("delete") and self._inner.delete(key)

    def contains(self, key: BlockKey) -> bool:
        """Return whether the block is here."""
        return self._inner.contains(key)

    def where(self, key: BlockKey) -> str | None:
        """Return what the place is called that has the block."""
        return self._inner.where(key)

    def stats(self) -> TierStats:
        """Return the counters, with what failed here."""
        found = self._inner.stats()
        return replace(
            found, errors=found.errors + self._errors, misses=found.misses + self._missed
        )

    def close(self) -> None:
        """Close the real tier."""
        self._inner.close()

    def _fails(self, operation: str) -> bool:
        self.calls[operation] += 1
        number = self.calls[operation]
        if pause_s := self._pauses.get(operation, 0.0):
            time.sleep(pause_s)
        failed = number in self._failures.get(operation, ())
        self._errors += failed
        return failed


def block_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of the blocks that directory tiers have below their ``folder``, sorted."""
    found = Path(folder).glob(f"{LAYOUT}*/[!.]*/*/*")
    return sorted(path for path in found if path.is_file())


def damage(
    folder: str | os.PathLike[str], rng: random.Random, kind: str | None = None
) -> Path | None:
    """Damage the file of one block as a broken disk or a stranger would, in place.

    Other processes may use the tier meanwhile.

    Parameters
    ----------
    folder
        As it was given to the tier.
    kind
        One of `DAMAGES`; None is any.

    Returns
    -------
    Path
        The file; None when there was none, or it was gone too soon.
    """
    files = block_files(folder)
    if not files:
        return None
    path = rng.choice(files)
    kind = kind or rng.choice(DAMAGES)
    try:
        if kind == "remove":
            path.unlink()
        elif kind == "replace":
            other = rng.choice(files)
            # Under a name of its own first, so that the place is never half a file.
            copy = path.with_name(f".copy-{rng.getrandbits(64):x}")
            copy.write_bytes(other.read_bytes())
            copy.chmod(0o600)
            copy.rename(path)
        else:
            _change(path, rng, kind)
    except FileNotFoundError:
        return None
    return path


def _change(path: Path, rng: random.Random, kind: str) -> None:
    with path.open("r+b", 0) as file:
        size = os.fstat(file.fileno()).st_size
        if kind == "truncate":
            file.truncate(rng.randrange(max(size, 1)))
        elif kind == "extend":
            file.truncate(size + rng.randint(1, 5000))
        elif size:
            at = rng.randrange(size)
            byte = os.pread(file.fileno(), 1, at)
            if byte:
                os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << rng.randrange(8)]), at)


def charged_bytes(root: Path) -> int:
    """Return what the blocks, and the files being written, of a tier take, each counted once."""
    sizes = {}
    for path in [*(root / ".writing").glob("*"), *root.glob("[!.]*/*/*")]:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # renamed: seen under its other name
        sizes[found.st_ino] = charge(found.st_size)
    return sum(sizes.values())
