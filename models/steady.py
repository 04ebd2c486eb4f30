"""What the roll-up reads and writes of many registers at once, as columns (workers/steady/).

Both ways a column is one array: no value is touched by Python on its way in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, LiteralString

import numpy as np
import numpy.typing as npt
from psycopg import sql
from sqlalchemy import Connection

from models import hours
from models.engine import driver
from models.kinds import VEHICLE, Kind

Array = npt.NDArray[Any]

#: PostgreSQL counts microseconds from 2000-01-01.
_EPOCH_US = 946_684_800_000_000
#: Of an array in its binary form: dimensions, flags, element type, length, lower bound.
_HEADER_BYTES = 20
#: Elements of an hourly row's line, the borders inside an hour: all but its first.
BORDERS = 3600 // hours.BORDER_SECONDS
_NUMPY = {"int": ">i4", "int8": ">i8", "float8": ">f8", "timestamptz": ">i8"}

#: Uses index: the history's primary key, in the partitions of [begin, end).
_SAMPLES: LiteralString = """
    SELECT d.key, recorded_at, received_at, {kwh}::float8 {vehicle}
    FROM unnest({keys}::int[], {after}::int8[]) AS d (key, after_us)
    JOIN {history} h ON h.device_key = d.key
        AND recorded_at > timestamptz 'epoch' + after_us * interval '1 microsecond'
        AND recorded_at >= {begin}::timestamptz AND recorded_at < {end}::timestamptz
    ORDER BY 1, 2
"""
#: Uses index: {hourly}'s primary key (device_key, hour).
_HOURS: LiteralString = """
    SELECT h.device_key, hour, first_at, first_kwh, last_at, last_kwh, energy_kwh, samples,
           max_gap_seconds, coalesce(lag_min_seconds, 'NaN'), coalesce(lag_max_seconds, 'NaN'),
           (rough OR seam_kwh IS NOT NULL OR gaps_from <> '{{}}' OR uncertain_kwh <> 0)::int,
           {line} {vehicle}
    FROM unnest({keys}::int[]) AS d (key)
    JOIN {hourly} h ON h.device_key = d.key AND hour >= {since}::timestamptz
    ORDER BY 1, 2
"""
_LIMITS: LiteralString = """
    SELECT key, coalesce(max_power_kw, 'NaN'), coalesce(resolution_kwh, 'NaN'),
           coalesce(edge_gap_seconds, 'NaN')
    FROM {devices} WHERE key = ANY ({keys}::int[]) ORDER BY key
"""
#: Uses index: the events' primary key (device_key, at).
_JUDGED: LiteralString = """
    SELECT DISTINCT e.device_key FROM unnest({keys}::int[]) AS d (key)
    JOIN {events} e ON e.device_key = d.key AND e.at >= {since}::timestamptz
"""
_WRITE: LiteralString = """
    INSERT INTO {hourly} ({columns}, rough)
    SELECT {read}, false FROM unnest({arrays}) AS u ({columns})
    ORDER BY device_key, hour
    ON CONFLICT (device_key, hour) DO UPDATE SET ({changed}) = (SELECT {excluded})
