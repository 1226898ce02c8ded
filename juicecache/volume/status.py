"""What is known of a volume without using it: its record and the clients that are live."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from typing import Any

from juicecache.errors import VolumeFormatError
from juicecache.meta.engine import Engine
from juicecache.meta.rows import Session
from juicecache.model.setting import Setting
from juicecache.volume.parts import Parts, open_engine

_SESSIONS_MAX = 10_000
"""Sessions listed: far more clients than one database serves, and still a short answer."""


def stored_setting(meta: str | Engine) -> Setting | None:
    """Return the record of the volume at a metadata address; None where there is no volume.

    Says nothing about whether this client may use the volume.

    Raises
    ------
    VolumeFormatError
        The record is damaged.
    """
    engine = open_engine(meta, read_only=True)
    with nullcontext() if engine is meta else closing(engine):
        try:
            text = engine.setting()
        except VolumeFormatError:
            return None  # not even a database
    return Setting.parse(text) if text else None


def live_sessions(parts: Parts) -> list[dict[str, Any]]:
    """Return the sessions of all clients as ``status`` of the official client shows them.

    A client that only reads may have none.
    """
    rows = parts.engine.read(lambda tx: list(tx.scan(Session, limit=_SESSIONS_MAX)))
    return [_described(row) for row in rows]


def _described(row: Session) -> dict[str, Any]:
    try:
        info = json.loads(row.info)
    except ValueError:
        info = {}  # another client's row: shown by its number and time at least
    expire = datetime.fromtimestamp(row.expire_s, UTC).isoformat()
    return {"Sid": row.sid, "Expire": expire, **(info if isinstance(info, dict) else {})}
