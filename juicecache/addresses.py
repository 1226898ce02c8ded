"""Addresses that a user types: metadata URLs and volume URLs.

Law: a password never leaves here by ``str``, ``repr`` or an error; `MetaAddress.password`
is the one way to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from juicecache.errors import ConfigError

VOLUME_SCHEMES = ("juicecache", "jc")
_FORMS = (
    "sqlite3:///absolute.db, redis://host:6379/1, postgres://user@host:5432/database or "
    "mysql://user@(host:3306)/database"
)
"""What an address looks like, for errors."""
_NETWORK_SCHEMES = ("redis", "rediss", "postgres", "mysql")
_ANY_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PREFIX = re.compile(r"[A-Za-z0-9_]{1,32}")
_SECRET_PARAMETER = re.compile(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)
_PASSWORD_PARAMETER = re.compile(r"[?&][^=&]*pass[^=&]*=", re.IGNORECASE)
_MASK = "****"


@dataclass(frozen=True, slots=True)
class MetaAddress:
    """Where a volume's metadata is.

    Attributes
    ----------
    scheme
        ``sqlite3``, ``redis``, ``rediss``, ``postgres`` or ``mysql``.
    location
        The path of the database for SQLite; else everything behind ``://`` but the password.
    table_prefix
        What the tables of this volume are called beyond ``jfs_``; empty for none.
    password
        From the URL or the environment; empty for none.
    text
        The URL without its password: safe to show and to store.
    """

    scheme: str
    location: str
    table_prefix: str = ""
    password: str = field(default="", repr=False)
    text: str = ""

    def masked(self) -> str:
        """Return the URL for people: ``****`` says that a password is known."""
        user, _, host = self.location.rpartition("@")
        return f"{self.scheme}://{user}:{_MASK}@{host}" if self.password else self.text

    __str__ = masked

    def absolute(self) -> MetaAddress:
        """Return the same address in a form that does not depend on the working directory."""
        if self.scheme != "sqlite3":
            return self
        location = os.path.abspath(self.location)
        return replace(self, location=location, text=_sqlite_text(location, self.table_prefix))


def parse_meta(url: str, environ: Mapping[str, str] = os.environ) -> MetaAddress:
    """Return the parts of a metadata URL.

    In a URL with credentials the last ``@`` ends them; one that stands in an option is
    written ``%40``.

    Raises
    ------
    ConfigError
        The URL has none of the forms that exist. What stands behind the host is for the engine
        to understand.
    """
    match = _ANY_SCHEME.match(url)
    if match is None:
        raise ConfigError(f"metadata address {mask_url(url)!r}: expected {_FORMS}")
    scheme, rest = match[1].lower(), url[match.end() :]
    if scheme == "postgresql":
        scheme = "postgres"
    if scheme == "sqlite3":
        location, _, query = rest.partition("?")
        if not location:
            raise ConfigError(f"metadata address {url!r}: the path of the database is missing")
        prefix = _table_prefix(url, query, strict=True)
        return MetaAddress(scheme, location, prefix, "", _sqlite_text(location, prefix))
    if scheme not in _NETWORK_SCHEMES:
        raise ConfigError(f"metadata address {mask_url(url)!r}: expected {_FORMS}")
    user, password, tail = _credentials(rest)
    if not tail or tail.startswith(("/", "?")):
        raise ConfigError(f"metadata address {mask_url(url)!r}: the host is missing")
    if _PASSWORD_PARAMETER.search(tail):
        raise ConfigError(
            f"metadata address {mask_url(url)!r}: a password stands before '@' or in "
            "META_PASSWORD, not among the options"
        )
    password = password or kept_password(scheme, environ)
    location = f"{user}@{tail}" if user else tail
    prefix = _table_prefix(url, tail.partition("?")[2], strict=False)
    return MetaAddress(scheme, location, prefix, password, f"{scheme}://{location}")


def kept_password(scheme: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the password of a database that the environment has, as for the official client.

    ``REDIS_PASSWORD`` for Redis, else ``META_PASSWORD``, else what the file named by
    ``META_PASSWORD_FILE`` holds, without white space around it.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    password = environ.get("REDIS_PASSWORD", "") if scheme in ("redis", "rediss") else ""
    password = password or environ.get("META_PASSWORD", "")
    file = environ.get("META_PASSWORD_FILE", "")
    if password or not file:
        return password
    try:
        with open(file, encoding="utf-8") as text:
            return text.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"META_PASSWORD_FILE: {file} cannot be read: {error}") from None


def _credentials(rest: str) -> tuple[str, str, str]:
    """Split what follows ``://`` into user, password and the rest."""
    userinfo, _, tail = rest.rpartition("@")
    user, _, password = userinfo.partition(":")
    return user, unquote(password), tail


