"""POSIX access control lists: pure rules, and the forms in which they are stored and passed on.

A list has permission bits (0..7) for the owner, the group, a mask and all others, and entries
for named users and groups. The file's mode shows the owner's bits, the mask's (the group's
where there is no mask) and the others'. Facts of the format: ``docs/format.md``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

UNSET = 0xFFFF
"""Stands for bits that a list does not have: usually the mask."""

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFF_FFFF
_NAMED = struct.Struct(">IH")
_BITS = 7
_PACKED = struct.Struct(">HHHHI")
_COUNT = struct.Struct(">I")


class Rule(NamedTuple):
    """One list; ``named_users`` and ``named_groups`` are (id, bits), ascending by id."""

    owner: int = UNSET
    group: int = UNSET
    mask: int = UNSET
    other: int = UNSET
    named_users: tuple[tuple[int, int], ...] = ()
    named_groups: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_xattr(cls, value: bytes) -> Self | None:
        """Return the list in the value of a ``system.posix_acl_*`` attribute of Linux.

        None: the value holds no entries, which takes the list away.

        Raises
        ------
        ValueError
            The value is no valid list.
        """
        if not value:
            return None
        if len(value) < _HEADER.size or _HEADER.unpack_from(value) != (_VERSION,):
            raise ValueError("an ACL begins with its version, which is 2")
        if (len(value) - _HEADER.size) % _ENTRY.size:
            raise ValueError("the entries of an ACL have 8 bytes each")
        bits: dict[int, int] = {}
        named: dict[int, dict[int, int]] = {_USER: {}, _GROUP: {}}
        for tag, permission, number in _ENTRY.iter_unpack(value[_HEADER.size :]):
            is_named = tag in named
            seen, key = (named[tag], number) if is_named else (bits, tag)
            if permission > _BITS or key in seen or (is_named and number == _NO_ID):
                raise ValueError("an entry of an ACL stands twice, or is not one")
            seen[key] = permission
        if not value[_HEADER.size :]:
            return None
        has_names = bool(named[_USER] or named[_GROUP])
        if bits.keys() - {_MASK} != {_USER_OBJ, _GROUP_OBJ, _OTHER} or (
            has_names and _MASK not in bits
        ):
            raise ValueError("an ACL has owner, group and others, and a mask if it has names")
        return cls(
            bits[_USER_OBJ],
            bits[_GROUP_OBJ],
            bits.get(_MASK, UNSET),
            bits[_OTHER],
            tuple(sorted(named[_USER].items())),
            tuple(sorted(named[_GROUP].items())),
        )

    def to_xattr(self) -> bytes:
        """Return the value of the attribute by which Linux passes the list on."""
        entries = [(_USER_OBJ, self.owner, _NO_ID)]
        entries += [(_USER, bits, number) for number, bits in self.named_users]
        entries.append((_GROUP_OBJ, self.group, _NO_ID))
        entries += [(_GROUP, bits, number) for number, bits in self.named_groups]
        if self.mask != UNSET:
            entries.append((_MASK, self.mask, _NO_ID))
        entries.append((_OTHER, self.other, _NO_ID))
        return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)

    def pack(self) -> bytes:
        """Return the list in the one value that it has in a change log and in Redis."""
        users, groups = pack_named(self.named_users), pack_named(self.named_groups)
        head = _PACKED.pack(*self[:4], len(self.named_users))
        return head + users + _COUNT.pack(len(self.named_groups)) + groups

    @property
    def is_minimal(self) -> bool:
        """Whether a mode says the same."""
        return self.mask == UNSET and not self.named_users and not self.named_groups

    @property
    def mode(self) -> int:
        """The nine permission bits that a file with this list shows."""
        group = self.group if self.mask == UNSET else self.mask
        return (self.owner & _BITS) << 6 | (group & _BITS) << 3 | self.other & _BITS

    def with_mode(self, mode: int) -> Self:
        """Return the list after its file's mode was changed to ``mode``."""
        changed = self._replace(owner=mode >> 6 & _BITS, other=mode & _BITS)
        group = mode >> 3 & _BITS
        if self.mask == UNSET:
            return changed._replace(group=group)
        return changed._replace(mask=group)

    def inherited(self, mode: int) -> Self:
        """Return the list of what is created with ``mode`` under this default list.

        No bit is given that ``mode`` lacks; a umask has no say.
        """
        narrowed = self._replace(
            owner=self.owner & mode >> 6 & _BITS, other=self.other & mode & _BITS
        )
        group = mode >> 3 & _BITS
        if self.mask == UNSET:
            return narrowed._replace(group=self.group & group)
        return narrowed._replace(mask=self.mask & group)


def pack_named(entries: tuple[tuple[int, int], ...]) -> bytes:
    """Return named entries as they are stored: 6 bytes each."""
    return b"".join(_NAMED.pack(*entry) for entry in entries)


def unpack_named(stored: bytes) -> tuple[tuple[int, int], ...]:
    """Return the named entries in a stored value; what is no whole entry is left out."""
    whole = stored[: len(stored) // _NAMED.size * _NAMED.size]
    return tuple((number, bits) for number, bits in _NAMED.iter_unpack(whole))
