"""One fleet never sees, touches or shadows another's devices, whatever it calls its own."""

from __future__ import annotations

import pytest
from flask import Flask

from models.kinds import METER, VEHICLE
from tests.factories import (
    NEXT_MIDNIGHT,
    at,
    execute,
    flush_all,
    meter_reading,
    register,
    roll_up,
    rows,
    vehicle_reading,
)
from tests.web.calls import Api, accepted, refused

DAY = {"from_at": at(0).isoformat(), "to_at": at(24).isoformat()}


def device_paths(app: Flask) -> list[str]:
    """Every address of the API that is about one device, for a device of each kind."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/v1/")]
    of_one = [rule for rule in rules if rule.arguments]
    assert len(of_one) >= 7
    built = []
    for rule in of_one:
        kind = "meter" if "/meters/" in rule.rule else "vehicle"
        built.append(rule.build(dict.fromkeys(rule.arguments, f"{kind}-001"))[1])
    return built


def lists(app: Flask) -> list[str]:
    """Every address of the API that lists devices."""
    rules = [rule.rule for rule in app.url_map.iter_rules() if not rule.arguments]
    return [rule for rule in rules if rule.startswith("/v1/")]


@pytest.fixture
def theirs(other_api: Api) -> Api:
    """The other fleet, with a day's readings of one meter and one vehicle, rolled up."""
    meter = register(METER, [(at(h), 100 + h) for h in range(25)])
    vehicle = register(VEHICLE, [(at(h), 50 + 0.9 * h) for h in range(25)])
    accepted(other_api.send(METER, meter), 25)
    accepted(other_api.send(VEHICLE, vehicle), 25)
    flush_all()
    roll_up(NEXT_MIDNIGHT)
    return other_api


def test_another_fleets_device_is_unknown_at_every_address(
    app: Flask, api: Api, theirs: Api
) -> None:
    for path in device_paths(app):
        assert theirs.get(path).status_code == 200, path
        refused(api.get(path), "UNKNOWN_DEVICE")


def test_an_unknown_and_a_foreign_device_cannot_be_told_apart(
    app: Flask, api: Api, theirs: Api
) -> None:
    for path in device_paths(app):
        foreign, unknown = api.get(path), api.get(path.replace("-001", "-404"))
        assert foreign.text == unknown.text.replace("-404", "-001")


def test_another_fleets_devices_are_in_no_list(app: Flask, api: Api, theirs: Api) -> None:
    for path in lists(app):
        assert len(theirs.get(path).json["items"]) == 1, path
        assert api.get(path).json == {"items": [], "next": None}


def test_a_cursor_of_another_fleet_shows_nothing_of_it(api: Api, theirs: Api) -> None:
    accepted(theirs.send(METER, [meter_reading(meterId=f"z{n}") for n in range(3)]), 3)
    accepted(api.send(METER, meter_reading(meterId="zz")))
    flush_all()
    cursor = theirs.get("/v1/meters", limit=2).json["next"]
    assert [d["meterId"] for d in api.get("/v1/meters", cursor=cursor).json["items"]] == ["zz"]


def test_the_same_device_id_in_two_fleets_does_not_mix(api: Api, theirs: Api) -> None:
    accepted(api.send(METER, meter_reading(timestamp=at(12), kwhConsumedAc=7, voltage=1)))
    accepted(api.send(VEHICLE, vehicle_reading(timestamp=at(12), kwhDeliveredDc=5, soc=1)))
    flush_all()
    roll_up(NEXT_MIDNIGHT)
    for kind, field, ours, others in (
        ("meter", "kwhConsumedAc", [7.0], [100.0 + h for h in range(24)]),
        ("vehicle", "kwhDeliveredDc", [5.0], [50 + 0.9 * h for h in range(24)]),
    ):
        path = f"/v1/{kind}s/{kind}-001/telemetry"
        assert [r[field] for r in api.pages(path, **DAY)] == ours
        assert [r[field] for r in theirs.pages(path, **DAY)] == others
    assert api.get("/v1/meters/meter-001/status").json["voltage"] == 1
    assert theirs.get("/v1/meters/meter-001/status").json["kwhConsumedAc"] == 124
    ours = api.get("/v1/analytics/performance/vehicle-001").json
    others = theirs.get("/v1/analytics/performance/vehicle-001").json
    assert (ours["efficiencyRatio"], ours["reason"]) == (None, "INSUFFICIENT_SAMPLES")
    assert (others["efficiencyRatio"], others["reason"]) == (0.9, None)
    assert rows("SELECT * FROM reading_conflicts") == []


def test_a_reading_cannot_say_which_fleet_it_is_of(api: Api, theirs: Api) -> None:
    for field in ("fleet", "fleetId", "fleet_id"):
        refused(api.send(METER, meter_reading(**{field: 2})), "NO_VALID_READING")


def test_a_vehicle_is_not_measured_against_another_fleets_meter(api: Api, theirs: Api) -> None:
    accepted(api.send(VEHICLE, register(VEHICLE, [(at(h), 50 + h) for h in range(25)])), 25)
    flush_all()
    roll_up(NEXT_MIDNIGHT)
    ours = api.get("/v1/analytics/performance/vehicle-001").json
    assert (ours["totalEnergyConsumedAc"], ours["reason"]) == (None, "MISSING_AC")


def test_a_renamed_fleet_keeps_its_key_and_its_devices(theirs: Api) -> None:
    execute("UPDATE fleets SET name = 'Eastern depot' WHERE name = 'Southern depot'")
    assert theirs.get("/v1/meters/meter-001/status").status_code == 200
