"""The volume's change log: one line for each operation, in the transaction that makes it.

Other programs follow a volume by its lines. The words, and the order of the values behind
them, are those of the official client; ``docs/format.md`` lists them. A line is::

    <seconds>.<nanoseconds>|OPERATION(value,value,...)[:result]|(<session>,<transaction>)

Law: an operation is noted where its rows are written, so that no floor above can forget it;
while the volume keeps no log, noting costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import TypeAlias
from urllib.parse import quote

from juicecache.meta.engine import Origin, Transaction
from juicecache.meta.rows import ChangeLine
from juicecache.model.attr import Attr
from juicecache.model.slices import SliceRecord

Value: TypeAlias = int | bytes | str

PLATFORM = "linux"
"""What CREATE says of where a name was made: the rules for names are those of Linux here."""
MTIME_CHANGED = 32
"""The bit of `note_attributes` for a new mtime."""
_SECOND_NS = 1_000_000_000
_PLAIN = "".join(chr(at) for at in range(0x20, 0x7F) if chr(at) not in ',%()"\\')
"""Characters that stand for themselves; of all others each byte becomes ``%XX``."""


class Origins:
    """Gives each transaction of one client its place in the change log.

    Parameters
    ----------
    sid
        Returns the client's session, 0 while it has none.
    clock
        Returns nanoseconds since the epoch.
    """

    def __init__(self, sid: Callable[[], int], clock: Callable[[], int]) -> None:
        self._sid = sid
        self._clock = clock
        self._numbers = count(1)

    def __call__(self) -> Origin:
        """Return the origin of the lines of a transaction that begins now."""
        return Origin(self._clock(), self._sid(), next(self._numbers))


def note(
    tx: Transaction,
    operation: str,
    *values: Value,
    result: int | None = None,
    now_ns: int | None = None,
) -> None:
    """Append a line about what this transaction does, where the volume keeps a log.

    Parameters
    ----------
    operation
        A word of the format, in capitals.
    values, result
        Numbers, and names or contents as bytes or text; booleans are ``true`` and ``false``.
    now_ns
        The time that the operation gives to what it changes; None: when it began.
    """
    origin = tx.origin
    if origin is None:
        return
    seconds, rest = divmod(origin.now_ns if now_ns is None else now_ns, _SECOND_NS)
    shown = ",".join(map(_shown, values))
    tail = "" if result is None else f":{result}"
    tx.log(f"{seconds}.{rest:09d}|{operation}({shown}){tail}|({origin.sid},{origin.number})")


def note_writes(
    tx: Transaction,
    inode: int,
    records: Iterable[tuple[int, SliceRecord]],
    before: Callable[[int], int],
    mtime_ns: int,
    now_ns: int,
) -> None:
    """Note records appended to a file, each with its chunk, in order of application.

    Parameters
    ----------
    before
        Returns how many records a chunk had; asked only where the volume keeps a log.
    """
    if tx.origin is None:
        return
    counts: dict[int, int] = {}
    for index, record in records:
        counts[index] = (counts[index] if index in counts else before(index)) + 1
        values = inode, index, record.pos, record.slice_id, record.length
        times = divmod(mtime_ns, _SECOND_NS)
        note(tx, "WRITE", *values, *times, result=counts[index], now_ns=now_ns)


def note_attributes(tx: Transaction, attr: Attr, changed: int) -> None:
    """Note new attributes of an inode.

    Parameters
    ----------
    attr
        All of them, as they are from now on; the time of the operation is their ctime.
    changed
        The bits that say which of them were set.
    """
    atime, mtime, ctime = (
        divmod(time_ns, _SECOND_NS) for time_ns in (attr.atime_ns, attr.mtime_ns, attr.ctime_ns)
    )
    owner = attr.uid, attr.gid, attr.mode
    times = atime[0], mtime[0], atime[1], mtime[1], *ctime
    values = attr.inode, changed, 0, *owner, int(attr.flags), *times, attr.access_acl
    note(tx, "SETATTR", *values, now_ns=attr.ctime_ns)


def trim(tx: Transaction, now_s: int, *, age_s: int, lines: int, limit: int) -> int:
    """Remove up to ``limit`` of the oldest lines: of a greater age, or beyond so many lines.

    0 is no bound, for each. Returns how many were removed; fewer than ``limit`` says that the rest
    may stay.
    """
    oldest = list(tx.scan(ChangeLine, limit=limit))
    if not oldest:
        return 0
    excess = limit if lines else 0
    if lines:
        behind = tx.scan(ChangeLine, after=(oldest[-1].number,), limit=lines)
        excess = len(oldest) + sum(1 for _ in behind) - lines
    count = 0
    for number, line in enumerate(oldest):
        seconds = line.text.partition(".")[0]
        is_old = age_s > 0 and seconds.isdigit() and int(seconds) < now_s - age_s
        if not is_old and number >= excess:
            break
        tx.delete(ChangeLine, line.number)
        count += 1
    return count


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else quote(value, safe=_PLAIN)
