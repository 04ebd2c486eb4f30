"""What the API answers: from rows to public names, and the schemas that document it.

Answers are built as plain dicts and written by msgspec (instants become RFC 3339 with a Z); the
schemas are what /openapi.json shows, and tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from flask import Response
from marshmallow import Schema, fields
from sqlalchemy import Row

from models.kinds import METER, VEHICLE, Kind
from workers.performance import RegisterEnergy


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` as JSON."""
    content = msgspec.json.encode(body)
    return Response(content, status, dict(headers or {}), content_type="application/json")


# --- schemas --------------------------------------------------------------------------------------


def _instant(*, null: bool = False) -> fields.AwareDateTime:
    return fields.AwareDateTime(required=True, allow_none=null)


def _number(description: str, *, null: bool = True) -> fields.Float:
    return fields.Float(required=True, allow_none=null, metadata={"description": description})


class WindowSchema(Schema):
    """The window, and the part of it that both sides cover."""

    class Meta:
        include = {  # noqa: RUF012
            "from": _instant(),
            "to": _instant(),
        }

    effectiveFrom = _instant(null=True)
    effectiveTo = _instant(null=True)
    supportPct = _number("Share of the window that both sides cover, %")


class SidesSchema(Schema):
    """A count for each side."""

    ac = fields.Integer(required=True)
    dc = fields.Integer(required=True)


class EventsSchema(Schema):
    """How often each register did something else than rise, by event (docs/numbers.md)."""

    ac = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    dc = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)


class PerformanceSchema(Schema):
    """A vehicle's efficiency over 24 hours. What can't be known is null, with a reason."""

    vehicleId = fields.String(required=True)
    meterId = fields.String(required=True, allow_none=True)
    period = fields.String(required=True, metadata={"example": "24h"})
    efficiencyRatio = _number("DC energy / AC energy, a fraction")
    reason = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Why efficiencyRatio is null (docs/numbers.md)"},
    )
    rawRatio = _number("DC / AC, even where it can't be an efficiency")
    totalEnergyConsumedAc = _number("kWh drawn from the grid")
    totalEnergyDeliveredDc = _number("kWh that reached the battery")
    acKwh = _number("The same as totalEnergyConsumedAc")
    dcKwh = _number("The same as totalEnergyDeliveredDc")
    lossKwh = _number("acKwh - dcKwh")
    averageBatteryTemp = _number("°C, mean of the vehicle's readings in the window")
    minBatteryTemp = _number("°C")
    maxBatteryTemp = _number("°C")
    window = fields.Nested(WindowSchema, required=True, allow_none=True)
    samples = fields.Nested(SidesSchema, required=True, allow_none=True)
    events = fields.Nested(EventsSchema, required=True, allow_none=True)
    computedAt = _instant(null=True)
    dataCompleteThrough = _instant(null=True)


class DailySchema(Schema):
    """A vehicle's performance, day by day."""

    items = fields.List(fields.Nested(PerformanceSchema), required=True)


class PageSchema(Schema):
    """What every list has."""

    next = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Cursor of the next page; null on the last"},
    )


def page_of(name: str, item: type[Schema]) -> type[Schema]:
    """A page of items."""
    items = fields.List(fields.Nested(item), required=True)
    return type(name, (PageSchema,), {"items": items, "__doc__": f"A page of {item.__doc__}"})


class EnergySchema(Schema):
    """A register's energy over any window."""

    class Meta:
        include = {  # noqa: RUF012
            "from": _instant(),
            "to": _instant(),
        }

    deviceId = fields.String(required=True)
    effectiveFrom = _instant(null=True)
    effectiveTo = _instant(null=True)
    energyKwh = _number("kWh; null when fewer than two readings are known")
    samples = fields.Integer(required=True)
    events = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)


class RatingSchema(Schema):
    """What is possible for a device: what was set, else the default."""

    deviceId = fields.String(required=True)
    maxPowerKw = _number("kW", null=False)
    resolutionKwh = _number("kWh", null=False)
    rolloverKwh = _number("kWh; null: the register has no end")
    dipToleranceKwh = _number("kWh", null=False)
    edgeGapSeconds = _number("s; null: three times the usual spacing, at least 300")


