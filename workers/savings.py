"""What better charging would have saved: energy, money, CO2 (domain rule 2.8).

Compared with the vehicle's own baseline, else with what a healthy charger of its power achieves.
Nothing here is money until a tariff is set, nor CO2 until a grid factor is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: A healthy vehicle, fitted to ADAC's measurements (2022): DC = ETA_C x AC - P_AUX_KW x hours.
ETA_C = 0.94
P_AUX_KW = 0.25
#: Below this mean AC power the model would call no efficiency at all healthy, kW.
LEAST_POWER_KW = 1.0


class Saving(NamedTuple):
    """What was avoidable; a part is None when it can't be told."""

    kwh: float | None
    cost: float | None
    co2_kg: float | None


class Prices(NamedTuple):
    """Currency units and kg of CO2 per kWh of AC energy; None: not set."""

    per_kwh: float | None
    co2_kg_per_kwh: float | None


UNKNOWN = Saving(None, None, None)


def reference_efficiency(power_kw: float | None, baseline: float | None) -> float | None:
    """What the vehicle should reach: its baseline, else a healthy one's at its mean AC power."""
    if baseline is not None:
        return baseline
    if power_kw is None or power_kw < LEAST_POWER_KW:
        return None
    return ETA_C - P_AUX_KW / power_kw


def mean_power_kw(row: Mapping[str, Any]) -> float | None:
    """Mean AC power while charging, of a summary row; None when it did not charge."""
    energy_kwh, hours = row["charging_ac_kwh"], row["charging_hours"]
    return energy_kwh / hours if hours else None


def saving(row: Mapping[str, Any], prices: Prices) -> Saving:
    """Of a summary row whose efficiency is known; never negative: better than expected saves 0."""
    baseline = (row["baseline"] or {}).get("efficiency")
    reference = reference_efficiency(mean_power_kw(row), baseline)
    if row["efficiency"] is None or reference is None:
        return UNKNOWN
    return priced(max(0.0, row["ac_kwh"] - row["dc_kwh"] / reference), prices)


def priced(kwh: float, prices: Prices) -> Saving:
    """kWh with their price and their CO2, where these are set."""
    cost, co2_kg = (None if each is None else kwh * each for each in prices)
    return Saving(kwh, cost, co2_kg)
