"""How far a number can be trusted: bounds, coverage, confidence, and how well each side was seen.

The calibration of meter and vehicle is not in the bounds: it is constant per pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec

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
_DEMANDS = {
    HIGH: Demand(95.0, 5.0, 0.02, 90.0, frozenset({"JUMP", "REBASE"})),
    MEDIUM: Demand(75.0, 2.0, 0.06, 0.0),
}
#: A clock further off than this is worth a flag, seconds.
SKEW_SECONDS = 120.0
#: A device whose quickest sample took longer than this did not send live: no clock is judged by it.
LIVE_SECONDS = 3_600.0

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
    for degree, demand in _DEMANDS.items():
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


def skew_seconds(lag_min_seconds: float | None) -> float | None:
    """The clock's error, from the quickest way of a sample within an hour."""
    if lag_min_seconds is None or abs(lag_min_seconds) > LIVE_SECONDS:
        return None
    return round(lag_min_seconds, 1)
