"""The flush's SQL: readings into history, latest and the list of hours to recompute.

Everything here is idempotent: storing a reading again, in any order and any number of times,
changes nothing. Every multi-row write is sorted by key, so concurrent writers cannot deadlock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
import psycopg
from psycopg import sql
from sqlalchemy import Connection

from models import arrays, columns
from models.clock import HOUR_US, from_us, to_us
from models.codec import Row
from models.columns import Columns, Ints, Mask
from models.engine import driver
from models.kinds import Kind
from models.registry import Device

#: No limit: as many devices as there are keys.
MAX_DEVICES = 2**31 - 1


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


def store(conn: Connection, kind: Kind, readings: Columns | Iterable[Row]) -> Stored:
    """Write a batch: history (first value wins), latest (newest wins), hours to recompute.

    A different value for a (device, timestamp) already taken goes to `reading_conflicts`.
    Raises psycopg.Error, or OverflowError for an instant beyond the calendar; the caller's
    transaction is then to be rolled back.
    """
    batch = readings if isinstance(readings, Columns) else Columns.of(kind, readings)
    if not len(batch):
        return NOTHING
    batch.check_calendar()
    firsts, repeated = batch.first_of_each()
    inserted = _insert_history(conn, kind, firsts)
    beaten = [*repeated.rows(), *firsts.take(~inserted).rows()]
    contradicting = _contradictions(conn, kind, beaten) if beaten else []
    new = firsts.take(inserted) if beaten else firsts
    if len(new):
        _update_latest(conn, kind, new.newest())
        _mark_dirty(conn, kind, *new.hours())
    _keep_conflicts(conn, kind, contradicting)
    return Stored(len(new), len(beaten) - len(contradicting), len(contradicting))


def _insert_history(conn: Connection, kind: Kind, batch: Columns) -> Mask:
    """Which are new. COPY first: a batch without a repeated reading is the normal case."""
    try:
        with conn.begin_nested():
            _copy(conn, kind, batch)
        return np.ones(len(batch), np.bool_)
    except psycopg.errors.UniqueViolation:
        return _insert_unless_present(conn, kind, batch)


def _copy(conn: Connection, kind: Kind, batch: Columns) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(kind.history.name), _column_list(kind)
    )
    with driver(conn).cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(columns.copy_bytes(kind, batch))


def _insert_unless_present(conn: Connection, kind: Kind, batch: Columns) -> Mask:
    """Which were new; waits for a concurrent writer of the same key to end."""
    statement = sql.SQL(
        "INSERT INTO {history} ({columns}) SELECT {columns} FROM {batch}"
        " ORDER BY device_key, recorded_at"
        " ON CONFLICT (device_key, recorded_at) DO NOTHING RETURNING device_key, recorded_at"
    ).format(
        history=sql.Identifier(kind.history.name), columns=_column_list(kind), batch=_batch(kind)
    )
    returned = driver(conn).execute(statement, columns.parameters(kind, batch)).fetchall()
    inserted = {(key, to_us(recorded_at)) for key, recorded_at in returned}
    return np.array([identity in inserted for identity in batch.identities()], np.bool_)


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
    parameters = columns.parameters(kind, Columns.of(kind, rows))
    found = driver(conn).execute(statement, parameters).fetchall()
    return [rows[place - 1] for (place,) in found]


def _update_latest(conn: Connection, kind: Kind, newest: Columns) -> None:
    """One reading per device; only a newer one replaces what is there."""
    names = [c.name for c in kind.latest.columns if c.name != "device_key"]
    statement = sql.SQL(
        "INSERT INTO {latest} ({columns}) SELECT {columns} FROM {batch} ORDER BY device_key"
        " ON CONFLICT (device_key) DO UPDATE SET ({changed}) = ROW ({excluded})"
        " WHERE excluded.recorded_at > {latest}.recorded_at"
    ).format(
        latest=sql.Identifier(kind.latest.name),
        columns=_column_list(kind),
        batch=_batch(kind),
        changed=sql.SQL(", ").join(map(sql.Identifier, names)),
        excluded=sql.SQL(", ").join(sql.Identifier("excluded", name) for name in names),
    )
    driver(conn).execute(statement, columns.parameters(kind, newest))


def _mark_dirty(conn: Connection, kind: Kind, devices: Ints, hours: Ints, earliest: Ints) -> None:
    """One line per (device, hour) whose history changed, with its earliest new reading."""
    statement = sql.SQL("COPY {} (device_key, hour, from_at) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(kind.dirty.name)
    )
    dirty = [
        ("device_key", arrays.INT, devices),
        ("hour", arrays.INSTANT, hours * HOUR_US),
        ("from_at", arrays.INSTANT, earliest),
    ]
    with driver(conn).cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(arrays.copy_bytes(dirty))


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
def _column_list(kind: Kind) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns.names(kind)))


@cache
def _batch(kind: Kind) -> sql.Composed:
    """A relation `batch` with history's columns, made of the parameters `columns.parameters` gives.

    Its last column, `place`, counts the rows from 1.
    """
    types = columns.sql_types(kind)
    arrays = sql.SQL(", ").join(sql.SQL(f"%s::{name}[]") for name in types)
    return sql.SQL("unnest({}) WITH ORDINALITY AS batch ({}, place)").format(
        arrays, _column_list(kind)
    )
