"""The flush's SQL: readings into history, latest and the list of hours to recompute.

Everything here is idempotent: storing a reading again, in any order and any number of times,
changes nothing. Every multi-row write is sorted by key, so concurrent writers cannot deadlock.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy import Column, Connection, DateTime
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import REAL

from models.clock import HOUR_US, from_us, to_us
from models.codec import Row
from models.engine import driver
from models.kinds import Kind

#: PostgreSQL counts microseconds from 2000-01-01; its binary timestamptz is that number.
_POSTGRES_EPOCH_US = 946_684_800_000_000
#: timestamptz travels as int8, which needs no conversion on either side.
_COPY_TYPE = {"INTEGER": "int4", "DATETIME": "int8", "DOUBLE": "float8", "REAL": "float4"}


#: No limit: as many devices as there are keys.
MAX_DEVICES = 2**31 - 1
#: (fleet, the device's own id)
Device = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch: every reading is in exactly one of the three counts."""

    inserted: int
    duplicates: int
    conflicts: int

    def __add__(self, other: Stored) -> Stored:
        return Stored(
            self.inserted + other.inserted,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
        )


NOTHING = Stored(0, 0, 0)


def resolve_devices(
    conn: Connection, kind: Kind, devices: Collection[Device], most: int = MAX_DEVICES
) -> dict[Device, int]:
    """Device keys by (fleet, device id); devices never seen before are registered.

    A device of a fleet that does not exist is not in the answer, nor is a new one of a fleet that
    has `most` devices already (two flushes at the same moment may register a few more).
    """
    statement = sql.SQL(
        "WITH wanted AS (SELECT fleet_id, device_id"
        "   FROM unnest(%s::int[], %s::text[]) AS w (fleet_id, device_id)"
        "   JOIN fleets ON fleets.id = fleet_id),"
        " known AS (SELECT fleet_id, device_id, d.key"
        "   FROM {devices} d JOIN wanted USING (fleet_id, device_id)),"
        " fresh AS (SELECT fleet_id, device_id FROM wanted"
        "   EXCEPT SELECT fleet_id, device_id FROM known),"
        " room AS (SELECT fleet_id, %s - count(d.key) AS places"
        "   FROM (SELECT DISTINCT fleet_id FROM fresh) f LEFT JOIN {devices} d USING (fleet_id)"
        "   GROUP BY fleet_id),"
        " made AS (INSERT INTO {devices} (fleet_id, device_id)"
        "   SELECT fleet_id, device_id FROM room JOIN (SELECT *, row_number() OVER"
        "     (PARTITION BY fleet_id ORDER BY device_id) AS place FROM fresh) f USING (fleet_id)"
        "   WHERE place <= places ORDER BY 1, 2"
        "   ON CONFLICT DO NOTHING RETURNING fleet_id, device_id, key)"
        " SELECT * FROM known UNION ALL SELECT * FROM made"
    ).format(devices=sql.Identifier(kind.devices.name))
    fleets_and_ids = map(list, zip(*sorted(devices), strict=True))
    parameters = (*fleets_and_ids, most)
    found: list[tuple[int, str, int]] = []
    # DO NOTHING returns no row for a device that another transaction registered meanwhile; it has
    # waited for that transaction, so a second look finds the row.
    for _ in range(2):
        found = driver(conn).execute(statement, parameters).fetchall()
        if len(found) == len(devices):
            break
    return {(fleet, device): key for fleet, device, key in found}


