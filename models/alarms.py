"""The alarms' SQL: what the watcher reads and writes, and what the API shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Result,
    delete,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from models.alarming import Alarm, AlarmCondition, AlarmTransition, VehicleBaseline
from models.base import Base
from models.registry import Vehicle

_tables = Base.metadata.tables
_alarms = _tables[Alarm.__tablename__]
_transitions = _tables[AlarmTransition.__tablename__]
_conditions = _tables[AlarmCondition.__tablename__]
_baselines = _tables[VehicleBaseline.__tablename__]

#: A row, by column.
Stored = dict[str, Any]


def _all(result: Result[Any]) -> list[Stored]:
    return [dict(row) for row in result.mappings()]


# --- the watcher ----------------------------------------------------------------------------------


def vehicles(conn: Connection, keys: set[int]) -> list[Stored]:
    """(key, fleet_id, device_id) of vehicles, by key."""
    v = Vehicle.__table__.c
    query = select(v.key, v.fleet_id, v.device_id).where(v.key.in_(sorted(keys))).order_by(v.key)
    return _all(conn.execute(query))


def of_vehicle(conn: Connection, vehicle_key: int) -> list[Stored]:
    """All alarms of a vehicle, oldest first, locked against people acting on them meanwhile."""
    query = select(_alarms).where(_alarms.c.vehicle_key == vehicle_key)
    return _all(conn.execute(query.order_by(_alarms.c.id).with_for_update()))


def unresolved(conn: Connection, *, after: int, limit: int) -> list[Stored]:
    """The next unresolved alarms by id. Uses index: alarms_unresolved_idx."""
    query = (
        select(_alarms)
        .where(_alarms.c.state != "resolved", _alarms.c.id > after)
        .order_by(_alarms.c.id)
        .limit(limit)
    )
    return _all(conn.execute(query))


_RESOLVED_BY_HAND = text("""
    SELECT a.rule, t.at FROM alarms a JOIN alarm_transitions t ON t.alarm_id = a.id
    WHERE a.vehicle_key = :vehicle AND t.action = 'resolve'
    ORDER BY t.at
""")


def resolved_by_hand(conn: Connection, vehicle_key: int) -> dict[str, list[datetime]]:
    """When people resolved alarms of a vehicle, by rule."""
    found: dict[str, list[datetime]] = {}
    for rule, at in conn.execute(_RESOLVED_BY_HAND, {"vehicle": vehicle_key}):
        found.setdefault(rule, []).append(at)
    return found


def newest_id(conn: Connection, vehicle_key: int, rule: str) -> int | None:
    """The newest alarm of a vehicle and rule, resolved or not."""
    c = _alarms.c
    query = select(c.id).where(c.vehicle_key == vehicle_key, c.rule == rule)
    found: int | None = conn.execute(query.order_by(c.id.desc()).limit(1)).scalar_one_or_none()
    return found


def add(conn: Connection, values: Mapping[str, Any]) -> Stored:
    """Store a new alarm and return it."""
    return _all(conn.execute(insert(_alarms).values(**values).returning(_alarms)))[0]


def change(conn: Connection, alarm_id: int, values: Mapping[str, Any]) -> Stored:
    """Change a stored alarm and return it."""
    if not values:
        return _all(conn.execute(select(_alarms).where(_alarms.c.id == alarm_id)))[0]
    statement = update(_alarms).where(_alarms.c.id == alarm_id).values(**values)
    return _all(conn.execute(statement.returning(_alarms)))[0]


def add_transitions(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append to the history."""
    if rows:
        conn.execute(insert(_transitions), [dict(row) for row in rows])


def write_baseline(conn: Connection, values: Mapping[str, Any]) -> None:
    """Upsert what is learnt of a vehicle."""
    statement = upsert(_baselines).values(**values)
    same = [_baselines.c.vehicle_key]
    conn.execute(statement.on_conflict_do_update(index_elements=same, set_=dict(values)))


# --- skew: the only query that knows where it is kept ---------------------------------------------

_SKEWS = text("""
    SELECT vehicle_key, max(abs(skew)) FROM (
        SELECT vehicle_key, (side ->> 'skewSeconds')::float8 AS skew
        FROM (SELECT vehicle_key, to_jsonb(p) AS row FROM vehicle_performance_24h p
              WHERE vehicle_key = ANY (:keys)) AS summaries,
             LATERAL (VALUES (row -> 'ac_quality'), (row -> 'dc_quality')) AS sides (side)
        WHERE jsonb_typeof(side) = 'object'
    ) AS known WHERE skew IS NOT NULL GROUP BY vehicle_key
""")


def skews(conn: Connection, vehicle_keys: Sequence[int]) -> dict[int, float]:
    """How far a side's clock is off, s, by vehicle: the worse of its two sides, where known.

    By way of the row as JSON, so that a summary without those columns has no skew to tell.
    """
    rows = conn.execute(_SKEWS, {"keys": list(vehicle_keys)})
    return {row[0]: row[1] for row in rows}


# --- conditions of the present --------------------------------------------------------------------

