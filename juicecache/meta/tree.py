"""The tree: inodes found by name, made, linked and changed. Removal and rename stand apart.

Plain functions of a `Transaction`; the facts of the moment come in a `Context`. Law: what
an operation does to directories and totals goes through one `Ledger`, settled at its end.

See also ``entries`` (checks of names and directories), ``remove``, ``rename``, ``xattr``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from juicecache.errors import (
    AccessDeniedError,
    EntryNotFoundError,
    FileError,
    InvalidNameError,
    NotDirectoryError,
)
from juicecache.meta.acl import inherit, with_mode
from juicecache.meta.change_log import PLATFORM, note, note_attributes
from juicecache.meta.context import Context
from juicecache.meta.engine import Transaction
from juicecache.meta.entries import (
    add_node,
    check_not_frozen,
    check_not_in_trash,
    new_entry,
)
from juicecache.meta.paths import ROOT_HERE
from juicecache.meta.rows import Counter, DirStats, Edge, Symlink
from juicecache.meta.trash import trash_root
from juicecache.meta.usage import TOTAL_INODES, USED_SPACE, Ledger
from juicecache.model.attr import (
    DIRECTORY_LENGTH,
    FLAGS_MAX,
    ID_MAX,
    ROOT_INODE,
    SYMLINK_BYTES_MAX,
    TIME_NS_MAX,
    TRASH_INODE,
    TRASH_NAME,
    Attr,
    NodeFlag,
    NodeType,
)

SYMLINKS_MAX = 40
"""Symbolic links followed on one path: the limit of Linux, so that paths mean the same here."""

_SETUID, _SETGID, _GROUP_EXEC = 0o4000, 0o2000, 0o010
_ROOT = Attr(
    ROOT_INODE,
    NodeType.DIRECTORY,
    mode=0o777,
    nlink=2,
    length=DIRECTORY_LENGTH,
    parent=ROOT_INODE,
)
_MEANINGS = frozenset([b".", b"..", ROOT_HERE])
"""Names that are no entries of any directory."""
_VIRTUAL = {ROOT_INODE: _ROOT, TRASH_INODE: trash_root()}


class NewNode(NamedTuple):
    """What the caller decides about a new inode.

    Attributes
    ----------
    inode
        A number taken from the counter ``nextInode`` that was never used.
    mode
        Permission bits before the umask.
    target
        Of a symbolic link, 1..4096 bytes.
    rdev
        Of a device.
    """

    inode: int
    type: NodeType
    mode: int
    target: bytes = b""
    rdev: int = 0


class AttrChange(NamedTuple):
    """Attributes to set; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    flags: int | None = None


_BITS = {"mode": 1, "uid": 2, "gid": 4, "atime_ns": 16, "mtime_ns": 32, "flags": 1 << 13}
"""What a change log calls the fields of a change."""
_TIMES = -TIME_NS_MAX, TIME_NS_MAX  # those before 1970 become 1970: the format has none
_BOUNDS = {
    "mode": (0, 0o177777),
    "uid": (0, ID_MAX),
    "gid": (0, ID_MAX),
    "atime_ns": _TIMES,
    "mtime_ns": _TIMES,
    "flags": (0, FLAGS_MAX),
}


def plant_root(tx: Transaction, now_ns: int, *, trash: bool) -> None:
    """Write the rows of a new volume: root, trash root when ``trash``, counters."""
    tx.put_new(_ROOT._replace(atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns))
    if trash:
        tx.put_new(trash_root(now_ns))
    for name, value in {
        "nextInode": ROOT_INODE + 1,
        "nextChunk": 1,
        "nextSession": 0,
        USED_SPACE: 0,
        TOTAL_INODES: 0,
        "nextCleanupSlices": 0,
    }.items():
        tx.put_new(Counter(name, value))


def getattr(tx: Transaction, inode: int) -> Attr:  # noqa: A001 - the word for it everywhere
    """Return the attributes of an inode; root and trash root exist without a row."""
    attr = tx.get(Attr, inode) or _VIRTUAL.get(inode)
    if attr is None:
        raise _gone(inode)
    return attr


def lookup(tx: Transaction, parent: int, name: bytes) -> Attr | None:
    """Return what ``name`` is in directory ``parent``: also ``.``, ``..`` and ``/.trash``."""
    if name == b".":
        return getattr(tx, parent)
    if name == b"..":
        return getattr(tx, getattr(tx, parent).parent)
    if parent == ROOT_INODE and name == TRASH_NAME:
        return getattr(tx, TRASH_INODE)
    return tx.lookup(parent, name)


