"""A cache group as its members describe it: who is there, what each has, and what it did.

Laws: members are asked at the same time, and one that does not answer costs one timeout; what
they say comes from another host, perhaps of another version, so only what has its form is taken.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

from juicecache.errors import MetaError, PeerError
from juicecache.meta.membership import Membership, group_names
from juicecache.model.layout import BlockKey
from juicecache.peers.members import Member
from juicecache.peers.peer import Peer, PeerStats
from juicecache.peers.server import ServerStats
from juicecache.peers.wire import KEYS_MAX, Kind, Name, frame
from juicecache.volume.cache_group import entered
from juicecache.volume.parts import Parts

T = TypeVar("T")
R = TypeVar("R")

_ASKED_AT_ONCE = 64
"""Members asked at the same time, with a thread each: a few of a thousand that are silent must
not hold up the others."""
_TEXT_CHARS_MAX = 300
_REASONS_MAX = 16
"""What is taken of the texts of a member: as much as the reasons of its tiers need."""


@dataclass(frozen=True, slots=True)
class MemberStats:
    """What a member says of itself, since it started.

    Attributes
    ----------
    version
        Of juicecache.
    uptime_s
        For how long it has been a member.
    capacity_bytes, used_bytes, items
        Of its tiers, in all of its processes; ``items`` are blocks.
    hits, misses
        Reads that its tiers answered, and those that none of them did.
    loads, loaded_bytes
        Blocks that it took from object storage.
    reasons
        What is wrong with its tiers.
    server
        What it gave to others.
    """

    version: str
    uptime_s: float
    capacity_bytes: int
    used_bytes: int
    items: int
    hits: int
    misses: int
    loads: int
    loaded_bytes: int
    reasons: tuple[str, ...]
    server: ServerStats

    @property
    def hit_ratio(self) -> float | None:
        """The part of the requested blocks that were cached; None before the first request."""
        asked = self.server.hits + self.server.loads + self.server.misses
        return self.server.hits / asked if asked else None

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Self:
        """Return what an answer to STATS says; what is absent or odd in it counts as nothing."""
        server = said.get("server")
        reasons = said.get("reasons")
        uptime_s = said.get("uptime_s")
        return cls(
            version=_text(said.get("version")),
            uptime_s=float(uptime_s) if isinstance(uptime_s, int | float) else 0.0,
            reasons=tuple(map(_text, reasons[:_REASONS_MAX])) if isinstance(reasons, list) else (),
            server=ServerStats(**_counts(ServerStats, server if isinstance(server, dict) else {})),
            **_counts(cls, said),
        )


def _counts(kind: type[Any], said: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of a dataclass, its fields of type `int`, in an answer."""
    found = {}
    for field in fields(kind):
        if field.type == "int":
            value = said.get(field.name)
            found[field.name] = value if type(value) is int and value >= 0 else 0
    return found


def _text(value: Any) -> str:
    return value[:_TEXT_CHARS_MAX] if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class MemberReport:
    """One member of a group.

    Attributes
    ----------
    weight, share
        Its weight, and the part of all blocks that it owns by that.
    is_me
        It is this process.
    state, reason
        ``up``, or ``down`` and why, for this process.
    heartbeat_age_s
        Since it last renewed its entry or, where members are known by their addresses, since
        it answered; None if it did not.
    stats
        What it says of itself; None if it did not answer.
    given
        What this process got from it; None for itself.
    """

    name: str
    address: str
    weight: int
    share: float
    is_me: bool
    state: str
    reason: str
    heartbeat_age_s: float | None
    stats: MemberStats | None
    given: PeerStats | None


