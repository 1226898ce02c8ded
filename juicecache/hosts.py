"""What this host is called by others: its addresses, without asking anybody."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path

_FIB_TRIE, _IF_INET6 = Path("/proc/net/fib_trie"), Path("/proc/net/if_inet6")
_LOCAL = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


def own_address() -> str:
    """Return the address of this host in the network of its default route; else the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for examples; a UDP socket sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def own_addresses() -> list[str]:
    """Return all addresses of this host but the loopback's, IPv4 first, as Linux lists them.

    Where it does not tell them, the one of `own_address`.
    """
    found: dict[str, None] = {}
    try:
        for text in _listed():
            if not ipaddress.ip_address(text).is_loopback:
                found[text] = None
    except (OSError, ValueError):
        found = {own_address(): None}
    return list(found)


def _listed() -> Iterator[str]:
    for match in _LOCAL.finditer(_FIB_TRIE.read_text(encoding="ascii")):
        yield match[1]
    if _IF_INET6.exists():  # not where IPv6 is switched off
        for line in _IF_INET6.read_text(encoding="ascii").splitlines():
            yield str(ipaddress.IPv6Address(int(line.split()[0], 16)))
