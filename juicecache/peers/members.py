"""Who is in a cache group: what a member says of itself, and lists of addresses.

Members are found by rows of the volume's metadata, which the floor above reads, or here: by a
list of addresses, or a name that resolves to them, as that of a headless Kubernetes service.
An address says nothing of who is there, so each is asked twice in a heartbeat.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeGuard

from juicecache.errors import PeerError, PeerProtocolError, PeerUnavailableError
from juicecache.forks import survive_fork
from juicecache.peers.link import Address, Dialing
from juicecache.peers.peer import Peer

_NAME_CHARS_MAX = 255
_WEIGHT_MAX = 1 << 40
"""Far above the MiB of any cache; keeps the arithmetic of the ring small."""
_PORT_MAX = (1 << 16) - 1
_ASKED_AT_ONCE = 128
"""Addresses asked at the same time: so many may be silent before the others wait for them. It
takes a thread each, for as long as it lasts; those that answer take far less than a thread each."""


class Member(NamedTuple):
    """One member of a group.

    Attributes
    ----------
    name
        What places it on the ring: the same after a restart, so that it owns the same blocks.
    address
        Where it listens.
    weight
        Its part of the blocks, relative to the others'; 0 owns none.
    backup
        It is new, and asks the former owner of a block before object storage.
    """

    name: str
    address: Address
    weight: int
    backup: bool

    def about(self) -> dict[str, Any]:
        """Return plain values for a frame or a row."""
        host, port = self.address
        return {
            "name": self.name,
            "host": host,
            "port": port,
            "weight": self.weight,
            "backup": self.backup,
        }

    @classmethod
    def parse(cls, about: object, address: Address | None = None) -> Member:
        """Return the member that `about` describes; ``address`` is where it was met, if it was.

        Raises
        ------
        PeerProtocolError
        """
        found: Mapping[str, Any] = about if isinstance(about, dict) else {}
        name, weight, backup = (found.get(key) for key in ("name", "weight", "backup"))
        host, port = address or (found.get("host"), found.get("port"))
        if (
            _is_name(name)
            and _is_name(host)
            and type(port) is int
            and 0 < port <= _PORT_MAX
            and type(weight) is int
            and 0 <= weight <= _WEIGHT_MAX
            and type(backup) is bool
        ):
            return cls(name, (host, port), weight, backup)
        raise PeerProtocolError("what it says of itself does not have its form")


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _NAME_CHARS_MAX


def resolve(name: str, port: int) -> list[Address]:
    """Return the addresses behind a name.

    Raises
    ------
    PeerUnavailableError
        The name is not known now.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # not known, or nothing that can be a name
        raise PeerUnavailableError(
            f"the name cannot be resolved: {getattr(error, 'strerror', error)}", name
        ) from error
    return sorted({(str(address[0]), port) for *_, address in found})


class AddressBook:
    """Members that are known by their addresses alone.

    Parameters
    ----------
    addresses
        Returns where to look.
    dialing
        How members are reached.

    Attributes
    ----------
    silent
        Where there was no member when they were last asked, and why.
    """

    def __init__(self, addresses: Callable[[], Iterable[Address]], dialing: Dialing) -> None:
        self.silent: tuple[str, ...] = ()
        self._addresses = addresses
        self._dialing = dialing
        self._known: dict[Address, Peer] = {}
        survive_fork(self)

    def members(self) -> list[Member]:
        """Return the members that answer now, one a name.

        Raises
        ------
        PeerUnavailableError
            The name behind which they should be is not known.
        """
        addresses = dict.fromkeys(self._addresses())
        for gone in self._known.keys() - addresses.keys():
            self._known.pop(gone).close()
        for address in addresses:
            if address not in self._known:
                self._known[address] = Peer("", address, self._dialing)
        with ThreadPoolExecutor(_ASKED_AT_ONCE, "juicecache-asking") as pool:
            met = list(pool.map(_meet, self._known.values()))
        self.silent = tuple(one for one in met if isinstance(one, str))
        return _one_a_name([one for one in met if isinstance(one, Member)])

    def before_fork(self) -> None:
        """Nothing of ours is half-done for long enough to matter."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; a child begins without connections."""
        if in_child:
            for peer in self._known.values():
                peer.after_fork_in_child()

    def close(self) -> None:
        """Close the connections."""
        for peer in self._known.values():
            peer.close()


def _meet(peer: Peer) -> Member | str:
    """Return who is at an address, or why nobody is."""
    try:
        return Member.parse(peer.look(), peer.address)
    except PeerError as error:
        return f"{peer.where}: {error.detail}"


def _one_a_name(members: Sequence[Member]) -> list[Member]:
    """Return members by name; of several addresses of one, all clients take the same."""
    found: dict[str, Member] = {}
    for member in sorted(members, reverse=True):
        found[member.name] = member
    return [found[name] for name in sorted(found)]
