"""Ways to store a volume that both clients use, for tests that run on several of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from juicecache.testing.engines import SHARED_KINDS

if TYPE_CHECKING:
    from juicecache.testing.servers import S3Server


T = TypeVar("T")


class Kind(NamedTuple):
    """How the objects of a volume are stored, and whether what is removed goes to the trash."""

    storage: str
    compress: str
    encrypt: str
    trash_days: int

    def name(self) -> str:
        """Return what names a test of this kind."""
        words = [
            self.storage,
            self.compress,
            self.encrypt.partition("-")[0],
            "trash" if self.trash_days else "",
        ]
        return "-".join(word for word in words if word)

    def options(self, server: Callable[[], S3Server], rsa_key: str) -> dict[str, Any]:
        """Return the options that `SharedVolume` formats with; blocks are of 64 KiB.

        Parameters
        ----------
        server
            Starts an S3 server, or returns the one that runs.
        rsa_key
            PEM text, for kinds that encrypt.
        """
        options: dict[str, Any] = {
            "storage": self.storage,
            "compress": self.compress,
            "trash_days": self.trash_days,
            "block_size_kib": 64,
        }
        if self.encrypt:
            options |= {"encrypt_rsa_key": rsa_key, "encrypt_algo": self.encrypt}
        if self.storage == "s3":
            running = server()
            options |= {
                "bucket": f"{running.endpoint}/{running.fresh_bucket()}",
                "access_key": running.access_key,
                "secret_key": running.secret_key,
            }
        return options


def with_engines(kinds: Sequence[T]) -> list[tuple[T, str]]:
    """Return each of some kinds with a metadata engine, so that every engine has its turn.

    With ``JUICECACHE_EVERY_ENGINE`` in the environment each kind comes with every engine, which
    takes several times as long.
    """
    if os.environ.get("JUICECACHE_EVERY_ENGINE"):
        return list(itertools.product(kinds, SHARED_KINDS))
    return [(kind, SHARED_KINDS[at % len(SHARED_KINDS)]) for at, kind in enumerate(kinds)]
