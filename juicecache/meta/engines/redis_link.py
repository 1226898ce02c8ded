"""Connections to Redis: a server, one behind Sentinel, a cluster. The driver is used here alone.

Laws:

* A command that only reads is asked again, once, on a new connection; a commit never is, unless
  the server said that it did nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote

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
from juicecache.meta.engines.tls import check_files, tls_failure

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
_THEIR_OWN = frozenset(
    [
        *("read-timeout", "write-timeout", "min-retry-backoff", "max-retry-backoff"),
        *("route-read", "client-cache", "client-cache-size", "client-cache-expire"),
        "client-cache-preload",
    ]
)
"""Options of how the official client waits and remembers: both clients are given one address, and
none of these changes what is true of the volume."""
_MOVES = frozenset(["MovedError", "AskError", "TryAgainError"])
_NOT_IN_CHARGE = frozenset(
    ["ClusterDownError", "MasterDownError", "BusyLoadingError", "NoScriptError"]
)
"""The driver's errors of a server that did nothing, because another one is in charge, or it is not
ready, or has forgotten our scripts: a new connection leads to the right one and teaches it."""
_ELSEWHERE = "non local key"
"""In what a node says when a script that reads finds that a key has moved to another one; one
that writes names its keys before."""


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
        self._driver, self._pack = _driver(address)
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
            It lets nobody in, or is not the one that it should be.
        """
        driver = self._driver
        try:
            connection, is_cluster = self._connect()
            connection.connect()
        except driver.RedisError as error:
            if reason := tls_failure(error):
                raise self._untrusted(reason) from error
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
        self._send(connection, commands)
        return self._replies(connection, len(commands))

    def ask_ahead(self, connection: Connection, commands: Iterable[Command]) -> Generator[Any]:
        """Iterate over the replies to commands, each sent before the one before is answered.

        So the server works while a reply is understood here. To be closed, so that no reply
        stays behind; raises like `ask`.
        """
        waiting = 0
        try:
            for command in commands:
                self._send(connection, (command,))
                waiting += 1
                if waiting > 1:
                    waiting -= 1
                    yield self._replies(connection, 1)[0]
            while waiting:
                waiting -= 1
                yield self._replies(connection, 1)[0]
        finally:
            while waiting:
                waiting -= 1
                with suppress(JuicecacheError):
                    self._replies(connection, 1)

    def _send(self, connection: Connection, commands: Sequence[Command]) -> None:
        driver = self._driver
        try:
            connection.send_packed_command(
                [b"".join(map(self._pack, commands))], check_health=False
            )
        except (driver.ConnectionError, driver.TimeoutError, OSError) as error:
            raise ConnectionError(str(error)) from error

    def _replies(self, connection: Connection, count: int) -> list[Any]:
        driver = self._driver
        refused: Exception | None = None
        replies = []
        try:
            for _ in range(count):
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
        """Return what it is to people that no server in charge was found for too long."""
        if isinstance(error, MovedError):
            return EngineUnavailableError(str(error))
        is_tls = self._address.scheme == "rediss"
        tls = ", and does it speak TLS, and take our certificate" if is_tls else ""
        return EngineUnavailableError(
            f"{self.describe()}: Redis does not answer ({error}); is the server running, and the "
            f"address right{tls}?"
        )

    def _untrusted(self, reason: str) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"{self.describe()}: no TLS with Redis ({reason}); tls-ca-cert-file names whom to "
            "trust, tls-cert-file and tls-key-file what the server may ask for"
        )

    def unknown(self, error: Exception) -> CommitUnknownError:
        """Return what a broken connection is after a commit was sent."""
        return CommitUnknownError(
            f"{self.describe()}: the connection broke before the answer to a commit ({error}); it "
            "may have happened or not"
        )

    def _translated(self, error: Exception) -> JuicecacheError:
        text, name = str(error), type(error).__name__
        if name == "ReadOnlyError" or text.startswith("READONLY"):
            return MovedError(
                f"{self.describe()}: this is a replica, which takes no changes; its master does, "
                "and redis://MASTER,sentinel1,sentinel2:26379/1 finds whoever that is"
            )
        if name in _MOVES or _ELSEWHERE in text:
            return MovedError(
                f"{self.describe()}: the volume's keys are moving to another node of the cluster "
                f"({text})"
            )
        if name in _NOT_IN_CHARGE:
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


def _driver(address: MetaAddress) -> tuple[Any, Callable[[Command], bytes]]:
    """Return the driver, and what makes bytes of a command, in C, which comes with it."""
    try:
        import redis
        from hiredis import pack_command
    except ImportError as error:
        raise ConfigError(
            f"{address}: the driver of Redis is missing; pip install 'juicecache[redis]'"
        ) from error
    return redis, pack_command  # type: ignore[return-value]  # its stubs know tuples of one word


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
        "username": unquote(user) or None,
        "password": address.password or None,
        "socket_timeout": _REPLY_TIMEOUT_S,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        # Its own would wait for each server, and for each sentinel, before ours asks another one.
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
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
    given = {name: query.pop(name) for name in _TLS_OPTIONS if name in query}
    skips = query.pop("insecure-skip-verify", None)
    unknown = [name for name in query if name.replace("_", "-") not in _THEIR_OWN]
    if unknown:
        raise ConfigError(
            f"{address}: unknown option {unknown[0]!r}; Redis takes "
            f"{', '.join([*_TLS_OPTIONS, 'insecure-skip-verify'])}"
        )
    if address.scheme != "rediss":
        if given or skips is not None:
            raise ConfigError(f"{address}: options of TLS need an address with rediss://")
        return {}
    # The official client takes whatever stands there for yes, "false" too: who meant it gets an
    # error, and not a connection that nobody checks.
    if skips not in (None, "true", "1"):
        raise ConfigError(f"{address}: insecure-skip-verify is true, or not there")
    check_files(address, given)
    # Both are said, since the driver's defaults were others before its version 6.
    return {_TLS_OPTIONS[name]: path for name, path in given.items()} | {
        "ssl": True,
        "ssl_cert_reqs": "none" if skips else "required",
        "ssl_check_hostname": not skips,
    }


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
    asked = {name: options[name] for name in options if name.startswith(("socket", "ssl", "retry"))}
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
