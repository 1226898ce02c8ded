"""The volume's format record: parsing, version gates, secrets.

One JSON document describes a volume for all its clients. `_MEMBERS` is the only list of what
we read in it; everything else is kept as it was when the record is written again. Facts of the
format: ``docs/format.md``, "The setting record".

Law: no secret appears in a repr or an error, and none is stored in clear when the volume
keeps its secrets sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from juicecache.addresses import mask_bucket
from juicecache.errors import ConfigError, VolumeFormatError
from juicecache.model.layout import BLOCK_KIB_MAX, BLOCK_KIB_MIN, Layout

CLIENT_VERSION = "1.4.1"
"""The release of the official client whose format we implement; version gates see it."""
META_VERSION_MAX = 1
REMOVED = "removed"
"""Stands in place of each secret in a volume that was loaded from a dump without secrets."""
NONCE_BYTES = 12

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_COMPRESSIONS = ("none", "lz4", "zstd")
_ENCRYPT_ALGOS = ("aes256gcm-rsa", "chacha20-rsa")
_SM4 = "sm4gcm"
_U64_MAX = 2**64 - 1
_TRASH_DAYS_MAX = 36500
"""A century: beyond what a time in a row could be compared with safely."""


class _Member(NamedTuple):
    """One member of the document: its name there, our field, whether it is left out when empty."""

    name: str
    field: str
    type: type
    omit: bool = True


_MEMBERS = (
    _Member("Name", "name", str, omit=False),
    _Member("UUID", "uuid", str, omit=False),
    _Member("Storage", "storage", str, omit=False),
    _Member("StorageClass", "storage_class", str),
    _Member("Bucket", "bucket", str, omit=False),
    _Member("AccessKey", "access_key", str),
    _Member("SecretKey", "secret_key", str),
    _Member("SessionToken", "session_token", str),
    _Member("BlockSize", "block_kib", int, omit=False),
    _Member("Compression", "compression", str),
    _Member("Shards", "shards", int),
    _Member("HashPrefix", "hash_prefix", bool),
    _Member("Capacity", "capacity_bytes", int),
    _Member("Inodes", "inodes_max", int),
    _Member("EncryptKey", "encrypt_key", str),
    _Member("EncryptAlgo", "encrypt_algo", str),
    _Member("KeyEncrypted", "key_encrypted", bool),
    _Member("UploadLimit", "upload_limit_mbps", int),
    _Member("DownloadLimit", "download_limit_mbps", int),
    _Member("TrashDays", "trash_days", int, omit=False),
    _Member("MetaVersion", "meta_version", int),
    _Member("MinClientVersion", "min_client_version", str),
    _Member("MaxClientVersion", "max_client_version", str),
    _Member("DirStats", "dir_stats", bool),
    _Member("UserGroupQuota", "user_group_quota", bool),
    _Member("EnableACL", "acl", bool, omit=False),
    _Member("ChangeLog", "change_log", bool),
    _Member("ChangeLogMaxAge", "change_log_age_s", int),
    _Member("ChangeLogMaxLines", "change_log_lines", int),
)
"""In the order in which the official client writes them; ``Tiers`` follows ``StorageClass``."""
_BY_FIELD = {member.field: member for member in _MEMBERS}
_SECRETS = ("secret_key", "session_token", "encrypt_key")
CHANGEABLE = frozenset(
    {
        *("storage", "bucket", "access_key", "secret_key", "session_token", "storage_class"),
        *("capacity_bytes", "inodes_max", "trash_days", "key_encrypted"),
        *("upload_limit_mbps", "download_limit_mbps", "dir_stats", "user_group_quota", "acl"),
        *("change_log", "change_log_age_s", "change_log_lines"),
        *("min_client_version", "max_client_version"),
    }
)
"""Fields that may change in the life of a volume; clients see it within one heartbeat."""
_SECRET_MEMBERS = tuple(_BY_FIELD[name].name for name in _SECRETS)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all clients of a volume agree on. Change it with ``dataclasses.replace``.

    Attributes
    ----------
    block_kib
        Raw size of a full block in KiB: a power of two from 64 to 16384.
    compression, storage
        In lower case.
    capacity_bytes, inodes_max, upload_limit_mbps, download_limit_mbps
        0 is unlimited.
    bucket
        Not in the repr: a user may have put a password into the address.
    secret_key, session_token, encrypt_key
        In clear (the last a PEM), or the word ``removed``; never in the repr.
    trash_days
        Above 0, removed files go to the trash and replaced slices are deleted late.
    storage_class
        What blocks of tier 0 are stored with; empty leaves it to the bucket.
    raw
        The parsed document without its secrets: the source of members that we do not know.
    """

    name: str
    uuid: str
    storage: str
    bucket: str = field(repr=False)
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    block_kib: int = 4096
    compression: str = "none"
    shards: int = 0
    hash_prefix: bool = False
    capacity_bytes: int = 0
    inodes_max: int = 0
    encrypt_key: str = field(default="", repr=False)
    encrypt_algo: str = "aes256gcm-rsa"
    key_encrypted: bool = True
    upload_limit_mbps: int = 0
    download_limit_mbps: int = 0
    trash_days: int = 1
    meta_version: int = 1
    min_client_version: str = "1.1.0-A"
    max_client_version: str = ""
    dir_stats: bool = True
    user_group_quota: bool = False
    acl: bool = False
    change_log: bool = False
    change_log_age_s: int = 0
    change_log_lines: int = 0
    storage_class: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the setting that a record holds, with its secrets opened.

        Says nothing about whether this client may use the volume: see `check_open`.

        Raises
        ------
        VolumeFormatError
            The record is missing, malformed, or holds values that cannot be.
        """
        if not text.strip():
            raise VolumeFormatError("there is no setting record: the volume is not formatted")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            # The parser's own message may quote the text around a secret: it is not passed on.
            raise VolumeFormatError("the setting record is not valid JSON") from None
        if not isinstance(document, dict):
            raise VolumeFormatError("the setting record is not a JSON object")
        values = {member.field: _value_of(document, member) for member in _MEMBERS}
        raw = {name: value for name, value in document.items() if name not in _SECRET_MEMBERS}
        setting = cls(**values, raw=raw)
        problem = setting._problem()
        if problem:
            raise VolumeFormatError(f"the setting record is damaged: {problem}")
        if not setting.key_encrypted:
            return setting
        opened: dict[str, Any] = {name: _open_secret(values, name) for name in _SECRETS}
        return replace(setting, **opened)

    @classmethod
    def create(
        cls,
        name: str,
        uuid: str,
        *,
        storage: str,
        bucket: str,
        access_key: str = "",
        secret_key: str = "",
        session_token: str = "",
        block_kib: int = 4096,
        compression: str = "none",
        shards: int = 0,
        hash_prefix: bool = False,
        capacity_bytes: int = 0,
        inodes_max: int = 0,
        encrypt_key: str = "",
        encrypt_algo: str = "aes256gcm-rsa",
        trash_days: int = 1,
        storage_class: str = "",
    ) -> Self:
        """Return the record of a new volume, with what the official client writes by default.

        Parameters
        ----------
        uuid
            A fresh random UUID in its 36-character form; it names the volume for ever.
        bucket
            Where objects go; with more than one shard it holds ``%d``, and for the storage
            ``file`` it is an absolute folder.

        Raises
        ------
        ConfigError
            An argument that no client would accept.
        """
        if storage.lower() == "file" and not bucket.endswith("/"):
            bucket += "/"  # object names are appended to it as they are
        setting = cls(
            name=name,
            uuid=uuid,
            storage=storage.lower(),
            bucket=bucket,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            block_kib=block_kib,
            compression=compression.lower() or "none",
            shards=shards,
            hash_prefix=hash_prefix,
            capacity_bytes=capacity_bytes,
            inodes_max=inodes_max,
            encrypt_key=encrypt_key,
            encrypt_algo=encrypt_algo,
            trash_days=trash_days,
            storage_class=storage_class,
        )
        problem = setting._problem() or setting._new_problem()
        if problem:
            raise ConfigError(problem)
        return setting

    def change(self, **fields: object) -> Self:
        """Return the record with fields changed that may change; see `CHANGEABLE`.

        Raises
        ------
        ConfigError
            A field is fixed, a value has the wrong type or is one that no client would accept,
            or the record keeps secrets in a form that this client cannot write.
        """
        fixed = sorted(fields.keys() - CHANGEABLE)
        if fixed:
            raise ConfigError(f"{', '.join(fixed)} cannot be changed once a volume is made")
        for name, value in fields.items():
            wanted = _BY_FIELD[name].type
            if type(value) is not wanted:  # the next client would find the record damaged
                raise ConfigError(f"{name} is a {wanted.__name__}, not a {type(value).__name__}")
        changed = replace(self, **fields)  # type: ignore[arg-type]  # checked above
        problem = changed._problem() or changed._place_problem() or changed._version_problem()
        if self.acl and not changed.acl:
            problem = "access control lists cannot be switched off: entries have them"
        if self.key_encrypted and not changed.key_encrypted:
            problem = "secrets that are sealed stay so"
        if problem:
            raise ConfigError(problem)
        kept = {getattr(changed, name) for name in _SECRETS} - {"", REMOVED}
        if kept and self.key_encrypted and self.encrypt_algo == _SM4:
            raise ConfigError("the volume seals secrets with SM4, which this client cannot do")
        return changed

    def _problem(self) -> str | None:
        """Say what makes these values impossible for any volume."""
        if not _NAME.fullmatch(self.name):
            return (
                f"the name {self.name!r} is not 3 to 63 lower-case letters, digits and '-', "
                "with '-' neither first nor last"
            )
        if not _UUID.fullmatch(self.uuid):
            return f"the UUID {self.uuid!r} is not one"
        kib = self.block_kib
        if not BLOCK_KIB_MIN <= kib <= BLOCK_KIB_MAX or kib & (kib - 1):
            return (
                f"the block size of {kib} KiB is not a power of two from "
                f"{BLOCK_KIB_MIN} to {BLOCK_KIB_MAX}"
            )
        if self.compression not in _COMPRESSIONS:
            return f"the compression {self.compression!r} is not one of {', '.join(_COMPRESSIONS)}"
        for member in _MEMBERS:
            value = getattr(self, member.field)
            if member.type is int and not 0 <= value <= _U64_MAX:
                return f"{member.name} of {value} is out of range"
        return None

    def _new_problem(self) -> str | None:
        """Say what speaks against formatting a new volume with these values."""
        if self.encrypt_algo not in _ENCRYPT_ALGOS:
            return f"the encryption {self.encrypt_algo!r} is not one of {', '.join(_ENCRYPT_ALGOS)}"
        return self._place_problem()

    def _place_problem(self) -> str | None:
        """Say what speaks against these values of fields that may change."""
        if not self.storage or not self.bucket:
            return "a volume needs a storage and a bucket"
        if self.storage == "file" and not self.bucket.startswith("/"):
            return f"the folder {mask_bucket(self.bucket)!r} of a volume on files is not absolute"
        if self.shards > 1 and "%d" not in self.bucket:
            return f"a bucket of {self.shards} shards needs '%d' where their number goes"
        if self.trash_days > _TRASH_DAYS_MAX:
            return f"{self.trash_days} days of trash are more than {_TRASH_DAYS_MAX}"
        return None

    def _version_problem(self) -> str | None:
        """Say what is wrong with the limits of client versions."""
        limits = self.min_client_version, self.max_client_version
        try:
            low, high = (_version(limit) if limit else None for limit in limits)
        except VolumeFormatError:
            return f"{' and '.join(filter(None, limits))}: not versions like 1.2.0"
        if low is not None and high is not None and low > high:
            return f"no client is of version {limits[0]} or newer and {limits[1]} or older"
        return None

    def admits(self, version: str) -> bool:
        """Return whether the limits let clients of a version in; those of none are let in."""
        try:
            found = _version(version)
        except VolumeFormatError:
            return True
        low, high = self.min_client_version, self.max_client_version
        return not ((low and found < _version(low)) or (high and found > _version(high)))

    def check_layout(self) -> None:
        """Check that we know the layout of the metadata.

        Raises
        ------
        VolumeFormatError
            It is newer.
        """
        if self.meta_version > META_VERSION_MAX:
            raise VolumeFormatError(
                f"volume {self.name}: metadata of version {self.meta_version}; "
                f"this client knows up to {META_VERSION_MAX}"
            )

    def check_open(self) -> None:
        """Check that a client of our version may use the volume.

        Raises
        ------
        VolumeFormatError
            The layout of the metadata is newer, or the volume's version limits exclude us.
        """
        self.check_layout()
        ours = _version(CLIENT_VERSION)
        if self.min_client_version and ours < _version(self.min_client_version):
            raise VolumeFormatError(
                f"volume {self.name}: clients must be {self.min_client_version} or newer; "
                f"this one implements {CLIENT_VERSION}"
            )
        if self.max_client_version and ours > _version(self.max_client_version):
            raise VolumeFormatError(
                f"volume {self.name}: clients must be {self.max_client_version} or older; "
                f"this one implements {CLIENT_VERSION}"
            )

    def write_obstacle(self) -> str | None:
        """Return why this client must not write to the volume; None when it may."""
        if self.encrypted and self.encrypt_algo not in _ENCRYPT_ALGOS:
            return f"the volume is encrypted with {self.encrypt_algo}, which this client cannot do"
        return None

    def check_secrets(self, *, given: Collection[str] = ()) -> None:
        """Check that the secrets which object storage needs are there.

        Parameters
        ----------
        given
            Names of secrets (``secret_key``, ``session_token``) that come from elsewhere.

        Raises
        ------
        VolumeFormatError
            The volume was loaded from a dump without secrets, and one of them is needed.
        """
        for name in _SECRETS:
            if getattr(self, name) == REMOVED and name not in given:
                raise VolumeFormatError(
                    f"volume {self.name}: its {name} was removed when its metadata was dumped; "
                    "pass it as an option or store it again with 'juicecache config'"
                )

    @property
    def block_bytes(self) -> int:
        """Raw bytes of a full block."""
        return self.block_kib << 10

    @property
    def encrypted(self) -> bool:
        """Whether objects are encrypted."""
        return bool(self.encrypt_key)

    @property
    def layout(self) -> Layout:
        """How this volume names its blocks and objects."""
        return Layout(self.name, self.uuid, self.block_bytes, self.hash_prefix)

    def to_text(self, nonce: Callable[[], bytes]) -> str:
        """Return the record to store: the members of `raw`, with what differs from it changed.

        Parameters
        ----------
        nonce
            Returns 12 fresh random bytes a call; one is taken for every sealed secret.
        """
        secrets = {name: getattr(self, name) for name in _SECRETS}
        if self.key_encrypted:
            secrets = {
                name: _seal_secret(self.uuid, secret, nonce) for name, secret in secrets.items()
            }
        # One member a line without indent: the shape that the official client writes.
        return json.dumps(self._document(secrets), indent=0)

    def to_json(self, *, include_password: bool = False) -> str:
        """Return the record for people; secrets read ``removed`` unless included, then in clear.

        A password in the address of the bucket counts as one and reads ``****``.
        """
        secrets = {
            name: getattr(self, name)
            if include_password
            else REMOVED
            if getattr(self, name)
            else ""
            for name in _SECRETS
        }
        document = self._document(secrets)
        if not include_password:
            document["Bucket"] = mask_bucket(self.bucket)
        return json.dumps(document, indent=2)

    def _document(self, secrets: Mapping[str, str]) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for member in _MEMBERS:
            if member.field == "storage_class":
                document.update(self._storage_class_members())
                continue
            secret = member.field in secrets
            value = secrets[member.field] if secret else getattr(self, member.field)
            if self.raw and not secret and _value_of(self.raw, member) == value:
                if member.name in self.raw:
                    document[member.name] = self.raw[member.name]  # as it was spelled
            elif value or not member.omit:
                document[member.name] = value
        known = {"Tiers", *(member.name for member in _MEMBERS)}
        document.update((name, self.raw[name]) for name in self.raw if name not in known)
        return document

    def _storage_class_members(self) -> dict[str, Any]:
        """Return ``StorageClass`` and ``Tiers``: only volumes older than tiers lack the latter."""
        members = {name: self.raw[name] for name in ("StorageClass", "Tiers") if name in self.raw}
        if self.raw and _storage_class(self.raw) == self.storage_class:
            return members
        changed: dict[str, Any] = {}
        if self.storage_class:
            changed["StorageClass"] = self.storage_class
        if "Tiers" in members or not self.raw:
            tiers = members.get("Tiers") or {}
            first = {"ID": 0, "StorageClass": "", "Tag": "", **tiers.get("0", {})}
            first["StorageClass"] = self.storage_class
            changed["Tiers"] = {**tiers, "0": first}
        return changed


def with_owners_counted(text: str) -> str:
    """Return a record with ``UserGroupQuota`` on; all else, also sealed secrets, stays as it is."""
    document = json.loads(text)
    if document.get("UserGroupQuota"):
        return text
    return json.dumps(document | {"UserGroupQuota": True}, indent=0)


def _value_of(document: Mapping[str, Any], member: _Member) -> Any:
    """Return one member as our field; an absent one is the empty value of its type."""
    if member.field == "storage_class":
        return _storage_class(document)
    value: Any = document.get(member.name)
    if value is None:
        value = member.type()
    # ``True`` is an int to isinstance, and not to the format.
    if type(value) is not member.type:
        raise VolumeFormatError(
            f"the setting record is damaged: {member.name} is a {type(value).__name__}, "
            f"not a {member.type.__name__}"
        )
    if member.field == "storage":
        return str(value).lower()
    if member.field == "compression":
        return str(value).lower() or "none"
    return value or _ENCRYPT_ALGOS[0] if member.field == "encrypt_algo" else value


def _storage_class(document: Mapping[str, Any]) -> str:
    """Return the storage class in effect: that of tier 0, or of a volume older than tiers."""
    found = document.get("StorageClass")
    tiers = document.get("Tiers")
    if tiers is not None:
        if not isinstance(tiers, dict) or not all(isinstance(t, dict) for t in tiers.values()):
            raise VolumeFormatError("the setting record is damaged: Tiers is not a table of tiers")
        found = tiers.get("0", {}).get("StorageClass") or found
    if not isinstance(found, str | None):
        raise VolumeFormatError("the setting record is damaged: StorageClass is not a string")
    return found or ""


def _version(text: str) -> tuple[list[int], bool, str]:
    """Return a sort key of a client version; a pre-release comes before its release."""
    numbers, _, pre = text.partition("+")[0].partition("-")
    parts = numbers.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise VolumeFormatError(f"the setting record is damaged: {text!r} is not a client version")
    return [*map(int, parts), 0, 0][:3], not pre, pre


def _cipher(uuid: str) -> Any:
    # Imported here: a volume without secrets, and every reader of other parts of this module,
    # does without the 30 ms that it costs.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hashlib.md5(uuid.encode(), usedforsecurity=False).digest())


def _open_secret(values: Mapping[str, Any], name: str) -> str:
    """Return a sealed secret in clear."""
    stored: str = values[name]
    if stored in ("", REMOVED):
        return stored
    member = _BY_FIELD[name].name
    if values["encrypt_algo"] == _SM4:
        raise VolumeFormatError(f"{member} is sealed with SM4, which this client cannot open")
    from cryptography.exceptions import InvalidTag

    try:
        sealed = base64.b64decode(stored, validate=True)
        opened: bytes = _cipher(values["uuid"]).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None
        )
        return opened.decode()
    except (binascii.Error, ValueError, InvalidTag):
        # Without the cause: it may hold part of the secret.
        raise VolumeFormatError(
            f"the setting record is damaged: {member} cannot be opened with the volume's UUID"
        ) from None


def _seal_secret(uuid: str, secret: str, nonce: Callable[[], bytes]) -> str:
    """Return a secret as the record stores it: hidden from a glance, not from a reader of it."""
    if secret in ("", REMOVED):
        return secret
    fresh = nonce()
    assert len(fresh) == NONCE_BYTES
    sealed: bytes = _cipher(uuid).encrypt(fresh, secret.encode(), None)
    return base64.b64encode(fresh + sealed).decode()
