"""PostgreSQL and MariaDB servers for tests; nothing listens but on loopback, nothing is kept.

They survive being killed, and not a power cut: nothing is synchronised to the disk.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from juicecache.testing.servers import free_ports, require

_START_TIMEOUT_S = 60
_SECRET = "pass-word/1"  # noqa: S105  (guards nothing but a test's own server)


@dataclass
class DatabaseServer:
    """A server that runs, and the databases in it that nobody had yet.

    Attributes
    ----------
    scheme
        ``postgres`` or ``mysql``.
    """

    scheme: str
    port: int
    folder: Path
    arguments: Sequence[str]
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fresh_url(self) -> str:
        """Make an empty database and return its address; its password stands in it."""
        name = f"volume{next(self._numbers)}"
        self.admin(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str, user: str = "jfs") -> str:
        """Return the address of a database for a user."""
        place = f"127.0.0.1:{self.port}"
        host = place if self.scheme == "postgres" else f"({place})"
        tail = "?sslmode=disable" if self.scheme == "postgres" else ""
        password = _SECRET.replace("/", "%2F") if self.scheme == "postgres" else _SECRET
        return f"{self.scheme}://{user}:{password}@{host}/{name}{tail}"

    def admin(self, statement: str, database: str = "") -> None:
        """Run a statement as the server's owner."""
        if self.scheme == "postgres":
            tool = [_postgres("psql"), "-h", str(self.folder), "-p", str(self.port)]
            tool += ["-U", "postgres", "-qAt", "-c", statement, database or "postgres"]
        else:
            socket = self.folder / "mysql.sock"
            tool = [require("mariadb"), f"--socket={socket}", "-uroot", "-N", "-e", statement]
            tool += [database] if database else []
        subprocess.run(tool, check=True, capture_output=True)

    def stop(self) -> None:
        """End the server at once, as a crash would."""
        self.process.send_signal(signal.SIGQUIT if self.scheme == "postgres" else signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        """Start it again, on what it has on disk."""
        self.process = _start(self.folder, self.arguments, self.scheme)
        _await(self)


def _postgres(name: str) -> str:
    """Return a command of PostgreSQL, which Debian keeps beside PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else require(name)


def _owner(scheme: str) -> str:
    """Return who runs a server: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return ""
    wanted = "postgres" if scheme == "postgres" else "mysql"
    names = {entry.pw_name for entry in pwd.getpwall()}
    return wanted if wanted in names else "nobody"


def _as_owner(scheme: str, folder: Path, command: Sequence[str]) -> list[str]:
    user = _owner(scheme)
    if not user:
        return list(command)
    shutil.chown(folder, user)
    return [require("setpriv"), f"--reuid={user}", "--clear-groups", *command]


def _start(folder: Path, arguments: Sequence[str], scheme: str) -> subprocess.Popen[bytes]:
    with (folder / "server.log").open("ab") as log:
        command = _as_owner(scheme, folder, arguments)
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)


def _await(server: DatabaseServer) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            server.admin("SELECT 1")
            return
        except subprocess.CalledProcessError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                log = (server.folder / "server.log").read_text()[-800:]
                raise RuntimeError(f"no {server.scheme}: {log}") from error
        time.sleep(0.05)


@contextmanager
def _running(server: DatabaseServer) -> Iterator[DatabaseServer]:
    try:
        _await(server)
        if server.scheme == "postgres":
            server.admin(f"CREATE ROLE jfs SUPERUSER LOGIN PASSWORD '{_SECRET}'")
        else:
            server.admin(
                f"CREATE USER jfs@'127.0.0.1' IDENTIFIED BY '{_SECRET}'; "
                "GRANT ALL ON *.* TO jfs@'127.0.0.1' WITH GRANT OPTION"
            )
        yield server
    finally:
        server.stop()


@contextmanager
def postgres_server(
    folder: Path, *options: str, certificate: Path | None = None
) -> Iterator[DatabaseServer]:
    """Run PostgreSQL; skip the running test where it is not installed.

    Parameters
    ----------
    options
        Further settings, each as ``name=value``.
    certificate
        PEM file with a certificate and its key: lets clients use TLS.
    """
    (port,) = free_ports(1)
    make = [_postgres("initdb"), "-D", str(folder / "pg"), "-U", "postgres", "-N", "-E", "UTF8"]
    make += ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-locale"]
    _open_parents(folder)
    subprocess.run(
        _as_owner("postgres", folder, make), check=True, stdout=subprocess.DEVNULL, cwd=folder
    )
    arguments = [_postgres("postgres"), "-D", str(folder / "pg"), "-p", str(port)]
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "shared_buffers": "64MB",
        "max_connections": "200",
    }
    if certificate is not None:
        own = str(_own_copy(folder, certificate, "postgres"))
        settings |= {"ssl": "on", "ssl_cert_file": own, "ssl_key_file": own}
    for setting in (*(f"{name}={value}" for name, value in settings.items()), *options):
        arguments += ["-c", setting]
    process = _start(folder, arguments, "postgres")
    with _running(DatabaseServer("postgres", port, folder, arguments, process)) as server:
        yield server


@contextmanager
def mysql_server(
    folder: Path, *options: str, certificate: Path | None = None
) -> Iterator[DatabaseServer]:
    """Run MariaDB; skip the running test where it is not installed.

    Parameters
    ----------
    options
        Further arguments, such as ``--require-secure-transport=ON``.
    certificate
        PEM file with a certificate and its key: lets clients use TLS.
    """
    (port,) = free_ports(1)
    server = require("mariadbd")
    make = [require("mariadb-install-db"), "--no-defaults", f"--datadir={folder}/data"]
    make += ["--auth-root-authentication-method=normal", "--skip-test-db"]
    _open_parents(folder)
    subprocess.run(
        _as_owner("mysql", folder, make),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    arguments = [server, "--no-defaults", f"--datadir={folder}/data", f"--port={port}"]
    arguments += ["--bind-address=127.0.0.1", f"--socket={folder}/mysql.sock"]
    arguments += ["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M"]
    arguments += [
        "--max-connections=300",
        "--skip-log-bin",
        "--character-set-server=utf8mb4",
        "--collation-server=utf8mb4_bin",
        f"--pid-file={folder}/pid",
        *options,
    ]
    if certificate is not None:
        own = _own_copy(folder, certificate, "mysql")
        arguments += [f"--ssl-cert={own}", f"--ssl-key={own}"]
    process = _start(folder, arguments, "mysql")
    with _running(DatabaseServer("mysql", port, folder, arguments, process)) as running:
        yield running


def _own_copy(folder: Path, certificate: Path, scheme: str) -> Path:
    """Copy a certificate with its key to where only the server's user reads it, as it demands."""
    own = folder / "server.pem"
    shutil.copy(certificate, own)
    own.chmod(0o600)
    if user := _owner(scheme):
        shutil.chown(own, user)
    return own


def _open_parents(folder: Path) -> None:
    """Let the server's user reach a folder that only root may enter."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):  # noqa: S108
            parent.chmod(parent.stat().st_mode | 0o011)
