"""Connections to Redis: a server, one behind Sentinel, a cluster. The driver is used here alone.

Laws:

* A command that only reads is asked again, once, on a new connection; a commit never is, unless
  the server said that it did nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from juicecache.addresses import MetaAddress, sentinel_password
from juicecache.errors import (
    CommitUnknownError,
    ConfigError,
    ConflictError,
    EngineUnavailableError,
    JuicecacheError,
    ReadOnlyVolumeError,
    VolumeFormatError,
)
from juicecache.meta.engines.pool import Pool
from juicecache.meta.engines.redis_codec import Command

Connection: TypeAlias = Any
"""A connection of the driver, which has no types."""

_CONNECT_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 30.0
"""As long as the official client waits: a server that saves to disk may pause for seconds."""
_SENTINEL_PORT = 26379
_TLS_OPTIONS = {
    "tls-cert-file": "ssl_certfile",
    "tls-key-file": "ssl_keyfile",
    "tls-ca-cert-file": "ssl_ca_certs",
}
"""Options of the official client, and what they are called by the driver."""
_NOT_IN_CHARGE = frozenset(
    [
        *("MovedError", "AskError", "ClusterDownError", "TryAgainError", "MasterDownError"),
        *("ReadOnlyError", "BusyLoadingError", "NoScriptError"),
    ]
)
"""The driver's errors of a server that did nothing, because another one is in charge, or it is not
ready, or has forgotten our scripts: a new connection leads to the right one and teaches it."""


class MovedError(ConflictError):
    """The server did nothing: look again for the one in charge."""


class RedisLink:
    """Sends commands to the server in charge of one volume.

    Parameters
    ----------
    scripts
        What every server is taught, to be run by its SHA-1.

    Attributes
    ----------
    prefix
        Begins every key: ``{db}`` in a cluster, where it keeps a volume in one slot; else empty.
        Known once a connection was made.
    pool
        Its connections.
    was_up
        Whether a server ever answered: then an outage is waited for.
    """

    def __init__(self, address: MetaAddress, scripts: Sequence[bytes]) -> None:
        self._address = address
        self._scripts = scripts
        self._driver = _driver(address)
        self._connect, self.database = _connector(self._driver, address)
        self.prefix = b""
        self.was_up = False
        self.pool: Pool[Connection] = Pool(
            self.describe(), self._open, lambda one: one.disconnect()
        )

    def describe(self) -> str:
        """Return the address without user and password."""
        return f"{self._address.scheme}://{self._address.location.rpartition('@')[2]}"

    def _open(self) -> Connection:
        """Open a connection and teach the server our scripts.

        Raises
        ------
        ConnectionError
            No server answers.
        EngineUnavailableError
            It lets nobody in.
        """
        driver = self._driver
        try:
            connection, is_cluster = self._connect()
            connection.connect()
        except driver.RedisError as error:
            lost = isinstance(error, driver.ConnectionError | driver.TimeoutError)
            # Who is not let in is told in the same class as who finds nobody.
            if lost and not _is_refusal(error):
                raise ConnectionError(str(error)) from error
            raise self._translated(error) from error
        except OSError as error:
            raise ConnectionError(str(error)) from error
        self.prefix = b"{%d}" % self.database if is_cluster else b""
        self.ask(connection, [(b"SCRIPT", b"LOAD", script) for script in self._scripts])
        self.was_up = True
        return connection

    def ask(self, connection: Connection, commands: Sequence[Command]) -> list[Any]:
        """Send commands together and return their replies; one round trip.

        Raises
        ------
        ConnectionError
            The connection broke: nothing is known of the commands.
        JuicecacheError
            The server refused one of them.
        """
        driver = self._driver
        refused: Exception | None = None
        replies = []
        try:
            connection.send_packed_command(_packed(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except driver.ResponseError as error:
                    refused = refused or error
        except (driver.ConnectionError, driver.TimeoutError, OSError) as error:
            raise ConnectionError(str(error)) from error
        except driver.RedisError as error:
            raise self._translated(error) from error
        if refused is not None:
            raise self._translated(refused) from refused
        return replies

    def lost(self, error: Exception) -> EngineUnavailableError:
        """Return what a broken connection is to people."""
        return EngineUnavailableError(
            f"{self.describe()}: Redis does not answer ({error}); is the server running, and the "
            "address right?"
        )

    def unknown(self, error: Exception) -> CommitUnknownError:
        """Return what a broken connection is after a commit was sent."""
        return CommitUnknownError(
            f"{self.describe()}: the connection broke before the answer to a commit ({error}); it "
            "may have happened or not"
        )

    def _translated(self, error: Exception) -> JuicecacheError:
        text, name = str(error), type(error).__name__
        if name in _NOT_IN_CHARGE or text.startswith("READONLY"):
            return MovedError(f"{self.describe()}: {text}")
        if name == "NoPermissionError" or "can't run this command" in text:
            return ReadOnlyVolumeError(self.describe(), f"Redis does not allow it: {text}")
        if "Authentication" in name or text.startswith(("NOAUTH", "WRONGPASS")):
            return EngineUnavailableError(
                f"{self.describe()}: Redis lets nobody in with this user and password; the "
                "password stands in the URL or in META_PASSWORD"
            )
        if text.startswith("WRONGTYPE"):
            return VolumeFormatError(f"{self.describe()}: keys of something else than a volume")
        if text.startswith("OOM"):
            return EngineUnavailableError(f"{self.describe()}: the server is out of memory: {text}")
        return EngineUnavailableError(f"{self.describe()}: {text or name}")


def _is_refusal(error: Exception) -> bool:
    return "Authentication" in type(error).__name__ or "NOAUTH" in str(error)


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """Return commands as they go over the wire."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            value = word if isinstance(word, bytes) else b"%d" % word
            parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return [b"".join(parts)]


