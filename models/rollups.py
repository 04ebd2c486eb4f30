"""The rollup's SQL: which hours are dirty, which register serves whom, the summary rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, LiteralString, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from psycopg import sql
from psycopg.rows import args_row
from sqlalchemy import Connection, func, select, text
from sqlalchemy.dialects import postgresql

from models import arrays
from models.clock import HOUR_US, from_us, to_us
from models.derived import VehiclePerformance
from models.engine import driver
from models.kinds import METER, VEHICLE, Kind
from models.registry import Vehicle

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


class Supply(NamedTuple):
    """A vehicle and a meter that served it in [from_at, to_at]; no meter key when none is known."""

    vehicle_key: int
    fleet_id: int
    vehicle_id: str
    meter_key: int | None
    meter_id: str | None
    from_at: datetime
    to_at: datetime


_MARK: dict[Kind, LiteralString] = {
    VEHICLE: "INSERT INTO vehicles_dirty (vehicle_key) SELECT unnest(%(keys)s::int[])",
    METER: """
        INSERT INTO vehicles_dirty (vehicle_key)
        SELECT v.key FROM meters m
        JOIN vehicles v ON v.fleet_id = m.fleet_id
            AND v.device_id = 'vehicle-' || substr(m.device_id, 7)
        WHERE m.key = ANY (%(keys)s::int[]) AND m.device_id LIKE 'meter-_%%'
        UNION
        SELECT vehicle_key FROM meter_assignments WHERE meter_key = ANY (%(keys)s::int[])
    """,
}

_DUE = text("""
    WITH due AS MATERIALIZED (
        SELECT v.key, p.computed_at FROM vehicles v
        LEFT JOIN vehicle_performance_24h p ON p.vehicle_key = v.key
        WHERE p.vehicle_key IS NULL OR p.computed_at < :oldest OR p.computed_at > :now
           OR v.key IN (SELECT vehicle_key FROM vehicles_dirty)
        ORDER BY p.computed_at NULLS FIRST, v.key
        LIMIT :limit
    ), taken AS (
        DELETE FROM vehicles_dirty d USING due WHERE d.vehicle_key = due.key
    )
    SELECT key FROM due
""")


def newest_mark(conn: Connection, kind: Kind) -> int:
    """The mark up to which a tick works; what is marked later is the next one's."""
    newest = select(func.coalesce(func.max(kind.dirty.c.id), 0))
    return int(conn.execute(newest).scalar_one())


_TAKEN: LiteralString = """
    taken AS (
        DELETE FROM {dirty} WHERE id IN
            (SELECT id FROM {dirty} WHERE id <= %(up_to)s ORDER BY id LIMIT %(limit)s)
        RETURNING device_key, hour, from_at
    )
"""
_MARKS: LiteralString = """
    SELECT device_key, hour,
           CASE WHEN bool_and(from_at IS NOT NULL) THEN min(from_at) ELSE '-infinity' END,
           count(*)::int
    FROM taken GROUP BY device_key, hour ORDER BY device_key, hour
"""
_DIRTY_TYPES = {
    "key": arrays.INT,
    "hour_us": arrays.INSTANT,
    "from_us": arrays.INSTANT,
    "marks": arrays.INT,
}


def take_dirty(conn: Connection, kind: Kind, limit: int, *, up_to: int) -> arrays.Array:
    """Remove up to `limit` marks, none newer than `up_to`; what they say, by device and hour.

    Fields: key, hour_us; from_us, the earliest reading that came in, or an instant before all time
    when anything may have changed; marks, how many they are.

    What is recomputed from them must be read in a LATER statement of the same transaction: only
    its snapshot is sure to hold the readings that came with the marks.
    """
    taken = sql.SQL(_TAKEN).format(dirty=sql.Identifier(kind.dirty.name))
    parameters = {"up_to": up_to, "limit": limit}
    return arrays.read(conn, sql.SQL(_MARKS), parameters, _DIRTY_TYPES, first=taken)


