"""Access control lists of inodes: kept, inherited, and passed on as extended attributes.

Permissions are kept as values and not enforced. Laws: a list is a row that never changes and
any number of inodes share; an inode whose list says no more than its mode has none; the mode
of an inode and its list change together.
"""

from __future__ import annotations

import errno
from typing import TypeAlias

from juicecache.errors import FileError, UnsupportedError
from juicecache.meta.change_log import note
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.rows import Acl
from juicecache.model.acl import Rule, pack_named, unpack_named
from juicecache.model.attr import Attr, NodeType

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
NAMES = frozenset([ACCESS, DEFAULT])
"""The extended attributes by which Linux reads and sets the two lists of an inode."""
KnownRules: TypeAlias = dict[Rule, int]
"""Numbers of lists that a transaction has found or made: it does not see its own rows."""

_KINDS = {ACCESS: 1, DEFAULT: 2}
_SPECIAL = 0o7000
_SETGID = 0o2000


def rule_of(row: Acl) -> Rule:
    """Return the list in a row."""
    return Rule(*row[1:5], unpack_named(row.named_users), unpack_named(row.named_groups))


def get_rule(tx: Transaction, number: int) -> Rule | None:
    """Return a list by its number; None for 0, and where its row is lost."""
    row = tx.get(Acl, number) if number else None
    return None if row is None else rule_of(row)


def number_of(tx: Transaction, rule: Rule, known: KnownRules) -> int:
    """Return the number of a row with ``rule``, made where there is none; noted in ``known``."""
    if rule not in known:
        for row in tx.scan(Acl):
            known.setdefault(rule_of(row), row.id)
    if rule not in known:
        number = max(tx.new_number(Acl), max(known.values(), default=0) + 1)
        users, groups = pack_named(rule.named_users), pack_named(rule.named_groups)
        tx.put_new(Acl(number, *rule[:4], users, groups))
        known[rule] = number
    return known[rule]


def inherit(tx: Transaction, directory: Attr, attr: Attr, mode: int, known: KnownRules) -> Attr:
    """Return the attributes of a new inode after what the default list of ``directory`` says.

    Parameters
    ----------
    attr
        What the inode has without a list.
    mode
        The permission bits that were asked for, before a umask: a default list replaces it.
    """
    if not directory.default_acl or attr.type == NodeType.SYMLINK:
        return attr
    rule = get_rule(tx, directory.default_acl)
    if rule is None:
        return attr
    default = directory.default_acl if attr.is_directory else 0
    access = rule.inherited(mode)
    number = 0 if access.is_minimal else number_of(tx, access, known)
    bits = attr.mode & _SPECIAL | access.mode
    return attr._replace(mode=bits, access_acl=number, default_acl=default)


def with_mode(tx: Transaction, number: int, mode: int, known: KnownRules) -> int:
    """Return the number of the access list ``number`` once its inode's mode is ``mode``."""
    rule = get_rule(tx, number)
    return 0 if rule is None else number_of(tx, rule.with_mode(mode), known)


def get_acl(tx: Transaction, attr: Attr, name: str) -> bytes | None:
    """Return a list of an inode in the form of Linux; None where it has none."""
    rule = get_rule(tx, attr.access_acl if name == ACCESS else attr.default_acl)
    return None if rule is None else rule.to_xattr()


def set_acl(tx: Transaction, ctx: Context, attr: Attr, name: str, value: bytes) -> None:
    """Set or, with a value without entries, take away a list of a locked inode.

    Raises
    ------
    UnsupportedError
        The volume keeps no lists.
    FileError
        EINVAL: the value is no list. EACCES: a default list is for directories alone.
    """
    if not ctx.acl:
        raise UnsupportedError("", "the volume keeps no POSIX ACLs (EnableACL is off)")
    if name == DEFAULT and not attr.is_directory:
        raise FileError("", "only a directory has a default ACL", errno=errno.EACCES)
    try:
        rule = Rule.from_xattr(value)
    except ValueError as error:
        raise FileError("", str(error), errno=errno.EINVAL) from error
    fields = _default_fields(tx, rule) if name == DEFAULT else _access_fields(tx, ctx, attr, rule)
    fields["ctime_ns"] = ctx.now_ns
    tx.set(Attr, attr.inode, **fields)
    stored = (rule or Rule()).pack()
    note(tx, "SETFACL", attr.inode, _KINDS[name], stored, now_ns=ctx.now_ns)


def _default_fields(tx: Transaction, rule: Rule | None) -> dict[str, int]:
    return {"default_acl": 0 if rule is None else number_of(tx, rule, {})}


def _access_fields(tx: Transaction, ctx: Context, attr: Attr, rule: Rule | None) -> dict[str, int]:
    if rule is None:
        return {"access_acl": 0}  # the mode stays what the list made of it
    special = attr.mode & _SPECIAL
    if ctx.uid != 0 and ctx.gid != attr.gid:
        special &= ~_SETGID
    number = 0 if rule.is_minimal else number_of(tx, rule, {})
    return {"access_acl": number, "mode": special | rule.mode}
