"""What a check of a volume found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LISTED_MAX = 1000
"""Findings kept of each kind: enough to see the pattern; the numbers count all."""


@dataclass(slots=True)
class FsckReport:
    """What a check found.

    ``lost`` and ``damaged`` name files and their objects; ``sums`` says which counters,
    directory sums, link counts and reference counts differ; ``repaired`` which of them were
    set right. Lists are bounded by `LISTED_MAX`.
    """

    files: int = 0
    directories: int = 0
    blocks: int = 0
    bytes: int = 0
    lost_blocks: int = 0
    damaged_blocks: int = 0
    wrong_sums: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or everything that was is repaired."""
        return not self.lost_blocks and not self.damaged_blocks and not self.wrong_sums

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def is_full(findings: list[str]) -> bool:
    """Return whether a list of findings has no room for another one."""
    return len(findings) >= LISTED_MAX


def keep(findings: list[str], what: str) -> None:
    """Add a finding to a list that has room for it."""
    if not is_full(findings):
        findings.append(what)