def resolve(tx: Transaction, parts: Sequence[bytes], *, follow: bool = True) -> Attr:
    """Return what a path from the root is, following symbolic links inside it.

    Parameters
    ----------
    parts
        The names on the path; none is the root. Behind `ROOT_HERE` neither ``..`` nor the
        target of a link leads out of what was reached there.
    follow
        Whether a link that the path ends in is followed too.

    Raises
    ------
    EntryNotFoundError
        No such entry, or a link to nowhere.
    NotDirectoryError
        A name in the middle is no directory.
    FileError
        ELOOP: more than `SYMLINKS_MAX` links.
    """
    if not parts:
        return getattr(tx, ROOT_INODE)
    pending = list(reversed(parts))
    here, root, links = _ROOT, ROOT_INODE, 0
    while pending:
        name = pending[-1]
        if not here.is_directory:
            raise NotDirectoryError(b"/".join(parts))
        if name in _MEANINGS or (here.inode == ROOT_INODE and name == TRASH_NAME):
            pending.pop()
            if name == ROOT_HERE:
                root = here.inode
            elif name != b".." or here.inode != root:
                here = lookup(tx, here.inode, name) or here
            continue
        plain = list(takewhile(lambda one: one not in _MEANINGS, reversed(pending)))
        found, directory, count = tx.follow(here.inode, plain)
        if found is None or (found.is_directory and count < len(plain)):
            raise EntryNotFoundError(b"/".join(parts))
        del pending[-count:]
        if found.type != NodeType.SYMLINK or not (pending or follow):
            here = found
            continue
        links += 1
        if links > SYMLINKS_MAX:
            raise FileError(b"/".join(parts), errno=errno.ELOOP)
        target = readlink(tx, found.inode)
        start = root if target.startswith(b"/") else directory
        if start != here.inode:
            here = getattr(tx, start)
        names = [part for part in target.split(b"/") if part]
        if target.endswith(b"/"):
            names.append(b".")  # such a target must be a directory
        pending.extend(reversed(names))
    return here


def directory_of(tx: Transaction, parts: Sequence[bytes]) -> int:
    """Return the inode that a path's last name is in, or shall be; raises like `resolve`."""
    inode = tx.expect_path(parts) if _MEANINGS.isdisjoint(parts) else None
    return resolve(tx, parts[:-1]).inode if inode is None else inode


def children(
    tx: Transaction, inode: int, *, after: bytes = b"", limit: int | None = None
) -> Iterator[tuple[bytes, Attr]]:
    """Return the entries of a directory behind name ``after``, in bytewise order."""
    if not getattr(tx, inode).is_directory:
        raise NotDirectoryError("", f"inode {inode} is not a directory")
    return tx.children(inode, after=after, limit=limit)


def readlink(tx: Transaction, inode: int) -> bytes:
    """Return the target of a symbolic link."""
    row = tx.get(Symlink, inode)
    if row is None:
        getattr(tx, inode)
        raise FileError("", f"inode {inode} is not a symbolic link", errno=errno.EINVAL)
    return row.target


def create(tx: Transaction, ctx: Context, parent: int, name: bytes, new: NewNode) -> Attr:
    """Make an inode of any type under a new name and return its attributes.

    Raises
    ------
    EntryExistsError
        The name is taken.
    NoSpaceError
        The volume is full.
    """
    if new.type == NodeType.SYMLINK:
        _check_target(name, new.target)
    directory = new_entry(tx, parent, name)
    attr = inherit(tx, directory, new_attr(ctx, directory, new), new.mode, {})
    ledger = Ledger()
    add_node(tx, ledger, name, attr)
    note_creation(tx, ctx, name, attr, new)
    if new.type == NodeType.SYMLINK:
        tx.put_new(Symlink(new.inode, new.target))
    elif attr.is_directory and ctx.dir_stats:
        tx.put_new(DirStats(new.inode, 0, 0, 0))
    ledger.settle(tx, ctx, name)
    return attr


def link(tx: Transaction, ctx: Context, inode: int, parent: int, name: bytes) -> Attr:
    """Give a non-directory one more name; from then on its ``parent`` is 0 for ever."""
    new_entry(tx, parent, name)
    attr = tx.get(Attr, inode, lock=True)
    if attr is None or attr.nlink == 0:
        raise _gone(inode)
    if attr.is_directory:
        raise AccessDeniedError(name, "a directory has one name only")
    check_not_frozen(attr, name)
    tx.put_new(Edge(parent, name, inode, attr.type))
    tx.add(Attr, inode, nlink=1)
    tx.set(Attr, inode, parent=0, ctime_ns=ctx.now_ns)
    ledger = Ledger()
    ledger.enter(parent, attr)
    ledger.touch(parent)
    note(tx, "LINK", inode, parent, name, True, result=attr.nlink + 1, now_ns=ctx.now_ns)
    ledger.settle(tx, ctx, name)
    return attr._replace(nlink=attr.nlink + 1, parent=0, ctime_ns=ctx.now_ns)


