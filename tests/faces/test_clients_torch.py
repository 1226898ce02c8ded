"""PyTorch: DataLoader workers, after the parent used the file system."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "loader_script.py"
TIMEOUT_S = 120
"""Importing torch in four processes takes ten seconds on a small machine; a hang takes longer."""


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.service)])
def stored(request):
    """A volume, and what its workers may cache: over S3 nothing, so that they load cold."""
    if request.param == "directory":
        return request.getfixturevalue("place"), "1GiB"
    return request.getfixturevalue("s3_place"), "0"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_workers_read_after_the_parent_did(stored, way):
    place, cache_size = stored
    done = subprocess.run(
        [sys.executable, str(SCRIPT), way, place.meta, place.options["cache_dir"], cache_size],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "40 works\n"
