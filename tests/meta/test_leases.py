"""Leases: one of many does the work, once an interval."""

from __future__ import annotations

import threading

from juicecache.meta.change_log import trim
from juicecache.meta.leases import TRASH, is_free, take_lease
from juicecache.meta.rows import ChangeLine, Counter

NOW_S = 1_800_000_000


def take(engine, now_s: int, interval_s: float = 100.0) -> bool:
    return engine.write(lambda tx: take_lease(tx, TRASH, now_s, interval_s))


def test_a_lease_is_taken_once_an_interval(engine):
    assert [take(engine, NOW_S + after) for after in (0, 1, 89, 90, 91, 180)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    assert engine.read(lambda tx: tx.get(Counter, TRASH)) == Counter(TRASH, NOW_S + 180)


def test_one_of_many_takes_it(engine):
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda: taken.append(take(engine, NOW_S))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]
    assert not engine.read(lambda tx: is_free(tx, TRASH, NOW_S, 100.0))


def log(engine, *seconds: int) -> None:
    for second in seconds:
        engine.write(lambda tx, second=second: tx.log(f"{second}.000000001|X()|(0,1)"))


def left(engine) -> list[int]:
    lines = engine.read(lambda tx: list(tx.scan(ChangeLine)))
    return [int(line.text.partition(".")[0]) for line in lines]


def test_the_change_log_is_cut_by_age(engine):
    log(engine, NOW_S - 300, NOW_S - 200, NOW_S - 50, NOW_S)
    assert engine.write(lambda tx: trim(tx, NOW_S, age_s=100, lines=0, limit=10)) == 2
    assert left(engine) == [NOW_S - 50, NOW_S]
    log(engine, NOW_S + 1)
    assert engine.write(lambda tx: trim(tx, NOW_S, age_s=100, lines=0, limit=10)) == 0


def test_the_change_log_is_cut_by_lines_in_bounded_steps(engine):
    log(engine, *range(NOW_S, NOW_S + 9))
    assert engine.write(lambda tx: trim(tx, NOW_S, age_s=0, lines=4, limit=3)) == 3
    assert engine.write(lambda tx: trim(tx, NOW_S, age_s=0, lines=4, limit=3)) == 2
    assert left(engine) == [NOW_S + at for at in range(5, 9)]
    assert engine.write(lambda tx: trim(tx, NOW_S, age_s=0, lines=4, limit=3)) == 0
