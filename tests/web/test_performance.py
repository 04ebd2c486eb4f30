"""GET /v1/analytics/performance: names, numbers worked out by hand, caching, worst first."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

import settings
from models.kinds import METER, VEHICLE
from tests.factories import NEXT_MIDNIGHT, at, execute, flush_all, register, roll_up
from tests.web.calls import Api, accepted, refused

PATH = "/v1/analytics/performance"


#: Two samples, a day apart.
SEEN_TWICE = {
    "samples": 2,
    "expected": 1,
    "maxGapSeconds": 86_400.0,
    "resets": 0,
    "dropped": 0,
    "conflicts": 0,
    "lastAt": "2026-01-11T00:00:00Z",
    "lagSeconds": 0.0,
    "skewSeconds": None,  # sent months later
}


def send(api: Api, number: str, ac: list[float] | None, dc: list[float] | None) -> None:
    """Registers of vehicle-<number> and its meter, evenly from midnight to midnight."""
    for kind, kwh in ((METER, ac), (VEHICLE, dc)):
        if kwh is not None:
            hours = [24 * n / max(len(kwh) - 1, 1) for n in range(len(kwh))]
            samples = [(at(hour), value) for hour, value in zip(hours, kwh, strict=True)]
            device = {kind.id_field: f"{kind}-{number}"}
            accepted(api.send(kind, register(kind, samples, **device)), len(kwh))


def told(api: Api, vehicle: str = "vehicle-001") -> dict[str, object]:
    response = api.get(f"{PATH}/{vehicle}")
    assert response.status_code == 200, response.text
    return response.json


@pytest.fixture
def a_day(api: Api) -> Api:
    """AC 100 -> 110 kWh, DC 50 -> 59 kWh, the battery at 30 and at 36 degrees; rolled up."""
    send(api, "001", [100, 110], None)
    for hour, kwh, temperature in ((0, 50, 30), (24, 59, 36)):
        reading = register(VEHICLE, [(at(hour), kwh)], batteryTemp=temperature)
        accepted(api.send(VEHICLE, reading))
    flush_all()
    roll_up()
    return api


# --- one vehicle ----------------------------------------------------------------------------------


def test_ten_kwh_in_and_nine_out_is_ninety_percent(a_day: Api) -> None:
    answer = told(a_day)
    through = datetime.fromisoformat(answer.pop("dataCompleteThrough"))
    assert timedelta(0) <= datetime.now(through.tzinfo) - through < timedelta(minutes=1)
    assert answer == {
        "vehicleId": "vehicle-001",
        "meterId": "meter-001",
        "period": "24h",
        "efficiencyRatio": 0.9,
        "efficiencyPct": 90.0,
        "efficiencyLow": 0.8981,  # (9 - 0.01) / (10 + 0.01)
        "efficiencyHigh": 0.9019,  # (9 + 0.01) / (10 - 0.01)
        "chargingEfficiency": 0.9,
        "reason": None,
        "rawRatio": 0.9,
        "totalEnergyConsumedAc": 10.0,
        "totalEnergyDeliveredDc": 9.0,
        "acKwh": 10.0,
        "dcKwh": 9.0,
        "lossKwh": 1.0,
        "averageBatteryTemp": 33.0,
        "minBatteryTemp": 30.0,
        "maxBatteryTemp": 36.0,
        # 9 kWh in a day are 0.375 kW all along: charging, if hardly.
        "loss": {
            "conversionKwh": 1.0,
            "idleKwh": 0.0,
            "avoidableKwh": None,
            "avoidableCost": None,
            "currency": None,
            "avoidableCo2Kg": None,
        },
        "charging": {
            "hours": 24.0,
            "avgAcPowerKw": 0.42,
            "acKwh": 10.0,
            "dcKwh": 9.0,
            "sessions": 1,
            "idleHours": 0.0,
        },
        "battery": {
            "socFirst": 55.5,
            "socLast": 55.5,
            "tempAvgC": 33.0,
            "tempMinC": 30.0,
            "tempMaxC": 36.0,
        },
        "baseline": None,
        "threshold": {"pct": 72.0, "class": "<3kW"},
        "state": "ok",
        "openAlerts": [],
        "dataQuality": {
            "confidence": "high",
            "coveragePct": 100.0,
            "flags": [],
            "ac": SEEN_TWICE,
            "dc": SEEN_TWICE,
        },
        "window": {
            "from": "2026-01-10T00:00:00Z",
            "to": "2026-01-11T00:00:00Z",
            "hours": 24.0,
            "effectiveFrom": "2026-01-10T00:00:00Z",
            "effectiveTo": "2026-01-11T00:00:00Z",
            "supportPct": 100.0,
        },
        "samples": {"ac": 2, "dc": 2},
        "events": {"ac": {}, "dc": {}},
        "computedAt": "2026-01-11T00:00:00Z",
    }


def charging_at_night(api: Api) -> None:
    """S29: 15 W of standby all day, 7.2 kW DC for 2 h 55 min at 88.83 %; sampled each 5 minutes.

    DC 21 kWh in 35 steps of 0.6. AC 23.64 kWh in the same steps, 0.36 kWh in the other 253.
    """
    ac, dc, points = 0.0, 0.0, {METER: [(at(0), 100.0)], VEHICLE: [(at(0), 50.0)]}
    for step in range(288):
        charging = 24 <= step < 59
        ac += 23.64 / 35 if charging else 0.36 / 253
        dc += 21 / 35 if charging else 0.0
        instant = at(minutes=5 * (step + 1))
        points[METER].append((instant, 100 + ac))
        points[VEHICLE].append((instant, 50 + dc))
    for kind, samples in points.items():
        accepted(api.send(kind, register(kind, samples)), 289)
    flush_all()
    roll_up()


def test_the_loss_is_split_into_conversion_and_standby(api: Api) -> None:  # S29
    charging_at_night(api)
    answer = told(api)
    assert answer["efficiencyRatio"] == 0.875
    assert answer["chargingEfficiency"] == 0.8883
    assert (answer["loss"]["conversionKwh"], answer["loss"]["idleKwh"]) == (2.64, 0.36)
    assert answer["charging"] == {
        "hours": 2.9167,
        "avgAcPowerKw": 8.11,
        "acKwh": 23.64,
        "dcKwh": 21.0,
        "sessions": 1,
        "idleHours": 21.0833,
    }
    assert answer["threshold"] == {"pct": 85.0, "class": ">=5kW"}
    assert answer["state"] == "ok"
    # 24 - 21 / (0.94 - 0.25 / 8.10514) = 0.902...: 21 / 0.909155 = 23.0984
    assert answer["loss"]["avoidableKwh"] == 0.902
    assert answer["dataQuality"]["ac"]["expected"] == 288


def test_money_and_co2_are_shown_when_their_factors_are_set(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    charging_at_night(api)
    monkeypatch.setenv("TARIFF_PER_KWH", "0.30")
    monkeypatch.setenv("GRID_FACTOR_KG_PER_KWH", "0.35")
    settings.load.cache_clear()
    loss = told(api)["loss"]
    fleet = api.get("/v1/analytics/fleet").json
    settings.load.cache_clear()
    assert (loss["avoidableCost"], loss["currency"], loss["avoidableCo2Kg"]) == (0.27, "EUR", 0.32)
    assert (fleet["avoidableCost"], fleet["avoidableCo2Kg"]) == (0.27, 0.32)


def test_a_fleets_efficiency_is_the_sum_over_the_sum(api: Api) -> None:  # S30
    send(api, "001", [0, 100], [0, 90])
    send(api, "002", [0, 10], [0, 5])
    send(api, "003", [0, 10], None)
    send(api, "004", [0, 0], [0, 0])
    flush_all()
    roll_up()
    fleet = api.get("/v1/analytics/fleet").json
    assert (fleet["acKwh"], fleet["dcKwh"], fleet["efficiencyRatio"]) == (110.0, 95.0, 0.8636)
    assert (fleet["vehicles"], fleet["vehiclesCounted"]) == (3, 2)  # the third never spoke
    assert fleet["lossKwh"] == 15.0
    assert fleet["reasons"] == {"INSUFFICIENT_ENERGY": 1}
    assert fleet["states"] == {"ok": 1, "watch": 1, "idle": 1}
    assert fleet["avoidableCost"] is None


def test_the_names_of_the_replaced_api_are_kept(a_day: Api) -> None:
    answer = told(a_day)
    types = {name: type(answer[name]) for name in (
        "vehicleId", "period", "totalEnergyConsumedAc", "totalEnergyDeliveredDc",
        "efficiencyRatio", "averageBatteryTemp",
    )}  # fmt: skip
    assert types == {
        "vehicleId": str,
        "period": str,
        "totalEnergyConsumedAc": float,
        "totalEnergyDeliveredDc": float,
        "efficiencyRatio": float,
        "averageBatteryTemp": float,
    }


def test_numbers_are_shown_to_a_tenth_of_a_watt_hour(api: Api) -> None:
    send(api, "001", [0.1, 3.4], [0, 2.2])
    flush_all()
    roll_up()
    answer = told(api)
    assert (answer["acKwh"], answer["dcKwh"], answer["lossKwh"]) == (3.3, 2.2, 1.1)
    assert answer["efficiencyRatio"] == 0.6667


def test_a_vehicle_nobody_heard_of_is_unknown(a_day: Api) -> None:
    for vehicle in ("vehicle-404", "meter-001", "%00", "a%20b", "x" * 2000):
        problem = refused(a_day.get(f"{PATH}/{vehicle}"), "UNKNOWN_DEVICE")
        assert problem["detail"].endswith("ever sent a reading.")


def test_a_vehicle_is_known_before_its_numbers_are(api: Api) -> None:
    send(api, "001", None, [50])
    flush_all()
    answer = told(api)
    known = {name: value for name, value in answer.items() if value is not None}
    assert known == {"vehicleId": "vehicle-001", "period": "24h", "reason": "NOT_COMPUTED_YET"}
    assert "ETag" not in api.get(f"{PATH}/vehicle-001").headers


@pytest.mark.parametrize(
    ("ac", "dc", "reason"),
    [
        (None, [50, 59], "MISSING_AC"),
        ([100, 110], [50], "INSUFFICIENT_SAMPLES"),
        ([100, 100.1], [50, 50.1], "INSUFFICIENT_ENERGY"),
        ([100, 100.1], [50, 60], "DC_WITHOUT_AC"),
        ([100, 110], [50, 65], "DC_EXCEEDS_AC"),
        ([100, 110], [50, 9050], "UNIT_MISMATCH"),
    ],
)
def test_row_31_a_ratio_that_cannot_be_known_is_null_with_a_reason(
    api: Api, ac: list[float] | None, dc: list[float] | None, reason: str
) -> None:
    send(api, "001", ac, dc)
    flush_all()
    roll_up()
    answer = told(api)
    assert (answer["efficiencyRatio"], answer["reason"]) == (None, reason)
    if reason == "DC_EXCEEDS_AC":
        assert answer["rawRatio"] == 1.5
    if reason == "MISSING_AC":
        assert (answer["acKwh"], answer["dcKwh"], answer["lossKwh"]) == (None, None, None)


def test_a_vehicle_without_a_reading_in_the_window_has_no_numbers(api: Api) -> None:
    send(api, "001", [100, 110], [50, 59])
    flush_all()
    roll_up(NEXT_MIDNIGHT + timedelta(days=30))
    answer = told(api)
    assert answer["reason"] == "NO_DATA"
    assert {answer[n] for n in ("acKwh", "dcKwh", "efficiencyRatio", "averageBatteryTemp")} == {
        None
    }
    assert answer["samples"] == {"ac": 0, "dc": 0}


# --- caching --------------------------------------------------------------------------------------


def test_an_unchanged_summary_is_not_sent_again(a_day: Api) -> None:
    first = a_day.get(f"{PATH}/vehicle-001")
    assert first.headers["Cache-Control"] == "private, max-age=5"
    etag = {"If-None-Match": first.headers["ETag"]}
    again = a_day.get(f"{PATH}/vehicle-001", headers=etag)
    assert (again.status_code, again.get_data()) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
    roll_up(NEXT_MIDNIGHT + timedelta(seconds=10))  # nothing came in: nothing is new
    assert a_day.get(f"{PATH}/vehicle-001", headers=etag).status_code == 304
    roll_up(NEXT_MIDNIGHT + timedelta(seconds=61))
    later = a_day.get(f"{PATH}/vehicle-001", headers=etag)
    assert later.status_code == 200
    assert later.json["computedAt"] == "2026-01-11T00:01:01Z"


def test_two_vehicles_never_share_an_etag(api: Api) -> None:
    for number in ("001", "002"):
        send(api, number, [100, 110], [50, 59])
    flush_all()
    roll_up()
    etags = {api.get(f"{PATH}/vehicle-{n}").headers["ETag"] for n in ("001", "002")}
    assert len(etags) == 2


# --- the fleet ------------------------------------------------------------------------------------

RATIOS = {"a": 0.9, "b": None, "c": 0.8, "d": 0.95, "e": None, "f": 0.8, "g": 0.8, "h": None}
WORST_FIRST = ["c", "f", "g", "a", "d", "b", "e", "h"]


@pytest.fixture
def vehicles(api: Api) -> Api:
    """Vehicles of these ratios, registered in the order of their letters."""
    for letter, ratio in RATIOS.items():
        send(api, letter, [0, 100], [0] if ratio is None else [0, 100 * ratio])
        flush_all()
    roll_up()
    return api


def test_worst_first_and_unknown_last(vehicles: Api) -> None:
    response = vehicles.get(PATH)
    items = response.json["items"]
    assert [item["vehicleId"].removeprefix("vehicle-") for item in items] == WORST_FIRST
    assert [item["efficiencyRatio"] for item in items] == [RATIOS[n] for n in WORST_FIRST]
    assert response.json["next"] is None
    assert items[0] == told(vehicles, "vehicle-c")


def test_pages_of_any_size_are_the_list(vehicles: Api) -> None:
    whole = vehicles.get(PATH).json["items"]
    for limit in range(1, len(RATIOS) + 2):
        assert vehicles.pages(PATH, limit=limit) == whole


def test_a_vehicle_that_changes_between_pages_disturbs_no_other(vehicles: Api) -> None:
    first = vehicles.get(PATH, limit=3).json
    execute("UPDATE vehicle_performance_24h SET efficiency = 0.1 WHERE vehicle_id = 'vehicle-d'")
    rest = vehicles.get(PATH, limit=8, cursor=first["next"]).json["items"]
    assert [item["vehicleId"][-1] for item in rest] == ["a", "b", "e", "h"]


def test_a_fleet_without_vehicles_has_an_empty_list(api: Api) -> None:
    assert api.get(PATH).json == {"items": [], "next": None}
