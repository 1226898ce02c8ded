"""One of several clients that make single files all the time: ``python -m`` this; see `main`."""

from __future__ import annotations

import json
import sys
import threading
import time

from juicecache.volume.volume import open_volume


def main() -> None:
    """Make files in some directories, one after another, until standard input ends.

    Arguments are the metadata URL, what names begin with, and the directories. Says ``ready``
    behind the first file, and at the end writes JSON: the time at which each file was there, in
    seconds since the epoch, by path.
    """
    meta, name, *folders = sys.argv[1:]
    end = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        end.set()

    threading.Thread(target=wait, daemon=True).start()
    made: dict[str, float] = {}
    with open_volume(meta, cache_size="0") as volume:
        while not end.is_set():
            path = f"{folders[len(made) % len(folders)]}/{name}{len(made)}"
            volume.write_file(path, path.encode(), exclusive=True)
            made[path] = time.time()
            if len(made) == 1:
                print("ready", flush=True)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
