"""Which metrics a process has, by the official client's names where it has the same.

Law: to collect them costs no request and no transaction; what is not measured is not there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from juicecache.faces.metrics.text import Family, Sample
from juicecache.version import VERSION
from juicecache.volume.insight import VolumeStats
from juicecache.volume.volume import Volume

_SERVER_HELP = {
    "accepted": "connections taken",
    "requests": "requests of known callers",
    "hits": "requested blocks that were cached",
    "loads": "requested blocks that were loaded for the caller",
    "misses": "requested blocks that nobody got from here",
    "busy": "blocks and callers turned away because too much was under way",
    "kept": "blocks that others gave and a tier took",
    "received_bytes": "bytes that came from others, requests included",
    "reports": "copies that a caller found bad, rightly or not",
    "refused": "strangers that were not let in",
    "stalled": "connections closed because nothing moved",
    "protocol_errors": "connections closed because of what they sent",
    "failures": "connections closed because of an error of ours",
}
_STORE_HELP = {
    "loads": "whole blocks taken from object storage",
    "loaded_bytes": "their size, before compression",
    "range_gets": "parts of blocks taken from object storage",
    "range_bytes": "their size",
    "uploads": "blocks stored",
    "uploaded_bytes": "their size, before compression",
}


def volume_labels(volume: Volume) -> dict[str, str]:
    """Return the labels that all metrics of a volume have in this process."""
    group = volume.options.cache_group
    role = ("Provider" if volume.member() is not None else "Consumer") if group else ""
    return {
        "vol_name": volume.setting.name,
        "mp": f"sdk-{os.getpid()}",
        "cache_group": group,
        "cache_group_role": role,
    }


def volume_families(volume: Volume) -> list[Family]:
    """Return what is counted now."""
    stats = volume.stats()
    return [
        *_process(),
        *_caches(volume, stats),
        *_store(stats),
        *_group(volume, stats),
    ]


def _counter(name: str, text: str, value: float) -> Family:
    return Family(name, "counter", text, [Sample(value)])


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, [Sample(value)])


def _process() -> Iterator[Family]:
    yield Family(
        "juicecache_info", "gauge", "the version that runs", [Sample(1, {"version": VERSION})]
    )
    yield _counter("juicefs_cpu_usage", "processor time, in seconds", time.process_time())
    yield _gauge("juicefs_memory", "resident memory, in bytes", _resident_bytes())


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _caches(volume: Volume, stats: VolumeStats) -> Iterator[Family]:
    tiers = stats.tiers
    member = volume.member()
    if member is not None:  # does not count a block that is loaded for others as a hit
        hits, misses = member.stats.hits, member.stats.misses
    else:
        hits, misses = sum(t.hits for t in tiers), tiers[-1].misses if tiers else 0
    name = "juicefs_blockcache"
    yield _gauge(f"{name}_blocks", "cached blocks", sum(t.items for t in tiers))
    yield _gauge(f"{name}_bytes", "size of the cached blocks", sum(t.used_bytes for t in tiers))
    yield _counter(f"{name}_hits", "reads of blocks that a tier answered", hits)
    yield _counter(f"{name}_miss", "reads of blocks that no tier had", misses)
    yield _counter(f"{name}_writes", "blocks put into a tier", sum(t.stored for t in tiers))
    yield _counter(f"{name}_evicts", "blocks pushed out", sum(t.evicted for t in tiers))
    each = [(tier, {"tier": tier.where, "medium": tier.medium}) for tier in tiers]
    for field, kind, text in (
        ("capacity_bytes", "gauge", "quota of a tier"),
        ("used_bytes", "gauge", "what counts towards the quota of a tier"),
        ("corrupt", "counter", "damaged copies that were dropped"),
        ("errors", "counter", "operations that the medium refused"),
    ):
        samples = [Sample(getattr(tier, field), labels) for tier, labels in each]
        yield Family(f"juicecache_tier_{field}", kind, text, samples)  # type: ignore[arg-type]  # mypy takes the kinds in the tuples for any text
    yield Family(
        "juicecache_tier_ok",
        "gauge",
        "whether a tier takes blocks: 0 when it is full or sick",
        [Sample(int(tier.state == "ok"), labels) for tier, labels in each],
    )


def _store(stats: VolumeStats) -> Iterator[Family]:
    for field, text in _STORE_HELP.items():
        yield _counter(f"juicecache_store_{field}", text, getattr(stats.blocks, field))


def _group(volume: Volume, stats: VolumeStats) -> Iterator[Family]:
    group, blocks = stats.group, stats.blocks
    if group is None:
        return
    name = "juicefs_remotecache"
    asked = blocks.peer_blocks + blocks.fallbacks
    yield _counter(f"{name}_get", "blocks and ranges asked of other members", asked)
    yield _counter(f"{name}_getBytes", "bytes that came from other members", blocks.peer_bytes)
    yield _counter(
        f"{name}_errors",
        "blocks and ranges that came from object storage instead",
        blocks.fallbacks,
    )
    down = sum(peer.state != "up" for peer in group.peers)
    yield _gauge("juicecache_group_members", "members of the group", len(group.members))
    yield _gauge("juicecache_group_members_down", "of those, out of use for us", down)
    member = volume.member()
    if member is None or stats.serving is None:
        return
    yield _gauge("juicefs_uptime", "seconds as a member", member.stats.uptime_s)
    yield _gauge("juicecache_group_ready", "whether clients find us", int(not member.obstacle))
    yield _gauge("juicecache_group_share", "our part of all blocks", group.shares.get(group.me, 0))
    served: dict[str, Any] = asdict(stats.serving)
    yield _counter(f"{name}_send", "blocks and ranges sent to others", served["parts"])
    yield _counter(f"{name}_sendBytes", "bytes sent to others", served["sent_bytes"])
    yield _gauge("juicecache_server_connections", "connections open", served["connections"])
    for field, text in _SERVER_HELP.items():
        yield _counter(f"juicecache_server_{field}", text, served[field])
