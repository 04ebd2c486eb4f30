"""Register energy out of history: hours recomputed, windows read.

A window costs its hours, not its readings: hours that lie inside it whole are taken from the hourly
table, only the (at most two) hours that it cuts are read from history. Seams between neighbours
are judged by the same law as the steps inside an hour (`STEP`, `RESET`; workers/energy.py is the
same law in Python).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, LiteralString, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from models.engine import driver
from models.kinds import VEHICLE, Kind

#: Energy of one step of a register; a register that fell has restarted at zero. Null before the
#: first sample, which has no step.
STEP: LiteralString = "CASE WHEN {now} < {before} THEN {now} ELSE {now} - {before} END"
RESET: LiteralString = "({now} < {before})"


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
    energy_kwh: float | None
    samples: int | None
    resets: int | None
    spacing_seconds: float | None
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
    return Register._make((*row[:12], Temperatures(*row[12:15]) if seen else None))


@cache
def _names(kind: Kind) -> dict[str, sql.Composable]:
    """What differs between the two kinds: table and column names, and the temperature columns."""
    warm = kind is VEHICLE
    temp = ["battery_temp_sum_c", "battery_temp_min_c", "battery_temp_max_c"] if warm else []
    listed = sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(t)) for t in temp)
    return {
        "history": sql.Identifier(kind.history.name),
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


#: The samples of one device in [{a}, {b}) or [{a}, {b}], summed up in the hourly table's form.
#: Uses index: the history's primary key (device_key, recorded_at), in one partition.
_SUMMARY: LiteralString = """
    SELECT min(recorded_at) AS first_at,
           (array_agg(kwh ORDER BY recorded_at))[1] AS first_kwh,
           max(recorded_at) AS last_at,
           (array_agg(kwh ORDER BY recorded_at DESC))[1] AS last_kwh,
           coalesce(sum(step ORDER BY recorded_at), 0) AS energy_kwh,
           count(*)::int AS samples,
           (count(*) FILTER (WHERE reset))::int AS resets {raw_temps}
    FROM (
        SELECT recorded_at, kwh, {step} AS step, {reset} AS reset {raw_temp}
        FROM (
            SELECT recorded_at, {kwh} AS kwh, lag({kwh}) OVER (ORDER BY recorded_at) AS previous
                   {raw_temp}
            FROM {history} h
            WHERE h.device_key = {device} AND {within}
        ) AS samples
    ) AS steps
"""

_REFRESH: LiteralString = """
    INSERT INTO {hourly} (device_key, hour, first_at, first_kwh, last_at, last_kwh,
                          energy_kwh, samples, resets {temps})
    SELECT touched.device_key, touched.hour, summary.*
    FROM unnest(%s::int[], %s::timestamptz[]) AS touched (device_key, hour)
    CROSS JOIN LATERAL ({summary}) AS summary
    WHERE summary.samples > 0
    ON CONFLICT (device_key, hour) DO UPDATE SET
        (first_at, first_kwh, last_at, last_kwh, energy_kwh, samples, resets {temps})
      = (SELECT excluded.first_at, excluded.first_kwh, excluded.last_at, excluded.last_kwh,
                excluded.energy_kwh, excluded.samples, excluded.resets {excluded_temps})
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
        SELECT place, first_at, first_kwh, last_at, last_kwh, energy_kwh, samples, resets {temps}
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
               sum(energy_kwh + coalesce({seam_step}, 0) ORDER BY first_at) AS energy_kwh,
               sum(samples)::int AS samples,
               (sum(resets) + count(*) FILTER (WHERE {seam_reset}))::int AS resets,
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
           after.at, after.kwh, energy_kwh, samples, resets, spacing_seconds {temps}
    FROM wanted w
    LEFT JOIN inside USING (place)
    LEFT JOIN LATERAL (
        (SELECT recorded_at AS at, {kwh} AS kwh FROM {history} h
         WHERE h.device_key = w.device_key
           AND recorded_at >= date_trunc('hour', w.from_at) AND recorded_at < w.from_at
         ORDER BY recorded_at DESC LIMIT 1)
        UNION ALL
        (SELECT last_at, last_kwh FROM {hourly} h
         WHERE h.device_key = w.device_key AND hour < date_trunc('hour', w.from_at)
         ORDER BY hour DESC LIMIT 1)
        ORDER BY at DESC LIMIT 1
    ) AS before ON true
    LEFT JOIN LATERAL (
        (SELECT recorded_at AS at, {kwh} AS kwh FROM {history} h
         WHERE h.device_key = w.device_key AND recorded_at > w.to_at
           AND recorded_at < date_trunc('hour', w.to_at) + interval '1 hour'
         ORDER BY recorded_at LIMIT 1)
        UNION ALL
        (SELECT first_at, first_kwh FROM {hourly} h
         WHERE h.device_key = w.device_key AND hour > date_trunc('hour', w.to_at)
         ORDER BY hour LIMIT 1)
        ORDER BY at LIMIT 1
    ) AS after ON true
"""


def _law(expression: LiteralString, now: LiteralString, before: LiteralString) -> sql.Composed:
    return sql.SQL(expression).format(now=sql.SQL(now), before=sql.SQL(before))


def _summary(kind: Kind, device: LiteralString, within: LiteralString) -> sql.Composed:
    return sql.SQL(_SUMMARY).format(
        **_names(kind),
        step=_law(STEP, "kwh", "previous"),
        reset=_law(RESET, "kwh", "previous"),
        device=sql.SQL(device),
        within=sql.SQL(within),
    )


@cache
def _refresh_statement(kind: Kind) -> sql.Composed:
    within: LiteralString = (
        "recorded_at >= touched.hour AND recorded_at < touched.hour + interval '1 hour'"
    )
    temps = ("sum", "min", "max") if kind is VEHICLE else ()
    return sql.SQL(_REFRESH).format(
        **_names(kind),
        summary=_summary(kind, "touched.device_key", within),
        excluded_temps=sql.SQL("").join(
            sql.SQL(", {}").format(sql.Identifier("excluded", f"battery_temp_{t}_c")) for t in temps
        ),
    )


@cache
def _window_statement(kind: Kind) -> sql.Composed:
    within: LiteralString = (
        "recorded_at >= greatest(hours.hour, hours.from_at)"
        " AND recorded_at <= least(hours.last_at, hours.to_at)"
    )
    return sql.SQL(_WINDOW).format(
        **_names(kind),
        summary=_summary(kind, "hours.device_key", within),
        seam_step=_law(STEP, "first_kwh", "previous"),
        seam_reset=_law(RESET, "first_kwh", "previous"),
    )


def explain(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> str:
    """The plan of `read_registers`, as text: tests hold that it scans no history whole."""
    statement = sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ")
    rows = driver(conn).execute(statement + _window_statement(kind), _columns(segments)).fetchall()
    return "\n".join(row[0] for row in rows)
