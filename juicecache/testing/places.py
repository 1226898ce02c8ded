"""Small file systems in memory, made for one test: only root can."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    """Mount something, or skip the test where that is not possible."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("no file system can be mounted here")


@contextmanager
def tmpfs(point: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of ``size``, as ``mount`` writes sizes, at ``point``, which is made."""
    point.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point))
    try:
        yield point
    finally:
        if os.path.ismount(point):  # a test may have unmounted it
            subprocess.run(["umount", "-l", str(point)], check=True, capture_output=True)
