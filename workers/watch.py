"""The watcher: vehicles with new evidence are judged again, and their alarms made to say so.

1. Conditions of the present (a silent side, a clock that is off) are looked at.
2. Vehicles whose charging episodes or days changed are judged from all their evidence
   (workers/alarms/), and their alarms brought in line. Running twice, late or after a crash ends in
   the same alarms, because nothing is carried over but what people did.
3. Time passes for the others: shelves end, alarms go stale, critical ones speak up again.

Each step in short transactions under one advisory lock, as the rollup does it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from models import alarms, episodes, locks, rollups, standing
from models.engine import transaction
from models.rollups import Supply
from workers.alarms import lifecycle, live, rules
from workers.alarms.book import apply
from workers.alarms.engine import Judgement, chains, judge
from workers.alarms.live import Condition
from workers.alarms.reconcile import Draft, pass_time, reconcile
from workers.alarms.source import as_day, as_episode, in_force
from workers.alarms.thresholds import Thresholds
from workers.alone import Overlap, alone
from workers.celery import app
from workers.metrics import WATCH_SECONDS

log = structlog.get_logger(__name__)

#: Marks taken per transaction. Judging a vehicle with two years of evidence takes about 0.1 s.
DIRTY_BITE = 20
#: Vehicles looked at, and alarms passed time over, per transaction.
PAGE = 1_000
#: A run stops taking further bites after this long; the next one goes on. Short, because rollup
#: ticks wait in the same queue.
RUN_SECONDS = 5.0


@app.task(name="watch-alarms", ignore_result=True)
def watch_alarms() -> dict[str, int]:
    """One run; the result tells Flower how much there was to do."""
    with WATCH_SECONDS.time():
        return watch(datetime.now(UTC))


def watch(now: datetime) -> dict[str, int]:
    """Bring all alarms up to date as of `now`."""
    deadline = time.monotonic() + RUN_SECONDS
    limits, judged = in_force(), 0
    try:
        _look_at_the_present(limits, now)
        with transaction() as conn:
            newest = episodes.newest_mark(conn)
        while (bite := _judge_some(limits, newest, now)) is not None:
            judged += bite
            if time.monotonic() > deadline:
                break
        _pass_time(now)
    except Overlap:
        log.info("another watcher is at work")
    return {"vehicles": judged}


# --- evidence -------------------------------------------------------------------------------------


def _judge_some(limits: Thresholds, newest: int, now: datetime) -> int | None:
    """Judge the vehicles of one bite of marks; how many, None when no mark was left."""
    with alone(locks.ALARMS) as conn:
        marks, keys = episodes.take_dirty(conn, DIRTY_BITE, up_to=newest)
        if not marks:
            return None
        for vehicle in alarms.vehicles(conn, keys):
            _judge(conn, limits, vehicle, now)
    return len(keys)


def _judge(conn: Connection, limits: Thresholds, vehicle: Mapping[str, Any], now: datetime) -> None:
    key = vehicle["key"]
    known = episodes.of_vehicle(conn, key)
    days = episodes.days_of_vehicle(conn, key)
    resolved = alarms.resolved_by_hand(conn, key)
    found = judge(map(as_episode, known), map(as_day, days), limits, resolved)
    present = [
        live.span_of(row, resolved.get(row["rule"], ()))
        for row in alarms.opened_conditions(conn, key)
    ]
    stored = alarms.of_vehicle(conn, key)
    changes = reconcile(
        stored, chains([*found.spans, *present]), vehicle_id=vehicle["device_id"], now=now
    )
    meter_id = next((row.meter_id for row in reversed(known) if row.meter_id), None)
    subject = {
        "fleet_id": vehicle["fleet_id"],
        "vehicle_key": key,
        "vehicle_id": vehicle["device_id"],
        "meter_id": meter_id,
    }
    for change in changes:
        apply(conn, change, subject)
    _learn(conn, found, vehicle, now)


def _learn(conn: Connection, found: Judgement, vehicle: Mapping[str, Any], now: datetime) -> None:
    told = {"vehicle_key": vehicle["key"], "fleet_id": vehicle["fleet_id"], "updated_at": now}
    alarms.write_baseline(conn, {**asdict(found.baseline), **told})
    standing.show(conn, vehicle["key"])


# --- the present ----------------------------------------------------------------------------------


def _look_at_the_present(limits: Thresholds, now: datetime) -> None:
    """A8 and A10, page by page of vehicles."""
    after_key = 0
    while True:
        with alone(locks.ALARMS) as conn:
            keys = rollups.vehicles_after(conn, after_key, PAGE)
            if not keys:
                return
            supplies = rollups.supplies(conn, now - timedelta(seconds=1), now, keys)
            _streams(conn, limits, supplies, now)
            _clocks(conn, limits, supplies, now)
        after_key = keys[-1]


def _streams(
    conn: Connection, limits: Thresholds, supplies: Sequence[Supply], now: datetime
) -> None:
    pairs = [(s.vehicle_key, s.meter_key) for s in supplies if s.meter_key is not None]
    seen = alarms.silent_sides(conn, pairs, quiet_seconds=limits.stale_min_seconds)
    sights = {
        row["vehicle_key"]: live.stream_sight(
            limits,
            last_at=min(row["meter_at"], row["vehicle_at"]),
            interval_seconds=row["interval_seconds"],
            partner_moved=bool(row["partner_moved"]),
            now=now,
        )
        for row in seen
    }
    _keep(conn, limits, rules.STREAM, sights, now)


def _clocks(
    conn: Connection, limits: Thresholds, supplies: Sequence[Supply], now: datetime
) -> None:
    skews = alarms.skews(conn, [s.vehicle_key for s in supplies])
    sights = {
        key: live.skew_sight(limits, skew_seconds=seconds, now=now)
        for key, seconds in skews.items()
    }
    _keep(conn, limits, rules.SKEW, sights, now)


def _keep(
    conn: Connection,
    limits: Thresholds,
    rule: str,
    sights: Mapping[int, live.Sight],
    now: datetime,
) -> None:
    """Write what became of conditions; those that opened or ended have their vehicle judged."""
    known = alarms.conditions(conn, rule, list(sights))
    told: dict[int, datetime] = {}
    for key, sight in sights.items():
        row = known.get(key)
        before = _condition(row) if row is not None else None
        after = live.step(limits, before, sight, now)
        if after == before:
            continue
        values = {"vehicle_key": key, **asdict(after)} if after is not None else None
        alarms.put_condition(conn, row["id"] if row is not None else None, values)
        if after is not None and _transition(before, after):
            told[key] = now
    episodes.mark(conn, told)


def _condition(row: Mapping[str, Any]) -> Condition:
    return Condition(**{name: row[name] for name in Condition.__slots__})


def _transition(before: Condition | None, after: Condition) -> bool:
    opened_before = before.opened_at if before is not None else None
    return after.opened_at != opened_before or after.ended_at is not None


# --- time -----------------------------------------------------------------------------------------


def _pass_time(now: datetime) -> None:
    """Over every unresolved alarm, page by page."""
    after = 0
    while True:
        with alone(locks.ALARMS) as conn:
            rows = alarms.unresolved(conn, after=after, limit=PAGE)
            for row in rows:
                if _passed(row, now).change:
                    # Most alarms stand as they are; the others are locked and looked at again.
                    held = alarms.one(conn, row["fleet_id"], row["id"], lock=True)
                    assert held is not None  # noqa: S101  (alarms are never deleted)
                    if held["state"] != lifecycle.RESOLVED:
                        apply(conn, _passed(held, now).change)
        if not rows:
            return
        after = rows[-1]["id"]


def _passed(row: Mapping[str, Any], now: datetime) -> Draft:
    draft = Draft(row)
    pass_time(draft, now)
    return draft
