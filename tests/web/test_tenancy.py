"""One fleet never sees, touches or shadows another's devices, whatever it calls its own."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.test import TestResponse

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
from tests.web.alarming import alarmed
from tests.web.calls import Api, accepted, refused

DAY = {"from_at": at(0).isoformat(), "to_at": at(24).isoformat()}


@pytest.fixture
def api(admin: Api) -> Api:
    """Whatever a fleet may do, it may do to its own devices only."""
    return admin


def device_paths(app: Flask) -> list[tuple[str, str]]:
    """Every address of the API that is about one device, and its method, for each kind."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/v1/")]
    of_one = [rule for rule in rules if rule.arguments & {"device_id", "vehicle_id"}]
    assert len(of_one) >= 10
    built = []
    for rule in of_one:
        kind = "meter" if "/meters/" in rule.rule else "vehicle"
        (method,) = rule.methods - {"HEAD", "OPTIONS"}
        built.append((method, rule.build(dict.fromkeys(rule.arguments, f"{kind}-001"))[1]))
    return built


def call(api: Api, method: str, path: str) -> TestResponse:
    return api.client.open(path, method=method, headers=api.headers, json={})


def lists(app: Flask) -> list[str]:
    """Every address of the API that lists devices."""
    rules = [rule.rule for rule in app.url_map.iter_rules() if not rule.arguments]
    return [r for r in rules if r.startswith("/v1/") and not r.startswith("/v1/analytics/rules")]


@pytest.fixture
def theirs(other_admin: Api) -> Api:
    """The other fleet, with a day's readings of one meter and one vehicle, rolled up."""
    meter = register(METER, [(at(h), 100 + h) for h in range(25)])
    vehicle = register(VEHICLE, [(at(h), 50 + 0.9 * h) for h in range(25)])
    accepted(other_admin.send(METER, meter), 25)
    accepted(other_admin.send(VEHICLE, vehicle), 25)
    flush_all()
    pair = {"vehicleId": "vehicle-001", "meterId": "meter-001", "from": at(-500)}
    assert other_admin.post("/v1/meter-assignments", pair).status_code == 201
    hook = {"url": "https://93.184.216.34/"}
    assert other_admin.post("/v1/webhooks", hook).status_code == 201
    roll_up(NEXT_MIDNIGHT)
    alarmed(other_admin)
    return other_admin


def test_row_46_another_fleets_device_is_unknown_at_every_address(
    app: Flask, api: Api, theirs: Api
) -> None:
    for method, path in device_paths(app):
        assert call(theirs, method, path).status_code == 200, path
        refused(call(api, method, path), "UNKNOWN_DEVICE")


def test_an_unknown_and_a_foreign_device_cannot_be_told_apart(
    app: Flask, api: Api, theirs: Api
) -> None:
    for method, path in device_paths(app):
        foreign, unknown = (call(api, method, p) for p in (path, path.replace("-001", "-404")))
        assert foreign.text == unknown.text.replace("-404", "-001")


TOTALS = "/v1/analytics/fleet"


def test_another_fleets_devices_are_in_no_list(app: Flask, api: Api, theirs: Api) -> None:
    for path in lists(app):
        if path != TOTALS:
            assert len(theirs.get(path).json["items"]) == 1, path
            assert api.get(path).json == {"items": [], "next": None}


def test_another_fleets_vehicles_are_in_no_total(api: Api, theirs: Api) -> None:
    assert (theirs.get(TOTALS).json["vehicles"], api.get(TOTALS).json["vehicles"]) == (1, 0)


def test_another_fleets_assignment_cannot_be_taken_back(api: Api, theirs: Api) -> None:
    (made,) = theirs.get("/v1/meter-assignments").json["items"]
    path = f"/v1/meter-assignments/{made['id']}"
    assert refused(api.delete(path), "UNKNOWN_ASSIGNMENT") | {"instance": ""} == refused(
        api.delete("/v1/meter-assignments/404"), "UNKNOWN_ASSIGNMENT"
    ) | {"instance": ""}
    assert theirs.get("/v1/meter-assignments").json["items"] == [made]


def test_another_fleets_devices_cannot_be_assigned(api: Api, theirs: Api) -> None:
    accepted(api.send(METER, meter_reading(meterId="mine")))
    accepted(api.send(VEHICLE, vehicle_reading(vehicleId="mine")))
    flush_all()
    for vehicle, meter in (("mine", "meter-001"), ("vehicle-001", "mine")):
        pair = {"vehicleId": vehicle, "meterId": meter, "from": at(0)}
        refused(api.post("/v1/meter-assignments", pair), "UNKNOWN_DEVICE")
    assert len(rows("SELECT * FROM meter_assignments")) == 1


def test_a_cursor_of_another_fleet_shows_nothing_of_it(api: Api, theirs: Api) -> None:
    accepted(theirs.send(METER, [meter_reading(meterId=f"z{n}") for n in range(3)]), 3)
    accepted(api.send(METER, meter_reading(meterId="zz")))
    flush_all()
    cursor = theirs.get("/v1/meters", limit=2).json["next"]
    assert [d["meterId"] for d in api.get("/v1/meters", cursor=cursor).json["items"]] == ["zz"]


def test_row_46_the_same_device_id_in_two_fleets_does_not_mix(api: Api, theirs: Api) -> None:
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
