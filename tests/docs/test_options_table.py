"""The pages that the code fills in: they ask for it, and what they get is complete."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import juicecache
from juicecache.config import OPTIONS, VolumeOptions
from juicecache.faces.cli import main as cli

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def from_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(from_code: ModuleType, page: str) -> str:
    text = from_code.fill((DOCS / page).read_text("utf-8"))
    assert "<!-- from the code" not in text
    return str(text)


def test_every_option_stands_in_the_table_with_its_default_and_reason(
    from_code: ModuleType,
) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in filled(from_code, "options.md").splitlines()
        if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row for row in rows if len(row) == 4}
    assert list(table) == [option.name for option in OPTIONS]
    for option in OPTIONS:
        _, value, default, reason = table[option.name]
        assert default == (f"`{option.default}`" if option.default else "none")
        assert reason, option.name
        assert all(bound in value for bound in (option.low, option.high, *option.choices))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_keeps_is_what_the_code_says(from_code: ModuleType, page: Path) -> None:
    """If not: ``python docs/from_code.py --write``."""
    text = page.read_text("utf-8")
    assert from_code.refresh(text) == text


def test_the_tables_stand_in_the_files_and_once_in_what_is_built(from_code: ModuleType) -> None:
    for page, line in [("options.md", "| `cache_dir` |"), ("cli.md", "## warmup\n")]:
        assert (DOCS / page).read_text("utf-8").count(line) == 1
        assert filled(from_code, page).count(line) == 1


def test_the_default_that_is_shown_is_the_one_that_is_used() -> None:
    defaults = VolumeOptions()
    for option in OPTIONS:
        assert option.parse(option.default or _empty(option.kind)) == getattr(
            defaults, option.field
        )


def _empty(kind: str) -> str:
    assert kind in ("text", "secret", "group", "weight", "members")
    return ""


def test_the_pages_name_no_option_that_does_not_exist() -> None:
    known = {option.name for option in OPTIONS} | {"asynchronous", "loop", "batch_size", "meta"}
    for page in DOCS.glob("*.md"):
        found = re.findall(r"options? `([a-z_]+)`", page.read_text("utf-8"))
        assert set(found) <= known | {"table_prefix"}, page.name


def test_every_command_has_a_section_with_its_arguments(from_code: ModuleType) -> None:
    text = filled(from_code, "cli.md")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(cli._COMMANDS)
    sections = dict(
        zip(cli._COMMANDS, re.split(r"^## \w+$", text, flags=re.MULTILINE)[1:], strict=True)
    )
    assert "`--bucket BUCKET`" in sections["format"]
    assert "`--delete`" in sections["gc"]
    assert "--cache-size" not in sections["ls"], "options of the volume have a page of their own"
    assert "(options.md)" in sections["ls"]


def test_every_module_of_the_package_is_in_the_architecture(from_code: ModuleType) -> None:
    text = filled(from_code, "architecture.md")
    package = Path(juicecache.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "__init__.py":
            assert f"| `{path.name}` | " in text, path
    folders = {
        str(path.parent.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    asked = re.findall(
        r"from the code: modules (\S+)", (DOCS / "architecture.md").read_text("utf-8")
    )
    assert set(asked) == folders
