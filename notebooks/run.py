"""Run every notebook from top to bottom: ``python notebooks/run.py [NOTEBOOK ...]``.

Each runs in a home folder of its own that is removed afterwards, so nothing of the user is read
or written. The exit code is 1 when a cell of any of them failed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

_CELL_S_MAX = 300
"""Far above what any cell takes; ends a cell that hangs."""
_OURS = ("JUICECACHE_META", "JUICECACHE_CONFIG", "META_PASSWORD", "ACCESS_KEY", "SECRET_KEY")
"""What a user may have set for volumes of their own."""


def enter_home(home: Path) -> None:
    """Let this process, and the kernels it starts, see ``home`` as everything of the user."""
    for name in _OURS:
        os.environ.pop(name, None)
    os.environ["HOME"] = str(home)
    for variable, folder in (
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_RUNTIME_DIR", ".run"),
        ("IPYTHONDIR", ".ipython"),
        ("JUPYTER_CONFIG_DIR", ".jupyter"),
        ("JUPYTER_DATA_DIR", ".jupyter/share"),
        ("JUPYTER_RUNTIME_DIR", ".jupyter/run"),
    ):
        (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[variable] = str(home / folder)


def run(path: Path) -> str | None:
    """Run one notebook; return what went wrong."""
    with tempfile.TemporaryDirectory(prefix="juicecache-notebook-") as folder:
        home = Path(folder)
        enter_home(home)
        client = NotebookClient(
            nbformat.read(path, as_version=4),
            timeout=_CELL_S_MAX,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return str(error)
    return None


def main(arguments: list[str]) -> int:
    """Run the notebooks that are named, else all beside this file."""
    here = Path(__file__).resolve().parent
    failures = 0
    for path in [Path(name).resolve() for name in arguments] or sorted(here.glob("*.ipynb")):
        began = time.monotonic()
        problem = run(path)
        failures += problem is not None
        verdict = "failed" if problem else "ok"
        print(f"{path.name}: {verdict} in {time.monotonic() - began:.1f} s", flush=True)
        if problem:
            print(problem, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
