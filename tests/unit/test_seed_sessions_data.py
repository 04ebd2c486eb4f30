"""The embedded session shapes: used rightly, and derived as their docstring says."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.sessions_data import (
    AC_SHAPES,
    DC_SHAPES,
    LADDER_PERCENTILES,
    SessionShape,
    arrival_minute,
    on_ladder,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPES = st.sampled_from([*AC_SHAPES, *DC_SHAPES])
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the source files are not at hand")


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ladder(values: Sequence[float]) -> tuple[float, ...]:
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    return tuple(round(percentiles[p - 1], 1) for p in LADDER_PERCENTILES)


def by_hour(times: Sequence[str]) -> tuple[int, ...]:
    counts = Counter(int(time[11:13]) for time in times)
    return tuple(counts[hour] for hour in range(24))


@needs_data
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [(AC_SHAPES[0], 0, 5), (AC_SHAPES[1], 5, 8), (AC_SHAPES[2], 8, 99)],
    ids=lambda value: getattr(value, "name", value),
)
def test_ac_tables_follow_from_their_source(shape: SessionShape, low: float, high: float) -> None:
    rows = rows_of("robust_nl_100_sessions.csv")
    mine = [row for row in rows if low <= float(row["P_MAX"]) < high]
    assert shape.sessions == len(mine)
    assert shape.peak_kw == ladder([float(row["P_MAX"]) for row in mine])
    assert shape.energy_kwh == ladder([float(row["VOL"]) for row in mine])
    assert shape.arrivals == by_hour([row["START_rounded_CET"] for row in rows])


@needs_data
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [(DC_SHAPES[0], 0, 75), (DC_SHAPES[1], 75, 120), (DC_SHAPES[2], 120, 999)],
    ids=lambda value: getattr(value, "name", value),
)
def test_dc_tables_follow_from_their_source(shape: SessionShape, low: float, high: float) -> None:
    rows = rows_of("epfl_l3_sessions.csv")
    mine = [row for row in rows if low <= float(row["pmax_w"]) / 1000 < high]
    powers = [float(row["pmax_w"]) / 1000 for row in mine]
    energies = [float(row["energy_wh"]) / 1000 for row in mine]
    hours = [float(row["stay_min"]) / 60 for row in mine]
    shares = [e / h / p for e, h, p in zip(energies, hours, powers, strict=True)]
    assert shape.sessions == len(mine)
    assert shape.peak_kw == ladder(powers)
    assert shape.energy_kwh == ladder(energies)
    assert shape.mean_of_peak == round(statistics.median(shares), 2)
    assert shape.arrivals == by_hour([row["arrival_local"] for row in rows])


def test_a_ladder_is_read_linearly_between_its_rungs() -> None:
    rungs = tuple(float(n) for n in range(0, 110, 10))
    assert [on_ladder(rungs, share) for share in (0, 0.25, 0.5, 1)] == [0, 25, 50, 100]


@settings(deadline=None)
@given(SHAPES, st.floats(0, 1))
def test_draws_stay_on_the_ladder(shape: SessionShape, share: float) -> None:
    assert shape.energy_kwh[0] <= on_ladder(shape.energy_kwh, share) <= shape.energy_kwh[-1]


@settings(deadline=None)
@given(SHAPES, st.floats(0, 1, exclude_max=True))
def test_arrivals_fall_into_hours_that_have_some(shape: SessionShape, share: float) -> None:
    minute = arrival_minute(shape, share)
    assert 0 <= minute < 24 * 60
    assert shape.arrivals[minute // 60] > 0


def test_half_of_the_ac_cars_arrive_before_six_in_the_evening() -> None:
    # 46 of 100 by 17:00, 57 by 18:00: the fiftieth 4/11 of an hour after 17:00.
    assert sum(AC_SHAPES[0].arrivals[:17]) == 45
    assert arrival_minute(AC_SHAPES[0], 0.5) == 17 * 60 + int(60 * 5 / 11)