_SUPPLIES: LiteralString = """
    WITH page AS (
        SELECT key, fleet_id, device_id FROM vehicles
        WHERE key = ANY (%(keys)s::int[])
    ), assigned AS (
        SELECT page.key, a.meter_key, m.device_id AS meter_id,
               greatest(a.valid_from, %(from_at)s) AS from_at,
               least(coalesce(a.valid_to, %(to_at)s), %(to_at)s) AS to_at
        FROM page
        JOIN meter_assignments a ON a.vehicle_key = page.key
        JOIN meters m ON m.key = a.meter_key
        WHERE a.valid_from < %(to_at)s AND (a.valid_to IS NULL OR a.valid_to > %(from_at)s)
    ), conventional AS (     -- vehicle-XXX <-> meter-XXX, where nobody has assigned either
        SELECT page.key, m.key AS meter_key, 'meter-' || substr(page.device_id, 9) AS meter_id,
               %(from_at)s::timestamptz AS from_at, %(to_at)s::timestamptz AS to_at
        FROM page
        LEFT JOIN meters m ON m.fleet_id = page.fleet_id
            AND m.device_id = 'meter-' || substr(page.device_id, 9)
        WHERE page.device_id LIKE 'vehicle-_%%' AND NOT EXISTS (
            SELECT FROM meter_assignments a WHERE a.vehicle_key = page.key OR a.meter_key = m.key)
    )
    SELECT page.key, page.fleet_id, page.device_id, s.meter_key, s.meter_id,
           coalesce(s.from_at, %(from_at)s), coalesce(s.to_at, %(to_at)s)
    FROM page
    LEFT JOIN (SELECT * FROM assigned UNION ALL SELECT * FROM conventional) AS s USING (key)
    ORDER BY page.key, s.from_at
"""


def vehicles_after(conn: Connection, after_key: int, limit: int) -> list[int]:
    """The next `limit` vehicles of all fleets, by key."""
    query = select(Vehicle.key).where(Vehicle.key > after_key).order_by(Vehicle.key).limit(limit)
    return list(conn.execute(query).scalars())


def mark_vehicles(conn: Connection, kind: Kind, device_keys: npt.ArrayLike) -> None:
    """Note that the summaries of the vehicles that these devices are, or serve, are out of date."""
    keys = arrays.packed(arrays.INT, device_keys)
    driver(conn).execute(_MARK[kind], {"keys": keys})


#: Uses index: {hourly}'s primary key (device_key, hour).
_SHOWN: LiteralString = """
    SELECT device_key FROM unnest(%(keys)s::int[], %(hours)s::timestamptz[]) AS t (device_key, hour)
    WHERE NOT EXISTS (
        SELECT FROM {hourly} h WHERE h.device_key = t.device_key
           AND h.hour > t.hour AND h.hour < %(since)s)
"""


def shown_since(
    conn: Connection, kind: Kind, keys: arrays.Array, hours_us: arrays.Array, since: datetime
) -> arrays.Array:
    """Those of these devices of which a window from `since` on shows one of these hours.

    Of what lies before the window it shows the newest sample alone. So who sends a year that is
    long past has its hours computed, and no summary.
    """
    found, inverse = np.unique(keys, return_inverse=True)
    newest_us = np.zeros(len(found), np.int64)
    np.maximum.at(newest_us, inverse, hours_us)
    cut_us = to_us(since) // HOUR_US * HOUR_US
    past = newest_us < cut_us
    if not past.any():
        return found
    statement = sql.SQL(_SHOWN).format(hourly=sql.Identifier(kind.hourly.name))
    parameters = {
        "keys": arrays.packed(arrays.INT, found[past]),
        "hours": arrays.packed(arrays.INSTANT, newest_us[past]),
        "since": from_us(cut_us),
    }
    rows = arrays.read(conn, statement, parameters, {"key": arrays.INT})
    return np.concatenate([found[~past], rows["key"]])


def take_due(conn: Connection, now: datetime, oldest: datetime, limit: int) -> list[int]:
    """Up to `limit` vehicles to summarise, oldest summary first; their marks are removed.

    Due is who was touched, who has no summary yet, and whose summary is from before `oldest`: its
    window has moved on even if nothing came in.
    """
    due = conn.execute(_DUE, {"now": now, "oldest": oldest, "limit": limit})
    return list(due.scalars())


