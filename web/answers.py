"""What the API answers: from rows to public names, and the schemas that document it.

Answers are built as plain dicts and written by msgspec (instants become RFC 3339 with a Z); the
schemas are what /openapi.json shows, and tests hold the two together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec
from flask import Response
from marshmallow import INCLUDE, Schema, fields
from sqlalchemy import Row

import settings
from models.kinds import METER, VEHICLE, Kind
from workers import savings
from workers.alarms.source import in_force
from workers.performance import RegisterEnergy
from workers.quality import SKEW_SECONDS

#: What an operator should make of a vehicle.
STATES = ["ok", "watch", "alarm", "stale", "unknown", "idle"]
#: Reasons that mean: somebody does not speak.
_SILENT = {"NO_DATA", "MISSING_AC", "MISSING_DC", "INSUFFICIENT_SAMPLES", "NO_OVERLAP"}


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

    hours = _number("Its length", null=False)
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


class LossSchema(Schema):
    """Where the loss sits, and what of it better charging would have saved."""

    conversionKwh = _number("AC - DC while charging")
    idleKwh = _number("AC while not charging: standby, leakage, preconditioning")
    avoidableKwh = _number("AC beyond what the vehicle's baseline, or a healthy one, would take")
    avoidableCost = _number("avoidableKwh at TARIFF_PER_KWH; null when none is set")
    currency = fields.String(required=True, allow_none=True)
    avoidableCo2Kg = _number("avoidableKwh at GRID_FACTOR_KG_PER_KWH; null when none is set")


class ChargingSchema(Schema):
    """When the battery took more than 0.2 kW, in steps of five minutes."""

    hours = _number("h")
    avgAcPowerKw = _number("kW, while charging")
    acKwh = _number("kWh, while charging")
    dcKwh = _number("kWh, while charging")
    sessions = fields.Integer(required=True, allow_none=True)
    idleHours = _number("h, not charging")


class BatterySchema(Schema):
    """The battery in the window."""

    socFirst = _number("%, the first reading's")
    socLast = _number("%, the last reading's")
    tempAvgC = _number("°C, mean of the readings")
    tempMinC = _number("°C")
    tempMaxC = _number("°C")


class BaselineSchema(Schema):
    """What is usual for the vehicle (docs/alarms.md)."""

    class Meta:
        unknown = INCLUDE

    efficiency = _number("Median of its recent charging")
    n = fields.Integer(required=True)
    status = fields.String(required=True, metadata={"description": "learning or ready"})
    deltaPts = _number("Percentage points by which the window is above it")


class ThresholdSchema(Schema):
    """Below which efficiency an alarm may be raised."""

    class Meta:
        include = {"class": fields.String(required=True)}  # noqa: RUF012

    pct = _number("%", null=False)


class SideQualitySchema(Schema):
    """How well one side was seen."""

    samples = fields.Integer(required=True)
    expected = fields.Integer(required=True, allow_none=True)
    maxGapSeconds = _number("s, the longest step between two samples")
    resets = fields.Integer(required=True)
    dropped = fields.Integer(required=True)
    conflicts = fields.Integer(required=True)
    lastAt = _instant(null=True)
    lagSeconds = _number("s, from the last sample to the window's end")
    skewSeconds = _number("s, how much its clock is behind; null unless it sends live")


class DataQualitySchema(Schema):
    """How far the number can be trusted."""

    confidence = fields.String(required=True, metadata={"enum": ["high", "medium", "low", "none"]})
    coveragePct = _number("Share of the window in no gap of either side, %", null=False)
    flags = fields.List(fields.String(), required=True)
    ac = fields.Nested(SideQualitySchema, required=True)
    dc = fields.Nested(SideQualitySchema, required=True)


class PerformanceSchema(Schema):
    """A vehicle's efficiency over 24 hours. What can't be known is null, with a reason."""

    vehicleId = fields.String(required=True)
    meterId = fields.String(required=True, allow_none=True)
    period = fields.String(required=True, metadata={"example": "24h"})
    efficiencyRatio = _number("DC energy / AC energy, a fraction")
    efficiencyPct = _number("The same, %")
    efficiencyLow = _number("What it is at least: resolution, edges, unseen energy")
    efficiencyHigh = _number("What it is at most")
    chargingEfficiency = _number("DC / AC while charging")
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
    loss = fields.Nested(LossSchema, required=True, allow_none=True)
    charging = fields.Nested(ChargingSchema, required=True, allow_none=True)
    battery = fields.Nested(BatterySchema, required=True, allow_none=True)
    baseline = fields.Nested(BaselineSchema, required=True, allow_none=True)
    threshold = fields.Nested(ThresholdSchema, required=True, allow_none=True)
    state = fields.String(required=True, allow_none=True, metadata={"enum": STATES})
    openAlerts = fields.List(fields.String(), required=True, allow_none=True)
    dataQuality = fields.Nested(DataQualitySchema, required=True, allow_none=True)
    window = fields.Nested(WindowSchema, required=True, allow_none=True)
    samples = fields.Nested(SidesSchema, required=True, allow_none=True)
    events = fields.Nested(EventsSchema, required=True, allow_none=True)
    computedAt = _instant(null=True)
    dataCompleteThrough = _instant(null=True)


class FleetSchema(Schema):
    """A fleet's last 24 hours: sums over the vehicles whose efficiency is known."""

    vehicles = fields.Integer(required=True)
    vehiclesCounted = fields.Integer(required=True)
    efficiencyRatio = _number("Sum of DC energy / sum of AC energy, not a mean of ratios")
    acKwh = _number("kWh, of the vehicles counted", null=False)
    dcKwh = _number("kWh, of the vehicles counted", null=False)
    lossKwh = _number("kWh, of the vehicles counted", null=False)
    idleKwh = _number("kWh drawn while not charging, of the vehicles counted", null=False)
    avoidableKwh = _number("kWh, where it can be told", null=False)
    avoidableCost = _number("At TARIFF_PER_KWH; null when none is set")
    currency = fields.String(required=True, allow_none=True)
    avoidableCo2Kg = _number("At GRID_FACTOR_KG_PER_KWH; null when none is set")
    states = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    reasons = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)


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
    efficiency = row["efficiency"]
    return {
        "vehicleId": row["vehicle_id"],
        "meterId": row["meter_id"],
        "period": f"{_hours(row):g}h",
        "efficiencyRatio": efficiency,
        "efficiencyPct": None if efficiency is None else round(100 * efficiency, 2),
        "efficiencyLow": row["efficiency_low"],
        "efficiencyHigh": row["efficiency_high"],
        "chargingEfficiency": _ratio(row["charging_dc_kwh"], row["charging_ac_kwh"]),
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
        "loss": _loss(row),
        "charging": _charging(row),
        "battery": {
            "socFirst": row["soc_first_pct"],
            "socLast": row["soc_last_pct"],
            "tempAvgC": row["battery_temp_avg_c"],
            "tempMinC": row["battery_temp_min_c"],
            "tempMaxC": row["battery_temp_max_c"],
        },
        "baseline": _baseline(row),
        "threshold": _threshold(row),
        "state": state(row),
        "openAlerts": row["open_alarms"],
        "dataQuality": {
            "confidence": row["confidence"],
            "coveragePct": row["coverage_pct"],
            "flags": _flags(row),
            "ac": row["ac_quality"],
            "dc": row["dc_quality"],
        },
        "window": _window(row),
        "samples": {"ac": row["ac_samples"], "dc": row["dc_samples"]},
        "events": {"ac": row["ac_events"], "dc": row["dc_events"]},
        "computedAt": row["computed_at"],
        "dataCompleteThrough": row["data_complete_through"],
    }


