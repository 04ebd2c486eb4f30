"""The hourly rows: one device's UTC hour summed up from history, in a mergeable form.

The energy of a step is this sample minus the one before. The rare exceptions (a restart, a glitch,
a dip) were judged by workers/register.py and stand in the events table: their energy replaces the
difference, and dropped samples are not seen at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, LiteralString, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from models import ratings
from models.engine import driver
from models.kinds import VEHICLE, Kind

#: Between two borders of `line_kwh`, seconds; a longer step between samples is a gap.
BORDER_SECONDS = 300


class Segment(NamedTuple):
    """A device's register over [from_at, to_at]."""

    device_key: int
    from_at: datetime
    to_at: datetime


class Temperatures(NamedTuple):
    """Battery temperature over the samples of a window, °C."""

    sum_c: float
    min_c: float
    max_c: float


class Hour(NamedTuple):
    """An hourly row, or the part of one that a segment cuts out (models/derived.py)."""

    #: Instants in microseconds since 1970.
    first_us: int
    first_kwh: float
    last_us: int
    last_kwh: float
    energy_kwh: float
    #: Energy of the step from the hour before, when it is not simply the difference.
    seam_kwh: float | None
    samples: int
    line_kwh: list[float]
    gaps_from: list[datetime]
    gaps_to: list[datetime]
    max_gap_seconds: float
    uncertain_kwh: float
    lag_min_seconds: float | None
    lag_max_seconds: float | None
    #: Of vehicles; else None.
    temperatures: Temperatures | None
    soc_first_pct: float | None
    soc_last_pct: float | None


#: The samples of one device within a range, summed up in the hourly table's form.
#: Uses index: the history's primary key (device_key, recorded_at), in one partition.
_SUMMARY: LiteralString = """
    WITH steps AS MATERIALIZED (
        SELECT *,
               CASE WHEN previous IS NOT NULL THEN coalesce(judged, kwh - previous) END AS step,
               judged IS NULL AND (kwh < previous OR kwh - previous > {limit}) AS rough
        FROM (
            SELECT recorded_at, received_at, {kwh} AS kwh, judged, uncertain_kwh,
                   lag({kwh}) OVER by_time AS previous,
                   lag(recorded_at) OVER by_time AS previous_at,
                   extract(epoch FROM recorded_at - lag(recorded_at) OVER by_time) AS seconds
                   {raw_vehicle}
            FROM {history} h
            LEFT JOIN (
                SELECT at, energy_kwh AS judged, dropped, uncertain_kwh FROM {events} e
                WHERE e.device_key = {device} AND {within_events}
            ) AS e ON e.at = h.recorded_at
            WHERE h.device_key = {device} AND {within} AND dropped IS NOT TRUE
            WINDOW by_time AS (ORDER BY recorded_at)
        ) AS samples
    )
    SELECT min(recorded_at) AS first_at,
           (array_agg(kwh ORDER BY recorded_at))[1] AS first_kwh,
           max(recorded_at) AS last_at,
           (array_agg(kwh ORDER BY recorded_at DESC))[1] AS last_kwh,
           coalesce(sum(step ORDER BY recorded_at), 0) AS energy_kwh,
           (array_agg(judged ORDER BY recorded_at))[1] AS seam_kwh,
           count(*)::int AS samples,
           coalesce(bool_or(rough), false) AS rough,
           (SELECT coalesce(array_agg(reached ORDER BY border), '{{}}') FROM ({line}) AS line)
               AS line_kwh,
           coalesce(array_agg(previous_at ORDER BY recorded_at)
               FILTER (WHERE seconds > {gap}), '{{}}') AS gaps_from,
           coalesce(array_agg(recorded_at ORDER BY recorded_at)
               FILTER (WHERE seconds > {gap}), '{{}}') AS gaps_to,
           coalesce(max(seconds), 0)::float8 AS max_gap_seconds,
           coalesce(sum(uncertain_kwh ORDER BY recorded_at), 0) AS uncertain_kwh,
           min(extract(epoch FROM received_at - recorded_at))::float8 AS lag_min_seconds,
           max(extract(epoch FROM received_at - recorded_at))::float8 AS lag_max_seconds
           {raw_vehicles}
    FROM steps
"""

