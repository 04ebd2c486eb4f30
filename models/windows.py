"""Register energy out of history: hours recomputed, windows read.

A window costs its hours, not its readings: hours that lie inside it whole are taken from the hourly
table, only the (at most two) hours that it cuts are read from history.

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


class Register(NamedTuple):
    """What a register did in and around a segment; the raw material of workers/energy.py."""

    before_at: datetime | None
    before_kwh: float | None
    first_at: datetime | None
    first_kwh: float | None
    last_at: datetime | None
    last_kwh: float | None
    after_at: datetime | None
    after_kwh: float | None
    #: Energy of the steps across the edges: before -> first, last (or before) -> after.
    entry_kwh: float | None
    exit_kwh: float | None
    energy_kwh: float | None
    samples: int | None
    spacing_seconds: float | None
    #: Set for the device, else None (models/ratings.py).
    edge_gap_seconds: float | None
    resolution_kwh: float | None
    temperatures: Temperatures | None


def refresh_hours(conn: Connection, kind: Kind, hours: Sequence[tuple[int, datetime]]) -> None:
    """Recompute the hourly rows of these (device key, hour), wholly from history."""
    if hours:
        keys_and_hours = tuple(map(list, zip(*sorted(hours), strict=True)))
        driver(conn).execute(_refresh_statement(kind), keys_and_hours)


def read_registers(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> list[Register]:
    """One Register per segment, in their order. Touches hours, not readings."""
    if not segments:
        return []
    rows = driver(conn).execute(_window_statement(kind), _columns(segments)).fetchall()
    return [_register(kind, row[1:]) for row in sorted(rows)]


def _columns(segments: Iterable[Segment]) -> tuple[list[Any], ...]:
    numbered = ((i, *segment) for i, segment in enumerate(segments))
    return tuple(map(list, zip(*numbered, strict=True)))


def _register(kind: Kind, row: tuple[Any, ...]) -> Register:
    seen = kind is VEHICLE and row[-1] is not None
    return Register._make((*row[:15], Temperatures(*row[15:18]) if seen else None))


@cache
def _names(kind: Kind) -> dict[str, sql.Composable]:
    """What differs between the two kinds: table and column names, and the temperature columns."""
    warm = kind is VEHICLE
    temp = ["battery_temp_sum_c", "battery_temp_min_c", "battery_temp_max_c"] if warm else []
    listed = sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(t)) for t in temp)
    return {
        "history": sql.Identifier(kind.history.name),
        "events": sql.Identifier(kind.events.name),
        "devices": sql.Identifier(kind.devices.name),
        "hourly": sql.Identifier(kind.hourly.name),
        "kwh": sql.Identifier(kind.counter.column),
        "temps": listed,
        "raw_temp": sql.SQL(", battery_temp_c" if warm else ""),
        "raw_temps": sql.SQL(
            ", sum(battery_temp_c ORDER BY recorded_at) AS battery_temp_sum_c"
            ", min(battery_temp_c) AS battery_temp_min_c"
            ", max(battery_temp_c) AS battery_temp_max_c"
            if warm
            else ""
        ),
        "merged_temps": sql.SQL(
            ", sum(battery_temp_sum_c ORDER BY first_at) AS battery_temp_sum_c"
            ", min(battery_temp_min_c) AS battery_temp_min_c"
            ", max(battery_temp_max_c) AS battery_temp_max_c"
            if warm
            else ""
        ),
    }


#: The samples of one device within a range, summed up in the hourly table's form.
#: Uses index: the history's primary key (device_key, recorded_at), in one partition.
_SUMMARY: LiteralString = """
    SELECT min(recorded_at) AS first_at,
           (array_agg(kwh ORDER BY recorded_at))[1] AS first_kwh,
           max(recorded_at) AS last_at,
           (array_agg(kwh ORDER BY recorded_at DESC))[1] AS last_kwh,
           coalesce(sum(step ORDER BY recorded_at), 0) AS energy_kwh,
           (array_agg(judged ORDER BY recorded_at))[1] AS seam_kwh,
           count(*)::int AS samples,
           coalesce(bool_or(rough), false) AS rough {raw_temps}
    FROM (
        SELECT *,
               CASE WHEN previous IS NOT NULL THEN coalesce(judged, kwh - previous) END AS step,
               judged IS NULL AND (kwh < previous OR kwh - previous > {limit}) AS rough
        FROM (
            SELECT recorded_at, {kwh} AS kwh, judged,
                   lag({kwh}) OVER by_time AS previous,
                   extract(epoch FROM recorded_at - lag(recorded_at) OVER by_time) AS seconds
                   {raw_temp}
            FROM {history} h
            LEFT JOIN (
                SELECT at, energy_kwh AS judged, dropped FROM {events} e
                WHERE e.device_key = {device} AND {within_events}
            ) AS e ON e.at = h.recorded_at
            WHERE h.device_key = {device} AND {within} AND dropped IS NOT TRUE
            WINDOW by_time AS (ORDER BY recorded_at)
        ) AS samples
    ) AS steps
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
    INSERT INTO {hourly} (device_key, hour, first_at, first_kwh, last_at, last_kwh,
                          energy_kwh, seam_kwh, samples, rough {temps})
    SELECT * FROM summaries WHERE samples > 0
    ON CONFLICT (device_key, hour) DO UPDATE SET
        (first_at, first_kwh, last_at, last_kwh, energy_kwh, seam_kwh, samples, rough {temps})
      = (SELECT excluded.first_at, excluded.first_kwh, excluded.last_at, excluded.last_kwh,
                excluded.energy_kwh, excluded.seam_kwh, excluded.samples, excluded.rough
                {excluded_temps})
