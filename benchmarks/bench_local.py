"""Metadata on SQLite, and what starting costs; no server needed."""

from __future__ import annotations

import time
from pathlib import Path

from harness import Contender, Report, race, run_python, scratch

import juicecache
from juicecache import JuiceCacheFileSystem

ENTRIES = 100_000
TOUCHES = 2_000


def new_volume(folder: Path, **options: object) -> JuiceCacheFileSystem:
    meta = f"sqlite3://{folder}/meta.db"
    juicecache.format_volume(
        meta, "bench", bucket=str(folder / "store"), trash_days=0, remember=False
    )
    return open_volume(folder, **options)


def open_volume(folder: Path, **options: object) -> JuiceCacheFileSystem:
    options.setdefault("cache_dir", str(folder / "cache"))
    return JuiceCacheFileSystem(
        volume="bench", meta=f"sqlite3://{folder}/meta.db", skip_instance_cache=True, **options
    )


def metadata(folder: Path) -> Report:
    report = Report("Metadata, SQLite")
    fs = new_volume(folder)
    listed = fill(fs, ENTRIES)
    fs = open_volume(folder)
    times = []
    for _ in range(5):
        fresh = open_volume(folder)
        started = time.perf_counter()
        assert len(fresh.ls("/many", detail=True)) == listed
        times.append(time.perf_counter() - started)
        fresh.volume.close()
    numbers = iter(range(10**9))

    def touch() -> float:
        for _ in range(TOUCHES):
            fs.touch(f"/touched/{next(numbers)}")
        return TOUCHES

    touched = Contender("touch", touch)
    race([touched])
    report.table(
        ["work", "median", "min - max"],
        [
            [
                f"`ls(detail=True)` of {ENTRIES:,} entries, new client",
                f"{sorted(times)[2]:.2f} s",
                f"{min(times):.2f} - {max(times):.2f} s",
            ],
            [
                "`touch` of new files, one transaction each",
                f"{touched.rate:,.0f} /s",
                f"{min(touched.rates):,.0f} - {max(touched.rates):,.0f} /s",
            ],
        ],
    )
    fs.volume.close()
    return report


def fill(fs: JuiceCacheFileSystem, count: int) -> int:
    """Make many empty files quickly: clones of one directory's rows, straight in the table."""
    import sqlite3

    fs.makedirs("/many")
    fs.touch("/many/0000000")
    fs.volume.close()
    path = fs.storage_options["meta"].removeprefix("sqlite3://")
    with sqlite3.connect(path) as database:
        (parent,) = database.execute(
            "SELECT inode FROM jfs_edge WHERE name = CAST('many' AS BLOB)"
        ).fetchone()
        columns = [row[1] for row in database.execute("PRAGMA table_info(jfs_node)")][1:]
        names = ", ".join(columns)
        (first,) = database.execute("SELECT max(inode) + 1 FROM jfs_node").fetchone()
        database.execute(
            f"INSERT INTO jfs_node (inode, {names}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
            f" SELECT i + 1 FROM n WHERE i < ?) SELECT ? + i, {names} FROM n, jfs_node"
            " WHERE inode = ?",
            (count - 1, 10**9, first - 1),
        )
        database.execute(
            "INSERT INTO jfs_edge (parent, name, inode, type) WITH RECURSIVE n(i) AS (SELECT 1"
            " UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT ?, CAST(printf('%07d', i) AS BLOB),"
            " ? + i, 1 FROM n",
            (count - 1, parent, 10**9),
        )
    return count


_BARE = (
    "import time, json; t = time.perf_counter(); {work}; "
    "print(json.dumps({{'s': time.perf_counter() - t}}))"
)


def starting(folder: Path) -> Report:
    report = Report("Starting")
    fs = new_volume(folder)
    fs.pipe("/first", b"x" * 100_000)
    fs.cat("/first")
    fs.volume.close()
    meta = f"sqlite3://{folder}/meta.db"
    first_byte = (
        "import fsspec; fs = fsspec.filesystem('juicecache', volume='bench', "
        f"meta={meta!r}, cache_dir={str(folder / 'cache')!r}); fs.cat_file('/first', 0, 1)"
    )
    works = {
        "`import juicecache`": ("import juicecache", "pass"),
        "first warm byte, new process (SQLite)": (first_byte, "import fsspec"),
    }
    rows = []
    for name, (work, base) in works.items():
        ours, bare = [], []
        for _ in range(11):
            ours.append(run_python(_BARE.format(work=work))["s"])
            bare.append(run_python(_BARE.format(work=base))["s"])
        more = sorted(ours)[5] - sorted(bare)[5]
        rows.append([name, f"{more * 1000:.0f} ms", f"`{base}`"])
    report.table(["work", "median of 11, more than", "baseline"], rows)
    return report


def main() -> list[Report]:
    reports = []
    for work in (metadata, starting):
        with scratch() as folder:
            reports.append(work(folder))
    return reports


if __name__ == "__main__":
    for report in main():
        print(report.text())
