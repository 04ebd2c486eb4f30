"""Ticks of the rollup in a process of their own, as a worker's child has it.

What a tick keeps in memory for the next one belongs to that process: its later ticks are warm, the
first one of a new process is cold.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from models.engine import transaction
from models.kinds import KINDS
from workers import logs, rollup
from workers.celery import settle


@dataclass(frozen=True, slots=True)
class Ticked:
    """What it took until nothing was left to do."""

    seconds: float
    cpu_seconds: float
    ticks: int
    hours: int


class Ticker:
    """The process. The time to reach it is not counted."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def until_clean(self, now: datetime) -> Ticked:
        """Tick as of `now` until nothing is dirty: a tick ends early when there is much to do."""
        return self._pool.submit(_until_clean, now).result()


@contextmanager
def ticking() -> Iterator[Ticker]:
    """A new process that has not ticked yet; gone when the block ends."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_become_worker) as pool:
        pool.submit(int).result()  # it is there, and has loaded everything
        yield Ticker(pool)


def _become_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    logs.configure()
    logging.getLogger().setLevel(logging.WARNING)
    settle()


def _until_clean(now: datetime) -> Ticked:
    began, cpu_began = time.monotonic(), time.process_time()
    ticks = hours = 0
    while True:
        told = rollup.tick(now)
        ticks += 1
        hours += int(told["meterHours"]) + int(told["vehicleHours"])
        if not _dirty():
            seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
            return Ticked(seconds, cpu_seconds, ticks, hours)


def _dirty() -> bool:
    names = [*(kind.dirty.name for kind in KINDS.values()), "vehicles_dirty"]
    statement = sql.SQL(" UNION ALL ").join(
        sql.SQL("(SELECT 1 FROM {} LIMIT 1)").format(sql.Identifier(name)) for name in names
    )
    with transaction() as conn:
        return conn.exec_driver_sql(statement.as_string(None)).first() is not None
