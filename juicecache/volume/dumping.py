"""Dumping the metadata of a volume into a file, and making a volume from one.

Laws: a dump appears under its name whole or not at all; a load ends with a volume or without one,
and may be repeated.
"""

from __future__ import annotations

import gzip
import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from juicecache.config import rsa_passphrase
from juicecache.errors import ConfigError, FileError, NotDirectoryError, VolumeFormatError
from juicecache.meta import epoch, tree
from juicecache.meta.dump.loading import Loader
from juicecache.meta.dump.writing import DumpWriter
from juicecache.meta.engine import Engine, Transaction
from juicecache.meta.paths import split_path
from juicecache.meta.rows import SETTING, Counter, Record
from juicecache.model.attr import Attr
from juicecache.model.setting import REMOVED, Setting
from juicecache.objects.encrypt import Cipher
from juicecache.volume.parts import open_engine

_LOADING = "juicecacheLoading"
"""Counter with the time of a load that has not ended: what is there may be thrown away."""
_BUFFER_BYTES = 1 << 20
_GZIP_LEVEL = 6
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class DumpReport:
    """A dump that was written: its entries, and how many bytes they are as text."""

    entries: int
    text_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A volume that was loaded.

    Attributes
    ----------
    repeated
        Directories that the dump has twice, because they moved meanwhile: kept once.
    missing
        Secrets that the dump does not have, and that object storage may need.
    """

    name: str
    entries: int
    repeated: int = 0
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def dump_metadata(
    meta: str | Engine,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    subdir: str = "/",
    keep_secret_key: bool = False,
    skip_trash: bool = False,
    progress: Callable[[int], None] | None = None,
) -> DumpReport:
    """Write the metadata of a volume as JSON, in the form of the official client.

    Parameters
    ----------
    target
        A file, compressed where its name ends with ``.gz``; one that is there is replaced at the
        end. Or an open binary file.
    subdir
        The directory that becomes the root; without the trash then.
    keep_secret_key
        Write the keys of object storage too, else the word ``removed``: whoever reads the dump
        could read the data. The key of an encrypted volume is always there, sealed as it is in
        the record. A password inside the address of the bucket is not removed.
    progress
        Called with the number of entries so far, now and then.

    Raises
    ------
    EntryNotFoundError, NotDirectoryError
        There is no such directory.
    """
    engine = open_engine(meta, read_only=True)
    with nullcontext() if engine is meta else closing(engine):
        setting = Setting.parse(engine.setting() or "")
        setting.check_layout()
        with _opened(target) as file:
            return write_dump(
                engine,
                setting,
                file,
                subdir=subdir,
                keep_secret_key=keep_secret_key,
                skip_trash=skip_trash,
                progress=progress,
            )


def write_dump(
    engine: Engine,
    setting: Setting,
    file: BinaryIO,
    *,
    subdir: str = "/",
    keep_secret_key: bool = False,
    skip_trash: bool = False,
    progress: Callable[[int], None] | None = None,
) -> DumpReport:
    """Write a dump to an open file; see `dump_metadata`."""
    try:
        top = engine.read(lambda tx: tree.resolve(tx, split_path(subdir)))
    except FileError as error:
        error.locate(subdir)
        raise
    if not top.is_directory:
        raise NotDirectoryError(subdir)
    if not keep_secret_key:
        kept = {name: REMOVED for name in ("secret_key", "session_token") if getattr(setting, name)}
        setting = replace(setting, **kept)  # type: ignore[arg-type]  # the two are text
    count = 0
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=True)
    pieces: list[str] = []
    held = 0

    def write(piece: str) -> None:
        nonlocal count, held
        pieces.append(piece)
        held += len(piece)
        if held >= _BUFFER_BYTES:
            count += text.write("".join(pieces))
            pieces.clear()
            held = 0

    writer = DumpWriter(engine, write, progress)
    try:
        writer.dump(setting.to_text(_nonce), top.inode, trash=not skip_trash)
        count += text.write("".join(pieces))
        text.flush()
    finally:
        text.detach()
    return DumpReport(writer.entries, count)


@contextmanager
def _opened(target: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file to write to, which takes the place of ``target`` at the end."""
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    path = Path(target)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with suppress(FileNotFoundError):
        os.unlink(part)  # of a process that was killed and had our number
    # It may hold keys: nobody else may read it before its owner has said so.
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "wb") as raw:
            if path.suffix == ".gz":
                with compressed(raw) as file:
                    yield file
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


