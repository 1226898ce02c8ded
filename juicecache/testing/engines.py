"""Every metadata engine, empty and ready, for tests that must hold on all of them.

The servers start with the first engine that needs them and end with the process.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from juicecache.meta.engine import Engine
from juicecache.meta.engines.memory import MemoryEngine
from juicecache.meta.engines.sqlite import SqliteEngine
from juicecache.testing.databases import DatabaseServer, mysql_server, postgres_server
from juicecache.testing.redis_server import RedisServer, redis_server
from juicecache.volume.parts import open_engine

KINDS = ("memory", "sqlite", "redis", "postgres", "mysql")
SHARED_KINDS = KINDS[1:]
"""Those with an address, which official clients use as well."""


@cache
def _stack() -> ExitStack:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack


def _folder() -> Path:
    return Path(_stack().enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))


@cache
def redis() -> RedisServer:
    """Return the Redis server of this process; skip the running test where there is none."""
    return _stack().enter_context(redis_server(_folder()))


@cache
def postgres() -> DatabaseServer:
    """Return the PostgreSQL server of this process; skip the running test where there is none."""
    return _stack().enter_context(postgres_server(_folder()))


@cache
def mysql() -> DatabaseServer:
    """Return the MariaDB server of this process; skip the running test where there is none."""
    return _stack().enter_context(mysql_server(_folder()))


def fresh_url(kind: str, folder: Path) -> str:
    """Return the address of an empty database; ``folder`` is for those that are files."""
    makers: dict[str, Callable[[], str]] = {
        "sqlite": lambda: f"sqlite3://{folder}/meta.db",
        "redis": lambda: redis().fresh_url(),
        "postgres": lambda: postgres().fresh_url(),
        "mysql": lambda: mysql().fresh_url(),
    }
    return makers[kind]()


def fresh_engine(kind: str, folder: Path) -> Engine:
    """Return an engine on an empty database, prepared."""
    if kind == "memory":
        engine: Engine = MemoryEngine()
    elif kind == "sqlite":
        engine = SqliteEngine(folder / "meta.db")
    else:
        engine = open_engine(fresh_url(kind, folder), read_only=False)
    engine.prepare()
    return engine
