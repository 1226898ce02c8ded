"""Run benchmarks and print their tables: ``python benchmarks/run.py [cold] [large] [local] ...``.

Each runs in a process of its own, so that none inherits another's memory or connections.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import environment

NAMES = (
    *("cold", "eviction", "large", "local", "meta", "pack", "peers", "ring", "tracking", "upkeep"),
    "warm",
)


def main() -> None:
    if sys.argv[1:2] == ["--here"]:
        for report in importlib.import_module(f"bench_{sys.argv[2]}").main():
            print(report.text(), flush=True)
        return
    print(environment(), end="\n\n", flush=True)
    for name in sys.argv[1:] or NAMES:
        subprocess.run([sys.executable, __file__, "--here", name], check=True)


if __name__ == "__main__":
    main()
