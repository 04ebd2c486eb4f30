"""From readings to an alarm, its announcement and the summary: the whole way, no step skipped."""

from __future__ import annotations

from datetime import timedelta

import pytest

from models.kinds import METER, VEHICLE
from tests.factories import (
    at,
    execute,
    flush_all,
    make_fleet,
    post_to_stream,
    register,
    roll_up,
    rows,
)
from workers import episodes, watch
from workers.alarms import rules

#: One charge a day, 02:00 to 04:00 at 11 kW, for so many days; then the charger fails.
HEALTHY_DAYS, FAILING_DAYS = 16, 3
GOOD, BAD = 0.91, 0.80
DAYS = HEALTHY_DAYS + FAILING_DAYS


def share(day: int) -> float:
    return GOOD if day < HEALTHY_DAYS else BAD


def energy(hour: float) -> tuple[float, float]:
    """AC and DC energy since the first midnight."""
    day = int(hour // 24)
    today = 11 * max(0.0, min(hour - 24 * day, 4) - 2)
    ac = 22 * day + today
    dc = 22 * sum(map(share, range(day))) + share(min(day, DAYS - 1)) * today
    return ac, dc


@pytest.fixture
def fleet(servers: dict[str, str]) -> int:
    fleet = make_fleet("Northern depot")
    for side, kind in enumerate((METER, VEHICLE)):
        instants = [n / 12 for n in range(24 * DAYS * 12 + 1)]
        samples = [(at(minutes=round(60 * hour)), 100 + energy(hour)[side]) for hour in instants]
        for begin in range(0, len(samples), 1000):
            post_to_stream(kind, fleet, register(kind, samples[begin : begin + 1000]))
    flush_all()
    return fleet


def look(now_hour: float) -> None:
    now = at(minutes=round(60 * now_hour))
    roll_up(now)
    episodes.find(now)
    watch.watch(now)


def test_a_charger_that_fails_is_an_alarm_an_event_and_a_state(fleet: int) -> None:
    execute(
        "INSERT INTO webhook_endpoints (fleet_id, url, secret)"
        " VALUES (:fleet, 'https://x.test/', 's')",
        fleet=fleet,
    )
    look(24 * DAYS + 0.5)
    found = rows("SELECT * FROM charging_episodes ORDER BY started_at")
    assert [row["efficiency"] for row in found] == [share(day) for day in range(DAYS)]

    alarms = {row["rule"]: row for row in rows("SELECT * FROM alarms")}
    # 80 % is below the floor of 85, and 11 points below the vehicle's own median of 91: critical.
    assert {rules.LOW, rules.DROP} <= alarms.keys()
    low = alarms[rules.LOW]
    assert (low["state"], low["severity"], low["value"]) == ("open", "critical", BAD)
    # The first failing charge ended at 04:05; it opened with the second, a day later.
    assert low["since"] == at(24 * HEALTHY_DAYS + 4, minutes=5)
    assert low["opened_at"] == at(24 * (HEALTHY_DAYS + 1) + 4, minutes=5)

    told = rows("SELECT type, subject FROM webhook_events ORDER BY type")
    assert {"type": "alarm.opened", "subject": "vehicle-001"} in told
    (waiting,) = rows("SELECT count(*) AS n FROM webhook_deliveries WHERE state = 'pending'")
    assert waiting["n"] == len(told)

    (summary,) = rows("SELECT open_alarms, baseline, efficiency FROM vehicle_performance_24h")
    assert set(summary["open_alarms"]) == {
        rule for rule, row in alarms.items() if row["severity"] != "info"
    }
    assert summary["baseline"]["efficiency"] == pytest.approx(GOOD, abs=1e-3)
    assert summary["efficiency"] == BAD

    look(24 * DAYS + 0.6)  # nothing new: nothing is said again
    assert rows("SELECT type, subject FROM webhook_events ORDER BY type") == told


def test_late_readings_that_clear_the_charger_withdraw_the_alarm(fleet: int) -> None:
    """The vehicle's register turns out to have been read too low on the failing days."""
    look(24 * DAYS + 0.5)
    assert rows("SELECT 1 FROM alarms WHERE state <> 'resolved'")
    begin = at(24 * HEALTHY_DAYS)
    execute(
        "UPDATE vehicle_telemetry_history v SET kwh_delivered_dc = kwh_delivered_dc"
        " + :lost * (m.kwh_consumed_ac - :drawn) FROM meter_telemetry_history m"
        " WHERE m.recorded_at = v.recorded_at AND v.recorded_at > :begin",
        begin=begin,
        lost=GOOD - BAD,
        drawn=100 + 22 * HEALTHY_DAYS,
    )
    execute(
        "INSERT INTO vehicle_hours_dirty (device_key, hour)"
        " SELECT device_key, hour FROM vehicle_energy_hourly WHERE hour >= :begin",
        begin=begin,
    )
    roll_up(at(24 * DAYS) + timedelta(hours=1))
    look(24 * DAYS + 1.5)
    left = rows("SELECT state, resolved_reason FROM alarms WHERE rule = :rule", rule=rules.LOW)
    assert [(row["state"], row["resolved_reason"]) for row in left] == [
        ("resolved", "data_corrected")
    ]
    (summary,) = rows("SELECT open_alarms FROM vehicle_performance_24h")
    assert rules.LOW not in summary["open_alarms"]
