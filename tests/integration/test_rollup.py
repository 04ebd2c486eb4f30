"""From the stream to the summary row, against numbers worked out by hand.

The acceptance cases are the shared scenarios: what they expect was computed by hand, and checked by
machine, before there was any code.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import hours, locks, rollups, windows
from models.clock import from_us
from models.engine import transaction
from models.kinds import KINDS, METER, VEHICLE, Kind
from tests.factories import (
    NEXT_MIDNIGHT,
    Reading,
    at,
    content,
    empty_servers,
    execute,
    flush_all,
    make_fleet,
    meter_reading,
    performance_of,
    post_to_stream,
    register,
    roll_up,
    rows,
    store,
    support_pct,
    vehicle_reading,
)
from workers import performance, rollup, stream

SHARED = Path(__file__).resolve().parents[3] / "shared"
SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "energy.json"
REGISTER = SHARED / "data" / "opsd_ev_meter_60min.csv"

DAY = timedelta(hours=24)
Points = Sequence[tuple[datetime | str, float]]

# --- the acceptance cases -------------------------------------------------------------------------

#: What a case calls an event, where we have a shorter name.
EVENT_NAMES = {"GLITCH_DROPPED": "GLITCH", "SPIKE_DROPPED": "SPIKE"}
#: A case's parameters and the devices' ratings that they are.
RATINGS = {"Pmax": "max_power_kw", "M": "rollover_kwh", "G": "edge_gap_seconds"}

CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in json.loads(SCENARIOS.read_text())}


def _needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not beside this checkout")


def summary(begin: datetime, end: datetime) -> dict[str, Any]:
    """The summary row of vehicle-001; windows that are no 24 h are summarised without a row."""
    roll_up(end)
    if end - begin == DAY:
        return performance_of("vehicle-001")
    with transaction() as conn:
        keys = [row["key"] for row in rows("SELECT key FROM vehicles")]
        supplies = rollups.supplies(conn, begin, end, keys)
        (row,) = performance.summarise(conn, supplies, begin, end)
    return row


def test_there_are_all_cases() -> None:
    assert len(CASES) == 28


@pytest.mark.parametrize("name", CASES)
def test_row_29_an_acceptance_case_ends_in_the_expected_summary(fleet: int, name: str) -> None:
    case = CASES[name]
    begin, end = map(datetime.fromisoformat, case["window"])
    make_known(fleet, case)
    store(fleet, case["meter"], case["vehicle"])
    rate(case["params"])
    row, expected = summary(begin, end), case["expected"]

    assert row["reason"] == expected["reason"]
    for column, field in (
        ("ac_kwh", "acKwh"),
        ("dc_kwh", "dcKwh"),
        ("efficiency", "efficiency"),
        ("raw_ratio", "rawRatio"),
    ):
        assert row[column] == about(expected[field]), column
    assert support_pct(row) == about(expected["supportPct"], 0.005)
    assert row["ac_events"] == counts(expected["acFlags"])
    assert row["dc_events"] == counts(expected["dcFlags"])


def counts(flags: Sequence[str]) -> Counter[str]:
    return Counter(EVENT_NAMES.get(flag, flag) for flag in flags)


def rate(params: dict[str, float]) -> None:
    """Both devices of a case are rated alike, before anything is rolled up."""
    assert params.keys() <= RATINGS.keys()
    for name, value in params.items():
        for table in ("meters", "vehicles"):
            statement = f"UPDATE {table} SET {RATINGS[name]} = :value"  # noqa: S608  (names of ours)
            execute(statement, value=value)


def about(number: float | None, tolerance: float = 0.00005) -> Any:
    return None if number is None else pytest.approx(number, abs=tolerance)


def make_known(fleet: int, case: dict[str, Any]) -> None:
    """A vehicle that is silent in the case has spoken once, long before."""
    if not case["vehicle"]:
        post_to_stream(VEHICLE, fleet, [vehicle_reading(timestamp="2025-06-01T00:00:00Z")])


def test_the_case_of_a_conflicting_duplicate_keeps_one_conflict(fleet: int) -> None:  # S26
    store(fleet, CASES["S26"]["meter"], CASES["S26"]["vehicle"])
    assert [row["refused"]["kwhConsumedAc"] for row in rows("SELECT * FROM reading_conflicts")] == [
        999.0
    ]


def test_the_default_gap_bridges_what_s16_does_not(fleet: int) -> None:
    """AC: two thirds of the way from 100 (at -2 h) to 120 (at 1 h) are 113.333 at the window's
    start, so 150 - 113.333 = 36.667. DC: 83 - 50 = 33. Their ratio is 0.9 all the same.
    """
    store(fleet, CASES["S16"]["meter"], CASES["S16"]["vehicle"])
    row = summary(at(0), NEXT_MIDNIGHT)
    assert (row["ac_kwh"], row["dc_kwh"]) == (36.6667, 33.0)
    assert row["efficiency"] == 0.9
    assert support_pct(row) == 100


# Late data

HOURS = range(25)
STEADY_AC: Points = [(at(hour), 100 + 1.25 * hour) for hour in HOURS]
STEADY_DC: Points = [(at(hour), 98 + 1.125 * hour) for hour in HOURS]


def test_late_data_widens_the_window(fleet: int) -> None:  # S27
    store(fleet, STEADY_AC[:19], STEADY_DC)
    row = summary(at(0), NEXT_MIDNIGHT)
    assert (row["ac_kwh"], row["dc_kwh"], row["efficiency"]) == (22.5, 20.25, 0.9)
    assert support_pct(row) == 75
    store(fleet, STEADY_AC[19:])
    row = summary(at(0), NEXT_MIDNIGHT)
    assert (row["ac_kwh"], row["dc_kwh"], row["efficiency"]) == (30, 27, 0.9)
    assert support_pct(row) == 100


def test_a_window_begins_with_the_later_side(fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC[6:])
    row = summary(at(0), NEXT_MIDNIGHT)
    assert (row["ac_kwh"], row["dc_kwh"], row["efficiency"]) == (22.5, 20.25, 0.9)
    assert (row["effective_from"], row["effective_to"]) == (at(6), at(24))


def test_a_window_shrinks_to_what_both_cover_from_both_sides(fleet: int) -> None:
    store(fleet, STEADY_AC[3:20], STEADY_DC[:18])
    row = summary(at(0), NEXT_MIDNIGHT)
    assert (row["ac_kwh"], row["dc_kwh"]) == (1.25 * 14, 1.125 * 14)
    assert (row["effective_from"], row["effective_to"]) == (at(3), at(17))


def test_row_27_late_data_changes_exactly_what_it_touches(fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    other = [("meterId", METER, STEADY_AC), ("vehicleId", VEHICLE, STEADY_DC)]
    for field, kind, points in other:
        name = f"{kind.name}-002"
        post_to_stream(kind, fleet, register(kind, points, **{field: name}))
    flush_all()
    roll_up()
    before, untouched = content(METER, METER.hourly), performance_of("vehicle-002")
    # A restart at 05:30 that nobody had heard of: 2 kWh since, 3 kWh, and then 107.5 at 06:00.
    store(fleet, [(at(5, minutes=30), 2.0), (at(5, minutes=45), 3.0)])
    report = roll_up()
    assert (report["meterHours"], report["vehicleHours"]) == (1, 0)
    changed = [
        (old, new)
        for old, new in zip(before, content(METER, METER.hourly), strict=True)
        if old != new
    ]
    ((old, new),) = changed
    assert (new["device_id"], new["hour"]) == ("meter-001", at(5))
    assert (old["samples"], old["energy_kwh"]) == (1, 0)
    assert (new["samples"], new["energy_kwh"]) == (3, 2.0 + 1.0)
    assert rows("SELECT at, event, energy_kwh FROM meter_register_events") == [
        {"at": at(5, minutes=30), "event": "RESET", "energy_kwh": 2.0}
    ]
    # Instead of 1.25 from 05:00 to 06:00: 2.0, 1.0, and 104.5 from 3.0 to 107.5.
    now = performance_of("vehicle-001")
    assert (now["ac_kwh"], now["ac_events"]) == (30 - 1.25 + 2.0 + 1.0 + 104.5, {"RESET": 1})
    told = ("data_complete_through",)
    now = performance_of("vehicle-002")
    assert all(now[name] == untouched[name] for name in now if name not in told)


# --- a real register ------------------------------------------------------------------------------

#: Window, AC kWh (hand-computed from the register), how much of the window it covers in %.
REAL = {
    "R1, a day": ("2016-02-26T00:00Z", "2016-02-27T00:00Z", 14.362, 100),
    "R2, a day in which the register's edges matter": (
        "2016-08-13T15:00Z",
        "2016-08-14T15:00Z",
        5.553,
        100,
    ),
    "R3, a day that a gap of 56 h cuts at 14:00": (
        "2016-04-22T00:00Z",
        "2016-04-23T00:00Z",
        0.001,
        100 * 14 / 24,
    ),
    "R4, the same gap inside": ("2016-04-22T12:00Z", "2016-04-25T00:00Z", 7.792, 100),
}


@_needs(REGISTER)
def test_a_real_register_of_sixteen_months(fleet: int) -> None:
    """Open Power System Data, CoSSMic, CC-BY-4.0. The DC side is made up: 90 % of it, always."""
    with REGISTER.open() as file:
        counted = [
            (line["utc_timestamp"], float(line["ev_kwh_cumulative"]))
            for line in csv.DictReader(file)
            if line["ev_kwh_cumulative"]
        ]
    assert len(counted) == 11_462
    for start in range(0, len(counted), 5000):
        part = counted[start : start + 5000]
        store(fleet, part, [(t, 0.9 * kwh) for t, kwh in part])
    for name, (begin, end, ac_kwh, support) in REAL.items():
        row = summary(*map(datetime.fromisoformat, (begin, end)))
        assert row["ac_kwh"] == pytest.approx(ac_kwh, abs=0.0006), name
        assert row["dc_kwh"] == pytest.approx(0.9 * ac_kwh, abs=0.0006), name
        assert support_pct(row) == pytest.approx(support, abs=0.05), name
        assert (row["efficiency"] == 0.9) is (ac_kwh >= 0.5), name
    # R5, all of it
    first, last = (datetime.fromisoformat(counted[index][0]) for index in (0, -1))
    row = summary(first, last)
    assert row["ac_kwh"] == pytest.approx(1345.340, abs=0.0006)
    assert (row["ac_events"], row["ac_samples"]) == ({}, 11_462)


# --- one register alone ---------------------------------------------------------------------------


def energy_of_meter(begin: datetime, end: datetime) -> performance.RegisterEnergy:
    (meter,) = rows("SELECT key FROM meters")
    with transaction() as conn:
        return performance.register_energy(conn, METER, meter["key"], begin, end)


def test_a_register_alone_is_read_between_its_samples(fleet: int) -> None:  # S13
    store(fleet, [(at(seconds=-30), 50.0), (at(seconds=30), 50.2), (at(12), 70.1), (at(24), 70.1)])
    roll_up()
    found = energy_of_meter(at(0), at(24))
    assert found == performance.RegisterEnergy(20.0, at(0), at(24), samples=3, events={})
    # A quarter of an hour within twelve without a sample: nothing is guessed.
    assert energy_of_meter(at(6), at(6, minutes=15)).energy_kwh is None


def test_a_register_alone_tells_what_it_covers(fleet: int) -> None:
    store(fleet, [(at(2), 7.0), (at(3), 9.0), (at(4), 1.0)])
    roll_up()
    found = energy_of_meter(at(0), at(24))
    assert found == performance.RegisterEnergy(3.0, at(2), at(4), samples=3, events={"RESET": 1})


@pytest.mark.parametrize(("begin", "samples"), [(-24, 0), (24, 0), (0, 1)])
def test_a_register_of_one_sample_has_no_energy(fleet: int, begin: int, samples: int) -> None:
    store(fleet, [(at(2), 7.0)])
    roll_up()
    unknown = performance.RegisterEnergy(None, None, None, samples, {})
    assert energy_of_meter(at(begin), at(begin + 24)) == unknown


# --- which meter ----------------------------------------------------------------------------------


def assign(vehicle: str, meter: str, begin: datetime, end: datetime | None = None) -> None:
    execute(
        "INSERT INTO meter_assignments (vehicle_key, meter_key, valid_from, valid_to)"
        " SELECT v.key, m.key, :begin, CAST(:end AS timestamptz) FROM vehicles v, meters m"
        " WHERE v.device_id = :vehicle AND m.device_id = :meter",
        vehicle=vehicle,
        meter=meter,
        begin=begin,
        end=end,
    )


def post_registers(kind: Kind, fleet: int, **points: Points) -> None:
    for name, samples in points.items():
        device = {kind.id_field: name.replace("_", "-")}
        post_to_stream(kind, fleet, register(kind, samples, **device))
    flush_all()


@pytest.fixture
def two_cars(fleet: int) -> int:
    """vehicle-001 and vehicle-002, meter-001 and meter-007, and what they moved on a day."""
    post_registers(
        METER,
        fleet,
        meter_001=[
            (at(h), 100 + (8 / 12 * h if h < 12 else 8 + 15 / 12 * (h - 12))) for h in HOURS
        ],
        meter_007=[(at(h), 500 + (5 / 12 * h if h < 12 else 5 + h - 12)) for h in HOURS],
    )
    post_registers(
        VEHICLE,
        fleet,
        vehicle_001=[(at(h), 18 / 24 * h) for h in HOURS],
        vehicle_002=[(at(h), 13.5 / 12 * max(0, h - 12)) for h in HOURS],
    )
    return fleet


def test_a_vehicle_that_changed_its_meter_at_noon(two_cars: int) -> None:  # S28
    assign("vehicle-001", "meter-001", at(-500), at(12))
    assign("vehicle-001", "meter-007", at(12))
    assign("vehicle-002", "meter-001", at(12))
    roll_up()
    first, second = performance_of("vehicle-001"), performance_of("vehicle-002")
    assert (first["ac_kwh"], first["dc_kwh"], first["efficiency"]) == (8 + 12, 18, 0.9)
    assert first["meter_id"] == "meter-007"  # the last
    assert (second["ac_kwh"], second["dc_kwh"]) == (15, 13.5)


def test_without_assignments_the_numbers_in_the_names_match(two_cars: int) -> None:
    roll_up()
    first, second = performance_of("vehicle-001"), performance_of("vehicle-002")
    assert (first["meter_id"], first["ac_kwh"], first["reason"]) == ("meter-001", 23, None)
    # meter-002 has never been heard of
    assert (second["meter_id"], second["ac_kwh"]) == ("meter-002", None)
    assert (second["reason"], second["dc_kwh"]) == ("MISSING_AC", None)


def test_an_assigned_meter_serves_no_other_vehicle_by_its_name(two_cars: int) -> None:
    assign("vehicle-002", "meter-001", at(-500))
    roll_up()
    first, second = performance_of("vehicle-001"), performance_of("vehicle-002")
    assert (first["reason"], first["meter_id"], first["ac_kwh"]) == ("UNASSIGNED", None, None)
    assert first["dc_kwh"] is None
    assert (second["meter_id"], second["ac_kwh"]) == ("meter-001", 23)


def test_an_assigned_vehicle_has_no_meter_outside_its_assignments(two_cars: int) -> None:
    assign("vehicle-001", "meter-007", at(-500), at(-400))
    roll_up()
    assert performance_of("vehicle-001")["reason"] == "UNASSIGNED"


@pytest.mark.parametrize("vehicle", ["truck-7", "vehicle-", "vehicle", "VEHICLE-001", "xvehicle-1"])
def test_a_vehicle_of_another_name_has_no_meter(fleet: int, vehicle: str) -> None:
    post_to_stream(VEHICLE, fleet, register(VEHICLE, STEADY_DC, vehicleId=vehicle))
    post_to_stream(METER, fleet, register(METER, STEADY_AC, meterId="meter-"))
    flush_all()
    roll_up()
    row = performance_of(vehicle)
    assert (row["reason"], row["meter_id"], row["efficiency"]) == ("UNASSIGNED", None, None)
    assert (row["ac_kwh"], row["dc_kwh"], row["dc_samples"]) == (None, None, 25)


def test_any_suffix_is_a_pair(fleet: int) -> None:
    post_to_stream(VEHICLE, fleet, register(VEHICLE, STEADY_DC, vehicleId="vehicle-B.7"))
    post_to_stream(METER, fleet, register(METER, STEADY_AC, meterId="meter-B.7"))
    flush_all()
    roll_up()
    assert performance_of("vehicle-B.7")["efficiency"] == 0.9


def test_another_fleets_meter_is_never_mine(fleet: int, other_fleet: int) -> None:
    store(fleet, vehicle=STEADY_DC)
    store(other_fleet, meter=STEADY_AC)
    roll_up()
    row = performance_of("vehicle-001", fleet)
    assert (row["reason"], row["ac_kwh"], row["efficiency"]) == ("MISSING_AC", None, None)
    assert rows("SELECT vehicle_id FROM vehicle_performance_24h") == [{"vehicle_id": "vehicle-001"}]


def test_the_same_names_in_two_fleets_are_two_pairs(fleet: int, other_fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    store(other_fleet, [(at(0), 0), (at(24), 100)], [(at(0), 0), (at(24), 80)])
    roll_up()
    assert performance_of("vehicle-001", fleet)["efficiency"] == 0.9
    assert performance_of("vehicle-001", other_fleet)["efficiency"] == 0.8


@pytest.mark.parametrize(
    "second",
    [
        ("vehicle-001", "meter-007", 11, None),
        ("vehicle-002", "meter-001", 11, None),
        ("vehicle-001", "meter-001", -1000, 0),
    ],
)
def test_assignments_do_not_overlap(
    two_cars: int, second: tuple[str, str, int, int | None]
) -> None:
    assign("vehicle-001", "meter-001", at(-500), at(12))
    vehicle, meter, begin, end = second
    with pytest.raises(Exception, match="meter_assignments_one_") as refusal:
        assign(vehicle, meter, at(begin), None if end is None else at(end))
    assert isinstance(refusal.value.__cause__, psycopg.errors.ExclusionViolation)


def test_an_assignment_ends_after_it_begins(two_cars: int) -> None:
    with pytest.raises(Exception, match="meter_assignments_period_check"):
        assign("vehicle-001", "meter-001", at(3), at(3))


# --- reasons and figures --------------------------------------------------------------------------


def test_a_pair_that_has_been_silent_for_a_day_has_no_data(fleet: int) -> None:
    store(fleet, [(at(-30), 1)], [(at(-30), 1)])
    roll_up()
    row = performance_of("vehicle-001")
    assert (row["reason"], row["effective_from"], row["battery_temp_avg_c"]) == (
        "NO_DATA",
        None,
        None,
    )


def test_two_sides_without_common_time_are_not_compared(fleet: int) -> None:
    store(fleet, [(at(1), 1), (at(2), 5)], [(at(3), 1), (at(4), 5)])
    roll_up()
    row = performance_of("vehicle-001")
    assert (row["reason"], row["efficiency"], row["raw_ratio"]) == ("NO_OVERLAP", None, None)
    assert (row["ac_kwh"], row["dc_kwh"]) == (4, 4)  # each on its own


def test_battery_temperatures_are_those_of_the_window(fleet: int) -> None:
    temperatures = [(-1, 99), (0, -5), (6, 20), (12, 40.125), (25, -60)]
    readings = [vehicle_reading(timestamp=at(h), batteryTemp=t) for h, t in temperatures]
    post_to_stream(VEHICLE, fleet, readings)
    flush_all()
    roll_up()
    row = performance_of("vehicle-001")
    assert row["battery_temp_avg_c"] == 18.38  # 55.125 / 3
    assert (row["battery_temp_min_c"], row["battery_temp_max_c"]) == (-5, 40.125)
    assert row["dc_samples"] == 3


def test_a_window_is_cut_out_of_hours_wherever_it_lies(fleet: int) -> None:
    """One kWh an hour, sampled every 7 minutes; 0.9 kWh an hour every 11."""
    minutes = range(-600, 3000)
    store(
        fleet,
        [(at(minutes=m), m / 60 + 50) for m in minutes if m % 7 == 0],
        [(at(minutes=m), 0.9 * (m / 60 + 50)) for m in minutes if m % 11 == 0],
    )
    for now in (at(24), at(24, minutes=17), at(25, seconds=0.000001), at(30.5)):
        roll_up(now)
        row = performance_of("vehicle-001")
        assert (row["ac_kwh"], row["dc_kwh"], row["efficiency"]) == (24, 21.6, 0.9)
        assert (row["window_from"], row["window_to"]) == (now - DAY, now)
        assert (row["effective_from"], row["effective_to"]) == (now - DAY, now)
        assert row["computed_at"] == now


# --- the rollup as a machine ----------------------------------------------------------------------


def marks() -> int:
    return len(rows("SELECT 1 FROM meter_hours_dirty UNION ALL SELECT 1 FROM vehicle_hours_dirty"))


def test_a_mark_is_worked_off_once(fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    assert marks() == 50
    assert roll_up() == {"vehicles": 1, "meterHours": 25, "vehicleHours": 25}
    assert marks() == 0
    assert roll_up() == {"vehicles": 0, "meterHours": 0, "vehicleHours": 0}
    assert performance_of("vehicle-001")["efficiency"] == 0.9


def test_who_sends_nothing_is_summarised_once_a_minute(fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    roll_up(at(24))
    assert roll_up(at(24) + rollup.SUMMARY_AGE)["vehicles"] == 0
    later = at(24) + rollup.SUMMARY_AGE + timedelta(seconds=1)
    assert roll_up(later)["vehicles"] == 1
    assert performance_of("vehicle-001")["window_to"] == later


def test_only_those_who_were_touched_are_summarised(fleet: int) -> None:
    for number in (1, 2, 3):
        post_registers(METER, fleet, **{f"meter_{number}": [(at(0), 0), (at(24), 10)]})
        post_registers(VEHICLE, fleet, **{f"vehicle_{number}": [(at(0), 0), (at(24), 9)]})
    flush_all()
    assert roll_up()["vehicles"] == 3
    post_registers(METER, fleet, meter_2=[(at(12), 8)])
    post_registers(VEHICLE, fleet, vehicle_3=[(at(12), 8)])
    flush_all()
    assert roll_up(NEXT_MIDNIGHT + timedelta(seconds=1))["vehicles"] == 2
    told = {row["vehicle_id"]: row["computed_at"] for row in summaries()}
    assert [told[f"vehicle-{n}"] - NEXT_MIDNIGHT for n in (1, 2, 3)] == [
        timedelta(seconds=seconds) for seconds in (0, 1, 1)
    ]


@pytest.mark.parametrize("side", [METER, VEHICLE], ids=str)
def test_what_a_window_does_not_show_makes_no_summary(fleet: int, side: Kind) -> None:
    """Of what is before a window it shows the newest sample, however old that is."""
    days = [(at(24 * day), 100.0 + day) for day in range(-5, 1)]
    silent_since = at(-40)  # the window begins at noon, 12 hours before midnight
    store(fleet, meter=days, vehicle=[p for p in days if p[0] < silent_since or p[0] == at()])
    now = at(12)
    assert roll_up(now)["vehicles"] == 1

    def late(hours: float) -> int | str:
        """How many are summarised when the side's reading of that instant comes in."""
        points = {"meter" if side is METER else "vehicle": [(at(hours), 100.0 + hours / 24)]}
        store(fleet, **points)
        told = roll_up(now)
        assert told[f"{side.name}Hours"] == 1
        return told["vehicles"]

    newest_before = -24 if side is METER else -48
    assert late(newest_before - 3) == 0
    assert late(newest_before + 3) == 1
    assert late(newest_before + 2) == 0  # behind that one now
    assert late(-12.5) == 1  # before the window, in the hour that it cuts or next to it
    assert late(-11) == 1
    assert late(-100) == 0