def fleet_totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over a fleet's summary rows; efficiency is energy-weighted."""
    rows = list(rows)
    counted = [row for row in rows if row["efficiency"] is not None]
    ac_kwh = math.fsum(row["ac_kwh"] for row in counted)
    dc_kwh = math.fsum(row["dc_kwh"] for row in counted)
    saved = math.fsum(savings.saving(row, _prices()).kwh or 0.0 for row in counted)
    return {
        "vehicles": len(rows),
        "vehiclesCounted": len(counted),
        "efficiencyRatio": _ratio(dc_kwh, ac_kwh),
        "acKwh": round(ac_kwh, 4),
        "dcKwh": round(dc_kwh, 4),
        "lossKwh": round(ac_kwh - dc_kwh, 4),
        "idleKwh": round(math.fsum(row["idle_ac_kwh"] or 0.0 for row in counted), 4),
        **_priced(savings.priced(saved, _prices())),
        "states": Counter(state(row) for row in rows),
        "reasons": Counter(row["reason"] for row in rows if row["reason"] is not None),
    }


def state(row: Mapping[str, Any]) -> str:
    """What an operator should make of the vehicle (docs/numbers.md)."""
    if row["open_alarms"]:
        return "alarm"
    if row["reason"] == "INSUFFICIENT_ENERGY":
        return "idle"
    if row["efficiency"] is None:
        return "stale" if row["reason"] in _SILENT else "unknown"
    threshold, high = _threshold(row), row["efficiency_high"]
    low = threshold is not None and high is not None and 100 * high < threshold["pct"]
    return "watch" if low else "ok"