@contextmanager
def compressed(raw: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file whose content arrives compressed in ``raw``."""
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as file:
        yield file  # type: ignore[misc]  # it is a binary file in all that matters


def load_metadata(
    meta: str | Engine,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    encrypt_rsa_key: str = "",
    encrypt_algo: str = "aes256gcm-rsa",
    progress: Callable[[int], None] | None = None,
) -> LoadReport:
    """Make a volume from a dump, in an empty database of any kind.

    Nobody may use the old metadata any more. Counters of numbers leap and blocks that caches hold
    of the former life are not used again. Sums, links and references are counted anew.

    Parameters
    ----------
    source
        A dump in JSON by any client, compressed or not.
    encrypt_rsa_key, encrypt_algo
        PEM text of the key of a dump that was taken out of the bucket of an encrypted volume. Its
        passphrase is read from ``JFS_RSA_PASSPHRASE``.
    progress
        Called with the number of entries so far, now and then.

    Raises
    ------
    ConfigError
        The database is not empty.
    VolumeFormatError
        The file is no dump, or holds what cannot be. Nothing is left behind.
    """
    engine = open_engine(meta, read_only=False)
    with nullcontext() if engine is meta else closing(engine), _readable(source) as raw:
        mark = Counter(_LOADING, 1 + secrets.randbits(62))
        _make_room(engine, mark)

        def guard(tx: Transaction) -> None:
            if tx.get(Counter, _LOADING, lock=True) != mark:
                raise ConfigError(
                    f"{engine.describe()}: another load began here meanwhile, and this one gives up"
                )

        file = _plain(raw, encrypt_rsa_key, encrypt_algo)
        try:
            loader = Loader(engine, _events(file), guard, progress)
            loader.run()
            setting = loader.setting
            assert setting is not None, "a tree is only read behind the record"
        except BaseException:
            # An interrupted load would be thrown away by the next one: so why keep it. But what
            # another one has put in its place is not ours.
            if engine.read(lambda tx: tx.get(Counter, _LOADING)) == mark:
                engine.erase()
            raise
        engine.write(lambda tx: _finish(tx, setting, guard))
        missing = [name for name in ("secret_key", "session_token") if _is_removed(setting, name)]
        return LoadReport(setting.name, loader.entries, loader.repeated, tuple(missing))


@contextmanager
def _readable(source: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    with open(source, "rb") as file:
        yield file


def _is_removed(setting: Setting, name: str) -> bool:
    return bool(getattr(setting, name) == REMOVED)


def _make_room(engine: Engine, mark: Counter) -> None:
    """Make the tables of an empty database, or of one with what a load left that was killed."""
    engine.prepare()
    text = engine.setting()
    if text is not None:
        raise ConfigError(
            f"{engine.describe()} already holds the volume {Setting.parse(text).name!r}: "
            "metadata is loaded into an empty database"
        )

    def take_over(tx: Transaction) -> bool:
        if tx.get(Counter, _LOADING, lock=True) is None:
            return False
        tx.put(mark)  # from here on the other one, should it still be alive, writes nothing
        return True

    if engine.write(take_over):
        engine.erase()
        engine.prepare()

    def body(tx: Transaction) -> None:
        if tx.exists(Attr) or tx.exists(Counter):
            raise ConfigError(
                f"{engine.describe()} is not empty: it holds rows of a volume whose record is gone"
            )
        tx.put_new(mark)

    engine.write(body)


def _finish(tx: Transaction, setting: Setting, guard: Callable[[Transaction], None]) -> None:
    guard(tx)
    tx.put(epoch.new_epoch())
    tx.delete(Counter, _LOADING)
    tx.put_new(Record(SETTING, setting.to_text(_nonce)))


def _plain(raw: BinaryIO, key: str, algo: str) -> BinaryIO:
    """Return the text of a dump that may be encrypted, and compressed."""
    if key:
        raw = io.BytesIO(Cipher(key, algo, rsa_passphrase()).open(raw.read()))
    buffered = io.BufferedReader(raw, _BUFFER_BYTES)  # type: ignore[type-var]  # any readable file
    if buffered.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]  # a binary file
    return buffered


def _events(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Iterate over the tokens of a document, with our errors."""
    try:
        yield from ijson.basic_parse(file, buf_size=_BUFFER_BYTES)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        what = str(error).partition("\n")[0]  # the rest quotes the text, which may hold secrets
        raise VolumeFormatError(f"the dump is no valid JSON: {what}") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise VolumeFormatError(f"the dump is damaged: {error}") from None


def _nonce() -> bytes:
    return secrets.token_bytes(12)