#: The register at each border that a step reaches or crosses, on the straight line of that step.
_LINE: LiteralString = """
    SELECT border,
           total - step * (this - border) / (this - before) AS reached
    FROM (
        SELECT step, this, before, total, floor(before / {gap}) AS passed,
               floor(this / {gap}) AS through
        FROM (
            SELECT step, date_part('epoch', recorded_at) AS this,
                   date_part('epoch', previous_at) AS before,
                   sum(step) OVER (ORDER BY recorded_at) AS total
            FROM steps
        ) AS instants
    ) AS crossing
    CROSS JOIN LATERAL (
        SELECT number * {gap} AS border
        FROM generate_series((passed + 1)::int8, through::int8) AS number
    ) AS borders
    WHERE through > passed
"""

#: The most a register can move in {seconds}: models/ratings.py, in SQL.
_LIMIT: LiteralString = """
    {margin} * coalesce(d.max_power_kw, {power}) * {seconds} / 3600
    + coalesce(d.resolution_kwh, {resolution})
"""

_REFRESH: LiteralString = """
    WITH summaries AS MATERIALIZED (
        SELECT touched.device_key, touched.hour, summary.*
        FROM unnest(%s::int[], %s::timestamptz[]) AS touched (device_key, hour)
        JOIN {devices} d ON d.key = touched.device_key
        CROSS JOIN LATERAL ({summary}) AS summary
    ), emptied AS (     -- all of the hour's samples have been dropped since
        DELETE FROM {hourly} h USING summaries s
        WHERE h.device_key = s.device_key AND h.hour = s.hour AND s.samples = 0
    )
    INSERT INTO {hourly} (device_key, hour, {columns})
    SELECT device_key, hour, {columns} FROM summaries WHERE samples > 0
    ON CONFLICT (device_key, hour) DO UPDATE SET ({columns}) = (SELECT {excluded})
"""

#: The rows of many segments. An hour that lies whole inside is taken from the hourly table, one
#: that the segment cuts (at most two) from history.
#: Uses index: {hourly}'s primary key (device_key, hour).
_READ: LiteralString = """
    WITH hours AS MATERIALIZED (
        SELECT w.place, w.from_at, w.to_at, h.*,
               h.first_at >= w.from_at AND h.last_at <= w.to_at AS whole
        FROM unnest(%s::int[], %s::int[], %s::timestamptz[], %s::timestamptz[])
            AS w (place, device_key, from_at, to_at)
        JOIN {hourly} h ON h.device_key = w.device_key
            AND h.hour >= date_trunc('hour', w.from_at) AND h.hour <= w.to_at
        WHERE h.last_at >= w.from_at AND h.first_at <= w.to_at
    )
    SELECT place, {columns} FROM hours WHERE whole
    UNION ALL
    SELECT place, {cut_columns} FROM hours CROSS JOIN LATERAL ({summary}) AS cut
    WHERE NOT whole AND cut.samples > 0
    ORDER BY 1, 2
"""

_COLUMNS = (
    "first_at",
    "first_kwh",
    "last_at",
    "last_kwh",
    "energy_kwh",
    "seam_kwh",
    "samples",
    "line_kwh",
    "gaps_from",
    "gaps_to",
    "max_gap_seconds",
    "uncertain_kwh",
    "lag_min_seconds",
    "lag_max_seconds",
)
_VEHICLE_COLUMNS = (
    "battery_temp_sum_c",
    "battery_temp_min_c",
    "battery_temp_max_c",
    "soc_first_pct",
    "soc_last_pct",
)


def refresh(conn: Connection, kind: Kind, hours: Sequence[tuple[int, datetime]]) -> None:
    """Recompute the hourly rows of these (device key, hour), wholly from history."""
    if hours:
        keys_and_hours = tuple(map(list, zip(*sorted(hours), strict=True)))
        driver(conn).execute(_refresh_statement(kind), keys_and_hours)


