"""The evidence of alarms: finished charging episodes and finished days, out of the hourly rows.

An episode reaches from idle to idle, so both registers are flat at its ends: no clock and no phase
between the two sides can shift energy in or out of it. It is found again from the hours whenever
one of them changes, and so says the same in whatever order readings came.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any

import structlog
from sqlalchemy import Connection

from models import episodes, evidence, locks, rollups
from models.clock import from_us
from models.episodes import DayRow, EpisodeRow
from models.evidence import Touched
from workers import charging
from workers.alone import Overlap, alone
from workers.celery import app
from workers.charging import PAUSE_US
from workers.energy import Span
from workers.performance import charging_steps, over_windows
from workers.savings import mean_power_kw
from workers.timeline import BORDER_US

log = structlog.get_logger(__name__)

#: How far before and after what changed an episode may reach; a longer one is not seen.
REACH = timedelta(hours=36)
#: A day is finished this long after its end: its last readings have come in by then.
DAY_GRACE = timedelta(minutes=15)
#: Vehicles per transaction: years that were back-filled take seconds each, and a task has minutes.
PAGE = 5
#: A run leaves the rest to the next one after this long.
RUN_SECONDS = 30.0
ONE_DAY = timedelta(days=1)


@app.task(name="find-episodes", ignore_result=True)
def find_episodes() -> dict[str, int]:
    """One run; the result tells Flower how much there was to do."""
    return find(datetime.now(UTC))


def find(now: datetime) -> dict[str, int]:
    """Bring episodes and days up to date as of `now`; how many vehicles were looked at."""
    deadline, looked = time.monotonic() + RUN_SECONDS, 0
    finished = (now - DAY_GRACE).date() - ONE_DAY
    try:
        with alone(locks.EPISODES) as conn:
            evidence.begin_day(conn, finished)
            newest = evidence.newest_mark(conn)
        while time.monotonic() < deadline:
            with alone(locks.EPISODES) as conn:
                touched = evidence.take(conn, PAGE, up_to=newest)
                for vehicle in touched:
                    _find(conn, vehicle, finished, now)
            looked += len(touched)
            if not touched:
                break
    except Overlap:
        log.info("another search for episodes is at work")
    return {"vehicles": looked}


def _find(conn: Connection, vehicle: Touched, finished: date, now: datetime) -> None:
    """Look at all episodes that what was touched can be part of, and at the days it lies in."""
    for first, last in _spells(vehicle.hours):
        begin, end = first - REACH, min(last + timedelta(hours=1) + REACH, now)
        _replace_episodes(conn, vehicle.vehicle_key, begin, end, now)
    days = {hour.date() for hour in vehicle.hours if hour.date() <= finished}
    _write_days(conn, vehicle.vehicle_key, sorted(days))


def _spells(hours: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """The hours in runs whose surroundings overlap: (first, last) of each."""
    ordered = sorted(hours)
    first = last = ordered[0]
    for hour in ordered[1:]:
        if hour - last > REACH:
            yield first, last
            first = hour
        last = hour
    yield first, last


def _replace_episodes(
    conn: Connection, vehicle_key: int, begin: datetime, end: datetime, now: datetime
) -> None:
    supplies = rollups.supplies(conn, begin, end, [vehicle_key])
    steps = charging_steps(conn, supplies, (begin, end))
    if not steps:
        episodes.replace(conn, vehicle_key, begin, end, [])
        return
    span = Span(steps[0].from_us, steps[-1].to_us)
    spans = _with_margins(charging.sessions(steps), span)
    # What reaches over either end is another look's: only what is whole here is replaced.
    whole = [s for s in spans if s.from_us > span.from_us and s.to_us <= span.to_us - PAUSE_US]
    cut = [s.to_us for s in spans if s.from_us <= span.from_us]
    windows = [(from_us(s.from_us), from_us(s.to_us)) for s in whole]
    rows = over_windows(conn, supplies, windows) if windows else []
    found = [_episode(row, now) for row in rows]
    episodes.replace(conn, vehicle_key, from_us(cut[0]) if cut else begin, end, found)


def _with_margins(sessions: Sequence[Span], span: Span) -> list[Span]:
    """Each session with a step of idling on either side, as far as the span reaches."""
    return [
        Span(max(s.from_us - BORDER_US, span.from_us), min(s.to_us + BORDER_US, span.to_us))
        for s in sessions
    ]


def _write_days(conn: Connection, vehicle_key: int, days: Sequence[date]) -> None:
    if not days:
        return
    windows = [(midnight, midnight + ONE_DAY) for midnight in map(_midnight, days)]
    supplies = rollups.supplies(conn, windows[0][0], windows[-1][1], [vehicle_key])
    rows = over_windows(conn, supplies, windows)
    episodes.write_days(conn, [_day(day, row) for day, row in zip(days, rows, strict=True)])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, clock.min, UTC)


def _episode(row: Mapping[str, Any], now: datetime) -> EpisodeRow:
    power_kw = mean_power_kw(row)
    same = {
        name: row[name]
        for name in (
            "vehicle_key",
            "fleet_id",
            "vehicle_id",
            "meter_id",
            "ac_kwh",
            "dc_kwh",
            "efficiency",
            "efficiency_low",
            "efficiency_high",
            "raw_ratio",
            "reason",
            "confidence",
            "battery_temp_min_c",
        )
    }
    return EpisodeRow(
        started_at=row["window_from"],
        ended_at=row["window_to"],
        charging_hours=row["charging_hours"] or 0.0,
        avg_ac_power_kw=None if power_kw is None else round(power_kw, 4),
        computed_at=now,
        **same,
    )


def _day(day: date, row: Mapping[str, Any]) -> DayRow:
    return DayRow(
        vehicle_key=row["vehicle_key"],
        day=day,
        ac_kwh=row["ac_kwh"],
        dc_kwh=row["dc_kwh"],
        idle_ac_kwh=row["idle_ac_kwh"],
        idle_hours=row["idle_hours"] or 0.0,
        charging_hours=row["charging_hours"] or 0.0,
        confidence=row["confidence"],
        ac_events=dict(row["ac_events"]),
        dc_events=dict(row["dc_events"]),
    )
