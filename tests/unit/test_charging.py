"""Charging or idle, step by step: numbers worked out by hand."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.clock import HOUR_US
from workers import charging
from workers.charging import Split, Step
from workers.energy import Span

MINUTE_US = 60_000_000


def step(minute: float, minutes: float, ac_kwh: float, dc_kwh: float) -> Step:
    begin = round(minute * MINUTE_US)
    ends = [begin, begin + round(minutes * MINUTE_US)]
    return charging.steps(ends, [7.0, 7.0 + ac_kwh], [3.0, 3.0 + dc_kwh])[0]


def test_borders_are_the_clocks_five_minutes_and_the_ends() -> None:
    span = Span(2 * MINUTE_US, 15 * MINUTE_US)
    assert [at / MINUTE_US for at in charging.borders(span, [span])] == [2, 5, 10, 15]


def test_a_span_that_begins_on_a_border_has_it_once() -> None:
    span = Span(5 * MINUTE_US, 11 * MINUTE_US)
    assert [at / MINUTE_US for at in charging.borders(span, [span])] == [5, 10, 11]


def test_borders_far_from_any_charge_are_left_out() -> None:
    span, minute = Span(0, 24 * HOUR_US), MINUTE_US
    moving = [Span(61 * minute, 62 * minute), Span(62 * minute, 71 * minute)]
    found = [at // minute for at in charging.borders(span, moving)]
    assert found == [0, 60, 65, 70, 75, 24 * 60]
    assert charging.borders(span, []) == [span.from_us, span.to_us]


@given(st.lists(st.sampled_from([0.0, 0.001, 0.004, 0.03, 0.5]), min_size=1, max_size=60))
def test_what_is_left_out_changes_no_sum(dc_steps: list[float]) -> None:
    span = Span(0, len(dc_steps) * 5 * MINUTE_US)
    dc = [0.0, *accumulate(dc_steps)]
    ac = [n * 0.01 + 1.1 * kwh for n, kwh in enumerate(dc)]
    spans = [Span(5 * n * MINUTE_US, 5 * (n + 1) * MINUTE_US) for n in range(len(dc_steps))]
    moving = [s for s, kwh in zip(spans, dc_steps, strict=True) if kwh > charging.STILL_KWH]

    def found(instants: list[int]) -> Any:
        places = [at // (5 * MINUTE_US) for at in instants]
        steps = charging.steps(instants, [ac[p] for p in places], [dc[p] for p in places])
        return charging.split(steps), charging.sessions(steps)

    some = charging.borders(span, moving)
    (split, sessions), expected = found(some), found(charging.borders(span, [span]))
    assert split == expected[0]
    assert sessions == expected[1]
    assert len(some) <= 2 + 2 * len(moving)


def test_steps_are_differences_of_both_registers() -> None:
    found = charging.steps([0, 300, 600], [10.0, 10.5, 10.5], [5.0, 5.4, 5.4])
    assert [s[:2] for s in found] == [(0, 300), (300, 600)]
    assert [(s.ac_uwh, s.dc_uwh) for s in found] == [
        (500_000_000, 400_000_000),
        (0, 0),
    ]


@pytest.mark.parametrize(
    ("minutes", "dc_kwh", "charging"),
    [(5, 0.016, False), (5, 0.017, True), (1, 0.0033, False), (1, 0.0034, True), (5, 0.0, False)],
)
def test_more_than_200_watts_into_the_battery_is_charging(
    minutes: float, dc_kwh: float, charging: bool
) -> None:
    # 0.2 kW for five minutes is 0.01667 kWh.
    assert step(0, minutes, 0.0, dc_kwh).charging is charging


def test_standby_is_told_from_conversion() -> None:  # S29, in short
    """Two hours at 7.88 kW AC, 7 kW DC; 22 hours of 15 W: 0.33 kWh."""
    steps = [step(5 * n, 5, 7.88 / 12, 7 / 12) for n in range(24)]
    steps += [step(5 * n, 5, 0.015 / 12, 0.0) for n in range(24, 288)]
    assert charging.split(steps) == Split(
        charging_ac_kwh=pytest.approx(15.76),
        charging_dc_kwh=pytest.approx(14.0),
        charging_hours=pytest.approx(2.0),
        charging_sessions=1,
        idle_ac_kwh=pytest.approx(0.33),
        idle_hours=pytest.approx(22.0),
    )


@pytest.mark.parametrize(("pause", "sessions"), [(0, 1), (2, 1), (3, 2), (30, 2)])
def test_a_pause_of_fifteen_minutes_ends_a_session(pause: int, sessions: int) -> None:
    kinds = [0.5] * 4 + [0.0] * pause + [0.5] * 4 + [0.0] * 4
    steps = [step(5 * n, 5, dc, dc) for n, dc in enumerate(kinds)]
    found = charging.sessions(steps)
    assert len(found) == sessions
    assert (found[0].from_us, found[-1].to_us) == (0, (8 + pause) * 5 * MINUTE_US)


def test_a_window_without_charging_is_all_idle() -> None:
    idle = Split(0, 0, 0, 0, pytest.approx(0.1), 1.0)
    assert charging.split([step(0, 60, 0.1, 0.0)]) == idle
    assert step(0, 60, 0.1, 0.0).to_us == HOUR_US
