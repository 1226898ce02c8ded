"""Cold reads from an S3 server 20 ms away: serial, a list of 200, and a recursive get."""

from __future__ import annotations

import os
import shutil
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

from juicecache import JuiceCacheFileSystem

SERIAL = {"1 MiB": (1 << 20, 40), "100 KiB": (100 << 10, 40)}
MANY, MANY_BYTES = 200, 1 << 20


class Dataset:
    """The same files in a volume and as plain objects of a bucket."""

    def __init__(self, s3: RemoteS3, folder: Path, size: int, count: int) -> None:
        self.plain = s3.server.fresh_bucket()
        self.meta = f"sqlite3://{folder}/meta-{size}-{count}.db"
        self.s3, self.size = s3, size
        self.keys = {"access_key": s3.server.access_key, "secret_key": s3.server.secret_key}
        self.bucket = s3.format(self.meta, "bench")
        self.names = [f"set/{number:04d}" for number in range(count)]
        contents = {name: os.urandom(size) for name in self.names}
        near = self.volume(bucket=f"{s3.near}/{self.bucket}", cache_size=0)
        for name, content in contents.items():  # one by one: an object a file, as theirs are
            near.pipe_file(f"/{name}", content)
        near.volume.close()
        direct = self.s3fs(s3.near)
        direct.pipe({f"{self.plain}/{name}": content for name, content in contents.items()})

    def volume(self, **options: object) -> JuiceCacheFileSystem:
        return JuiceCacheFileSystem(
            volume="bench", meta=self.meta, skip_instance_cache=True, **options
        )

    def s3fs(self, endpoint: str):
        import s3fs

        return s3fs.S3FileSystem(
            key=self.keys["access_key"],
            secret=self.keys["secret_key"],
            endpoint_url=endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def obstore(self):
        import obstore.store

        return obstore.store.S3Store(
            self.plain,
            endpoint=self.s3.far,
            access_key_id=self.keys["access_key"],
            secret_access_key=self.keys["secret_key"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            region="us-east-1",
        )


class ColdVolume:
    """A volume whose tiers are emptied before each run; its connections stay, like the others'."""

    def __init__(self, data: Dataset, folder: Path) -> None:
        self.fs = data.volume(cache_dir=str(folder / f"cache-{data.size}"))
        self._loads = 0

    def prepare(self) -> None:
        self.fs.warmup("/", evict=True)
        self._loads = self.fs.stats().blocks.loads

    @property
    def loads(self) -> int:
        """Whole blocks loaded since `prepare`."""
        return self.fs.stats().blocks.loads - self._loads


def serial(s3: RemoteS3, folder: Path, tmpfs: Path) -> Report:
    report = Report("Cold serial reads, object store 20 ms away")
    for label, (size, count) in SERIAL.items():
        data = Dataset(s3, folder, size, count)
        cold = ColdVolume(data, tmpfs)
        s3_client = data.s3fs(s3.far)

        def ours(cold: ColdVolume = cold, data: Dataset = data) -> float:
            return len([cold.fs.cat_file(f"/{name}") for name in data.names])

        def theirs(client=s3_client, data: Dataset = data) -> float:
            return len([client.cat_file(f"{data.plain}/{name}") for name in data.names])

        contenders = [
            Contender("juicecache", ours, cold.prepare),
            Contender("s3fs", theirs),
        ]
        mount = OfficialMount(data.meta, folder)
        if OfficialMount.available():

            def official(mount: OfficialMount = mount, data: Dataset = data) -> float:
                return len([(mount.point / name).read_bytes() for name in data.names])

            contenders.append(Contender("official mount", official, mount.remount))
        try:
            race(contenders)
        finally:
            mount.unmount()
        report.note(f"{count} files of {label}, one after another.")
        report.race_table("files/s", contenders)
        report.note(
            f"Requests of one run: {cold_loads(cold, data)} whole-block GETs and "
            f"{cold.fs.stats().blocks.range_gets} range GETs for {count} blocks."
        )
        cold.fs.volume.close()
    return report


def cold_loads(cold: ColdVolume, data: Dataset) -> int:
    cold.prepare()
    for name in data.names:
        cold.fs.cat_file(f"/{name}")
    return cold.loads


def many(s3: RemoteS3, folder: Path, tmpfs: Path) -> Report:
    report = Report("Cold bulk reads, object store 20 ms away")
    data = Dataset(s3, folder, MANY_BYTES, MANY)
    cold = ColdVolume(data, tmpfs)
    client, store = data.s3fs(s3.far), data.obstore()

    def ours() -> float:
        return len(cold.fs.cat([f"/{name}" for name in data.names]))

    def theirs() -> float:
        return len(client.cat([f"{data.plain}/{name}" for name in data.names]))

    def obstore_all() -> float:
        import asyncio

        async def all_of_them() -> list[object]:
            async def one(name: str) -> object:
                return await (await store.get_async(name)).bytes_async()

            return await asyncio.gather(*map(one, data.names))

        return len(asyncio.run(all_of_them()))

    contenders = [
        Contender("juicecache", ours, cold.prepare),
        Contender("s3fs", theirs),
        Contender("obstore", obstore_all),
    ]
    race(contenders)
    report.note(f"`fs.cat` of a list of {MANY} files of 1 MiB.")
    report.race_table("files/s", contenders)

    targets = iter(range(1000))

    def target() -> str:
        return str(tmpfs / f"get-{next(targets)}")

    def get_ours() -> float:
        cold.fs.get("/set/", target() + "/", recursive=True)
        return MANY

    def get_theirs() -> float:
        client.get(f"{data.plain}/set/", target() + "/", recursive=True)
        return MANY

    def clean() -> None:
        for folder in tmpfs.glob("get-*"):
            shutil.rmtree(folder)

    def prepare() -> None:
        clean()
        cold.prepare()

    contenders = [
        Contender("juicecache", get_ours, prepare),
        Contender("s3fs", get_theirs, clean),
    ]
    race(contenders)
    report.note("`fs.get(..., recursive=True)` of the same files into tmpfs.")
    report.race_table("files/s", contenders)
    cold.fs.volume.close()
    return report


def main() -> list[Report]:
    with ExitStack() as stack:
        s3 = stack.enter_context(remote_s3())
        folder = stack.enter_context(scratch())
        tmpfs = stack.enter_context(scratch(memory_folder()))
        return [serial(s3, folder, tmpfs), many(s3, folder, tmpfs)]


if __name__ == "__main__":
    for report in main():
        print(report.text())
