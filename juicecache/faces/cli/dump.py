"""The commands ``dump`` and ``load``: metadata as a file, from and for any engine."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from juicecache.config import find_volume, list_volumes, remember_volume
from juicecache.faces.cli.arguments import Command, metadata
from juicecache.faces.cli.console import Console, size


def _configure_dump(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("meta", metavar="META-URL", type=metadata, help="metadata address, or name, of the volume")
    _add_file(parser, "written, compressed where its name ends with .gz; none or -: the output")
    add("--subdir", metavar="PATH", default="/", help="dump this directory as the root")
    add(
        "--keep-secret-key",
        action="store_true",
        help="with the keys of object storage: whoever reads the file can read the data",
    )
    add("--skip-trash", action="store_true", help="leave out what is in the trash")
    add("--fast", action="store_true", help="what is done in any case, in little memory")
    add("--threads", metavar="THREADS", help="taken for scripts of the official client")


def _configure_load(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("meta", metavar="META-URL", type=metadata, help="address of an empty database")
    _add_file(parser, "a dump in JSON by any client, compressed or not; none or -: the input")
    add(
        "--encrypt-rsa-key",
        metavar="PATH",
        help="RSA private key (PEM) of a dump that was taken out of the bucket of an encrypted "
        "volume; its passphrase is read from JFS_RSA_PASSPHRASE",
    )
    add("--encrypt-algo", choices=("aes256gcm-rsa", "chacha20-rsa"), default="aes256gcm-rsa")


def _add_file(parser: ArgumentParser, meaning: str) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help=meaning)


def _dump(arguments: Namespace, console: Console) -> int:
    from juicecache.volume.dumping import dump_metadata

    meta = arguments.meta if "://" in arguments.meta else find_volume(arguments.meta)
    to_output = arguments.file == "-"
    target: Any = sys.stdout.buffer if to_output else arguments.file
    report = dump_metadata(
        meta,
        target,
        subdir=arguments.subdir,
        keep_secret_key=arguments.keep_secret_key,
        skip_trash=arguments.skip_trash,
        progress=lambda entries: console.progress(f"dumped {entries} entries"),
    )
    if to_output:
        console.end_progress()  # the dump is the result
        return 0
    stored = os.path.getsize(arguments.file)
    value = {**report.to_dict(), "file": arguments.file, "file_bytes": stored}
    console.result(value, [f"dumped {report.entries} entries to {arguments.file} ({size(stored)})"])
    return 0


def _load(arguments: Namespace, console: Console) -> int:
    from juicecache.volume.dumping import load_metadata

    key = ""
    if arguments.encrypt_rsa_key:
        with open(arguments.encrypt_rsa_key, encoding="utf-8") as file:
            key = file.read()
    report = load_metadata(
        arguments.meta,
        sys.stdin.buffer if arguments.file == "-" else arguments.file,
        encrypt_rsa_key=key,
        encrypt_algo=arguments.encrypt_algo,
        progress=lambda entries: console.progress(f"loaded {entries} entries"),
    )
    before = list_volumes().get(report.name)
    address = remember_volume(report.name, arguments.meta)
    lines = [f"volume {report.name}: loaded {report.entries} entries"]
    if before not in (None, address.text):
        console.note(
            f"juicecache://{report.name}/ leads here now, and no longer to {before}; nobody may "
            "use that metadata any more"
        )
    if report.repeated:
        lines.append(f"{report.repeated} directories were in the dump twice and are kept once")
    if report.missing:
        lines.append(
            f"the dump has no {' and no '.join(report.missing)}: store it with 'juicecache config'"
        )
    console.result(report.to_dict(), lines)
    return 0


COMMANDS = {
    "dump": Command(_configure_dump, _dump),
    "load": Command(_configure_load, _load),
}
