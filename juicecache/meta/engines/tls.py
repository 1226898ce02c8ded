"""What failed when a server was to be reached by TLS, and files that options of TLS name."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from juicecache.addresses import MetaAddress
from juicecache.errors import ConfigError

_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def tls_failure(error: BaseException) -> str:
    """Return what TLS says in an error or behind it; empty where it was something else.

    A connection that ends is something else: servers end them for many reasons.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"the server's certificate: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, _ENDS):
            return (seen.reason or str(seen)).replace("_", " ").lower()
        seen = seen.__cause__ or seen.__context__
    return ""


def check_files(address: MetaAddress, files: Mapping[str, str]) -> None:
    """Check that the files which options of TLS name can be read.

    Drivers open them with each connection, and tell of one that is missing as of a server that
    does not answer.

    Parameters
    ----------
    files
        By the name of the option.

    Raises
    ------
    ConfigError
        One cannot be read; the text names its option.
    """
    for name, path in files.items():
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{address}: option {name}: {path!r} cannot be read")
