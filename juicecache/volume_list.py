"""The user's list of volumes: names for metadata addresses, in a file of this user alone.

The file is TOML: a table ``[volumes]`` of name = address. Law: no password is stored in it;
a volume whose database wants one takes it from ``META_PASSWORD``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress

from juicecache.addresses import MetaAddress, parse_meta
from juicecache.errors import ConfigError

_HEADER = (
    "# Volumes by name, for juicecache://NAME/path. Passwords are not kept here: META_PASSWORD.\n"
)


def list_path(environ: Mapping[str, str] = os.environ) -> str:
    """Return where the list is: ``$JUICECACHE_CONFIG``, or the user's configuration folder."""
    given = environ.get("JUICECACHE_CONFIG", "")
    return given or os.path.join(user_folder("XDG_CONFIG_HOME", ".config", environ), "volumes.toml")


def user_folder(variable: str, fallback: str, environ: Mapping[str, str]) -> str:
    """Return our folder under the base folder that ``variable`` names, else under the home.

    Touches no disk. A relative base folder is ignored, as the base directory rules demand.
    """
    base = environ.get(variable, "")
    if not os.path.isabs(base):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), fallback)
    return os.path.join(base, "juicecache")


def find_volume(name: str, meta: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """Return the metadata URL of a volume.

    From the first that is there: ``meta``, the environment's ``JUICECACHE_META``, the list.

    Raises
    ------
    ConfigError
        None of them knows it, or the list cannot be read.
    """
    address = meta or environ.get("JUICECACHE_META", "")
    if address:
        return address
    if not name:
        raise ConfigError(
            "no volume is named: give its name ('volume', or juicecache://NAME/path), or its "
            "metadata address as 'meta' or in JUICECACHE_META"
        )
    volumes = list_volumes(environ)
    if name in volumes:
        return volumes[name]
    known = ", ".join(sorted(volumes)) or "none"
    raise ConfigError(
        f"unknown volume {name!r} (known: {known}): give its metadata address as the option "
        f"'meta', in JUICECACHE_META, or in {list_path(environ)}"
    )


def list_volumes(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the list as {name: metadata URL}; empty when there is no file.

    Raises
    ------
    ConfigError
        The file cannot be read or is not such a list.
    """
    import tomllib  # here: only a volume that is opened by name needs it

    path = list_path(environ)
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The parser quotes what it stumbled over, which may be a secret put there by hand.
        raise ConfigError(f"{path}: not a TOML file") from None
    volumes = document.get("volumes", {})
    if not isinstance(volumes, dict) or not all(isinstance(u, str) for u in volumes.values()):
        raise ConfigError(
            f'{path}: expected a table [volumes] with lines like name = "sqlite3://…"'
        )
    return volumes


def remember_volume(
    name: str, meta_url: str, environ: Mapping[str, str] = os.environ
) -> MetaAddress:
    """Put a volume on the list, or change its address; others stay.

    The address is kept absolute and without its password. The file appears whole or not at
    all, and comments in it go; of two processes that add at once the later one wins.

    Returns
    -------
    MetaAddress
        What was stored (its ``text``); a ``password`` in it must come from
        ``META_PASSWORD`` next time, which the caller should say.

    Raises
    ------
    ConfigError
        The address is malformed, or the list cannot be read or written.
    """
    address = parse_meta(meta_url, environ).absolute()
    if not f"{name}{address.text}".isprintable():
        raise ConfigError(f"{name!r}, {address}: only printable text can stand in the list")
    _store({**list_volumes(environ), name: address.text}, environ)
    return address


def forget_volume(name: str, meta_url: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Take a volume off the list if it stands there with this address; return whether it did.

    Raises
    ------
    ConfigError
        The address is malformed, or the list cannot be read or written.
    """
    volumes = list_volumes(environ)
    if volumes.get(name) != parse_meta(meta_url, environ).absolute().text:
        return False
    del volumes[name]
    _store(volumes, environ)
    return True


def _store(volumes: Mapping[str, str], environ: Mapping[str, str]) -> None:
    lines = [f"{_quoted(key)} = {_quoted(url)}\n" for key, url in sorted(volumes.items())]
    path = list_path(environ)
    try:
        _write_private(path, _HEADER + "[volumes]\n" + "".join(lines))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _write_private(path: str, text: str) -> None:
    """Replace a file by one that only this user can read."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fresh = f"{path}.{os.getpid()}.new"
    # A left-over of a killed process with our id would keep its own mode.
    with suppress(FileNotFoundError):
        os.unlink(fresh)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise


def _quoted(text: str) -> str:
    """Return ``text`` as a TOML basic string."""
    # Everything is printable by now, or was read from TOML: JSON escapes the same way, and
    # unlike it TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
