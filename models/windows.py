"""Windows over registers: the samples around their ends, the hours between, and what was judged.

A window costs its hours, not its readings. Its energy is the register at its end minus the register
at its begin, plus what the judged samples (models/events.py) correct of that difference; so it
takes the two samples around either end, and no matter how many lie between.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import LiteralString, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from models import events, hours
from models.engine import driver
from models.events import Shown
from models.hours import Hour, Segment, columns
from models.kinds import Kind

_MICROSECOND = timedelta(microseconds=1)
_SECOND_OF_ALL = datetime.min.replace(tzinfo=UTC) + _MICROSECOND


class Instant(NamedTuple):
    """A place in a device's register."""

    device_key: int
    at: datetime


class Bracket(NamedTuple):
    """The samples that count around an instant: the newest up to it, the oldest after it."""

    before_at: datetime | None
    before_kwh: float | None
    after_at: datetime | None
    after_kwh: float | None
    #: Energy of the step from one to the other; None when one is missing.
    step_kwh: float | None


class Limits(NamedTuple):
    """What was set for a device; None: the default (models/ratings.py)."""

    edge_gap_seconds: float | None
    resolution_kwh: float | None


class Window(NamedTuple):
    """What lies in and around a segment; the raw material of workers/performance.py."""

    #: (newest before the segment, oldest in or after it), (newest in or before it, oldest after).
    begin: Bracket
    end: Bracket
    hours: list[Hour]
    #: The judged samples in it.
    shown: list[Shown]
    limits: Limits


def before(at: datetime) -> datetime:
    """The instant just before: a bracket around it has a sample exactly at `at` behind it."""
    return max(at, _SECOND_OF_ALL) - _MICROSECOND


#: Uses index: {hourly}'s primary key, to find the hour (last_at and first_at are samples that
#: count); then the history's primary key, within that hour's partition.
_BRACKETS: LiteralString = """
    SELECT w.place, b.at, b.kwh, a.at, a.kwh, coalesce(a.judged, a.kwh - b.kwh)
    FROM unnest(%s::int[], %s::int[], %s::timestamptz[]) AS w (place, device_key, at)
    LEFT JOIN LATERAL (
        SELECT hour, last_at, last_kwh FROM {hourly} h
        WHERE h.device_key = w.device_key AND hour <= date_trunc('hour', w.at) AND first_at <= w.at
        ORDER BY hour DESC LIMIT 1
    ) AS prior ON true
    LEFT JOIN LATERAL (
        SELECT hour, first_at, first_kwh, seam_kwh FROM {hourly} h
        WHERE h.device_key = w.device_key AND hour >= date_trunc('hour', w.at) AND last_at > w.at
        ORDER BY hour LIMIT 1
    ) AS later ON true
    LEFT JOIN LATERAL (
        SELECT prior.last_at AS at, prior.last_kwh AS kwh WHERE prior.last_at <= w.at
        UNION ALL
        (SELECT recorded_at, {kwh} FROM {history} h
         WHERE prior.last_at > w.at AND h.device_key = w.device_key
           AND recorded_at >= prior.hour AND recorded_at <= w.at
           AND NOT EXISTS (SELECT FROM {events} e WHERE e.device_key = w.device_key
                           AND e.at = recorded_at AND dropped)
         ORDER BY recorded_at DESC LIMIT 1)
    ) AS b ON true
    LEFT JOIN LATERAL (
        SELECT later.first_at AS at, later.first_kwh AS kwh, later.seam_kwh AS judged
        WHERE later.first_at > w.at
        UNION ALL
        (SELECT recorded_at, {kwh}, e.energy_kwh FROM {history} h
         LEFT JOIN {events} e ON e.device_key = h.device_key AND e.at = recorded_at
         WHERE later.first_at <= w.at AND h.device_key = w.device_key
           AND recorded_at > w.at AND recorded_at < later.hour + interval '1 hour'
           AND dropped IS NOT TRUE
         ORDER BY recorded_at LIMIT 1)
    ) AS a ON true
"""


@cache
def _brackets_statement(kind: Kind) -> sql.Composed:
    return sql.SQL(_BRACKETS).format(
        hourly=sql.Identifier(kind.hourly.name),
        history=sql.Identifier(kind.history.name),
        events=sql.Identifier(kind.events.name),
        kwh=sql.Identifier(kind.counter.column),
    )


def brackets(conn: Connection, kind: Kind, instants: Sequence[Instant]) -> list[Bracket]:
    """One Bracket per instant, in their order."""
    if not instants:
        return []
    rows = driver(conn).execute(_brackets_statement(kind), columns(instants)).fetchall()
    return [Bracket(*row[1:]) for row in sorted(rows, key=lambda row: row[0])]


def read(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> list[Window]:
    """One Window per segment, in their order. Touches hours, not readings."""
    begins = [Instant(s.device_key, before(s.from_at)) for s in segments]
    around = brackets(conn, kind, [*begins, *(Instant(s.device_key, s.to_at) for s in segments)])
    limits = _limits(conn, kind, segments)
    return [
        Window(begin, end, inside, shown, limits[segment.device_key])
        for segment, begin, end, inside, shown in zip(
            segments,
            around[: len(segments)],
            around[len(segments) :],
            hours.read(conn, kind, segments),
            events.shown(conn, kind, segments),
            strict=True,
        )
    ]


def _limits(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> dict[int, Limits]:
    statement = sql.SQL(
        "SELECT key, edge_gap_seconds, resolution_kwh FROM {} WHERE key = ANY (%s)"
    ).format(sql.Identifier(kind.devices.name))
    keys = list({segment.device_key for segment in segments})
    rows = driver(conn).execute(statement, (keys,)).fetchall()
    return {key: Limits(gap, resolution) for key, gap, resolution in rows}


def conflicts(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> list[int]:
    """How many values were refused in each segment because history held another."""
    counts = [0] * len(segments)
    if segments:
        # Uses index: the primary key of reading_conflicts (kind, device_key, recorded_at).
        rows = driver(conn).execute(
            "SELECT place, count(*) FROM unnest(%s::int[], %s::int[], %s::timestamptz[],"
            " %s::timestamptz[]) AS w (place, device_key, from_at, to_at)"
            " JOIN reading_conflicts c ON c.kind = %s AND c.device_key = w.device_key"
            "   AND recorded_at >= from_at AND recorded_at <= to_at GROUP BY place",
            (*columns(segments), kind.name),
        )
        for place, number in rows:
            counts[place] = number
    return counts


def explain(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> str:
    """The plans of what `read` asks of history, as text: tests hold that none scans it whole."""
    explained = sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ")
    ends = [Instant(s.device_key, at) for s in segments for at in (before(s.from_at), s.to_at)]
    plans = (
        (_brackets_statement(kind), columns(ends)),
        (hours.read_statement(kind), columns(segments)),
    )
    return "\n".join(
        row[0]
        for statement, arrays in plans
        for row in driver(conn).execute(explained + statement, arrays).fetchall()
    )
