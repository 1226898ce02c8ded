"""The part of this process in a cache group: it finds the others, and is one if it shares.

Members enter themselves into the volume's metadata, twice in a heartbeat, unless their addresses
are given. The group's secret is in the metadata, too, unless it is given: so whoever may read
the metadata may read from the group, and needs no right to write.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import ssl
import threading
import time
from dataclasses import asdict
from typing import Any

from juicecache.cache.stack import TierStack
from juicecache.cache.tier import TierStats
from juicecache.config import VolumeOptions
from juicecache.errors import (
    ConfigError,
    MetaError,
    PeerProtocolError,
    ReadOnlyVolumeError,
)
from juicecache.hosts import own_address
from juicecache.meta.engine import Engine
from juicecache.meta.membership import Membership
from juicecache.peers.group import Group
from juicecache.peers.handshake import Terms
from juicecache.peers.link import Dialing
from juicecache.peers.members import AddressBook, Member, resolve
from juicecache.peers.server import PeerServer, ServerStats
from juicecache.version import VERSION
from juicecache.volume.blocks import Blocks
from juicecache.volume.serving import BACKUP_S, BlockSource

_MIB = 1 << 20
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  (refused, not bound)
_LEAVING_HEARTBEATS = 0.6
"""After so many every client has read the list without us, if its heartbeat is ours."""

_DRAIN_LOOK_S = 0.1

logger = logging.getLogger("juicecache")


class Directory:
    """Where a client finds the members of its group, and what it shows them.

    Parameters
    ----------
    volume
        The namespace of the blocks.
    """

    def __init__(self, options: VolumeOptions, engine: Engine, volume: str) -> None:
        self._options = options
        self._volume = volume
        self._tls = client_tls(options)
        self.rows = Membership(engine, options.cache_group, options.heartbeat_s)
        self._secret = options.group_secret.encode()
        self._book: AddressBook | None = None

    def members(self) -> list[Member]:
        """Return the members that are there; none as long as nobody ever made a secret."""
        if not self.secret():
            return []
        places = self._options.group_members
        if places is None:
            return entered(self.rows)
        if self._book is None:
            service = places.service
            look = (lambda: places.addresses) if service is None else lambda: resolve(*service)
            self._book = AddressBook(look, self.dialing())
        return self._book.members()

    def remark(self) -> str:
        """Return what keeps addresses that were given from being members; empty for nothing."""
        return "" if self._book is None else "; ".join(self._book.silent)

    def secret(self, *, create: bool = False) -> bytes:
        """Return the group's secret; empty where there is none yet."""
        if not self._secret:
            self._secret = self.rows.secret(create=create) or b""
        return self._secret

    def dialing(self) -> Dialing:
        """Return how members are reached."""
        return Dialing(self.terms(), self._options.remote_timeout_s, self._tls)

    def terms(self) -> Terms:
        """Return what connections of this group are for."""
        return Terms(self._volume, self._options.cache_group, self.secret())

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        if self._book is not None:
            self._book.close()


def entered(rows: Membership) -> list[Member]:
    """Return the members that have entered themselves, and are alive."""
    found = []
    for row in rows.members():
        try:
            found.append(Member.parse(json.loads(row.info)))
        except (ValueError, PeerProtocolError):
            logger.warning(
                "cache group %s: the entry of member %r is damaged", row.group, row.member
            )
    return found


def build_group(options: VolumeOptions, directory: Directory) -> Group:
    """Return the group as a client sees it; nothing is asked of anybody yet."""
    return Group(
        options.cache_group,
        directory.members,
        directory.dialing,
        remark=directory.remark,
        size_min=options.cache_group_size,
        heartbeat_s=options.heartbeat_s,
    )


