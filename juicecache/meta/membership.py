"""The members of a cache group, and its secret, as rows of the volume's metadata.

They stand in tables of our own, which the official client ignores. The first member makes
them; before that, and for readers without rights, a group just has no members.

Laws: a reader writes nothing; the secret of a group is made once and never changes, whoever
races for it; it appears in no text.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from juicecache.errors import ConfigError, VolumeFormatError
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.rows import GroupMember, GroupSecret

T = TypeVar("T")

INFO_BYTES_MAX = 4096
"""What a member says of itself: an address, a weight, a few numbers. A thousand members are read
by every client once a heartbeat."""
SECRET_BYTES = 32
"""As many as the output of the hash that it is used with."""
MEMBER_CHARS_MAX = 255
"""The longest host name; with the group it also fits into an index of every database."""

_HEARTBEATS = 1.5
"""How long a renewal holds. Members renew twice a heartbeat: so one renewal may fail and the next
come late, and a member that died is out 1 to 1.5 heartbeats later; clients, who read as often, know
within two. The clocks of all hosts must agree within half a heartbeat: the writer's sets the
moment, the reader's decides whether it is past."""
_FORGET_HEARTBEATS = 50
"""Rows of the dead are removed after so many more, ten minutes: not because of a wrong clock."""
_FORGET_AT_ONCE = 100
"""Rows removed in one transaction: below a millisecond under the database's lock."""
_SECOND_NS = 1_000_000_000


class Membership:
    """The members of one cache group of a volume. Thread-safe; holds nothing open.

    Parameters
    ----------
    group
        The name of the group; what it may be is said by the option ``cache_group``.
    heartbeat_s
        Members call `renew` twice in it: all of a group must use the same.
    clock
        Returns nanoseconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        group: str,
        heartbeat_s: float,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.group = group
        self._engine = engine
        self._lifetime_ns = round(_HEARTBEATS * heartbeat_s * _SECOND_NS)
        self._forget_s = round(_FORGET_HEARTBEATS * heartbeat_s)
        self._clock = clock
        self._sweep_at_s = 0

    @property
    def lifetime_s(self) -> float:
        """How long a renewal holds."""
        return self._lifetime_ns / _SECOND_NS

    def renew(self, member: str, info: bytes) -> None:
        """Join the group, or say that we are still there. Now and then forget the long dead.

        Parameters
        ----------
        member
            The name in the group; who renews the same name is the same member.
        info
            What all clients get to see, at most `INFO_BYTES_MAX`.

        Raises
        ------
        ConfigError
            The name or ``info`` is empty or too long.
        ReadOnlyVolumeError
            The database refuses writes: who only reads cannot be a member.
        """
        if not 0 < len(member) <= MEMBER_CHARS_MAX:
            raise ConfigError(f"a member's name has 1 to {MEMBER_CHARS_MAX} characters: {member!r}")
        if not 0 < len(info) <= INFO_BYTES_MAX:
            raise ConfigError(
                f"member {member!r} describes itself in {len(info)} bytes; "
                f"1 to {INFO_BYTES_MAX} are allowed"
            )
        row = GroupMember(self.group, member, self._expiry_s(), info)
        dead_since_s = self._now_s() - self._forget_s
        dead = self._long_dead(dead_since_s)

        def body(tx: Transaction) -> None:
            for name in dead:
                found = tx.get(GroupMember, self.group, name, lock=True)
                if found is not None and found.expire_s < dead_since_s:
                    tx.delete(GroupMember, self.group, name)
            tx.put(row)

        self._write(body)

    def leave(self, member: str) -> None:
        """Leave the group now, instead of by silence. Safe to repeat."""

        def body(tx: Transaction) -> None:
            if tx.has_own_tables():
                tx.delete(GroupMember, self.group, member)

        self._engine.write(body)

    def members(self) -> list[GroupMember]:
        """Return the members that are alive, by name; none where there never was one."""
        now_s = self._now_s()
        return [row for row in self._rows() if row.expire_s > now_s]

    def secret(self, *, create: bool) -> bytes | None:
        """Return the secret of the group, `SECRET_BYTES` random bytes; None if there is none.

        Parameters
        ----------
        create
            Make it if there is none: of all who try at once, one succeeds, and all return
            the same.

        Raises
        ------
        VolumeFormatError
            The row is damaged.
        ReadOnlyVolumeError
            It would have to be made, and the database refuses writes.
        """

        def find(tx: Transaction) -> GroupSecret | None:
            return tx.get(GroupSecret, self.group) if tx.has_own_tables() else None

        row = self._engine.read(find)
        if row is None and create:
            row = self._make_secret()
        if row is not None and len(row.secret) != SECRET_BYTES:
            raise VolumeFormatError(f"the secret of the cache group {self.group} is damaged")
        return None if row is None else row.secret

    def _make_secret(self) -> GroupSecret:
        fresh = GroupSecret(self.group, secrets.token_bytes(SECRET_BYTES))

        def body(tx: Transaction) -> GroupSecret:
            found = tx.get(GroupSecret, self.group, lock=True)
            if found is None:
                tx.put_new(fresh)
            return found or fresh

        return self._write(body)

    def _write(self, body: Callable[[Transaction], T]) -> T:
        if not self._engine.read(lambda tx: tx.has_own_tables()):
            self._engine.prepare_own()
        return self._engine.write(body)

    def _rows(self) -> list[GroupMember]:
        def body(tx: Transaction) -> list[GroupMember]:
            return list(tx.scan(GroupMember, self.group)) if tx.has_own_tables() else []

        return self._engine.read(body)

    def _long_dead(self, since_s: int) -> list[str]:
        """Return names of rows that expired before ``since_s``: none if just looked for."""
        if self._now_s() < self._sweep_at_s:
            return []
        self._sweep_at_s = self._now_s() + self._forget_s
        return [row.member for row in self._rows() if row.expire_s < since_s][:_FORGET_AT_ONCE]

    def _expiry_s(self) -> int:
        return -(-(self._clock() + self._lifetime_ns) // _SECOND_NS)  # rounded up

    def _now_s(self) -> int:
        return self._clock() // _SECOND_NS


def group_names(engine: Engine) -> list[str]:
    """Return the names of all groups of a volume that have a secret or rows of members."""

    def body(tx: Transaction) -> list[str]:
        if not tx.has_own_tables():
            return []
        members = (row.group for row in tx.scan(GroupMember))
        return sorted({*members, *(row.group for row in tx.scan(GroupSecret))})

    return engine.read(body)
