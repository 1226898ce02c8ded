"""Which paths the rules take: the official client decides."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import ConfigError
from juicecache.faces.sync.item import Item, Kind, Pair, joined
from juicecache.faces.sync.options import Chosen
from juicecache.faces.sync.rules import Rule, Rules
from juicecache.testing.servers import juicefs_binary, run_juicefs

PATHS = ["a1/b1", "a2/b2", "aaa/b1", "b1", "b2"]


def taken(words: str, paths: list[str], *, full_path: bool = False) -> list[str]:
    """Return what rules take, given as on the command line: ``+pattern`` and ``-pattern``."""
    rules = Rules([Rule(one[0] == "+", one[1:]) for one in words.split()], full_path=full_path)
    return [path for path in paths if rules.takes(path)]


@pytest.mark.parametrize(
    ("words", "paths", "wanted"),
    [
        ("", PATHS, PATHS),
        ("-a?/b*", PATHS[:3], ["aaa/b1"]),
        ("+a1/b1 -a[1-9]/b*", PATHS[:3], ["a1/b1", "aaa/b1"]),
        ("+a1/b1 -a* +b2 -b?", PATHS, ["b2"]),
        ("-b1", PATHS, ["a2/b2", "b2"]),
        ("-/b1", PATHS, ["a1/b1", "a2/b2", "aaa/b1", "b2"]),
        ("-b1/", ["b1", "x/b1/c"], ["b1"]),
        ("-a1/***", PATHS, PATHS[1:]),
        ("-[^a]?", ["a1", "b1", "c"], ["a1", "c"]),
        ("-a**1", ["a1", "a/x/1", "a2"], ["a2"]),
        ("-x", ["a*b", "x/y/z", "ax"], ["a*b", "ax"]),
    ],
)
def test_rules_take(words: str, paths: list[str], wanted: list[str]) -> None:
    assert taken(words, paths) == wanted


def test_the_whole_path_alone_may_be_judged() -> None:
    paths = ["a/b/c", "a/c"]
    assert taken("-b/", paths) == ["a/c"]
    assert taken("-b/", paths, full_path=True) == paths
    assert taken("-c", paths, full_path=True) == []


@pytest.mark.parametrize("pattern", ["", "/", "[ab", "[z-a]"])
def test_patterns_that_cannot_be_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        Rules([Rule(False, pattern)])


NAMES = ["a", "b", "ab", "a1"]
PARTS = ["a", "b", "a*", "?", "[ab]", "*1", "ab", "**", "*"]


def test_the_official_client_takes_the_same(tmp_path: Path) -> None:
    juicefs_binary()
    source = tmp_path / "source"
    paths = [f"{one}/{two}/{three}" for one in NAMES for two in NAMES for three in ("a", "b1")] + [
        "x",
        "y1",
    ]
    for path in paths:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(path)
    chooser = random.Random(7)
    for number in range(40):
        rules = []
        for _ in range(chooser.randint(1, 3)):
            names = [chooser.choice(PARTS) for _ in range(chooser.randint(1, 3))]
            pattern = chooser.choice(["", "", "/"]) + "/".join(names)
            pattern += chooser.choice(["", "", "/", "/***"])
            rules.append(Rule(chooser.random() < 0.4, pattern))
        full = number % 3 == 0
        target = tmp_path / f"target{number}"
        words = [f"--{'include' if rule.include else 'exclude'}={rule.pattern}" for rule in rules]
        words += ["--match-full-path"] if full else []
        run_juicefs("sync", *words, f"{source}/", f"{target}/")
        theirs = sorted(
            str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()
        )
        judge = Rules(rules, full_path=full)
        assert [path for path in sorted(paths) if judge.takes(path)] == theirs, words


trees = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "a.b", "a0", "é"]), min_size=1, max_size=3).map("/".join),
    st.just(None),
    max_size=8,
)


def items(paths) -> list[Item]:
    return sorted((Item(path, Kind.FILE) for path in paths), key=lambda item: item.key)


@given(trees, trees)
def test_two_listings_are_joined_by_path(one, other) -> None:
    pairs = list(joined(iter(items(one)), iter(items(other))))
    assert {pair.source.path for pair in pairs if pair.source} == set(one)
    assert {pair.target.path for pair in pairs if pair.target} == set(other)
    both = [pair for pair in pairs if pair.source and pair.target]
    assert all(pair == Pair(pair.source, pair.source) for pair in both)
    assert {pair.source.path for pair in both} == set(one) & set(other)


def test_chosen_paths_bring_what_is_below() -> None:
    chosen = Chosen(["a/b", "c/"])
    assert [chosen.takes(path) for path in ("a/b", "a/b/x", "c/x", "a", "a/c", "d")] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert [chosen.enters(path) for path in ("a", "a/b", "c", "d", "a/c")] == [
        *(True, True, True),
        *(False, False),
    ]