class Serving:
    """What makes this process a member: its server, and its entry in the metadata.

    Parameters
    ----------
    blocks
        What is served.

    Raises
    ------
    ConfigError
        It cannot listen, or cannot enter itself into the metadata.
    """

    def __init__(
        self, options: VolumeOptions, directory: Directory, blocks: Blocks, group: Group
    ) -> None:
        self._options = options
        self._directory = directory
        self._group = group
        self._weight = _weight(options, blocks.tiers)
        self._left = False
        self._entry = threading.Lock()
        self._started_s = self._renewed_s = time.monotonic()
        self._is_entered = options.group_members is None
        host = options.group_ip or own_address()
        if host in _ANY_ADDRESS:
            raise ConfigError(
                f"option group_ip: {host} is no address that others can reach this member by; give "
                "the one of the network that they share, or none to take that of the default route"
            )
        self._make_secret()
        self._source = BlockSource(
            blocks,
            group,
            self._described,
            loading_bytes_max=options.buffer_size_bytes,
            backup_until_s=time.monotonic() + BACKUP_S if options.group_backup else 0.0,
        )
        self._member = Member("", (host, options.group_port), self._weight, options.group_backup)
        self._server = PeerServer(
            (host, options.group_port),
            directory.terms(),
            self._source,
            self.about,
            tls=server_tls(options),
        )
        self._server.start()
        port = self._server.address[1]
        self._member = self._member._replace(
            name=f"{socket.gethostname()}:{port}", address=(host, port)
        )
        try:
            self._renew()
        except ReadOnlyVolumeError as error:
            self._stop()
            raise self._unwritable() from error
        except BaseException:
            self._stop()
            raise
        group.join(self._member.name, self._renew)
        # Whoever ends without closing the volume, as users of fsspec do, leaves the group, too.
        self._pid = os.getpid()
        atexit.register(self._end)

    def _end(self) -> None:
        if os.getpid() == self._pid:
            self.close()

    def _make_secret(self) -> None:
        try:
            if not self._directory.secret(create=self._is_entered):
                raise ConfigError(
                    f"cache group {self._options.cache_group}: there is no secret yet; with "
                    "group_members give it as JUICECACHE_GROUP_SECRET"
                )
        except ReadOnlyVolumeError as error:
            raise self._unwritable() from error

    def _unwritable(self) -> ConfigError:
        return ConfigError(
            f"cache group {self._options.cache_group}: a member enters itself into the "
            "metadata, which cannot be written here; with no_sharing this client only reads, "
            "with group_members and JUICECACHE_GROUP_SECRET it needs no entry"
        )

    # ------------------------------------------------------------------ what we are

    @property
    def name(self) -> str:
        """Our name in the group."""
        return self._member.name

    @property
    def member(self) -> Member:
        """What we are now."""
        return self._member._replace(
            weight=0 if self._left else self._weight, backup=self._source.is_backed_up
        )

    def about(self) -> dict[str, Any]:
        """Return what others learn of us."""
        return {**self.member.about(), "pid": os.getpid()}

    def _described(self) -> dict[str, Any]:
        return {
            **self.about(),
            "version": VERSION,
            "uptime_s": time.monotonic() - self._started_s,
            "server": asdict(self._server.stats()),
        }

    def report(self) -> dict[str, Any]:
        """Return what the others are told when they ask for our counters."""
        return self._source.stats()

    def obstacle(self) -> str:
        """Return why new clients do not find us here; empty when they do."""
        if self._left:
            return "it is leaving the group"
        silent_s = time.monotonic() - self._renewed_s
        if self._is_entered and silent_s > self._directory.rows.lifetime_s:
            return f"its entry has ended: the metadata took no renewal for {silent_s:.0f} s"
        return ""

    def _renew(self) -> None:
        with self._entry:
            if self._is_entered and not self._left:
                info = {**self.about(), "renewed_s": time.time()}
                self._directory.rows.renew(self.name, json.dumps(info).encode())
                self._renewed_s = time.monotonic()

    # ------------------------------------------------------------------ the end

    def leave(self) -> None:
        """Give up our part of the blocks; who does not know yet is still served."""
        with self._entry:  # a renewal that is under way would enter us again
            self._left = True
            if self._is_entered:
                self._directory.rows.leave(self.name)

    def drain(self, timeout_s: float) -> None:
        """Leave, serve until the others know, then take nobody new and end what is under way.

        Returns earlier when nobody is connected any more, and after ``timeout_s`` at the latest.
        """
        end_s = time.monotonic() + timeout_s
        with contextlib.suppress(MetaError):  # then our entry ends by itself
            self.leave()
        until_s = min(end_s, time.monotonic() + _LEAVING_HEARTBEATS * self._options.heartbeat_s)
        while time.monotonic() < until_s and self._server.stats().connections:
            time.sleep(_DRAIN_LOOK_S)
        self._server.drain(max(0.0, end_s - time.monotonic()))

    def stats(self) -> ServerStats:
        """Return the counters of the server."""
        return self._server.stats()

    def close(self) -> None:
        """Leave and stop serving. Safe to call twice."""
        atexit.unregister(self._end)
        with contextlib.suppress(MetaError):
            if not self._left:
                self.leave()
        self._stop()

    def _stop(self) -> None:
        self._server.close()
        self._source.close()


def _weight(options: VolumeOptions, tiers: TierStack) -> int:
    if options.group_weight is not None:
        return options.group_weight
    room_bytes = sum(_room(tier, options.free_space_ratio) for tier in tiers.stats())
    return max(room_bytes // _MIB, min(room_bytes, 1))


def _room(tier: TierStats, free_space_ratio: float) -> int:
    """Return what a tier can hold: the quota may be more than its disks have."""
    if tier.medium == "memory":
        return tier.capacity_bytes
    disks = {}
    for folder in tier.where.split(":"):
        folder = os.path.expanduser(folder)
        disk = os.statvfs(folder)
        disks[os.stat(folder).st_dev] = disk.f_blocks * disk.f_frsize
    return min(tier.capacity_bytes, int(sum(disks.values()) * (1 - free_space_ratio)))


def client_tls(options: VolumeOptions) -> ssl.SSLContext | None:
    """Return how to wrap connections to members; None without certificates.

    Members are known by who signed their certificate, not by a host name: pods come and go.
    """
    return _tls(options, ssl.PROTOCOL_TLS_CLIENT)


def server_tls(options: VolumeOptions) -> ssl.SSLContext | None:
    """Return how to wrap connections of callers, who must have a certificate, too."""
    return _tls(options, ssl.PROTOCOL_TLS_SERVER)


def _tls(options: VolumeOptions, protocol: int) -> ssl.SSLContext | None:
    if not options.cert_file:
        return None
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(options.cert_file, options.key_file, password=_no_password)
        context.load_verify_locations(options.ca_file or options.cert_file)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"options cert_file, key_file and ca_file cannot be used: {error}"
        ) from error
    return context


def _no_password() -> str:
    raise ConfigError("option key_file: an encrypted key is not taken; decrypt it first")
