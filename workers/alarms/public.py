"""An alarm as others see it: the same names in the API's answers and in announcements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import settings

#: Public name -> column, of everything an alarm shows.
_SHOWN = {
    "id": "id",
    "rule": "rule",
    "vehicleId": "vehicle_id",
    "meterId": "meter_id",
    "severity": "severity",
    "state": "state",
    "stale": "stale",
    "firstOpenedAt": "first_opened_at",
    "openedAt": "opened_at",
    "since": "since",
    "lastEvaluatedAt": "last_evaluated_at",
    "returnedAt": "returned_at",
    "value": "value",
    "threshold": "threshold",
    "baseline": "baseline",
    "deltaPts": "delta_pts",
    "z": "z",
    "avoidableKwh": "avoidable_kwh",
    "occurrences": "occurrences",
    "reopenedFrom": "reopened_from",
    "incident": "incident",
    "suppressedReason": "suppressed_reason",
    "ackAt": "acknowledged_at",
    "ackBy": "acknowledged_by",
    "ackNote": "acknowledged_note",
    "shelvedUntil": "shelved_until",
    "shelvedBy": "shelved_by",
    "shelvedNote": "shelved_note",
    "resolvedAt": "resolved_at",
    "resolvedBy": "resolved_by",
    "resolvedReason": "resolved_reason",
    "resolvedNote": "resolved_note",
}


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alarm's row under its public names, and what its energy cost, if there is a tariff."""
    tariff = settings.load().tariff_per_kwh
    cost = None if tariff is None else round(row["avoidable_kwh"] * tariff, 2)
    return {**named(_SHOWN, row), "avoidableCost": cost}


def named(names: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """What `names` (public name -> column) shows of a row."""
    return {public: row[column] for public, column in names.items()}
