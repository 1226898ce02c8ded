"""Code and documentation point at each other: what they name exists."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

import juicecache

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(juicecache.__file__).parent


def test_what_the_code_cites_exists() -> None:
    """Docstrings name a page, and sometimes one of its headings."""
    cited = 0
    for path in PACKAGE.rglob("*.py"):
        text = " ".join(path.read_text("utf-8").split())
        for page, heading in re.findall(r"docs/(\w+\.md)`*(?:, \"([^\"]+)\")?", text):
            assert (DOCS / page).exists(), (path, page)
            headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text("utf-8"), re.MULTILINE)
            assert not heading or heading in headings, (path, page, heading)
            cited += bool(heading)
    assert cited >= 5


@pytest.mark.parametrize("page", ["architecture.md", "concepts.md", "failures.md"])
def test_classes_that_a_page_names_exist(page: str) -> None:
    """And so do the methods, where it says ``Class.method``."""
    members = _members()
    for name in re.findall(r"`([A-Z][a-z]\w+(?:\.\w+)?)`", (DOCS / page).read_text("utf-8")):
        owner, _, member = name.partition(".")
        if hasattr(builtins, owner) or owner in _OF_THE_FORMAT:
            continue
        assert owner in members, f"{page}: {name}"
        assert not member or member in members[owner], f"{page}: {name}"


_OF_THE_FORMAT = {"ChangeLog", "EnableACL", "UserGroupQuota", "MetaVersion"}


def _members() -> dict[str, set[str]]:
    """Return the names in each class of the package, those of its bases included."""
    found: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                functions = (ast.FunctionDef, ast.AsyncFunctionDef)
                own = {one.name for one in node.body if isinstance(one, functions)}
                found.setdefault(node.name, set()).update(own)
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    for name in found:
        above = list(bases[name])
        while above:
            base = above.pop()
            found[name] |= found.get(base, set())
            above += bases.get(base, [])
    return found