def read(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> list[list[Hour]]:
    """The hours of each segment, oldest first; what a segment cuts of an hour, of that only."""
    found: list[list[Hour]] = [[] for _ in segments]
    if segments:
        rows = driver(conn).execute(read_statement(kind), columns(segments)).fetchall()
        for row in rows:
            found[row[0]].append(_hour(kind, row))
    return found


def columns(rows: Iterable[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Rows by columns, a number before each: the arrays that `unnest` makes rows of again."""
    numbered = ((i, *row) for i, row in enumerate(rows))
    return tuple(map(list, zip(*numbered, strict=True)))


def _hour(kind: Kind, row: tuple[Any, ...]) -> Hour:
    common, own = row[1 : 1 + len(_COLUMNS)], row[1 + len(_COLUMNS) :]
    vehicle = (Temperatures(*own[:3]), *own[3:]) if kind is VEHICLE else (None, None, None)
    return Hour._make((*common, *vehicle))


def _names_of(kind: Kind) -> list[str]:
    return [*_COLUMNS, *(_VEHICLE_COLUMNS if kind is VEHICLE else ())]


def _summary(
    kind: Kind, device: LiteralString, time: LiteralString, limit: sql.Composable
) -> sql.Composed:
    """`time` says which samples, as a condition on `{at}`."""
    vehicle = kind is VEHICLE
    gap = sql.Literal(BORDER_SECONDS)
    return sql.SQL(_SUMMARY).format(
        history=sql.Identifier(kind.history.name),
        events=sql.Identifier(kind.events.name),
        kwh=sql.Identifier(kind.counter.column),
        device=sql.SQL(device),
        within=sql.SQL(time).format(at=sql.SQL("recorded_at")),
        within_events=sql.SQL(time).format(at=sql.SQL("e.at")),
        limit=limit,
        gap=gap,
        line=sql.SQL(_LINE).format(gap=gap),
        raw_vehicle=sql.SQL(", battery_temp_c, soc_pct" if vehicle else ""),
        raw_vehicles=sql.SQL(
            ", sum(battery_temp_c ORDER BY recorded_at) AS battery_temp_sum_c"
            ", min(battery_temp_c) AS battery_temp_min_c"
            ", max(battery_temp_c) AS battery_temp_max_c"
            ", (array_agg(soc_pct ORDER BY recorded_at))[1] AS soc_first_pct"
            ", (array_agg(soc_pct ORDER BY recorded_at DESC))[1] AS soc_last_pct"
            if vehicle
            else ""
        ),
    )


@cache
def _refresh_statement(kind: Kind) -> sql.Composed:
    time: LiteralString = "{at} >= touched.hour AND {at} < touched.hour + interval '1 hour'"
    names = [*_names_of(kind), "rough"]
    return sql.SQL(_REFRESH).format(
        devices=sql.Identifier(kind.devices.name),
        hourly=sql.Identifier(kind.hourly.name),
        summary=_summary(kind, "touched.device_key", time, limit_kwh(sql.SQL("seconds"))),
        columns=_listed(names),
        excluded=_listed(names, "excluded"),
    )


@cache
def read_statement(kind: Kind) -> sql.Composed:
    """The statement of `read`, for its plan."""
    names = _names_of(kind)
    return sql.SQL(_READ).format(
        hourly=sql.Identifier(kind.hourly.name),
        summary=_cut_summary(kind),
        columns=_read_columns(names, "hours"),
        cut_columns=_read_columns(names, "cut"),
    )


def _cut_summary(kind: Kind) -> sql.Composed:
    time: LiteralString = (
        "{at} >= greatest(hours.hour, hours.from_at) AND {at} <= least(hours.last_at, hours.to_at)"
    )
    return _summary(kind, "hours.device_key", time, sql.SQL("'Infinity'"))


def _listed(names: Iterable[str], table: str | None = None) -> sql.Composed:
    path = () if table is None else (table,)
    return sql.SQL(", ").join(sql.Identifier(*path, name) for name in names)


def _read_columns(names: Iterable[str], table: str) -> sql.Composed:
    """Instants as microseconds: exact, and cheaper to read than timestamps."""
    micros = sql.SQL("(date_part('epoch', {}) * 1e6)::int8")
    read = [sql.Identifier(table, name) for name in names]
    # A flat line is two ends: most hours of a parked car.
    flat = sql.SQL("CASE WHEN {} = 0 THEN '{{}}' ELSE {} END")
    energy = sql.Identifier(table, "energy_kwh")
    special = {"first_at": micros, "last_at": micros}
    return sql.SQL(", ").join(
        flat.format(energy, column)
        if name == "line_kwh"
        else special.get(name, sql.SQL("{}")).format(column)
        for name, column in zip(names, read, strict=True)
    )


def limit_kwh(seconds: sql.Composable) -> sql.Composed:
    """`Rating.limit_kwh` in SQL, for the device in `d`."""
    return sql.SQL(_LIMIT).format(
        margin=sql.Literal(ratings.POWER_MARGIN),
        power=sql.Literal(ratings.MAX_POWER_KW),
        resolution=sql.Literal(ratings.RESOLUTION_KWH),
        seconds=seconds,
    )
