"""What was avoidable, and what it cost: S31 and the example of the performance answer."""

from __future__ import annotations

from typing import Any

import pytest

from workers import savings
from workers.savings import Prices, Saving

PRICES = Prices(0.30, 0.35)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "ac_kwh": 40.0,
        "dc_kwh": 30.0,
        "efficiency": 0.75,
        "charging_ac_kwh": 40.0,
        "charging_hours": 5.0,
        "baseline": {"efficiency": 0.90},
    } | changes


def test_avoidable_is_what_the_baseline_would_not_have_taken() -> None:  # S31
    kwh, cost, co2_kg = savings.saving(row(), PRICES)
    assert (round(kwh or 0, 3), round(cost or 0, 2), round(co2_kg or 0, 2)) == (6.667, 2.00, 2.33)


def test_the_example_of_the_answer() -> None:
    saved = savings.saving(row(ac_kwh=24.0, dc_kwh=21.0, efficiency=0.875), PRICES)
    assert [round(each or 0, 3) for each in saved] == [0.667, 0.2, 0.233]


def test_without_a_tariff_there_is_no_money() -> None:
    assert savings.saving(row(), Prices(None, None)) == Saving(
        pytest.approx(6.667, abs=1e-3), None, None
    )


def test_without_a_baseline_a_healthy_charger_of_the_same_power_is_the_measure() -> None:
    # 40 kWh in 5 h is 8 kW: 0.94 - 0.25 / 8 = 0.90875; 40 - 30 / 0.90875 = 6.98762.
    for baseline in (None, {"efficiency": None}):
        assert savings.saving(row(baseline=baseline), PRICES).kwh == pytest.approx(
            6.98762, abs=1e-5
        )


def test_better_than_expected_saves_nothing() -> None:
    assert savings.saving(row(dc_kwh=38.0, efficiency=0.95), PRICES) == Saving(0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"efficiency": None},
        {"baseline": None, "charging_hours": 0.0},
        {"baseline": None, "charging_hours": None},
        {"baseline": None, "charging_ac_kwh": 4.0},  # 0.8 kW: no model holds there
    ],
)
def test_what_cannot_be_told_is_null(changes: dict[str, Any]) -> None:
    assert savings.saving(row(**changes), PRICES) == savings.UNKNOWN
