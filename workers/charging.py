"""What the vehicle did meanwhile: charging or idle, in steps of five minutes (domain rule 2.8).

A step in which the battery took more than 0.2 kW is charging, any other idle. AC energy in idle
steps is what standby, leakage and preconditioning cost; the rest of the loss is the conversion's.

Registers are read to the microwatt-hour here: sums of whole numbers are the same in any order, so
it does not matter how an idle stretch is cut, nor who adds it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import sub
from typing import NamedTuple

from models.clock import HOUR_US
from workers.energy import Span
from workers.timeline import BORDER_US

#: Mean DC power above which a step is charging, kW.
CHARGING_KW = 0.2
#: What 0.2 kW takes, in microseconds a microwatt-hour.
US_PER_UWH = HOUR_US / (CHARGING_KW * 1e9)
UWH_PER_KWH = 1_000_000_000
#: Idle steps (15 minutes) that end a session: a shorter pause is part of it.
PAUSE_US = 3 * BORDER_US


class Step(NamedTuple):
    """Up to five minutes [from_us, to_us] between two borders: the energy of both sides."""

    from_us: int
    to_us: int
    #: Microwatt-hours.
    ac_uwh: int
    dc_uwh: int

    @property
    def charging(self) -> bool:
        """Whether the battery was being charged."""
        return self.dc_uwh * US_PER_UWH > self.to_us - self.from_us


class Split(NamedTuple):
    """A window by what the vehicle did."""

    charging_ac_kwh: float
    charging_dc_kwh: float
    charging_hours: float
    charging_sessions: int
    idle_ac_kwh: float
    idle_hours: float


#: A step is at most two halves of hours and what lies between them: less than this in each of
#: the three cannot be charging.
STILL_KWH = CHARGING_KW * BORDER_US / HOUR_US / 3


def borders(span: Span, moving: Iterable[Span]) -> list[int]:
    """The span's ends, and the five-minute borders (of the UTC clock) in it that matter, µs.

    Those in and around `moving`, ascending spans outside of which no step can be charging: how an
    idle stretch is cut changes no sum.
    """
    found, reached_us = [span.from_us], span.from_us + 1
    for part in moving:
        first = max(part.from_us // BORDER_US * BORDER_US, -(-reached_us // BORDER_US) * BORDER_US)
        last = min(-(-part.to_us // BORDER_US) * BORDER_US, span.to_us - 1)
        found += range(first, last + 1, BORDER_US)
        reached_us = max(reached_us, found[-1] + 1)
    return [*found, span.to_us]


def uwh(kwh: Sequence[float]) -> list[int]:
    """Registers in whole microwatt-hours."""
    return [round(value * UWH_PER_KWH) for value in kwh]


def steps(instants: Sequence[int], ac_kwh: Sequence[float], dc_kwh: Sequence[float]) -> list[Step]:
    """The steps between `instants`, from both sides' registers at each of them."""
    ac, dc = uwh(ac_kwh), uwh(dc_kwh)
    return list(map(Step, instants, instants[1:], map(sub, ac[1:], ac), map(sub, dc[1:], dc)))


def sessions(steps: Sequence[Step]) -> list[Span]:
    """When the vehicle charged, each from its first charging step to the end of its last."""
    charging = [step for step in steps if step.charging]
    pauses = [
        n for n, (a, b) in enumerate(pairwise(charging), 1) if b.from_us - a.to_us >= PAUSE_US
    ]
    runs = pairwise([0, *pauses, len(charging)]) if charging else ()
    return [Span(charging[first].from_us, charging[end - 1].to_us) for first, end in runs]


def split(steps: Sequence[Step]) -> Split:
    """The energy and the hours of charging and of idling."""
    charging = [step for step in steps if step.charging]
    idle = [step for step in steps if not step.charging]
    return Split(
        sum(step.ac_uwh for step in charging) / UWH_PER_KWH,
        sum(step.dc_uwh for step in charging) / UWH_PER_KWH,
        _hours(charging),
        len(sessions(charging)),
        sum(step.ac_uwh for step in idle) / UWH_PER_KWH,
        _hours(idle),
    )


def _hours(steps: Sequence[Step]) -> float:
    return sum(step.to_us - step.from_us for step in steps) / HOUR_US
