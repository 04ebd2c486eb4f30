"""GET /v1/analytics/performance: the last 24 h as beat has materialised them (one indexed row per
vehicle), any other window, and day by day (both from hourly rows, never from raw history).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any

import msgspec
from flask import Response, g, request
from flask_smorest import Blueprint
from marshmallow import RAISE, Schema, fields, validate
from sqlalchemy import Connection

from models import reads, rollups
from models.engine import reading
from models.kinds import VEHICLE
from web.answers import (
    DailySchema,
    FleetSchema,
    PerformanceSchema,
    answer,
    fleet_totals,
    page_of,
    performance,
)
from web.auth import KeyRing, protect
from web.devices import Instant, known_device
from web.pages import PageQuery, decode_cursor, page
from web.summary import CACHE_CONTROL, tell
from workers.performance import over_windows

#: Where a page of the fleet ended: (efficiency, vehicle key).
_Position = tuple[float | None, Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]
#: The longest window, hours (a month), and the longest series, days (a year).
MAX_HOURS, MAX_DAYS = 744, 366
ONE_DAY = timedelta(days=1)
_EARLIEST = datetime.min.replace(tzinfo=UTC)
Window = tuple[datetime, datetime]


class WindowQuery(Schema):
    """?hours and ?asOf: another window than the last 24 hours."""

    hours = fields.Integer(load_default=None, validate=validate.Range(1, MAX_HOURS))
    asOf = Instant(load_default=None)


class DaysQuery(Schema):
    """?days: how many UTC days, today included."""

    days = fields.Integer(load_default=30, validate=validate.Range(1, MAX_DAYS))


def blueprint(keys: KeyRing) -> Blueprint:
    """The performance of one vehicle, and of the fleet's vehicles, worst first."""
    blp = Blueprint("analytics", __name__, url_prefix="/v1/analytics", description="Efficiency")
    protect(blp, keys, "read")

    @blp.route("/performance/<vehicle_id>")
    @blp.arguments(WindowQuery, location="query", unknown=RAISE)
    @blp.response(200, PerformanceSchema)
    def vehicle_performance(query: dict[str, Any], vehicle_id: str) -> Response:
        """One vehicle's last 24 hours, or any window of whole hours"""
        if query["hours"] is None and query["asOf"] is None:
            return _summary(vehicle_id)
        end = query["asOf"] or datetime.now(UTC)
        length = timedelta(hours=query["hours"] or 24)
        begin = max(end, _EARLIEST + length) - length
        return answer(_computed(vehicle_id, [(begin, end)])[0])

    @blp.route("/performance/<vehicle_id>/daily")
    @blp.arguments(DaysQuery, location="query", unknown=RAISE)
    @blp.response(200, DailySchema)
    def daily_performance(query: dict[str, Any], vehicle_id: str) -> Response:
        """One vehicle, UTC day by UTC day, the oldest first, today as far as it is"""
        now = datetime.now(UTC)
        today = datetime.combine(now, time.min, UTC)
        begins = [today - ONE_DAY * back for back in reversed(range(query["days"]))]
        windows = [(begin, min(begin + ONE_DAY, now)) for begin in begins]
        return answer({"items": _computed(vehicle_id, windows)})

    @blp.route("/fleet")
    @blp.response(200, FleetSchema)
    def fleet() -> Response:
        """The fleet's last 24 hours in one line: efficiency, losses, money, states"""
        with reading() as conn:
            rows = reads.of_fleet(conn, g.caller.fleet_id)
        return answer(fleet_totals(row._asdict() for row in rows))

    @blp.route("/performance")
    @blp.arguments(PageQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("PerformancePage", PerformanceSchema))
    def fleet_performance(query: dict[str, Any]) -> Response:
        """The fleet's vehicles, lowest efficiency first, unknown ones last"""
        after = decode_cursor(query["cursor"], _Position)
        limit = query["limit"]
        with reading() as conn:
            rows = reads.worst_first(conn, g.caller.fleet_id, after=after, limit=limit + 1)
        return page(
            rows,
            limit,
            lambda row: performance(row._asdict()),
            lambda row: (row.efficiency, row.vehicle_key),
        )

    return blp


def _summary(vehicle_id: str) -> Response:
    """The materialised row, with what lets a reader ask again cheaply."""
    content, etag = tell(g.caller.fleet_id, vehicle_id)
    response = Response(content, content_type="application/json")
    if etag is not None:
        response.set_etag(etag)
        response.headers["Cache-Control"] = CACHE_CONTROL
        response.make_conditional(request)
    return response


def _computed(vehicle_id: str, windows: Sequence[Window]) -> list[dict[str, Any]]:
    """The vehicle's performance over other windows, from hourly rows as of the last tick."""
    with reading() as conn:
        key = known_device(conn, VEHICLE, vehicle_id)
        begin, end = windows[0][0], windows[-1][1]
        supplies = rollups.supplies(conn, begin, end, [key])
        rows = over_windows(conn, supplies, windows)
        told = _as_of(conn, vehicle_id)
    return [performance(row | told) for row in rows]


def _as_of(conn: Connection, vehicle_id: str) -> dict[str, Any]:
    """What comes with the summary: when hours were brought up to date, and what is usual.

    Alarms are open now, which says nothing about another window.
    """
    row = reads.performance(conn, g.caller.fleet_id, vehicle_id) or {}
    names = ("computed_at", "data_complete_through", "baseline")
    return {name: row.get(name) for name in names} | {"open_alarms": None}