"""

_WINDOW: LiteralString = """
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest(%s::int[], %s::int[], %s::timestamptz[], %s::timestamptz[])
            AS w (place, device_key, from_at, to_at)
    ), hours AS MATERIALIZED (      -- uses index: {hourly}'s primary key (device_key, hour)
        SELECT w.place, w.from_at, w.to_at, h.*,
               h.first_at >= w.from_at AND h.last_at <= w.to_at AS whole
        FROM wanted w
        JOIN {hourly} h ON h.device_key = w.device_key
            AND h.hour >= date_trunc('hour', w.from_at) AND h.hour <= w.to_at
        WHERE h.last_at >= w.from_at AND h.first_at <= w.to_at
    ), parts AS (
        SELECT place, first_at, first_kwh, last_at, last_kwh, energy_kwh, seam_kwh, samples, rough
               {temps}
        FROM hours WHERE whole
        UNION ALL
        SELECT place, cut.* FROM hours CROSS JOIN LATERAL ({summary}) AS cut
        WHERE NOT whole AND cut.samples > 0
    ), seamed AS (
        SELECT *, lag(last_kwh) OVER neighbours AS previous FROM parts
        WINDOW neighbours AS (PARTITION BY place ORDER BY first_at)
    ), inside AS (
        SELECT place,
               min(first_at) AS first_at,
               (array_agg(first_kwh ORDER BY first_at))[1] AS first_kwh,
               max(last_at) AS last_at,
               (array_agg(last_kwh ORDER BY first_at DESC))[1] AS last_kwh,
               sum(energy_kwh + coalesce(CASE WHEN previous IS NOT NULL
                   THEN coalesce(seam_kwh, first_kwh - previous) END, 0) ORDER BY first_at
               ) AS energy_kwh,
               (array_agg(seam_kwh ORDER BY first_at))[1] AS entry_judged,
               sum(samples)::int AS samples,
               -- the usual spacing: inside hours, so that one long gap does not blur it; a
               -- register sampled once an hour or less has only the whole window to go by
               coalesce(
                   sum(extract(epoch FROM last_at - first_at))
                       / nullif(sum(samples) - count(*), 0),
                   extract(epoch FROM max(last_at) - min(first_at)) / nullif(sum(samples) - 1, 0)
               )::float8 AS spacing_seconds {merged_temps}
        FROM seamed GROUP BY place
    )
    SELECT w.place, before.at, before.kwh, first_at, first_kwh, last_at, last_kwh,
           after.at, after.kwh,
           coalesce(entry_judged, first_kwh - before.kwh) AS entry_kwh,
           coalesce(after.judged, after.kwh - coalesce(last_kwh, before.kwh)) AS exit_kwh,
           energy_kwh, samples, spacing_seconds, d.edge_gap_seconds, d.resolution_kwh {temps}
    FROM wanted w
    JOIN {devices} d ON d.key = w.device_key
    LEFT JOIN inside USING (place)
    LEFT JOIN LATERAL (
        (SELECT recorded_at AS at, {kwh} AS kwh FROM {history} h
         WHERE h.device_key = w.device_key
           AND recorded_at >= date_trunc('hour', w.from_at) AND recorded_at < w.from_at
           AND NOT EXISTS (SELECT FROM {events} e WHERE e.device_key = w.device_key
                           AND e.at = recorded_at AND dropped)
         ORDER BY recorded_at DESC LIMIT 1)
        UNION ALL
        (SELECT last_at, last_kwh FROM {hourly} h
         WHERE h.device_key = w.device_key AND hour < date_trunc('hour', w.from_at)
         ORDER BY hour DESC LIMIT 1)
        ORDER BY at DESC LIMIT 1
    ) AS before ON true
    LEFT JOIN LATERAL (
        (SELECT recorded_at AS at, {kwh} AS kwh, e.energy_kwh AS judged FROM {history} h
         LEFT JOIN {events} e ON e.device_key = h.device_key AND e.at = recorded_at
         WHERE h.device_key = w.device_key AND recorded_at > w.to_at
           AND recorded_at < date_trunc('hour', w.to_at) + interval '1 hour'
           AND dropped IS NOT TRUE
         ORDER BY recorded_at LIMIT 1)
        UNION ALL
        (SELECT first_at, first_kwh, seam_kwh FROM {hourly} h
         WHERE h.device_key = w.device_key AND hour > date_trunc('hour', w.to_at)
         ORDER BY hour LIMIT 1)
        ORDER BY at LIMIT 1
    ) AS after ON true
