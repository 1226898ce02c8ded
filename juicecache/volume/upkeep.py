"""Periodic work without which a volume rots, done by one of the clients that are there.

A client that changes the volume takes part from its first change on, in one thread; readers do
nothing. Laws:

* A job runs under its lease, so once an interval whatever the number of clients; official clients
  take the same leases.
* What fails is logged, told by `Upkeep.stats`, and tried again an interval later. A job that is
  killed has done part of its work, and the next one does the rest.
* Nothing waits for a job for longer than one of its transactions.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from juicecache.meta import leases
from juicecache.volume.backup import back_up
from juicecache.volume.collector import Collector
from juicecache.volume.parts import Parts

_log = logging.getLogger("juicecache")

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
"""Between two looks at all slice lists of the volume."""
_CHANGE_LOG_S = 300.0
_DELETED_AGE_S = 3600.0
"""A removed file is left to who removed it for as long as the official client leaves it."""
_LINES = 1000
"""Lines of the change log that one transaction removes."""


class Job(NamedTuple):
    """Work under a lease; ``interval_s`` of 0 is the heartbeat."""

    name: str
    lease: str
    interval_s: float
    run: Callable[[Collector], None]


@dataclass(frozen=True, slots=True)
class JobStats:
    """What this process did of a job: ``runs`` under its lease, and what was found in them."""

    name: str
    runs: int = 0
    found: int = 0
    last_run_s: float = 0.0
    last_error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Upkeep:
    """The jobs of one volume, in this process.

    Parameters
    ----------
    parts
        Held weakly: a volume that is dropped without being closed ends the thread.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = weakref.ref(parts)
        self._heartbeat_s = parts.options.heartbeat_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._jobs: tuple[Job, ...] = _JOBS
        if parts.options.backup_meta_s:
            backup = Job("backup", leases.BACKUP, parts.options.backup_meta_s, _backup)
            self._jobs = (*_JOBS, backup)
        self._stats = {job.name: JobStats(job.name) for job in self._jobs}

    def stats(self) -> tuple[JobStats, ...]:
        """Return what was done so far, a job each."""
        return tuple(self._stats.values())

    def start(self) -> None:
        """Begin, about a heartbeat from now: short-lived clients have no time for it."""
        self._thread = threading.Thread(target=self._run, name="juicecache-upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; waits for the transaction at hand."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        # Never in step with other clients.
        while not self._stop.wait(self._heartbeat_s * random.uniform(0.8, 1.2)):
            if self._parts() is None:
                return
            self.run_due()

    def run_due(self) -> None:
        """Run the jobs whose leases are free; returns early when `close` is called."""
        for job in self._jobs:
            parts = self._parts()
            if parts is None or self._stop.is_set():
                return
            try:
                self._run_job(job, parts)
            except Exception as error:  # a full disk too: the other jobs go on, for years
                self._note(job, error=str(error))
                _log.warning("upkeep: %s: %s", job.name, error)

    def _run_job(self, job: Job, parts: Parts) -> None:
        gate = parts.meta.gate
        gate.check_writable("/")
        now_s = gate.now_ns() // 1_000_000_000
        interval_s = job.interval_s or self._heartbeat_s
        # Looked at first: most clients find most leases taken, and need no lock to see it.
        lease = job.lease, now_s, interval_s
        if not parts.engine.read(lambda tx: leases.is_free(tx, *lease)):
            return
        if not parts.engine.write(lambda tx: leases.take_lease(tx, *lease)):
            return
        collector = Collector(parts, delete=True, stop=self._stop)
        job.run(collector)
        report = collector.report
        found = sum(value for value in report.to_dict().values() if isinstance(value, int))
        error = report.errors[0] if report.errors else ""
        self._note(job, found=found, ran=True, error=error)
        if error:
            _log.warning("upkeep: %s: %s", job.name, error)

    def _note(self, job: Job, *, error: str, found: int = 0, ran: bool = False) -> None:
        old = self._stats[job.name]
        when = time.time() if ran else old.last_run_s
        self._stats[job.name] = JobStats(job.name, old.runs + ran, old.found + found, when, error)


def attach(parts: Parts) -> Upkeep | None:
    """Let the jobs begin with the first change of a volume; None where they are switched off."""
    gate = parts.meta.gate
    if parts.options.no_bgjob or gate.read_only:
        return None
    upkeep = Upkeep(parts)
    gate.before_first_change = upkeep.start
    parts.closing.append(upkeep.close)
    return upkeep


def _backup(collector: Collector) -> None:
    back_up(collector.parts, collector.stop)


def _slices(collector: Collector) -> None:
    collector.collect_delayed()
    collector.collect_dead_slices()


def _files(collector: Collector) -> None:
    collector.collect_deleted_files(min_age_s=_DELETED_AGE_S)
    collector.collect_detached()


def _change_log(collector: Collector) -> None:
    collector.trim_change_log(_LINES)


_JOBS = (
    Job("stale sessions", leases.STALE_SESSIONS, 0.0, Collector.collect_sessions),
    Job("removed files", leases.DELETED_FILES, _HOUR_S, _files),
    Job("slices", leases.SLICES, _HOUR_S, _slices),
    Job("repacking", leases.REPACK, _DAY_S, Collector.repack),
    Job("trash", leases.TRASH, _HOUR_S, Collector.collect_trash),
    Job("change log", leases.CHANGE_LOG, _CHANGE_LOG_S, _change_log),
)
