"""What alarms are judged on: finished charging episodes and finished days.

Whoever computes them calls `replace` and `write_days`; when something really changed, the vehicle
is marked in `episodes_dirty`, and the watcher judges it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import replace as changed
from datetime import date, datetime
from typing import Any

import msgspec
from psycopg import sql
from sqlalchemy import Connection, delete, func, insert, select

from models.alarming import ChargingEpisode, EpisodesDirty, VehicleDay
from models.base import Base
from models.engine import driver

_tables = Base.metadata.tables
_episodes = _tables[ChargingEpisode.__tablename__]
_days = _tables[VehicleDay.__tablename__]
_dirty = _tables[EpisodesDirty.__tablename__]


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """A finished charging episode over [started_at, ended_at), idle to idle."""

    vehicle_key: int
    started_at: datetime
    ended_at: datetime
    fleet_id: int
    vehicle_id: str
    meter_id: str | None
    ac_kwh: float | None
    dc_kwh: float | None
    efficiency: float | None
    efficiency_low: float | None
    efficiency_high: float | None
    raw_ratio: float | None
    reason: str | None
    confidence: str
    charging_hours: float
    avg_ac_power_kw: float | None
    battery_temp_min_c: float | None
    computed_at: datetime


@dataclass(frozen=True, slots=True)
class DayRow:
    """A finished UTC day of a vehicle."""

    vehicle_key: int
    day: date
    ac_kwh: float | None
    dc_kwh: float | None
    idle_ac_kwh: float | None
    idle_hours: float
    charging_hours: float
    confidence: str
    ac_events: Mapping[str, int] = field(default_factory=dict)
    dc_events: Mapping[str, int] = field(default_factory=dict)


def replace(
    conn: Connection,
    vehicle_key: int,
    from_at: datetime,
    to_at: datetime,
    episodes: Sequence[EpisodeRow],
) -> bool:
    """What overlaps [from_at, to_at) is `episodes` now. Whether that changed anything.

    Computing the same again changes nothing and marks nothing; `computed_at` alone is no change.
    """
    overlapping = (
        _episodes.c.vehicle_key == vehicle_key,
        _episodes.c.started_at < to_at,
        _episodes.c.ended_at > from_at,
    )
    found = conn.execute(select(_episodes).where(*overlapping).with_for_update()).mappings()
    before = [EpisodeRow(**row) for row in found]
    if _told(before) == _told(episodes):
        return False
    conn.execute(delete(_episodes).where(*overlapping))
    if episodes:
        conn.execute(insert(_episodes), [asdict(episode) for episode in episodes])
    newest = max(episode.ended_at for episode in [*before, *episodes])
    mark(conn, {vehicle_key: newest})
    return True


def _told(episodes: Sequence[EpisodeRow]) -> list[EpisodeRow]:
    """In order, without when they were computed."""
    bare = [changed(episode, computed_at=episode.ended_at) for episode in episodes]
    return sorted(bare, key=lambda episode: episode.started_at)


def of_vehicle(
    conn: Connection, vehicle_key: int, since: datetime | None = None
) -> list[EpisodeRow]:
    """A vehicle's episodes that ended after `since`, oldest first."""
    query = select(_episodes).where(_episodes.c.vehicle_key == vehicle_key)
    if since is not None:
        query = query.where(_episodes.c.ended_at > since)
    rows = conn.execute(query.order_by(_episodes.c.started_at)).mappings()
    return [EpisodeRow(**row) for row in rows]


_WRITE_DAYS = sql.SQL("""
    INSERT INTO vehicle_days AS d
    SELECT * FROM json_populate_recordset(NULL::vehicle_days, %s::json) ORDER BY vehicle_key, day
    ON CONFLICT (vehicle_key, day) DO UPDATE SET
        (ac_kwh, dc_kwh, idle_ac_kwh, idle_hours, charging_hours, confidence, ac_events, dc_events)
        = (excluded.ac_kwh, excluded.dc_kwh, excluded.idle_ac_kwh, excluded.idle_hours,
           excluded.charging_hours, excluded.confidence, excluded.ac_events, excluded.dc_events)
    WHERE d.* IS DISTINCT FROM excluded.*
    RETURNING vehicle_key, (day + 1)::timestamp AT TIME ZONE 'UTC'
""")


def write_days(conn: Connection, rows: Sequence[DayRow]) -> int:
    """Upsert days, each (vehicle, day) once in `rows`; how many are new or different now."""
    if not rows:
        return 0
    content = msgspec.json.encode([asdict(row) for row in rows]).decode()
    written = driver(conn).execute(_WRITE_DAYS, (content,)).fetchall()
    newest: dict[int, datetime] = {}
    for vehicle_key, ended_at in written:
        newest[vehicle_key] = max(ended_at, newest.get(vehicle_key, ended_at))
    mark(conn, newest)
    return len(written)


def days_of_vehicle(conn: Connection, vehicle_key: int, since: date | None = None) -> list[DayRow]:
    """A vehicle's finished days from `since` on, oldest first."""
    query = select(_days).where(_days.c.vehicle_key == vehicle_key)
    if since is not None:
        query = query.where(_days.c.day >= since)
    return [DayRow(**row) for row in conn.execute(query.order_by(_days.c.day)).mappings()]


def mark(conn: Connection, newest: Mapping[int, datetime]) -> None:
    """Have vehicles judged again: vehicle key -> when the newest of what changed ended."""
    rows: list[dict[str, Any]] = [
        {"vehicle_key": key, "ended_at": ended_at} for key, ended_at in sorted(newest.items())
    ]
    if rows:
        conn.execute(insert(_dirty), rows)


def newest_mark(conn: Connection) -> int:
    """The mark up to which a run of the watcher works."""
    return int(conn.execute(select(func.coalesce(func.max(_dirty.c.id), 0))).scalar_one())


_TAKE = sql.SQL(
    "DELETE FROM episodes_dirty WHERE id IN"
    " (SELECT id FROM episodes_dirty WHERE id <= %s ORDER BY id LIMIT %s) RETURNING vehicle_key"
)


def take_dirty(conn: Connection, limit: int, *, up_to: int) -> tuple[int, set[int]]:
    """Remove up to `limit` marks, none newer than `up_to`: (how many, the vehicles they name).

    What is judged must be read in a LATER statement of the same transaction.
    """
    marks = driver(conn).execute(_TAKE, (up_to, limit)).fetchall()
    return len(marks), {key for (key,) in marks}


def charged_since(
    conn: Connection, fleet_id: int, since: datetime, *, after: int, limit: int
) -> list[int]:
    """The next vehicles of a fleet with an episode that ended after `since`, by key.

    Uses index: charging_episodes_fleet_idx.
    """
    c = _episodes.c
    query = (
        select(c.vehicle_key)
        .distinct()
        .where(c.fleet_id == fleet_id, c.ended_at > since, c.vehicle_key > after)
        .order_by(c.vehicle_key)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())
