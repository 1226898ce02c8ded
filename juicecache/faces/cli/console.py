"""What commands print: results on stdout, progress and notes on stderr.

Law: with ``--json`` stdout carries one JSON document and nothing else is printed but errors.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

_PROGRESS_S = 0.1
"""Between two updates of a progress line: smooth to the eye, free of cost to the work."""
_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Console:
    """Where a command writes to.

    Parameters
    ----------
    machine
        Print results as JSON.
    """

    def __init__(self, *, machine: bool = False) -> None:
        self.machine = machine
        self._shows_progress = not machine and sys.stderr.isatty()
        self._shown_s = 0.0
        self._progress_width = 0

    def result(self, value: Any, lines: Iterable[str]) -> None:
        """Print the outcome: ``value`` as JSON for machines, ``lines`` for people."""
        self.end_progress()
        if self.machine:
            print(json.dumps(value, indent=2, default=str))
            return
        for line in lines:
            print(line)

    def announce(self, value: Any, text: str) -> None:
        """Print one line at once, for a program that waits for it: ``value`` as JSON, or text."""
        self.end_progress()
        print(json.dumps(value) if self.machine else text, flush=True)

    def line(self, text: str = "") -> None:
        """Print one line of a result in parts; nothing for machines."""
        if not self.machine:
            self.end_progress()
            print(text, flush=True)

    def note(self, text: str) -> None:
        """Tell people something beside the result."""
        if not self.machine:
            self.end_progress()
            print(f"juicecache: {text}", file=sys.stderr)

    def progress(self, text: str) -> None:
        """Replace the progress line, at most every tenth of a second; terminals only."""
        now_s = time.monotonic()
        if not self._shows_progress or now_s - self._shown_s < _PROGRESS_S:
            return
        self._shown_s = now_s
        padding = " " * (self._progress_width - len(text))
        self._progress_width = len(text)
        print(f"\r{text}{padding}", end="", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        """Take the progress line away."""
        if self._progress_width:
            print("\r" + " " * self._progress_width + "\r", end="", file=sys.stderr, flush=True)
            self._progress_width = 0


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of aligned columns; the first is text, the others stand to the right."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [headers, *rows]
    ]


def fields(value: dict[str, Any]) -> list[str]:
    """Return a line for every plain member of ``value``, names aligned."""
    plain = {name: one for name, one in value.items() if not isinstance(one, dict | list | tuple)}
    width = max((len(name) for name in plain), default=0)
    return [f"{name.replace('_', ' '):>{width}}: {_plain(name, plain[name])}" for name in plain]


def _plain(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name.endswith("bytes"):
        return f"{size(value)} ({value} bytes)"
    return str(value)


def size(count: float) -> str:
    """Return bytes for people, such as ``1.5 MiB``."""
    power = 0
    while count >= 1024 and power < len(_SIZE_UNITS) - 1:
        count /= 1024
        power += 1
    return f"{count:.0f} B" if power == 0 else f"{count:.1f} {_SIZE_UNITS[power]}"


def name_shown(name: str) -> str:
    """Return a file's name as it is safe to print.

    On a terminal what would move the cursor, or is no text at all, is escaped; a program
    that reads our output gets the name as it is.
    """
    return printable(name) if sys.stdout.isatty() else name


def printable(text: str) -> str:
    """Return ``text`` with an escape for each character that cannot be shown."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )
