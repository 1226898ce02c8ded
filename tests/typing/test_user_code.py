"""The public types, checked by mypy on code as users write it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
def test_user_code_has_the_promised_types(tmp_path):
    api = pytest.importorskip("mypy.api")
    source = Path(__file__).parent / "user_code.py"
    root = Path(__file__).parents[2]
    settings = ["--cache-dir", str(tmp_path), "--config-file", str(root / "pyproject.toml")]
    output, errors, status = api.run([*settings, "--follow-imports", "silent", str(source)])
    assert status == 0, output + errors
