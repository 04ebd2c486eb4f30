"""Hours and summary the slow and obvious way: sort the samples, add the steps.

Knows nothing of the product's arithmetic. The traffic's registers only rise or restart at zero, so
a step is the difference, or, after a fall, what the register has counted since zero.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

HOUR_US = 3_600_000_000
#: kWh; below it the product gives no efficiency (docs/numbers.md).
MIN_ENERGY_KWH = 0.5

#: (microseconds since 1970, kWh), sorted
Samples = Sequence[tuple[int, float]]


class Hour(NamedTuple):
    """A row of an hourly table, but for what only the product knows."""

    first_at_us: int
    first_kwh: float
    last_at_us: int
    last_kwh: float
    energy_kwh: float
    samples: int


class Summary(NamedTuple):
    """A vehicle's energy where both of its registers were read."""

    ac_kwh: float
    dc_kwh: float
    efficiency: float | None


def step_kwh(before: float, after: float) -> float:
    """The energy of a step of a register that only rises or restarts at zero."""
    return after - before if after >= before else after


def hours(samples: Samples) -> dict[int, Hour]:
    """The hours of a register by their beginning."""
    by_hour: dict[int, list[tuple[int, float]]] = {}
    for at_us, kwh in samples:
        by_hour.setdefault(at_us // HOUR_US * HOUR_US, []).append((at_us, kwh))
    return {
        hour: Hour(
            *inside[0],
            *inside[-1],
            sum(step_kwh(a, b) for (_, a), (_, b) in pairwise(inside)),
            len(inside),
        )
        for hour, inside in by_hour.items()
    }


def summary(ac: Samples, dc: Samples) -> Summary | None:
    """Both registers over the time that both cover; None when there is none."""
    if len(ac) < 2 or len(dc) < 2:
        return None
    begin, end = max(ac[0][0], dc[0][0]), min(ac[-1][0], dc[-1][0])
    if end <= begin:
        return None
    ac_kwh, dc_kwh = (_between(samples, begin, end) for samples in (ac, dc))
    return Summary(ac_kwh, dc_kwh, dc_kwh / ac_kwh if ac_kwh >= MIN_ENERGY_KWH else None)


def _between(samples: Samples, begin: int, end: int) -> float:
    """kWh from `begin` to `end`, both within the samples, read off the line between them."""
    counted = [0.0]
    for (_, a), (_, b) in pairwise(samples):
        counted.append(counted[-1] + step_kwh(a, b))
    return _on_line(samples, counted, end) - _on_line(samples, counted, begin)


def _on_line(samples: Samples, counted: Sequence[float], at_us: int) -> float:
    left = bisect_right(samples, at_us, key=lambda sample: sample[0]) - 1
    if left == len(samples) - 1:
        return counted[left]
    (a, _), (b, _) = samples[left], samples[left + 1]
    return counted[left] + (counted[left + 1] - counted[left]) * (at_us - a) / (b - a)
