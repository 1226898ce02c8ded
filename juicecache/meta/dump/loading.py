"""Filling an empty database from a dump.

Laws:

* Nothing in a dump is believed that can be counted: links, sums, references, usage of quotas.
* The record of the volume is written last. Until then there is no volume, and a mark says that
  what is there was left by a load that did not end.
* Counters leap: the volume that was dumped may have gone on handing out numbers, and what it wrote
  since may still be in the bucket and in caches. The epoch, which is new, keeps blocks of both
  lives apart in every cache; see ``meta.epoch``.
* Memory does not depend on the number of files: of each directory on the way down its sums are
  held, of each one that was seen its number.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from juicecache.errors import ConflictError, JuicecacheError, VolumeFormatError
from juicecache.meta.acl import number_of
from juicecache.meta.context import Used
from juicecache.meta.dump.text import (
    parse_attr,
    parse_chunks,
    parse_number,
    parse_rule,
    parse_xattrs,
    unescape,
)
from juicecache.meta.engine import Engine, T, Transaction
from juicecache.meta.limits import GROUP, USER
from juicecache.meta.rows import (
    Chunk,
    Counter,
    DeletedFile,
    DirQuota,
    DirStats,
    Edge,
    Row,
    SliceRef,
    Symlink,
    UserGroupQuota,
    Xattr,
)
from juicecache.meta.tally import SliceTally
from juicecache.meta.trash import trash_root
from juicecache.meta.usage import TOTAL_INODES, USED_SPACE
from juicecache.model.acl import Rule
from juicecache.model.attr import (
    NAME_BYTES_MAX,
    ROOT_INODE,
    SYMLINK_BYTES_MAX,
    TRASH_INODE,
    Attr,
    NodeType,
    in_trash,
)
from juicecache.model.setting import Setting
from juicecache.model.slices import refs_of

_BATCH = 1000
"""Entries of one transaction: some ten milliseconds of it."""
_QUOTAS = "Quotas"
_OWNER_QUOTAS = {USER: "UserQuotas", GROUP: "GroupQuotas"}
_LEAPS = {"nextInode": 1 << 20, "nextChunk": 1 << 30, "nextSession": 1 << 16, "nextTrash": 1 << 10}
"""How far counters are moved on: more than a busy volume uses up between two backups."""

_NUMBER_MAX = 1 << 62
"""Of inodes, slices and sessions: more than any volume has used up, with room for all engines."""
_NONSENSE = (
    *(AttributeError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError),
    struct.error,
)
"""What comes of a value that is of another kind, or larger, than any dump has it."""

Event = tuple[str, Any]
"""Of a JSON parser that goes through a text piece by piece: its kind, and a value."""


@dataclass(slots=True)
class _Sums:
    """What is directly in a directory, and what is anywhere below it."""

    length: int = 0
    space: int = 0
    inodes: int = 0
    subdirectories: int = 0
    space_below: int = 0
    inodes_below: int = 0


@dataclass(slots=True)
class _Open:
    """An entry that is being read."""

    name: bytes
    fields: dict[str, Any] = field(default_factory=dict)
    inside: bool = False
    """Whether its own entries are being read."""
    inode: int = 0
    sums: _Sums = field(default_factory=_Sums)


@dataclass(frozen=True, slots=True)
class _File:
    """An entry that is no directory, ready to be written."""

    parent: int
    name: bytes
    attr: Attr
    rows: tuple[Row, ...]


class Loader:
    """One load.

    Parameters
    ----------
    events
        What a JSON parser says about the document, from the value of its first member on.
    guard
        Begins each transaction; raises where this load may not go on.
    progress
        Called with the number of entries so far, now and then.

    Attributes
    ----------
    setting
        The record in the dump; None before it was read.
    entries
        Entries so far.
    repeated
        Directories that were met a second time and left out there: they moved during the dump.
    """

    def __init__(
        self,
        engine: Engine,
        events: Iterator[Event],
        guard: Callable[[Transaction], None],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.setting: Setting | None = None
        self.entries = 0
        self.repeated = 0
        self._engine = engine
        self._events = events
        self._guard = guard
        self._progress = progress or (lambda entries: None)
        self._numbers: dict[str, Any] = {}
        self._deleted: list[Any] = []
        self._quotas: dict[str, dict[int, tuple[int, int]]] = {}
        self._owners: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        self._totals = Used(0, 0)
        self._files: list[_File] = []
        self._rows: list[Row] = []
        self._tally = SliceTally()
        self._rules: dict[Rule, int] = {}
        self._directories: set[int] = set()
        self._last = {"nextInode": ROOT_INODE, "nextChunk": 0, "nextTrash": 0}

    def run(self) -> None:
        """Read the document and write everything but the record of the volume.

        Raises
        ------
        VolumeFormatError
            The document is no dump, or something in it cannot be.
        """
        with self._tally:
            try:
                self._read_members()
                if next(self._events, None) is not None:
                    raise VolumeFormatError("something stands behind the end of the dump")
                if ROOT_INODE not in self._directories:
                    raise VolumeFormatError("the dump has no tree (FSTree)")
                self._flush()
                self._write_references()
                self._write_owners()
                self._write_counters()
            except JuicecacheError:
                raise
            except _NONSENSE as error:
                raise VolumeFormatError(
                    f"the dump has something of another kind than it must be: {error}"
                ) from error

    def _read_members(self) -> None:
        self._expect("start_map")
        for kind, name in self._events:
            if kind == "end_map":
                return
            if name in ("FSTree", "Trash"):
                self._expect("start_map")
                self._read_tree(ROOT_INODE if name == "FSTree" else TRASH_INODE)
                continue
            value = self._value()
            if name == "Setting":
                self.setting = Setting.parse(json.dumps(value))
            elif name == "Counters":
                self._numbers = value
            elif name == "DelFiles":
                self._deleted = value or []
            elif name in (_QUOTAS, *_OWNER_QUOTAS.values()):
                self._quotas[name] = {
                    parse_number({"id": int(number)}, "id"): (
                        parse_number(one, "maxSpace"),
                        parse_number(one, "maxInodes"),
                    )
                    for number, one in (value or {}).items()
                }
        raise VolumeFormatError("the dump ends in the middle")

    # ------------------------------------------------------------------ JSON

    def _expect(self, wanted: str) -> None:
        kind, _ = next(self._events, ("end", None))
        if kind != wanted:
            raise VolumeFormatError(f"the dump has a {kind} where a {wanted} must be")

    def _value(self, event: Event | None = None) -> Any:
        """Return the next value whole; for what is small."""
        kind, value = event or next(self._events, ("end", None))
        if kind == "start_map":
            members: dict[str, Any] = {}
            for kind, name in self._events:
                if kind == "end_map":
                    return members
                members[name] = self._value()
        elif kind == "start_array":
            items: list[Any] = []
            for event in self._events:
                if event[0] == "end_array":
                    return items
                items.append(self._value(event))
        elif kind != "end":
            return value
        raise VolumeFormatError("the dump ends in the middle")

    def _read_tree(self, top: int) -> None:
        """Read the object of a root with all that is below, without recursion."""
        if self.setting is None:
            raise VolumeFormatError("the dump has a tree before the record of its volume")
        path = [_Open(b"")]
        for kind, value in self._events:
            here = path[-1]
            if here.inside:
                if kind == "end_map":
                    here.inside = False
                else:
                    self._expect("start_map")
                    path.append(_Open(_name(value)))
            elif kind == "map_key" and value == "entries":
                self._expect("start_map")
                self._enter(path, top)
            elif kind == "map_key":
                here.fields[value] = self._value()
            else:
                self._leave(path, top)
                path.pop()
                if not path:
                    return
        raise VolumeFormatError("the dump ends in the middle")

    # ------------------------------------------------------------------ entries

    def _enter(self, path: list[_Open], top: int) -> None:
        """Begin with the entries of a directory."""
        here = path[-1]
        here.inside = True
        here.inode = self._attr(here, top if len(path) == 1 else 0).inode
        if here.inode in self._directories:
            self._skip(here)
        self._directories.add(here.inode)

    def _skip(self, here: _Open) -> None:
        """Leave out a directory that was met before, with everything below it."""
        self.repeated += 1
        depth = 1
        for kind, _ in self._events:
            depth += (kind == "start_map") - (kind == "end_map")
            if depth == 0:
                break
        here.inside = False
        here.fields["repeated"] = True

    def _attr(self, here: _Open, top: int) -> Attr:
        """Return the attributes of an entry; those of a root get its number."""
        if "attr" not in here.fields:
            raise VolumeFormatError(f"{here.name!r} has no attributes before its entries")
        attr = parse_attr(here.fields["attr"], len(unescape(here.fields.get("symlink", ""))))
        if top:
            attr = attr._replace(inode=top, parent=ROOT_INODE)
        elif attr.inode in (ROOT_INODE, TRASH_INODE):
            raise VolumeFormatError(f"{here.name!r} has the number of a root")
        return attr

    def _leave(self, path: list[_Open], top: int) -> None:
        """Take an entry that was read whole, a directory with its sums."""
        here = path[-1]
        attr = self._attr(here, top if len(path) == 1 else 0)
        if here.fields.get("repeated"):
            return
        try:
            if attr.is_directory:
                self._directory(path, attr)
            else:
                self._files.append(self._file(path[-2], here, attr))
                _count(path[-2].sums, attr)
        except VolumeFormatError as error:
            raise VolumeFormatError(f"inode {attr.inode}, {here.name!r}: {error}") from None
        self.entries += len(path) > 1
        if len(self._files) + len(self._rows) >= _BATCH:
            self._flush()
            self._progress(self.entries)

    def _directory(self, path: list[_Open], attr: Attr) -> None:
        here = path[-1]
        if not here.inode:  # it came without entries
            if attr.inode in self._directories:
                self.repeated += 1
                return
            self._directories.add(attr.inode)
        if len(path) > 1:
            attr = attr._replace(parent=path[-2].inode)
            self._rows.append(Edge(attr.parent, here.name, attr.inode, attr.type))
            _count(path[-2].sums, attr, here.sums)
        if not in_trash(attr.inode):
            attr = attr._replace(nlink=2 + here.sums.subdirectories)
        attr = self._with_rules(here, attr)
        self._rows += [attr, *self._xattrs(here, attr.inode)]
        assert self.setting is not None
        sums = here.sums
        if self.setting.dir_stats and attr.inode != TRASH_INODE:
            self._rows.append(DirStats(attr.inode, sums.length, sums.space, sums.inodes))
        quota = self._quotas.get(_QUOTAS, {}).get(attr.inode)
        if quota is not None:
            used = sums.space_below, sums.inodes_below
            self._rows.append(DirQuota(attr.inode, *quota, *used))
        self._count_node(attr)

    def _file(self, above: _Open, here: _Open, attr: Attr) -> _File:
        rows: list[Row] = self._xattrs(here, attr.inode)
        if attr.type == NodeType.SYMLINK:
            target = unescape(here.fields.get("symlink", ""))
            if not 0 < len(target) <= SYMLINK_BYTES_MAX:
                raise VolumeFormatError("a link has no target, or one that is too long")
            rows.append(Symlink(attr.inode, target))
        if attr.is_file:
            chunks = parse_chunks(here.fields.get("chunks"))
            rows += [Chunk(attr.inode, index, records) for index, records in chunks]
        attr = self._with_rules(here, attr._replace(parent=above.inode, nlink=1))
        return _File(above.inode, here.name, attr, tuple(rows))

    def _xattrs(self, here: _Open, inode: int) -> list[Row]:
        values = parse_xattrs(here.fields.get("xattrs"))
        return [Xattr(inode, name, value) for name, value in values.items()]

    def _with_rules(self, here: _Open, attr: Attr) -> Attr:
        access, default = (
            self._rule(here.fields.get(name)) for name in ("posix_acl_access", "posix_acl_default")
        )
        return attr._replace(access_acl=access, default_acl=default)

    def _rule(self, value: Any) -> int:
        """Return the number of a list, made where it is new: there are few."""
        if value is None:
            return 0
        rule = parse_rule(value)
        if rule not in self._rules:
            self._rules[rule] = self._commit(lambda tx: number_of(tx, rule, {}))
        return self._rules[rule]

    # ------------------------------------------------------------------ writing

    def _commit(self, body: Callable[[Transaction], T]) -> T:
        def guarded(tx: Transaction) -> T:
            self._guard(tx)
            return body(tx)

        return self._engine.write(guarded)

    def _flush(self) -> None:
        """Write what is there. Whether a file was met before, the database tells."""
        files, self._files = self._files, []
        rows, self._rows = self._rows, []
        if not files and not rows:
            return
        try:
            new = self._commit(lambda tx: _write(tx, files, rows))
        except ConflictError as error:
            # Nobody else writes here.
            raise VolumeFormatError(f"the dump has something twice: {error}") from error
        for file in new:
            self._count_node(file.attr)
            counts = refs_of(b"".join(row.slices for row in file.rows if isinstance(row, Chunk)))
            self._tally.add(counts)
            last = max((slice_id for slice_id, _ in counts), default=0)
            self._last["nextChunk"] = max(self._last["nextChunk"], last)

    def _count_node(self, attr: Attr) -> None:
        if attr.inode in (ROOT_INODE, TRASH_INODE):
            return
        used = self._totals
        self._totals = Used(used.space + attr.space, used.inodes + 1)
        if in_trash(attr.inode):
            number = attr.inode - TRASH_INODE
            self._last["nextTrash"] = max(self._last["nextTrash"], number)
            return
        self._last["nextInode"] = max(self._last["nextInode"], attr.inode)
        for key in ((USER, attr.uid), (GROUP, attr.gid)):
            self._owners[key][0] += attr.space
            self._owners[key][1] += 1

    def _write_references(self) -> None:
        rows: list[Row] = []
        for (slice_id, size), count in self._tally.counts():
            rows.append(SliceRef(slice_id, size, count))
            if len(rows) >= _BATCH:
                self._put(rows)
                rows = []
        self._put(rows)

    def _put(self, rows: list[Row]) -> None:
        """Write rows; references that the database implies are left out."""

        def body(tx: Transaction) -> None:
            for row in rows:
                if not (tx.implies_references and isinstance(row, SliceRef) and row.refs == 1):
                    tx.put_new(row)

        if rows:
            self._commit(body)

    def _write_owners(self) -> None:
        assert self.setting is not None
        limits = {
            (kind, number): one
            for kind, name in _OWNER_QUOTAS.items()
            for number, one in self._quotas.get(name, {}).items()
        }
        if not self.setting.user_group_quota and not limits:
            return
        rows: list[Row] = [
            UserGroupQuota(kind, number, *limits.get((kind, number), (-1, -1)), *used)
            for (kind, number), used in sorted(
                {**{key: [0, 0] for key in limits}, **self._owners}.items()
            )
        ]
        for first in range(0, len(rows), _BATCH):
            self._put(rows[first : first + _BATCH])

    def _write_counters(self) -> None:
        assert self.setting is not None
        told = {
            "nextInode": parse_number(self._numbers, "nextInodes"),
            **{name: parse_number(self._numbers, name) for name in _LEAPS if name != "nextInode"},
        }
        if max(told.values()) > _NUMBER_MAX or max(self._last.values()) > _NUMBER_MAX:
            raise VolumeFormatError("a number in the dump is larger than any that is handed out")
        free = {name: last + 1 for name, last in self._last.items()} | {"nextSession": 0}
        free["nextTrash"] -= 1  # this one is the last that was used
        rows: list[Row] = [
            Counter(name, max(told[name], free[name]) + leap) for name, leap in _LEAPS.items()
        ]
        rows += [
            Counter(USED_SPACE, self._totals.space),
            Counter(TOTAL_INODES, self._totals.inodes),
            Counter("nextCleanupSlices", 0),
        ]
        if self.setting.trash_days > 0 and TRASH_INODE not in self._directories:
            rows.append(trash_root())
        self._put(rows)
        deleted = {
            row.inode: row
            for row in (
                DeletedFile(*(parse_number(one, name) for name in ("inode", "length", "expire")))
                for one in self._deleted
            )
        }
        for first in range(0, len(deleted), _BATCH):
            self._put_deleted(list(deleted.values())[first : first + _BATCH])

    def _put_deleted(self, rows: list[DeletedFile]) -> None:
        """Write removed files, but none that is in the tree: its content would be dropped."""

        def body(tx: Transaction) -> None:
            nodes = tx.get_many(Attr, [(row.inode,) for row in rows])
            for row, node in zip(rows, nodes, strict=True):
                if node is None:
                    tx.put(row)

        self._commit(body)


def _write(tx: Transaction, files: list[_File], rows: list[Row]) -> list[_File]:
    """Write entries; return those whose inodes are new, the others are links to what is there."""
    inodes = list(dict.fromkeys(file.attr.inode for file in files))
    found = tx.get_many(Attr, [(inode,) for inode in inodes]) if inodes else []
    known = {attr.inode: attr for attr in found if attr is not None}
    new = []
    for file in files:
        old = known.get(file.attr.inode)
        if old is None:
            known[file.attr.inode] = file.attr
            new.append(file)
        elif old.type != file.attr.type:
            raise VolumeFormatError(f"inode {old.inode} is of two kinds")
        else:
            known[file.attr.inode] = old._replace(nlink=old.nlink + 1, parent=0)
    changed = {file.attr.inode for file in files}
    there = {attr.inode for attr in found if attr is not None}
    for inode in sorted(changed):
        (tx.put if inode in there else tx.put_new)(known[inode])
    for file in files:
        tx.put_new(Edge(file.parent, file.name, file.attr.inode, file.attr.type))
    for row in (*(row for file in new for row in file.rows), *rows):
        tx.put_new(row)
    return new


def _count(sums: _Sums, attr: Attr, below: _Sums | None = None) -> None:
    """Count an entry in its directory, with what is below it."""
    sums.length += attr.length if attr.is_file else 0
    sums.space += attr.space
    sums.inodes += 1
    sums.subdirectories += attr.is_directory
    sums.space_below += attr.space + (below.space_below if below else 0)
    sums.inodes_below += 1 + (below.inodes_below if below else 0)


def _name(text: object) -> bytes:
    name = unescape(text)
    if (
        not 0 < len(name) <= NAME_BYTES_MAX
        or b"/" in name
        or b"\0" in name
        or name in (b".", b"..")
    ):
        raise VolumeFormatError(f"no entry can have the name {name[:NAME_BYTES_MAX]!r}")
    return name