def store(conn: Connection, kind: Kind, rows: Iterable[Row]) -> Stored:
    """Write a batch: history (first value wins), latest (newest wins), hours to recompute.

    A different value for a (device, timestamp) already taken goes to `reading_conflicts`.
    Raises psycopg.Error; the caller's transaction is then to be rolled back.
    """
    firsts, repeated = _split_repeats(rows)
    inserted = _insert_history(conn, kind, firsts)
    beaten = repeated
    if len(inserted) < len(firsts):
        known = {(row.device_key, row.recorded_us) for row in inserted}
        beaten += [row for row in firsts if (row.device_key, row.recorded_us) not in known]
    contradicting = _contradictions(conn, kind, beaten) if beaten else []
    _update_latest(conn, kind, inserted)
    _mark_dirty(conn, kind, inserted)
    _keep_conflicts(conn, kind, contradicting)
    return Stored(len(inserted), len(beaten) - len(contradicting), len(contradicting))


def _split_repeats(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """(the first of each key, sorted; those that came after it)."""
    firsts: dict[tuple[int, int], Row] = {}
    repeated = []
    for row in rows:
        if firsts.setdefault((row[0], row[1]), row) is not row:
            repeated.append(row)
    return sorted(firsts.values()), repeated


def _insert_history(conn: Connection, kind: Kind, rows: list[Row]) -> list[Row]:
    """The rows that are new. COPY first: a batch without a repeated reading is the normal case."""
    try:
        with conn.begin_nested():
            _copy(conn, kind, rows)
        return rows
    except psycopg.errors.UniqueViolation:
        return _insert_unless_present(conn, kind, rows)


def _insert_unless_present(conn: Connection, kind: Kind, rows: list[Row]) -> list[Row]:
    """The rows that were new; waits for a concurrent writer of the same key to end."""
    statement = sql.SQL(
        "INSERT INTO {history} ({columns}) SELECT {columns} FROM {batch}"
        " ORDER BY device_key, recorded_at"
        " ON CONFLICT (device_key, recorded_at) DO NOTHING RETURNING device_key, recorded_at"
    ).format(
        history=sql.Identifier(kind.history.name), columns=_column_list(kind), batch=_batch(kind)
    )
    returned = driver(conn).execute(statement, _arrays(kind, rows)).fetchall()
    inserted = {(key, to_us(recorded_at)) for key, recorded_at in returned}
    return [row for row in rows if (row.device_key, row.recorded_us) in inserted]


def _contradictions(conn: Connection, kind: Kind, rows: list[Row]) -> list[Row]:
    """Those of `rows` whose values differ from what history holds for their key."""
    statement = sql.SQL(
        "SELECT place FROM {batch} JOIN {history} h USING (device_key, recorded_at)"
        " WHERE ({ours}) IS DISTINCT FROM ({theirs}) ORDER BY place"
    ).format(
        batch=_batch(kind),
        history=sql.Identifier(kind.history.name),
        ours=sql.SQL(", ").join(sql.Identifier("batch", m.column) for m in kind.measures),
        theirs=sql.SQL(", ").join(sql.Identifier("h", m.column) for m in kind.measures),
    )
    found = driver(conn).execute(statement, _arrays(kind, rows)).fetchall()
    return [rows[place - 1] for (place,) in found]


def _update_latest(conn: Connection, kind: Kind, rows: list[Row]) -> None:
    """Only the newest reading per device travels; only a newer one replaces what is there."""
    newest = list({row.device_key: row for row in rows}.values())  # rows are sorted by time
    if not newest:
        return
    columns = [c.name for c in kind.latest.columns if c.name != "device_key"]
    statement = sql.SQL(
        "INSERT INTO {latest} ({columns}) SELECT {columns} FROM {batch} ORDER BY device_key"
        " ON CONFLICT (device_key) DO UPDATE SET ({changed}) = ROW ({excluded})"
        " WHERE excluded.recorded_at > {latest}.recorded_at"
    ).format(
        latest=sql.Identifier(kind.latest.name),
        columns=_column_list(kind),
        batch=_batch(kind),
        changed=sql.SQL(", ").join(map(sql.Identifier, columns)),
        excluded=sql.SQL(", ").join(sql.Identifier("excluded", name) for name in columns),
    )
    driver(conn).execute(statement, _arrays(kind, newest))


def _mark_dirty(conn: Connection, kind: Kind, rows: list[Row]) -> None:
    """One line per (device, hour) whose history changed."""
    earliest: dict[tuple[int, int], datetime] = {}
    for row in rows:  # sorted by time
        earliest.setdefault((row.device_key, row.recorded_us // HOUR_US), from_us(row.recorded_us))
    hours = [(*hour, at) for hour, at in sorted(earliest.items())]
    if not hours:
        return
    statement = sql.SQL(
        "INSERT INTO {} (device_key, hour, from_at)"
        " SELECT device_key, timestamptz 'epoch' + hours * interval '1 hour', from_at"
        " FROM unnest(%s::int[], %s::int[], %s::timestamptz[])"
        "   AS dirty (device_key, hours, from_at)"
    ).format(sql.Identifier(kind.dirty.name))
    driver(conn).execute(statement, tuple(map(list, zip(*hours, strict=True))))


def _keep_conflicts(conn: Connection, kind: Kind, rows: list[Row]) -> None:
    for row in sorted(rows):
        refused = {m.field: v for m, v in zip(kind.measures, row.values, strict=True)}
        encoded = msgspec.json.encode(refused)
        driver(conn).execute(
            "INSERT INTO reading_conflicts"
            " (kind, device_key, recorded_at, digest, received_at, refused)"
            " VALUES (%s, %s, %s, %s, %s, %s::jsonb) ON CONFLICT DO NOTHING",
            (
                kind.name,
                row.device_key,
                from_us(row.recorded_us),
                hashlib.sha256(encoded).digest(),
                from_us(row.received_us),
                encoded.decode(),
            ),
        )


@cache
def _arrangement(kind: Kind) -> itemgetter[Any]:
    """From (device_key, recorded, received, *values) to the order of the table's columns."""
    names = ["device_key", "recorded_at", "received_at", *(m.column for m in kind.measures)]
    return itemgetter(*(names.index(column.name) for column in kind.history.columns))


@cache
def _column_list(kind: Kind) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in kind.history.columns)


def _copy(conn: Connection, kind: Kind, rows: list[Row]) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(kind.history.name), _column_list(kind)
    )
    arrange = _arrangement(kind)
    with driver(conn).cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([_COPY_TYPE[c.type.__visit_name__.upper()] for c in kind.history.columns])
        for key, recorded_us, received_us, values in rows:
            recorded, received = recorded_us - _POSTGRES_EPOCH_US, received_us - _POSTGRES_EPOCH_US
            copy.write_row(arrange((key, recorded, received, *values)))


@cache
def _batch(kind: Kind) -> sql.Composed:
    """A relation `batch` with history's columns, made of the parameters `_arrays` gives.

    Its last column, `place`, counts the rows from 1.
    """
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [column.type.compile(dialect) for column in kind.history.columns]
    arrays = sql.SQL(", ").join(sql.SQL(f"%s::{name}[]") for name in types)
    return sql.SQL("unnest({}) WITH ORDINALITY AS batch ({}, place)").format(
        arrays, _column_list(kind)
    )


def _arrays(kind: Kind, rows: Sequence[Row]) -> list[str]:
    """The rows by columns, in the order of the table's, as array literals.

    psycopg would look at each element by itself, which costs twice as much as all the rest.
    """
    arrange = _arrangement(kind)
    columns = zip(*(arrange((row[0], row[1], row[2], *row[3])) for row in rows), strict=True)
    return [
        f"{{{','.join(_spelled(column, values))}}}"
        for column, values in zip(kind.history.columns, columns, strict=True)
    ]


def _spelled(column: Column[Any], values: Sequence[Any]) -> Iterable[str]:
    if isinstance(column.type, DateTime):
        return [from_us(micros).isoformat() for micros in values]
    # PostgreSQL refuses to narrow a double that is too small for a REAL; COPY's bytes become 0.
    return map(repr, array("f", values) if isinstance(column.type, REAL) else values)
