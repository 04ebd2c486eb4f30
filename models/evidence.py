"""Which vehicles' charging must be looked at again: the marks between roll-up and episodes."""

from __future__ import annotations

from datetime import date, datetime
from typing import LiteralString, NamedTuple

from psycopg import sql
from sqlalchemy import BigInteger, Connection, Date, Identity, Integer, func, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models import arrays
from models.arrays import Array
from models.base import Base, Instant
from models.engine import driver
from models.kinds import METER, VEHICLE, Kind


class VehicleHourChanged(Base):
    """An hour in which a vehicle, or a meter that serves it, shows something else than before.

    Append-only, as the dirty hours are.
    """

    __tablename__ = "vehicle_hours_changed"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    vehicle_key: Mapped[int] = mapped_column(Integer, index=True)
    hour: Mapped[Instant]


class DayBegun(Base):
    """A finished UTC day whose evaluation was begun for all vehicles."""

    __tablename__ = "days_begun"
    day: Mapped[date] = mapped_column(Date, primary_key=True)


class Touched(NamedTuple):
    """A vehicle and the hours to look at, which may repeat."""

    vehicle_key: int
    hours: list[datetime]


#: An hour in which nothing flowed, and which is not from the past, is part of no episode.
_TOUCHED: LiteralString = """
    WITH touched AS (
        SELECT device_key, hour
        FROM unnest(%s::int[], %s::timestamptz[]) AS t (device_key, hour)
        LEFT JOIN {hourly} h USING (device_key, hour)
        WHERE h.energy_kwh IS DISTINCT FROM 0 OR hour < now() - interval '2 hours'
    )
    INSERT INTO vehicle_hours_changed (vehicle_key, hour) {vehicles}
"""
_VEHICLES: dict[Kind, LiteralString] = {
    VEHICLE: "SELECT device_key, hour FROM touched",
    METER: """
        SELECT v.key, hour FROM touched
        JOIN meters m ON m.key = touched.device_key
        JOIN vehicles v ON v.fleet_id = m.fleet_id
            AND v.device_id = 'vehicle-' || substr(m.device_id, 7)
        WHERE starts_with(m.device_id, 'meter-')
        UNION
        SELECT vehicle_key, hour FROM touched JOIN meter_assignments a
            ON a.meter_key = touched.device_key AND valid_from < hour + interval '1 hour'
            AND (valid_to IS NULL OR valid_to > hour)
    """,
}

_BEGIN_DAY = text("""
    WITH begun AS (
        INSERT INTO days_begun (day)
        SELECT CAST(:day AS date)
        WHERE :day > coalesce((SELECT max(day) FROM days_begun), '-infinity')
        RETURNING day
    )
    INSERT INTO vehicle_hours_changed (vehicle_key, hour)
    SELECT key, day::timestamp AT TIME ZONE 'UTC' FROM begun, vehicles
""")

_TAKE = text("""
    WITH page AS (
        SELECT DISTINCT vehicle_key FROM vehicle_hours_changed WHERE id <= :up_to
        ORDER BY vehicle_key LIMIT :limit
    ), taken AS (
        DELETE FROM vehicle_hours_changed c USING page
        WHERE c.vehicle_key = page.vehicle_key AND id <= :up_to
        RETURNING c.vehicle_key, c.hour
    )
    SELECT vehicle_key, array_agg(DISTINCT hour) FROM taken GROUP BY vehicle_key
    ORDER BY vehicle_key
""")


def mark(conn: Connection, kind: Kind, device_keys: Array, hours_us: Array) -> None:
    """Note the refreshed hours for the vehicles that these devices are, or serve."""
    statement = sql.SQL(_TOUCHED).format(
        hourly=sql.Identifier(kind.hourly.name), vehicles=sql.SQL(_VEHICLES[kind])
    )
    hours = arrays.packed(arrays.INSTANT, hours_us)
    driver(conn).execute(statement, (arrays.packed(arrays.INT, device_keys), hours))


def begin_day(conn: Connection, day: date) -> None:
    """Have every vehicle's finished `day` looked at, if that has not been begun."""
    conn.execute(_BEGIN_DAY, {"day": day})


def newest_mark(conn: Connection) -> int:
    """The mark up to which a run works."""
    newest = select(func.coalesce(func.max(VehicleHourChanged.id), 0))
    return int(conn.execute(newest).scalar_one())


def take(conn: Connection, limit: int, *, up_to: int) -> list[Touched]:
    """Up to `limit` vehicles with their marks, which are removed.

    What is looked at must be read in a LATER statement of the same transaction.
    """
    rows = conn.execute(_TAKE, {"limit": limit, "up_to": up_to})
    return [Touched(key, hours) for key, hours in rows]