@dataclass(frozen=True, slots=True)
class GroupReport:
    """A cache group as this process sees it; see `juicecache.peers.group.GroupStats`."""

    name: str
    me: str
    state: str
    reason: str
    members: tuple[MemberReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        value = asdict(self)
        for member, plain in zip(self.members, value["members"], strict=True):
            if member.stats is not None:
                plain["stats"]["hit_ratio"] = member.stats.hit_ratio
        return value


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One of the groups of a volume: how many members are alive, and their weights together."""

    name: str
    members: int
    weight: int


@dataclass(frozen=True, slots=True)
class OwnMember:
    """What this process is in its group; ``obstacle`` is why clients do not find it, or empty."""

    name: str
    address: str
    obstacle: str
    stats: MemberStats


def own_member(parts: Parts) -> OwnMember | None:
    """Return what this process is in its group; None unless it is a member. Asks nobody."""
    serving = parts.serving
    if serving is None:
        return None
    return OwnMember(
        serving.name,
        _shown(serving.member.address),
        serving.obstacle(),
        MemberStats.parse(serving.report()),
    )


def group_report(parts: Parts) -> GroupReport | None:
    """Return how the members of the group are; None for a client of no group."""
    group = parts.blocks.group
    if group is None:
        return None
    peers = group.peers()
    said: dict[str, MemberStats | None] = dict(
        zip(peers, _at_once(_look, list(peers.values())), strict=True)
    )
    me = own_member(parts)
    if me is not None:
        said[me.name] = me.stats
    ages_s = _heartbeat_ages_s(parts)
    seen = group.stats()
    given = {stats.name: stats for stats in seen.peers}
    members = tuple(
        _member_report(
            member,
            seen.shares[member.name],
            said.get(member.name),
            given.get(member.name),
            ages_s.get(member.name) if ages_s is not None else None,
            is_met=ages_s is None,
        )
        for member in seen.members
    )
    return GroupReport(seen.name, seen.me, seen.state, seen.reason, members)


def _look(peer: Peer) -> MemberStats | None:
    try:
        return MemberStats.parse(peer.look())
    except PeerError:
        return None


def _member_report(
    member: Member,
    share: float,
    said: MemberStats | None,
    given: PeerStats | None,
    age_s: float | None,
    *,
    is_met: bool,
) -> MemberReport:
    return MemberReport(
        member.name,
        _shown(member.address),
        member.weight,
        share,
        given is None,
        "up" if given is None else given.state,
        "" if given is None else given.reason,
        (0.0 if said is not None else None) if is_met else age_s,
        said,
        given,
    )


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _heartbeat_ages_s(parts: Parts) -> dict[str, float] | None:
    """Return how long ago members renewed their entries; None where there are no entries."""
    directory = parts.directory
    if directory is None or parts.options.group_members is not None:
        return None
    ages_s = {}
    now_s = time.time()
    with contextlib.suppress(MetaError):
        for row in directory.rows.members():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                ages_s[row.member] = max(0.0, now_s - float(json.loads(row.info)["renewed_s"]))
    return ages_s


def list_groups(parts: Parts) -> tuple[GroupEntry, ...]:
    """Return the groups that ever had a member that entered itself into the metadata."""
    found = []
    for name in group_names(parts.engine):
        members = entered(Membership(parts.engine, name, parts.options.heartbeat_s))
        found.append(GroupEntry(name, len(members), sum(member.weight for member in members)))
    return tuple(found)


def owners(parts: Parts, keys: Iterable[BlockKey]) -> dict[BlockKey, tuple[str, bool | None]]:
    """Return the owner of each block, and whether it has it; nothing for what nobody owns.

    Owners are asked at the same time, with one request for every `KEYS_MAX` blocks. None where
    the owner does not answer.
    """
    group = parts.blocks.group
    if group is None:
        return {}
    owned: dict[str, list[BlockKey]] = {}
    for key in keys:
        name = group.owner_name(key.raw)
        if name is not None:
            owned.setdefault(name, []).append(key)
    peers = group.peers()

    def ask(name: str) -> list[bool | None]:
        if name == group.me:
            return [parts.tiers.contains(key) for key in owned[name]]
        peer = peers.get(name)
        return [None] * len(owned[name]) if peer is None else _has(peer, owned[name])

    found: dict[BlockKey, tuple[str, bool | None]] = {}
    for name, answers in zip(owned, _at_once(ask, list(owned)), strict=True):
        found.update({key: (name, has) for key, has in zip(owned[name], answers, strict=True)})
    return found


def _has(peer: Peer, keys: Sequence[BlockKey]) -> list[bool | None]:
    """Return which blocks a member has; None for those that it does not say."""
    found: list[bool | None] = []
    for start in range(0, len(keys), KEYS_MAX):
        asked = keys[start : start + KEYS_MAX]
        try:
            answer = peer.ask(frame(Kind.HAS, [Name(key.name, key.length) for key in asked]))
        except PeerError:
            break
        if not isinstance(answer, bytes) or len(answer) != len(asked):
            break
        found += [flag == 1 for flag in answer]
    return found + [None] * (len(keys) - len(found))


def _at_once(act: Callable[[T], R], items: Sequence[T]) -> list[R]:
    if not items:
        return []
    with ThreadPoolExecutor(min(len(items), _ASKED_AT_ONCE), "juicecache-asking") as pool:
        return list(pool.map(act, items))
