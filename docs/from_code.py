"""Parts of the documentation that are written by the code they describe, as Markdown.

A page says ``<!-- from the code: NAME -->`` where a part goes. Where ``<!-- end: NAME -->``
follows, the part stands in the page between the two, for readers of the file, and
``python docs/from_code.py --write`` refreshes it.

Law: nothing here states a default, a flag or a summary; it only lays out what the code states.
"""

from __future__ import annotations

import ast
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable
from pathlib import Path

import juicecache
from juicecache.config import OPTIONS, Option
from juicecache.faces.cli import main as cli
from juicecache.faces.cli.arguments import _DEST

_MARK = re.compile(
    r"^(<!-- from the code: ([a-z]+)(?: ([a-z_./]+))? -->)$(?:\n(?:.*\n)*?(<!-- end: \2 -->)$)?",
    re.MULTILINE,
)
_PACKAGE = Path(juicecache.__file__).parent


def fill(page: str) -> str:
    """Return a page with each of its marks, and what is kept there, replaced by what the code says.

    Raises
    ------
    KeyError
        A mark names something that does not exist.
    """
    return _MARK.sub(lambda mark: _PARTS[mark[2]](mark[3] or ""), page)


def refresh(page: str) -> str:
    """Return a page, marks included, in which what is kept between marks is as the code says."""

    def renew(mark: re.Match[str]) -> str:
        if mark[4] is None:
            return mark[0]
        return f"{mark[1]}\n\n{_PARTS[mark[2]](mark[3] or '')}\n\n{mark[4]}"

    return _MARK.sub(renew, page)


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


def _main(words: list[str]) -> int:
    """Refresh the pages, or without ``--write`` say which are stale; 1 when there are some."""
    stale = 0
    for path in sorted(Path(__file__).parent.glob("*.md")):
        page = path.read_text("utf-8")
        fresh = refresh(page)
        if fresh != page:
            stale += 1
            print(path)
            if "--write" in words:
                path.write_text(fresh, "utf-8")
    return int(stale > 0 and "--write" not in words)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