"""


def _summary(
    kind: Kind, device: LiteralString, time: LiteralString, limit: sql.Composable
) -> sql.Composed:
    """`time` says which samples, as a condition on `{at}`."""
    return sql.SQL(_SUMMARY).format(
        **_names(kind),
        device=sql.SQL(device),
        within=sql.SQL(time).format(at=sql.SQL("recorded_at")),
        within_events=sql.SQL(time).format(at=sql.SQL("e.at")),
        limit=limit,
    )


@cache
def _refresh_statement(kind: Kind) -> sql.Composed:
    time: LiteralString = "{at} >= touched.hour AND {at} < touched.hour + interval '1 hour'"
    temps = ("sum", "min", "max") if kind is VEHICLE else ()
    excluded = [sql.Identifier("excluded", f"battery_temp_{t}_c") for t in temps]
    return sql.SQL(_REFRESH).format(
        **_names(kind),
        summary=_summary(kind, "touched.device_key", time, limit_kwh(sql.SQL("seconds"))),
        excluded_temps=sql.SQL("").join(sql.SQL(", {}").format(name) for name in excluded),
    )


@cache
def _window_statement(kind: Kind) -> sql.Composed:
    time: LiteralString = (
        "{at} >= greatest(hours.hour, hours.from_at) AND {at} <= least(hours.last_at, hours.to_at)"
    )
    summary = _summary(kind, "hours.device_key", time, sql.SQL("'Infinity'"))
    return sql.SQL(_WINDOW).format(**_names(kind), summary=summary)


def limit_kwh(seconds: sql.Composable) -> sql.Composed:
    """`Rating.limit_kwh` in SQL, for the device in `d`."""
    return sql.SQL(_LIMIT).format(
        margin=sql.Literal(ratings.POWER_MARGIN),
        power=sql.Literal(ratings.MAX_POWER_KW),
        resolution=sql.Literal(ratings.RESOLUTION_KWH),
        seconds=seconds,
    )


def explain(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> str:
    """The plan of `read_registers`, as text: tests hold that it scans no history whole."""
    statement = sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ")
    rows = driver(conn).execute(statement + _window_statement(kind), _columns(segments)).fetchall()
    return "\n".join(row[0] for row in rows)
