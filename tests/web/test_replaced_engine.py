"""The defects found in the engine that this product replaces: none of them is here.

Each test says in its name what is right; what was wrong stands beside it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from flask import Flask

from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, meter_reading, register, roll_up, rows, vehicle_reading
from tests.web.calls import BOTH, LAWFUL, Api, accepted, refused, waiting

DAY = {"from_at": at(0).isoformat(), "to_at": at(24).isoformat()}


def test_impossible_values_are_refused(api: Api) -> None:
    """soc 550, -3 kWh and 9999 degrees were answered with 202."""
    impossible = {"soc": 550, "kwhDeliveredDc": -3, "batteryTemp": 9999}
    problem = refused(api.send(VEHICLE, vehicle_reading(**impossible)), "NO_VALID_READING")
    assert problem["errors"].keys() == impossible.keys()
    for field, value in impossible.items():
        refused(api.send(VEHICLE, vehicle_reading(**{field: value})), "NO_VALID_READING")
    assert waiting() == 0


def test_bad_input_is_the_senders_mistake_and_not_ours(api: Api) -> None:
    """A missing field, a bad date, "abc", {} and an array were answered with 500."""
    without_voltage = meter_reading()
    del without_voltage["voltage"]
    for body in (without_voltage, meter_reading(timestamp="yesterday"), '"abc"', "abc", "{}", "[]"):
        assert 400 <= api.send(METER, body).status_code < 500
    accepted(api.send(METER, [meter_reading(), meter_reading(timestamp=at(13))]), 2)


def test_first_readings_of_new_devices_may_come_all_at_once(app: Flask, api: Api) -> None:
    """Of 5 new devices with 8 simultaneous readings, 32 of 40 requests were answered with 500."""
    readings = [
        meter_reading(meterId=f"new-{device}", timestamp=at(12, seconds=n))
        for n in range(8)
        for device in range(5)
    ]
    with ThreadPoolExecutor(8) as pool:
        sender = lambda reading: Api(app.test_client(), api.headers).send(METER, reading)  # noqa: E731
        answers = list(pool.map(sender, readings))
    assert [answer.status_code for answer in answers] == [202] * 40
    flush_all()
    for device in range(5):
        stored = api.pages(f"/v1/meters/new-{device}/telemetry", **DAY)
        assert [item["timestamp"] for item in stored] == [
            f"2026-01-10T12:00:0{n}Z" for n in range(8)
        ]
        assert api.get(f"/v1/meters/new-{device}/status").json == stored[-1]


def test_history_and_latest_change_together(api: Api) -> None:
    """They were two transactions: an error in the second left the first behind."""
    accepted(api.send(METER, meter_reading()))
    assert rows("SELECT * FROM meter_telemetry_history") == []
    flush_all()
    (stored,) = api.get("/v1/meters/meter-001/telemetry", **DAY).json["items"]
    assert api.get("/v1/meters/meter-001/status").json == stored


def test_a_late_reading_does_not_turn_the_status_back(api: Api) -> None:
    """An older reading overwrote the newer status."""
    for kind in BOTH:
        for hour in (12, 11):
            accepted(api.send(kind, LAWFUL[kind.name](timestamp=at(hour))))
            flush_all()
        status = api.get(f"/v1/{kind}s/{kind}-001/status").json
        assert status["timestamp"] == "2026-01-10T12:00:00Z"
        assert len(api.get(f"/v1/{kind}s/{kind}-001/telemetry", **DAY).json["items"]) == 2


def test_a_reading_sent_again_is_stored_once(api: Api) -> None:
    """Twice the same reading was two rows of history."""
    for _ in range(3):
        accepted(api.send(METER, meter_reading()))
        accepted(api.send(METER, [meter_reading(), meter_reading()]), 2)
        flush_all()
    assert len(api.get("/v1/meters/meter-001/telemetry", **DAY).json["items"]) == 1
    assert rows("SELECT * FROM reading_conflicts") == []


def test_a_counter_that_restarts_costs_no_energy(api: Api) -> None:
    """5000 -> 5010 -> 2 kWh was 5008 kWh, and the efficiency 0.002."""
    meter = register(METER, [(at(0), 5000), (at(12), 5010), (at(24), 2)])
    vehicle = register(VEHICLE, [(at(0), 40), (at(12), 45), (at(24), 50)])
    accepted(api.send(METER, meter), 3)
    accepted(api.send(VEHICLE, vehicle), 3)
    flush_all()
    roll_up()
    answer = api.get("/v1/analytics/performance/vehicle-001").json
    assert answer["totalEnergyConsumedAc"] == 12
    assert answer["totalEnergyDeliveredDc"] == 10
    assert answer["efficiencyRatio"] == 0.8333
    assert answer["events"] == {"ac": {"RESET": 1}, "dc": {}}


def test_an_instant_has_its_offset(api: Api) -> None:
    """`lastUpdated` came without a time zone."""
    accepted(api.send(METER, meter_reading()))
    flush_all()
    status = api.get("/v1/meters/meter-001/status").json
    for name in ("timestamp", "receivedAt"):
        assert datetime.fromisoformat(status[name]).utcoffset() == timedelta(0)


def test_a_vehicle_nobody_heard_of_is_not_answered_with_zeros(api: Api) -> None:
    """An unknown vehicle was 200 with zeros."""
    refused(api.get("/v1/analytics/performance/vehicle-999"), "UNKNOWN_DEVICE")


def test_a_numeric_string_is_no_number(api: Api) -> None:
    """The string "55" was accepted as 55."""
    for kind in BOTH:
        for measure in kind.measures:
            bad = LAWFUL[kind.name](**{measure.field: "55"})
            problem = refused(api.send(kind, bad), "NO_VALID_READING")
            assert problem["rejected"][0]["code"] == "NOT_A_NUMBER"


def test_an_unknown_field_is_not_dropped_in_silence(api: Api) -> None:
    """A misspelt field was thrown away."""
    for kind in BOTH:
        problem = refused(api.send(kind, LAWFUL[kind.name](volltage=1)), "NO_VALID_READING")
        assert problem["rejected"][0]["code"] == "UNKNOWN_FIELD"


def test_a_reading_from_the_future_is_refused(api: Api) -> None:
    """Nothing looked at the clock: one reading of the year 2099 pinned the status until then."""
    ahead = meter_reading(timestamp=datetime.now(UTC) + timedelta(days=1))
    problem = refused(api.send(METER, ahead), "NO_VALID_READING")
    assert problem["rejected"][0]["code"] == "TS_IN_FUTURE"