def _table_prefix(url: str, query: str, *, strict: bool) -> str:
    """Return the option ``table_prefix`` of a URL; ``strict`` refuses any other option.

    Options of other engines are for their drivers.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    prefix = options.pop("table_prefix", "")
    if strict and options:
        raise ConfigError(
            f"metadata address {mask_url(url)!r}: unknown option {next(iter(options))!r}; "
            "SQLite takes table_prefix only"
        )
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"metadata address {mask_url(url)!r}: table_prefix takes up to 32 letters, "
            "digits and '_'"
        )
    return prefix


def _sqlite_text(location: str, prefix: str) -> str:
    return f"sqlite3://{location}" + (f"?table_prefix={prefix}" if prefix else "")


def mask_url(text: str) -> str:
    """Return ``text`` with ``****`` in place of every password that it may hold.

    Masks too much rather than too little where an unquoted password makes the URL ambiguous.
    """
    match = _ANY_SCHEME.match(text)
    head = match[0] if match else ""
    rest = text[len(head) :]
    if head.lower() != "sqlite3://":
        userinfo, at, tail = rest.rpartition("@")
        if at:
            user, colon, _ = userinfo.partition(":")
            if colon or not match:
                rest = f"{user if match else ''}:{_MASK}@{tail}"
    return head + _SECRET_PARAMETER.sub(rf"\1{_MASK}", rest)


def mask_bucket(bucket: str) -> str:
    """Return the address of object storage without a password that a user put into it."""
    return bucket if bucket.startswith("/") else mask_url(bucket)


def parse_volume_url(url: str) -> tuple[str, str]:
    """Return the volume and the path of ``juicecache://VOLUME/path``; the path begins with ``/``.

    Raises
    ------
    ConfigError
        Another scheme, or no volume.
    """
    scheme, mark, rest = url.partition("://")
    volume, _, path = rest.partition("/")
    if not mark or scheme not in VOLUME_SCHEMES or not volume:
        raise ConfigError(f"{mask_url(url)!r}: expected juicecache://VOLUME/path")
    return volume, "/" + path


def sentinel_password(environ: Mapping[str, str] = os.environ) -> str:
    """Return the password of the sentinels in front of Redis, called as by the official client."""
    return environ.get("SENTINEL_PASSWORD", "")


def rsa_passphrase(environ: Mapping[str, str] = os.environ) -> str:
    """Return the passphrase of the volume's RSA key; it is never stored anywhere."""
    return environ.get("JFS_RSA_PASSPHRASE", "")


def collectable_age_s(environ: Mapping[str, str] = os.environ) -> float:
    """Return the age from which ``gc`` takes objects without a reference for garbage, in seconds.

    An hour, or ``JFS_GC_SKIPPEDTIME`` as for the official client: less is safe only while
    nobody writes.
    """
    text = environ.get("JFS_GC_SKIPPEDTIME", "3600")
    if not text.isdigit():
        raise ConfigError("JFS_GC_SKIPPEDTIME is a number of seconds")
    return float(text)


def storage_keys(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the keys of object storage for a new volume: arguments of ``format_volume``.

    Read where a volume is made, or its keys are to be replaced, and nowhere else: a variable
    that is set for another program must not override the keys in a volume's record.
    """
    names = {
        "access_key": "ACCESS_KEY",
        "secret_key": "SECRET_KEY",
        "session_token": "SESSION_TOKEN",
    }
    return {name: environ[variable] for name, variable in names.items() if environ.get(variable)}
