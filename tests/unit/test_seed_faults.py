"""Faults do what they say."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from seed import couriers, faults
from seed.fleet import Fleet, Plan

END = datetime(2026, 11, 24, 22, 0, tzinfo=UTC)
VEHICLES = 6


def fleet(**plan: Any) -> Fleet:
    values: dict[str, Any] = {"vehicles": VEHICLES, "start": END - timedelta(days=1), "end": END}
    return Fleet(Plan(**(values | plan)))


def values_of(made: Fleet, device: str) -> list[tuple[str, float]]:
    """Timestamp and register of a device, in order of arrival."""
    found = []
    for line in (line for part in made.readings() for kind in part for line in kind):
        one = json.loads(line)
        if one.get("meterId", one.get("vehicleId")) == device:
            found.append((one["timestamp"], one.get("kwhConsumedAc", one.get("kwhDeliveredDc"))))
    return found


def faulty(name: str, **plan: Any) -> tuple[Fleet, int]:
    """A fleet with one fault, and the number of the pair that has it."""
    made = fleet(mix={name: 1}, **plan)
    (number,) = made.faults
    return made, number


def energy(made: Fleet, device: str) -> float:
    values = [value for _, value in values_of(made, device)]
    return values[-1] - values[0]


@pytest.mark.parametrize("name", sorted(faults.FAULTS))
def test_a_fault_leaves_the_others_alone(name: str) -> None:
    made = fleet(mix={name: faults.FAULTS[name].least})
    others = [number for number in made.plan.numbers if number not in made.faults]
    assert len(others) == VEHICLES - faults.FAULTS[name].least
    healthy = fleet()
    for device in (f"meter-{others[0]:03d}", f"vehicle-{others[0]:03d}"):
        assert values_of(made, device) == values_of(healthy, device)


def test_degraded_delivers_eight_points_less() -> None:
    made, number = faulty("degraded")
    healthy = fleet()
    meter, vehicle = f"meter-{number:03d}", f"vehicle-{number:03d}"
    assert energy(made, meter) == energy(healthy, meter)
    lost = energy(healthy, vehicle) - energy(made, vehicle)
    assert lost / energy(made, meter) == pytest.approx(0.08, abs=0.005)


def test_degraded_may_begin_within_the_window_without_a_step() -> None:
    made, number = faulty("degraded", fault_hours=6, start=END - timedelta(hours=20))
    healthy = fleet(start=END - timedelta(hours=20))
    vehicle = f"vehicle-{number:03d}"
    ours, theirs = values_of(made, vehicle), values_of(healthy, vehicle)
    onset = "2026-11-24T16:00:00Z"
    assert [one for one in ours if one[0] < onset] == [one for one in theirs if one[0] < onset]
    assert all(a <= b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    assert all(a[1] <= b[1] for a, b in pairwise(ours))


def test_standby_draws_150_watts_while_the_car_takes_nothing() -> None:
    made, number = faulty("standby")
    pair = next(pair for pair in made.pairs if pair.number == number)
    blocks = [pair.source.block(made.window.begin // 600 + n) for n in range(144)]
    idle = [block.ac_w for block in blocks if not any(block.dc_w)]
    assert {watts for block in idle for watts in block} == {150}


def test_reset_begins_again_at_zero_in_mid_window() -> None:
    made, number = faulty("reset")
    meter = f"meter-{number:03d}"
    ours, theirs = values_of(made, meter), values_of(fleet(), meter)
    drops = [b for a, b in pairwise(ours) if b[1] < a[1]]
    assert len(drops) == 1
    assert drops[0][0].startswith("2026-11-24T06:00:")
    assert drops[0][1] < 0.3
    gained = ours[-1][1] + max(value for _, value in ours) - ours[0][1]
    assert gained == pytest.approx(theirs[-1][1] - theirs[0][1], abs=0.3)


def test_glitch_is_two_single_zeros() -> None:
    made, number = faulty("glitch")
    meter = f"meter-{number:03d}"
    ours, theirs = values_of(made, meter), values_of(fleet(), meter)
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    assert [ours_value for (_, ours_value), _ in different] == [0, 0]


def test_silent_vehicles_stop_after_a_quarter_and_their_meters_do_not() -> None:
    made, number = faulty("silent")
    vehicle = f"vehicle-{number:03d}"
    ours = values_of(made, vehicle)
    assert ours == values_of(fleet(), vehicle)[:360]  # six hours of 24, one a minute
    assert ours[-1][0] < "2026-11-25T04:00"
    assert len(values_of(made, f"meter-{number:03d}")) == 1440


def test_even_in_a_short_window_a_silent_vehicle_has_spoken_once() -> None:
    made, number = faulty("silent", start=END - timedelta(minutes=20))
    assert 0 < len(values_of(made, f"vehicle-{number:03d}")) < 20


def test_offline_gap_comes_late_and_shuffled_but_complete() -> None:
    made, number = faulty("offline-gap")
    for device in (f"meter-{number:03d}", f"vehicle-{number:03d}"):
        ours, theirs = values_of(made, device), values_of(fleet(), device)
        assert ours != theirs
        assert sorted(ours) == theirs
        times = [moment for moment, _ in ours]
        backwards = sum(b < a for a, b in pairwise(times))
        assert 60 < backwards < 180
        # What was read in the three hours around 10:00 came after 11:30.
        buffered = [moment for moment in times if "2026-11-24T08:3" < moment < "2026-11-24T11:3"]
        assert len(buffered) == 180
        assert min(map(times.index, buffered)) > times.index(
            next(moment for moment in times if moment >= "2026-11-24T11:30")
        )


def test_duplicates_repeat_a_tenth() -> None:
    made, number = faulty("duplicates")
    ours = values_of(made, f"meter-{number:03d}")
    assert len(ours) == 1440 + 144
    assert sorted(set(ours)) == values_of(fleet(), f"meter-{number:03d}")


def test_late_readings_arrive_half_an_hour_after_the_others() -> None:
    made, number = faulty("late", vehicles=1)
    parts = list(made.readings())
    assert [len(part.meters) for part in parts[:4]] == [0, 0, 0, 10]
    assert len(parts[-1].meters) == 30
    assert values_of(faulty("late")[0], f"meter-{number:03d}")


def test_swapped_meters_have_each_others_registers() -> None:
    made, healthy = fleet(mix={"swapped": 2}), fleet()
    one, other = made.faults
    assert values_of(made, f"meter-{one:03d}") == values_of(healthy, f"meter-{other:03d}")
    assert values_of(made, f"meter-{other:03d}") == values_of(healthy, f"meter-{one:03d}")
    assert values_of(made, f"vehicle-{one:03d}") == values_of(healthy, f"vehicle-{one:03d}")


def test_invalid_readings_are_added_over_the_window() -> None:
    made, healthy = fleet(mix={"invalid": 9}), fleet()
    ours = [line for part in made.readings() for kind in part for line in kind]
    theirs = {line for part in healthy.readings() for kind in part for line in kind}
    added = [line for line in ours if line not in theirs]
    assert len(ours) - len(theirs) == len(added) == 9
    assert len(set(added)) == 7
    assert all(isinstance(json.loads(line), dict) for line in added)


def test_a_mix_is_read() -> None:
    assert faults.parse_mix("none", 3) == {}
    assert faults.parse_mix("degraded=2, reset=1", 3) == {"degraded": 2, "reset": 1}
    assert faults.parse_mix("invalid=50", 3) == {"invalid": 50}


def test_the_default_mix_leaves_half_of_a_small_fleet_healthy() -> None:
    assert sum(faults.parse_mix("default", 20).values()) == 8
    assert faults.parse_mix("default", 7) == {"degraded": 1, "standby": 1, "reset": 1}
    assert faults.parse_mix("default", 1) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rust=1", "unknown fault 'rust'"),
        ("", "unknown fault ''"),
        ("reset", "write reset=NUMBER"),
        ("reset=-1", "write reset=NUMBER"),
        ("reset=3,late=2", "5 pairs with faults, but only 4"),
        ("swapped=1", "at least 2"),
    ],
)
def test_an_impossible_mix_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        faults.parse_mix(text, 4)


def test_what_is_still_under_way_arrives_in_the_end() -> None:
    gap = couriers.OfflineGap(0, 100, random.Random(1))  # noqa: S311
    late = couriers.Late()
    assert gap.carry(["a", "b"], 50) == late.carry(["a", "b"], 50) == []
    assert sorted(gap.rest()) == late.rest() == ["a", "b"]
