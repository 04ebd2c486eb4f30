"""GET /v1/meters and /v1/vehicles: the registry, the hot store (status), the cold one (telemetry)
and the energy of one register.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from flask import Response, g
from flask_smorest import Blueprint
from marshmallow import RAISE, ValidationError, fields, validates_schema
from sqlalchemy import Connection

from models import reads
from models.engine import reading
from models.kinds import DEVICE_ID_PATTERN, METER, VEHICLE, Kind
from web.answers import DEVICE, STORED, EnergySchema, answer, device, energy_of, page_of, stored
from web.auth import KeyRing, protect
from web.pages import PageQuery, decode_cursor, page
from web.refusals import Refused
from web.schemas import is_device_id
from workers.performance import register_energy

DEFAULT_WINDOW = timedelta(hours=24)
_EARLIEST_END = datetime.min.replace(tzinfo=UTC) + DEFAULT_WINDOW
#: Where a page of the registry ended: a device id.
_Position = Annotated[str, msgspec.Meta(pattern=f"^{DEVICE_ID_PATTERN}$")]


class Instant(fields.AwareDateTime):
    """RFC 3339 with an offset; becomes UTC."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        instant: datetime = super()._deserialize(value, attr, data, **kwargs)
        try:
            return instant.astimezone(UTC)
        except OverflowError as error:  # in UTC before the year 1 or after 9999
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from error


class WindowQuery(PageQuery):
    """?from and ?to, RFC 3339 with an offset; by default the last 24 hours."""

    from_at = Instant(data_key="from", load_default=None)
    to_at = Instant(data_key="to", load_default=None)

    @validates_schema
    def _in_order(self, data: dict[str, Any], **_: Any) -> None:
        begin, end = data["from_at"], data["to_at"]
        if begin is not None and end is not None and begin >= end:
            raise ValidationError("Must be later than `from`.", "to")


class EnergyQuery(WindowQuery):
    """?from and ?to without pages."""

    class Meta:
        exclude = ("limit", "cursor")


def blueprints(keys: KeyRing) -> list[Blueprint]:
    """The same routes for both kinds of device."""
    return [_blueprint(METER, "meters", keys), _blueprint(VEHICLE, "vehicles", keys)]


def _blueprint(kind: Kind, plural: str, keys: KeyRing) -> Blueprint:
    blp = Blueprint(plural, __name__, url_prefix=f"/v1/{plural}", description=plural.title())
    protect(blp, keys, "read")
    title = kind.name.title()

    @blp.route("")
    @blp.arguments(PageQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of(f"{title}Page", DEVICE[kind]))
    def listed(query: dict[str, Any]) -> Response:
        """The fleet's devices of this kind, by their id"""
        after, limit = decode_cursor(query["cursor"], _Position), query["limit"]
        with reading() as conn:
            rows = reads.devices(conn, kind, g.caller.fleet_id, after=after, limit=limit + 1)
        return page(rows, limit, partial(device, kind), lambda row: row.device_id)

    @blp.route("/<device_id>/status")
    @blp.response(200, STORED[kind])
    def status(device_id: str) -> Response:
        """The newest reading (hot store: history is not touched)"""
        with reading() as conn:
            row = reads.status(conn, kind, known_device(conn, kind, device_id))
        if row is None:
            raise Refused("UNKNOWN_DEVICE", f"No reading of {device_id} is stored yet.")
        return answer(stored(kind, device_id, row))

    @blp.route("/<device_id>/telemetry")
    @blp.arguments(WindowQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of(f"{title}TelemetryPage", STORED[kind]))
    def telemetry(query: dict[str, Any], device_id: str) -> Response:
        """Stored readings in [from, to), oldest first (cold store)"""
        after, limit = decode_cursor(query["cursor"], datetime), query["limit"]
        with reading() as conn:
            key = known_device(conn, kind, device_id)
            rows = reads.telemetry(
                conn, kind, key, within=_window(query), after=after, limit=limit + 1
            )
        return page(rows, limit, partial(stored, kind, device_id), lambda row: row.recorded_at)

    @blp.route("/<device_id>/energy")
    @blp.arguments(EnergyQuery, location="query", unknown=RAISE)
    @blp.response(200, EnergySchema)
    def energy(query: dict[str, Any], device_id: str) -> Response:
        """The register's energy over [from, to), its edges read between samples"""
        begin, end = _window(query)
        with reading() as conn:
            key = known_device(conn, kind, device_id)
            found = register_energy(conn, kind, key, begin, end)
        return answer({"deviceId": device_id, "from": begin, "to": end, **energy_of(found)})

    return blp


def known_device(conn: Connection, kind: Kind, device_id: str) -> int:
    """The key of the calling fleet's device. Raises Refused."""
    fleet_id = g.caller.fleet_id
    key = reads.device_key(conn, kind, fleet_id, device_id) if is_device_id(device_id) else None
    if key is None:
        raise Refused("UNKNOWN_DEVICE", f"No {kind} {device_id} has ever sent a reading.")
    return key


def _window(query: dict[str, Any]) -> tuple[datetime, datetime]:
    end = query["to_at"] or datetime.now(UTC)
    return query["from_at"] or max(end, _EARLIEST_END) - DEFAULT_WINDOW, end
