"""Include and exclude rules, as the official ``sync`` reads them.

A rule is a pattern of names joined by ``/``. The rules are tried in their order, and the first that
matches decides; what none matches is taken. Each directory on the way to a file is judged before
the file, so that an excluded directory excludes all that is below it.

In a pattern ``*`` is any part of a name, ``?`` one character, ``[a-z]`` a class (``[^a-z]`` its
opposite), ``**`` any part of a path. One that begins with ``/`` starts at the root of what is
synchronised, others match the end of a path. One that ends with ``/`` is for directories alone;
``***`` as the last name stands for a directory and everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from juicecache.errors import ConfigError


class Rule(NamedTuple):
    """What to do with what a pattern matches."""

    include: bool
    pattern: str


class Rules:
    """Rules in their order.

    Parameters
    ----------
    full_path
        Judge the whole path alone, not the directories on the way to it.

    Raises
    ------
    ConfigError
        A pattern that cannot be.
    """

    def __init__(self, rules: Iterable[Rule], *, full_path: bool = False) -> None:
        self._rules = [(rule.include, _compiled(rule.pattern)) for rule in rules]
        self._full_path = full_path

    def takes(self, path: str, *, is_directory: bool = False) -> bool:
        """Return whether a path, relative to the root, is taken."""
        if not self._rules:
            return True
        names = path.split("/")
        depths: Sequence[int] = range(1, len(names) + 1)
        for depth in depths[-1:] if self._full_path else depths:
            prefix = "/".join(names[:depth])
            if not self._takes_one(prefix + "/" if depth < len(names) or is_directory else prefix):
                return False
        return True

    def enters(self, path: str) -> bool:
        """Return whether something below a directory may be taken."""
        return self._full_path or self.takes(path, is_directory=True)

    def _takes_one(self, path: str) -> bool:
        """Judge one path; that of a directory ends with ``/``."""
        for include, pattern in self._rules:
            if pattern.fullmatch(path):
                return include
        return True


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return the pattern as an expression over paths; those of directories end with ``/``."""
    if not pattern.strip("/"):
        raise ConfigError(f"the pattern {pattern!r} matches nothing")
    names = pattern.split("/")
    anchored = not names[0]
    names = names[1:] if anchored else names
    tail = "/?"  # of files and directories
    if not names[-1]:
        names, tail = names[:-1], "/"
    elif names[-1] == "***" and len(names) > 1:
        names, tail = names[:-1], "/.*"
    if not anchored and names[0] == "**":
        # It may be nothing there, as what is in front of any such pattern.
        if len(names) > 1:
            names = names[1:]
        elif tail == "/.*":
            tail = ""
    try:
        # What a name stands for never ends with the mark of a directory.
        body = "/".join(_translated(name) for name in names)
        front = "" if anchored else "(?:.*/)?"
        return re.compile(f"(?:{front}{body})(?<!/){tail}" if tail else f"{front}{body}", re.DOTALL)
    except re.error as error:
        raise ConfigError(f"the pattern {pattern!r} cannot be read: {error}") from None


def _translated(name: str) -> str:
    """Return the expression of one name of a pattern."""
    if not any(mark in name for mark in "*?["):
        return re.escape(name)
    parts = []
    at = 0
    while at < len(name):
        char = name[at]
        at += 1
        if char == "*" and name[at : at + 1] == "*":
            at += 1
            parts.append(".*")
        elif char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            stop = name.find("]", at + 1)
            if stop < 0:
                raise ConfigError(f"the pattern {name!r} has a [ without its ]")
            parts.append(f"[{name[at:stop]}]".replace("[^", "[^/"))
            at = stop + 1
        elif char == "\\" and at < len(name):
            parts.append(re.escape(name[at]))
            at += 1
        else:
            parts.append(re.escape(char))
    return "".join(parts)
