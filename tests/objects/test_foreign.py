"""Times of objects on file systems that each tell them in their own way."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from juicecache.objects.foreign import ForeignStore

NS = 1_700_000_000 * 10**9
THEN = datetime.fromtimestamp(1_700_000_000, UTC)


class Telling:
    """A file system of one file, which says what it is told to say."""

    def __init__(self, **times: object) -> None:
        self.times = times

    def info(self, path: str) -> dict:
        return {"name": path, "type": "file", "size": 1, **self.times}


def told(**times: object) -> int:
    store = ForeignStore(lambda: Telling(**times), "", "telling://", atomic_put=True)

    async def ask() -> int:
        found = await store.head("name")
        await store.aclose()
        return found.modified_ns

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "times",
    [
        {"mtime": 1_700_000_000},
        {"mtime": 1_700_000_000.0},
        {"modified": THEN},
        {"LastModified": THEN.astimezone(timezone(timedelta(hours=5)))},
        {"updated": "2023-11-14T22:13:20.000Z"},
        {"updated": "2023-11-14T22:13:20+00:00"},
        {"last_modified": "2023-11-14T22:13:20"},
        {"modified": "Tue, 14 Nov 2023 22:13:20 GMT"},
        {"mtime": None, "created": THEN},
    ],
)
def test_a_time_is_read_in_every_form(times):
    assert told(**times) == NS


@pytest.mark.parametrize("times", [{}, {"mtime": 0}, {"modified": "yesterday"}, {"mtime": None}])
def test_an_unknown_time_is_young(times):
    before = time.time_ns()
    assert before <= told(**times) <= time.time_ns()
