"""Which meter served which vehicle, from when to when. Overlaps are refused by the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy import Connection, Row, Select, delete, insert, select
from sqlalchemy.exc import IntegrityError

from models import rollups
from models.kinds import METER, VEHICLE
from models.registry import Meter, MeterAssignment, Vehicle

#: (id, vehicle_id, meter_id, valid_from, valid_to)
Listed = Row[int, str, str, datetime, datetime | None]


class Overlaps(Exception):  # noqa: N818  (a verdict, not a defect)
    """The vehicle or the meter is assigned already in that time."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A meter serves a vehicle in [valid_from, valid_to); None is until further notice."""

    vehicle_key: int
    meter_key: int
    valid_from: datetime
    valid_to: datetime | None


def _listed() -> Select[int, str, str, datetime, datetime | None]:
    return (
        select(
            MeterAssignment.id,
            Vehicle.device_id.label("vehicle_id"),
            Meter.device_id.label("meter_id"),
            MeterAssignment.valid_from,
            MeterAssignment.valid_to,
        )
        .join(Vehicle, Vehicle.key == MeterAssignment.vehicle_key)
        .join(Meter, Meter.key == MeterAssignment.meter_key)
    )


def assign(conn: Connection, assignment: Assignment) -> Listed:
    """Store an assignment and return it as listed. Raises Overlaps."""
    statement = insert(MeterAssignment).values(
        vehicle_key=assignment.vehicle_key,
        meter_key=assignment.meter_key,
        valid_from=assignment.valid_from,
        valid_to=assignment.valid_to,
    )
    try:
        made = conn.execute(statement.returning(MeterAssignment.id)).scalar_one()
    except IntegrityError as error:
        if isinstance(error.orig, psycopg.errors.ExclusionViolation):
            raise Overlaps from error
        raise
    _mark(conn, assignment.vehicle_key, assignment.meter_key)
    return conn.execute(_listed().where(MeterAssignment.id == made)).one()


def assignments(
    conn: Connection,
    fleet_id: int,
    *,
    vehicle_id: str | None,
    meter_id: str | None,
    after: int,
    limit: int,
) -> Sequence[Listed]:
    """The fleet's assignments by id, of one vehicle or meter if wanted."""
    query = _listed().where(Vehicle.fleet_id == fleet_id, MeterAssignment.id > after)
    if vehicle_id is not None:
        query = query.where(Vehicle.device_id == vehicle_id)
    if meter_id is not None:
        query = query.where(Meter.device_id == meter_id)
    return conn.execute(query.order_by(MeterAssignment.id).limit(limit)).all()


def unassign(conn: Connection, fleet_id: int, assignment_id: int) -> bool:
    """Whether the fleet had such an assignment; it has none now."""
    ours = select(Vehicle.key).where(Vehicle.fleet_id == fleet_id)
    statement = delete(MeterAssignment).where(
        MeterAssignment.id == assignment_id, MeterAssignment.vehicle_key.in_(ours)
    )
    gone = conn.execute(
        statement.returning(MeterAssignment.vehicle_key, MeterAssignment.meter_key)
    ).one_or_none()
    if gone is not None:
        _mark(conn, gone.vehicle_key, gone.meter_key)
    return gone is not None


def _mark(conn: Connection, vehicle_key: int, meter_key: int) -> None:
    """Both the vehicle, and whom the meter serves otherwise, have other numbers now."""
    rollups.mark_vehicles(conn, VEHICLE, [vehicle_key])
    rollups.mark_vehicles(conn, METER, [meter_key])
