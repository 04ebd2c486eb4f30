"""PATCH of devices and meter assignments: what may be set, and what it does to the numbers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from models.kinds import METER, VEHICLE, Kind
from tests.factories import at, flush_all, register, roll_up, rows
from tests.web.calls import Api, accepted, bearer, refused
from tests.web.conftest import MakeKey

ASSIGNMENTS, PERFORMANCE = "/v1/meter-assignments", "/v1/analytics/performance"
DAY = {"from_at": at(0).isoformat(), "to_at": at(24).isoformat()}
DEFAULTS = {
    "maxPowerKw": 400.0,
    "resolutionKwh": 0.01,
    "rolloverKwh": None,
    "edgeGapSeconds": None,
}
DIP = {METER: 0.02, VEHICLE: 1.0}
KINDS = pytest.mark.parametrize("kind", [METER, VEHICLE], ids=str)


def path_of(kind: Kind, name: str = "001") -> str:
    return f"/v1/{kind}s/{kind}-{name}"


def send(api: Api, kind: Kind, name: str, samples: list[tuple[datetime, float]]) -> None:
    device = {kind.id_field: f"{kind}-{name}"}
    accepted(api.send(kind, register(kind, samples, **device)), len(samples))


@pytest.fixture
def pair(admin: Api) -> Api:
    """vehicle-001 and meter-001, a reading each."""
    for kind in (METER, VEHICLE):
        send(admin, kind, "001", [(at(0), 5.0)])
    flush_all()
    return admin


def told(api: Api, vehicle: str = "vehicle-001", **query: Any) -> dict[str, Any]:
    response = api.get(f"{PERFORMANCE}/{vehicle}", **query)
    assert response.status_code == 200, response.text
    return response.json


# --- ratings --------------------------------------------------------------------------------------


@KINDS
def test_what_nobody_set_is_the_default(pair: Api, kind: Kind) -> None:
    expected = {"deviceId": f"{kind}-001", **DEFAULTS, "dipToleranceKwh": DIP[kind]}
    assert pair.patch(path_of(kind), {}).json == expected


@KINDS
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("maxPowerKw", 22),
        ("resolutionKwh", 0.1),
        ("rolloverKwh", 10_000),
        ("dipToleranceKwh", 0),
        ("edgeGapSeconds", 3600.5),
    ],
)
def test_each_field_is_set_kept_and_taken_back(
    pair: Api, kind: Kind, field: str, value: float
) -> None:
    path = path_of(kind)
    before = pair.patch(path, {}).json
    after = pair.patch(path, {field: value}).json
    assert after[field] == value
    changed = {name for name in before if before[name] != after[name]}
    # A meter's dip tolerance is two of its digits.
    follows = {"dipToleranceKwh"} if kind is METER and field == "resolutionKwh" else set()
    assert changed == {field} | follows
    assert pair.patch(path, {}).json == after
    assert pair.patch(path, {field: None}).json == before


@KINDS
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("maxPower", 22),
        ("deviceId", "meter-002"),
        ("maxPowerKw", "22"),
        ("maxPowerKw", True),
        ("maxPowerKw", [22]),
        ("maxPowerKw", 0),
        ("maxPowerKw", -1),
        ("maxPowerKw", 10_001),
        ("resolutionKwh", 0),
        ("resolutionKwh", 11),
        ("rolloverKwh", 0.5),
        ("rolloverKwh", 2e12),
        ("dipToleranceKwh", -0.1),
        ("dipToleranceKwh", 101),
        ("edgeGapSeconds", -1),
        ("edgeGapSeconds", 604_801),
    ],
)
def test_an_unlawful_field_is_named_and_nothing_is_set(
    pair: Api, kind: Kind, field: str, value: Any
) -> None:
    lawful = {"dipToleranceKwh": 0.5} if field != "dipToleranceKwh" else {"maxPowerKw": 22}
    problem = refused(pair.patch(path_of(kind), {field: value, **lawful}), "BAD_FIELD")
    assert problem["errors"].keys() == {field}
    assert pair.patch(path_of(kind), {}).json.items() >= DEFAULTS.items()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_a_number_that_is_none_is_refused(pair: Api, number: str) -> None:
    response = pair.client.patch(
        path_of(METER),
        data=f'{{"maxPowerKw": {number}}}',
        content_type="application/json",
        headers=pair.headers,
    )
    assert response.status_code in {400, 422}
    assert response.json["code"] in {"BAD_FIELD", "MALFORMED_JSON"}


def test_a_body_that_is_no_object_is_refused(pair: Api) -> None:
    for data in ("{", "[]", "5"):
        response = pair.client.patch(
            path_of(METER), data=data, content_type="application/json", headers=pair.headers
        )
        assert response.status_code in {400, 422}, data
        assert response.json["code"] in {"BAD_FIELD", "MALFORMED_JSON"}


@KINDS
def test_only_an_administrator_rates_devices_of_the_fleet(
    pair: Api, other_admin: Api, key: MakeKey, kind: Kind
) -> None:
    reader = Api(pair.client, bearer(key("read", "ingest")))
    refused(reader.patch(path_of(kind), {"maxPowerKw": 22}), "SCOPE_MISSING")
    refused(other_admin.patch(path_of(kind), {"maxPowerKw": 22}), "UNKNOWN_DEVICE")
    refused(pair.patch(path_of(kind, "404"), {"maxPowerKw": 22}), "UNKNOWN_DEVICE")
    assert pair.patch(path_of(kind), {}).json["maxPowerKw"] == 400


def test_a_register_that_ends_is_counted_on_from_the_next_tick(admin: Api) -> None:
    """9999.5 -> 0.7 within an hour: a restart (0.7 kWh) until one knows that it ends at 10,000."""
    send(admin, METER, "001", [(at(1), 9999.0), (at(2), 9999.5), (at(3), 0.7), (at(4), 1.0)])
    send(admin, VEHICLE, "001", [(at(1), 0.0), (at(4), 1.5)])
    flush_all()
    roll_up()
    energy = f"{path_of(METER)}/energy"
    answer = admin.get(energy, **DAY).json
    assert (answer["energyKwh"], answer["events"]) == (0.5 + 0.7 + 0.3, {"RESET": 1})
    assert told(admin)["events"] == {"ac": {"RESET": 1}, "dc": {}}
    assert admin.patch(path_of(METER), {"rolloverKwh": 10_000}).status_code == 200
    assert admin.get(energy, **DAY).json == answer  # until the tick
    roll_up()
    answer = admin.get(energy, **DAY).json
    assert (answer["energyKwh"], answer["events"]) == (0.5 + 1.2 + 0.3, {"ROLLOVER": 1})
    assert told(admin)["acKwh"] == 2.0
    assert told(admin)["efficiencyRatio"] == 0.75
    admin.patch(path_of(METER), {"rolloverKwh": None})
    roll_up()
    assert told(admin)["acKwh"] == 1.5


def test_a_rating_decides_what_is_a_spike(admin: Api) -> None:
    """80 kWh in an hour and back: possible at 400 kW (a reset of what is left), not at 22 kW."""
    send(admin, METER, "001", [(at(1), 100), (at(2), 110), (at(3), 190), (at(4), 120)])
    send(admin, VEHICLE, "001", [(at(1), 0.0), (at(4), 18)])
    flush_all()
    roll_up()
    assert told(admin)["events"]["ac"] == {"RESET": 1}
    assert told(admin)["acKwh"] == 10 + 80 + 120
    admin.patch(path_of(METER), {"maxPowerKw": 22})
    roll_up()
    answer = told(admin)
    assert (answer["acKwh"], answer["events"]["ac"]) == (20, {"SPIKE": 1})
    assert (answer["efficiencyRatio"], answer["samples"]["ac"]) == (0.9, 3)


# --- assignments ----------------------------------------------------------------------------------


def pairing(vehicle: str, meter: str, begin: float, end: float | None = None) -> dict[str, Any]:
    body = {"vehicleId": f"vehicle-{vehicle}", "meterId": f"meter-{meter}", "from": at(begin)}
    return body if end is None else body | {"to": at(end)}


def assign(api: Api, *args: Any) -> dict[str, Any]:
    response = api.post(ASSIGNMENTS, pairing(*args))
    assert response.status_code == 201, response.text
    return response.json


@pytest.fixture
def devices(admin: Api) -> Api:
    """Vehicles 001 and 002, meters 001, 007 and 009, a reading each."""
    for kind, names in ((METER, ("001", "007", "009")), (VEHICLE, ("001", "002"))):
        for name in names:
            send(admin, kind, name, [(at(0), 5.0)])
    flush_all()
    return admin


def test_an_assignment_is_shown_as_it_was_made(devices: Api) -> None:
    made = assign(devices, "001", "007", 0, 12)
    assert made == {
        "id": made["id"],
        "vehicleId": "vehicle-001",
        "meterId": "meter-007",
        "from": "2026-01-10T00:00:00Z",
        "to": "2026-01-10T12:00:00Z",
    }
    assert assign(devices, "001", "009", 12)["to"] is None
    assert devices.get(ASSIGNMENTS).json["items"][0] == made


def test_assignments_are_listed_by_vehicle_and_by_meter(devices: Api) -> None:
    first = assign(devices, "001", "007", 0, 12)
    second = assign(devices, "001", "009", 12)
    third = assign(devices, "002", "007", 12)
    listed = devices.get(ASSIGNMENTS).json
    assert listed == {"items": [first, second, third], "next": None}
    assert devices.pages(ASSIGNMENTS, limit=1) == listed["items"]
    assert devices.pages(ASSIGNMENTS, vehicleId="vehicle-001") == [first, second]
    assert devices.pages(ASSIGNMENTS, meterId="meter-007", limit=1) == [first, third]
    both = devices.pages(ASSIGNMENTS, meterId="meter-007", vehicleId="vehicle-002")
    assert both == [third]
    assert devices.pages(ASSIGNMENTS, vehicleId="vehicle-404") == []
    for wrong in ({"vehicleId": "\0"}, {"vehicle": "vehicle-001"}, {"cursor": "x"}, {"limit": 0}):
        refused(devices.get(ASSIGNMENTS, **wrong), "BAD_QUERY")


def test_an_assignment_is_taken_back_once(devices: Api) -> None:
    made = assign(devices, "001", "007", 0)
    path = f"{ASSIGNMENTS}/{made['id']}"
    answer = devices.delete(path)
    assert (answer.status_code, answer.get_data()) == (204, b"")
    assert devices.get(ASSIGNMENTS).json["items"] == []
    refused(devices.delete(path), "UNKNOWN_ASSIGNMENT")
    assert assign(devices, "002", "007", 0)["id"] > made["id"]
    for number in ("0", "2147483647"):
        refused(devices.delete(f"{ASSIGNMENTS}/{number}"), "UNKNOWN_ASSIGNMENT")
    for number in ("2147483648", "-1", "x"):
        refused(devices.delete(f"{ASSIGNMENTS}/{number}"), "NOT_FOUND")


@pytest.mark.parametrize(
    "second",
    [
        ("001", "007", 11, None),  # the vehicle
        ("002", "001", 11, None),  # the meter
        ("001", "007", -1000, 1),
        ("001", "001", 0, 12),  # the same once more
    ],
)
def test_assignments_that_overlap_are_refused(devices: Api, second: tuple[Any, ...]) -> None:
    made = assign(devices, "001", "001", 0, 12)
    refused(devices.post(ASSIGNMENTS, pairing(*second)), "ASSIGNMENT_OVERLAPS")
    assert devices.get(ASSIGNMENTS).json["items"] == [made]
    assign(devices, "001", "007", 12)  # one ends as the other begins


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": at(0)}, "to"),
        ({"to": at(-1)}, "to"),
        ({"from": None}, "from"),
        ({"from": "2026-01-10T00:00:00"}, "from"),
        ({"from": "yesterday"}, "from"),
        ({"to": 5}, "to"),
        ({"vehicleId": "a b"}, "vehicleId"),
        ({"vehicleId": 1}, "vehicleId"),
        ({"meterId": None}, "meterId"),
        ({"fleetId": 2}, "fleetId"),
    ],
)
def test_an_unlawful_assignment_is_refused_by_field(
    devices: Api, change: dict[str, Any], field: str
) -> None:
    problem = refused(devices.post(ASSIGNMENTS, pairing("001", "001", 0) | change), "BAD_FIELD")
    assert problem["errors"].keys() == {field}
    assert devices.get(ASSIGNMENTS).json["items"] == []


def test_an_assignment_needs_all_its_fields(devices: Api) -> None:
    problem = refused(devices.post(ASSIGNMENTS, {}), "BAD_FIELD")
    assert problem["errors"].keys() == {"vehicleId", "meterId", "from"}


def test_unknown_devices_are_not_assigned(devices: Api) -> None:
    refused(devices.post(ASSIGNMENTS, pairing("404", "001", 0)), "UNKNOWN_DEVICE")
    refused(devices.post(ASSIGNMENTS, pairing("001", "404", 0)), "UNKNOWN_DEVICE")
    assert rows("SELECT * FROM meter_assignments") == []


HOURS = range(25)


@pytest.fixture
def a_day_of_two(admin: Api) -> Api:
    """S28: meter-001 counts 8 kWh until noon and 15 after, meter-007 12 kWh after noon."""
    send(
        admin, METER, "001",
        [(at(h), 100 + (8 / 12 * h if h < 12 else 8 + 15 / 12 * (h - 12))) for h in HOURS],
    )  # fmt: skip
    send(admin, METER, "007", [(at(h), 500 + max(0, h - 12)) for h in HOURS])
    send(admin, VEHICLE, "001", [(at(h), 18 / 24 * h) for h in HOURS])
    flush_all()
    return admin


def test_a_vehicle_that_changes_its_meter_at_noon_end_to_end(a_day_of_two: Api) -> None:  # S28
    first = assign(a_day_of_two, "001", "001", -500, 12)
    second = assign(a_day_of_two, "001", "007", 12)
    roll_up()
    answer = told(a_day_of_two)
    assert (answer["acKwh"], answer["dcKwh"], answer["efficiencyRatio"]) == (8 + 12, 18, 0.9)
    assert (answer["meterId"], answer["reason"]) == ("meter-007", None)
    for made in (first, second):
        assert a_day_of_two.delete(f"{ASSIGNMENTS}/{made['id']}").status_code == 204
    roll_up()
    assert (told(a_day_of_two)["acKwh"], told(a_day_of_two)["meterId"]) == (8 + 15, "meter-001")


def test_a_vehicle_without_a_meter_for_some_hours_is_unassigned(a_day_of_two: Api) -> None:
    assign(a_day_of_two, "001", "001", -500, 10)
    assign(a_day_of_two, "001", "007", 12)
    roll_up()
    answer = told(a_day_of_two)
    assert (answer["efficiencyRatio"], answer["reason"]) == (None, "UNASSIGNED")


def test_a_silent_meter_in_the_middle_is_missing(a_day_of_two: Api) -> None:
    send(a_day_of_two, METER, "009", [(at(-400), 5.0)])
    flush_all()
    assign(a_day_of_two, "001", "001", -500, 10)
    assign(a_day_of_two, "001", "009", 10, 14)
    assign(a_day_of_two, "001", "007", 14)
    roll_up()
    answer = told(a_day_of_two)
    assert (answer["efficiencyRatio"], answer["reason"]) == (None, "MISSING_AC")
