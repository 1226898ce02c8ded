"""The workers of the command ``demo``: three members of a cache group, a process each.

A worker serves until its standard input ends: so it ends with the demonstration, however that
ends. Object storage is as late for it as for the client.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from juicecache.config import VolumeOptions
from juicecache.errors import ConfigError
from juicecache.volume.latency import Latency
from juicecache.volume.volume import Volume

GROUP = "demo"
_END_S = 10.0
"""For a worker to leave the group and end; then it is killed."""


@contextmanager
def workers(meta: str, folders: Sequence[Path], pause_s: float) -> Iterator[None]:
    """Run a worker for each cache folder meanwhile; all of them are ready inside.

    Parameters
    ----------
    pause_s
        How much later object storage answers.

    Raises
    ------
    ConfigError
        One did not start; it has said why on the standard error.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_worker(meta, folder, pause_s)) for folder in folders]
        for process in started:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise ConfigError("a worker of the demonstration did not start")
        yield
        for process in started:  # all at once: the next loop waits for one after the other
            assert process.stdin is not None
            process.stdin.close()


@contextmanager
def _worker(meta: str, folder: Path, pause_s: float) -> Iterator[subprocess.Popen[str]]:
    # In a session of its own an interrupt by the keyboard is for the demonstration alone.
    with subprocess.Popen(
        [sys.executable, "-m", __name__, meta, str(folder), str(pause_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    """Be one worker, until the input ends."""
    meta, folder, pause_s = sys.argv[1:]
    options = VolumeOptions.from_options(
        {
            "cache_group": GROUP,
            "cache_dir": folder,
            "free_space_ratio": 0,  # the space was checked
            "group_ip": "127.0.0.1",
        }
    )
    with Volume(meta, options, Latency(float(pause_s)) if float(pause_s) else None):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
