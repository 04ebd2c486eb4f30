"""A car's day: registers add up, losses follow the model, sessions have the shape of real ones."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.charging_day import BLOCK_MIN, Life
from seed.knobs import Knobs, draw_knobs
from seed.sessions import CYCLE_MIN, LEAST_DRIVE_MIN, LONGEST_SESSION_MIN, Session, plan_sessions
from seed.sessions_data import AC_SHAPES, DC_SHAPES

SEEDS = st.integers(0, 10_000)
BLOCKS = st.integers(0, 3 * CYCLE_MIN // BLOCK_MIN)


@cache
def life_of(seed: int) -> Life:
    rng = random.Random(seed)  # noqa: S311
    knobs = draw_knobs(rng)
    return Life(knobs, plan_sessions(knobs, rng))


def knobs(**changes: object) -> Knobs:
    """A car as in domain.md's example: 94 %, 250 W, 7.4 kW."""
    values = {
        "shape": AC_SHAPES[1],
        "peak_w": 7400,
        "battery_wh": 60_000,
        "limit_pct": 80,
        "standby_w": 10,
        "eta_c": 0.94,
        "p_aux_w": 250,
        "mains_v": 230.0,
        "sag_v": 5.0,
        "warming_k": 5.0,
        "meter_start_j": 0,
        "vehicle_start_j": 0,
    }
    return Knobs(**(values | changes))  # type: ignore[arg-type]


@settings(deadline=None)
@given(SEEDS, BLOCKS)
def test_a_block_ends_where_the_next_one_begins(seed: int, number: int) -> None:
    life = life_of(seed)
    block, following = life.block(number), life.block(number + 1)
    assert block.ac_j[-1] + block.ac_w[-1] * 60 == following.ac_j[0]
    assert block.dc_j[-1] + block.dc_w[-1] * 60 == following.dc_j[0]


@settings(deadline=None)
@given(SEEDS, BLOCKS)
def test_the_battery_gets_less_than_the_meter_counts(seed: int, number: int) -> None:
    block = life_of(seed).block(number)
    assert all(0 <= dc < ac for ac, dc in zip(block.ac_w, block.dc_w, strict=True))


@settings(deadline=None)
@given(SEEDS, BLOCKS)
def test_readings_stay_within_what_the_api_accepts(seed: int, number: int) -> None:
    block = life_of(seed).block(number)
    assert all(0 <= soc <= 100 for soc in block.soc_pct)
    assert all(200 < volts < 250 for volts in block.volts)
    assert all(-30 < celsius < 60 for celsius in block.battery_c)


def test_three_hours_at_7400_watts_lose_what_the_model_says() -> None:
    # 22.2 kWh AC; 0.94 * 22.2 - 0.25 * 3 = 20.118 kWh DC. Standby: 10 W for 3 h.
    life = Life(knobs(), [Session(start=600, watts=[7400] * 180, stay=240)])
    (ac_before, dc_before), (ac_after, dc_after) = life.registers(600), life.registers(780)
    assert (dc_after - dc_before) / 3_600_000 == pytest.approx(20.118)
    assert (ac_after - ac_before) / 3_600_000 == pytest.approx(22.2 + 0.03)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_a_cycle_has_the_energy_balance_of_the_loss_model(seed: int) -> None:
    life = life_of(seed)
    begin, end = life.registers(CYCLE_MIN), life.registers(2 * CYCLE_MIN)
    standby_j = life.knobs.standby_w * CYCLE_MIN * 60
    charged_j = end[0] - begin[0] - standby_j
    minutes = sum(len(session.watts) for session in life.sessions)
    expected_j = life.knobs.eta_c * charged_j - life.knobs.p_aux_w * minutes * 60
    # Whole watts: at most one is rounded away each minute.
    assert expected_j - minutes * 60 <= end[1] - begin[1] <= expected_j


@settings(deadline=None)
@given(SEEDS)
def test_sessions_leave_time_to_drive(seed: int) -> None:
    sessions = life_of(seed).sessions
    following = [*(session.start for session in sessions[1:]), sessions[0].start + CYCLE_MIN]
    for session, start in zip(sessions, following, strict=True):
        assert len(session.watts) <= session.stay
        assert session.start + session.stay + LEAST_DRIVE_MIN <= start


def test_charge_rises_to_the_limit_stays_and_falls_while_driving() -> None:
    life = Life(knobs(), [Session(start=600, watts=[7400] * 180, stay=240)])
    arrival = 80 - 100 * 20.118 / 60
    levels = [life.battery(minute)[0] for minute in (600, 690, 780, 840)]
    assert levels == pytest.approx([arrival, (arrival + 80) / 2, 80, 80], abs=0.01)
    assert arrival < life.battery(2000)[0] < 80


def test_the_battery_warms_while_charging_and_the_mains_sag() -> None:
    charging = Life(knobs(), [Session(start=600, watts=[7400] * 180, stay=240)])
    idle = Life(knobs(), [Session(start=5000, watts=[7400] * 180, stay=240)])
    assert charging.battery(780)[1] - idle.battery(780)[1] == pytest.approx(5 * 0.95, abs=0.05)
    assert idle.block(70).volts[0] - charging.block(70).volts[0] == pytest.approx(5)


@pytest.mark.parametrize("shape", [*AC_SHAPES, *DC_SHAPES], ids=lambda shape: shape.name)
def test_sessions_have_the_energies_of_their_source(shape: object) -> None:
    lives = [life for life in map(life_of, range(900)) if life.knobs.shape is shape]
    drawn = [sum(s.watts) / 60_000 for life in lives for s in life.sessions]
    rungs = statistics.quantiles(drawn, n=10)
    # The top fifth is left out: batteries and the longest stay cut it off.
    expected = lives[0].knobs.shape.energy_kwh[1:-2]
    assert rungs[:-1] == pytest.approx(expected, rel=0.12, abs=1.0)


def test_sessions_arrive_at_the_hours_of_their_source() -> None:
    counted: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for life in map(life_of, range(900)):
        hours = [session.start // 60 % 24 for session in life.sessions]
        counted[life.knobs.shape.arrivals].update(hours)
    assert len(counted) == 2
    for arrivals, found in counted.items():
        for hour, arrived in enumerate(arrivals):
            share = arrived / sum(arrivals)
            assert found[hour] / found.total() == pytest.approx(share, abs=0.012)


def test_dc_power_tapers_and_takes_as_long_as_in_the_source() -> None:
    lives = [life for life in map(life_of, range(900)) if life.knobs.shape in DC_SHAPES]
    sessions = [session for life in lives for session in life.sessions]
    assert all(list(s.watts) == sorted(s.watts, reverse=True) for s in sessions)
    # EPFL: half of the stays are shorter than 30 min.
    assert statistics.median(len(s.watts) for s in sessions) == pytest.approx(30, abs=3)
    assert max(len(s.watts) for s in sessions) < LONGEST_SESSION_MIN
