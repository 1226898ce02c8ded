"""How rows read in a dump: names, attributes, slice records, access control lists.

The form is the official client's (facts in ``docs/format.md``). What is read back is checked: a
dump may come from anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from juicecache.errors import VolumeFormatError
from juicecache.model.acl import UNSET, Rule
from juicecache.model.attr import DIRECTORY_LENGTH, FLAGS_MAX, ID_MAX, TIME_NS_MAX, Attr, NodeType
from juicecache.model.layout import CHUNK_BYTES
from juicecache.model.slices import SliceRecord

_TYPE_NAMES = {
    NodeType.FILE: "regular",
    NodeType.DIRECTORY: "directory",
    NodeType.SYMLINK: "symlink",
    NodeType.FIFO: "fifo",
    NodeType.BLOCK_DEVICE: "blockdev",
    NodeType.CHAR_DEVICE: "chardev",
    NodeType.SOCKET: "socket",
}
_TYPES = {name: kind for kind, name in _TYPE_NAMES.items()}
_ESCAPED = re.compile('[%"\\\\\x00-\x1f\udc80-\udcff\ufffd]')
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_INT64_MAX = 2**63 - 1
_UINT32_MAX = 2**32 - 1
_SECOND_NS = 1_000_000_000


def escape(value: bytes) -> str:
    """Return bytes as text that needs no escape in JSON: ``%XX`` for all that is not plain text."""
    return _ESCAPED.sub(_percent, value.decode("utf-8", "surrogateescape"))


def _percent(match: re.Match[str]) -> str:
    raw = match.group().encode("utf-8", "surrogateescape")
    return "".join(f"%{byte:02X}" for byte in raw)


def unescape(text: object) -> bytes:
    """Return the bytes of an escaped text."""
    if not isinstance(text, str):
        raise VolumeFormatError(f"a name or value is no text but {type(text).__name__}")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise VolumeFormatError("a name or value is no valid text") from None
    return _ESCAPE.sub(lambda match: bytes([int(match.group(1), 16)]), raw)


def attr_text(attr: Attr) -> str:
    """Return attributes as JSON; what is 0 in most of them is left out, as officially."""
    flags = f'"flags":{attr.flags},' if attr.flags else ""
    rdev = f',"rdev":{attr.rdev}' if attr.rdev else ""
    tier = f',"tier":{attr.tier}' if attr.tier else ""
    atime, atime_ns = divmod(attr.atime_ns, _SECOND_NS)
    mtime, mtime_ns = divmod(attr.mtime_ns, _SECOND_NS)
    ctime, ctime_ns = divmod(attr.ctime_ns, _SECOND_NS)
    return (
        f'{{"inode":{attr.inode},{flags}"type":"{_TYPE_NAMES[attr.type]}","mode":{attr.mode},'
        f'"uid":{attr.uid},"gid":{attr.gid},"atime":{atime},"mtime":{mtime},"ctime":{ctime},'
        f'"atimensec":{atime_ns},"mtimensec":{mtime_ns},"ctimensec":{ctime_ns},'
        f'"nlink":{attr.nlink},"length":{attr.length if attr.is_file else 0}{rdev}{tier}}}'
    )


def parse_attr(value: object, symlink_bytes: int) -> Attr:
    """Return the attributes in a dump; parent and lists are the caller's to add.

    Parameters
    ----------
    symlink_bytes
        Length of the target, which stands beside the attributes.
    """
    members = _members(value, "attr")
    kind = _TYPES.get(str(members.get("type")))
    if kind is None:
        raise VolumeFormatError("an inode has no type that is known")
    length = _number(members, "length", _INT64_MAX)
    if kind != NodeType.FILE:
        length = DIRECTORY_LENGTH if kind == NodeType.DIRECTORY else symlink_bytes
    return Attr(
        inode=_number(members, "inode", _INT64_MAX, least=1),
        type=kind,
        flags=_number(members, "flags", FLAGS_MAX),
        mode=_number(members, "mode", 0o7777),
        uid=_number(members, "uid", ID_MAX),
        gid=_number(members, "gid", ID_MAX),
        atime_ns=_time_ns(members, "atime"),
        mtime_ns=_time_ns(members, "mtime"),
        ctime_ns=_time_ns(members, "ctime"),
        nlink=_number(members, "nlink", _UINT32_MAX),
        length=length,
        rdev=_number(members, "rdev", _UINT32_MAX),
        tier=_number(members, "tier", FLAGS_MAX),
    )


def _time_ns(members: Mapping[str, Any], name: str) -> int:
    seconds = _number(members, name, TIME_NS_MAX // _SECOND_NS)
    return seconds * _SECOND_NS + _number(members, f"{name}nsec", _SECOND_NS - 1)


def chunks_text(chunks: Sequence[tuple[int, bytes]], indent: str) -> str:
    """Return slice lists, by index, as JSON; several of them on a line each."""
    lists = [
        f'{{"index":{index},"slices":[{",".join(map(_record_text, records))}]}}'
        for index, packed in chunks
        if (records := SliceRecord.unpack_all(packed))
    ]
    if len(lists) == 1:
        return f"[{lists[0]}]"
    inner = f",\n{indent}  ".join(lists)
    return f"[\n{indent}  {inner}\n{indent}]"


def _record_text(record: SliceRecord) -> str:
    pos = f'"pos":{record.pos},' if record.pos else ""
    off = f'"off":{record.off},' if record.off else ""
    return f'{{{pos}"id":{record.slice_id},"size":{record.size},{off}"len":{record.length}}}'


def parse_chunks(value: object) -> list[tuple[int, bytes]]:
    """Return slice lists: (index, packed records)."""
    chunks = []
    for one in _rows(value, "chunks"):
        members = _members(one, "chunk")
        records = b"".join(
            _parse_record(_members(record, "slice")).pack()
            for record in _rows(members.get("slices"), "slices")
        )
        if records:
            chunks.append((_number(members, "index", _UINT32_MAX), records))
    return chunks


def _parse_record(members: Mapping[str, Any]) -> SliceRecord:
    name = "id" if "id" in members else "chunkid"  # as old clients call it
    record = SliceRecord(
        _number(members, "pos", CHUNK_BYTES - 1),
        _number(members, name, _INT64_MAX),
        _number(members, "size", _UINT32_MAX),
        _number(members, "off", _UINT32_MAX),
        _number(members, "len", CHUNK_BYTES),
    )
    beyond = record.pos + record.length > CHUNK_BYTES
    if beyond or (record.slice_id and record.off + record.length > record.size):
        raise VolumeFormatError(f"a record of slice {record.slice_id} ends beyond it or its chunk")
    return record


def rule_text(rule: Rule) -> str:
    """Return an access control list as JSON."""
    document: dict[str, Any] = {
        "owner": rule.owner,
        "group": rule.group,
        "other": rule.other,
        "mask": rule.mask,
    }
    for name, entries in (("users", rule.named_users), ("groups", rule.named_groups)):
        document[name] = [{"id": number, "perm": bits} for number, bits in entries] or None
    return json.dumps(document, separators=(",", ":"))


def parse_rule(value: object) -> Rule:
    """Return an access control list."""
    members = _members(value, "list of access rights")
    bits = [_number(members, name, UNSET) for name in ("owner", "group", "mask", "other")]
    named = [
        tuple(
            sorted(
                (_number(entry, "id", ID_MAX), _number(entry, "perm", UNSET))
                for entry in (_members(one, name) for one in _rows(members.get(name), name))
            )
        )
        for name in ("users", "groups")
    ]
    return Rule(bits[0], bits[1], bits[2], bits[3], named[0], named[1])


def parse_xattrs(value: object) -> dict[str, bytes]:
    """Return extended attributes by name."""
    rows = [_members(one, "extended attribute") for one in _rows(value, "xattrs")]
    found = {row.get("name"): unescape(row.get("value")) for row in rows}
    if not all(isinstance(name, str) and name for name in found):
        raise VolumeFormatError("an extended attribute has no name")
    return found  # type: ignore[return-value]  # all names are text


def parse_number(members: Mapping[str, Any], name: str) -> int:
    """Return a count, 0 where it is missing; a negative one is no limit and stays as it is."""
    return _number(members, name, _INT64_MAX, least=-_INT64_MAX)


def _members(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise VolumeFormatError(f"a {what} is no object but {type(value).__name__}")
    return value


def _rows(value: object, what: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise VolumeFormatError(f"{what} are no list but {type(value).__name__}")
    return value


def _number(members: Mapping[str, Any], name: str, most: int, *, least: int = 0) -> int:
    value = members.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise VolumeFormatError(f"{name} is no whole number from {least} to {most}")
    return value