"""

_SAMPLE_TYPES = {
    "key": "int",
    "at_us": "timestamptz",
    "received_us": "timestamptz",
    "kwh": "float8",
}
_SAMPLE_VEHICLE = {"temp_c": "float8", "soc_pct": "float8"}
_HOUR_TYPES = {
    "key": "int",
    "hour_us": "timestamptz",
    "first_us": "timestamptz",
    "first_kwh": "float8",
    "last_us": "timestamptz",
    "last_kwh": "float8",
    "energy_kwh": "float8",
    "samples": "int",
    "max_gap_seconds": "float8",
    "lag_min_seconds": "float8",
    "lag_max_seconds": "float8",
    "odd": "int",
} | {f"line_{n}": "float8" for n in range(1, BORDERS)}
_HOUR_VEHICLE = {
    "temp_sum_c": "float8",
    "temp_min_c": "float8",
    "temp_max_c": "float8",
    "soc_first_pct": "float8",
    "soc_last_pct": "float8",
}
#: Columns of an hourly row as they are written; what a steady hour never has stays at its default.
_WRITTEN = {
    "device_key": "int",
    "hour": "timestamptz",
    "first_at": "timestamptz",
    "first_kwh": "float8",
    "last_at": "timestamptz",
    "last_kwh": "float8",
    "energy_kwh": "float8",
    "samples": "int",
    "line_kwh": "text",
    "max_gap_seconds": "float8",
    "lag_min_seconds": "float8",
    "lag_max_seconds": "float8",
}
_WRITTEN_VEHICLE = {
    "battery_temp_sum_c": "float8",
    "battery_temp_min_c": "float8",
    "battery_temp_max_c": "float8",
    "soc_first_pct": "float4",
    "soc_last_pct": "float4",
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
        keys=sql.Literal(array_text(keys)),
        after=sql.Literal(array_text(after_us)),
        begin=sql.Literal(within[0]),
        end=sql.Literal(within[1]),
    )
    return _columns(conn, statement, _SAMPLE_TYPES | (_SAMPLE_VEHICLE if vehicle else {}))


def hour_rows(conn: Connection, kind: Kind, keys: Array, since: datetime) -> Array:
    """The hourly rows of these devices from `since` on, by device and hour.

    `odd`: something in it is not a plain rise. `line_n`: NaN where the line has no such element.
    """
    vehicle = kind is VEHICLE
    line: list[sql.Composable] = [
        sql.SQL("coalesce(line_kwh[{}], 'NaN')").format(sql.Literal(n)) for n in range(1, BORDERS)
    ]
    statement = sql.SQL(_HOURS).format(
        line=sql.SQL(", ").join(line),
        vehicle=sql.SQL(
            ", battery_temp_sum_c, battery_temp_min_c, battery_temp_max_c"
            ", coalesce(soc_first_pct::float8, 'NaN'), coalesce(soc_last_pct::float8, 'NaN')"
            if vehicle
            else ""
        ),
        hourly=sql.Identifier(kind.hourly.name),
        keys=sql.Literal(array_text(keys)),
        since=sql.Literal(since),
    )
    return _columns(conn, statement, _HOUR_TYPES | (_HOUR_VEHICLE if vehicle else {}))


def limits(conn: Connection, kind: Kind, keys: Array) -> Array:
    """What was set for these devices, NaN where nothing was: key, power, resolution, edge gap."""
    statement = sql.SQL(_LIMITS).format(
        devices=sql.Identifier(kind.devices.name), keys=sql.Literal(array_text(keys))
    )
    names = ("max_power_kw", "resolution_kwh", "edge_gap_seconds")
    return _columns(conn, statement, {"key": "int"} | dict.fromkeys(names, "float8"))


def judged(conn: Connection, kind: Kind, keys: Array, since: datetime) -> Array:
    """Those of these devices that have judged samples since an instant."""
    statement = sql.SQL(_JUDGED).format(
        events=sql.Identifier(kind.events.name),
        keys=sql.Literal(array_text(keys)),
        since=sql.Literal(since),
    )
    found: Array = _columns(conn, statement, {"key": "int"})["key"]
    return found


def conflicts(
    conn: Connection, kind: Kind, keys: Array, from_at: datetime, to_at: datetime
) -> Array:
    """How many values were refused for each of these devices in [from_at, to_at]."""
    # Uses index: the primary key of reading_conflicts (kind, device_key, recorded_at).
    statement = sql.SQL(
        "SELECT device_key, count(*)::int FROM reading_conflicts WHERE kind = {kind}"
        " AND device_key = ANY ({keys}::int[]) AND recorded_at >= {from_at}::timestamptz"
        " AND recorded_at <= {to_at}::timestamptz GROUP BY device_key"
    ).format(
        kind=sql.Literal(kind.name),
        keys=sql.Literal(array_text(keys)),
        from_at=sql.Literal(from_at),
        to_at=sql.Literal(to_at),
    )
    rows = _columns(conn, statement, {"key": "int", "count": "int"})
    order = np.argsort(rows["key"])
    place = np.searchsorted(rows["key"], keys, sorter=order)
    counts = np.zeros(len(keys), np.int64)
    there = place < len(rows)
    there[there] = rows["key"][order[place[there]]] == keys[there]
    counts[there] = rows["count"][order[place[there]]]
    return counts


def write_hours(conn: Connection, kind: Kind, columns: Mapping[str, Iterable[Any]]) -> None:
    """Upsert hourly rows of steady registers, given as columns of the table's names.

    `line_kwh` is an array literal for each row; instants are microseconds since 1970.
    """
    types = _WRITTEN | (_WRITTEN_VEHICLE if kind is VEHICLE else {})
    driver(conn).execute(_write_statement(kind), [array_text(columns[name]) for name in types])


@cache
def _write_statement(kind: Kind) -> sql.Composed:
    types = _WRITTEN | (_WRITTEN_VEHICLE if kind is VEHICLE else {})
    instant: LiteralString = "timestamptz 'epoch' + {} * interval '1 microsecond'"
    read = {"timestamptz": instant, "text": "{}::float8[]"}
    names = list(map(sql.Identifier, types))
    changed = [sql.Identifier(name) for name in types if name not in {"device_key", "hour"}]
    return sql.SQL(_WRITE).format(
        hourly=sql.Identifier(kind.hourly.name),
        columns=sql.SQL(", ").join(names),
        read=sql.SQL(", ").join(
            sql.SQL(read.get(type_, "{}")).format(name)
            for name, type_ in zip(names, types.values(), strict=True)
        ),
        arrays=sql.SQL(", ").join(
            sql.SQL(f"%s::{'int8' if type_ == 'timestamptz' else type_}[]")
            for type_ in types.values()
        ),
        changed=sql.SQL(", ").join([*changed, sql.Identifier("rough")]),
        excluded=sql.SQL(", ").join(
            sql.SQL("excluded.{}").format(name) for name in [*changed, sql.Identifier("rough")]
        ),
    )


def array_text(values: Iterable[Any]) -> str:
    """An array as PostgreSQL reads it; NaN and None become null.

    psycopg would look at each element by itself.
    """
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return "{" + ",".join(map(_spelled, listed)) + "}"


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    # Only NaN is not itself.
    return "NULL" if value is None or value != value else repr(value)  # noqa: PLR0124


def _columns(conn: Connection, statement: sql.Composed, types: Mapping[str, str]) -> Array:
    """The rows of a query that has no nulls, as one structured array; instants since 1970.

    Each column travels as one array, whose binary form numpy reads as it is.
    """
    names = list(map(sql.Identifier, types))
    gathered = sql.SQL("SELECT {arrays} FROM ({statement}) AS found ({names})").format(
        arrays=sql.SQL(", ").join(sql.SQL("array_agg({})").format(name) for name in names),
        statement=statement,
        names=sql.SQL(", ").join(names),
    )
    with driver(conn).cursor(binary=True) as cursor:
        cursor.execute(gathered)
        result = cursor.pgresult
        assert result is not None  # noqa: S101  (a query has one)
        raw = [result.get_value(0, n) or b"" for n in range(len(types))]
    count = max(len(raw[0]) - _HEADER_BYTES, 0) // np.dtype(_element("int")).itemsize
    found = np.empty(count, [(n, _NUMPY[t].replace(">", "=")) for n, t in types.items()])
    for (name, type_), array in zip(types.items(), raw, strict=True):
        values = np.frombuffer(array, _element(type_), offset=_HEADER_BYTES if count else 0)[
            "value"
        ]
        found[name] = values + _EPOCH_US if type_ == "timestamptz" else values
    return found


def _element(type_: str) -> list[tuple[str, str]]:
    """An element of an array in PostgreSQL's binary form."""
    return [("length", ">i4"), ("value", _NUMPY[type_])]
