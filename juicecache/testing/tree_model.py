"""A file tree in dictionaries: what every engine must show after the same operations.

It knows names and inodes, and raises the built-in ``OSError`` that the operation must
fail with. No usage, no link counts, no times: those are invariants of the rows themselves.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

Names = tuple[bytes, ...]
"""A path from the root; the empty one is the root."""


@dataclass(eq=False)
class Node:
    """A file, a symbolic link (``target``) or, with ``entries``, a directory."""

    inode: int
    entries: dict[bytes, Node] | None = None
    target: bytes = b""
    length: int = 0
    mode: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        """Whether it has entries."""
        return self.entries is not None


class TreeModel:
    """The tree. All symbolic links lead to nowhere, so no path leads through one."""

    def __init__(self) -> None:
        self.root = Node(1, {}, mode=0o777)

    def find(self, path: Names) -> Node:
        """Return what a path is."""
        here = self.root
        for name in path:
            if here.entries is None:
                raise _not_a_directory(here)
            if name not in here.entries:
                raise _error(errno.ENOENT)
            here = here.entries[name]
        return here

    def paths(self) -> dict[Names, Node]:
        """Return every path with what it is, the root included."""
        found: dict[Names, Node] = {(): self.root}
        pending: list[Names] = [()]
        while pending:
            path = pending.pop()
            for name, node in (found[path].entries or {}).items():
                found[*path, name] = node
                pending.append((*path, name))
        return found

    def create(self, path: Names, node: Node) -> None:
        """Give a new node its name."""
        entries = self._entries(path[:-1])
        if path[-1] in entries:
            raise _error(errno.EEXIST)
        entries[path[-1]] = node

    def link(self, source: Names, target: Names) -> None:
        """Give a file one more name."""
        node, entries = self.find(source), self._entries(target[:-1])
        if target[-1] in entries:
            raise _error(errno.EEXIST)
        if node.is_directory:
            raise _error(errno.EPERM)
        entries[target[-1]] = node

    def unlink(self, path: Names) -> None:
        """Take a name from a file."""
        entries = self._entries(path[:-1])
        if path[-1] not in entries:
            raise _error(errno.ENOENT)
        if entries[path[-1]].is_directory:
            raise _error(errno.EISDIR)
        del entries[path[-1]]

    def rmdir(self, path: Names) -> None:
        """Remove an empty directory."""
        entries = self._entries(path[:-1])
        if path[-1] not in entries:
            raise _error(errno.ENOENT)
        victim = entries[path[-1]]
        if not victim.is_directory:
            raise _error(errno.ENOTDIR)
        if victim.entries:
            raise _error(errno.ENOTEMPTY)
        del entries[path[-1]]

    def rename(self, source: Names, target: Names, *, replace: bool = True) -> None:
        """Move an entry, over what is there when ``replace``."""
        old, new = self._entries(source[:-1]), self._entries(target[:-1])
        if source[-1] not in old:
            raise _error(errno.ENOENT)
        if source == target:
            return
        node, victim = old[source[-1]], new.get(target[-1])
        if victim is not None and not replace:
            raise _error(errno.EEXIST)
        if victim is node:
            return
        self._check_no_loop(source, target)
        if victim is not None:
            if node.is_directory and not victim.is_directory:
                raise _error(errno.ENOTDIR)
            if victim.is_directory and not node.is_directory:
                raise _error(errno.EISDIR)
            if victim.entries:
                raise _error(errno.ENOTEMPTY)
        new[target[-1]] = old.pop(source[-1])

    def exchange(self, one: Names, other: Names) -> None:
        """Swap two entries."""
        first, second = self._entries(one[:-1]), self._entries(other[:-1])
        if one[-1] not in first or (one != other and other[-1] not in second):
            raise _error(errno.ENOENT)
        if first[one[-1]] is second[other[-1]]:
            return
        self._check_no_loop(one, other)
        self._check_no_loop(other, one)
        first[one[-1]], second[other[-1]] = second[other[-1]], first[one[-1]]

    def _check_no_loop(self, source: Names, target: Names) -> None:
        if target[: len(source)] == source and self.find(source).is_directory:
            raise _error(errno.EINVAL)

    def _entries(self, path: Names) -> dict[bytes, Node]:
        directory = self.find(path)
        if directory.entries is None:
            raise _not_a_directory(directory)
        return directory.entries


def _not_a_directory(node: Node) -> OSError:
    return _error(errno.ENOENT if node.target else errno.ENOTDIR)


def _error(number: int) -> OSError:
    return OSError(number, "the model refuses it")
