"""Judged samples: the rare steps of a register that are not a plain rise.

Written by workers/hourly.py, read by models/hours.py and models/windows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, LiteralString, NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from models.engine import driver
from models.hours import Segment, columns, limit_kwh
from models.kinds import Kind


class Judged(NamedTuple):
    """A row of the events table, without its device."""

    at: datetime
    event: str | None
    dropped: bool
    energy_kwh: float
    high_kwh: float
    #: What makes `energy_kwh` out of the difference to the sample before; 0 of a dropped one.
    correction_kwh: float
    uncertain_kwh: float
    final: bool


class Shown(NamedTuple):
    """What a register showed at an instant, and what that means for its energy."""

    at: datetime
    #: None: on its way back up from a dip.
    event: str | None
    dropped: bool
    correction_kwh: float
    uncertain_kwh: float


class Raw(NamedTuple):
    """A sample of history with the judgement on it, if there is one."""

    at: datetime
    kwh: float
    dropped: bool | None
    high_kwh: float | None
    final: bool | None


#: An hour needs judging when one of its steps is not a plain rise, when a step to or from its
#: neighbours is not, or when a judged sample lies in or beside it (it may be judged otherwise now).
_SUSPECTS: LiteralString = """
    SELECT touched.device_key, touched.hour
    FROM unnest(%s::int[], %s::timestamptz[]) AS touched (device_key, hour)
    JOIN {devices} d ON d.key = touched.device_key
    LEFT JOIN {hourly} h ON h.device_key = touched.device_key AND h.hour = touched.hour
    LEFT JOIN LATERAL (
        SELECT last_at, last_kwh FROM {hourly} p
        WHERE p.device_key = touched.device_key AND p.hour < touched.hour
        ORDER BY hour DESC LIMIT 1
    ) AS prior ON true
    LEFT JOIN LATERAL (
        SELECT first_at, first_kwh, seam_kwh FROM {hourly} n
        WHERE n.device_key = touched.device_key AND n.hour > touched.hour
        ORDER BY hour LIMIT 1
    ) AS later ON true
    WHERE h.rough
       OR h.seam_kwh IS NULL AND NOT {plain_entry}
       OR later.seam_kwh IS NULL AND NOT {plain_exit}
       OR EXISTS (
           SELECT FROM {events} e
           WHERE e.device_key = touched.device_key
             AND e.at >= coalesce(prior.last_at, '-infinity')
             AND e.at <= coalesce(later.first_at, 'infinity'))
    ORDER BY 1, 2
"""

_PLAIN: LiteralString = """
    ({after_kwh} >= {before_kwh} AND {after_kwh} - {before_kwh} <= {limit})
"""


@cache
def _suspects_statement(kind: Kind) -> sql.Composed:
    return sql.SQL(_SUSPECTS).format(
        devices=sql.Identifier(kind.devices.name),
        hourly=sql.Identifier(kind.hourly.name),
        events=sql.Identifier(kind.events.name),
        plain_entry=_plain("prior.last_at", "prior.last_kwh", "h.first_at", "h.first_kwh"),
        plain_exit=_plain("h.last_at", "h.last_kwh", "later.first_at", "later.first_kwh"),
    )


def _plain(
    before_at: LiteralString,
    before_kwh: LiteralString,
    after_at: LiteralString,
    after_kwh: LiteralString,
) -> sql.Composed:
    seconds = sql.SQL("extract(epoch FROM {} - {})").format(sql.SQL(after_at), sql.SQL(before_at))
    return sql.SQL(_PLAIN).format(
        before_kwh=sql.SQL(before_kwh), after_kwh=sql.SQL(after_kwh), limit=limit_kwh(seconds)
    )


def suspects(
    conn: Connection, kind: Kind, hours: Sequence[tuple[int, datetime]]
) -> list[tuple[int, datetime]]:
    """Those of the refreshed `hours` whose samples must be judged, by device and time."""
    if not hours:
        return []
    keys_and_hours = tuple(map(list, zip(*hours, strict=True)))
    return driver(conn).execute(_suspects_statement(kind), keys_and_hours).fetchall()


def samples_before(
    conn: Connection, kind: Kind, device_key: int, before: datetime, limit: int
) -> list[Raw]:
    """The newest `limit` samples before an instant, newest first."""
    order: LiteralString = "recorded_at < %s ORDER BY recorded_at DESC"
    return _samples(conn, kind, order, (device_key, before, limit))


def samples_after(
    conn: Connection, kind: Kind, device_key: int, after: datetime, limit: int
) -> list[Raw]:
    """The first `limit` samples after an instant, oldest first."""
    order: LiteralString = "recorded_at > %s ORDER BY recorded_at"
    return _samples(conn, kind, order, (device_key, after, limit))


def _samples(
    conn: Connection, kind: Kind, where_and_order: LiteralString, parameters: tuple[Any, ...]
) -> list[Raw]:
    # Uses index: the history's primary key. Not pruned to partitions, so for suspects only.
    statement = sql.SQL(
        "SELECT recorded_at, {kwh}, e.dropped, e.high_kwh, e.final FROM {history} h"
        " LEFT JOIN {events} e ON e.device_key = h.device_key AND e.at = h.recorded_at"
        " WHERE h.device_key = %s AND {rest} LIMIT %s"
    ).format(
        kwh=sql.Identifier(kind.counter.column),
        history=sql.Identifier(kind.history.name),
        events=sql.Identifier(kind.events.name),
        rest=sql.SQL(where_and_order),
    )
    rows = driver(conn).execute(statement, parameters).fetchall()
    return [Raw(*row) for row in rows]


def replace(
    conn: Connection,
    kind: Kind,
    device_key: int,
    span: tuple[datetime, datetime],
    judged: Sequence[Judged],
) -> set[datetime]:
    """Put `judged` in place of what stood in `span` (after its begin, up to its end, inclusive).

    Answers the instants whose judgement is another than before.
    """
    names = {
        "events": sql.Identifier(kind.events.name),
        "columns": sql.SQL(", ").join(map(sql.Identifier, Judged._fields)),
    }
    gone = driver(conn).execute(
        sql.SQL(
            "DELETE FROM {events} WHERE device_key = %s AND at > %s AND at <= %s"
            " RETURNING {columns}"
        ).format(**names),
        (device_key, *span),
    )
    before = {Judged(*row) for row in gone.fetchall()}
    insert = sql.SQL(
        "INSERT INTO {events} (device_key, {columns}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
    ).format(**names)
    with driver(conn).cursor() as cursor:
        cursor.executemany(insert, [(device_key, *one) for one in judged])
    return {one.at for one in before.symmetric_difference(judged)}


def shown(conn: Connection, kind: Kind, segments: Sequence[Segment]) -> list[list[Shown]]:
    """The judged samples of each segment, oldest first, in the segments' order."""
    found: list[list[Shown]] = [[] for _ in segments]
    if segments:
        statement = sql.SQL(
            "SELECT place, {columns} FROM unnest(%s::int[], %s::int[], %s::timestamptz[],"
            " %s::timestamptz[]) AS w (place, device_key, from_at, to_at)"
            " JOIN {events} e"
            "   ON e.device_key = w.device_key AND e.at >= w.from_at AND e.at <= w.to_at"
        ).format(
            events=sql.Identifier(kind.events.name),
            columns=sql.SQL(", ").join(map(sql.Identifier, Shown._fields)),
        )
        rows = driver(conn).execute(statement, columns(segments)).fetchall()
        for place, *shown_row in sorted(rows, key=lambda row: row[:2]):
            found[place].append(Shown(*shown_row))
    return found