def set_attr(tx: Transaction, ctx: Context, inode: int, change: AttrChange) -> Attr:
    """Change attributes and return all of them; ``ctime_ns`` moves only with a change.

    A new owner clears setuid and setgid of a non-directory unless ``change.mode`` says
    otherwise. What is immutable or append-only accepts new flags only.

    Raises
    ------
    FileError
        EINVAL: a time or an id that the format cannot hold.
    """
    _check_bounds(change)
    attr = tx.get(Attr, inode, lock=True)
    if attr is None:
        raise _gone(inode)
    check_not_in_trash(attr)
    if change._replace(flags=None) != AttrChange():
        check_not_frozen(attr, "")
    fields = _wanted(ctx, attr, change)
    if attr.access_acl and change.mode is not None:
        fields["access_acl"] = with_mode(tx, attr.access_acl, fields["mode"], {})
    if attr._replace(**fields) == attr:
        return attr
    fields["ctime_ns"] = ctx.now_ns
    tx.set(Attr, inode, **fields)
    changed = attr._replace(**fields)
    note_attributes(tx, changed, sum(bit for field, bit in _BITS.items() if field in fields))
    if ctx.user_group and (changed.uid, changed.gid) != (attr.uid, attr.gid):
        _change_owner(tx, ctx, attr, changed)
    return changed


def _change_owner(tx: Transaction, ctx: Context, before: Attr, after: Attr) -> None:
    """Move what an inode counts to its new owner and group, whose limits do not forbid it."""
    ledger = Ledger()
    ledger.owner(before, -before.space, -1)
    ledger.owner(after, after.space, 1)
    ledger.settle(tx, ctx, limited=False)


def _check_bounds(change: AttrChange) -> None:
    for field, value in change._asdict().items():
        low, high = _BOUNDS[field]
        if value is not None and not low <= value <= high:
            raise FileError("", f"{field} of {value} is out of range", errno=errno.EINVAL)


def _wanted(ctx: Context, attr: Attr, change: AttrChange) -> dict[str, Any]:
    """Return the fields that ``change`` sets, with what follows from them."""
    wanted = {field: value for field, value in change._asdict().items() if value is not None}
    if change.mode is not None:
        wanted["mode"] = change.mode & 0o7777
    elif (change.uid is not None or change.gid is not None) and not attr.is_directory:
        cleared = _SETUID | _SETGID
        if ctx.uid == 0 and not attr.mode & _GROUP_EXEC:
            cleared = _SETUID  # setgid without group-exec marks mandatory locking: kept
        if attr.mode & cleared:
            wanted["mode"] = attr.mode & ~cleared
    for field in ("atime_ns", "mtime_ns"):
        if field in wanted:
            wanted[field] = max(0, wanted[field])  # the format has no time before 1970
    return wanted


def new_attr(ctx: Context, directory: Attr, new: NewNode) -> Attr:
    """Return the attributes of a new inode in ``directory``, with what it inherits from there."""
    # The mode of a symbolic link means nothing and is the same everywhere.
    mode = 0o777 if new.type == NodeType.SYMLINK else new.mode & ~ctx.umask & 0o7777
    gid = ctx.gid
    if directory.mode & _SETGID:
        gid = directory.gid
        if new.type == NodeType.DIRECTORY:
            mode |= _SETGID
        elif mode & _GROUP_EXEC and ctx.uid != 0 and ctx.gid != gid:
            mode &= ~_SETGID
    length = {NodeType.DIRECTORY: DIRECTORY_LENGTH, NodeType.SYMLINK: len(new.target)}
    return Attr(
        new.inode,
        new.type,
        flags=directory.flags & NodeFlag.SKIP_TRASH,
        mode=mode,
        uid=ctx.uid,
        gid=gid,
        atime_ns=ctx.now_ns,
        mtime_ns=ctx.now_ns,
        ctime_ns=ctx.now_ns,
        nlink=2 if new.type == NodeType.DIRECTORY else 1,
        length=length.get(new.type, 0),
        rdev=new.rdev,
        parent=directory.inode,
        tier=directory.tier,
    )


def note_creation(tx: Transaction, ctx: Context, name: bytes, attr: Attr, new: NewNode) -> None:
    """Note a new inode under a name in the change log, as it was asked for."""
    umask = 0 if attr.type == NodeType.SYMLINK else ctx.umask
    mode = 0o777 if attr.type == NodeType.SYMLINK else new.mode & 0o7777
    owner = ctx.uid, ctx.gid, int(attr.type), mode, umask
    values = attr.parent, name, *owner, new.target, PLATFORM, True
    note(tx, "CREATE", *values, result=attr.inode, now_ns=ctx.now_ns)


def _check_target(name: bytes, target: bytes) -> None:
    if len(target) > SYMLINK_BYTES_MAX:
        raise InvalidNameError(
            name, f"a target has at most {SYMLINK_BYTES_MAX} bytes", errno=errno.ENAMETOOLONG
        )
    if not target or b"\0" in target:
        raise InvalidNameError(name, "a target is not empty and has no NUL")


def _gone(inode: int) -> EntryNotFoundError:
    return EntryNotFoundError("", f"inode {inode} does not exist")
