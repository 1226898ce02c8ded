"""Writing the dump of a volume, page by page.

Laws:

* Memory is bounded by a page of entries for each level of the tree.
* Each page is read in one transaction, and the whole is not: of what changes meanwhile some is in
  the dump and some is not, as with the official client.
* The form has no place for content that has no name: of files that are open without one, and of
  removed ones that are not cleaned yet, only the numbers are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from juicecache.meta import usage
from juicecache.meta.acl import rule_of
from juicecache.meta.dump.text import attr_text, chunks_text, escape, rule_text
from juicecache.meta.engine import Engine, Listed, Transaction
from juicecache.meta.limits import GROUP, USER
from juicecache.meta.rows import (
    Acl,
    Chunk,
    Counter,
    DeletedFile,
    DirQuota,
    Session,
    Sustained,
    Symlink,
    UserGroupQuota,
    Xattr,
)
from juicecache.model.attr import ROOT_INODE, TRASH_INODE, Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES

_PAGE = 1000
"""Entries of the first read of a directory: some 500 KB as text."""
_PAGE_MAX = 8 * _PAGE
"""Of later ones, which are twice as long each: Redis reads all names for each page."""
_COUNTERS = {
    "usedSpace": usage.USED_SPACE,
    "usedInodes": usage.TOTAL_INODES,
    "nextInodes": "nextInode",
    "nextChunk": "nextChunk",
    "nextSession": "nextSession",
    "nextTrash": "nextTrash",
}


class _Entry(NamedTuple):
    """An inode with all that is written about it; ``lines`` are the members behind ``attr``."""

    name: bytes
    attr: Attr
    lines: list[tuple[str, str]]


@dataclass(slots=True)
class _Frame:
    """A directory that is being written."""

    inode: int
    indent: str
    after: bytes = b""
    ended: bool = False
    limit: int = _PAGE
    waiting: list[_Entry] = field(default_factory=list)
    """Entries of the page at hand, the next one last."""
    is_first: bool = True


class DumpWriter:
    """One dump.

    Parameters
    ----------
    write
        Takes text.
    progress
        Called with the number of entries so far, now and then.
    """

    def __init__(
        self,
        engine: Engine,
        write: Callable[[str], object],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.entries = 0
        self._engine = engine
        self._write = write
        self._progress = progress or (lambda entries: None)
        self._rules: dict[int, str] = {}

    def dump(self, setting_text: str, top: int = ROOT_INODE, *, trash: bool = True) -> None:
        """Write the document.

        Parameters
        ----------
        setting_text
            The record as it is to stand in the dump.
        top
            The directory that becomes the root of what is dumped.
        trash
            Write the trash too.
        """
        self._write("{\n")
        self._member("Setting", json.loads(setting_text))
        self._member("Counters", self._counters())
        self._member("Sustained", self._sustained())
        self._deleted_files()
        self._quotas()
        self._write('  "FSTree": ')
        self._tree(top)
        if trash and top == ROOT_INODE and self._engine.read(lambda tx: tx.get(Attr, TRASH_INODE)):
            self._write(',\n  "Trash": ')
            self._tree(TRASH_INODE)
        self._write("\n}\n")

    def _member(self, name: str, value: object) -> None:
        text = json.dumps(value, indent=2).replace("\n", "\n  ")
        self._write(f'  "{name}": {text},\n')

    # ------------------------------------------------------------------ what is no tree

    def _counters(self) -> dict[str, int]:
        keys = [(name,) for name in _COUNTERS.values()]
        rows = self._engine.read(lambda tx: tx.get_many(Counter, keys))
        return {
            name: 0 if row is None else row.value for name, row in zip(_COUNTERS, rows, strict=True)
        }

    def _sustained(self) -> list[dict[str, object]]:
        def body(tx: Transaction) -> list[dict[str, object]]:
            held = [
                (row.sid, [one.inode for one in tx.scan(Sustained, row.sid)])
                for row in tx.scan(Session)
            ]
            return [{"sid": sid, "inodes": inodes} for sid, inodes in held if inodes]

        return self._engine.read(body)

    def _deleted_files(self) -> None:
        """Write the removed files whose content is not cleaned yet: any number of them."""
        self._write('  "DelFiles": [')
        ahead = "\n"
        for rows in self._engine.sweep(DeletedFile, page=_PAGE):
            for row in rows:
                value = {"inode": row.inode, "length": row.length, "expire": row.expire_s}
                self._write(f"{ahead}    {json.dumps(value)}")
                ahead = ",\n"
        self._write("],\n" if ahead == "\n" else "\n  ],\n")

    def _quotas(self) -> None:
        found: dict[str, dict[str, dict[str, int]]] = {}

        def keep(name: str, number: int, row: DirQuota | UserGroupQuota) -> None:
            limits = {"maxSpace": row.max_space, "maxInodes": row.max_inodes}
            found.setdefault(name, {})[str(number)] = limits

        for quotas in self._engine.sweep(DirQuota, page=_PAGE):
            for quota in quotas:
                keep("Quotas", quota.inode, quota)
        names = {USER: "UserQuotas", GROUP: "GroupQuotas"}
        for owners in self._engine.sweep(UserGroupQuota, page=_PAGE):
            for owner in owners:
                if owner.max_space > 0 or owner.max_inodes > 0:  # else it is a sum alone
                    keep(names[owner.kind], owner.id, owner)
        for name, quotas_of in found.items():
            self._member(name, quotas_of)

    # ------------------------------------------------------------------ the tree

    def _tree(self, top: int) -> None:
        """Write the object of a directory, with all that is below it."""
        frames = [self._open(self._engine.read(lambda tx: self._top(tx, top)), "  ")]
        while frames:
            frame = frames[-1]
            if not frame.waiting and not frame.ended:
                self._fill(frame)
            if not frame.waiting:
                self._write("}" if frame.is_first else f"\n{frame.indent}  }}")
                self._write(f"\n{frame.indent}}}")
                frames.pop()
                continue
            entry = frame.waiting.pop()
            indent = frame.indent + "    "
            self._write(f'{"" if frame.is_first else ","}\n{indent}"{escape(entry.name)}": ')
            frame.is_first = False
            self.entries += 1
            if entry.attr.is_directory:
                frames.append(self._open(entry, indent))
            else:
                self._write(self._head(entry, indent) + f"\n{indent}}}")

    def _open(self, entry: _Entry, indent: str) -> _Frame:
        self._write(f'{self._head(entry, indent)},\n{indent}  "entries": {{')
        return _Frame(entry.attr.inode, indent)

    def _head(self, entry: _Entry, indent: str) -> str:
        """Return the beginning of an entry's object; chunks are laid out for its indent."""
        lines = [f'{{\n{indent}  "attr": {attr_text(entry.attr)}']
        lines += [f'{indent}  "{name}": {text}' for name, text in entry.lines]
        return ",\n".join(lines)

    def _fill(self, frame: _Frame) -> None:
        indent = frame.indent + "      "
        after = frame.after
        limit = frame.limit
        entries = self._engine.read(lambda tx: self._page(tx, frame.inode, after, limit, indent))
        frame.ended = len(entries) < limit
        frame.limit = min(2 * limit, _PAGE_MAX)
        if entries:
            frame.after = entries[-1].name
        frame.waiting = entries[::-1]
        self._progress(self.entries)

    def _top(self, tx: Transaction, inode: int) -> _Entry:
        attr = tx.get(Attr, inode)
        assert attr is not None, "whoever asks for a dump has looked at the directory"
        return self._described(tx, [Listed(b"", attr, b"")], "")[0]

    def _page(
        self, tx: Transaction, directory: int, after: bytes, limit: int, indent: str
    ) -> list[_Entry]:
        return self._described(tx, list(tx.listing(directory, after=after, limit=limit)), indent)

    def _described(self, tx: Transaction, found: list[Listed], indent: str) -> list[_Entry]:
        """Return entries with all that is written about them, read together."""
        attrs = [attr for _, attr, _ in found]
        links = [attr.inode for attr in attrs if attr.type == NodeType.SYMLINK]
        rows = tx.get_many(Symlink, [(inode,) for inode in links]) if links else []
        targets = {row.inode: row.target for row in rows if row is not None}
        xattrs = tx.scan_each(Xattr, [attr.inode for attr in attrs]) if attrs else []
        numbers = {number for attr in attrs for number in (attr.access_acl, attr.default_acl)}
        self._read_rules(tx, numbers - {0})
        entries = []
        for (name, attr, records), values in zip(found, xattrs, strict=True):
            lines: list[tuple[str, str]] = []
            if attr.type == NodeType.SYMLINK:
                lines.append(("symlink", f'"{escape(targets.get(attr.inode, b""))}"'))
            if values:
                lines.append(("xattrs", f"[{','.join(map(_xattr_text, values))}]"))
            for member, number in (
                ("posix_acl_access", attr.access_acl),
                ("posix_acl_default", attr.default_acl),
            ):
                if number in self._rules:
                    lines.append((member, self._rules[number]))
            chunks = list(_chunks(tx, attr, records)) if attr.is_file else []
            if chunks:
                lines.append(("chunks", chunks_text(chunks, indent)))
            entries.append(_Entry(name, attr, lines))
        return entries

    def _read_rules(self, tx: Transaction, numbers: set[int]) -> None:
        unknown = sorted(numbers - self._rules.keys())
        rows = tx.get_many(Acl, [(number,) for number in unknown]) if unknown else []
        self._rules |= {row.id: rule_text(rule_of(row)) for row in rows if row is not None}


def _chunks(tx: Transaction, attr: Attr, records: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Iterate over the slice lists of a file; ``records`` is the first one where it is known."""
    if records is not None and attr.length <= CHUNK_BYTES:
        if records:
            yield 0, records
        return
    for row in tx.scan(Chunk, attr.inode):
        if row.slices:
            yield row.index, row.slices


def _xattr_text(row: Xattr) -> str:
    name = json.dumps(row.name, ensure_ascii=False)  # not escaped, unlike all other names
    return f'{{"name":{name},"value":"{escape(row.value)}"}}'
