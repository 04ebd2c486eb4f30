"""What is known about devices: their ratings, and which meter served which vehicle. Scope admin."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from flask import Response, g
from flask_smorest import Blueprint
from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema
from sqlalchemy import Connection

from models import assignments, ratings
from models.assignments import Assignment, Listed, Overlaps
from models.engine import transaction
from models.kinds import METER, VEHICLE, Kind, Measure
from models.ratings import Rating
from web.answers import AssignmentSchema, RatingSchema, answer, page_of
from web.auth import KeyRing, protect
from web.devices import known_device
from web.pages import PageQuery, decode_cursor, page
from web.refusals import Refused
from web.schemas import DeviceId, MeasuredNumber, Timestamp

#: Where a page of assignments ended.
_Position = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
#: What can be set for a device: public name -> column, range, unit, meaning.
_RATINGS = (
    Measure("maxPowerKw", "max_power_kw", 0.001, 10_000, "kW", "The most it can carry"),
    Measure("resolutionKwh", "resolution_kwh", 0.000_001, 10, "kWh", "Smallest step it shows"),
    Measure("rolloverKwh", "rollover_kwh", 1, 1e12, "kWh", "Where the register starts again"),
    Measure("dipToleranceKwh", "dip_tolerance_kwh", 0, 100, "kWh", "A fall that means nothing"),
    Measure("edgeGapSeconds", "edge_gap_seconds", 0, 604_800, "s", "Gap bridged at an edge"),
)

RatingChange = Schema.from_dict(
    {r.field: MeasuredNumber(r, attribute=r.column, allow_none=True) for r in _RATINGS},
    name="RatingChange",
)


class NewAssignment(Schema):
    """A meter serves a vehicle in [from, to); without `to`, until further notice."""

    class Meta:
        include = {  # noqa: RUF012
            "from": Timestamp(attribute="valid_from"),
            "to": Timestamp(attribute="valid_to", optional=True),
        }

    vehicleId = DeviceId()
    meterId = DeviceId()

    @validates_schema
    def _in_order(self, data: dict[str, Any], **_: Any) -> None:
        if data.get("valid_to") is not None and data["valid_to"] <= data["valid_from"]:
            raise ValidationError("Must be later than `from`.", "to")


class AssignmentQuery(PageQuery):
    """Of one vehicle or one meter, if wanted."""

    vehicleId = fields.String(load_default=None, validate=validate.Predicate("isprintable"))
    meterId = fields.String(load_default=None, validate=validate.Predicate("isprintable"))


def blueprint(keys: KeyRing) -> Blueprint:
    """PATCH of devices, and meter assignments."""
    blp = Blueprint("registry", __name__, url_prefix="/v1", description="Ratings and assignments")
    protect(blp, keys, "admin")

    @blp.route("/meters/<device_id>", methods=["PATCH"])
    @blp.arguments(RatingChange, unknown=RAISE)
    @blp.response(200, RatingSchema)
    def rate_meter(change: dict[str, Any], device_id: str) -> Response:
        """Set what a meter can do (null: the default)"""
        return _rate(METER, device_id, change)

    @blp.route("/vehicles/<device_id>", methods=["PATCH"])
    @blp.arguments(RatingChange, unknown=RAISE)
    @blp.response(200, RatingSchema)
    def rate_vehicle(change: dict[str, Any], device_id: str) -> Response:
        """Set what a vehicle can do (null: the default)"""
        return _rate(VEHICLE, device_id, change)

    @blp.route("/meter-assignments", methods=["POST"])
    @blp.arguments(NewAssignment, unknown=RAISE)
    @blp.response(201, AssignmentSchema)
    def assign(wanted: dict[str, Any]) -> Response:
        """Say which meter serves which vehicle, from when to when"""
        try:
            with transaction() as conn:
                made = assignments.assign(conn, _assignment(conn, wanted))
        except Overlaps as overlap:
            raise Refused("ASSIGNMENT_OVERLAPS") from overlap
        return answer(_shown(made), 201)

    @blp.route("/meter-assignments", methods=["GET"])
    @blp.arguments(AssignmentQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("AssignmentPage", AssignmentSchema))
    def listed(query: dict[str, Any]) -> Response:
        """The fleet's assignments, oldest first"""
        after, limit = decode_cursor(query["cursor"], _Position) or 0, query["limit"]
        with transaction() as conn:
            rows = assignments.assignments(
                conn,
                g.caller.fleet_id,
                vehicle_id=query["vehicleId"],
                meter_id=query["meterId"],
                after=after,
                limit=limit + 1,
            )
        return page(rows, limit, _shown, lambda row: row.id)

    @blp.route("/meter-assignments/<int(max=2147483647):assignment_id>", methods=["DELETE"])
    @blp.response(204)
    def unassign(assignment_id: int) -> Response:
        """Take an assignment back"""
        with transaction() as conn:
            if not assignments.unassign(conn, g.caller.fleet_id, assignment_id):
                raise Refused("UNKNOWN_ASSIGNMENT")
        return Response(status=204)

    return blp


def _rate(kind: Kind, device_id: str, change: dict[str, Any]) -> Response:
    with transaction() as conn:
        key = known_device(conn, kind, device_id)
        if change:
            ratings.change(conn, kind, key, change)
        rating = ratings.read(conn, kind, {key})[key]
    return answer({"deviceId": device_id, **_shown_rating(rating)})


def _shown_rating(rating: Rating) -> dict[str, Any]:
    return {r.field: getattr(rating, r.column) for r in _RATINGS}


def _assignment(conn: Connection, wanted: dict[str, Any]) -> Assignment:
    valid_to: datetime | None = wanted.get("valid_to")
    return Assignment(
        known_device(conn, VEHICLE, wanted["vehicleId"]),
        known_device(conn, METER, wanted["meterId"]),
        wanted["valid_from"],
        valid_to,
    )


def _shown(row: Listed) -> dict[str, Any]:
    return {
        "id": row.id,
        "vehicleId": row.vehicle_id,
        "meterId": row.meter_id,
        "from": row.valid_from,
        "to": row.valid_to,
    }
