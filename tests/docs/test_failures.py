"""The page about failures knows every error, and quotes texts that the code really has."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import juicecache
from juicecache import errors

PAGE = (Path(__file__).parents[2] / "docs/failures.md").read_text("utf-8")
PACKAGE = Path(juicecache.__file__).parent
ANY = "…"


def test_every_error_is_explained() -> None:
    classes = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.JuicecacheError)
    ]
    by_class = PAGE.partition("## By class")[2].partition("## By symptom")[0]
    rows = re.findall(r"^\| `(\w+)` \|", by_class, re.MULTILINE)
    assert [*rows, "JuicecacheError"] == [*classes[1:], classes[0]]


def test_quoted_texts_are_in_the_code() -> None:
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("## By symptom")[2], re.MULTILINE)
    assert len(quoted) > 20
    known = _texts()
    assert [text for text in quoted if not any(_shorten(text) in one for one in known)] == []


def _texts() -> set[str]:
    """Return all texts of the package, with a mark for each value that is put into one."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else ANY for v in node.values]
                found.add(_shorten("".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(_shorten(node.value))
    return found


def _shorten(text: str) -> str:
    return re.sub(rf"['\"]?{ANY}['\"]?", ANY, text)
