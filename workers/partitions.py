"""Keeps the calendar of history partitions: made ahead of time, dropped after retention.

Partitions exist for the past week (late readings) and the next one. Each is made in a transaction
of its own, so a day that can't be made now (a lock is held) stops neither the others nor ingestion:
its readings go to the default partition and are moved at the next run. What an index has grown too
large by is given back.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg
import structlog
from sqlalchemy import Connection

import settings
from models import locks, partitions
from models.engine import reading, transaction
from models.kinds import KINDS, Kind
from workers.celery import app

log = structlog.get_logger(__name__)

DAYS_BACK, DAYS_AHEAD = 7, 7
#: After this long no further index is begun; the next look goes on.
PACKING_SECONDS = 30.0


@app.task(name="keep-partitions", ignore_result=True)
def keep_partitions() -> dict[str, int]:
    """One look at the calendar; the result tells Flower what was done."""
    return keep(datetime.now(UTC), settings.load().retention_days)


def keep(now: datetime, retention_days: int) -> dict[str, int]:
    """Make missing partitions around `now`; drop those past `retention_days` (0: keep all)."""
    done = {"created": 0, "moved": 0, "dropped": 0, "purged": 0, "packed": 0, "failed": 0}
    for kind in KINDS.values():
        _create_missing(kind, now, min(DAYS_BACK, retention_days or DAYS_BACK), done)
        if retention_days:
            _drop_expired(kind, now - timedelta(days=retention_days), done)
    _pack(done)
    if any(done.values()):
        log.info("partitions kept", **done)
    return done


def _create_missing(kind: Kind, now: datetime, days_back: int, done: dict[str, int]) -> None:
    wanted = {now.date() + timedelta(days=n) for n in range(-days_back, DAYS_AHEAD + 1)}
    with transaction() as conn:
        missing = wanted - partitions.days(conn, kind)
    for day in sorted(missing):
        try:
            with transaction() as conn:
                done["moved"] += partitions.create(conn, kind, day)
            done["created"] += 1
        except psycopg.errors.DuplicateTable:  # another worker was faster
            continue
        except psycopg.OperationalError as error:  # a lock timeout: next time
            done["failed"] += 1
            log.warning("partition not made", kind=kind.name, day=str(day), error=str(error))


def _drop_expired(kind: Kind, before: datetime, done: dict[str, int]) -> None:
    with transaction() as conn:
        expired = {d for d in partitions.days(conn, kind) if d < before.date()}
        for day in sorted(expired):
            partitions.drop(conn, kind, day)
        done["dropped"] += len(expired)
        done["purged"] += partitions.purge_default(conn, kind, before)


def _pack(done: dict[str, int]) -> None:
    """Make sparse indexes anew, the largest first, one worker at a time."""
    deadline = time.monotonic() + PACKING_SECONDS
    with reading() as conn, locks.held(conn, locks.PACKING) as alone:
        for kind in KINDS.values() if alone else ():
            try:
                _pack_kind(conn, kind, deadline, done)
            except psycopg.OperationalError as error:  # a lock, or time is up: next time
                done["failed"] += 1
                log.warning("index not packed", kind=kind.name, error=str(error))


def _pack_kind(conn: Connection, kind: Kind, deadline: float, done: dict[str, int]) -> None:
    partitions.clear_left_behind(conn, kind)
    for index in partitions.sparse(conn, kind):
        if time.monotonic() > deadline:
            return
        partitions.pack(conn, index)
        done["packed"] += 1
