"""Bounds, coverage, confidence: numbers of domain cases S14, S15, S21, S34 and by hand."""

from __future__ import annotations

from typing import Any

import pytest

from models.hours import Hour
from workers import energy, quality
from workers.energy import Piece, Sample, Span

DAY = Span(0, 86_400_000_000)
SECOND = 1_000_000


def test_the_bounds_of_a_coarse_register() -> None:  # S34
    low, high = quality.bounds(5.0, 4.2, 0.1, 0.1)
    assert (round(low, 4), round(high or 0, 4)) == (0.8039, 0.8776)


def test_there_is_no_upper_bound_when_ac_may_be_nothing() -> None:
    assert quality.bounds(0.5, 0.4, 0.5, 0.1) == (pytest.approx(0.3), None)


def piece(**changes: Any) -> Piece:
    around = {
        "before": Sample(-10 * SECOND, 9.9),
        "first": Sample(50 * SECOND, 10.0),
        "last": Sample(3550 * SECOND, 20.0),
        "after": Sample(3610 * SECOND, 20.4),
        "energy_kwh": 10.0,
        "entry_kwh": 0.1,
        "exit_kwh": 0.4,
        "samples": 10,
    }
    return Piece(0, 3600 * SECOND, **{**around, **changes})


@pytest.mark.parametrize(
    ("begin", "end", "doubt"),
    [
        (0, 3600, 0.01 + 0.025 + 0.1),  # a quarter of 0.1 and of 0.4
        (50, 3600, 0.01 + 0.1),
        (0, 3550, 0.01 + 0.025),
        (50, 3550, 0.01),  # from sample to sample: the resolution alone
        (3600, 3600, 0.01),
    ],
)
def test_an_edge_within_a_step_is_in_doubt_by_a_quarter_of_it(
    begin: int, end: int, doubt: float
) -> None:
    span = Span(begin * SECOND, end * SECOND)
    assert energy.doubt_kwh(piece(), span) == pytest.approx(doubt)


def test_a_window_between_two_samples_is_cut_twice() -> None:
    between = piece(first=None, last=None, energy_kwh=0, samples=0, resolution_kwh=0.1)
    assert energy.doubt_kwh(between, Span(0, 3600 * SECOND)) == pytest.approx(0.1 + 2 * 0.1)


def test_three_hours_without_a_meter_are_seven_eighths_covered() -> None:  # S15
    gap = Span(6 * 3600 * SECOND, 9 * 3600 * SECOND)
    assert quality.coverage_pct(DAY, [gap]) == pytest.approx(87.5)


def test_gaps_of_both_sides_that_overlap_count_once() -> None:
    hour = 3600 * SECOND
    gaps = [
        Span(0, 2 * hour),
        Span(hour, 3 * hour),
        Span(hour, 2 * hour),
        Span(23 * hour, 24 * hour),
    ]
    assert quality.coverage_pct(DAY, gaps) == pytest.approx(100 * 20 / 24)
    assert quality.coverage_pct(DAY, []) == 100
    assert quality.coverage_pct(Span(5, 5), []) == 0


GOOD: dict[str, Any] = {
    "bounds": (0.89, 0.905),
    "support_pct": 100.0,
    "coverage_pct": 99.0,
    "ac_kwh": 30.0,
    "events": [],
}


@pytest.mark.parametrize(
    ("changes", "degree"),
    [
        ({}, "high"),
        ({"support_pct": 94.9}, "medium"),
        ({"support_pct": 74.9}, "low"),
        ({"ac_kwh": 4.99}, "medium"),
        ({"ac_kwh": 1.99}, "low"),
        ({"bounds": (0.89, 0.911)}, "medium"),
        ({"bounds": (0.89, 0.951)}, "low"),
        ({"bounds": (0.89, None)}, "low"),
        ({"coverage_pct": 89.9}, "medium"),
        ({"events": ["JUMP"]}, "medium"),  # S12
        ({"events": ["REBASE"]}, "medium"),
        ({"events": ["RESET", "DIP", "GLITCH"]}, "high"),
    ],
)
def test_confidence_falls_with_what_is_missing(changes: dict[str, Any], degree: str) -> None:
    assert quality.confidence(0.9, **GOOD | changes) == degree


def test_above_unity_is_shown_with_low_confidence() -> None:  # S21
    assert quality.confidence(1.015, **GOOD) == "low"


def test_no_efficiency_no_confidence() -> None:
    assert quality.confidence(None, **GOOD) == "none"


def hour(samples: int, lag_min: float | None, lag_max: float | None) -> Hour:
    """An hour of which only the ways of its samples matter."""
    return Hour(0, 0, 1, 1, 1, None, samples, [], [], [], 60, 0, lag_min, lag_max, None, None, None)


@pytest.mark.parametrize(
    ("samples", "lags", "skew"),
    [
        (60, (0.04, 1.2), 0.0),
        (60, (301.26, 309.0), 301.3),  # S37: five minutes behind
        (60, (-400.0, -398.5), -400.0),
        (5, (300.0, 360.0), 300.0),
        (4, (300.0, 300.0), None),  # too few to tell a wrong clock from a late batch
        (60, (300.0, 3840.0), None),  # an hour that came at once, five minutes after its end
        (60, (None, None), None),
    ],
)
def test_only_a_device_that_sends_live_tells_of_its_clock(
    samples: int, lags: tuple[float | None, float | None], skew: float | None
) -> None:
    assert quality.skew_seconds(hour(samples, *lags)) == skew
