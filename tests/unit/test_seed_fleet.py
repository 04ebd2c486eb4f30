"""A fleet's readings: the same each time, rising, each device at its own rhythm."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from seed.fleet import Fleet, Plan, interleaved

END = datetime(2026, 11, 24, 22, 0, tzinfo=UTC)


def fleet(*, hours: float = 24, end: datetime = END, vehicles: int = 5, **plan: Any) -> Fleet:
    return Fleet(Plan(vehicles=vehicles, start=end - timedelta(hours=hours), end=end, **plan))


def texts(made: Fleet) -> list[str]:
    return [line for part in made.readings() for kind in part for line in kind]


def readings(made: Fleet) -> list[dict[str, Any]]:
    return [json.loads(line) for line in texts(made)]


def by_device(made: Fleet) -> dict[str, list[dict[str, Any]]]:
    devices = defaultdict(list)
    for one in readings(made):
        devices[one.get("meterId") or one["vehicleId"]].append(one)
    return devices


def energy(one: dict[str, Any]) -> float:
    value = one["kwhConsumedAc"] if "meterId" in one else one["kwhDeliveredDc"]
    assert isinstance(value, float)
    return value


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), interval=st.integers(7, 3600))
def test_registers_never_go_backwards(seed: int, interval: int) -> None:
    for sent in by_device(fleet(seed=seed, interval_s=interval, vehicles=2)).values():
        assert [one["timestamp"] for one in sent] == sorted({one["timestamp"] for one in sent})
        values = [energy(one) for one in sent]
        assert values == sorted(values)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_readings_are_within_the_apis_ranges(seed: int) -> None:
    for one in readings(fleet(seed=seed, vehicles=3, interval_s=300)):
        assert energy(one) > 0
        moment = datetime.fromisoformat(one["timestamp"])
        assert END - timedelta(days=1) <= moment < END
        if "meterId" in one:
            assert 0 <= one["voltage"] <= 1000
        else:
            assert 0 <= one["soc"] <= 100
            assert -60 <= one["batteryTemp"] <= 120


def test_fields_are_those_of_the_api() -> None:
    devices = by_device(fleet(vehicles=1))
    assert list(devices["meter-001"][0]) == ["meterId", "kwhConsumedAc", "voltage", "timestamp"]
    fields = ["vehicleId", "soc", "kwhDeliveredDc", "batteryTemp", "timestamp"]
    assert list(devices["vehicle-001"][0]) == fields


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_efficiency_is_in_the_band_of_the_loss_model(seed: int) -> None:
    made = fleet(seed=seed, vehicles=1, hours=14 * 24, interval_s=600)
    devices = by_device(made)
    meter, vehicle = (
        energy(devices[name][-1]) - energy(devices[name][0])
        for name in ("meter-001", "vehicle-001")
    )
    # The best car of the model at high power, and the worst one on a 2.3 kW socket.
    assert 0.70 < vehicle / meter < 0.96


def test_the_same_plan_gives_the_same_bytes() -> None:
    mix = {"degraded": 1, "offline-gap": 1, "late": 1, "duplicates": 1, "invalid": 9}
    assert texts(fleet(mix=mix)) == texts(fleet(mix=mix))


def test_another_seed_gives_another_fleet() -> None:
    assert not set(texts(fleet(seed=1))) & set(texts(fleet(seed=2)))


def test_a_later_run_repeats_the_common_hours_and_goes_on() -> None:
    earlier = set(texts(fleet()))
    later = texts(fleet(end=END + timedelta(hours=7, minutes=3, seconds=11)))
    common = [text for text in later if text in earlier]
    # Of 24 h, all but the first 7:03:11.
    assert len(common) == sum(
        json.loads(text)["timestamp"] >= "2026-11-24T05:03:11Z" for text in earlier
    )
    assert len(later) - len(common) == len(earlier) - len(common)


def test_the_first_cars_of_a_large_fleet_are_those_of_a_small_one() -> None:
    small, large = by_device(fleet(vehicles=2, hours=2)), by_device(fleet(vehicles=7, hours=2))
    assert small == {name: large[name] for name in small}
    assert set(by_device(fleet(vehicles=1, first=3, hours=1))) == {"meter-003", "vehicle-003"}


def test_devices_have_their_own_rhythm() -> None:
    devices = by_device(fleet(vehicles=20, hours=1))
    phases = [sent[0]["timestamp"][-3:] for sent in devices.values()]
    assert len(set(phases)) > 10
    for sent in devices.values():
        moments = [datetime.fromisoformat(one["timestamp"]) for one in sent]
        assert {b - a for a, b in pairwise(moments)} == {timedelta(seconds=60)}


def test_without_faults_as_many_readings_are_sent_as_planned() -> None:
    made = fleet(vehicles=7)
    assert len(texts(made)) == made.plan.readings == 7 * 2 * 1440


def test_time_passing_in_small_steps_gives_the_same_readings() -> None:
    whole, steps = fleet(hours=2), fleet(hours=2)
    begin, end = steps.window
    small = [
        line
        for second in range(begin, end, 37)
        for part in steps.between(second, min(end, second + 37))
        for kind in part
        for line in kind
    ]
    assert sorted(small) == sorted(texts(whole))


def test_devices_take_turns() -> None:
    assert interleaved([["a1", "a2", "a3"], [], ["b1"]]) == ["a1", "b1", "a2", "a3"]