class AssignmentSchema(Schema):
    """A meter serves a vehicle in [from, to); null: until further notice."""

    class Meta:
        include = {  # noqa: RUF012
            "from": _instant(),
            "to": _instant(null=True),
        }

    id = fields.Integer(required=True)
    vehicleId = fields.String(required=True)
    meterId = fields.String(required=True)


def _device_schema(kind: Kind) -> type[Schema]:
    return Schema.from_dict(
        {
            kind.id_field: fields.String(required=True),
            "registeredAt": _instant(),
            "lastReadingAt": _instant(null=True),
        },
        name=f"{kind.name.title()}Device",
    )


def _stored_schema(kind: Kind) -> type[Schema]:
    measured: dict[str, fields.Field[Any]] = {
        m.field: _number(f"{m.description} ({m.unit})", null=False) for m in kind.measures
    }
    instants = {"timestamp": _instant(), "receivedAt": _instant()}
    return Schema.from_dict(
        {kind.id_field: fields.String(required=True), **measured, **instants},
        name=f"Stored{kind.name.title()}Reading",
    )


DEVICE = {kind: _device_schema(kind) for kind in (METER, VEHICLE)}
STORED = {kind: _stored_schema(kind) for kind in (METER, VEHICLE)}


# --- from rows ------------------------------------------------------------------------------------


def performance(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `vehicle_performance_24h`, or one like it over another window."""
    known = row["ac_kwh"] is not None and row["dc_kwh"] is not None
    hours = (row["window_to"] - row["window_from"]) / timedelta(hours=1)
    return {
        "vehicleId": row["vehicle_id"],
        "meterId": row["meter_id"],
        "period": f"{hours:g}h",
        "efficiencyRatio": row["efficiency"],
        "reason": row["reason"],
        "rawRatio": row["raw_ratio"],
        "totalEnergyConsumedAc": row["ac_kwh"],
        "totalEnergyDeliveredDc": row["dc_kwh"],
        "acKwh": row["ac_kwh"],
        "dcKwh": row["dc_kwh"],
        "lossKwh": round(row["ac_kwh"] - row["dc_kwh"], 4) if known else None,
        "averageBatteryTemp": row["battery_temp_avg_c"],
        "minBatteryTemp": row["battery_temp_min_c"],
        "maxBatteryTemp": row["battery_temp_max_c"],
        "window": _window(row),
        "samples": {"ac": row["ac_samples"], "dc": row["dc_samples"]},
        "events": {"ac": row["ac_events"], "dc": row["dc_events"]},
        "computedAt": row["computed_at"],
        "dataCompleteThrough": row["data_complete_through"],
    }


def performance_to_come(vehicle_id: str) -> dict[str, Any]:
    """A vehicle that registered since the last tick: known, its numbers not yet."""
    unknown = dict.fromkeys(PerformanceSchema().fields)
    return unknown | {"vehicleId": vehicle_id, "period": "24h", "reason": "NOT_COMPUTED_YET"}


def _window(row: Mapping[str, Any]) -> dict[str, Any]:
    support_pct = None
    if row["effective_from"] is not None:
        share = (row["effective_to"] - row["effective_from"]) / (
            row["window_to"] - row["window_from"]
        )
        support_pct = round(100 * share, 2)
    return {
        "from": row["window_from"],
        "to": row["window_to"],
        "effectiveFrom": row["effective_from"],
        "effectiveTo": row["effective_to"],
        "supportPct": support_pct,
    }


def device(kind: Kind, row: Row[Any]) -> dict[str, Any]:
    """A row of the registry with its newest reading's time."""
    return {
        kind.id_field: row.device_id,
        "registeredAt": row.registered_at,
        "lastReadingAt": row.last_reading_at,
    }


def stored(kind: Kind, device_id: str, row: Row[Any]) -> dict[str, Any]:
    """A stored reading: the fields as they were posted, and when it was received."""
    return {
        kind.id_field: device_id,
        **{m.field: row._mapping[m.field] for m in kind.measures},
        "timestamp": row.recorded_at,
        "receivedAt": row.received_at,
    }


def energy_of(found: RegisterEnergy) -> dict[str, Any]:
    """A register's energy."""
    return {
        "effectiveFrom": found.effective_from,
        "effectiveTo": found.effective_to,
        "energyKwh": found.energy_kwh,
        "samples": found.samples,
        "events": found.events,
    }
