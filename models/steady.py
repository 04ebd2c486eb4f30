"""What the roll-up reads and writes of many registers at once, as columns (workers/steady/)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import LiteralString

import numpy as np
from psycopg import sql
from sqlalchemy import Connection

from models import arrays, hours
from models.arrays import DOUBLE, INSTANT, INT, REAL, Array, Type
from models.engine import driver
from models.kinds import VEHICLE, Kind

#: Five-minute borders of an hour. A line has no element for the first: that lies in the seam.
BORDERS = 3600 // hours.BORDER_SECONDS

# OFFSET 0 keeps the planner to one look at an index for each device: with another plan the cost
# would be all that is there, not what is new.

#: Uses index: the history's primary key, in the partitions of [begin, end).
_SAMPLES: LiteralString = """
    SELECT d.key, h.*
    FROM unnest(%(keys)s::int[], %(after)s::timestamptz[]) AS d (key, after)
    CROSS JOIN LATERAL (
        SELECT recorded_at, received_at, {kwh}::float8 {vehicle} FROM {history}
        WHERE device_key = d.key AND recorded_at > d.after
          AND recorded_at >= %(begin)s AND recorded_at < %(end)s
        ORDER BY recorded_at OFFSET 0
    ) AS h
    ORDER BY d.key, recorded_at
"""
_SAMPLE_TYPES = {"key": INT, "at_us": INSTANT, "received_us": INSTANT, "kwh": DOUBLE}
_SAMPLE_TYPES_VEHICLE = {"temp_c": DOUBLE, "soc_pct": DOUBLE}

#: Uses index: {hourly}'s primary key (device_key, hour).
_HOURS: LiteralString = """
    SELECT h.device_key, hour, first_at, first_kwh, last_at, last_kwh, energy_kwh, samples,
           max_gap_seconds, coalesce(lag_min_seconds, 'NaN'), coalesce(lag_max_seconds, 'NaN'),
           (rough OR seam_kwh IS NOT NULL OR gaps_from <> '{{}}' OR uncertain_kwh <> 0)::int,
           {line} {vehicle}
    FROM unnest(%(keys)s::int[]) AS d (key)
    CROSS JOIN LATERAL (
        SELECT * FROM {hourly} WHERE device_key = d.key AND hour >= %(since)s
        ORDER BY hour OFFSET 0
    ) AS h
    ORDER BY h.device_key, hour
"""
_HOUR_TYPES = {
    "key": INT,
    "hour_us": INSTANT,
    "first_us": INSTANT,
    "first_kwh": DOUBLE,
    "last_us": INSTANT,
    "last_kwh": DOUBLE,
    "energy_kwh": DOUBLE,
    "samples": INT,
    "max_gap_seconds": DOUBLE,
    "lag_min_seconds": DOUBLE,
    "lag_max_seconds": DOUBLE,
    "odd": INT,
} | {f"line_{n}": DOUBLE for n in range(1, BORDERS)}
_HOUR_TYPES_VEHICLE = dict.fromkeys(
    ("temp_sum_c", "temp_min_c", "temp_max_c", "soc_first_pct", "soc_last_pct"), DOUBLE
)

_LIMITS: LiteralString = """
    SELECT key, coalesce(max_power_kw, 'NaN'), coalesce(resolution_kwh, 'NaN'),
           coalesce(edge_gap_seconds, 'NaN')
    FROM {devices} WHERE key = ANY (%(keys)s::int[]) ORDER BY key
"""
_LIMIT_TYPES = {
    "key": INT,
    "max_power_kw": DOUBLE,
    "resolution_kwh": DOUBLE,
    "edge_gap_seconds": DOUBLE,
}
#: Uses index: the events' primary key (device_key, at).
_JUDGED: LiteralString = """
    SELECT e.device_key FROM unnest(%(keys)s::int[]) AS d (key)
    CROSS JOIN LATERAL (
        SELECT device_key FROM {events} WHERE device_key = d.key AND at >= %(since)s LIMIT 1
    ) AS e
"""
#: Uses index: the primary key of reading_conflicts (kind, device_key, recorded_at).
_CONFLICTS: LiteralString = """
    SELECT device_key, count(*)::int FROM reading_conflicts
    WHERE kind = %(kind)s AND device_key = ANY (%(keys)s::int[])
      AND recorded_at >= %(begin)s AND recorded_at <= %(end)s
    GROUP BY device_key
"""
_WRITE: LiteralString = """
    INSERT INTO {hourly} ({columns}, rough)
    SELECT {read}, (%(line)s::float8[])[line_from:line_to], false
    FROM unnest({arrays}) AS u ({given})
    ORDER BY device_key, hour
    ON CONFLICT (device_key, hour) DO UPDATE SET {changed}, rough = false
