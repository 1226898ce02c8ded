"""Numbers from counters: never twice."""

from __future__ import annotations

import threading

from juicecache.meta.ids import IdBatch
from juicecache.meta.rows import Counter


def test_numbers_follow_the_counter_in_batches(engine):
    batch = IdBatch(engine, "nextInode", 10)
    assert [batch.take()[0] for _ in range(3)] == [2, 3, 4]
    assert engine.read(lambda tx: tx.get(Counter, "nextInode")) == Counter("nextInode", 12)
    assert batch.take(7) == range(5, 12)
    assert batch.take() == range(12, 13)


def test_a_run_is_consecutive_even_when_it_exceeds_the_batch(engine):
    batch = IdBatch(engine, "nextInode", 10)
    batch.take(4)
    assert batch.take(25) == range(12, 37)


def test_clients_and_threads_never_share_a_number(engine):
    batches = [IdBatch(engine, "nextChunk", 3) for _ in range(2)]
    taken: list[int] = []

    def work(batch: IdBatch) -> None:
        for _ in range(20):
            taken.extend(batch.take(2))

    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == len(taken) == 160


def test_a_counter_that_is_missing_starts_at_zero(engine):
    assert IdBatch(engine, "new", 5).take() == range(1)


def test_numbers_below_the_least_are_left_out(engine):
    batch = IdBatch(engine, "fresh", 3, least=2)
    assert [batch.take()[0] for _ in range(4)] == [2, 3, 4, 5]
    assert IdBatch(engine, "other", 3, least=5).take(4) == range(8, 12)
