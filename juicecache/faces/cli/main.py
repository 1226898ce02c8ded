"""The command ``juicecache``: finds the command, reads its arguments, turns errors to exit codes.

Exit codes: 0 success, 1 the operation failed, 2 wrong usage, 130 interrupted. An error is one
line on stderr. Only the module of the command that is run is loaded.
"""

from __future__ import annotations

import io
import os
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from juicecache.errors import JuicecacheError
from juicecache.faces.cli.console import Console, printable
from juicecache.values import nearest

_FAILED, _INTERRUPTED, _PIPE_CLOSED = 1, 130, 141

_COMMANDS = {
    "format": ("volumes", "make a volume, or change the limits, bucket or keys of one"),
    "config": ("config", "show the setting of a volume, or change it"),
    "status": ("volumes", "show the setting, the sessions and the usage of a volume"),
    "stats": ("volumes", "show the usage of a volume and of its cache on this machine"),
    "info": ("look", "show the inode and the objects of a path"),
    "summary": ("look", "show how much the directories below a path hold"),
    "explain": ("look", "show where the blocks of a file are, and what reading it would cost"),
    "ls": ("files", "list a directory"),
    "cat": ("files", "write files to the standard output"),
    "rm": ("files", "remove files and directories"),
    "rmr": ("tree", "remove directories with everything below them"),
    "cp": ("copy", "copy between a volume and local files, or inside a volume"),
    "sync": ("sync", "bring a tree into line with another: volumes, local files, URLs of fsspec"),
    "clone": ("tree", "copy a file or directory inside a volume without copying its content"),
    "warmup": ("warmup", "load files into the cache, check or evict them"),
    "worker": ("worker", "lend the cache of this machine to a cache group, until told to stop"),
    "group": ("group", "show the cache groups of a volume, or the members of one"),
    "gc": ("upkeep", "find, and with --delete remove, objects that no file needs"),
    "fsck": ("upkeep", "check that every object that a file needs is there"),
    "compact": ("tree", "merge the slices of files that were written in small parts or again"),
    "quota": ("quota", "set, show, check or take away quotas of directories, users and groups"),
    "trash": ("trash", "list what was removed and is kept, put it back, or empty the trash"),
    "dump": ("dump", "write the metadata of a volume to a file"),
    "load": ("dump", "make a volume in an empty database from such a file"),
    "destroy": ("destroy", "remove a volume for ever: its objects and its metadata"),
    "bench": ("bench", "measure a volume, or a local directory, with big and small files"),
    "demo": ("demo", "see the cache at work on a temporary volume; needs no server"),
}
"""Command: its module, and what it does. The table that --help prints."""


class _Parser(ArgumentParser):
    """A parser whose complaints quote no value that it could not place: it may be a secret.

    Options may stand between the arguments of a command.
    """

    _is_mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the options first and the other arguments then, unless a command is to be found."""
        if self._is_mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_mixing = True  # it calls back
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, extras = self.parse_known_args(args, namespace)
        flags = [extra.partition("=")[0] for extra in extras if extra.startswith("-")]
        if flags:
            self.error(f"unknown option {', '.join(flags)}{nearest(flags[0], self._options())}")
        if extras:
            self.error("too many arguments")
        return found

    def _options(self) -> list[str]:
        """Return the options of this parser and of the command that is run."""
        parsers = [self]
        for action in self._actions:
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
        return [o for parser in parsers for a in parser._actions for o in a.option_strings]

    def error(self, message: str) -> NoReturn:
        """Print one line and where to read more; exit with 2."""
        self.exit(2, f"juicecache: error: {message} (see '{self.prog} --help')\n")


class _ShowVersion(Action):
    def __call__(self, parser: ArgumentParser, *_: object) -> NoReturn:
        from juicecache import __version__

        print(f"juicecache {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names are bytes, not always text
    try:
        arguments = _parser(words).parse_args(words)
    except SystemExit as stop:  # --help, --version or wrong usage; all is printed
        return stop.code if isinstance(stop.code, int) else 0
    return _run(arguments)


def _parser(words: Sequence[str]) -> ArgumentParser:
    """Return the parser of all commands; only the one in ``words`` has its arguments."""
    chosen = next((word for word in words if not word.startswith("-")), "")
    parser = _Parser(
        prog="juicecache",
        description="JuiceFS volumes in Python: one file system over object storage, cached.",
        epilog="'juicecache COMMAND --help' shows the arguments of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in _COMMANDS.items():
        described = f"{summary[0].upper()}{summary[1:]}."
        subparser = commands.add_parser(
            name, help=summary, description=described, allow_abbrev=False
        )
        if name == chosen:
            command = import_module(f"juicecache.faces.cli.{module}").COMMANDS[name]
            command.configure(subparser)
            subparser.add_argument("--json", action="store_true", help="print the result as JSON")
            subparser.set_defaults(run=command.run)
    return parser


def _run(arguments: Namespace) -> int:
    """Carry out a command; every expected failure becomes a line and an exit code."""
    console = Console(machine=arguments.json)
    try:
        code: int = arguments.run(arguments, console)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left, as 'head' does; nothing can be said to it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _PIPE_CLOSED
    except (JuicecacheError, OSError) as error:
        console.end_progress()
        print(f"juicecache: error: {_described(error)}", file=sys.stderr)
        return _FAILED
    finally:
        console.end_progress()
    return code


def _described(error: Exception) -> str:
    """Return one line for people."""
    if isinstance(error, OSError) and error.strerror:
        paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
        return printable(f"{' -> '.join(paths)}: {error.strerror}" if paths else error.strerror)
    return printable(" ".join(str(error).split())) or type(error).__name__
