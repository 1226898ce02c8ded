"""Clients in processes of their own that change files at random and know what must be in them.

Started as ``python -m juicecache.testing.stress``; see `main`. Each worker owns folders, and
nobody else touches what is in them. So plain dictionaries tell what every file contains,
whoever else uses the volume. A worker hands folders on: it writes the model of one to a file
and prints its name; another worker is told the name and takes the folder over. So files that
one client packed are changed by the other one, and the other way round.

What is done is logged before it is done, a line each.
"""

from __future__ import annotations

import argparse
import os
import pickle
import queue
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeAlias

from juicecache.testing.file_model import FileModel
from juicecache.testing.servers import run_juicefs
from juicecache.volume.volume import Volume, open_volume

SMALL_MAX = 16 << 10
"""A quarter of a block of 64 KiB: what is packed."""
_FILES_MAX = 60
"""Of a folder; where there are more, the folder is emptied."""
_FOLDERS_MAX = 4
"""A worker that has more gives one away."""
_GIVE_EVERY = 40
"""Steps, on average: a folder changes hands a few times in a short test."""


class OurClient:
    """Files through this library."""

    pack_max = 40

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.make_folder: Callable[[str], object] = volume.make_directory
        self.write: Callable[[str, bytes], object] = volume.write_file
        self.truncate: Callable[[str, int], object] = volume.truncate
        self.rename: Callable[[str, str], object] = volume.rename
        self.clone: Callable[[str, str], object] = volume.copy_file
        self.unlink: Callable[[str], object] = volume.unlink
        self.remove: Callable[[str], object] = volume.remove_tree
        self.read: Callable[[str], bytes] = volume.read_file

    def pack(self, files: dict[str, bytes]) -> None:
        """Write small files in one batch; in half of the cases nothing shows before its end."""
        with self._volume.batch(deferred=len(files) % 2 == 0) as batch:
            for path, content in files.items():
                batch.write(path, content)

    def append(self, path: str, content: bytes) -> None:
        """Write behind the end."""
        with self._volume.open(path, "ab") as file:
            file.write(content)

    def overwrite(self, path: str, start: int, content: bytes) -> None:
        """Write somewhere."""
        with self._volume.open(path, "r+b") as file:
            file.seek(start)
            file.write(content)


class MountClient:
    """Files through the mount point of the official client."""

    pack_max = 5

    def __init__(self, point: str) -> None:
        self._point = point

    def _at(self, path: str) -> str:
        return self._point + path

    def make_folder(self, path: str) -> None:
        """Make a folder."""
        os.makedirs(self._at(path))

    def pack(self, files: dict[str, bytes]) -> None:
        """Write a few of the files, one by one."""
        for path, content in files.items():
            self.write(path, content)

    def write(self, path: str, content: bytes) -> None:
        """Make a file, or replace its content."""
        Path(self._at(path)).write_bytes(content)

    def append(self, path: str, content: bytes) -> None:
        """Write behind the end."""
        with open(self._at(path), "ab") as file:
            file.write(content)

    def overwrite(self, path: str, start: int, content: bytes) -> None:
        """Write somewhere."""
        with open(self._at(path), "r+b") as file:
            file.seek(start)
            file.write(content)

    def truncate(self, path: str, length: int) -> None:
        """Cut or extend a file."""
        os.truncate(self._at(path), length)

    def rename(self, source: str, target: str) -> None:
        """Move a file over what may be there."""
        os.replace(self._at(source), self._at(target))

    def clone(self, source: str, target: str) -> None:
        """Copy a file by its records to a new name."""
        run_juicefs("clone", self._at(source), self._at(target))

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(self._at(path))

    def remove(self, path: str) -> None:
        """Remove a folder with what is in it."""
        shutil.rmtree(self._at(path))

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        return Path(self._at(path)).read_bytes()


Client: TypeAlias = OurClient | MountClient


