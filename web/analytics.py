"""GET /v1/analytics/performance: what beat has materialised, one indexed row per vehicle."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from flask import Response, g, request
from flask_smorest import Blueprint
from marshmallow import RAISE

from models import reads
from models.clock import to_us
from models.engine import reading
from models.kinds import VEHICLE
from web.answers import PerformanceSchema, answer, page_of, performance, performance_to_come
from web.auth import KeyRing, protect
from web.pages import PageQuery, decode_cursor, page
from web.refusals import Refused
from web.schemas import is_device_id

#: Where a page of the fleet ended: (efficiency, vehicle key).
_Position = tuple[float | None, Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]
#: A summary is at most one rollup interval old; asking sooner than this brings nothing new.
MAX_AGE_SECONDS = 5


def blueprint(keys: KeyRing) -> Blueprint:
    """The performance of one vehicle, and of the fleet's vehicles, worst first."""
    blp = Blueprint("analytics", __name__, url_prefix="/v1/analytics", description="Efficiency")
    protect(blp, keys, "read")

    @blp.route("/performance/<vehicle_id>")
    @blp.response(200, PerformanceSchema)
    def vehicle_performance(vehicle_id: str) -> Response:
        """One vehicle's last 24 hours"""
        fleet_id, unknown = g.caller.fleet_id, f"No vehicle {vehicle_id} ever sent a reading."
        if not is_device_id(vehicle_id):
            raise Refused("UNKNOWN_DEVICE", unknown)
        with reading() as conn:
            row = reads.performance(conn, fleet_id, vehicle_id)
            if row is None and not reads.device_key(conn, VEHICLE, fleet_id, vehicle_id):
                raise Refused("UNKNOWN_DEVICE", unknown)
        if row is None:
            return answer(performance_to_come(vehicle_id))
        response = answer(performance(row))
        response.set_etag(f"{row.vehicle_key}-{to_us(row.computed_at)}")
        response.headers["Cache-Control"] = f"private, max-age={MAX_AGE_SECONDS}"
        response.make_conditional(request)
        return response

    @blp.route("/performance")
    @blp.arguments(PageQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("PerformancePage", PerformanceSchema))
    def fleet_performance(query: dict[str, Any]) -> Response:
        """The fleet's vehicles, lowest efficiency first, unknown ones last"""
        after = decode_cursor(query["cursor"], _Position)
        limit = query["limit"]
        with reading() as conn:
            rows = reads.worst_first(conn, g.caller.fleet_id, after=after, limit=limit + 1)
        return page(rows, limit, performance, lambda row: (row.efficiency, row.vehicle_key))

    return blp