_SUSPECTS = text("""
    WITH sides AS (
        SELECT * FROM unnest(CAST(:vehicles AS int[]), CAST(:meters AS int[]))
            AS s(vehicle_key, meter_key)
    )
    SELECT s.vehicle_key, m.recorded_at AS meter_at, v.recorded_at AS vehicle_at,
           EXISTS (
               SELECT FROM alarm_conditions c WHERE c.vehicle_key = s.vehicle_key
               AND c.rule = 'STREAM_STALE' AND c.ended_at IS NULL) AS known,
           CASE WHEN m.recorded_at < v.recorded_at - make_interval(secs => :quiet)
                THEN (SELECT extract(epoch FROM h.last_at - h.first_at)::float8
                             / nullif(h.samples - 1, 0)
                      FROM meter_energy_hourly h WHERE h.device_key = s.meter_key
                      ORDER BY hour DESC LIMIT 1)
                WHEN v.recorded_at < m.recorded_at - make_interval(secs => :quiet)
                THEN (SELECT extract(epoch FROM h.last_at - h.first_at)::float8
                             / nullif(h.samples - 1, 0)
                      FROM vehicle_energy_hourly h WHERE h.device_key = s.vehicle_key
                      ORDER BY hour DESC LIMIT 1)
           END AS interval_seconds,
           CASE WHEN m.recorded_at < v.recorded_at
                THEN v.kwh_delivered_dc > (
                    SELECT h.kwh_delivered_dc FROM vehicle_telemetry_history h
                    WHERE h.device_key = s.vehicle_key AND h.recorded_at <= m.recorded_at
                    ORDER BY h.recorded_at DESC LIMIT 1)
                ELSE m.kwh_consumed_ac > (
                    SELECT h.kwh_consumed_ac FROM meter_telemetry_history h
                    WHERE h.device_key = s.meter_key AND h.recorded_at <= v.recorded_at
                    ORDER BY h.recorded_at DESC LIMIT 1)
           END AS partner_moved
    FROM sides s
    JOIN meter_status_latest m ON m.device_key = s.meter_key
    JOIN vehicle_status_latest v ON v.device_key = s.vehicle_key
    WHERE abs(extract(epoch FROM m.recorded_at - v.recorded_at)) > :quiet
       OR EXISTS (SELECT FROM alarm_conditions c WHERE c.vehicle_key = s.vehicle_key
                  AND c.rule = 'STREAM_STALE' AND c.ended_at IS NULL)
""")


def silent_sides(
    conn: Connection, pairs: Sequence[tuple[int, int]], *, quiet_seconds: float
) -> list[Stored]:
    """Of (vehicle key, meter key) pairs those of which one side is behind the other, or was.

    History is looked at for these alone, one index entry each. Uses index: its primary key.
    """
    parameters = {
        "vehicles": [vehicle for vehicle, _ in pairs],
        "meters": [meter for _, meter in pairs],
        "quiet": quiet_seconds,
    }
    return _all(conn.execute(_SUSPECTS, parameters))


def conditions(conn: Connection, rule: str, vehicle_keys: Sequence[int]) -> dict[int, Stored]:
    """Conditions of a rule that have not ended, by vehicle."""
    c = _conditions.c
    query = select(_conditions).where(
        c.rule == rule, c.ended_at.is_(None), c.vehicle_key.in_(list(vehicle_keys))
    )
    return {row["vehicle_key"]: row for row in _all(conn.execute(query))}


def opened_conditions(conn: Connection, vehicle_key: int) -> list[Stored]:
    """A vehicle's conditions that outlasted their on-delay, oldest first."""
    c = _conditions.c
    query = select(_conditions).where(c.vehicle_key == vehicle_key, c.opened_at.is_not(None))
    return _all(conn.execute(query.order_by(c.opened_at)))


def put_condition(
    conn: Connection, condition_id: int | None, values: Mapping[str, Any] | None
) -> None:
    """Store a condition's state; None: it was flutter, and is forgotten."""
    if condition_id is None:
        if values is not None:
            conn.execute(insert(_conditions).values(**values))
    elif values is None:
        conn.execute(delete(_conditions).where(_conditions.c.id == condition_id))
    else:
        same = _conditions.c.id == condition_id
        conn.execute(update(_conditions).where(same).values(**values))


# --- readers --------------------------------------------------------------------------------------


def listed(
    conn: Connection,
    fleet_id: int,
    *,
    state: str | None = None,
    rule: str | None = None,
    vehicle_id: str | None = None,
    severity: str | None = None,
    before: int | None,
    limit: int,
) -> list[Stored]:
    """The fleet's alarms, newest first; `state` may be `stale`. Uses index: alarms_fleet_idx."""
    c = _alarms.c
    wanted: list[ColumnElement[bool]] = [c.fleet_id == fleet_id]
    if state == "stale":
        wanted.append(c.stale)
    elif state is not None:
        wanted.append(c.state == state)
    for column, value in ((c.rule, rule), (c.vehicle_id, vehicle_id), (c.severity, severity)):
        if value is not None:
            wanted.append(column == value)
    if before is not None:
        wanted.append(c.id < before)
    query = select(_alarms).where(*wanted).order_by(c.id.desc()).limit(limit)
    return _all(conn.execute(query))


def one(conn: Connection, fleet_id: int, alarm_id: int, *, lock: bool = False) -> Stored | None:
    """An alarm of the fleet."""
    query = select(_alarms).where(_alarms.c.id == alarm_id, _alarms.c.fleet_id == fleet_id)
    found = _all(conn.execute(query.with_for_update() if lock else query))
    return found[0] if found else None


def history(conn: Connection, alarm_id: int, *, after: int, limit: int) -> list[Stored]:
    """An alarm's transitions in the order in which they were made."""
    c = _transitions.c
    query = select(_transitions).where(c.alarm_id == alarm_id, c.id > after)
    return _all(conn.execute(query.order_by(c.id).limit(limit)))