class Worker:
    """One client that changes its folders at random.

    Parameters
    ----------
    name
        Of the worker, and of the folder in the root that its folders are made in.
    folder
        Of this machine: where models go that are handed on or kept at the end.
    weights
        How often each kind of step is done, relative to the others.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        folder: Path,
        seed: int,
        weights: dict[str, int],
        log: IO[str],
    ) -> None:
        self._client = client
        self._name = name
        self._folder = folder
        self._random = random.Random(seed)
        self._weights = weights
        self._log = log
        self._made = self._given = 0
        self._models: dict[str, FileModel] = {}
        self.inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.counts: Counter[str] = Counter()
        client.make_folder(f"/{name}")
        self._new_folder()

    def run(self, duration_s: float) -> None:
        """Change files for so long; then write the models of what it has to a file."""
        stop_s = time.monotonic() + duration_s
        while time.monotonic() < stop_s:
            self._take_over()
            self._step()
        models = [(folder, model.files) for folder, model in self._models.items()]
        (self._folder / f"{self._name}.end").write_bytes(pickle.dumps(models))

    # ------------------------------------------------------------------ folders

    def _new_folder(self) -> None:
        folder = f"/{self._name}/{self._made}"
        self._made += 1
        self._client.make_folder(folder)
        self._models[folder] = FileModel()

    def _take_over(self) -> None:
        while not self.inbox.empty():
            place = Path(self.inbox.get())
            ((folder, files),) = pickle.loads(place.read_bytes())  # noqa: S301  (a worker's own)
            self._say("take", folder)
            self._models[folder] = model = FileModel()
            model.files = files
            place.unlink()

    def _give(self, folder: str) -> None:
        place = self._folder / f"{self._name}-{self._given}.given"
        self._given += 1
        place.write_bytes(pickle.dumps([(folder, self._models.pop(folder).files)]))
        print(place, flush=True)

    # ------------------------------------------------------------------ steps

    def _step(self) -> None:
        pick = self._random
        folder = pick.choice(list(self._models))
        model = self._models[folder]
        if len(self._models) > _FOLDERS_MAX or not pick.randrange(_GIVE_EVERY):
            self._say("give", folder)
            self._give(folder)
            if not self._models:
                self._new_folder()
        elif len(model.files) > _FILES_MAX:
            self._say("remove", folder)
            self._client.remove(folder)
            del self._models[folder]
            self._new_folder()
        elif not model.files:
            self._pack(folder, model)
        else:
            (kind,) = pick.choices(list(self._weights), list(self._weights.values()))
            getattr(self, f"_{kind}")(folder, model)

    def _say(self, kind: str, *what: object) -> None:
        self.counts[kind] += 1
        self._log.write(f"{time.time():.3f} {self._name} {kind} {' '.join(map(str, what))}\n")
        self._log.flush()

    def _content(self, size_max: int) -> bytes:
        size = self._random.randint(0, size_max)
        if self._random.randrange(3):
            return self._random.randbytes(size)
        word = b"%d " % self._random.randrange(10**6)
        return (word * (size // len(word) + 1))[:size]

    def _one(self, model: FileModel) -> str:
        return self._random.choice(list(model.files))

    def _any_path(self, folder: str) -> str:
        return f"{folder}/{self._random.randrange(2 * _FILES_MAX)}"

    def _pack(self, folder: str, model: FileModel) -> None:
        count = self._random.randint(1, self._client.pack_max)
        files = {self._any_path(folder): self._content(SMALL_MAX) for _ in range(count)}
        self._say("pack", folder, {path: len(content) for path, content in files.items()})
        self._client.pack(files)
        for path, content in files.items():
            model.replace(path, content)

    def _write(self, folder: str, model: FileModel) -> None:
        path, content = self._any_path(folder), self._content(200_000)
        self._say("write", path, len(content))
        self._client.write(path, content)
        model.replace(path, content)

    def _append(self, _folder: str, model: FileModel) -> None:
        path, content = self._one(model), self._content(30_000)
        start = len(model.content(path))
        self._say("append", path, start, len(content))
        self._client.append(path, content)
        model.write(path, start, content)

    def _overwrite(self, _folder: str, model: FileModel) -> None:
        path, content = self._one(model), self._content(10_000)
        start = self._random.randint(0, len(model.content(path)) + 1000)
        self._say("overwrite", path, start, len(content))
        self._client.overwrite(path, start, content)
        model.write(path, start, content)

    def _truncate(self, _folder: str, model: FileModel) -> None:
        path = self._one(model)
        length = self._random.randint(0, len(model.content(path)) + 1000)
        self._say("truncate", path, length)
        self._client.truncate(path, length)
        model.truncate(path, length)

    def _rename(self, folder: str, model: FileModel) -> None:
        source, target = self._one(model), self._any_path(folder)
        self._say("rename", source, target)
        self._client.rename(source, target)
        model.rename(source, target)

    def _clone(self, folder: str, model: FileModel) -> None:
        source, target = self._one(model), self._any_path(folder)
        if target in model.files:
            return
        self._say("clone", source, target)
        self._client.clone(source, target)
        model.copy(source, target)

    def _unlink(self, _folder: str, model: FileModel) -> None:
        path = self._one(model)
        self._say("unlink", path)
        self._client.unlink(path)
        model.unlink(path)

    def _read(self, _folder: str, model: FileModel) -> None:
        path = self._one(model)
        self._say("read", path)
        assert self._client.read(path) == model.content(path), f"{path} has other bytes"


_OUR_STEPS = {
    "pack": 6, "write": 2, "append": 5, "overwrite": 3, "truncate": 2,
    "rename": 3, "clone": 4, "unlink": 6, "read": 6,
}  # fmt: skip
_MOUNT_STEPS = {**_OUR_STEPS, "pack": 3, "clone": 1}
"""A clone of theirs takes a process."""


def main() -> None:
    """Run one worker; names of models to take over come on standard input, a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("place", help="metadata URL, or the mount point of the official client")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("duration_s", type=float)
    parser.add_argument("seed", type=int)
    given = parser.parse_args()
    with open(given.folder / f"{given.name}.log", "w") as log:
        if "://" in given.place:
            with open_volume(given.place, cache_dir=str(given.folder / "cache")) as volume:
                _run(OurClient(volume), given, _OUR_STEPS, log)
        else:
            _run(MountClient(given.place), given, _MOUNT_STEPS, log)


def _run(client: Client, given: argparse.Namespace, weights: dict[str, int], log: IO[str]) -> None:
    worker = Worker(client, given.name, given.folder, given.seed, weights, log)

    def receive() -> None:
        for line in sys.stdin:
            worker.inbox.put(line.strip())

    threading.Thread(target=receive, daemon=True).start()
    worker.run(given.duration_s)
    log.write(f"end {dict(worker.counts)} {worker.counts.total()}\n")


if __name__ == "__main__":
    main()
