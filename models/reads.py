"""What the API reads. Every query begins with the caller's fleet and ends with a bounded page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection, Row, Select, select, tuple_

from models.derived import VehiclePerformance
from models.engine import driver
from models.kinds import Kind
from models.registry import Device

_performance = VehiclePerformance.__table__


#: LIMIT keeps the planner from joining in any other way than by one index lookup each.
_PERFORMANCES = """
    SELECT summary.*
    FROM unnest(%s::integer[], %s::text[]) AS wanted (fleet_id, vehicle_id)
    CROSS JOIN LATERAL (
        SELECT * FROM vehicle_performance_24h AS p
        WHERE p.fleet_id = wanted.fleet_id AND p.vehicle_id = wanted.vehicle_id
        LIMIT 1
    ) AS summary
"""


def performance(conn: Connection, fleet_id: int, vehicle_id: str) -> dict[str, Any] | None:
    """One vehicle's summary row."""
    with driver(conn).cursor(row_factory=dict_row, binary=True) as cursor:
        return cursor.execute(_PERFORMANCES, _arrays([(fleet_id, vehicle_id)])).fetchone()


async def performances(
    conn: psycopg.AsyncConnection[Any], wanted: Iterable[Device]
) -> dict[Device, dict[str, Any]]:
    """The summary rows of these (fleet, vehicle), without those that have none.

    Uses index: vehicle_performance_24h (fleet_id, vehicle_id), once for each.
    Straight to the driver: the question asked most often, and SQLAlchemy would double its cost. The
    ids are those of devices (models/kinds.py): nothing in them needs an escape in an array literal.
    """
    async with conn.cursor(row_factory=dict_row, binary=True) as cursor:
        await cursor.execute(_PERFORMANCES, _arrays(wanted))
        rows = await cursor.fetchall()
    return {(row["fleet_id"], row["vehicle_id"]): row for row in rows}


def _arrays(wanted: Iterable[Device]) -> tuple[str, str]:
    fleets, vehicles = zip(*dict.fromkeys(wanted), strict=True)
    return "{" + ",".join(map(str, fleets)) + "}", '{"' + '","'.join(vehicles) + '"}'


def worst_first(
    conn: Connection, fleet_id: int, *, after: tuple[float | None, int] | None, limit: int
) -> Sequence[Row[Any]]:
    """The fleet's summary rows, lowest efficiency first, unknown ones last.

    `after` is the (efficiency, vehicle_key) of the last row seen.
    Uses index: vehicle_performance_24h_worst_first_idx.
    """
    efficiency, key = _performance.c.efficiency, _performance.c.vehicle_key
    query = select(_performance).where(_performance.c.fleet_id == fleet_id)
    if after is not None:
        last, last_key = after
        behind = efficiency.is_(None) & (key > last_key)
        if last is not None:
            behind = (tuple_(efficiency, key) > tuple_(last, last_key)) | efficiency.is_(None)
        query = query.where(behind)
    return conn.execute(query.order_by(efficiency.nulls_last(), key).limit(limit)).all()


def of_fleet(conn: Connection, fleet_id: int) -> Sequence[Row[Any]]:
    """All of a fleet's summary rows. Uses index: its worst-first index begins with the fleet."""
    return conn.execute(select(_performance).where(_performance.c.fleet_id == fleet_id)).all()


def device_key(conn: Connection, kind: Kind, fleet_id: int, device_id: str) -> int | None:
    """The integer of a fleet's device; None when the fleet has no such device."""
    c = kind.devices.c
    query = select(c.key).where(c.fleet_id == fleet_id, c.device_id == device_id)
    found: int | None = conn.execute(query).scalar_one_or_none()
    return found


def devices(
    conn: Connection, kind: Kind, fleet_id: int, *, after: str | None, limit: int
) -> Sequence[Row[Any, Any, Any]]:
    """The fleet's devices by their own id, each with the time of its newest reading."""
    d, latest = kind.devices, kind.latest
    query = (
        select(d.c.device_id, d.c.registered_at, latest.c.recorded_at.label("last_reading_at"))
        .outerjoin(latest, latest.c.device_key == d.c.key)
        .where(d.c.fleet_id == fleet_id)
    )
    if after is not None:
        query = query.where(d.c.device_id > after)
    return conn.execute(query.order_by(d.c.device_id).limit(limit)).all()


def status(conn: Connection, kind: Kind, key: int) -> Row[Any] | None:
    """The hot store: the newest reading of a device, without looking at history."""
    return conn.execute(_values(kind, kind.latest).where(_key(kind.latest, key))).one_or_none()


def telemetry(
    conn: Connection,
    kind: Kind,
    key: int,
    *,
    within: tuple[datetime, datetime],
    after: datetime | None,
    limit: int,
) -> Sequence[Row[Any]]:
    """The cold store: a device's readings in `within` (half-open), oldest first.

    Uses index: the history's primary key (device_key, recorded_at), in the partitions asked for.
    """
    recorded_at, (from_at, to_at) = kind.history.c.recorded_at, within
    query = _values(kind, kind.history).where(
        _key(kind.history, key), recorded_at >= from_at, recorded_at < to_at
    )
    if after is not None:
        query = query.where(recorded_at > after)
    return conn.execute(query.order_by(recorded_at).limit(limit)).all()


def _values(kind: Kind, table: Any) -> Select[Any]:
    """The measures under their public names, with both instants."""
    measures = [table.c[m.column].label(m.field) for m in kind.measures]
    return select(table.c.recorded_at, table.c.received_at, *measures)


def _key(table: Any, key: int) -> Any:
    return table.c.device_key == key