def _loss(row: Mapping[str, Any]) -> dict[str, Any]:
    ac_kwh, dc_kwh = row["charging_ac_kwh"], row["charging_dc_kwh"]
    return {
        "conversionKwh": None if ac_kwh is None else round(ac_kwh - dc_kwh, 4),
        "idleKwh": row["idle_ac_kwh"],
        **_priced(savings.saving(row, _prices())),
    }


def _charging(row: Mapping[str, Any]) -> dict[str, Any]:
    power_kw = savings.mean_power_kw(row)
    return {
        "hours": row["charging_hours"],
        "avgAcPowerKw": None if power_kw is None else round(power_kw, 2),
        "acKwh": row["charging_ac_kwh"],
        "dcKwh": row["charging_dc_kwh"],
        "sessions": row["charging_sessions"],
        "idleHours": row["idle_hours"],
    }


def _prices() -> savings.Prices:
    chosen = settings.load()
    return savings.Prices(chosen.tariff_per_kwh, chosen.grid_factor_kg_per_kwh)


def _priced(saved: savings.Saving) -> dict[str, Any]:
    kwh, cost, co2_kg = (None if each is None else round(each, 3) for each in saved)
    return {
        "avoidableKwh": kwh,
        "avoidableCost": None if cost is None else round(cost, 2),
        "currency": None if cost is None else settings.load().currency,
        "avoidableCo2Kg": None if co2_kg is None else round(co2_kg, 2),
    }


def _baseline(row: Mapping[str, Any]) -> dict[str, Any] | None:
    usual = row["baseline"]
    if usual is None:
        return None
    known = usual["efficiency"] is not None and row["efficiency"] is not None
    delta = round(100 * (row["efficiency"] - usual["efficiency"]), 2) if known else None
    return {**usual, "deltaPts": delta}


def _threshold(row: Mapping[str, Any]) -> dict[str, Any] | None:
    power_kw = savings.mean_power_kw(row)
    if power_kw is None:
        return None
    limits = in_force()
    return {"pct": round(100 * limits.floor_at(power_kw), 2), "class": limits.class_at(power_kw)}


def _flags(row: Mapping[str, Any]) -> list[str]:
    skews = [row[side].get("skewSeconds") for side in ("ac_quality", "dc_quality")]
    flags = {
        "ABOVE_UNITY": (row["efficiency"] or 0) > 1,
        "CLOCK_SKEW": any(s is not None and abs(s) > SKEW_SECONDS for s in skews),
    }
    return [flag for flag, raised in flags.items() if raised]


def _ratio(dc_kwh: float | None, ac_kwh: float | None) -> float | None:
    return None if dc_kwh is None or not ac_kwh else round(dc_kwh / ac_kwh, 4)


def _hours(row: Mapping[str, Any]) -> float:
    length: timedelta = row["window_to"] - row["window_from"]
    return length / timedelta(hours=1)


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
        "hours": _hours(row),
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