def test_a_tick_without_time_leaves_the_youngest_summaries_to_the_next(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "VEHICLE_PAGE", 1)
    monkeypatch.setattr(rollup, "SUMMARY_SECONDS", -1.0)
    for number in (1, 2):
        post_registers(VEHICLE, fleet, **{f"vehicle_{number}": [(at(0), 0), (at(24), 9)]})
    flush_all()
    for seconds, expected in ((0, {"vehicle-1"}), (1, {"vehicle-1", "vehicle-2"})):
        assert roll_up(NEXT_MIDNIGHT + timedelta(seconds=seconds))["vehicles"] == 1
        assert {row["vehicle_id"] for row in summaries()} == expected
    assert roll_up(NEXT_MIDNIGHT + timedelta(seconds=2))["vehicles"] == 0


def test_many_marks_are_worked_off_in_bites(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    monkeypatch.setattr(rollup, "DIRTY_BITE", 4)
    monkeypatch.setattr(rollup, "TICK_SECONDS", -1)
    assert roll_up() == {"vehicles": 1, "meterHours": 4, "vehicleHours": 4}
    assert marks() == 42
    assert performance_of("vehicle-001")["data_complete_through"] is None  # out of time
    monkeypatch.setattr(rollup, "TICK_SECONDS", 60)
    assert roll_up() == {"vehicles": 1, "meterHours": 21, "vehicleHours": 21}
    assert performance_of("vehicle-001")["data_complete_through"] is not None
    assert performance_of("vehicle-001")["efficiency"] == 0.9


def test_many_vehicles_are_summarised_in_pages(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(5):
        post_registers(METER, fleet, **{f"meter_{n}": [(at(0), 0), (at(24), 10)]})
        post_registers(VEHICLE, fleet, **{f"vehicle_{n}": [(at(0), 0), (at(24), 5 + n)]})
    monkeypatch.setattr(rollup, "VEHICLE_PAGE", 2)
    assert roll_up()["vehicles"] == 5
    found = rows("SELECT vehicle_id, efficiency FROM vehicle_performance_24h ORDER BY 1")
    assert [row["efficiency"] for row in found] == [0.5, 0.6, 0.7, 0.8, 0.9]


def summaries() -> list[dict[str, Any]]:
    found = rows("SELECT * FROM vehicle_performance_24h ORDER BY vehicle_id")
    return [{k: v for k, v in row.items() if k != "data_complete_through"} for row in found]


def everything(*, keys: bool = True) -> dict[str, list[dict[str, Any]]]:
    """All that is known, but for when it came in."""
    found = {
        table.name: content(kind, table)
        for kind in KINDS.values()
        for table in (kind.history, kind.latest, kind.hourly, kind.events)
    }
    found["summaries"] = [
        {k: v for k, v in row.items() if keys or k != "vehicle_key"} for row in summaries()
    ]
    for row in found["summaries"]:
        for side in ("ac_quality", "dc_quality"):
            del row[side]["skewSeconds"]
    return found


def test_row_28_ticks_at_once_end_in_the_same_rows(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    store(make_fleet("Third depot"), STEADY_AC, STEADY_DC)
    roll_up()
    alone = everything()
    for kind in KINDS.values():
        with transaction() as conn:
            conn.execute(kind.hourly.delete())
    execute("DELETE FROM vehicle_performance_24h")
    execute(
        "INSERT INTO meter_hours_dirty (device_key, hour) SELECT device_key, recorded_at"
        " FROM meter_telemetry_history"
    )
    execute(
        "INSERT INTO vehicle_hours_dirty (device_key, hour) SELECT device_key, recorded_at"
        " FROM vehicle_telemetry_history"
    )
    monkeypatch.setattr(rollup, "DIRTY_BITE", 5)
    monkeypatch.setattr(rollup, "VEHICLE_PAGE", 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(roll_up, [NEXT_MIDNIGHT] * 4))
    assert marks() == 0
    assert everything() == alone


def test_a_tick_that_overlaps_another_leaves_at_once(fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    with transaction() as other:
        assert locks.try_lock(other, locks.ROLLUP)
        assert roll_up() == {"vehicles": 0, "meterHours": 0, "vehicleHours": 0}
    assert marks() == 50
    assert summaries() == []


class Killed(BaseException):
    """Nobody catches this."""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (hours, "refresh"),
        (rollups, "supplies"),
        (windows, "read"),
        (rollups, "write_performance"),
    ],
)
def test_a_tick_killed_midway_costs_a_repetition(
    fleet: int, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    store(fleet, STEADY_AC, STEADY_DC)
    with monkeypatch.context() as death:
        death.setattr(module, name, killed)
        with pytest.raises(Killed):
            roll_up()
    assert summaries() == []
    roll_up()
    assert marks() == 0
    assert performance_of("vehicle-001")["efficiency"] == 0.9


def test_a_reading_that_comes_between_taking_marks_and_recomputing_is_not_lost(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = hours.refresh

    def flushed_meanwhile(conn: Any, kind: Kind, touched: Any) -> None:
        if kind is METER and (left := late.pop(0) if late else None):
            store(fleet, left)
        refresh(conn, kind, touched)

    late: list[Points] = [[(at(3, minutes=20), 104.0)], [(at(3, minutes=40), 104.5)]]
    store(fleet, STEADY_AC, STEADY_DC)
    monkeypatch.setattr(hours, "refresh", flushed_meanwhile)
    for _ in range(3):  # what comes during a tick is the next one's
        roll_up()
    assert not late
    assert marks() == 0
    (hour,) = rows(
        "SELECT samples, last_kwh FROM meter_energy_hourly WHERE hour = :hour", hour=at(3)
    )
    assert hour == {"samples": 3, "last_kwh": 104.5}


# How complete the numbers are


def test_with_nothing_waiting_the_numbers_are_complete_until_now(fleet: int) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    before = from_us(stream.now_us())
    roll_up()
    told = performance_of("vehicle-001")["data_complete_through"]
    assert before <= told <= from_us(stream.now_us())


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_reading_that_waits_limits_what_is_complete(fleet: int, kind: Kind) -> None:
    store(fleet, STEADY_AC, STEADY_DC)
    make = meter_reading if kind is METER else vehicle_reading
    post_to_stream(kind, fleet, [make(timestamp=at(12, minutes=5))])
    accepted = stream.oldest_us(kind)
    assert accepted is not None
    roll_up()
    assert performance_of("vehicle-001")["data_complete_through"] == from_us(accepted)


def test_a_reading_that_comes_while_the_stream_is_looked_at_is_not_claimed(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest_us = stream.oldest_us

    def just_missed(kind: Kind) -> int | None:
        found = oldest_us(kind)
        if kind is METER:
            post_to_stream(METER, fleet, [meter_reading(timestamp=at(12, minutes=5))])
            time.sleep(0.005)
        return found

    store(fleet, STEADY_AC, STEADY_DC)
    with monkeypatch.context() as context:
        context.setattr(stream, "oldest_us", just_missed)
        roll_up()
    accepted = stream.oldest_us(METER)
    assert accepted is not None
    grain = timedelta(milliseconds=1)  # of the ids by which Redis dates entries
    assert performance_of("vehicle-001")["data_complete_through"] < from_us(accepted) + grain


# --- any order, any number of times ---------------------------------------------------------------


def reading_of(what: tuple[Kind, int, int], kwh: int) -> tuple[Kind, Reading]:
    kind, device, minute = what
    device_id = {kind.id_field: f"{kind.name}-{device}"}
    (reading,) = register(kind, [(at(minutes=minute), kwh)], **device_id)
    return kind, reading


#: Readings of two pairs over five hours, registers that restart now and then.
readings = st.dictionaries(
    st.tuples(st.sampled_from(list(KINDS.values())), st.integers(1, 2), st.integers(0, 300)),
    st.integers(0, 12),
    min_size=1,
    max_size=40,
).map(lambda drawn: [reading_of(what, kwh) for what, kwh in drawn.items()])


def send(fleet: int, batch: Sequence[tuple[Kind, Reading]]) -> None:
    for kind in KINDS.values():
        if mine := [reading for of, reading in batch if of is kind]:
            post_to_stream(kind, fleet, mine)


def test_row_26_order_repetition_and_batching_change_nothing(servers: dict[str, str]) -> None:
    @hypothesis_settings(max_examples=12)
    @given(readings, st.data())
    def same(sent: list[tuple[Kind, Reading]], data: st.DataObject) -> None:
        now = at(5)
        empty_servers()
        send(make_fleet("Northern depot"), sent)
        flush_all()
        roll_up(now)
        once = everything(keys=False)

        again = data.draw(st.lists(st.sampled_from(sent), max_size=20), label="repeated")
        shuffled = data.draw(st.permutations(sent + again), label="order")
        empty_servers()
        fleet = make_fleet("Northern depot")
        while shuffled:
            size = data.draw(st.integers(1, len(shuffled)), label="batch")
            batch, shuffled = shuffled[:size], shuffled[size:]
            send(fleet, batch)
            if data.draw(st.booleans(), label="flush"):
                flush_all()
            if data.draw(st.booleans(), label="tick"):
                roll_up(now)
        flush_all()
        roll_up(now)
        assert everything(keys=False) == once
        assert rows("SELECT * FROM reading_conflicts") == []

    same()


def test_readings_that_keep_coming_do_not_keep_a_tick_from_the_summary(
    fleet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bite finds new marks, as under load: the tick leaves them to the next one."""
    store(fleet, [(at(0), 100), (at(24), 130)], [(at(0), 98), (at(24), 125)])
    bites = []
    refresh = rollup._refresh_some

    def and_more_comes(kind: Kind, newest: int, window_from: datetime) -> int:
        bites.append(kind)
        assert len(bites) < 20, "the tick does not end"
        reading = {METER: meter_reading, VEHICLE: vehicle_reading}[kind]
        post_to_stream(kind, fleet, [reading(timestamp=f"2026-01-10T12:{len(bites):02d}:00Z")])
        flush_all()
        return refresh(kind, newest, window_from)

    monkeypatch.setattr(rollup, "_refresh_some", and_more_comes)
    roll_up(at(24))
    assert performance_of("vehicle-001")["data_complete_through"] is not None
    assert rows("SELECT 1 FROM meter_hours_dirty")


def test_ingestion_goes_first_for_a_while(fleet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "_ticked_at", -math.inf)
    monkeypatch.setattr(rollup, "BEHIND_SECONDS", 0.1)
    store(fleet, [(at(0), 100), (at(24), 130)], [(at(0), 98), (at(24), 125)])
    for _ in range(rollup.FEW_ENTRIES + 1):
        post_to_stream(METER, fleet, [meter_reading()])
    assert rollup.roll_up()["vehicles"] == 1  # there has been none yet
    time.sleep(0.15)
    assert rollup.roll_up() == {"waits": "for readings to be stored"}
    monkeypatch.setattr(rollup, "MOST_WAIT_SECONDS", 0.1)
    assert "vehicles" in rollup.roll_up()
    monkeypatch.setattr(rollup, "MOST_WAIT_SECONDS", 30)
    flush_all()
    assert rollup.roll_up()["meterHours"] == 1