def supplies(
    conn: Connection, from_at: datetime, to_at: datetime, vehicle_keys: Sequence[int]
) -> list[Supply]:
    """The meters of these vehicles in a window, in order of vehicle and time."""
    keys = arrays.packed(arrays.INT, vehicle_keys)
    with driver(conn).cursor(row_factory=args_row(Supply)) as cursor:
        cursor.execute(_SUPPLIES, {"from_at": from_at, "to_at": to_at, "keys": keys})
        return cursor.fetchall()


#: Written by others than the roll-up.
_OTHERS = {"baseline", "open_alarms"}


def write_performance(conn: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Upsert summary rows; each dict has the roll-up's columns of `vehicle_performance_24h`."""
    names = _summary_names()
    source = sql.SQL(
        "SELECT {names} FROM json_populate_recordset(NULL::vehicle_performance_24h, %s::json)"
    ).format(names=sql.SQL(", ").join(map(sql.Identifier, names)))
    driver(conn).execute(_upsert(names, source), (msgspec.json.encode(rows).decode(),))


#: The types of the summary's columns that travel as packed arrays; others as their text.
_PACKED = {"INTEGER": arrays.INT, "DOUBLE PRECISION": arrays.DOUBLE, "REAL": arrays.REAL} | {
    "TIMESTAMP WITH TIME ZONE": arrays.INSTANT
}


def write_performance_columns(conn: Connection, columns: Mapping[str, Any]) -> None:
    """As `write_performance`, given columns: one value a row, or one value for all.

    Of a value a row, instants are microseconds since 1970, JSON is text, and NaN is null.
    """
    many = {name: values for name, values in columns.items() if not _is_one(values)}
    one = [name for name in _summary_names() if name not in many]
    types = _summary_types()
    parameters = [_parameter(types[name], values) for name, values in many.items()]
    driver(conn).execute(
        _columns_statement(tuple(many), tuple(one)), [*map(columns.__getitem__, one), *parameters]
    )


@cache  # putting it together takes milliseconds
def _columns_statement(many: tuple[str, ...], one: tuple[str, ...]) -> bytes:
    """An upsert of summaries: parameters for all of `one`, then arrays of `many`."""
    types = _summary_types()
    arrays_of = [_PACKED[types[name]].sql if types[name] in _PACKED else "text" for name in many]
    source = sql.SQL("SELECT {listed} FROM unnest({arrays}) AS u ({names})").format(
        listed=sql.SQL(", ").join(
            [
                *(_read(name, types[name]) for name in many),
                *(sql.SQL("%s::{}").format(sql.SQL(types[name])) for name in one),
            ]
        ),
        arrays=sql.SQL(", ").join(sql.SQL("%s::{}[]").format(sql.SQL(p)) for p in arrays_of),
        names=sql.SQL(", ").join(map(sql.Identifier, many)),
    )
    return _upsert([*many, *one], source).as_bytes(None)


@cache
def _summary_types() -> dict[str, str]:
    return {c.name: c.type.compile(_DIALECT) for c in VehiclePerformance.__table__.columns}


def _parameter(type_: str, values: Any) -> Any:
    return arrays.packed(_PACKED[type_], values) if type_ in _PACKED else arrays.spelled(values)


def _read(name: str, type_: str) -> sql.Composable:
    if type_ in _PACKED:
        return arrays.known(name, _PACKED[type_])
    return sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(type_))


def _is_one(value: Any) -> bool:
    return value is None or isinstance(value, str | datetime)


def _summary_names() -> list[str]:
    return [c.name for c in VehiclePerformance.__table__.columns if c.name not in _OTHERS]


def _upsert(names: Sequence[str], source: sql.Composable) -> sql.Composed:
    return sql.SQL(
        "INSERT INTO vehicle_performance_24h ({names}) {source} ORDER BY vehicle_key"
        " ON CONFLICT (vehicle_key) DO UPDATE SET {changed}"
    ).format(
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        source=source,
        changed=arrays.replaced(name for name in names if name != "vehicle_key"),
    )