def _driver(address: MetaAddress) -> Any:
    try:
        import redis
    except ImportError as error:
        raise ConfigError(
            f"{address}: the driver of Redis is missing; pip install 'juicecache[redis]'"
        ) from error
    return redis


def _connector(
    redis: Any, address: MetaAddress
) -> tuple[Callable[[], tuple[Connection, bool]], int]:
    """Return what opens a connection to the server in charge, and the number of the database."""
    user, _, rest = address.location.rpartition("@")
    place, _, query = rest.partition("?")
    hosts, _, path = place.partition("/")
    if path and not path.isdigit():
        raise ConfigError(f"{address}: behind the host stands the number of a database")
    database = int(path or 0)
    options: dict[str, Any] = {
        "db": database,
        "username": user or None,
        "password": address.password or None,
        "socket_timeout": _REPLY_TIMEOUT_S,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "protocol": 2,
        "decode_responses": False,
    }
    options |= _tls(address, dict(parse_qsl(query)))
    head, comma, others = hosts.partition(",")
    if comma and ":" not in head:
        return _sentinel(redis, head, others.split(","), options), database
    nodes = [_host_and_port(one, 6379) for one in hosts.split(",")]
    return _plain_or_cluster(redis, nodes, options), database


def _tls(address: MetaAddress, query: dict[str, str]) -> dict[str, Any]:
    known: dict[str, Any] = {
        ours: query.pop(name) for name, ours in _TLS_OPTIONS.items() if name in query
    }
    if query.pop("insecure-skip-verify", "") == "true":
        known |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    if query:
        raise ConfigError(
            f"{address}: unknown option {next(iter(query))!r}; Redis takes "
            f"{', '.join([*_TLS_OPTIONS, 'insecure-skip-verify'])}"
        )
    if known and address.scheme != "rediss":
        raise ConfigError(f"{address}: options of TLS need an address with rediss://")
    return known | {"ssl": True} if address.scheme == "rediss" else {}


def _host_and_port(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    if not colon or not number.isdigit():
        return text.strip("[]"), port
    return host.strip("[]"), int(number)


def _connection_of(client: Any) -> Connection:
    """Return a new connection with everything that the client was told."""
    connection: Connection = client.connection_pool.make_connection()
    return connection


def _sentinel(
    redis: Any, master: str, hosts: list[str], options: dict[str, Any]
) -> Callable[[], tuple[Connection, bool]]:
    _, port = _host_and_port(hosts[-1], _SENTINEL_PORT)
    nodes = [_host_and_port(host, port) for host in hosts]
    asked = {name: options[name] for name in options if name.startswith(("socket", "ssl"))}
    asked["password"] = sentinel_password() or None
    sentinel = redis.Sentinel(nodes, sentinel_kwargs=asked)

    def connect() -> tuple[Connection, bool]:
        host, port = sentinel.discover_master(master)
        return _connection_of(redis.Redis(host=host, port=port, **options)), False

    return connect


def _plain_or_cluster(
    redis: Any, nodes: list[tuple[str, int]], options: dict[str, Any]
) -> Callable[[], tuple[Connection, bool]]:
    kind: list[bool] = [True] if len(nodes) > 1 else []

    def connect() -> tuple[Connection, bool]:
        host, port = nodes[0]
        if not kind:
            connection = _connection_of(redis.Redis(host=host, port=port, **options | {"db": 0}))
            connection.connect()
            connection.send_command("INFO", "cluster")
            kind.append(b"cluster_enabled:1" in connection.read_response())
            connection.disconnect()
        if not kind[0]:
            return _connection_of(redis.Redis(host=host, port=port, **options)), False
        wanted = {name: value for name, value in options.items() if name != "db"}
        known = [redis.cluster.ClusterNode(*node) for node in nodes]
        cluster = redis.RedisCluster(startup_nodes=known, **wanted)
        slot = cluster.keyslot(b"{%d}" % options["db"])
        node = cluster.nodes_manager.get_node_from_slot(slot)
        return _connection_of(cluster.get_redis_connection(node)), True

    return connect
