"""What the command ``demo`` measured, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from juicecache.faces.cli.console import table

NO_CACHE, PEERS, DIRECTORY, MEMORY = "no cache", "peers", "directory tier", "memory tier"
"""Steps that are compared: where the bytes came from."""


class Row(NamedTuple):
    """One measurement; ``requests`` are those to object storage, the workers' too."""

    step: str
    files: int
    total_bytes: int
    elapsed_s: float
    requests: int

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "step": self.step,
            "files": self.files,
            "bytes": self.total_bytes,
            "seconds": self.elapsed_s,
            "files_per_s": self.files / self.elapsed_s,
            "bytes_per_s": self.total_bytes / self.elapsed_s,
            "object_requests": self.requests,
        }

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table's line."""
        return (
            self.step,
            f"{self.files:,}",
            f"{self.files / self.elapsed_s:,.0f}" if self.files > 1 else "",
            f"{self.total_bytes / self.elapsed_s / 1e6:,.0f}",
            f"{self.elapsed_s:.3f}",
            f"{self.requests:,}",
        )


def step_name(step: str, *, at_once: bool) -> str:
    """Return what the row of a step is called."""
    return f"{step}, {'many at once' if at_once else 'one at a time'}"


def row_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table of all rows."""
    headers = ("", "files", "files/s", "MB/s", "seconds", "object requests")
    return table(headers, [row.cells() for row in rows])


def comparison(rows: Sequence[Row]) -> dict[str, float]:
    """Return {where from: milliseconds a file}, read one at a time, for what was measured."""
    by_step = {row.step: row for row in rows}
    found = {}
    for step in (NO_CACHE, PEERS, DIRECTORY, MEMORY):
        row = by_step.get(step_name(step, at_once=False))
        if row is not None:
            found[step] = row.elapsed_s / row.files * 1e3
    return found


def comparison_lines(rows: Sequence[Row]) -> list[str]:
    """Return object storage, peers and the local tiers side by side."""
    times_ms = comparison(rows)
    names = {NO_CACHE: "object storage", PEERS: "cache group"}
    slowest_ms = times_ms[NO_CACHE]
    return table(
        ("one file at a time, from", *(names.get(step, step) for step in times_ms)),
        [
            ("ms a file", *(f"{time_ms:.3f}" for time_ms in times_ms.values())),
            ("times as fast", *(f"{slowest_ms / time_ms:.1f}" for time_ms in times_ms.values())),
        ],
    )
