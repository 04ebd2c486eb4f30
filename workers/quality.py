"""How far a number can be trusted: bounds, coverage, confidence, and how well each side was seen.

The calibration of meter and vehicle is not in the bounds: it is constant per pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from models.hours import Hour
from workers.energy import Span

HIGH, MEDIUM, LOW, NONE = "high", "medium", "low", "none"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a degree of confidence asks for."""

    support_pct: float
    ac_kwh: float
    width: float
    coverage_pct: float
    without: frozenset[str] = frozenset()


#: A jump or a replaced register means that energy flowed which nobody counted.
DEMANDS = {
    HIGH: Demand(95.0, 5.0, 0.02, 90.0, frozenset({"JUMP", "REBASE"})),
    MEDIUM: Demand(75.0, 2.0, 0.06, 0.0),
}
#: A clock further off than this is worth a flag, seconds.
SKEW_SECONDS = 120.0
#: A device sends live when the samples of its newest hour, so many at least, all took the same time
#: to come, within so many seconds. Others may be late for any reason: no clock is judged by them.
LIVE_SAMPLES, LIVE_SPREAD_SECONDS = 5, 60.0

_NOISE = 1e-9


def bounds(
    ac_kwh: float, dc_kwh: float, ac_doubt_kwh: float, dc_doubt_kwh: float
) -> tuple[float, float | None]:
    """The lowest and highest efficiency that the doubt admits; no highest when AC may be zero."""
    low = (dc_kwh - dc_doubt_kwh) / (ac_kwh + ac_doubt_kwh)
    least_ac_kwh = ac_kwh - ac_doubt_kwh
    return low, (dc_kwh + dc_doubt_kwh) / least_ac_kwh if least_ac_kwh > 0 else None


def confidence(
    efficiency: float | None,
    *,
    bounds: tuple[float | None, float | None],
    support_pct: float,
    coverage_pct: float,
    ac_kwh: float,
    events: Collection[str],
) -> str:
    """high, medium or low; none without an efficiency. Above 1 is tolerance at its end: low."""
    low, high = bounds
    if efficiency is None:
        return NONE
    if efficiency > 1 or low is None or high is None:
        return LOW
    for degree, demand in DEMANDS.items():
        if (
            support_pct >= demand.support_pct
            and ac_kwh >= demand.ac_kwh - _NOISE
            and high - low <= demand.width + _NOISE
            and coverage_pct >= demand.coverage_pct
            and demand.without.isdisjoint(events)
        ):
            return degree
    return LOW


def coverage_pct(window: Span, gaps: Iterable[Span]) -> float:
    """Share of the window that lies in no gap of either side, %; of an empty one, none."""
    if window.to_us <= window.from_us:
        return 0.0
    missing_us, reached_us = 0, window.from_us
    for gap in sorted(gaps):
        begin_us = max(gap.from_us, reached_us)
        missing_us += max(0, gap.to_us - begin_us)
        reached_us = max(reached_us, gap.to_us)
    return 100 * (1 - missing_us / (window.to_us - window.from_us))


class Quality(msgspec.Struct, frozen=True, rename="camel"):
    """How well one side was seen in a window. In JSON its names are camelCase."""

    samples: int
    #: How many there would be at the usual spacing; None when that is unknown.
    expected: int | None
    max_gap_seconds: float | None
    resets: int
    dropped: int
    #: Second, different values for an instant, refused.
    conflicts: int
    last_at: datetime | None
    #: From the last sample to the window's end.
    lag_seconds: float | None
    #: How much the device's clock is behind ours; None unless it sends live.
    skew_seconds: float | None


def skew_seconds(hour: Hour) -> float | None:
    """How much the clock was behind in an hour: the quickest way of a sample to us."""
    quickest, slowest = hour.lag_min_seconds, hour.lag_max_seconds
    if quickest is None or slowest is None or hour.samples < LIVE_SAMPLES:
        return None
    return round(quickest * 10) / 10 if slowest - quickest <= LIVE_SPREAD_SECONDS else None
