"""The registry, the newest reading, stored readings, energy: pages, limits, refused queries."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest

from models.kinds import METER, VEHICLE, Kind
from tests.factories import (
    at,
    execute,
    flush_all,
    meter_reading,
    register,
    roll_up,
    vehicle_reading,
)
from tests.web.calls import BOTH, LAWFUL, Api, accepted, refused

TELEMETRY = "/v1/meters/meter-001/telemetry"
ENERGY = "/v1/meters/meter-001/energy"


def opaque(position: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


@pytest.fixture
def minutes(api: Api) -> Api:
    """meter-001 from 10:00 to 10:09, a kWh a minute."""
    samples = [(at(10, minutes=n), 100 + n) for n in range(10)]
    accepted(api.send(METER, register(METER, samples)), 10)
    flush_all()
    roll_up()
    return api


def clock(items: list[dict[str, str]]) -> list[str]:
    return [item["timestamp"][11:16] for item in items]


# --- telemetry ------------------------------------------------------------------------------------


def test_a_window_is_half_open(minutes: Api) -> None:
    asked = {"from_at": at(10, minutes=2).isoformat(), "to_at": at(10, minutes=5).isoformat()}
    assert clock(minutes.get(TELEMETRY, **asked).json["items"]) == ["10:02", "10:03", "10:04"]


def test_a_window_may_be_asked_for_in_any_offset(minutes: Api) -> None:
    asked = {"from_at": "2026-01-10T12:02:00+02:00", "to_at": "2026-01-10T05:34:00-04:30"}
    assert clock(minutes.get(TELEMETRY, **asked).json["items"]) == ["10:02", "10:03"]


def test_pages_of_any_size_are_the_whole(minutes: Api) -> None:
    window = {"from_at": at(10).isoformat(), "to_at": at(11).isoformat()}
    whole = minutes.get(TELEMETRY, **window).json["items"]
    assert len(whole) == 10
    for limit in (1, 2, 3, 5, 9, 10, 11, 1000):
        assert minutes.pages(TELEMETRY, **window, limit=limit) == whole
    assert minutes.get(TELEMETRY, **window, limit=9).json["next"] is not None
    assert minutes.get(TELEMETRY, **window, limit=10).json["next"] is None


def test_the_next_page_can_be_had_by_following_its_link(minutes: Api) -> None:
    seen: list[str] = []
    response = minutes.get(
        TELEMETRY, from_at="2026-01-10T12:00:00+02:00", to_at="2026-01-10T11:00:00Z", limit=4
    )
    for _ in range(10):
        seen += clock(response.json["items"])
        if response.json["next"] is None:
            break
        link = response.headers["Link"]
        assert link.endswith('>; rel="next"')
        response = minutes.get(link[1:].partition(">")[0])
    assert "Link" not in response.headers
    assert seen == [f"10:0{n}" for n in range(10)]


def test_without_a_window_the_last_day_is_meant(api: Api) -> None:
    now = datetime.now(UTC)
    for hours in (25, 23, 1):
        accepted(api.send(METER, meter_reading(timestamp=now - timedelta(hours=hours))))
    flush_all()
    assert len(api.get(TELEMETRY).json["items"]) == 2
    up_to_then = (now - timedelta(hours=2)).isoformat()
    assert len(api.get(TELEMETRY, to_at=up_to_then).json["items"]) == 2
    since = (now - timedelta(hours=30)).isoformat()
    assert len(api.get(TELEMETRY, from_at=since).json["items"]) == 3


BAD_WINDOWS = {
    "from": [
        "2026-01-10T10:00:00",
        "2026-01-10",
        "10:00",
        "1768039200",
        "",
        "0001-01-01T00:00:00+14:00",
        "2026-02-30T00:00:00Z",
        "2026-01-10T10:00:00 02:00",  # a + that was not spelled %2B
    ],
    "to": ["2026-01-10T10:00:00", "9999-12-31T23:59:59-14:00", "now"],
}


@pytest.mark.parametrize("path", [TELEMETRY, ENERGY])
def test_an_instant_without_an_offset_is_refused(minutes: Api, path: str) -> None:
    for name, values in BAD_WINDOWS.items():
        for value in values:
            problem = refused(minutes.get(path, **{f"{name}_at": value}), "BAD_QUERY")
            assert [*problem["errors"]] == [name]


@pytest.mark.parametrize("path", [TELEMETRY, ENERGY])
def test_a_window_ends_after_it_begins(minutes: Api, path: str) -> None:
    for begin, end in ((10, 10), (11, 10)):
        response = minutes.get(path, from_at=at(begin).isoformat(), to_at=at(end).isoformat())
        assert refused(response, "BAD_QUERY")["errors"] == {"to": ["Must be later than `from`."]}


@pytest.mark.parametrize("path", [TELEMETRY, ENERGY])
def test_the_ends_of_time_are_no_error(minutes: Api, path: str) -> None:
    begin, end = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
    for asked in ({"from_at": begin}, {"to_at": begin}, {"to_at": end}):
        assert minutes.get(path, **asked).status_code == 200
    whole = minutes.get(path, from_at=begin, to_at=end).json
    assert len(whole.get("items", [])) in {0, 10}
    assert whole.get("energyKwh", 9.0) == 9.0


# --- refused queries ------------------------------------------------------------------------------

LISTS = ["/v1/meters", "/v1/vehicles", "/v1/analytics/performance", TELEMETRY]


@pytest.mark.parametrize("path", LISTS)
def test_a_limit_is_a_number_from_1_to_1000(minutes: Api, path: str) -> None:
    for limit in (0, -1, 1001, "abc", "", "1.5", "1e2", "9" * 5000):
        problem = refused(minutes.get(path, limit=limit), "BAD_QUERY")
        assert [*problem["errors"]] == ["limit"]
    for limit in (1, 1000):
        assert minutes.get(path, limit=limit).status_code == 200


GARBAGE = ["", "x", "garbage", "%", "é", "AAAA", "=", "Inh4", "\0", "A" * 5000]
FORGED = {
    "/v1/meters": ["a\0", "", "a b", "x" * 65, ["a"], 5, None, {}],
    "/v1/vehicles": ["\ud800", [None, 1]],
    "/v1/analytics/performance": [[0.5], [0.5, 1.5], [0.5, 10**12], [0.5, -1], ["a", 1], [1, None]],
    TELEMETRY: ["2026", "2026-01-10", "0000-01-01T00:00:00Z", "2026-02-30T00:00:00Z", 1, None],
}


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_comes_from_the_page_before(minutes: Api, path: str) -> None:
    for cursor in [*GARBAGE, *map(opaque, FORGED[path])]:
        response = minutes.get(path, cursor=cursor)
        assert refused(response, "BAD_QUERY")["errors"] == {
            "cursor": ["Not a cursor of this list."]
        }


@pytest.mark.parametrize("path", [*LISTS, ENERGY])
def test_an_unknown_parameter_is_refused(minutes: Api, path: str) -> None:
    for name in ("offset", "Limit", "fleet", "hours", "x\0", "é"):
        problem = refused(minutes.get(path, **{name: "1"}), "BAD_QUERY")
        assert problem["errors"] == {name: ["Unknown field."]}


def test_energy_has_no_pages(minutes: Api) -> None:
    for name in ("limit", "cursor"):
        assert [*refused(minutes.get(ENERGY, **{name: 1}), "BAD_QUERY")["errors"]] == [name]


# --- the newest reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH, ids=str)
def test_status_is_the_newest_reading_in_whatever_order_they_came(api: Api, kind: Kind) -> None:
    for hour in (12, 14, 13):
        reading = LAWFUL[kind.name](timestamp=at(hour), **{kind.counter.field: hour})
        accepted(api.send(kind, reading))
        flush_all()
    status = api.get(f"/v1/{kind}s/{kind}-001/status").json
    assert (status["timestamp"], status[kind.counter.field]) == ("2026-01-10T14:00:00Z", 14)


def test_status_has_the_fields_as_they_were_posted(api: Api) -> None:
    accepted(api.send(VEHICLE, vehicle_reading()))
    flush_all()
    status = api.get("/v1/vehicles/vehicle-001/status").json
    assert {*status} == {*vehicle_reading(), "receivedAt"}


@pytest.mark.parametrize("place", ["status", "telemetry", "energy"])
def test_a_device_nobody_heard_of_is_unknown(minutes: Api, place: str) -> None:
    for device in ("meter-404", "METER-001", "%00", "meter-001%00", "%ED%A0%80", "x" * 2000, "%20"):
        refused(minutes.get(f"/v1/meters/{device}/{place}"), "UNKNOWN_DEVICE")
    refused(minutes.get(f"/v1/vehicles/meter-001/{place}"), "UNKNOWN_DEVICE")


# --- the registry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH, ids=str)
def test_the_registry_lists_devices_by_their_id(api: Api, kind: Kind) -> None:
    ids = ["b", "a:2", "a.1", "a", "B", "a-3", "0", "_"]
    made = [
        LAWFUL[kind.name](**{kind.id_field: name}, timestamp=at(n)) for n, name in enumerate(ids)
    ]
    accepted(api.send(kind, made), len(ids))
    flush_all()
    items = api.get(f"/v1/{kind}s").json["items"]
    assert [item[kind.id_field] for item in items] == sorted(ids)
    last = {item[kind.id_field]: item["lastReadingAt"] for item in items}
    assert last == {name: f"2026-01-10T0{n}:00:00Z" for n, name in enumerate(ids)}
    for limit in range(1, len(ids) + 2):
        assert api.pages(f"/v1/{kind}s", limit=limit) == items


def test_a_device_that_is_registered_and_has_no_reading_is_listed(minutes: Api) -> None:
    execute("INSERT INTO meters (fleet_id, device_id) SELECT id, 'meter-002' FROM fleets")
    listed = minutes.get("/v1/meters").json["items"]
    assert [(d["meterId"], d["lastReadingAt"]) for d in listed] == [
        ("meter-001", "2026-01-10T10:09:00Z"),
        ("meter-002", None),
    ]
    refused(minutes.get("/v1/meters/meter-002/status"), "UNKNOWN_DEVICE")
    assert minutes.get("/v1/meters/meter-002/telemetry").json["items"] == []
    assert minutes.get("/v1/meters/meter-002/energy").json["energyKwh"] is None


# --- energy ---------------------------------------------------------------------------------------


def test_energy_is_read_off_the_register(minutes: Api) -> None:
    window = {"from_at": "2026-01-10T10:02:30Z", "to_at": "2026-01-10T10:07:00Z"}
    assert minutes.get(ENERGY, **window).json == {
        "deviceId": "meter-001",
        "from": "2026-01-10T10:02:30Z",
        "to": "2026-01-10T10:07:00Z",
        "effectiveFrom": "2026-01-10T10:02:30Z",
        "effectiveTo": "2026-01-10T10:07:00Z",
        "energyKwh": 4.5,
        "samples": 5,
        "events": {},
    }


def test_energy_without_two_readings_is_null_and_not_zero(minutes: Api) -> None:
    window = {"from_at": "2026-01-09T00:00:00Z", "to_at": "2026-01-09T01:00:00Z"}
    answer = minutes.get(ENERGY, **window).json
    assert (answer["energyKwh"], answer["samples"]) == (None, 0)
