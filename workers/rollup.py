"""The rollup: what new and late readings touched is recomputed, hours first, then 24 h summaries.

1. Dirty hours are recomputed wholly from history, never incremented: running twice, late or after
   a crash ends in the same rows. Steps that are no plain rise are judged (workers/hourly.py).
2. The window [now - 24 h, now) of each vehicle that this touched, or whose summary has become old,
   is read (models/windows.py), judged (workers/performance.py) and written as one row to
   `vehicle_performance_24h`.

Nearly all registers only rise, and send on and on. Of these both steps are done out of memory
(workers/steady/), which says the same and costs what is new.

Both steps run in short transactions under one advisory lock, so a second tick that overlaps the
first leaves at once instead of doing the work twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from models import evidence, locks, rollups
from models.clock import from_us
from models.engine import transaction
from models.kinds import KINDS, Kind
from workers import stream
from workers.alone import Overlap, alone
from workers.celery import app
from workers.metrics import ROLLUP_SECONDS
from workers.performance import summarise
from workers.steady.memory import Memory
from workers.stream import StreamUnavailable

log = structlog.get_logger(__name__)

WINDOW = timedelta(hours=24)  # exactly 86,400 s, never a local day
#: Marks taken per transaction: a back-filled year is worked off in bites the statement timeout
#: admits.
DIRTY_BITE = 20_000
#: Vehicles summarised per transaction: few, and many once they are found to be steady.
VEHICLE_PAGE, STEADY_PAGE = 200, 5_000
#: A vehicle that sends nothing is summarised again after this long: its window has moved.
SUMMARY_AGE = timedelta(seconds=60)
#: A tick stops summarising after this long, to leave room for ingestion on a small machine. In a
#: fleet too large for that, each summary is renewed as often as the machine can, the oldest first.
SUMMARY_SECONDS = 4.0
#: A tick stops taking further bites after this long; the next one goes on.
TICK_SECONDS = 60.0

#: While a reading has waited for longer than this to be stored, ingestion goes first: hours that
#: readings keep coming into would only be computed again.
BEHIND_SECONDS = 0.5
#: So few that wait are no crowd: one of them may be stuck (docs/adr/0012).
FEW_ENTRIES = 5
#: But the last whole tick must not lie further back than this.
MOST_WAIT_SECONDS = 30.0

memory = Memory()
_ticked_at = -math.inf  # monotonic seconds


@app.task(name="roll-up", ignore_result=True)
def roll_up() -> dict[str, int | str]:
    """One tick; the result tells Flower how much there was to do."""
    global _ticked_at  # noqa: PLW0603  (the process's own)
    waits = time.monotonic() - _ticked_at < MOST_WAIT_SECONDS
    try:
        with ROLLUP_SECONDS.time():
            told = tick(datetime.now(UTC), _give_way if waits else _go_on)
    except GaveWay:
        return {"waits": "for readings to be stored"}
    _ticked_at = time.monotonic()
    return told


class GaveWay(Exception):
    """Readings wait. What was done stands; the next tick goes on."""


def _go_on() -> None:
    """Give way to nobody."""


def _give_way() -> None:
    """Raises GaveWay while readings come faster than they are stored."""
    try:
        backlogs = [stream.backlog(kind) for kind in KINDS.values()]
    except StreamUnavailable:  # then none come either
        return
    if any(b.entries > FEW_ENTRIES and b.oldest_seconds > BEHIND_SECONDS for b in backlogs):
        raise GaveWay


def tick(now: datetime, between: Callable[[], None] = _go_on) -> dict[str, int | str]:
    """Bring the hourly rows up to date, and the 24 h up to `now` of the vehicles this touched.

    `between` is called before each transaction, and ends the tick by raising GaveWay.
    """
    between()
    deadline = time.monotonic() + TICK_SECONDS
    complete_through: datetime | None = _complete_through()
    vehicles, hours = 0, {kind.name: 0 for kind in KINDS.values()}
    try:
        for kind, newest in _newest_marks().items():
            for bite in _bites(kind, newest, now - WINDOW):
                hours[kind.name] += bite
                between()
                if time.monotonic() > deadline:
                    complete_through = None  # unless there happens to be nothing left
                    break
        vehicles = _summarise_due(now, complete_through, between)
    except Overlap:
        log.info("another tick is at work")
    except GaveWay:  # between transactions: what is remembered stays true
        raise
    except BaseException:
        memory.clear()  # what was changed in it may have been rolled back
        raise
    return {"vehicles": vehicles, "meterHours": hours["meter"], "vehicleHours": hours["vehicle"]}


def _complete_through() -> datetime:
    """Every reading acknowledged before this instant is in PostgreSQL now.

    Taken BEFORE the database is read: what leaves the stream later only makes the numbers more
    complete than they say.
    """
    now_us = stream.now_us()  # before looking: an entry that comes in between is younger
    waiting = [us for kind in KINDS.values() if (us := stream.oldest_us(kind)) is not None]
    return from_us(min([now_us, *waiting]))


def _newest_marks() -> dict[Kind, int]:
    """Where this tick ends: readings that keep coming must not keep it from the summary.

    Taken AFTER `_complete_through`, so all that it promises is marked by then.
    """
    with transaction() as conn:
        return {kind: rollups.newest_mark(conn, kind) for kind in KINDS.values()}


def _bites(kind: Kind, newest: int, window_from: datetime) -> Iterator[int]:
    """Recompute dirty hours bite by bite; how many marks each time."""
    bite = DIRTY_BITE
    while bite == DIRTY_BITE:  # a smaller one was the last
        bite = _refresh_some(kind, newest, window_from)
        yield bite


def _refresh_some(kind: Kind, newest: int, window_from: datetime) -> int:
    """Recompute one bite of dirty hours; how many marks were worked off."""
    with alone(locks.ROLLUP) as conn:
        memory.take_turn(conn)
        marks = rollups.take_dirty(conn, kind, DIRTY_BITE, up_to=newest)
        if not len(marks):
            return 0
        device_keys, hours_us = memory.refresh(conn, kind, marks)
        shown = rollups.shown_since(conn, kind, device_keys, hours_us, window_from)
        rollups.mark_vehicles(conn, kind, shown)
        evidence.mark(conn, kind, device_keys, hours_us)
    return int(marks["marks"].sum())


def _summarise_due(
    now: datetime, complete_through: datetime | None, between: Callable[[], None]
) -> int:
    """Write the summaries that are due, the oldest first, page by page; how many vehicles."""
    told = {"data_complete_through": complete_through, "computed_at": now}
    vehicles, page, deadline = 0, VEHICLE_PAGE, time.monotonic() + SUMMARY_SECONDS
    while True:
        with alone(locks.ROLLUP) as conn:
            due = rollups.take_due(conn, now, now - SUMMARY_AGE, page)
            steady = _summarise(conn, due, now, told) if due else 0
        vehicles += len(due)
        if len(due) < page:
            return vehicles
        if time.monotonic() > deadline:
            log.info("the rest of the summaries is the next tick's", written=vehicles)
            return vehicles
        between()
        page = STEADY_PAGE if steady > len(due) - VEHICLE_PAGE // 10 else VEHICLE_PAGE


def _summarise(
    conn: Connection, vehicle_keys: Sequence[int], now: datetime, told: dict[str, Any]
) -> int:
    """Write the summaries of these vehicles; how many of them are steady."""
    memory.take_turn(conn)
    window = now - WINDOW, now
    steady = memory.summarise(conn, rollups.supplies(conn, *window, vehicle_keys), *window)
    rollups.write_performance_columns(conn, steady.columns | told)
    rows = summarise(conn, steady.rest, *window)
    rollups.write_performance(conn, [row | told for row in rows])
    return len(vehicle_keys) - len(rows)
