"""Any window and day by day: the same numbers as the summary's, over other spans of time."""

from __future__ import annotations

import csv
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, register, roll_up
from tests.web.calls import Api, accepted, refused
from web import analytics

PATH = "/v1/analytics/performance/vehicle-001"
REGISTER = Path(__file__).resolve().parents[3] / "shared" / "data" / "opsd_ev_meter_60min.csv"
NOON = at(60)  # 12 January, 12:00

#: kWh at the begin of the 10th, 11th, 12th of January and at noon of the 12th; even in between.
AC, DC = (100, 110, 130, 136), (50, 59, 75, 80.4)


def line(kwh: tuple[float, ...], hour: int) -> float:
    day, within = min(hour // 24, 2), hour - 24 * min(hour // 24, 2)
    return kwh[day] + (kwh[day + 1] - kwh[day]) * within / (24 if day < 2 else 12)


@pytest.fixture
def three_days(api: Api) -> Api:
    """Every hour from the 10th to noon of the 12th; rolled up then."""
    for kind, kwh in ((METER, AC), (VEHICLE, DC)):
        readings = register(kind, [(at(hour), line(kwh, hour)) for hour in range(61)])
        accepted(api.send(kind, readings), 61)
    flush_all()
    roll_up(NOON)
    return api


@pytest.fixture
def at_noon(three_days: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The same, asked at noon of the 12th."""

    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return NOON

    monkeypatch.setattr(analytics, "datetime", Noon)
    return three_days


def told(api: Api, path: str = PATH, **query: Any) -> dict[str, Any]:
    response = api.get(path, **query)
    assert response.status_code == 200, response.text
    return response.json


# --- any window -----------------------------------------------------------------------------------


def test_the_last_day_asked_for_by_its_end_is_the_summary(three_days: Api) -> None:
    summary = told(three_days) | {"openAlerts": None}  # alarms are of the present alone
    assert summary["acKwh"] == 10 + 6
    assert told(three_days, asOf=NOON.isoformat()) == summary
    assert told(three_days, asOf=NOON.isoformat(), hours=24) == summary
    spelled_otherwise = "2026-01-12T17:30:00+05:30"
    assert told(three_days, asOf=spelled_otherwise) == summary


@pytest.mark.parametrize(
    ("hours", "end", "ac_kwh", "dc_kwh"),
    [
        (24, 24, 10, 9),
        (24, 48, 20, 16),
        (48, 48, 30, 25),
        (1, 24, 0.4167, 0.375),
        (12, 60, 6, 5.4),
        (24, 36.5, 5 - 0.2083 + 10 + 0.4167, 4.5 - 0.1875 + 8 + 0.3333),
        (744, 60, 36, 30.4),
    ],
)
def test_any_window_of_whole_hours_is_answered(
    three_days: Api, hours: int, end: float, ac_kwh: float, dc_kwh: float
) -> None:
    answer = told(three_days, hours=hours, asOf=at(end).isoformat())
    assert answer["acKwh"] == pytest.approx(ac_kwh, abs=0.0002)
    assert answer["dcKwh"] == pytest.approx(dc_kwh, abs=0.0002)
    assert answer["period"] == f"{hours}h"
    assert datetime.fromisoformat(answer["window"]["to"]) == at(end)
    begin = datetime.fromisoformat(answer["window"]["from"])
    assert begin == at(end) - timedelta(hours=hours)
    assert answer["computedAt"] == "2026-01-12T12:00:00Z"


def test_hours_without_an_end_are_the_last_ones(at_noon: Api) -> None:
    assert told(at_noon, hours=12) == told(at_noon, hours=12, asOf=NOON.isoformat())


def test_a_window_without_readings_has_no_data(three_days: Api) -> None:
    answer = told(three_days, asOf="2025-06-01T00:00:00Z")
    assert (answer["reason"], answer["acKwh"], answer["dcKwh"]) == ("NO_DATA", None, None)
    assert answer["samples"] == {"ac": 0, "dc": 0}


@pytest.mark.parametrize("end", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_the_ends_of_time_can_be_asked_for(three_days: Api, end: str) -> None:
    response = three_days.get(PATH, asOf=end, hours=744)
    assert response.status_code in {200, 422}, response.text


@pytest.mark.parametrize(
    "query",
    [
        {"hours": 0},
        {"hours": 745},
        {"hours": -1},
        {"hours": 1.5},
        {"hours": "x"},
        {"asOf": "2026-01-12"},
        {"asOf": "2026-01-12T12:00:00"},
        {"asOf": "yesterday"},
        {"days": 1},
    ],
)
def test_an_unlawful_window_is_refused(three_days: Api, query: dict[str, Any]) -> None:
    assert refused(three_days.get(PATH, **query), "BAD_QUERY")["errors"].keys() == query.keys()


def test_a_window_of_an_unknown_vehicle_is_unknown(three_days: Api) -> None:
    for path in (PATH, f"{PATH}/daily"):
        unknown = path.replace("001", "404")
        refused(three_days.get(unknown, **({"hours": 5} if path == PATH else {})), "UNKNOWN_DEVICE")


@pytest.mark.skipif(not REGISTER.exists(), reason="the register is not beside this checkout")
def test_a_real_register_through_the_api(api: Api) -> None:  # R2
    with REGISTER.open() as file:
        counted = [
            (row["utc_timestamp"], float(row["ev_kwh_cumulative"]))
            for row in csv.DictReader(file)
            if row["ev_kwh_cumulative"] and row["utc_timestamp"].startswith("2016-08")
        ]
    accepted(api.send(METER, register(METER, counted)), len(counted))
    flush_all()
    roll_up()
    window = {"from_at": "2016-08-13T15:00:00Z", "to_at": "2016-08-14T15:00:00Z"}
    answer = api.get("/v1/meters/meter-001/energy", **window).json
    assert answer["energyKwh"] == pytest.approx(5.553, abs=0.0006)
    assert answer["events"] == {}


# --- day by day -----------------------------------------------------------------------------------


def test_days_come_in_order_and_today_as_far_as_it_is(at_noon: Api) -> None:
    items = told(at_noon, f"{PATH}/daily", days=3)["items"]
    assert [item["window"]["from"] for item in items] == [
        "2026-01-10T00:00:00Z",
        "2026-01-11T00:00:00Z",
        "2026-01-12T00:00:00Z",
    ]
    assert [item["window"]["to"] for item in items] == [
        "2026-01-11T00:00:00Z",
        "2026-01-12T00:00:00Z",
        "2026-01-12T12:00:00Z",
    ]
    assert [item["period"] for item in items] == ["24h", "24h", "12h"]
    assert [item["acKwh"] for item in items] == [10, 20, 6]
    assert [item["dcKwh"] for item in items] == [9, 16, 5.4]
    assert [item["efficiencyRatio"] for item in items] == [0.9, 0.8, 0.9]
    assert [item["samples"]["ac"] for item in items] == [25, 25, 13]
    whole = told(at_noon, hours=60, asOf=NOON.isoformat())
    assert sum(item["acKwh"] for item in items) == pytest.approx(whole["acKwh"])
    assert sum(item["dcKwh"] for item in items) == pytest.approx(whole["dcKwh"])


def test_a_day_is_the_window_that_ends_with_it(at_noon: Api) -> None:
    first, _, _ = told(at_noon, f"{PATH}/daily", days=3)["items"]
    assert first == told(at_noon, hours=24, asOf=at(24).isoformat())


def test_days_before_the_first_reading_have_no_efficiency(at_noon: Api) -> None:
    items = told(at_noon, f"{PATH}/daily")["items"]
    assert len(items) == 30
    assert [item["efficiencyRatio"] for item in items] == [None] * 27 + [0.9, 0.8, 0.9]
    assert items[0]["reason"] == "NO_DATA"


@pytest.mark.parametrize("days", [0, 367, -1, "x", 1.5])
def test_an_unlawful_number_of_days_is_refused(three_days: Api, days: Any) -> None:
    refused(three_days.get(f"{PATH}/daily", days=days), "BAD_QUERY")
    assert len(told(three_days, f"{PATH}/daily", days=366)["items"]) == 366
