"""Which life of a volume this is: a number that becomes another one when metadata is restored.

After a restore the counters may hand out numbers of slices that were in use before, with another
content. Blocks are therefore cached under the volume's UUID **and** its epoch: what any cache of
any machine holds of the former life is never asked for again, and goes by itself.

The official client knows no epochs. A volume that it made has none until it is loaded by
`load`; its own ``load`` takes the number away, which is another change.
"""

from __future__ import annotations

import secrets

from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Counter

EPOCH = "juicecacheEpoch"
"""Our own counter; official clients look at no counter that they do not know."""
_BITS = 62


def new_epoch() -> Counter:
    """Return a row with a number that no life of any volume had."""
    return Counter(EPOCH, 1 + secrets.randbits(_BITS))


def namespace(tx: Transaction, uuid: str) -> str:
    """Return under what the blocks of a volume are cached."""
    row = tx.get(Counter, EPOCH)
    return uuid if row is None else f"{uuid}-{row.value:x}"
