"""What the README and the quick start say is run: every command, every piece of Python.

The fences of a page are run from top to bottom, as a reader would, in a home of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import juicecache
from juicecache.testing.servers import find

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/quickstart.md")
INSTALLS = ("pip install . && juicecache demo", "pip install '.[test]' && pytest")
"""The two commands for a fresh machine. CI runs them; a test can not install its own package."""
_FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Fence(NamedTuple):
    """One piece of code on a page, and the line that it begins on."""

    page: str
    line: int
    kind: str
    code: str

    @property
    def commands(self) -> list[str]:
        return [line.removeprefix("$ ") for line in self.code.splitlines() if line[:2] == "$ "]


def fences(page: str) -> list[Fence]:
    text = (ROOT / page).read_text("utf-8")
    return [
        Fence(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


SNIPPETS = [
    fence
    for page in PAGES
    for fence in fences(page)
    if not all(command.startswith("pip install") for command in fence.commands)
    or not fence.commands
]


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """An environment for each page: a home that its snippets share and nothing of the user's."""
    made = {}
    for page in PAGES:
        home = tmp_path_factory.mktemp("home")
        commands = tmp_path_factory.mktemp("commands")
        _command(commands / "juicecache", sys.executable, "-m", "juicecache")
        if juicefs := find("juicefs"):
            _command(commands / "juicefs", juicefs)
        made[page] = {
            "HOME": str(home),
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(juicecache.__file__).parents[1]),
            "LANG": "C.UTF-8",
        }
    return made


def _command(path: Path, *words: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)


@pytest.mark.parametrize("fence", SNIPPETS, ids=lambda f: f"{f.page}:{f.line}")
def test_a_snippet_runs(fence: Fence, environments: dict[str, dict[str, str]]) -> None:
    for module in re.findall(r"^(?:import|from) (torch|pandas)\b", fence.code, re.MULTILINE):
        _needs(module, present=find_spec(module) is not None)
    if "juicefs " in fence.code:
        _needs("juicefs", present=find("juicefs") is not None)
    if fence.kind == "console":
        words = ["bash", "-euo", "pipefail", "-c", "\n".join(fence.commands)]
    else:
        words = [sys.executable, "-W", "error::ResourceWarning", "-c", fence.code]
    environment = environments[fence.page]
    done = subprocess.run(
        words,
        cwd=environment["HOME"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{fence.page}:{fence.line}\n{done.stdout}\n{done.stderr}"


def _needs(part: str, *, present: bool) -> None:
    if not present:
        assert "JUICECACHE_REQUIRE_PARTS" not in os.environ, f"{part} is not installed"
        pytest.skip(f"{part} is not installed")


def test_the_first_commands_of_the_readme_install_and_run() -> None:
    commands = [c for fence in fences("README.md") for c in fence.commands]
    assert tuple(commands[:2]) == INSTALLS
    extras = _project()["optional-dependencies"]
    named = re.findall(r"pip install '\.\[(\w+)\]'", (ROOT / "README.md").read_text("utf-8"))
    assert named, "the README names extras"
    assert set(named) <= set(extras)


def test_the_readme_begins_with_five_lines() -> None:
    title, _, *lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert title == "# juicecache"
    assert lines.index("") == 5


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\((?!\w+://)([^)#]+)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_names_the_python_that_is_needed() -> None:
    needed = _project()["requires-python"].removeprefix(">=")
    assert f"Python {needed} or later" in (ROOT / "README.md").read_text("utf-8")


def _project() -> dict:  # type: ignore[type-arg]
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
