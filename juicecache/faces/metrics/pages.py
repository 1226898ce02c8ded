"""The pages of a process that is a member of a cache group."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from html import escape

from juicecache.faces.metrics.families import volume_families, volume_labels
from juicecache.faces.metrics.server import Page
from juicecache.faces.metrics.text import CONTENT_TYPE, render
from juicecache.volume.group_report import GroupReport, MemberReport
from juicecache.volume.volume import Volume

_RECENT_S = 2.0
"""How old the page may be: each asks all members, so that reloading must not multiply."""
_MIB = 1 << 20

_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="refresh" content="10"><title>juicecache</title><style>
body{font-family:system-ui,sans-serif;margin:2em}table{border-collapse:collapse}
td,th{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:right}
td:first-child,th:first-child{text-align:left}.down{color:#b00}</style></head><body>
"""
_COLUMNS = ("member", "address", "share", "used", "quota", "hit ratio", "sent", "state")


def member_pages(volume: Volume) -> dict[str, Callable[[], Page]]:
    """Return the pages by their paths.

    ``/metrics`` for Prometheus, ``/healthz`` as long as the process answers, ``/readyz`` as
    long as clients find us, ``/`` for people.
    """
    overview = _Overview(volume)
    return {
        "/": overview.page,
        "/healthz": lambda: Page("ok\n"),
        "/metrics": lambda: Page(
            render(volume_families(volume), volume_labels(volume)), content_type=CONTENT_TYPE
        ),
        "/readyz": lambda: _ready(volume),
    }


def _ready(volume: Volume) -> Page:
    member = volume.member()
    reason = "it is no member" if member is None else member.obstacle
    return Page(f"{reason}\n", 503) if reason else Page("ready\n")


class _Overview:
    """The page for people, made at most every `_RECENT_S`."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lock = threading.Lock()
        self._made_s = float("-inf")
        self._recent = Page("")

    def page(self) -> Page:
        with self._lock:
            if time.monotonic() - self._made_s > _RECENT_S:
                report = self._volume.group()
                name = self._volume.setting.name
                text = overview(name, report) if report is not None else _HEAD
                self._recent = Page(text, content_type="text/html; charset=utf-8")
                self._made_s = time.monotonic()
            return self._recent


def overview(volume: str, report: GroupReport) -> str:
    """Return a group as HTML; nothing in it is taken for more than text."""
    rows = "".join(_row(member) for member in report.members)
    columns = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    state = f"{report.state}: {report.reason}" if report.reason else report.state
    return (
        f"{_HEAD}<h1>cache group {escape(report.name)}</h1>"
        f"<p>volume {escape(volume)}, seen from {escape(report.me)}; {escape(state)}</p>"
        f"<table><tr>{columns}</tr>{rows}</table></body></html>\n"
    )


def _row(member: MemberReport) -> str:
    stats = member.stats
    said = ["-"] * 4
    if stats is not None:
        ratio = stats.hit_ratio
        said = [
            f"{stats.used_bytes / _MIB:,.1f} MiB",
            f"{stats.capacity_bytes / _MIB:,.1f} MiB",
            "-" if ratio is None else f"{ratio:.1%}",
            f"{stats.server.sent_bytes / _MIB:,.1f} MiB",
        ]
    state = f"{member.state}: {member.reason}" if member.reason else member.state
    cells = [member.name, member.address, f"{member.share:.1%}", *said, state]
    kind = "" if member.state == "up" else ' class="down"'
    return f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
