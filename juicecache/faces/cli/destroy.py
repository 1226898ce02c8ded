"""The command ``destroy``: the end of a volume."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from juicecache.config import find_volume, forget_volume
from juicecache.faces.cli.arguments import Command, metadata
from juicecache.faces.cli.config import confirmed
from juicecache.faces.cli.console import Console, size


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "meta", metavar="META-URL", type=metadata, help="metadata address, or name, of the volume"
    )
    parser.add_argument("uuid", metavar="UUID", help="of the volume, as 'status' shows it")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask whether it is meant so"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="neither ask nor check: also while clients use the volume, or when its bucket is gone",
    )


def _destroy(arguments: Namespace, console: Console) -> int:
    """Remove everything; what was interrupted goes on when it is repeated."""
    from juicecache.volume.destroying import DestroyReport, destroy_volume

    meta = arguments.meta if "://" in arguments.meta else find_volume(arguments.meta)

    def show(report: DestroyReport) -> None:
        console.progress(
            f"removed {report.objects} objects ({size(report.bytes)}) "
            f"and {report.entries} entries of the metadata"
        )

    report = destroy_volume(
        meta,
        arguments.uuid,
        confirm=lambda consequence: confirmed(consequence, arguments, console),
        force=arguments.force,
        progress=show,
    )
    forget_volume(report.name, meta)
    console.result(
        report.to_dict(),
        [f"volume {report.name} is gone, with {report.objects} objects ({size(report.bytes)})"],
    )
    return 0


COMMANDS = {"destroy": Command(_configure, _destroy)}
