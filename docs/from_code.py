"""Parts of the documentation that are written by the code they describe, as Markdown.

Law: nothing here states a default, a flag or a summary; it only lays out what the code states.
"""

from __future__ import annotations

import ast
import re
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable
from pathlib import Path

import juicecache
from juicecache.config import OPTIONS, Option
from juicecache.faces.cli import main as cli
from juicecache.faces.cli.arguments import _DEST

_MARK = re.compile(r"^<!-- from the code: ([a-z]+)(?: ([a-z_./]+))? -->$", re.MULTILINE)
_PACKAGE = Path(juicecache.__file__).parent


def fill(page: str) -> str:
    """Return a page with each of its marks replaced by what the code says.

    Raises
    ------
    KeyError
        A mark names something that does not exist.
    """
    return _MARK.sub(lambda mark: _PARTS[mark[1]](mark[2] or ""), page)


def option_table(_: str = "") -> str:
    """Return the table of all options of a volume."""
    rows = [
        f"| `{option.name}` | {_kind(option)} | {_code(option.default)} | {_cell(option.reason)} |"
        for option in OPTIONS
    ]
    return "\n".join(["| option | value | default | what, and why |", "|---|---|---|---|", *rows])


def _kind(option: Option) -> str:
    if option.choices:
        return " or ".join(f"`{choice}`" for choice in option.choices)
    bounds = f", `{option.low}` to `{option.high}`" if option.low else ""
    return option.kind + bounds


def command_reference(_: str = "") -> str:
    """Return a section for each command: what it does and its arguments."""
    return "\n\n".join(_command(name) for name in cli._COMMANDS)


def _command(name: str) -> str:
    subparser = _subparser(name)
    actions = [one for one in subparser._actions if "--help" not in one.option_strings]
    own = [one for one in actions if not _is_shared(one) and one.help != SUPPRESS]
    usage = " ".join(_usage(one) for one in own if not one.option_strings)
    lines = [
        f"## {name}",
        subparser.description or "",
        f"```text\njuicecache {name} [options] {usage}".rstrip() + "\n```",
        "| argument | meaning |\n|---|---|\n" + "\n".join(_row(one) for one in own),
    ]
    if any(map(_is_shared, actions)):
        lines.append("It also takes every [option of the volume](options.md).")
    return "\n\n".join(lines)


def _is_shared(action: Action) -> bool:
    return action.dest.startswith(_DEST)


def _subparser(name: str) -> ArgumentParser:
    parser = cli._parser([name])
    choices = next(one.choices for one in parser._actions if one.choices)
    return choices[name]  # type: ignore[index,return-value]  # a dict of parsers: argparse has no type for it


def _usage(action: Action) -> str:
    name = str(action.metavar or action.dest)
    return {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}.get(
        str(action.nargs), name
    )


def _row(action: Action) -> str:
    if not action.option_strings:
        return f"| `{action.metavar or action.dest}` | {_cell(action.help or '')} |"
    value = ""
    if action.nargs != 0:
        choices = "|".join(map(str, action.choices)) if action.choices else ""
        value = f" {choices or action.metavar or action.dest.upper()}"
    flags = ", ".join(f"`{flag}{value}`" for flag in action.option_strings).replace("|", "\\|")
    return f"| {flags} | {_cell((action.help or '').replace('%%', '%'))} |"


def module_table(folder: str) -> str:
    """Return the modules of a folder of the package with the first sentence of each."""
    rows = []
    for path in sorted((_PACKAGE / folder).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        if path.name != "__init__.py":
            rows.append(f"| `{path.name}` | {_cell(text.split(chr(10) * 2)[0])} |")
    if not rows:
        raise KeyError(folder)
    return "\n".join(["| module | purpose |", "|---|---|", *rows])


def _code(text: str) -> str:
    return f"`{text}`" if text else "none"


def _cell(text: str) -> str:
    """Return one line that is safe in a cell; double backquotes become Markdown's single ones."""
    line = " ".join(text.replace("``", "`").split()).replace("|", "\\|")
    return line.replace("*", "\\*").replace("<", "&lt;")


_PARTS: dict[str, Callable[[str], str]] = {
    "options": option_table,
    "commands": command_reference,
    "modules": module_table,
}
