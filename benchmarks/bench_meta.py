"""Metadata in-process against the official mount on the same engine, and its round trips."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from harness import Contender, OfficialMount, Report, race, scratch

import juicecache
from juicecache.testing.engines import SHARED_KINDS, fresh_url

FILES = 1000
LISTED = 10_000
SMALL = 100_000


class Site:
    """One volume and its clients: one of ours proves everything fresh, one takes what is a second
    old, as the official mount does by default."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.meta = fresh_url(kind, folder)
        juicecache.format_volume(
            self.meta, "bench", bucket=str(folder / "objects"), trash_days=0, remember=False
        )
        self.volume = juicecache.open_volume(self.meta, cache_size=0)
        self.recent = juicecache.open_volume(self.meta, cache_size=0, attr_cache=1)
        self.mount = OfficialMount(self.meta, folder)
        self._rounds = 0

    def folder(self, count: int = 0) -> str:
        """Return a new directory with so many empty files."""
        self._rounds += 1
        path = f"/{self._rounds}"
        self.volume.make_directory(path)
        if count:
            with self.volume.batch() as batch:
                for number in range(count):
                    batch.write(f"{path}/{number}", b"x")
        return path

    def races(self) -> list[tuple[str, str, list[Contender]]]:
        volume, point = self.volume, str(self.mount.point)
        here = {"ours": "", "theirs": ""}

        def fill(who: str, count: int) -> Callable[[], None]:
            def prepare() -> None:
                here[who] = self.folder(count)
                volume.forget()
                self.recent.forget()

            return prepare

        def each(who: str, act: Callable[[str], object]) -> Callable[[], float]:
            def run() -> float:
                head = here[who] if who == "ours" else point + here[who]
                for number in range(FILES):
                    act(f"{head}/{number}")
                return FILES

            return run

        def create(path: str) -> None:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))

        def listed() -> float:
            return len(volume.list_directory(here["ours"]))

        def scanned() -> float:
            with os.scandir(point + here["theirs"]) as entries:
                return sum(1 for entry in entries if entry.stat().st_size)

        def duel(
            ours: Callable[[], float], theirs: Callable[[], float], count: int
        ) -> list[Contender]:
            return [
                Contender("juicecache", ours, fill("ours", count)),
                Contender("official mount", theirs, fill("theirs", count)),
            ]

        make = volume.write_file
        return [
            (
                "stat, proved fresh",
                "operations/s",
                duel(each("ours", volume.stat), each("theirs", os.stat), FILES),
            ),
            (
                "stat, up to 1 s old",
                "operations/s",
                duel(each("ours", self.recent.stat), each("theirs", os.stat), FILES),
            ),
            (
                "create",
                "operations/s",
                duel(
                    each("ours", lambda path: make(path, b"", exclusive=True)),
                    each("theirs", create),
                    0,
                ),
            ),
            (
                "unlink",
                "operations/s",
                duel(each("ours", volume.unlink), each("theirs", os.unlink), FILES),
            ),
            (f"list {LISTED:,} with attributes", "entries/s", duel(listed, scanned, LISTED)),
        ]

    def close(self) -> None:
        self.mount.unmount()
        self.recent.close()
        self.volume.close()


def against_the_mount(kind: str, folder: Path) -> Report:
    report = Report(f"Metadata on {kind}: operations in-process against the official mount")
    site = Site(kind, folder)
    site.mount.remount()
    rows = []
    try:
        for name, unit, contenders in site.races():
            race(contenders, runs=3)
            ours, theirs = contenders
            ratio = f"{ours.rate / theirs.rate:.2f}x"
            rows.append([name, f"{ours.rate:,.0f}", f"{theirs.rate:,.0f}", unit, ratio])
    finally:
        site.close()
    report.table(["operation", "juicecache", "official mount", "unit", "juicecache is"], rows)
    return report


def many_small(kind: str, folder: Path) -> list[str]:
    """Return what a client does that was just opened, until it can read each of very many files."""
    meta = fresh_url(kind, folder)
    juicecache.format_volume(
        meta, "bench", bucket=str(folder / f"many-{kind}"), trash_days=0, remember=False
    )
    with juicecache.open_volume(meta, cache_size=0) as volume, volume.batch() as batch:
        for number in range(SMALL):
            batch.write(f"/many/{number}", b"x" * 100)
    listing, lists = [], []
    for _ in range(5):
        fs = juicecache.JuiceCacheFileSystem(meta=meta, cache_size=0, skip_instance_cache=True)
        started = time.perf_counter()
        paths = [info["name"] for info in fs.ls("/many", detail=True)]
        listed = time.perf_counter()
        fs.volume.parts().meta.resolve_many(paths)
        listing.append(listed - started)
        lists.append(time.perf_counter() - listed)
        fs.volume.close()
    both = statistics.median(map(sum, zip(listing, lists, strict=True)))
    return [
        *(kind, f"{statistics.median(listing):.1f} s", f"{statistics.median(lists):.1f} s"),
        f"{both:.1f} s",
    ]


def main() -> list[Report]:
    reports = []
    for kind in SHARED_KINDS:
        with scratch() as folder:
            reports.append(against_the_mount(kind, folder))
    many = Report(f"A directory of {SMALL:,} small files, new client")
    head = ["engine", "`ls(detail=True)`", "attributes and slice lists, by their paths", "both"]
    with scratch() as folder:
        many.table(head, [many_small(kind, folder) for kind in SHARED_KINDS])
    return [*reports, many]
