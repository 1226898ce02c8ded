"""Packed small files: written in one transaction, created on SQLite, read cold and in bulk."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from harness import (
    Contender,
    OfficialMount,
    RemoteS3,
    Report,
    memory_folder,
    race,
    remote_s3,
    scratch,
)

import juicecache
from juicecache import JuiceCacheFileSystem

SIZE = 100 << 10
WRITTEN, READ, CREATED = 1000, 800, 50_000
READERS = 16


class Site:
    """A volume on an S3 server 20 ms away, for both clients."""

    def __init__(self, s3: RemoteS3, folder: Path, name: str) -> None:
        self.meta = f"sqlite3://{folder}/{name}.db"
        self.s3 = s3
        self.bucket = s3.format(self.meta, name)
        self.mount = OfficialMount(self.meta, folder)

    def client(self, *, near: bool = False, **options: object) -> JuiceCacheFileSystem:
        if near:
            options["bucket"] = f"{self.s3.near}/{self.bucket}"
        return JuiceCacheFileSystem(meta=self.meta, skip_instance_cache=True, **options)


def writing(s3: RemoteS3, folder: Path, tmpfs: Path) -> Report:
    report = Report("Writing 1,000 files of 100 KiB, object store 20 ms away")
    site = Site(s3, folder, "written")
    fs = site.client(cache_dir=str(tmpfs / "written"))
    source = tmpfs / "source"
    source.mkdir()
    contents = {f"{number:04d}": os.urandom(SIZE) for number in range(WRITTEN)}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    rounds = iter(range(10**6))
    puts: list[int] = []

    def packed() -> float:
        top, before = f"/packed-{next(rounds)}", fs.stats().blocks.uploads
        with fs.transaction:
            for name, content in contents.items():
                fs.pipe_file(f"{top}/{name}", content)
        puts.append(fs.stats().blocks.uploads - before)
        return WRITTEN

    def put() -> float:
        fs.put(f"{source}/", f"/put-{next(rounds)}/", recursive=True)
        return WRITTEN

    def copied() -> float:
        target = site.mount.point / f"copied-{next(rounds)}"
        shutil.copytree(source, target)
        return WRITTEN

    contenders = [
        Contender("juicecache, `with fs.transaction`", packed),
        Contender("juicecache, `fs.put(recursive=True)`", put),
    ]
    if OfficialMount.available():
        site.mount.remount()
        contenders.append(Contender("cp onto the official mount", copied))
    try:
        race(contenders, runs=3)
    finally:
        site.mount.unmount()
        fs.volume.close()
    report.race_table("files/s", contenders)
    report.note(f"PUTs of each transaction: {sorted(set(puts))}.")
    return report


def creating(folder: Path, tmpfs: Path) -> Report:
    report = Report("Packed creates on SQLite")
    meta = f"sqlite3://{folder}/created.db"
    juicecache.format_volume(
        meta, "created", bucket=str(tmpfs / "objects"), trash_days=0, remember=False
    )
    fs = JuiceCacheFileSystem(meta=meta, cache_size=0, skip_instance_cache=True)
    volume = fs.volume
    spent = 0.0
    commit = volume.parts().meta.commit_files

    def timed(*arguments, **options):  # type: ignore[no-untyped-def]
        nonlocal spent
        started = time.perf_counter()
        outcome = commit(*arguments, **options)
        spent += time.perf_counter() - started
        return outcome

    volume.parts().meta.commit_files = timed  # type: ignore[method-assign]
    rates: list[tuple[float, float]] = []
    for number in range(3):
        spent, started = 0.0, time.perf_counter()
        with volume.batch() as batch:
            for one in range(CREATED):
                batch.write(f"/{number}/{one}", b"x" * 100)
        rates.append((CREATED / spent, CREATED / (time.perf_counter() - started)))
    volume.close()
    metadata, whole = (sorted(column)[1] for column in zip(*rates, strict=True))
    report.table(
        ["what", "files/s, median of 3"],
        [
            [f"metadata commits of {CREATED:,} files of 100 bytes", f"{metadata:,.0f}"],
            ["with packing and storing them in a local folder", f"{whole:,.0f}"],
        ],
    )
    return report


def reading(s3: RemoteS3, folder: Path, tmpfs: Path) -> Report:
    report = Report("Cold bulk reads of 800 files of 100 KiB, object store 20 ms away")
    site = Site(s3, folder, "read")
    near = site.client(near=True, cache_size=0)
    names = [f"{number:04d}" for number in range(READ)]
    near.pipe({f"/packed/{name}": os.urandom(SIZE) for name in names})
    for name in names:
        near.pipe_file(f"/single/{name}", os.urandom(SIZE))
    near.volume.close()
    cold = site.client(cache_dir=str(tmpfs / "read"))
    requests: list[int] = []

    def evict() -> None:
        cold.warmup("/", evict=True)

    def listed() -> float:
        before = cold.stats().blocks
        count = len(cold.cat([f"/packed/{name}" for name in names]))
        after = cold.stats().blocks
        requests.append(after.loads + after.range_gets - before.loads - before.range_gets)
        return count

    def threads() -> float:
        with ThreadPoolExecutor(READERS) as pool:
            return len(list(pool.map(lambda name: cold.cat_file(f"/packed/{name}"), names)))

    def official(kind: str) -> float:
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(lambda name: (site.mount.point / kind / name).read_bytes(), names)
            return len(list(read))

    contenders = [
        Contender("juicecache, `fs.cat` of a list", listed, evict),
        Contender(f"juicecache, `cat_file` by {READERS} threads", threads, evict),
    ]
    if OfficialMount.available():
        for kind, label in (("single", "its usual form, an object a file"), ("packed", "packed")):
            contenders.append(
                Contender(
                    f"official mount, {READERS} threads, {label}",
                    lambda kind=kind: official(kind),
                    site.mount.remount,
                )
            )
    try:
        race(contenders)
    finally:
        site.mount.unmount()
        cold.volume.close()
    report.race_table("files/s", contenders)
    report.note(f"Requests of each `fs.cat`: {sorted(set(requests))}.")
    return report


def main() -> list[Report]:
    with ExitStack() as stack:
        s3 = stack.enter_context(remote_s3())
        folder = stack.enter_context(scratch())
        tmpfs = stack.enter_context(scratch(memory_folder()))
        return [
            writing(s3, folder, tmpfs),
            creating(folder, tmpfs),
            reading(s3, folder, tmpfs),
        ]


if __name__ == "__main__":
    for report in main():
        print(report.text())