"""
#: Columns of an hourly row as they are written, `line_kwh` apart; others stay at their default.
_WRITTEN = {
    "device_key": INT,
    "hour": INSTANT,
    "first_at": INSTANT,
    "first_kwh": DOUBLE,
    "last_at": INSTANT,
    "last_kwh": DOUBLE,
    "energy_kwh": DOUBLE,
    "samples": INT,
    "max_gap_seconds": DOUBLE,
    "lag_min_seconds": DOUBLE,
    "lag_max_seconds": DOUBLE,
}
_WRITTEN_VEHICLE = {
    "battery_temp_sum_c": DOUBLE,
    "battery_temp_min_c": DOUBLE,
    "battery_temp_max_c": DOUBLE,
    "soc_first_pct": REAL,
    "soc_last_pct": REAL,
}


def take_turn(conn: Connection, holder: str) -> bool:
    """Whether `holder` was the last to roll up; from now on it is.

    Who was has seen each change of the hourly rows since it looked at them.
    """
    changed = driver(conn).execute(
        "INSERT INTO rollup_turn AS t (id, holder) VALUES (1, %s) ON CONFLICT (id)"
        " DO UPDATE SET holder = excluded.holder WHERE t.holder <> excluded.holder RETURNING 1",
        (holder,),
    )
    return changed.fetchone() is None


def samples(
    conn: Connection, kind: Kind, keys: Array, after_us: Array, within: tuple[datetime, datetime]
) -> Array:
    """The samples of each device after an instant of its own, within [begin, end), in order.

    Fields: key, at_us, received_us, kwh; of vehicles temp_c and soc_pct.
    """
    vehicle = kind is VEHICLE
    statement = sql.SQL(_SAMPLES).format(
        kwh=sql.Identifier(kind.counter.column),
        vehicle=sql.SQL(", battery_temp_c::float8, soc_pct::float8" if vehicle else ""),
        history=sql.Identifier(kind.history.name),
    )
    parameters = {
        "keys": arrays.packed(INT, keys),
        "after": arrays.packed(INSTANT, after_us),
        "begin": within[0],
        "end": within[1],
    }
    types = _SAMPLE_TYPES | (_SAMPLE_TYPES_VEHICLE if vehicle else {})
    return arrays.read(conn, statement, parameters, types)


def hour_rows(conn: Connection, kind: Kind, keys: Array, since: datetime) -> Array:
    """The hourly rows of these devices from `since` on, by device and hour.

    `odd`: something in it is not a plain rise. `line_n`: NaN where the line has no such element.
    """
    vehicle = kind is VEHICLE
    element = sql.SQL("coalesce(line_kwh[{}], 'NaN')")
    statement = sql.SQL(_HOURS).format(
        line=sql.SQL(", ").join(element.format(sql.Literal(n)) for n in range(1, BORDERS)),
        vehicle=sql.SQL(
            ", battery_temp_sum_c, battery_temp_min_c, battery_temp_max_c"
            ", coalesce(soc_first_pct::float8, 'NaN'), coalesce(soc_last_pct::float8, 'NaN')"
            if vehicle
            else ""
        ),
        hourly=sql.Identifier(kind.hourly.name),
    )
    types = _HOUR_TYPES | (_HOUR_TYPES_VEHICLE if vehicle else {})
    return arrays.read(conn, statement, {"keys": arrays.packed(INT, keys), "since": since}, types)


def limits(conn: Connection, kind: Kind, keys: Array) -> Array:
    """What was set for these devices, NaN where nothing was: key, power, resolution, edge gap."""
    statement = sql.SQL(_LIMITS).format(devices=sql.Identifier(kind.devices.name))
    return arrays.read(conn, statement, {"keys": arrays.packed(INT, keys)}, _LIMIT_TYPES)


def judged(conn: Connection, kind: Kind, keys: Array, since: datetime) -> Array:
    """Those of these devices that have judged samples since an instant."""
    statement = sql.SQL(_JUDGED).format(events=sql.Identifier(kind.events.name))
    parameters = {"keys": arrays.packed(INT, keys), "since": since}
    found: Array = arrays.read(conn, statement, parameters, {"key": INT})["key"]
    return found


def conflicts(conn: Connection, kind: Kind, keys: Array, begin: datetime, end: datetime) -> Array:
    """How many values were refused for each of these devices in [begin, end]."""
    parameters = {
        "kind": kind.name,
        "keys": arrays.packed(INT, keys),
        "begin": begin,
        "end": end,
    }
    rows = arrays.read(conn, sql.SQL(_CONFLICTS), parameters, {"key": INT, "count": INT})
    counted = dict(zip(rows["key"].tolist(), rows["count"].tolist(), strict=True))
    return np.array([counted.get(key, 0) for key in keys.tolist()], np.int64)


def write_hours(
    conn: Connection, kind: Kind, columns: Mapping[str, Array], line_kwh: Array
) -> None:
    """Upsert hourly rows of steady registers, given as columns of the table's names.

    `line_kwh`: a row for each, NaN where it has no element. Instants are microseconds since 1970;
    NaN is null.
    """
    # All lines are one array, and each row takes its part: rows of arrays would have to be spelled.
    there = ~np.isnan(line_kwh)
    ends = there.sum(axis=1).cumsum()
    begins = ends - there.sum(axis=1) + 1
    driver(conn).execute(
        _write_statement(kind),
        {name: arrays.packed(type_, columns[name]) for name, type_ in _written(kind).items()}
        | {"line": arrays.packed(DOUBLE, line_kwh[there])}
        | {"line_from": arrays.packed(INT, begins), "line_to": arrays.packed(INT, ends)},
    )


def _written(kind: Kind) -> dict[str, Type]:
    return _WRITTEN | (_WRITTEN_VEHICLE if kind is VEHICLE else {})


@cache  # putting it together takes a millisecond
def _write_statement(kind: Kind) -> bytes:
    types = _written(kind)
    part = {"line_from": INT, "line_to": INT}
    names = [*types, "line_kwh"]
    composed = sql.SQL(_WRITE).format(
        hourly=sql.Identifier(kind.hourly.name),
        columns=sql.SQL(", ").join(map(sql.Identifier, names)),
        given=sql.SQL(", ").join(map(sql.Identifier, [*types, *part])),
        read=sql.SQL(", ").join(arrays.known(name, type_) for name, type_ in types.items()),
        arrays=sql.SQL(", ").join(
            sql.SQL("{}::{}[]").format(sql.Placeholder(name), sql.SQL(type_.sql))
            for name, type_ in (types | part).items()
        ),
        changed=arrays.replaced(name for name in names if name not in {"device_key", "hour"}),
    )
    return composed.as_bytes(None)
